package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

func TestFuncsWrites(t *testing.T) {
	h := &mortalHost{values: map[string][]byte{}, left: -1}
	s := mustOpen(t, Funcs(h.read, h.write))
	writes := func(do func() error) int {
		t.Helper()
		before := h.writes
		if err := do(); err != nil {
			t.Fatal(err)
		}
		return h.writes - before
	}
	put := func() error { return s.Put(t.Context(), "a/b", []byte("x")) }
	del := func() error { return s.Delete(t.Context(), "a/b") }
	if n := writes(put); n != 2 {
		t.Errorf("the first Put of a key is %d writes, want index and value", n)
	}
	if n := writes(put); n != 1 {
		t.Errorf("a further Put is %d writes, want 1", n)
	}
	if string(h.values["a/b"]) != "x" {
		t.Errorf("the host has %q", h.values["a/b"])
	}
	if n := writes(del); n != 1 {
		t.Errorf("Delete is %d writes, want 1", n)
	}
	if n := writes(del); n != 0 {
		t.Errorf("Delete of nothing is %d writes, want 0", n)
	}
	if n := writes(func() error { return s.Delete(t.Context(), "never/was") }); n != 0 {
		t.Errorf("Delete of what never was is %d writes, want 0", n)
	}
	if err := s.Put(t.Context(), "a/b", []byte(tombstone)); !errors.Is(err, ErrInvalidValue) {
		t.Errorf("Put of a tombstone: %v", err)
	}
	wantGone(t, s, "a/b")
}

// TestFuncsIndexShrinks: the index does not keep the dead for ever, and loses
// none of the living.
func TestFuncsIndexShrinks(t *testing.T) {
	h := &mortalHost{values: map[string][]byte{}, left: -1}
	s := mustOpen(t, Funcs(h.read, h.write, WithDelete(h.delete)))
	const n = 64 * 50
	for i := range n {
		mustPut(t, s, fmt.Sprintf("gone/%d", i), "x")
		if i%100 == 0 {
			mustPut(t, s, fmt.Sprintf("stays/%d", i), "x")
		}
	}
	if deleted, err := s.DeletePrefix(t.Context(), "gone"); deleted != n || err != nil {
		t.Fatalf("DeletePrefix = %d, %v", deleted, err)
	}
	inIndex := 0
	for k, v := range h.values {
		if MatchPrefix(k, indexRoot) {
			inIndex += strings.Count(string(v), "gone/")
		}
	}
	if inIndex > n {
		t.Errorf("the index still has all keys")
	}
	if inIndex > 64*40 {
		t.Errorf("the index has %d keys that are gone", inIndex)
	}
	s.Close()
	s = mustOpen(t, Funcs(h.read, h.write, WithDelete(h.delete)))
	got := 0
	for k, err := range s.List(t.Context(), "") {
		if err != nil || !strings.HasPrefix(k, "stays/") {
			t.Fatalf("List yields %q, %v", k, err)
		}
		got++
	}
	if got != n/100 {
		t.Errorf("List yields %d keys, want %d", got, n/100)
	}
}

func TestFuncsIndexCorrupt(t *testing.T) {
	for record, want := range map[string]error{"": ErrCorrupt, "{": ErrCorrupt, `{"version":2}`: ErrSchema} {
		h := &mortalHost{values: map[string][]byte{}, left: -1}
		b := Funcs(h.read, h.write)
		name := b.(*funcs).index.shardOf("b").name
		h.values[name] = []byte(record)
		err := b.Put(t.Context(), "b", nil)
		_, openErr := Open(t.Context(), b)
		if !errors.Is(err, want) || !errors.Is(openErr, want) || !strings.Contains(err.Error(), name) {
			t.Errorf("Put with the index record %q: %v; want %v and the key of the record", record, err, want)
		}
		if string(h.values[name]) != record {
			t.Errorf("the broken index was overwritten: %q", h.values[name])
		}
	}
}

// TestFuncsMissing: all the ways in which a host says that there is nothing,
// and an error that is none of them.
func TestFuncsMissing(t *testing.T) {
	down := errors.New("database down")
	for what, c := range map[string]struct {
		read ReadFunc
		want error
	}{
		"nil, nil":     {func(context.Context, string) ([]byte, error) { return nil, nil }, ErrNotFound},
		"ErrNotFound":  {func(context.Context, string) ([]byte, error) { return nil, ErrNotFound }, ErrNotFound},
		"ErrNotExist":  {func(context.Context, string) ([]byte, error) { return nil, fs.ErrNotExist }, ErrNotFound},
		"wrapped":      {func(context.Context, string) ([]byte, error) { return nil, fmt.Errorf("x: %w", fs.ErrNotExist) }, ErrNotFound},
		"other error":  {func(context.Context, string) ([]byte, error) { return nil, down }, down},
		"empty, there": {func(context.Context, string) ([]byte, error) { return []byte{}, nil }, nil},
	} {
		_, err := Funcs(c.read, nil).Get(t.Context(), "a")
		if !errors.Is(err, c.want) || (c.want == down && errors.Is(err, ErrNotFound)) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

// TestFuncsDirtyList: a list function that says more than it should.
func TestFuncsDirtyList(t *testing.T) {
	h := &mortalHost{values: map[string][]byte{}, left: -1}
	list := func(context.Context, string) ([]string, error) {
		return []string{"b", "/a", "a", "b", "a//x", "", "/", "_meta/index/00", "..", "ab\x00"}, nil
	}
	s := mustOpen(t, Funcs(h.read, h.write, WithList(list), WithDelete(h.delete)))
	var got []string
	for k, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, k)
	}
	if want := []string{"a", "b"}; !slices.Equal(got, want) {
		t.Errorf("List = %q, want %q", got, want)
	}
}
