package lint

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// apiFiles are the listings of what the module in dir exports, by the name of
// their file: a line for each name, field and method, as in api/ of Go itself.
func apiFiles(dir string) (map[string]string, error) {
	// This also builds them, as go vet has done already, and names the files that
	// have their types.
	out, err := goCommand(dir, nil, "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", "./...")
	if err != nil {
		return nil, err
	}
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[path] = file
	}
	imports := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	files := map[string]string{}
	for path := range exports {
		rel, ours := relPath(path)
		if !ours || strings.HasPrefix(rel, "internal/") || strings.Contains(rel, "/internal/") || strings.HasPrefix(rel, "examples/") {
			continue
		}
		p, err := imports.Import(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if rel == "" {
			rel = p.Name()
		}
		files[strings.ReplaceAll(rel, "/", "-")+".txt"] = apiOf(p)
	}
	return files, nil
}

// apiOf lists what a package exports.
func apiOf(p *types.Package) string {
	short := func(other *types.Package) string {
		if other == p {
			return ""
		}
		return other.Name()
	}
	var lines []string
	add := func(format string, args ...any) {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf(format, args...))+"\n")
	}
	for _, name := range p.Scope().Names() {
		o := p.Scope().Lookup(name)
		if !o.Exported() {
			continue
		}
		switch o := o.(type) {
		case *types.Const:
			typ := types.TypeString(o.Type(), short)
			if strings.HasPrefix(typ, "untyped ") {
				typ = ""
			}
			add("const %s = %s", strings.TrimSpace(name+" "+typ), o.Val().ExactString())
		case *types.TypeName:
			apiOfType(o, short, add)
		default: // a func or variable
			add("%s", types.ObjectString(o, short))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// apiOfType lists a type with its exported fields and methods. Of one that stands
// for another package's, a reader wants to see these here, too.
func apiOfType(o *types.TypeName, short types.Qualifier, add func(string, ...any)) {
	t, name := o.Type(), o.Name()
	if alias, ok := t.(*types.Alias); ok {
		add("type %s = %s", name, types.TypeString(alias.Rhs(), short))
		t = types.Unalias(t)
	}
	switch u := t.Underlying().(type) {
	case *types.Struct:
		add("type %s struct", name)
		for i := range u.NumFields() {
			f, what := u.Field(i), "field"
			if f.Embedded() {
				what = "embedded"
			}
			if f.Exported() {
				add("type %s struct, %s %s %s %s", name, what, f.Name(), types.TypeString(f.Type(), short), u.Tag(i))
			}
		}
	case *types.Interface:
		add("type %s interface", name)
		for m := range u.Methods() {
			add("type %s interface, %s%s", name, m.Name(), strings.TrimPrefix(types.TypeString(m.Type(), short), "func"))
		}
	default:
		add("type %s %s", name, types.TypeString(u, short))
	}
	if types.IsInterface(t) {
		return
	}
	if named, ok := t.(*types.Named); ok {
		for m := range named.Methods() {
			if m.Exported() {
				star := ""
				if _, ok := m.Signature().Recv().Type().(*types.Pointer); ok {
					star = "*"
				}
				add("method (%s%s) %s%s", star, name, m.Name(), strings.TrimPrefix(types.TypeString(m.Type(), short), "func"))
			}
		}
	}
}

// What the packages export is as the listings in api say, so that each change of
// it shows in review.
func TestAPI(t *testing.T) {
	files, err := apiFiles(root(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := goFiles(root(t)); err != nil { // so that "go test" runs this again when one changes
		t.Fatal(err)
	}
	dir := filepath.Join(root(t), "api")
	old, _ := filepath.Glob(filepath.Join(dir, "*.txt"))
	for _, path := range old {
		name := filepath.Base(path)
		if _, ok := files[name]; ok {
			continue
		}
		if !*update {
			t.Errorf("api/%s is about no package", name)
		} else if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Error(err)
			}
			continue
		}
		was, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if d := differences(string(was), text); d != "" {
			t.Errorf("api/%s says something else than the code: if the API is to change, run \"make api\" and commit\n%s", name, d)
		}
	}
}

// differences lists the lines that only one of two sorted texts has.
func differences(was, is string) string {
	a, b := slices.Collect(strings.Lines(was)), slices.Collect(strings.Lines(is))
	var out strings.Builder
	for _, line := range a {
		if _, found := slices.BinarySearch(b, line); !found {
			out.WriteString("- " + line)
		}
	}
	for _, line := range b {
		if _, found := slices.BinarySearch(a, line); !found {
			out.WriteString("+ " + line)
		}
	}
	return out.String()
}

func TestAPISelf(t *testing.T) {
	t.Parallel()
	dir := writeTree(t, map[string]string{
		"root.go": "package dcrouter\n\nimport \"" + module + "/internal/leaf\"\n\n" +
			"type Secret = leaf.Secret\n\nconst A, b = \"x\", 1\n\nvar Err error\n\nfunc New(n int, opts ...func()) (*T, error) { return nil, nil }\n\n" +
			"type T struct {\n\tName string `json:\"name\"`\n\thidden int\n\tSecret\n}\n\nfunc (t *T) Do(s Secret) {}\n\nfunc (t T) quiet() {}\n\ntype I interface{ Get() I }\n",
		"internal/leaf/leaf.go": "package leaf\n\ntype Secret string\n\nfunc (s Secret) Reveal() string { return string(s) }\n",
		"proxy/proxy.go":        "package proxy\n\nfunc Run() {}\n",
		"examples/x/main.go":    "package main\n\nfunc main() {}\n",
	})
	files, err := apiFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := "const A = \"x\"\nfunc New(n int, opts ...func()) (*T, error)\nmethod (*T) Do(s Secret)\nmethod (Secret) Reveal() string\n" +
		"type I interface\ntype I interface, Get() I\ntype Secret = leaf.Secret\ntype Secret string\n" +
		"type T struct\ntype T struct, embedded Secret Secret\ntype T struct, field Name string json:\"name\"\nvar Err error\n"
	if len(files) != 2 || files["dcrouter.txt"] != want || files["proxy.txt"] != "func Run()\n" {
		t.Errorf("%q", files)
	}
	if d := differences("a\nb\n", "b\nc\n"); d != "- a\n+ c\n" {
		t.Errorf("%q", d)
	}
}

// The baseline of apidiff has the packages that others can import, and nothing of
// the machine that it was made on. With -update it is left with these.
func TestBaseline(t *testing.T) {
	path := filepath.Join(root(t), "api", "baseline.zip")
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var kept bytes.Buffer
	w := zip.NewWriter(&kept)
	for _, f := range z.File {
		if strings.Contains(f.Name, "/internal/") || strings.Contains(f.Name, "/examples/") {
			if !*update {
				t.Errorf("%s is in the baseline: run \"make baseline\"", f.Name)
			}
			continue
		}
		if err := w.Copy(f); err != nil {
			t.Fatal(err)
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(filepath.ToSlash(root(t)))) {
			t.Errorf("%s has paths of this machine: run \"make baseline\"", f.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(path, kept.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
