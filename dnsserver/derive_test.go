package dnsserver

import (
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/storage"
)

// Derived records are served at once, do not outlast a restart or a reload, and
// keep nobody from saying something else in the file; who has made them is told.
func TestDerive(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Dir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var mu sync.Mutex
	told := 0
	file := zoneFile(t, exampleZone)
	cfg := Config{Zones: []Zone{{Name: "example.com", File: file}}}
	changed := WithZoneChanged(func(zone string) {
		mu.Lock()
		defer mu.Unlock()
		if zone == "example.com." {
			told++
		}
	})
	expect := func(s *Server, name, want string, news bool) {
		t.Helper()
		list, err := s.Lookup(name, "TXT")
		var got []string
		for _, r := range list {
			got = append(got, r.Value)
		}
		if err != nil || !slices.Equal(got, []string{want}) && (want != "" || got != nil) {
			t.Errorf("%s: %q, %v, want %s", name, got, err, want)
		}
		mu.Lock()
		defer mu.Unlock()
		if (told > 0) != news {
			t.Errorf("%s: told %d times", name, told)
		}
		told = 0
	}
	s := start(t, cfg, WithStorage(store), changed)
	expect(s, "example.com", "", true)
	tx := new(Tx)
	tx.Set(Record{Name: "example.com", Type: "TXT", Value: "derived"}, Record{Name: "other.example.com", Type: "TXT", Value: "derived"})
	if err := s.Derive(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	expect(s, "example.com", `"derived"`, true)
	tx = new(Tx)
	tx.Set(Record{Name: "kept.example.com", Type: "TXT", Value: "kept"})
	if err := s.Update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	expect(s, "kept.example.com", `"kept"`, true)
	if err := os.WriteFile(file, []byte(exampleZone+"\n@ TXT written\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(s, "example.com", `"written"`, true)
	expect(s, "other.example.com", "", false)
	tx = new(Tx)
	tx.Remove(Record{Name: "example.com", Type: "TXT"})
	if err := s.Derive(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	expect(s, "example.com", "", true)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg, WithStorage(store), changed)
	expect(s, "example.com", `"written"`, true)
	expect(s, "kept.example.com", `"kept"`, false)
}
