package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// A record of a type that has no text of its own is there after a restart, and
// can be taken out.
func TestUnknownTypesAreKept(t *testing.T) {
	store := memory(t)
	cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
	zs, _ := openZones(t, store, cfg)
	tx := new(Tx)
	tx.Add(Record{Name: "x.example.com", Type: "NULL", Value: `\# 3 0a0d3b`}, Record{Name: "x.example.com", Type: "TYPE65280", Value: `\# 1 00`})
	if err := zs.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	zs, r := openZones(t, store, cfg)
	for _, rtype := range []uint16{dns.TypeNULL, 65280} {
		if m := answerTo(t, r, new(dns.Msg).SetQuestion("x.example.com.", rtype), overUDP); len(m.Answer) != 1 {
			t.Error(m)
		}
	}
	tx = new(Tx)
	for rec := range zs.sorted()[0].ref.current.Load().records() {
		if rec.name == "\x01x\x07example\x03com\x00" {
			tx.Remove(rec.public())
		}
	}
	if err := zs.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, r, "x.example.com.", dns.TypeNULL, "NXDOMAIN")
}

// Changes of a zone do not wait until old ones have been deleted, and what was
// left over is deleted the next time.
func TestFoldingInTheBackground(t *testing.T) {
	deleting, goOn := make(chan bool), make(chan bool)
	var once sync.Once
	values := storage.Memory()
	store, err := storage.Open(t.Context(), hookedBackend{values, func() {
		once.Do(func() {
			deleting <- true
			<-goOn
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	zs, r := openZones(t, store, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}})
	z := zs.sorted()[0]
	set := func(i int) {
		tx := new(Tx)
		tx.Set(Record{Name: "x.example.com", Type: "TXT", Value: fmt.Sprint(i)})
		if err := zs.update(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
	}
	for i := range foldAfter + 1 {
		set(i)
	}
	if err := store.Put(t.Context(), z.journal.part(0, 7), []byte("left over")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- z.foldLong(t.Context()) }()
	<-deleting
	set(-1)
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantLookup(t, r, "x.example.com.", dns.TypeTXT, "x.example.com. 3600 in txt \"-1\"")
	count := 0
	for key := range store.List(t.Context(), "dns/zones/example.com") {
		t.Log(key)
		count++
	}
	if count != 3 { // the state, a part and the last change
		t.Errorf("%d values", count)
	}
}

// hookedBackend says when something is deleted.
type hookedBackend struct {
	storage.Backend
	deletes func()
}

func (b hookedBackend) Delete(ctx context.Context, key string) error {
	b.deletes()
	return b.Backend.Delete(ctx, key)
}

// A change that the storage has kept, but said that it has not, is not brought
// back by a reload, and does not stand in the way of the one after it.
func TestChangeOfUnknownFate(t *testing.T) {
	failing := false
	store, err := storage.Open(t.Context(), unsureBackend{storage.Memory(), &failing})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
	zs, r := openZones(t, store, cfg)
	z := zs.sorted()[0]
	add := func(name string) error {
		tx := new(Tx)
		tx.Add(Record{Name: name + ".example.com", Type: "A", Value: "192.0.2.1", TTL: 60})
		return zs.update(t.Context(), tx)
	}
	if err := add("first"); err != nil {
		t.Fatal(err)
	}
	failing = true
	if add("unsure") == nil {
		t.Fatal("no error")
	}
	failing = false
	if err := zs.reload(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, r, "unsure.example.com.", dns.TypeA, "NXDOMAIN")
	if err := z.journal.fold(t.Context(), z.journal.state.Base, 11); err != nil {
		t.Fatal(err)
	}
	if err := add("last"); err != nil {
		t.Fatal(err)
	}
	_, r = openZones(t, store, cfg)
	wantLookup(t, r, "first.example.com.", dns.TypeA, "first.example.com. 60 in a 192.0.2.1")
	wantLookup(t, r, "unsure.example.com.", dns.TypeA, "NXDOMAIN")
	wantLookup(t, r, "last.example.com.", dns.TypeA, "last.example.com. 60 in a 192.0.2.1")
}

// unsureBackend writes, and says that it has not.
type unsureBackend struct {
	storage.Backend
	failing *bool
}

func (b unsureBackend) Put(ctx context.Context, key string, value []byte) error {
	err := b.Backend.Put(ctx, key, value)
	if *b.failing {
		err = errors.New("no answer")
	}
	return err
}
