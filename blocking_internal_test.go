package dcrouter

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/blocklist"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// haltingBackend is a storage whose writes can be held up.
type haltingBackend struct {
	storage.Backend
	halt sync.RWMutex
}

func (b *haltingBackend) Put(ctx context.Context, key string, value []byte) error {
	b.halt.RLock()
	defer b.halt.RUnlock()
	return b.Backend.Put(ctx, key, value)
}

func (b *haltingBackend) Delete(ctx context.Context, key string) error {
	b.halt.RLock()
	defer b.halt.RUnlock()
	return b.Backend.Delete(ctx, key)
}

// startKeeper begins to keep so many blocks.
func startKeeper(t *testing.T, store *storage.Store, size int) *blocking {
	b := &blocking{log: slog.New(slog.DiscardHandler)}
	b.keeper.blocking = b
	b.set = blocklist.New(blocklist.Config{Events: 1, Within: time.Minute, Duration: time.Hour, MaxDuration: time.Hour, Size: size, Dropped: b.keeper.remove})
	b.keeper.use(store)
	if err := b.keeper.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// Blocks that a flood pushes out do not stay in the storage, however slow that is,
// and what a person does is not lost in it.
func TestFloodDoesNotFillTheStorage(t *testing.T) {
	testenv.Goroutines(t)
	backing := &haltingBackend{Backend: storage.Memory()}
	store, err := storage.Open(t.Context(), backing)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const size = 20_480
	b := startKeeper(t, store, size)
	next := uint32(0x0b000000)
	block := func(n int) {
		for range n {
			one, ok := b.set.Block(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, next))), CountProxy, "flood")
			if next++; ok {
				b.keeper.save(one)
			}
		}
	}
	pending := func() int {
		b.keeper.mu.Lock()
		defer b.keeper.mu.Unlock()
		return len(b.keeper.pending)
	}
	stored := func() {
		testenv.Await(t, "the storage of blocks", func() {
			for pending() > 0 {
				time.Sleep(time.Millisecond)
			}
		})
	}
	for next < 0x0b000000+size {
		block(maxPendingBlocks / 2)
		stored()
	}
	lifted := netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, next-1))), 32)
	late := netip.MustParsePrefix("192.0.2.2/32") // which another goroutine has pushed out already
	byHand := blocklist.Block{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Source: "admin", Since: time.Now()}

	backing.halt.Lock()
	block(5 * size)
	if err := b.set.Put(byHand); err != nil {
		t.Fatal(err)
	}
	b.keeper.save(byHand)
	_ = b.set.Lift(lifted) // unless it has been pushed out
	b.keeper.remove(lifted)
	if n := pending(); n < size/2 || n > maxPendingBlocks+size+1 {
		t.Errorf("%d changes wait", n)
	}
	backing.halt.Unlock()
	stored()
	b.keeper.save(blocklist.Block{Prefix: late, Source: CountProxy, Since: time.Now(), Until: time.Now().Add(time.Hour), Times: 1})
	block(100)
	if err := b.keeper.stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	kept, gone := map[netip.Prefix]bool{}, 0
	for key, err := range store.List(t.Context(), blocksPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		p, _ := blockOfKey(key)
		if kept[p] = true; !b.set.Blocked(p.Addr()) {
			gone++
		}
	}
	if len(kept) <= 100 || gone > 0 {
		t.Errorf("%d of %d blocks in the storage are of addresses that were pushed out", gone, len(kept))
	}
	if !kept[byHand.Prefix] || kept[lifted] {
		t.Error("what a person has done is lost")
	}
	b.keeper.mu.Lock()
	defer b.keeper.mu.Unlock()
	if len(b.keeper.stored) != len(kept) {
		t.Errorf("%d blocks are taken for stored, %d are", len(b.keeper.stored), len(kept))
	}
}

// silentBackend is a storage that does not tell of changes.
type silentBackend struct{ storage.Backend }

// brokenWatch is a storage that stops to tell of changes, but for the last time
// that it is asked to.
type brokenWatch struct {
	storage.Backend
	asked atomic.Int32
}

func (b *brokenWatch) Watch(ctx context.Context, prefix string) (iter.Seq2[storage.Event, error], error) {
	switch b.asked.Add(1) {
	case 1:
		return func(yield func(storage.Event, error) bool) { yield(storage.Event{}, errors.New("connection lost")) }, nil
	case 2:
		return nil, errors.New("no connection")
	}
	return b.Backend.(storage.Watcher).Watch(ctx, prefix)
}

// Routers share blocks also where the storage does not tell of changes, or no
// longer does: within a minute.
func TestBlocksAreSharedWithoutWatch(t *testing.T) {
	memory := storage.Memory()
	for name, backend := range map[string]storage.Backend{"silent": silentBackend{memory}, "broken": &brokenWatch{Backend: memory}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, err := storage.Open(t.Context(), backend)
				if err != nil {
					t.Fatal(err)
				}
				defer store.Close()
				other, err := storage.Open(t.Context(), silentBackend{memory})
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close()
				one, two := startKeeper(t, store, 1000), startKeeper(t, other, 1000)
				addr := netip.MustParseAddr("192.0.2.1")
				block, _ := two.set.Block(addr, CountProxy, "scan")
				two.keeper.save(block)
				time.Sleep(blockSweep + time.Second)
				if !one.set.Blocked(addr) {
					t.Error("a block is not shared")
				}
				if err := one.set.Lift(block.Prefix); err != nil {
					t.Error(err)
				}
				one.keeper.remove(block.Prefix)
				time.Sleep(blockSweep + time.Second)
				if two.set.Blocked(addr) {
					t.Error("its end is not shared")
				}
				if err := errors.Join(one.keeper.stop(t.Context()), two.keeper.stop(t.Context())); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
