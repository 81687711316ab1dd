package storage

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestCanonicalKey(t *testing.T) {
	long := strings.Repeat("k", MaxKeyLength)
	for key, want := range map[string]string{
		"a": "a", "/a": "a", "/email/dkim/example.org/private.key": "email/dkim/example.org/private.key",
		"a/...": "a/...", "A": "A", "a b": "a b", "*": "*", long: long, "/" + long: long, `a\..\b`: `a\..\b`,
	} {
		if got, err := CanonicalKey(key); got != want || err != nil {
			t.Errorf("CanonicalKey(%.30q) = %.30q, %v; want %.30q", key, got, err, want)
		}
	}
	for _, key := range []string{
		"", "/", "//", "//a", "a//b", "a/", ".", "..", "/..", "a/..", "../a", "a/./b", "\xff", "a\xc3", "\x00", "a\tb",
		"\u0080", "\x7f", long + "k",
	} {
		if got, err := CanonicalKey(key); got != "" || !errors.Is(err, ErrInvalidKey) {
			t.Errorf("CanonicalKey(%.30q) = %.30q, %v; want ErrInvalidKey", key, got, err)
		}
	}
}

func TestMatchPrefix(t *testing.T) {
	for _, c := range []struct {
		key, prefix string
		want        bool
	}{
		{"a", "", true}, {"a", "a", true}, {"a/b", "a", true}, {"a/b", "a/", true}, {"a/b/c", "a/b", true},
		{"a", "a/", false}, {"ab", "a", false}, {"a", "ab", false}, {"b", "a", false}, {"a.b", "a", false},
	} {
		if got := MatchPrefix(c.key, c.prefix); got != c.want {
			t.Errorf("MatchPrefix(%q, %q) = %v", c.key, c.prefix, got)
		}
	}
}

func FuzzCanonicalKey(f *testing.F) {
	for _, s := range []string{"", "/", "a", "/a", "//a", "a/b", "a/../b", "..", "a/.", "\x00", "\xff", "é", "a b/c:d@e*", "_meta/x", "a/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		k, err := CanonicalKey(key)
		if err != nil {
			if k != "" || !errors.Is(err, ErrInvalidKey) {
				t.Fatalf("CanonicalKey(%q) = %q, %v", key, k, err)
			}
			return
		}
		if again, err := CanonicalKey(k); again != k || err != nil {
			t.Fatalf("CanonicalKey(%q) = %q, %v: not a fixed point", k, again, err)
		}
		if key != k && key != "/"+k {
			t.Fatalf("CanonicalKey(%q) = %q changes more than a leading slash", key, k)
		}
		if path.Clean("/"+k) != "/"+k || len(k) > MaxKeyLength || !utf8.ValidString(k) || strings.ContainsFunc(k, unicode.IsControl) {
			t.Fatalf("CanonicalKey(%q) = %q breaks its own rules", key, k)
		}
		if !MatchPrefix(k, k) || !MatchPrefix(k+"/x", k) || MatchPrefix(k+"x", k) || MatchPrefix(k, k+"/") {
			t.Fatalf("MatchPrefix is wrong around %q", k)
		}
	})
}

func TestFileOf(t *testing.T) {
	for key, want := range map[string]string{
		"a":                                 "a",
		"a/b":                               "a+/b",
		"email/domains/example.org.json":    "email+/domains+/example.org.json",
		"A":                                 "%41",
		"a.":                                "a%2e",
		"a+/b=/~c":                          "a%2b+/b%3d+/%7ec",
		"u@example.org:*":                   "u@example.org%3a%2a",
		strings.Repeat("x", 200):            strings.Repeat("x", 200),
		strings.Repeat("x", 201):            strings.Repeat("x", 200) + "=/x",
		strings.Repeat("x", 401) + "/y":     strings.Repeat("x", 200) + "=/" + strings.Repeat("x", 200) + "=/x+/y",
		"security/ip-reputation/::1.json":   "security+/ip-reputation+/%3a%3a1.json",
		"_meta/expiry/" + "email/x":         "_meta+/expiry+/email+/x",
		"é":                                 "%c3%a9",
		"a/" + strings.Repeat("x", 250):     "a+/" + strings.Repeat("x", 200) + "=/" + strings.Repeat("x", 50),
		strings.Repeat("x", 199) + "./tail": strings.Repeat("x", 199) + "%=/2e+/tail",
	} {
		if got, err := fileOf(key); got != want || err != nil {
			t.Errorf("fileOf(%.40q) = %q, %v; want %q", key, got, err, want)
		}
		if got, ok := keyOf(want); got != key || !ok {
			t.Errorf("keyOf(%q) = %.40q, %v; want %.40q", want, got, ok, key)
		}
	}
	for _, name := range []string{"A", "a b", "%61", "%4", "%zz", "%2E", "a+/", "+", "~lock", "~tmp-x", "a+", "a=", "a=/b", "a/b", "a.", "README.md", "%"} {
		if key, ok := keyOf(name); ok {
			t.Errorf("keyOf(%q) = %q: no key has this file", name, key)
		}
	}
}

func FuzzFileOf(f *testing.F) {
	for _, k := range []string{"a", "a/b", "A", "a.", "a+", "a+/b", "a=/b", "~lock", "%61", "é", strings.Repeat("x", 401), strings.Repeat("É", 300), "a\\b", "con"} {
		f.Add(k, "a/b")
		f.Add(k+"/x", "a=/b")
	}
	f.Fuzz(func(t *testing.T, key, other string) {
		// Any name has at most one key, and that key has this name.
		if k, ok := keyOf(key); ok {
			if name, err := fileOf(k); name != key || err != nil {
				t.Fatalf("keyOf(%q) = %q, but fileOf of that is %q, %v", key, k, name, err)
			}
		}
		if checkKey(key, backendKeyLength) != nil {
			return
		}
		name, err := fileOf(key)
		if err != nil {
			t.Fatalf("fileOf(%q): %v", key, err)
		}
		if back, ok := keyOf(name); back != key || !ok {
			t.Fatalf("keyOf(fileOf(%q)) = %q, %v by way of %q", key, back, ok, name)
		}
		for part := range strings.SplitSeq(name, "/") {
			if part == "" || len(part) > 255 || strings.HasPrefix(part, "~") || part != strings.ToLower(part) || strings.HasSuffix(part, ".") {
				t.Fatalf("fileOf(%q) = %q has a part %q", key, name, part)
			}
		}
		if !filepath.IsLocal(filepath.FromSlash(name)) && filepath.Separator == '/' {
			t.Fatalf("fileOf(%q) = %q is not a local path", key, name)
		}
		// Two keys have two files, and none is a folder of the other.
		if otherName, err := fileOf(other); err == nil && other != key {
			if otherName == name || strings.HasPrefix(otherName, name+"/") || strings.HasPrefix(name, otherName+"/") {
				t.Fatalf("%q and %q get in each other's way: %q, %q", key, other, name, otherName)
			}
		}
	})
}
