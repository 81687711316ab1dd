package dcrouter

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// Blocks that a flood pushes out do not pile up in the storage.
func TestFloodDoesNotFillTheStorage(t *testing.T) {
	testenv.Goroutines(t)
	backing := storage.Memory()
	r, err := New(WithConfig(Config{Blocking: &BlockingConfig{Events: 1}}), WithStorage(backing))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const flood = 120_000
	for n := range uint32(flood) {
		r.punish(misdeed{by: CountProxy, addr: netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x0b000000+n)))})
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.blocking.set.Stats().Active; n >= flood {
		t.Errorf("%d blocks", n)
	}
	store, err := storage.Open(t.Context(), backing)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	kept, gone := 0, 0
	for key, err := range store.List(t.Context(), blocksPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		p, _ := blockOfKey(key)
		if kept++; !r.blocking.set.Blocked(p.Addr()) {
			gone++
		}
	}
	if kept == 0 || gone > 0 {
		t.Errorf("%d of %d blocks in the storage are of addresses that were pushed out", gone, kept)
	}
}
