package dnsserver

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// A zone that the server signs stays valid through changes, reloads, restarts
// and the beginning of a rollover, with the keys of the first start.
func TestServerSigns(t *testing.T) {
	testenv.Goroutines(t)
	tool := testenv.Need(t, "delv", "apt install bind9-dnsutils")
	dir := t.TempDir()
	store, err := storage.Open(t.Context(), storage.Dir(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	cfg := Config{
		Records: []Record{{Name: "www.example.net", Type: "A", Value: "192.0.2.7"}},
		Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone), DNSSEC: &DNSSEC{}},
			{Name: "example.net", DNSSEC: &DNSSEC{Denial: denialNSEC3, Algorithm: algorithmEd25519}}},
	}
	s := start(t, cfg, WithStorage(store))
	signer, err := s.signer("example.com")
	if err != nil {
		t.Fatal(err)
	}
	anchors := trustAnchor(t, signer)
	valid := func(name, rtype, want string) {
		t.Helper()
		if got := delv(t, tool, addr(t, s, "udp"), anchors, "example.com", name, rtype); !strings.Contains(got, want) {
			t.Errorf("%s %s: no %q in\n%s", name, rtype, want, got)
		}
	}
	all := func() {
		t.Helper()
		valid("www.example.com", "A", "; fully validated")
		valid("nobody.example.com", "A", "; negative response, fully validated")
		valid("web.example.com", "MX", "; negative response, fully validated")
	}
	all()
	tx := new(Tx)
	tx.Set(Record{Name: "web.example.com", Type: "A", Value: "192.0.2.99"})
	tx.Add(Record{Name: "new.deep.example.com", Type: "TXT", Value: "hello"})
	if err := s.Update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	all()
	valid("web.example.com", "A", "192.0.2.99")
	valid("new.deep.example.com", "TXT", "; fully validated")
	valid("deep.example.com", "TXT", "; negative response, fully validated")

	before := s.Zones()[0].Serial
	stop(t, s)
	mustStart(t, s)
	if after := s.Zones()[0].Serial; !serialAfter(after, before) {
		t.Errorf("serial %d after %d, with other signatures", after, before)
	}
	all()
	valid("web.example.com", "A", "192.0.2.99")

	keys, err := s.Keys("example.com")
	if err != nil || len(keys) != 2 {
		t.Fatalf("%v, %v", keys, err)
	}
	if ds, err := s.DS("example.com"); err != nil || len(ds) != 1 || !strings.HasPrefix(ds[0], "example.com. IN DS ") {
		t.Errorf("%q, %v", ds, err)
	}
	// A new key signs beside the old one as soon as the zone is published again.
	if err := s.WithdrawDS(t.Context(), "example.com", true); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "CDS says that there is to be no DS", func() bool {
		return strings.Contains(dig(t, s, "example.com", "CDS", "+short"), "0 0 0 00")
	})
	if err := s.WithdrawDS(t.Context(), "example.com", false); err != nil {
		t.Fatal(err)
	}
	if err := s.ConfirmDS(t.Context(), "example.com", 1); err == nil {
		t.Error("a key that is not there was confirmed")
	}
	if err := s.RollKSK(t.Context(), "example.org"); err == nil {
		t.Error("a zone that is not there got a key")
	}
	waitUntil(t, "CDS is as it was", func() bool {
		return !strings.Contains(dig(t, s, "example.com", "CDS", "+short"), "0 0 0 00")
	})
	all()
	valid("example.com", "DNSKEY", "; fully validated")

	// Private keys are nobody else's.
	found := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, "keys") && !d.IsDir() {
			found++
			if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
		return err
	})
	if err != nil || found != 4 {
		t.Errorf("%d keys, %v", found, err)
	}
}

func TestWithParentDS(t *testing.T) {
	ask := func(_ context.Context, zone string) ([]string, error) {
		if zone != "example.com." {
			return nil, errors.New("another zone")
		}
		return []string{"1 13 2 0A0b"}, nil
	}
	s := start(t, Config{Zones: []Zone{{Name: "example.com", DNSSEC: &DNSSEC{}}}}, WithParentDS(ask))
	signer, err := s.signer("example.com")
	if err != nil {
		t.Fatal(err)
	}
	if list, err := signer.parentDS(t.Context(), "example.com."); err != nil || len(list) != 1 {
		t.Errorf("%q, %v", list, err)
	}
}

// The zone above is asked, where the host says how.
func TestPackDS(t *testing.T) {
	ask := func(context.Context, string) ([]string, error) { return []string{"1 13 2 0A0b"}, nil }
	if list, err := packDS(t.Context(), ask, "a."); err != nil || len(list) != 1 || list[0] != "\x00\x01\x0d\x02\x0a\x0b" {
		t.Errorf("%q, %v", list, err)
	}
	ask = func(context.Context, string) ([]string, error) { return []string{"nonsense"}, nil }
	if _, err := packDS(t.Context(), ask, "a."); err == nil {
		t.Error("nonsense was taken")
	}
}
