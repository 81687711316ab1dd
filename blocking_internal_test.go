package dcrouter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/blocklist"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/storage"
)

// blockedAddr is an address that is blocked.
var blockedAddr = netip.MustParseAddr("192.0.2.1")

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
	b.set = blocklist.New(blocklist.Config{Events: 1, Within: time.Minute, Duration: time.Hour, MaxDuration: time.Hour, Size: size, Evicted: b.keeper.drop})
	b.keeper.use(store)
	if err := b.keeper.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *blocking) pending() int {
	b.keeper.mu.Lock()
	defer b.keeper.mu.Unlock()
	return len(b.keeper.pending)
}

// written waits until all changes are.
func (b *blocking) written(t *testing.T) {
	t.Helper()
	testenv.Await(t, "the storage of blocks", func() {
		for b.pending() > 0 {
			time.Sleep(time.Millisecond)
		}
		b.keeper.io.Lock() // the last one
		defer b.keeper.io.Unlock()
	})
}

// openKeeper begins to keep some blocks in a backend until the test ends.
func openKeeper(t *testing.T, backend storage.Backend) *blocking {
	store, err := storage.Open(t.Context(), backend)
	if err != nil {
		t.Fatal(err)
	}
	b := startKeeper(t, store, 100_000)
	t.Cleanup(func() {
		if err := errors.Join(b.keeper.stop(context.Background()), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// fullBackend is a storage of which writes fail, while it is full.
type fullBackend struct {
	storage.Backend
	full atomic.Bool
}

func (b *fullBackend) Put(ctx context.Context, key string, value []byte) error {
	if b.full.Load() {
		return errors.New("no space left on device")
	}
	return b.Backend.Put(ctx, key, value)
}

func (b *fullBackend) Delete(ctx context.Context, key string) error {
	if b.full.Load() {
		return errors.New("no space left on device")
	}
	return b.Backend.Delete(ctx, key)
}

// A person is told that a block is made or lifted when that is kept, and else that it
// is not, which does not end the trying.
func TestBlocksByHandAreKeptWhenThatIsSaid(t *testing.T) {
	backend := &fullBackend{Backend: storage.Memory()}
	b := openKeeper(t, backend)
	o, ctx := opsBlocks{&Router{blocking: b, log: b.log}}, t.Context()
	kept := func(address string) bool {
		p, err := blocklist.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		_, err = backend.Get(ctx, blockKey(p))
		return err == nil
	}
	for _, address := range []string{"192.0.2.1", "2001:db8::1", "198.51.100.0/24"} {
		block := opsapi.Block{Address: address, Source: "operator", Since: time.Now()}
		if err := o.AddBlock(ctx, block); err != nil || !kept(address) {
			t.Errorf("%s is added, %v, and kept: %t", address, err, kept(address))
		}
		backend.full.Store(true)
		if err := o.RemoveBlock(ctx, address); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%s is lifted: %v", address, err)
		}
		if err := o.AddBlock(ctx, block); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%s is added: %v", address, err)
		}
		backend.full.Store(false)
		if err := o.RemoveBlock(ctx, address); err != nil || kept(address) {
			t.Errorf("%s is lifted, %v, and kept: %t", address, err, kept(address))
		}
	}
	backend.full.Store(true)
	if err := o.AddBlock(ctx, opsapi.Block{Address: "203.0.113.1", Source: "operator", Since: time.Now()}); err == nil {
		t.Error("it is kept")
	}
	backend.full.Store(false)
	b.keeper.save(blocklist.Block{Prefix: netip.MustParsePrefix("203.0.113.2/32")})
	b.written(t)
	if !kept("203.0.113.1") {
		t.Error("it was not tried again")
	}
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
	for next < 0x0b000000+size {
		block(maxPendingBlocks / 2)
		b.written(t)
	}
	late := netip.MustParsePrefix("192.0.2.2/32") // which another goroutine has pushed out already
	byHand := blocklist.Block{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Source: "admin", Since: time.Now()}

	backing.halt.Lock()
	lifted := netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, next-1))), 32)
	if err := b.set.Lift(lifted); err != nil {
		t.Fatal(err)
	}
	b.keeper.remove(lifted)
	block(5 * size)
	if err := b.set.Put(byHand); err != nil {
		t.Fatal(err)
	}
	b.keeper.save(byHand)
	if n := b.pending(); n < size/2 || n > maxPendingBlocks+size+1 {
		t.Errorf("%d changes wait", n)
	}
	backing.halt.Unlock()
	b.written(t)
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

// silentBackend is a storage that Routers share and that does not tell of changes.
type silentBackend struct {
	storage.Backend
	storage.Leaser
}

func silent(b storage.Backend) silentBackend { return silentBackend{b, b.(storage.Leaser)} }

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
	for name, backend := range map[string]storage.Backend{"silent": silent(memory), "broken": &brokenWatch{Backend: memory}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one, two := openKeeper(t, backend), openKeeper(t, silent(memory))
				block, _ := two.set.Block(blockedAddr, CountProxy, "scan")
				two.keeper.save(block)
				time.Sleep(blockSweep + time.Second)
				if !one.set.Blocked(blockedAddr) {
					t.Error("a block is not shared")
				}
				if err := one.set.Lift(block.Prefix); err != nil {
					t.Error(err)
				}
				one.keeper.remove(block.Prefix)
				time.Sleep(blockSweep + time.Second)
				if two.set.Blocked(blockedAddr) {
					t.Error("its end is not shared")
				}
			})
		})
	}
}

// Of what is over the storage is not told, and what it keeps is not taken for gone
// because a Router of several has forgotten it, or because it was being written.
func TestBlocksOutlastTheirSweep(t *testing.T) {
	t.Run("renewed by another Router", func(t *testing.T) {
		memory := storage.Memory()
		synctest.Test(t, func(t *testing.T) {
			one, two := openKeeper(t, silent(memory)), openKeeper(t, silent(memory))
			block, _ := two.set.Block(blockedAddr, CountProxy, "scan")
			two.keeper.save(block)
			time.Sleep(2*time.Hour - 5*time.Second) // remembered until 5 s from now
			again, _ := two.set.Block(blockedAddr, CountProxy, "again")
			two.keeper.save(again)
			time.Sleep(3 * time.Minute)
			if again.Times != 2 || !one.set.Blocked(blockedAddr) || !two.set.Blocked(blockedAddr) {
				t.Errorf("%+v: %t, %t", again, one.set.Blocked(blockedAddr), two.set.Blocked(blockedAddr))
			}
		})
	})
	t.Run("renewed while many changes wait", func(t *testing.T) {
		memory := storage.Memory()
		synctest.Test(t, func(t *testing.T) {
			b := openKeeper(t, silent(memory))
			block, _ := b.set.Block(blockedAddr, CountProxy, "scan")
			b.keeper.save(block)
			time.Sleep(2*time.Hour - 10*time.Minute)
			b.keeper.mu.Lock()
			for i := range maxPendingBlocks {
				b.keeper.pending[netip.PrefixFrom(netip.AddrFrom4([4]byte{12, 0, byte(i >> 8), byte(i)}), 32)] = nil
			}
			b.keeper.mu.Unlock()
			again, _ := b.set.Block(blockedAddr, CountProxy, "again")
			b.keeper.save(again)
			time.Sleep(12 * time.Minute)
			if !b.set.Blocked(blockedAddr) {
				t.Error("blocked for an hour, and free after 12 minutes")
			}
		})
	})
	t.Run("many over at once", func(t *testing.T) {
		memory := storage.Memory()
		synctest.Test(t, func(t *testing.T) {
			b := openKeeper(t, &haltingBackend{Backend: memory}) // which nobody shares
			const many = maxPendingBlocks / 2
			for i := range many {
				block, _ := b.set.Block(netip.AddrFrom4([4]byte{12, 0, byte(i >> 8), byte(i)}), CountProxy, "flood")
				b.keeper.save(block)
			}
			synctest.Wait()
			time.Sleep(3 * time.Hour)
			synctest.Wait()
			b.keeper.mu.Lock()
			defer b.keeper.mu.Unlock()
			if len(b.keeper.pending) > 0 || len(b.keeper.stored) > 0 {
				t.Errorf("%d changes wait, %d blocks are taken for stored", len(b.keeper.pending), len(b.keeper.stored))
			}
		})
	})
	t.Run("lifted after a look in the middle of its writing", func(t *testing.T) {
		backing := &haltingBackend{Backend: storage.Memory()}
		b := openKeeper(t, backing)
		backing.halt.Lock()
		block, _ := b.set.Block(blockedAddr, CountProxy, "scan")
		b.keeper.save(block)
		testenv.WaitFor(t, time.Minute, func() error {
			if n := b.pending(); n > 0 {
				return fmt.Errorf("%d changes wait", n)
			}
			return nil
		})
		looked := make(chan error, 1)
		go func() { looked <- b.keeper.load(context.Background()) }()
		select { // it waits, or is through soon
		case err := <-looked:
			looked <- err
		case <-time.After(100 * time.Millisecond):
		}
		backing.halt.Unlock()
		if err := testenv.Receive(t, looked); err != nil {
			t.Error(err)
		}
		if err := b.set.Lift(block.Prefix); err != nil {
			t.Fatal(err)
		}
		b.keeper.remove(block.Prefix)
		b.written(t)
		if err := b.keeper.load(t.Context()); err != nil || b.set.Blocked(blockedAddr) {
			t.Errorf("lifted, and blocked again by the next look: %v", err)
		}
	})
}
