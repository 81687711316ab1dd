package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dcrouter/dcrouter"

// root is the checkout that this test is part of.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// writeTree makes a module for a self-test out of file names and contents. If
// there is no go.mod among them it gets ours.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if _, ok := files["go.mod"]; !ok {
		files["go.mod"] = "module " + module + "\n\ngo 1.26\n"
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// goCommand runs the go command in dir and returns its stdout. A go.work or
// flags of the developer must not change what the rules see.
func goCommand(dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append([]string{"GOWORK=off", "GOFLAGS=-buildvcs=false", "PWD=" + dir}, env...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return out, nil
}

// pkg is what "go list -json" tells about a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
	Error      *struct{ Err string }
}

// rel is the package's folder in this module: "" is the root, "proxy" and so
// on; ok is false for packages of others.
func (p *pkg) rel() (rel string, ok bool) { return relPath(p.ImportPath) }

func relPath(importPath string) (rel string, ok bool) {
	if importPath == module {
		return "", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// packages lists the module in dir and everything that it imports outside of
// tests, by import path.
func packages(dir, goos string) (map[string]*pkg, error) {
	out, err := goCommand(dir, []string{"GOOS=" + goos, "CGO_ENABLED=0"}, "list", "-e", "-deps",
		"-json=ImportPath,Standard,Imports,Deps,Module,Error", "./...")
	if err != nil {
		return nil, err
	}
	all := map[string]*pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all[p.ImportPath] = p
	}
}

// file is a Go file of the checkout.
type file struct {
	rel    string // slash-separated path
	src    []byte
	nested bool // belongs to a nested module
}

func (f *file) isTest() bool { return strings.HasSuffix(f.rel, "_test.go") }

func (f *file) under(dir string) bool { return strings.HasPrefix(f.rel, dir+"/") }

// goFiles reads every Go file below dir. That the test itself reads them is
// also what makes "go test" run it again when one has changed: it does not see
// what the go command, as another process, reads.
func goFiles(dir string) ([]file, error) {
	var files []file
	nested := ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") ||
				slices.Contains([]string{"testdata", "node_modules", "vendor", "tmp"}, d.Name())) {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && rel != "." {
				nested = rel + "/"
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // an editor's file, gone by now
			return nil
		}
		files = append(files, file{rel: rel, src: src, nested: nested != "" && strings.HasPrefix(rel, nested)})
		return err
	})
	return files, err
}

// report fails the test with one line for each problem.
func report(t *testing.T, problems []string) {
	t.Helper()
	slices.Sort(problems)
	for _, p := range slices.Compact(problems) {
		t.Error(p)
	}
}

// wantProblems is for self-tests: it wants each of the texts in some problem,
// and as many problems as texts.
func wantProblems(t *testing.T, got []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) }) {
			t.Errorf("not reported: %s", w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d problems, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
}
