package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/storage"
)

func backendMissing(t *testing.T, b storage.Backend) {
	openBackend(t, b)
	wantMissing(t, b, "a")
	wantMissing(t, b, "a/b")
	backendPut(t, b, "a/b", "x")
	wantMissing(t, b, "a")
	wantMissing(t, b, "a/b/c")
	if st, ok := b.(storage.Stater); ok {
		if _, err := st.Stat(t.Context(), "a"); !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat of a missing key: error %v, want ErrNotFound or fs.ErrNotExist", err)
		}
	}
}

// someValues are values that a backend may be tempted to change.
func someValues() map[string]string {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	large := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(large)
	return map[string]string{
		"empty":   "",
		"text":    "hello",
		"newline": "a\r\nb\n",
		"spaces":  "  x  ",
		"null":    "\x00",
		"binary":  string(all),
		"not-utf": "\xff\xfe\xc3\x28",
		"json":    `{"a": 1}`,
		"large":   string(large),
	}
}

func backendValues(t *testing.T, b storage.Backend) {
	openBackend(t, b)
	for name, v := range someValues() {
		backendPut(t, b, "values/"+name, v)
	}
	for name, v := range someValues() {
		wantValue(t, b, "values/"+name, v)
		backendPut(t, b, "values/"+name, "other")
		wantValue(t, b, "values/"+name, "other")
	}

	// Neither side holds on to the other's bytes.
	v := []byte("original")
	if err := b.Put(t.Context(), "own", v); err != nil {
		t.Fatal(err)
	}
	copy(v, "CHANGED!")
	wantValue(t, b, "own", "original")
	got, err := b.Get(t.Context(), "own")
	if err != nil {
		t.Fatal(err)
	}
	copy(got, "CHANGED!")
	wantValue(t, b, "own", "original")
}

func backendDelete(t *testing.T, b storage.Backend) {
	openBackend(t, b)
	del(t, b, "never/was")
	backendPut(t, b, "a", "1")
	backendPut(t, b, "a/b", "2")
	del(t, b, "a")
	wantMissing(t, b, "a")
	wantValue(t, b, "a/b", "2")
	wantList(t, b, "a", "a/b")
	del(t, b, "a")
	backendPut(t, b, "a", "3")
	del(t, b, "a/b")
	wantValue(t, b, "a", "3")
	wantList(t, b, "", "a")
	del(t, b, "a")
	wantList(t, b, "")
}

// backendAtomic reads while others write: every value read is whole.
func backendAtomic(t *testing.T, b storage.Backend) {
	openBackend(t, b)
	value := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, 1+(i*7919)%20000) }
	whole := func(v []byte) bool { return len(v) > 0 && len(bytes.Trim(v, string(v[:1]))) == 0 }
	backendPut(t, b, "shared", "x")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers, readers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			own := fmt.Sprintf("own/%d", w)
			for i := range 25 {
				if err := errors.Join(b.Put(t.Context(), "shared", value(w*25+i)), b.Put(t.Context(), own, value(i))); err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				if got, err := b.Get(t.Context(), own); err != nil || !bytes.Equal(got, value(i)) {
					t.Errorf("Get right after Put of the same key: %d bytes, error %v; want %d bytes", len(got), err, len(value(i)))
					return
				}
				if i%5 == 4 {
					if err := b.Delete(t.Context(), own); err != nil {
						t.Errorf("Delete: %v", err)
						return
					}
				}
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				if got, err := b.Get(t.Context(), "shared"); err != nil || !whole(got) {
					t.Errorf("Get during Put: %d bytes that are not one value, error %v", len(got), err)
					return
				}
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
}

func storeValues(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	for name, v := range someValues() {
		put(t, s, "/values/"+name, v) // a leading slash is accepted everywhere
		wantValue(t, s, "values/"+name, v)
		wantValue(t, s, "/values/"+name, v)
		// A host that looks at its own store finds the same bytes.
		wantValue(t, b, "values/"+name, v)
		info, err := s.Stat(t.Context(), "/values/"+name)
		if err != nil || info.Key != "values/"+name || info.Size != int64(len(v)) || !info.Expires.IsZero() {
			t.Errorf("Stat = %+v, %v", info, err)
		}
	}
	if err := s.Put(t.Context(), "nil", nil); err != nil {
		t.Fatal(err)
	}
	wantValue(t, s, "nil", "")

	_, err := s.Get(t.Context(), "missing")
	wantErr(t, "Get", err, storage.ErrNotFound)
	wantErr(t, "Get", err, fs.ErrNotExist)
	_, err = s.Stat(t.Context(), "missing")
	wantErr(t, "Stat", err, storage.ErrNotFound)
	_, err = s.GetItem(t.Context(), "missing")
	wantErr(t, "GetItem", err, storage.ErrNotFound)
	err = s.Put(t.Context(), "huge", make([]byte, storage.DefaultMaxValueSize+1))
	wantErr(t, "Put", err, storage.ErrTooLarge)
	wantMissing(t, s, "huge")
}

func storeCancel(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	put(t, s, "a", "1")
	put(t, s, "b", "2")
	it, err := s.GetItem(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, "a")
	_, statErr := s.Stat(ctx, "a")
	_, createErr := s.Create(ctx, "new", []byte("x"))
	_, casErr := s.CompareAndSwap(ctx, "a", it.Revision, []byte("x"))
	_, acquireErr := s.Acquire(ctx, "lease", 0)
	_, tryErr := s.TryAcquire(ctx, "lease", 0)
	var listErr, watchErr error
	for _, listErr = range s.List(ctx, "") {
	}
	for _, watchErr = range s.Watch(ctx, "") {
	}
	for what, err := range map[string]error{
		"Get": getErr, "Stat": statErr, "Create": createErr, "CompareAndSwap": casErr, "Acquire": acquireErr,
		"TryAcquire": tryErr, "List": listErr, "Watch": watchErr,
		"Put": s.Put(ctx, "a", []byte("x")), "Delete": s.Delete(ctx, "a"),
		"Update": s.Update(ctx, "a", func([]byte) ([]byte, error) { return nil, nil }),
	} {
		wantErr(t, what+" with a cancelled context", err, context.Canceled)
	}
	wantValue(t, s, "a", "1")
	wantList(t, s, "", "a", "b")

	// In the middle of an iteration too.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range s.List(ctx, "") {
		listErr = err
		n++
		cancel()
	}
	wantErr(t, "List cancelled in the middle", listErr, context.Canceled)
	if n != 2 {
		t.Errorf("List yielded %d times, want one key and one error", n)
	}
}

func storeReopen(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	want := []string{}
	for i := range 20 {
		k := fmt.Sprintf("dir%d/key%02d", i%3, i)
		put(t, s, k, strings.Repeat(k, i))
		want = append(want, k)
	}
	for i := 0; i < len(want); i += 4 {
		del(t, s, want[i])
		put(t, s, want[i+1], "again")
	}
	s = reopen(t, s, b)
	left := []string{}
	for i, k := range want {
		switch i % 4 {
		case 0:
			wantMissing(t, s, k)
			continue
		case 1:
			wantValue(t, s, k, "again")
		default:
			wantValue(t, s, k, strings.Repeat(k, i))
		}
		left = append(left, k)
	}
	slices.Sort(left)
	wantList(t, s, "", left...)

	// New and deleted keys next to the old ones.
	put(t, s, want[0], "back")
	put(t, s, "zzz", "new")
	del(t, s, want[1])
	s = reopen(t, s, b)
	wantValue(t, s, want[0], "back")
	wantValue(t, s, "zzz", "new")
	wantMissing(t, s, want[1])
	left = append(slices.DeleteFunc(left, func(k string) bool { return k == want[1] }), want[0], "zzz")
	slices.Sort(left)
	wantList(t, s, "", left...)
}

func storeClose(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	put(t, s, "a", "1")
	l, err := s.Acquire(t.Context(), "lease", 0)
	if err != nil {
		t.Fatal(err)
	}
	events := s.Watch(t.Context(), "")
	var closers sync.WaitGroup
	for range 3 { // at once, and again
		closers.Go(func() { closeStore(t, s) })
	}
	closers.Wait()
	closeStore(t, s)

	select {
	case <-l.Done():
	default:
		t.Error("a lease is still held after Close")
	}
	var watchErr, listErr error
	for _, watchErr = range events {
	}
	wantErr(t, "a Watch that was open", watchErr, storage.ErrClosed)
	for _, listErr = range s.List(t.Context(), "") {
	}
	_, getErr := s.Get(t.Context(), "a")
	_, createErr := s.Create(t.Context(), "b", nil)
	_, acquireErr := s.Acquire(t.Context(), "other", 0)
	for what, err := range map[string]error{
		"Get": getErr, "Create": createErr, "Acquire": acquireErr, "List": listErr,
		"Put": s.Put(t.Context(), "a", nil), "Delete": s.Delete(t.Context(), "a"),
	} {
		wantErr(t, what+" after Close", err, storage.ErrClosed)
	}
}

func storeMigrate(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	other := openStore(t, storage.Memory())
	put(t, s, "a", "1")
	put(t, s, "a/b", "2")
	put(t, s, "c", "3", storage.TTL(patience*100))
	rep, err := storage.Migrate(t.Context(), s, other, storage.MigrateOptions{})
	if err != nil || rep.Keys != 3 || rep.Copied != 3 {
		t.Fatalf("Migrate = %+v, %v", rep, err)
	}
	wantList(t, other, "", "a", "a/b", "c")
	if it, err := other.GetItem(t.Context(), "c"); err != nil || it.Expires.IsZero() {
		t.Errorf("the time of expiry was not migrated: %+v, %v", it, err)
	}

	put(t, other, "a", "changed")
	_, err = storage.Migrate(t.Context(), other, s, storage.MigrateOptions{})
	wantErr(t, "Migrate onto a different value", err, storage.ErrExists)
	wantValue(t, s, "a", "1")
	rep, err = storage.Migrate(t.Context(), other, s, storage.MigrateOptions{Overwrite: true})
	if err != nil || rep.Same != 2 || rep.Overwritten != 1 {
		t.Fatalf("Migrate = %+v, %v", rep, err)
	}
	wantValue(t, s, "a", "changed")
}
