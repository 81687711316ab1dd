package glob_test

import (
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dcrouter/dcrouter/internal/glob"
)

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern  string
		yes, no  []string
		foldOnly []string // matched by ParseFold alone
	}{
		{"", []string{""}, []string{"a"}, nil},
		{"abc", []string{"abc"}, []string{"", "ab", "abcd", "xabc"}, []string{"ABC", "aBc"}},
		{"*", []string{"", "a", "a\nb"}, nil, nil},
		{"**", []string{"", "a"}, nil, nil},
		{"*@example.com", []string{"a@example.com", "@example.com", "a@b@example.com"}, []string{"a@example.com.evil", "a@example,com"}, []string{"A@EXAMPLE.COM"}},
		{"admin@*", []string{"admin@", "admin@x"}, []string{"xadmin@x", "admin"}, []string{"Admin@x"}},
		{"a*b*c", []string{"abc", "aXbYc", "abbcc", "abcbc"}, []string{"ac", "acb", "ab", "abcx"}, nil},
		{"*ab*ab*", []string{"abab", "xabxabx"}, []string{"ab", "aab", "aba"}, nil},
		{"ab*ba", []string{"abba", "abxba"}, []string{"aba"}, nil},
		{"?", []string{"a", "é", "€", "\xff"}, []string{"", "ab"}, nil},
		{"a?c", []string{"abc", "a€c"}, []string{"ac", "abbc"}, nil},
		{"*a?c*", []string{"abc", "xaxcx", "aabc"}, []string{"ac", "xacx"}, nil},
		{"*?b", []string{"ab", "ccab", "€b"}, []string{"b", "a"}, nil},
		{"?*?", []string{"ab", "abc"}, []string{"", "a"}, nil},
		{"a.c+[d]", []string{"a.c+[d]"}, []string{"abc+[d]"}, nil},
		{"/a.c/", []string{"abc", "xabcx"}, []string{"ac"}, []string{"ABC"}},
		{"/^a|b$/i", []string{"Ax", "xB", "a"}, []string{"xax"}, nil},
		{"/", []string{"/"}, []string{""}, nil},
		{"/i", []string{"/i"}, []string{"i"}, nil},
		{"/api/*", []string{"/api/", "/api/x"}, []string{"/api"}, nil},
		{"straße", []string{"straße"}, []string{"strasse"}, []string{"STRAẞE"}},
		{"σ", []string{"σ"}, []string{"s"}, []string{"ς", "Σ"}},
		{"k", []string{"k"}, nil, []string{"K", "\u212a"}},
	}
	for _, test := range tests {
		p, err := glob.Parse(test.pattern)
		if err != nil {
			t.Fatalf("%s: %v", test.pattern, err)
		}
		fold, err := glob.ParseFold(test.pattern)
		if err != nil {
			t.Fatalf("%s: %v", test.pattern, err)
		}
		if p.String() != test.pattern || fold.String() != test.pattern {
			t.Errorf("%q prints as %q and %q", test.pattern, p, fold)
		}
		check := func(texts []string, exact, folded bool) {
			for _, s := range texts {
				if p.Match(s) != exact {
					t.Errorf("%q on %q: got %t", test.pattern, s, !exact)
				}
				if fold.Match(s) != folded {
					t.Errorf("%q on %q without case: got %t", test.pattern, s, !folded)
				}
			}
		}
		check(test.yes, true, true)
		check(test.no, false, false)
		check(test.foldOnly, false, true)
	}
	if !(glob.Pattern{}).Match("") || (glob.Pattern{}).Match("a") {
		t.Error("the zero Pattern")
	}
}

// What Compile is given is a glob, whatever it looks like.
func TestCompile(t *testing.T) {
	for _, test := range []struct{ pattern, yes, no string }{
		{"/a*/", "/ab/", "ab"},
		{"/.?/i", "/.x/i", "/xx/i"},
		{"//", "//", ""},
		{"a\xff*", "a\xffb", "a"},
		{strings.Repeat("a", 2000) + "*", strings.Repeat("a", 2001), "a"},
	} {
		p := glob.Compile(test.pattern)
		if !p.Match(test.yes) || p.Match(test.no) || p.String() != test.pattern {
			t.Errorf("%.20q matches %.20q: %t, %.20q: %t", p, test.yes, p.Match(test.yes), test.no, p.Match(test.no))
		}
	}
}

func TestParseErrors(t *testing.T) {
	for pattern, want := range map[string]string{
		"/(/": "missing closing )", "/a{2000}/": "invalid repeat count", "//": "empty", "//i": "empty", "/(?<!a)b/": "not a regular expression",
		strings.Repeat("a", 1025): "too long", "a\xff": "not UTF-8", "/((a{100}){100}){100}/": "invalid repeat count",
	} {
		if _, err := glob.Parse(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %s", pattern, err, want)
		}
	}
}

func TestLiteral(t *testing.T) {
	for pattern, want := range map[string]string{"abc": "abc", "": "", "a*": "-", "a?": "-", "/a/": "-", "/x": "/x"} {
		p, _ := glob.Parse(pattern)
		if got, ok := p.Literal(); ok != (want != "-") || ok && got != want {
			t.Errorf("%q: got %q, %t", pattern, got, ok)
		}
	}
	p, _ := glob.ParseFold("ABC")
	if got, ok := p.Literal(); !ok || got != "abc" {
		t.Errorf("got %q, %t", got, ok)
	}
	if got, ok := (glob.Pattern{}).Literal(); !ok || got != "" {
		t.Errorf("zero: got %q, %t", got, ok)
	}
}

// TestFoldOrbits holds Fold to its promise for every character there is.
func TestFoldOrbits(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if utf8.ValidRune(r) && glob.Fold(string(r)) != glob.Fold(string(unicode.SimpleFold(r))) {
			t.Errorf("%U and %U", r, unicode.SimpleFold(r))
		}
	}
}

// TestMatchIsLinear would take years with a matcher that backtracks.
func TestMatchIsLinear(t *testing.T) {
	text := strings.Repeat("a", 1<<16)
	for _, pattern := range []string{strings.Repeat("a*", 300) + "b", strings.Repeat("?*a", 300) + "b", "/(a*)*b/"} {
		p, err := glob.Parse(pattern)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if p.Match(text) {
			t.Errorf("%.20s matched", pattern)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%.20s took %v", pattern, took)
		}
	}
}

// translate writes a glob as a regular expression, the obvious way.
func translate(pattern string, fold bool) *regexp.Regexp {
	expr := "(?s"
	if fold {
		expr += "i"
	}
	expr += `)\A`
	for _, r := range pattern {
		switch r {
		case '*':
			expr += ".*"
		case '?':
			expr += "."
		default:
			expr += regexp.QuoteMeta(string(r))
		}
	}
	return regexp.MustCompile(expr + `\z`)
}

func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{
		{"a*b*c", "aXbYc"}, {"*?b", "€b"}, {"?*?", "ab"}, {"*ab*ab*", "abaab"}, {"K", "\u212a"}, {"ς*", "ΣX"}, {"/x", "/x"}, {"a?", "a\xff"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		exact, err := glob.Parse(pattern)
		if err != nil {
			return
		}
		folded, err := glob.ParseFold(pattern)
		if err != nil {
			t.Fatal(err)
		}
		exact.Match(text)
		folded.Match(text)
		if strings.HasPrefix(pattern, "/") || strings.ContainsRune(pattern, utf8.RuneError) {
			return // a regular expression; and RE2 takes invalid bytes for U+FFFD
		}
		if got, want := exact.Match(text), translate(pattern, false).MatchString(text); got != want {
			t.Errorf("%q on %q: got %t", pattern, text, got)
		}
		if got, want := folded.Match(text), translate(pattern, true).MatchString(text); got != want {
			t.Errorf("%q on %q without case: got %t", pattern, text, got)
		}
	})
}
