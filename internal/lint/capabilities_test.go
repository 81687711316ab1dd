package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// capabilitiesPage has a row for each capability of the reference: its words, what
// it is here, and the tests that show it.
const capabilitiesPage = "docs/capabilities.md"

// checkCapabilities looks for rows of the page that lack something, and for Go
// names, keys of the configuration and tests in them that are not there.
func checkCapabilities(dir string) (problems []string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(capabilitiesPage)))
	if err != nil {
		return nil, err
	}
	files, err := goFiles(dir)
	if err != nil {
		return nil, err
	}
	known, err := goNames(files)
	if err != nil {
		return nil, err
	}
	tests := testsOf(files)
	span := regexp.MustCompile("`([^`]+)`")
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| the reference |") {
			continue
		}
		report := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("%s:%d: ", capabilitiesPage, number)+fmt.Sprintf(format, args...))
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 3 || strings.TrimSpace(cells[0]) == "" || strings.TrimSpace(cells[1]) == "" || strings.TrimSpace(cells[2]) == "" {
			report("want three cells: the reference, here, tests")
			continue
		}
		here, shown := span.FindAllStringSubmatch(cells[1], -1), span.FindAllStringSubmatch(cells[2], -1)
		if len(here) == 0 || len(shown) == 0 {
			report("a row names something in Go or a key, and a test")
		}
		for _, m := range here {
			if problem := known.check(m[1]); problem != "" {
				report("%s", problem)
			}
		}
		for _, m := range shown {
			if problem := tests.check(m[1]); problem != "" {
				report("%s", problem)
			}
		}
	}
	return problems, nil
}

// names are those that a cell may have: exported ones as "proxy.Config.Routes", and
// "json:routes" for keys.
type names map[string]bool

// goNames collects them from public packages and examples.
func goNames(files []file) (names, error) {
	known := names{}
	for _, f := range files {
		if f.isTest() || f.nested || strings.Contains("/"+f.rel, "/internal/") {
			continue
		}
		if f.under("examples") {
			known[path.Dir(f.rel)] = true
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f.rel, f.src, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, decl := range tree.Decls {
			known.add(tree.Name.Name, decl)
		}
	}
	return known, nil
}

func (n names) add(pkg string, decl ast.Decl) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		at := pkg
		if d.Recv != nil {
			receiver := d.Recv.List[0].Type
			if star, ok := receiver.(*ast.StarExpr); ok {
				receiver = star.X
			}
			if name, ok := receiver.(*ast.Ident); ok {
				at += "." + name.Name
			}
		}
		n[at+"."+d.Name.Name] = true
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				for _, name := range s.Names {
					n[pkg+"."+name.Name] = true
				}
			case *ast.TypeSpec:
				n[pkg+"."+s.Name.Name] = true
				if fields, ok := s.Type.(*ast.StructType); ok {
					n.addFields(pkg+"."+s.Name.Name, fields)
				}
			}
		}
	}
}

func (n names) addFields(at string, fields *ast.StructType) {
	for _, field := range fields.Fields.List {
		for _, name := range field.Names {
			n[at+"."+name.Name] = true
		}
		if field.Tag != nil {
			tag, _ := strconv.Unquote(field.Tag.Value)
			key, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
			n["json:"+key] = true
		}
	}
}

// check says what is wrong with a name: "proxy.Config.Routes" is one of Go,
// "smartProxyConfig.routes[].name" one of the configuration (which docs_test.go of
// the root checks as a whole), "examples/http" a program. Keys of the storage and
// methods of the operations API have a slash, and are checked elsewhere.
func (n names) check(name string) string {
	parts := strings.Split(strings.ReplaceAll(name, "[]", ""), ".")
	switch {
	case strings.HasPrefix(name, "examples/"):
		if !n[name] {
			return "there is no " + name
		}
	case strings.Contains(name, "/"):
	case len(parts) > 1 && ast.IsExported(parts[1]):
		if !n[name] {
			return "there is no " + name + " in Go"
		}
	default:
		for _, part := range parts {
			if !n["json:"+part] {
				return fmt.Sprintf("%s: there is no key %s", name, part)
			}
		}
	}
	return ""
}

// tests are those of each folder, and the text of its test files.
type tests struct {
	has  map[string]bool // "proxy/TestX", "./TestX"
	text map[string]string
}

func testsOf(files []file) tests {
	t := tests{map[string]bool{}, map[string]string{}}
	name := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w*)\(`)
	for _, f := range files {
		if !f.isTest() {
			continue
		}
		folder := path.Dir(f.rel)
		t.text[folder] += string(f.src)
		for _, m := range name.FindAllSubmatch(f.src, -1) {
			t.has[folder+"/"+string(m[1])] = true
		}
	}
	return t
}

// check says what is wrong with a test such as "proxy/TestX", or "proxy/TestX/name"
// for one of those that it runs.
func (t tests) check(test string) string {
	folder, name := path.Split(strings.TrimPrefix(test, "./"))
	sub := ""
	if parent := path.Base(folder); strings.HasPrefix(parent, "Test") {
		folder, name, sub = path.Dir(path.Clean(folder)), parent, name
	}
	folder = path.Clean(folder)
	if !t.has[folder+"/"+name] {
		return "there is no test " + test
	}
	if text := t.text[folder]; sub != "" && !strings.Contains(text, strconv.Quote(sub)) && !strings.Contains(text, strconv.Quote(strings.ReplaceAll(sub, "_", " "))) {
		return fmt.Sprintf("%s/%s runs no test %s", folder, name, sub)
	}
	return ""
}

func TestCapabilities(t *testing.T) {
	problems, err := checkCapabilities(root(t))
	if err != nil {
		t.Fatal(err)
	}
	report(t, problems)
}

func TestCapabilitiesReportsViolations(t *testing.T) {
	dir := writeTree(t, map[string]string{
		"config.go":             "package dcrouter\ntype Config struct { A, B int `json:\"a,omitempty\"` }\nfunc (c *Config) Start() {}\nfunc New() {}\n",
		"config_test.go":        "package dcrouter\nfunc TestAll(t *testing.T) {}\n",
		"proxy/proxy.go":        "package proxy\nconst Forward = 1\n",
		"proxy/proxy_test.go":   "package proxy\nfunc TestWeb(t *testing.T) { t.Run(\"two words\", nil) }\n",
		"examples/http/main.go": "package main\n",
		capabilitiesPage: "# Table\n\n| the reference | here | test |\n| --- | --- | --- |\n" +
			"| good | `dcrouter.Config.B`, `dcrouter.Config.Start`, `a`, `/api/v1/x` | `./TestAll` |\n" +
			"| good | `proxy.Forward`, `examples/http` | `proxy/TestWeb`, `proxy/TestWeb/two_words` |\n" +
			"| empty | | `./TestAll` |\n" +
			"| two | `a` |\n" +
			"| words | `a` | by hand |\n" +
			"| name | `proxy.Backward` | `./TestAll` |\n" +
			"| key | `a.b` | `./TestAll` |\n" +
			"| program | `examples/gone` | `./TestAll` |\n" +
			"| test | `a` | `./TestWeb` |\n" +
			"| part | `a` | `proxy/TestWeb/three` |\n",
	})
	problems, err := checkCapabilities(dir)
	if err != nil {
		t.Fatal(err)
	}
	wantProblems(t, problems, ":7: want three cells", ":8: want three cells", ":9: a row names", "no proxy.Backward", "there is no key b", "there is no examples/gone",
		"there is no test ./TestWeb", "proxy/TestWeb runs no test three")
}
