package lint

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxSize bounds the least program with each public package, in MB (10^6 bytes),
// without its symbol table (-ldflags "-s -w"), for Linux on amd64, as the growth of which nobody
// noticed otherwise. The bounds leave a sixth of room.
func maxSize() map[string]float64 {
	return map[string]float64{
		"": 28, "proxy": 13, "email": 15.5, "dnsserver": 11, "radius": 7.2, "storage": 3.3, "sockets": 3.3, "opsapi": 9,
	}
}

// leastProgram is main.go of a program that makes the main thing of a package
// and starts it, so that the linker keeps what every user has.
func leastProgram(rel string) string {
	name, path := rel, module+"/"+rel
	if rel == "" {
		name, path = "dcrouter", module
	}
	use := name + ".Config{}"
	switch rel {
	case "":
		use = ""
	case "sockets":
		return fmt.Sprintf("package main\n\nimport (\n\t\"context\"\n\t\"net\"\n\n\t%q\n)\n\nfunc main() {\n\tvar s sockets.Set\n"+
			"\tif _, err := s.Listen(context.Background(), net.ListenConfig{}, \"tcp\", \":0\"); err != nil {\n\t\tpanic(err)\n\t}\n\ts.Close()\n}\n", path)
	case "storage":
		return fmt.Sprintf("package main\n\nimport (\n\t\"context\"\n\n\t%q\n)\n\nfunc main() {\n\ts, err := storage.Open(context.Background(), storage.Dir(\"data\"))\n"+
			"\tif err != nil {\n\t\tpanic(err)\n\t}\n\ts.Close()\n}\n", path)
	}
	return fmt.Sprintf("package main\n\nimport (\n\t\"context\"\n\n\t%q\n)\n\nfunc main() {\n\ts, err := %s.New(%s)\n\tif err != nil {\n\t\tpanic(err)\n\t}\n"+
		"\tif err := s.Start(context.Background()); err != nil {\n\t\tpanic(err)\n\t}\n\ts.Stop(context.Background())\n}\n", path, name, use)
}

// binarySize is the size of the least program with a package, in MB. It is built as
// everything else is: CGO_ENABLED and GOFLAGS are the caller's, so that the test
// finds what others have compiled; "make sizes" sets them.
func binarySize(dir, scratch, rel string) (float64, error) {
	file, out := filepath.Join(scratch, "main.go"), filepath.Join(scratch, "program")
	if err := os.WriteFile(file, []byte(leastProgram(rel)), 0o600); err != nil {
		return 0, err
	}
	if _, err := goCommand(dir, []string{"GOOS=linux", "GOARCH=amd64", "GOFLAGS=-buildvcs=false " + os.Getenv("GOFLAGS")}, "build", "-ldflags=-s -w", "-o", out, file); err != nil {
		return 0, err
	}
	info, err := os.Stat(out)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()) / 1e6, nil
}

func checkSizes(sizes, limits map[string]float64) (table, problems []string) {
	for rel, size := range sizes {
		limit, ok := limits[rel]
		table = append(table, fmt.Sprintf("%5.1f of %4.1f MB  %s", size, limit, nameOf(rel)))
		switch {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s has no bound in maxSize of size_test.go", nameOf(rel)))
		case size > limit:
			problems = append(problems, fmt.Sprintf("a program with %s takes %.1f MB, more than %.1f: what has come along?", nameOf(rel), size, limit))
		}
	}
	slices.Sort(table)
	return table, problems
}

func TestBinarySize(t *testing.T) {
	sizes := map[string]float64{}
	for rel := range maxModules {
		size, err := binarySize(root(t), t.TempDir(), rel)
		if err != nil {
			t.Fatal(err)
		}
		sizes[rel] = size
	}
	table, problems := checkSizes(sizes, maxSize())
	t.Logf("the least program with each package:\n%s", strings.Join(table, "\n"))
	report(t, problems)
}

func TestBinarySizeReportsViolations(t *testing.T) {
	table, problems := checkSizes(map[string]float64{"": 30, "proxy": 12.5, "new": 1}, map[string]float64{"": 30, "proxy": 12})
	wantProblems(t, problems, "a program with proxy takes 12.5 MB, more than 12.0", "new has no bound")
	wantProblems(t, table, "30.0 of 30.0 MB  dcrouter", "12.5 of 12.0 MB  proxy", "1.0 of  0.0 MB  new")
}
