package storagetest

import (
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// Long enough for a slow machine to look before it is over.
const shortTTL = 400 * time.Millisecond

func sleepUntil(t time.Time) { time.Sleep(time.Until(t) + 20*time.Millisecond) }

func storeTTL(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	err := s.Put(t.Context(), "k", []byte("x"), storage.TTL(0))
	if err == nil {
		t.Error("Put with a TTL of 0 succeeds")
	}
	wantMissing(t, s, "k")

	start := time.Now()
	put(t, s, "k", "x", storage.TTL(shortTTL))
	put(t, s, "stays", "y")
	it, err := s.GetItem(t.Context(), "k")
	if time.Since(start) < shortTTL {
		if err != nil || string(it.Value) != "x" {
			t.Fatalf("GetItem before the time is over: %+v, %v", it, err)
		}
		if d := it.Expires.Sub(start); d < shortTTL/2 || d > shortTTL+patience {
			t.Errorf("the value expires %v after Put, want %v", d, shortTTL)
		}
	}
	wantValue(t, b, "stays", "y")
	sleepUntil(time.Now().Add(shortTTL))
	wantMissing(t, s, "k")
	wantList(t, s, "", "stays")
	_, err = s.Stat(t.Context(), "k")
	wantErr(t, "Stat of an expired value", err, storage.ErrNotFound)
	_, err = s.CompareAndSwap(t.Context(), "k", it.Revision, []byte("x"))
	wantErr(t, "CompareAndSwap of an expired value", err, storage.ErrConflict)
	if _, err := s.Create(t.Context(), "k", []byte("x")); err != nil {
		t.Errorf("Create over an expired value: %v", err)
	}
	wantValue(t, s, "k", "x")

	put(t, s, "past", "x")
	put(t, s, "past", "y", storage.Until(time.Now().Add(-time.Hour)))
	wantMissing(t, s, "past")
}

// storeTTLReplaced: the last write decides, also if it writes the same bytes.
func storeTTLReplaced(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	put(t, s, "to-permanent", "a", storage.TTL(shortTTL))
	put(t, s, "to-permanent", "b")
	put(t, s, "to-permanent-same", "a", storage.TTL(shortTTL))
	put(t, s, "to-permanent-same", "a")
	put(t, s, "longer", "a", storage.TTL(shortTTL))
	put(t, s, "longer", "a", storage.TTL(time.Hour))
	put(t, s, "longer-other", "a", storage.TTL(shortTTL))
	put(t, s, "longer-other", "b", storage.TTL(time.Hour))
	put(t, s, "shorter", "a", storage.TTL(time.Hour))
	put(t, s, "shorter", "a", storage.TTL(shortTTL))
	put(t, s, "to-ttl", "a")
	put(t, s, "to-ttl", "a", storage.TTL(shortTTL))
	put(t, s, "back", "a", storage.TTL(shortTTL))
	put(t, s, "back", "b", storage.TTL(time.Hour))
	put(t, s, "back", "a")
	put(t, s, "deleted", "a", storage.TTL(shortTTL))
	del(t, s, "deleted")
	put(t, s, "deleted", "a")
	put(t, s, "swapped", "a", storage.TTL(time.Hour))
	if _, err := s.CompareAndSwap(t.Context(), "swapped", item(t, s, "swapped").Revision, []byte("a")); err != nil {
		t.Fatal(err)
	}
	if it := item(t, s, "swapped"); !it.Expires.IsZero() {
		t.Errorf("after CompareAndSwap the value expires at %v, want never", it.Expires)
	}
	sleepUntil(time.Now().Add(shortTTL))
	check := func() {
		t.Helper()
		wantList(t, s, "", "back", "deleted", "longer", "longer-other", "swapped", "to-permanent", "to-permanent-same")
		for k, v := range map[string]string{
			"back": "a", "deleted": "a", "longer": "a", "longer-other": "b", "swapped": "a", "to-permanent": "b", "to-permanent-same": "a",
		} {
			wantValue(t, s, k, v)
		}
		for _, k := range []string{"shorter", "to-ttl"} {
			wantMissing(t, s, k)
		}
	}
	check()
	s = reopen(t, s, b)
	check()
}

func storeTTLReopen(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	put(t, s, "short", "x", storage.TTL(2*shortTTL))
	put(t, s, "long", "x", storage.TTL(time.Hour))
	end := time.Now().Add(2 * shortTTL)
	s = reopen(t, s, b)
	if it, err := s.GetItem(t.Context(), "short"); time.Now().Before(end.Add(-shortTTL)) && (err != nil || it.Expires.IsZero()) {
		t.Errorf("after a restart, before its time is over: %+v, %v", it, err)
	}
	if it := item(t, s, "long"); time.Until(it.Expires) < 50*time.Minute {
		t.Errorf("after a restart: %+v", it)
	}
	sleepUntil(end)
	wantMissing(t, s, "short")
	wantList(t, s, "", "long")

	// Over while nobody was there.
	put(t, s, "other", "x", storage.TTL(shortTTL))
	closeStore(t, s)
	sleepUntil(time.Now().Add(shortTTL))
	s = openStore(t, b)
	wantMissing(t, s, "other")
	wantList(t, s, "", "long")
}
