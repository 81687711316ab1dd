package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func fill(t *testing.T, s *Store, n int) {
	t.Helper()
	for i := range n {
		mustPut(t, s, fmt.Sprintf("d%d/k%d", i%2, i), fmt.Sprint("value ", i))
	}
}

func TestMigrate(t *testing.T) {
	src, dst := mustOpen(t, Memory()), mustOpen(t, Dir(t.TempDir()))
	fill(t, src, 10)
	mustPut(t, src, "expires", "x", TTL(time.Hour))

	rep, err := Migrate(t.Context(), src, dst, MigrateOptions{DryRun: true})
	if want := (MigrateReport{Keys: 11, Copied: 11, Bytes: 71}); rep != want || err != nil {
		t.Errorf("dry run: %+v, %v; want %+v", rep, err, want)
	}
	for k := range dst.List(t.Context(), "") {
		t.Errorf("a dry run wrote %q", k)
	}

	// Interrupted in the middle of copying.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	steps := map[string]int{}
	_, err = Migrate(ctx, src, dst, MigrateOptions{Progress: func(p MigrateProgress) {
		if steps[p.Phase]++; p.Done != steps[p.Phase] || p.Total != 11 || p.Key == "" {
			t.Errorf("progress %+v is step %d", p, steps[p.Phase])
		}
		if p.Phase == "copy" && p.Done == 4 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || steps["compare"] != 11 || steps["copy"] != 4 {
		t.Fatalf("interrupted: %v after %v", err, steps)
	}
	rep, err = Migrate(t.Context(), src, dst, MigrateOptions{})
	if rep.Same != 4 || rep.Copied != 7 || err != nil {
		t.Errorf("resumed: %+v, %v", rep, err)
	}
	wantGet(t, dst, "d1/k9", "value 9")
	if it, err := dst.GetItem(t.Context(), "expires"); err != nil || time.Until(it.Expires) < 59*time.Minute {
		t.Errorf("%+v, %v", it, err)
	}

	// Only a part, and what differs.
	mustPut(t, src, "d0/k0", "new")
	mustPut(t, src, "d1/k1", "new")
	rep, err = Migrate(t.Context(), src, dst, MigrateOptions{Prefix: "d0"})
	var conflict *MigrateConflictError
	if !errors.As(err, &conflict) || !errors.Is(err, ErrExists) || conflict.Total != 1 || conflict.Keys[0] != "d0/k0" {
		t.Errorf("conflict: %+v, %v", rep, err)
	}
	wantGet(t, dst, "d0/k0", "value 0")
	rep, err = Migrate(t.Context(), src, dst, MigrateOptions{Prefix: "d0", Overwrite: true})
	if rep.Overwritten != 1 || rep.Same != 4 || err != nil {
		t.Errorf("overwrite: %+v, %v", rep, err)
	}
	wantGet(t, dst, "d0/k0", "new")
	wantGet(t, dst, "d1/k1", "value 1")
}

// TestMigrateVerifies: a destination that does not keep what it is given.
func TestMigrateVerifies(t *testing.T) {
	h := &mortalHost{values: map[string][]byte{}, left: -1}
	broken := Funcs(h.read, func(ctx context.Context, key string, value []byte) error {
		return h.write(ctx, key, []byte(strings.ToUpper(string(value))))
	}, WithList(h.list))
	src, dst := mustOpen(t, Memory()), mustOpen(t, broken)
	mustPut(t, src, "a", "lower")
	if _, err := Migrate(t.Context(), src, dst, MigrateOptions{}); err == nil || !strings.Contains(err.Error(), "storagetest") {
		t.Errorf("Migrate: %v", err)
	}
}

func TestMigrateFence(t *testing.T) {
	hosts := []*mortalHost{{values: map[string][]byte{}, left: -1}, {values: map[string][]byte{}, left: -1}}
	src, dst := mustOpen(t, four{hosts[0]}), mustOpen(t, four{hosts[1]})
	var last uint64
	for range 2*fenceBlock + 1 {
		l, err := src.Acquire(t.Context(), "l", 0)
		if err != nil {
			t.Fatal(err)
		}
		last = l.Token()
		l.Release(t.Context())
	}
	if _, err := Migrate(t.Context(), src, dst, MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	dst.Close()
	dst = mustOpen(t, four{hosts[1]})
	l, err := dst.Acquire(t.Context(), "l", 0)
	if err != nil || l.Token() <= last {
		t.Errorf("token %d after the migration, %d before; %v", l.Token(), last, err)
	}
}

func TestMigrateFrom(t *testing.T) {
	old, h := Memory(), &mortalHost{values: map[string][]byte{}, left: -1}
	o := mustOpen(t, old)
	fill(t, o, 10)
	o.Close()

	h.left = 7 // dies on the way
	if _, err := Open(t.Context(), four{h}, MigrateFrom(old)); !errors.Is(err, errDied) {
		t.Fatalf("Open: %v", err)
	}
	h.left = -1
	s := mustOpen(t, four{h}, MigrateFrom(old))
	wantGet(t, s, "d1/k9", "value 9")
	mustPut(t, s, "d1/k9", "changed")
	if err := s.Delete(t.Context(), "d0/k0"); err != nil {
		t.Fatal(err)
	}
	s.Close()

	// Only once: what was deleted does not come back, and old is not needed.
	s = mustOpen(t, four{h}, MigrateFrom(Dir("")))
	wantGet(t, s, "d1/k9", "changed")
	wantGone(t, s, "d0/k0")

	// A backend that has other data is left alone.
	h2 := &mortalHost{values: map[string][]byte{"d0/k0": []byte("mine")}, left: -1}
	if _, err := Open(t.Context(), four{h2}, MigrateFrom(old)); !errors.Is(err, ErrExists) {
		t.Errorf("Open: %v", err)
	}
	if string(h2.values["d0/k0"]) != "mine" || len(h2.values) != 2 {
		t.Errorf("after a refused migration: %q", h2.values)
	}

	// And old is only read.
	h3 := &mortalHost{values: map[string][]byte{"a": []byte("x")}, left: 0}
	wantGet(t, mustOpen(t, Memory(), MigrateFrom(four{h3})), "a", "x")
}
