package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/storage"
)

// trickyKeys are keys that are easily taken for one another, or for something
// else, once they have become file names, subjects, columns or patterns.
func trickyKeys() []string {
	return []string{
		"a", "a/b", "a/b/c", "A", "A/b", "ab", "a.b", "a-b", "a_b", "a b", " a", "a ", "a.", ".a", "...", "a..",
		"a%2fb", "a%2Fb", "a%", "%61", "%", "a+b", "a+", "a+/b", "a=", "a=/b", "a~", "~lock", "~tmp-x", "~tmp-x/y",
		"user@example.org", "user:x@example.org", "*", "*/*", "*.example.org", ">", "a.>", "?", "[a]", "{a}", "$a", "#a", "a#b", "a&b",
		`a\b`, `a"b`, "a'b", "a`b", "a|b", "a;b", "a,b", "a:b", "a<b", "2001:db8::1", "192.0.2.1",
		"con", "nul", "com1.txt", ".git", ".lock", "lock", "_metadata", "_", "meta",
		"é", "e\u0301", "ü/ö", "日本語", "ß", "ẞ", "\u202e", "😀",
		strings.Repeat("l", 250), strings.Repeat("l", 251), strings.Repeat("l", 400) + "/x", strings.Repeat("L", 500),
		strings.Repeat("é", 300), strings.Repeat("d/", 400) + "d", strings.Repeat("k", storage.MaxKeyLength),
	}
}

func backendKeys(t *testing.T, b storage.Backend) {
	openBackend(t, b)
	keys := trickyKeys()
	for i, k := range keys {
		backendPut(t, b, k, fmt.Sprint(i))
	}
	slices.Sort(keys)
	got := list(t, b, "")
	slices.Sort(got)
	if !slices.Equal(got, keys) {
		for _, k := range keys {
			if !slices.Contains(got, k) {
				t.Errorf("List does not yield %.80q", k)
			}
		}
		t.Fatalf("List yields %d keys, %d were put: %.300q", len(got), len(keys), got)
	}
	for i, k := range trickyKeys() {
		wantValue(t, b, k, fmt.Sprint(i))
	}
	for i, k := range trickyKeys() {
		if i%2 == 0 {
			del(t, b, k)
		}
	}
	for i, k := range trickyKeys() {
		if i%2 == 0 {
			wantMissing(t, b, k)
		} else {
			wantValue(t, b, k, fmt.Sprint(i))
		}
	}
}

func backendList(t *testing.T, b storage.Backend) {
	openBackend(t, b)
	wantList(t, b, "")
	keys := []string{"a", "a/b", "a/c/d", "ab", "ab/c", "b"}
	for _, k := range keys {
		backendPut(t, b, k, "x")
	}
	for _, prefix := range []string{"", "a", "a/", "a/c", "a/c/", "a/c/d", "ab", "c", "a/b/c"} {
		got := list(t, b, prefix)
		for _, k := range keys { // more is allowed
			if storage.MatchPrefix(k, prefix) && !slices.Contains(got, k) {
				t.Errorf("List(%q) = %q lacks %q", prefix, got, k)
			}
		}
	}
	for range b.List(t.Context(), "") { // stopping early is allowed
		break
	}
}

func storeKeys(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	for i, k := range trickyKeys() {
		put(t, s, k, fmt.Sprint(i))
	}
	s = reopen(t, s, b)
	want := trickyKeys()
	slices.Sort(want)
	wantList(t, s, "", want...)
	for i, k := range trickyKeys() {
		wantValue(t, s, "/"+k, fmt.Sprint(i))
	}

	for _, k := range []string{
		"", "/", "//a", "a//b", "a/", ".", "..", "a/../b", "./a", "a/.", "a\x00b", "a\nb", "\x7f", "a\u0085b",
		"\xff", strings.Repeat("k", storage.MaxKeyLength+1), "_meta", "_meta/schema", "/_meta/x",
	} {
		err := s.Put(t.Context(), k, []byte("x"))
		wantErr(t, fmt.Sprintf("Put(%.40q)", k), err, storage.ErrInvalidKey)
		err = s.Delete(t.Context(), k)
		wantErr(t, fmt.Sprintf("Delete(%.40q)", k), err, storage.ErrInvalidKey)
	}
	for _, k := range []string{"", "a/../b", "\xff"} {
		_, err := s.Get(t.Context(), k)
		wantErr(t, fmt.Sprintf("Get(%q)", k), err, storage.ErrInvalidKey)
	}
	// What the storage keeps for itself shows only to those who ask.
	if got := list(t, s, "_meta"); !slices.Contains(got, "_meta/schema") {
		t.Errorf("List(_meta) = %q lacks the schema version", got)
	}
}

func storeList(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	wantList(t, s, "")
	for _, k := range []string{"b", "a", "a/b", "a-b", "a.b", "a/c/d", "ab", "A", "é"} {
		put(t, s, k, "x")
	}
	wantList(t, s, "", "A", "a", "a-b", "a.b", "a/b", "a/c/d", "ab", "b", "é")
	wantList(t, s, "/", "A", "a", "a-b", "a.b", "a/b", "a/c/d", "ab", "b", "é")
	wantList(t, s, "a", "a", "a/b", "a/c/d")
	wantList(t, s, "/a", "a", "a/b", "a/c/d")
	wantList(t, s, "a/", "a/b", "a/c/d")
	wantList(t, s, "a/c", "a/c/d")
	wantList(t, s, "a/b", "a/b")
	wantList(t, s, "a/b/")
	wantList(t, s, "none")
	for _, err := range s.List(t.Context(), "a//b") {
		wantErr(t, "List of a bad prefix", err, storage.ErrInvalidKey)
	}
}

// storeListWhileWriting: what is there all the time is always listed, once.
func storeListWhileWriting(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	var stable []string
	for i := range 30 {
		stable = append(stable, fmt.Sprintf("d%d/stable%02d", i%3, i))
		put(t, s, stable[i], "x")
	}
	slices.Sort(stable)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				k := fmt.Sprintf("d%d/churn%d-%d", i%4, w, i%10)
				err := s.Put(t.Context(), k, []byte("y"))
				if err == nil && i%2 == 1 {
					err = s.Delete(t.Context(), k)
				}
				if err == nil {
					err = s.Put(t.Context(), stable[i%len(stable)], []byte("z"))
				}
				if err != nil {
					t.Errorf("writing: %v", err)
					return
				}
			}
		})
	}
	for range 10 {
		got := list(t, s, "")
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("List during writing is not sorted or repeats itself: %q", got)
		}
		got = slices.DeleteFunc(got, func(k string) bool { return strings.Contains(k, "churn") })
		if !slices.Equal(got, stable) {
			t.Errorf("List during writing = %q, want %q", got, stable)
		}
	}
	close(stop)
	wg.Wait()

	// The one who lists may write, too.
	for k, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		del(t, s, k)
	}
	wantList(t, s, "")
}

func storeDeletePrefix(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	for _, k := range []string{"a", "a/b", "a/c/d", "ab", "b/a"} {
		put(t, s, k, "x")
	}
	if n, err := s.DeletePrefix(t.Context(), "a"); n != 3 || err != nil {
		t.Errorf("DeletePrefix = %d, %v; want 3 keys", n, err)
	}
	wantList(t, s, "", "ab", "b/a")
	for _, p := range []string{"", "/"} {
		_, err := s.DeletePrefix(t.Context(), p)
		wantErr(t, "DeletePrefix of everything", err, storage.ErrInvalidKey)
	}
	wantList(t, s, "", "ab", "b/a")
}
