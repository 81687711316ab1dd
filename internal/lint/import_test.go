package lint

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checkImportable builds a program of another module that imports every public
// package of the module in dir. Only there, in the scratch module, may a
// replace stand: it points at dir.
func checkImportable(scratch, dir string, env ...string) error {
	// The importer would add missing sums by itself, so ask for them here.
	if _, err := goCommand(dir, env, "list", "-mod=readonly", "-deps", "./..."); err != nil {
		return err
	}
	out, err := goCommand(dir, env, "list", "-f", "{{.Name}} {{.ImportPath}}", "./...")
	if err != nil {
		return err
	}
	var imports strings.Builder
	for line := range strings.Lines(string(out)) {
		name, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if rel, ours := relPath(path); ours && isPublic(rel) && name != "main" {
			fmt.Fprintf(&imports, "import _ %q\n", path)
		}
	}
	if imports.Len() == 0 {
		return fmt.Errorf("no public package in %s", dir)
	}
	sums, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for name, text := range map[string]string{
		"go.mod":  fmt.Sprintf("module example.com/host\n\ngo 1.26\n\nrequire %s v0.0.0\n\nreplace %s => %s\n", module, module, dir),
		"go.sum":  string(sums),
		"main.go": "package main\n\n" + imports.String() + "\nfunc main() {}\n",
	} {
		if err := os.WriteFile(filepath.Join(scratch, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	_, err = goCommand(scratch, append(env, "GOFLAGS=-buildvcs=false -mod=mod"), "build", "-o", os.DevNull, ".")
	return err
}

func TestImportable(t *testing.T) {
	if testing.Short() {
		t.Skip("builds everything")
	}
	if err := checkImportable(t.TempDir(), root(t)); err != nil {
		t.Error(err)
	}
}

func TestImportableReportsViolations(t *testing.T) {
	const head = "module " + module + "\n\ngo 1.26\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"fine": {map[string]string{"x.go": "package dcrouter\n", "internal/y/y.go": "package y\n", "examples/e/e.go": "package main\n\nfunc main() {}\n"}, ""},
		"replace": {map[string]string{
			"go.mod": head + "require example.com/a v0.0.0\nreplace example.com/a => ./testdata/a\n", "x.go": "package dcrouter\nimport _ \"example.com/a\"\n",
			"testdata/a/go.mod": "module example.com/a\n", "testdata/a/x.go": "package a\n",
		}, "example.com/a"},
		"missing sums": {map[string]string{
			"go.mod": head + "require example.com/a v1.0.0\n", "x.go": "package dcrouter\nimport _ \"example.com/a\"\n",
		}, "example.com/a"},
		"does not compile": {map[string]string{"x.go": "package dcrouter\nfunc f() int {}\n"}, "missing return"},
		"imports testdata": {map[string]string{"proxy/x.go": "package proxy\nimport _ \"" + module + "/nowhere\"\n"}, "nowhere"},
		"empty":            {map[string]string{"internal/x.go": "package x\n"}, "no public package"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkImportable(t.TempDir(), writeTree(t, c.files), "GOPROXY=off")
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want one about %q", err, c.want)
			}
		})
	}
}
