package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// banned names what library code may not use, "import path.name" with a '*'
// at the end for all that begin so, and why.
var banned = map[string]string{
	"os.Exit":             "only the host ends its process: return an error",
	"log.Fatal*":          "only the host ends its process: return an error",
	"log.Panic*":          "return an error",
	"log.Print*":          "log to the injected *slog.Logger",
	"log.Default":         "log to the injected *slog.Logger",
	"log.Set*":            "the standard logger is the host's",
	"log/slog.Default":    "log to the injected *slog.Logger",
	"log/slog.SetDefault": "the default logger is the host's",
	"log/slog.Debug*":     "log to the injected *slog.Logger",
	"log/slog.Info*":      "log to the injected *slog.Logger",
	"log/slog.Warn*":      "log to the injected *slog.Logger",
	"log/slog.Error*":     "log to the injected *slog.Logger",
	"fmt.Print*":          "stdout is the host's",
	"os.Stdout":           "stdout is the host's",
	"os.Stderr":           "stderr is the host's",
	"os.Setenv":           "the environment is the host's",
	"os.Unsetenv":         "the environment is the host's",
	"os.Clearenv":         "the environment is the host's",
	"os.Chdir":            "the working directory is the host's",
	"net/http.Default*":   "shared by the whole process: make your own",
	"net/http.Get":        "uses http.DefaultClient: make your own",
	"net/http.Head":       "uses http.DefaultClient: make your own",
	"net/http.Post*":      "uses http.DefaultClient: make your own",
	"net/http.Handle":     "uses http.DefaultServeMux: make your own",
	"net/http.HandleFunc": "uses http.DefaultServeMux: make your own",
	"time.Tick":           "can't be stopped: use time.NewTicker",
	"math/rand.Seed":      "shared by the whole process: use math/rand/v2",
	"builtin.print":       "stderr is the host's",
	"builtin.println":     "stderr is the host's",
	"builtin.panic":       "return an error, or say in a comment why it is unreachable",
}

// bannedImports are packages that library code may not import at all.
var bannedImports = map[string]string{
	"expvar":         "its variables are shared by the whole process",
	"flag":           "its variables are shared by the whole process",
	"net/http/pprof": "registers itself in http.DefaultServeMux",
	"os/signal":      "signals are the host's",
	"testing":        "only for tests and for packages named *test",
	"testing/":       "only for tests and for packages named *test", // and all below
}

// notBanned are names that a pattern above would catch wrongly.
var notBanned = []string{"net/http.DefaultMaxHeaderBytes", "net/http.DefaultMaxIdleConnsPerHost"}

// allowed are exceptions: file and name.
var allowed = map[string]string{
	"options.go": "log/slog.Default", // where the root says what logs where
}

// isLibrary says whether the bans hold for a file.
func isLibrary(f *file) bool {
	return !f.isTest() && !f.nested && !f.under("examples") && !f.under("internal/testenv")
}

// checkBans reports what a file of the library may not do. It works on the
// syntax alone, so it can't see through an interface or a copied function; it
// is there to catch habits, not malice.
func checkBans(f *file) (problems []string) {
	if !isLibrary(f) {
		return nil
	}
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, f.rel, f.src, parser.ParseComments)
	if err != nil {
		return []string{err.Error()}
	}
	report := func(at token.Pos, what, why string) {
		p := fset.Position(at)
		problems = append(problems, fmt.Sprintf("%s:%d: %s: %s", f.rel, p.Line, what, why))
	}
	check := func(at token.Pos, pkg, name string) {
		full := pkg + "." + name
		if why := ban(full); why != "" && allowed[f.rel] != full {
			report(at, full, why)
		}
	}

	imports := map[string]string{} // name in this file: import path
	for _, spec := range tree.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		name := path[strings.LastIndex(path, "/")+1:]
		if name == "v2" { // math/rand/v2
			name = "rand"
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." {
			report(spec.Pos(), "dot import of "+path, "a reader can't see where a name comes from")
		}
		imports[name] = path
		why := bannedImports[path]
		if first, _, ok := strings.Cut(path, "/"); ok && why == "" {
			why = bannedImports[first+"/"]
		}
		if why != "" && !(strings.HasPrefix(path, "testing") && isTestSupport(tree.Name.Name)) {
			report(spec.Pos(), "import of "+path, why)
		}
	}

	excused := map[int]bool{} // lines whose panic can't be reached
	for _, group := range tree.Comments {
		if strings.Contains(strings.ToLower(group.Text()), "unreachable") {
			from, to := fset.Position(group.Pos()).Line, fset.Position(group.End()).Line
			for line := from; line <= to+1; line++ {
				excused[line] = true
			}
		}
	}

	for _, decl := range tree.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				report(d.Pos(), "func init", "work at import time is the host's to decide")
			}
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue
			}
			for _, s := range d.Specs {
				spec := s.(*ast.ValueSpec)
				if embedded(d.Doc) || embedded(spec.Doc) {
					continue
				}
				for i, name := range spec.Names {
					if name.Name != "_" && !isErrorValue(spec, i) {
						report(name.Pos(), "package variable "+name.Name, "state belongs to a value that the host makes; a table can be a func with a switch")
					}
				}
			}
		}
	}

	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			// Obj is set for names declared in this file, so not for imports.
			if x, ok := n.X.(*ast.Ident); ok && x.Obj == nil {
				if path, ok := imports[x.Name]; ok {
					check(n.Pos(), path, n.Sel.Name)
				}
			}
		case *ast.CallExpr:
			if fn, ok := n.Fun.(*ast.Ident); ok && fn.Obj == nil {
				if fn.Name == "panic" && (excused[fset.Position(n.Pos()).Line] || isAbortHandler(n.Args, imports)) {
					return true
				}
				check(n.Pos(), "builtin", fn.Name)
			}
		}
		return true
	})
	return problems
}

func ban(name string) string {
	if slices.Contains(notBanned, name) {
		return ""
	}
	if why, ok := banned[name]; ok {
		return why
	}
	for pattern, why := range banned {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(name, prefix) {
			return why
		}
	}
	return ""
}

// isAbortHandler says whether a panic is net/http's documented way for a handler
// to drop the connection.
func isAbortHandler(args []ast.Expr, imports map[string]string) bool {
	if len(args) != 1 {
		return false
	}
	sel, ok := args[0].(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != "ErrAbortHandler" {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && imports[x.Name] == "net/http"
}

// embedded says whether a variable is filled by the compiler.
func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// isErrorValue says whether the i-th variable is an error to compare with, as
// io.EOF is: named Err or err, and made by errors.New, fmt.Errorf, a composite
// literal or a conversion of a literal.
func isErrorValue(spec *ast.ValueSpec, i int) bool {
	if !regexp.MustCompile(`^[eE]rr[A-Z]`).MatchString(spec.Names[i].Name) || i >= len(spec.Values) {
		return false
	}
	value := spec.Values[i]
	if addr, ok := value.(*ast.UnaryExpr); ok && addr.Op == token.AND {
		value = addr.X
	}
	switch v := value.(type) {
	case *ast.CompositeLit:
		switch v.Type.(type) {
		case *ast.Ident, *ast.SelectorExpr: // a named type, no map or slice
			return true
		}
	case *ast.CallExpr:
		switch fun := v.Fun.(type) {
		case *ast.SelectorExpr:
			x, ok := fun.X.(*ast.Ident)
			return ok && (x.Name+"."+fun.Sel.Name == "errors.New" || x.Name+"."+fun.Sel.Name == "fmt.Errorf")
		case *ast.Ident:
			if len(v.Args) == 1 {
				_, ok := v.Args[0].(*ast.BasicLit)
				return ok
			}
		}
	}
	return false
}

func TestBans(t *testing.T) {
	files, err := goFiles(root(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d Go files found", len(files))
	}
	var problems []string
	for _, f := range files {
		problems = append(problems, checkBans(&f)...)
	}
	report(t, problems)
}

func TestBansReportsViolations(t *testing.T) {
	for code, want := range map[string]string{
		`import "os"; func f() { os.Exit(1) }`:                        "os.Exit",
		`import sys "os"; func f() { sys.Exit(1) }`:                   "os.Exit",
		`import "log"; func f() { log.Fatalf("x") }`:                  "log.Fatalf",
		`import "log"; func f() { log.Panicln("x") }`:                 "log.Panicln",
		`import "log"; func f() { log.Println("x") }`:                 "log.Println",
		`import "os/signal"; func f() { signal.Notify(nil) }`:         "import of os/signal",
		`import "fmt"; func f() { fmt.Printf("x") }`:                  "fmt.Printf",
		`func f() { println("x") }`:                                   "builtin.println",
		`import "flag"`:                                               "import of flag",
		`import _ "net/http/pprof"`:                                   "import of net/http/pprof",
		`import "testing"; func f(testing.TB) {}`:                     "import of testing",
		`import "net/http"; func f() { panic(http.ErrServerClosed) }`: "builtin.panic",
		`import "testing/iotest"`:                                     "import of testing/iotest",
		`import . "os"`:                                               "dot import of os",
		`func init() {}`:                                              "func init",
		`var n int`:                                                   "package variable n",
		`var table = map[string]int{}`:                                "package variable table",
		`import "regexp"; var re = regexp.MustCompile("x")`:           "package variable re",
		`import "sync"; var re = sync.OnceValue(f)`:                   "package variable re",
		`import "sync"; var ( mu sync.Mutex )`:                        "package variable mu",
		`var ErrX error`:                                              "package variable ErrX",
		`var ErrX = map[string]error{}`:                               "package variable ErrX",
		`var errCount = f()`:                                          "package variable errCount",
		`var Errand = X{}`:                                            "package variable Errand",
		`func f() { panic("x") }`:                                     "builtin.panic",
		"func f() {\n// unreachable\n\n\npanic(1)\n}":                 "builtin.panic",
		`import "os"; func f() { g(os.Stdout) }`:                      "os.Stdout",
		`import "os"; func f() { w := os.Stderr; _ = w }`:             "os.Stderr",
		`import "net/http"; func f() { http.DefaultClient.Do(nil) }`:  "net/http.DefaultClient",
		`import "net/http"; func f() { g(http.DefaultTransport) }`:    "net/http.DefaultTransport",
		`import "net/http"; func f() { g(http.DefaultServeMux) }`:     "net/http.DefaultServeMux",
		`import "net/http"; func f() { http.Get("x") }`:               "net/http.Get",
		`import "log/slog"; func f() { g(slog.Default()) }`:           "log/slog.Default",
		`import "log/slog"; func f() { slog.Info("x") }`:              "log/slog.Info",
		`import "time"; func f() { time.Tick(1) }`:                    "time.Tick",
		`import "math/rand"; func f() { rand.Seed(1) }`:               "math/rand.Seed",
		`import "os"; func f() { os.Chdir("x") }`:                     "os.Chdir",
		`func f( {`: "expected",
		`import "os"; func g() { os := 1; _ = os }; func f() { func() { os.Exit(1) }() }`:     "os.Exit",
		`import ("fmt"; "errors"); var ErrA, state = errors.New("a"), fmt.Errorf("state")`:    "package variable state",
		`type T struct{}; var shared = &T{}`:                                                  "package variable shared",
		`import "log"; func f() { log.SetOutput(nil) }`:                                       "log.SetOutput",
		`import "log/slog"; func f() { slog.SetDefault(nil) }`:                                "log/slog.SetDefault",
		`import "net/http"; func f() { http.HandleFunc("/", nil) }`:                           "net/http.HandleFunc",
		`func f() { g := func() { panic("deep") }; g() }`:                                     "builtin.panic",
		`import "embed"; var files embed.FS`:                                                  "package variable files",
		"import \"embed\"\n//go:embed a\nvar files embed.FS\nvar other embed.FS":              "package variable other",
		"import \"os\"\nfunc f() { defer os.Exit(1) } // unreachable says nothing of os.Exit": "os.Exit",
	} {
		t.Run(want, func(t *testing.T) {
			f := file{rel: "proxy/x.go", src: []byte("package x\n" + code)}
			got := checkBans(&f)
			wantProblems(t, got[:min(1, len(got))], want) // a broken file may give more
			if !strings.HasPrefix(strings.Join(got, ""), "proxy/x.go:") {
				t.Errorf("no position: %q", got)
			}
			for _, rel := range []string{"proxy/x_test.go", "examples/gateway/main.go", "internal/testenv/x.go"} {
				f.rel = rel
				wantProblems(t, checkBans(&f))
			}
		})
	}
}

func TestBansAllows(t *testing.T) {
	for _, code := range []string{
		`import "errors"; var ErrX = errors.New("x")`,
		`import ("errors"; "fmt"); var ( errX = errors.New("x"); ErrY = fmt.Errorf("y: %w", errX) )`,
		`type E struct{}; func (E) Error() string { return "" }; var ErrX = E{}; var ErrY = &E{}`,
		`type E string; func (E) Error() string { return "" }; var ErrX = E("x"); var ErrZ error = E("z")`,
		`import "net/http"; func f() { panic(http.ErrAbortHandler) }`,
		`import "io"; type R struct{ io.Reader }; var _ io.Reader = R{}; var _ = R{}`,
		"import \"embed\"\n//go:embed a\nvar files embed.FS",
		"import \"embed\"\nvar (\n//go:embed a\nfiles embed.FS\n)",
		`func f(log interface{ Fatal(string) }) { log.Fatal("mine") }`,
		`import "log"; type L = log.Logger; func f(log interface{ Fatal(string) }) { log.Fatal("mine") }`,
		`func f(panic, println func(string)) { panic("mine"); println("mine") }`,
		`import "log"; func f(w any) *log.Logger { return log.New(w, "", 0) }`,
		`type log struct{}; func (log) Printf() {}; func f(log log) { log.Printf() }`,
		`func f() { panic("x") } // unreachable: the switch is complete`,
		"func f() {\n// Unreachable: checked by New.\npanic(\"x\")\n}",
		`import "log/slog"; func f() *slog.Logger { return slog.New(slog.DiscardHandler) }`,
		`import "net/http"; const n = http.DefaultMaxHeaderBytes`,
		`import "fmt"; func f() string { return fmt.Sprint("x") }`,
		`import "math/rand/v2"; func f() int { return rand.Int() }`,
		`import "time"; func f() { time.NewTicker(1).Stop() }`,
		`func init2() { var n int; _ = n }; type T int; func (T) init() {}`,
	} {
		f := file{rel: "proxy/x.go", src: []byte("package x\n" + code)}
		if got := checkBans(&f); len(got) > 0 {
			t.Errorf("%s\n%s", code, got)
		}
	}
	conformance := file{rel: "storage/storagetest/x.go", src: []byte("package storagetest\nimport \"testing\"\nfunc Run(t *testing.T) {}\n")}
	wantProblems(t, checkBans(&conformance))

	def := `import "log/slog"; func f() { g(slog.Default()) }`
	f := file{rel: "options.go", src: []byte("package dcrouter\n" + def)}
	wantProblems(t, checkBans(&f))
	f.rel = "proxy/options.go"
	wantProblems(t, checkBans(&f), "log/slog.Default")
}
