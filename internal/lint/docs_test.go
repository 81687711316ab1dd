package lint

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// page is a Markdown file of the checkout.
type page struct {
	rel  string // slash-separated path
	text string
}

// pages reads every Markdown file below dir.
func pages(dir string) ([]page, error) {
	var list []page
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != dir && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".md" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		list = append(list, page{filepath.ToSlash(rel), string(text)})
		return err
	})
	return list, err
}

// prose is the page without what stands between fences.
func (p *page) prose() string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(p.text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		} else if !fenced {
			b.WriteString(line)
		}
	}
	return b.String()
}

// blocks returns what stands between fences that begin with ```info.
func (p *page) blocks(info string) []string {
	var list []string
	var b *strings.Builder
	for line := range strings.Lines(p.text) {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && b != nil:
			list = append(list, b.String())
			b = nil
		case isFence && fence == info:
			b = new(strings.Builder)
		case b != nil:
			b.WriteString(line)
		}
	}
	return list
}

// anchor is what a heading is linked by, as GitHub makes it.
func anchor(heading string) string {
	heading = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
	return strings.ReplaceAll(heading, " ", "-")
}

func (p *page) anchors() map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(p.prose()) {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			found[anchor(heading)] = true
		}
	}
	return found
}

// checkLinks looks for links to files and headings of the checkout that are not
// there. Links to elsewhere are not followed.
func checkLinks(dir string) (problems []string, err error) {
	list, err := pages(dir)
	if err != nil {
		return nil, err
	}
	byName := map[string]*page{}
	for i := range list {
		byName[list[i].rel] = &list[i]
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, p := range list {
		for _, m := range link.FindAllStringSubmatch(p.prose(), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s: %s: %v", p.rel, m[1], err))
				continue
			}
			if u.Scheme != "" || u.Host != "" {
				continue
			}
			target := p.rel
			if u.Path != "" {
				target = path.Join(path.Dir(p.rel), u.Path)
				if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(target))); err != nil {
					problems = append(problems, fmt.Sprintf("%s: there is no %s", p.rel, target))
					continue
				}
			}
			if to := byName[target]; u.Fragment != "" && (to == nil || !to.anchors()[u.Fragment]) {
				problems = append(problems, fmt.Sprintf("%s: %s has no heading #%s", p.rel, target, u.Fragment))
			}
		}
	}
	return problems, nil
}

func TestLinks(t *testing.T) {
	problems, err := checkLinks(root(t))
	if err != nil {
		t.Fatal(err)
	}
	report(t, problems)
}

func TestLinksReportsViolations(t *testing.T) {
	dir := writeTree(t, map[string]string{
		"README.md": "# Top\n[a](docs/a.md) [b](docs/b.md#two-words-and-more) [c](https://example.com/x.md) [d](#top) [e](docs)\n" +
			"```\n[not](a-link.md)\n```\n[f](docs/f.md) [g](docs/b.md#three) [h](#bottom)\n",
		"docs/a.md": "[up](../README.md) [side](b.md) [gone](README.md)\n",
		"docs/b.md": "## Two words, `and` more\n",
	})
	problems, err := checkLinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	wantProblems(t, problems, "README.md: there is no docs/f.md", "README.md: docs/b.md has no heading #three",
		"README.md: README.md has no heading #bottom", "docs/a.md: there is no docs/README.md")
}

// Programs in the documents compile. What is only a part of one is marked as
// text of another language, or as none.
func TestGoInDocs(t *testing.T) {
	list, err := pages(root(t))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, p := range list {
		for i, code := range p.blocks("go") {
			if !strings.HasPrefix(code, "package main\n") {
				continue
			}
			found++
			file := filepath.Join(t.TempDir(), "main.go")
			if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := goCommand(root(t), nil, "vet", file); err != nil {
				t.Errorf("%s, Go block %d: %v", p.rel, i+1, err)
			}
		}
	}
	if found == 0 {
		t.Error("no program found in the documents: README.md should have one")
	}
}

// Methods of the operations API that the documents call are there.
func TestMethodsInDocs(t *testing.T) {
	files, err := goFiles(root(t))
	if err != nil {
		t.Fatal(err)
	}
	methods := map[string]bool{"events": true, "openapi.json": true}
	registered := regexp.MustCompile(`Handle\(m, "(\w+)"`)
	inLoop := regexp.MustCompile(`\{"(\w+)", `)
	for _, f := range files {
		if f.under("opsapi") && !f.isTest() {
			for _, re := range []*regexp.Regexp{registered, inLoop} {
				for _, m := range re.FindAllSubmatch(f.src, -1) {
					methods[string(m[1])] = true
				}
			}
		}
	}
	list, err := pages(root(t))
	if err != nil {
		t.Fatal(err)
	}
	var problems []string
	called := regexp.MustCompile(`/api/v1/([\w.]+)`)
	for _, p := range list {
		for _, m := range called.FindAllStringSubmatch(p.text, -1) {
			if !methods[strings.TrimSuffix(m[1], ".")] {
				problems = append(problems, fmt.Sprintf("%s: the operations API has no method %s", p.rel, m[1]))
			}
		}
	}
	report(t, problems)
}

// Go files and packages that ARCHITECTURE.md names are there.
func TestFilesInArchitecture(t *testing.T) {
	files, err := goFiles(root(t))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, f := range files {
		known[path.Base(f.rel)] = true
		for dir := path.Dir(f.rel); dir != "."; dir = path.Dir(dir) { // "internal/spool" for email/internal/spool
			parts := strings.Split(dir, "/")
			for i := range parts {
				known[strings.Join(parts[i:], "/")] = true
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(root(t), "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`[\w/]*\w\.go\b|\binternal/\w+`).FindAllString(string(text), -1) {
		if _, err := os.Stat(filepath.Join(root(t), name)); err != nil && !known[path.Base(name)] && !known[name] {
			t.Errorf("ARCHITECTURE.md: there is no %s", name)
		}
	}
}
