package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// checkGoMod looks at the go.mod in dir.
func checkGoMod(dir string) (problems []string) {
	out, err := goCommand(dir, nil, "mod", "edit", "-json")
	if err != nil {
		return []string{err.Error()}
	}
	var mod struct {
		Module                    struct{ Path string }
		Go, Toolchain             string
		Replace, Exclude, Require []any
		Tool                      []any
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		return []string{err.Error()}
	}
	if mod.Module.Path != module {
		problems = append(problems, fmt.Sprintf("go.mod: module is %s, want %s", mod.Module.Path, module))
	}
	if mod.Go != "1.26" && mod.Go != "1.26.0" {
		problems = append(problems, fmt.Sprintf("go.mod: go is %s, want 1.26 (a patch release would shut out hosts for nothing)", mod.Go))
	}
	if mod.Toolchain != "" {
		problems = append(problems, "go.mod: toolchain is the developer's to choose")
	}
	if len(mod.Replace) > 0 {
		problems = append(problems, "go.mod: replace does not hold in programs that import this module, so they would build something else")
	}
	if len(mod.Exclude) > 0 {
		problems = append(problems, "go.mod: exclude does not hold in programs that import this module")
	}
	if len(mod.Tool) > 0 {
		problems = append(problems, "go.mod: tools belong into internal/tools/go.mod")
	}
	return problems
}

func TestGoMod(t *testing.T) {
	for _, name := range []string{"go.mod", "go.sum"} { // so that "go test" knows this test reads them
		if _, err := os.ReadFile(filepath.Join(root(t), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	report(t, checkGoMod(root(t)))
}

func TestGoModReportsViolations(t *testing.T) {
	const head = "module " + module + "\n\ngo 1.26\n"
	for text, want := range map[string]string{
		"module example.com/fork\n\ngo 1.26\n":                      "module is example.com/fork",
		"module " + module + "\n\ngo 1.25\n":                        "go is 1.25",
		"module " + module + "\n\ngo 1.26.8\n":                      "go is 1.26.8",
		head + "toolchain go1.26.8\n":                               "toolchain",
		head + "replace example.com/x => ../x\n":                    "replace",
		head + "exclude example.com/x v1.0.0\n":                     "exclude",
		head + "tool example.com/x\nrequire example.com/x v1.0.0\n": "tools",
		"no go.mod": "errors parsing",
	} {
		wantProblems(t, checkGoMod(writeTree(t, map[string]string{"go.mod": text})), want)
	}
	wantProblems(t, checkGoMod(writeTree(t, map[string]string{"go.mod": "module " + module + "\n\ngo 1.26.0\n"})))
}

// maxModules bounds how many other modules come along with each public
// package.
var maxModules = map[string]int{
	"":          45,
	"proxy":     10, // QUIC alone is 6
	"email":     13, // go-proxyproto is one that the proxy has too
	"dnsserver": 8,
	"radius":    2,
	"sockets":   0,
	"storage":   0,
	"opsapi":    2, // golang.org/x/crypto, and x/sys for it
}

// isPublic says whether another module can import a package and should.
func isPublic(rel string) bool {
	return !slices.Contains(strings.Split(rel, "/"), "internal") && rel != "examples" && !strings.HasPrefix(rel, "examples/")
}

// modulesOf lists the modules that a package is built from, but this one.
func modulesOf(p *pkg, all map[string]*pkg) []string {
	var mods []string
	for _, path := range p.Deps {
		if dep := all[path]; dep != nil && dep.Module != nil && dep.Module.Path != module {
			mods = append(mods, dep.Module.Path)
		}
	}
	slices.Sort(mods)
	return slices.Compact(mods)
}

func checkModuleCount(all map[string]*pkg) (table, problems []string) {
	for _, p := range all {
		rel, ours := p.rel()
		if !ours || !isPublic(rel) {
			continue
		}
		top, _, _ := strings.Cut(rel, "/")
		limit, ok := maxModules[top]
		if !ok {
			problems = append(problems, fmt.Sprintf("%s has no bound in maxModules of module_test.go", p.ImportPath))
			continue
		}
		mods := modulesOf(p, all)
		table = append(table, fmt.Sprintf("%2d of %2d  %s  %s", len(mods), limit, p.ImportPath, strings.Join(mods, " ")))
		if len(mods) > limit {
			problems = append(problems, fmt.Sprintf("%s brings %d modules along, more than %d: %s", p.ImportPath, len(mods), limit, strings.Join(mods, " ")))
		}
	}
	slices.Sort(table)
	return table, problems
}

func TestModuleCount(t *testing.T) {
	all, err := packages(root(t), runtime.GOOS)
	if err != nil {
		t.Fatal(err)
	}
	table, problems := checkModuleCount(all)
	t.Logf("modules that come along:\n%s", strings.Join(table, "\n"))
	report(t, problems)
}

func TestModuleCountReportsViolations(t *testing.T) {
	files := map[string]string{
		"storage/x.go": "package storage\nimport _ \"example.com/a\"\n",
		"radius/x.go":  "package radius\nimport _ \"example.com/a/b\"\n", // and its dependency c: 2, allowed
		"cmd/x.go":     "package cmd\n",

		"internal/free/x.go": "package free\nimport _ \"example.com/a\"\n", // not public
		"go.mod": "module " + module + "\n\ngo 1.26\n\nrequire example.com/a v0.0.0\nrequire example.com/c v0.0.0\n" +
			"replace example.com/a => ./testdata/a\nreplace example.com/c => ./testdata/c\n",
		"testdata/a/go.mod": "module example.com/a\n\ngo 1.26\n\nrequire example.com/c v0.0.0\n",
		"testdata/a/x.go":   "package a\n",
		"testdata/a/b/x.go": "package b\nimport _ \"example.com/c\"\n",
		"testdata/c/go.mod": "module example.com/c\n\ngo 1.26\n",
		"testdata/c/x.go":   "package c\n",
	}
	all, err := packages(writeTree(t, files), "linux")
	if err != nil {
		t.Fatal(err)
	}
	table, problems := checkModuleCount(all)
	wantProblems(t, problems, module+"/storage brings 1 modules along, more than 0: example.com/a", "cmd has no bound")
	wantProblems(t, table, "radius  example.com/a example.com/c", "storage")
}
