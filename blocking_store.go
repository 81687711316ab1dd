package dcrouter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/internal/blocklist"
	"github.com/dcrouter/dcrouter/storage"
)

// blocksPrefix is where blocks are in the storage, one a key, so that Routers that
// share it do not write over each other's.
const blocksPrefix = "security/blocks"

// maxPendingBlocks is how many changes may wait to be written before more blocks
// join them. What a flood adds beyond them does not outlast a restart.
const maxPendingBlocks = 10_000

// blockSweep is how often blocks and counts that are over are forgotten, writing is
// tried again that has failed, and what other Routers have written is looked for
// where the storage does not tell.
const blockSweep = time.Minute

// blockKeeper keeps blocks in the storage: nobody who is refused has to wait for
// it.
type blockKeeper struct {
	blocking *blocking

	io sync.Mutex // held while one block is read or written, so that the two never cross

	mu      sync.Mutex
	pending map[netip.Prefix]*blocklist.Block // nil: to be deleted
	stored  map[netip.Prefix]struct{}         // what is in the storage, or may be
	kick    chan struct{}

	store   *storage.Store
	quit    chan struct{}
	cancel  context.CancelFunc // ends writing
	working sync.WaitGroup
}

// keptBlock is a block as it is stored.
type keptBlock struct {
	Address netip.Prefix `json:"address"`
	Source  string       `json:"source"`
	Reason  string       `json:"reason"`
	Since   time.Time    `json:"since"`
	Until   time.Time    `json:"until,omitzero"`
	Times   int          `json:"times,omitempty"`
}

func blockKey(p netip.Prefix) string {
	return blocksPrefix + "/" + strings.ReplaceAll(p.String(), "/", "_")
}

func blockOfKey(key string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(strings.ReplaceAll(strings.TrimPrefix(key, blocksPrefix+"/"), "_", "/"))
	return p, err == nil
}

// save has a block written. One that a person has made always has room, and so has
// what is stored: what is there would end before its time.
func (k *blockKeeper) save(b blocklist.Block) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, known := k.pending[b.Prefix]
	_, stored := k.stored[b.Prefix]
	if known || stored || b.Times == 0 || len(k.pending) < maxPendingBlocks {
		k.change(b.Prefix, &b)
	}
}

// remove has a block deleted that somebody has lifted.
func (k *blockKeeper) remove(p netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.change(p, nil)
}

// drop has a block deleted that has made room for another. What a flood pushes out
// must go from the storage, too, so there is always room for that: what is stored
// is bounded.
func (k *blockKeeper) drop(p netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, stored := k.stored[p]; stored {
		k.change(p, nil)
	} else {
		delete(k.pending, p)
	}
}

// change has a change written; mu is held.
func (k *blockKeeper) change(p netip.Prefix, b *blocklist.Block) {
	if k.pending == nil {
		k.pending = map[netip.Prefix]*blocklist.Block{}
	}
	k.pending[p] = b
	select {
	case k.kick <- struct{}{}:
	default: // it is awake, or will look when it starts
	}
}

// waiting returns the change of a block that is to be written.
func (k *blockKeeper) waiting(p netip.Prefix) (b *blocklist.Block, changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, changed = k.pending[p]
	return b, changed
}

// use sets the storage.
func (k *blockKeeper) use(store *storage.Store) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.store, k.kick, k.quit = store, make(chan struct{}, 1), make(chan struct{})
	if k.stored == nil { // else what has gone meanwhile is missed by load
		k.stored = map[netip.Prefix]struct{}{}
	}
	k.kick <- struct{}{}
}

// load reads what is kept, as far as it is news.
func (k *blockKeeper) load(ctx context.Context) error {
	k.mu.Lock()
	missing := maps.Clone(k.stored)
	k.mu.Unlock()
	for key, err := range k.store.List(ctx, blocksPrefix) {
		if err != nil {
			return err
		}
		p, _ := blockOfKey(key)
		_, known := missing[p]
		if delete(missing, p); known && k.blocking.set.Blocked(p.Addr()) {
			continue
		}
		if err := k.read(ctx, key); err != nil {
			return err
		}
	}
	for p := range missing {
		if err := k.read(ctx, blockKey(p)); err != nil {
			return err
		}
	}
	return nil
}

// read takes over what is kept under a key. What cannot be read is left out: it is
// no reason not to start.
func (k *blockKeeper) read(ctx context.Context, key string) error {
	p, ok := blockOfKey(key)
	if !ok {
		return nil
	}
	k.io.Lock()
	defer k.io.Unlock()
	if _, changed := k.waiting(p); changed {
		return nil // ours is newer
	}
	data, err := k.store.Get(ctx, key)
	gone := errors.Is(err, storage.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	k.mu.Lock()
	if gone {
		delete(k.stored, p)
	} else {
		k.stored[p] = struct{}{}
	}
	k.mu.Unlock()
	if gone {
		_ = k.blocking.set.Lift(p) // another Router has, or it is over
	} else {
		k.enter(p, key, data)
	}
	// If ours has changed meanwhile, that is what holds.
	if b, changed := k.waiting(p); changed && b == nil {
		_ = k.blocking.set.Lift(p)
	} else if changed {
		_ = k.blocking.set.Put(*b) // as it was
	}
	return nil
}

// enter enters what was read.
func (k *blockKeeper) enter(p netip.Prefix, key string, data []byte) {
	var b keptBlock
	if err := json.Unmarshal(data, &b); err != nil || b.Address != p {
		k.blocking.log.Warn("a blocked address that was kept cannot be read", "component", "blocking", "key", key, "err", err)
		return
	}
	err := k.blocking.set.Put(blocklist.Block{Prefix: b.Address, Source: b.Source, Reason: b.Reason, Since: b.Since, Until: b.Until, Times: b.Times})
	if err != nil && !errors.Is(err, blocklist.ErrAllowed) {
		k.blocking.log.Warn("a blocked address that was kept does not hold", "component", "blocking", "address", b.Address.String(), "err", err)
	}
}

// start reads what is kept, and begins to write and to follow what other Routers
// write.
func (k *blockKeeper) start(ctx context.Context) error {
	writing, cancel := context.WithCancel(context.Background())
	watching, end := context.WithCancel(writing)
	events := k.watch(watching) // from now on, so that none falls between the two
	if err := k.load(ctx); err != nil {
		end()
		cancel()
		return err
	}
	k.cancel = cancel
	k.working.Go(func() { k.write(writing) })
	k.working.Go(func() { <-k.quit; end() })
	k.working.Go(func() { k.follow(watching, events) })
	return nil
}

// watch has the storage tell what other Routers write, if it can.
func (k *blockKeeper) watch(ctx context.Context) iter.Seq2[storage.Event, error] {
	if !k.store.Caps().NativeWatch {
		return func(func(storage.Event, error) bool) {}
	}
	return k.store.Watch(ctx, blocksPrefix)
}

// follow takes over what other Routers write, until ctx ends. A storage whose
// leases do not reach other processes is not shared with any.
func (k *blockKeeper) follow(ctx context.Context, events iter.Seq2[storage.Event, error]) {
	if caps := k.store.Caps(); !caps.NativeWatch && !caps.NativeLeases {
		return
	}
	err := k.hear(ctx, events)
	for {
		if err != nil && ctx.Err() == nil {
			k.blocking.log.Error("the blocks of other Routers cannot be followed; it is tried again", "component", "blocking", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(blockSweep):
		}
		err = k.catchUp(ctx)
	}
}

// catchUp takes over what has been missed, and what is told of from now on.
func (k *blockKeeper) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := k.watch(ctx)
	if err := k.load(ctx); err != nil {
		return err
	}
	return k.hear(ctx, events)
}

// hear takes over what is told of until that ends.
func (k *blockKeeper) hear(ctx context.Context, events iter.Seq2[storage.Event, error]) error {
	for event, err := range events {
		switch {
		case err != nil: // the last one
		case event.Type == storage.EventOverflow:
			err = k.load(ctx)
		default:
			err = k.read(ctx, event.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stop writes what is left, until ctx ends.
func (k *blockKeeper) stop(ctx context.Context) error {
	if k.cancel == nil {
		return nil // it has not started
	}
	close(k.quit)
	defer context.AfterFunc(ctx, k.cancel)()
	k.working.Wait()
	k.cancel()
	k.cancel = nil
	return nil
}

// write writes changes as they come.
func (k *blockKeeper) write(ctx context.Context) {
	ticker := time.NewTicker(blockSweep)
	defer ticker.Stop()
	for {
		select {
		case <-k.kick:
		case <-ticker.C:
			k.sweep()
		case <-k.quit:
			k.flush(ctx)
			return
		}
		k.flush(ctx)
	}
}

// sweep forgets what is over. The storage does so by itself.
func (k *blockKeeper) sweep() {
	set := k.blocking.set
	set.Sweep()
	k.io.Lock()
	defer k.io.Unlock()
	k.mu.Lock()
	stored := maps.Clone(k.stored)
	k.mu.Unlock()
	maps.DeleteFunc(stored, func(p netip.Prefix, _ struct{}) bool { return set.Holds(p) })
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := range stored {
		if _, changed := k.pending[p]; !changed {
			delete(k.stored, p)
		}
	}
}

func (k *blockKeeper) flush(ctx context.Context) {
	for more, err := true, error(nil); more; {
		if more, err = k.flushOne(ctx); err != nil {
			k.mu.Lock()
			waiting := len(k.pending)
			k.mu.Unlock()
			k.blocking.log.Error("blocked addresses cannot be kept; it is tried again", "component", "blocking", "waiting", waiting, "err", err)
			return
		}
	}
}

// flushOne writes a change, if there is one.
func (k *blockKeeper) flushOne(ctx context.Context) (more bool, err error) {
	k.io.Lock()
	defer k.io.Unlock()
	p, ok := k.next()
	if !ok {
		return false, nil
	}
	return true, k.put(ctx, p)
}

// writeNow writes the change of a block, for somebody who is told that it is kept. If
// that fails it waits with the others.
func (k *blockKeeper) writeNow(ctx context.Context, p netip.Prefix) error {
	k.io.Lock()
	defer k.io.Unlock()
	return k.put(ctx, p)
}

// put writes the change of a block, if there is one; io is held.
func (k *blockKeeper) put(ctx context.Context, p netip.Prefix) error {
	b, changed := k.take(p)
	if !changed {
		return nil
	}
	if b != nil && !k.blocking.set.Holds(p) {
		b = nil // it was gone before anybody had it saved
	}
	err := k.keep(ctx, p, b)
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, newer := k.pending[p]; err != nil && !newer {
		k.pending[p] = b
	}
	if b == nil && err == nil {
		delete(k.stored, p)
	}
	return err
}

// next returns what has a change that is to be written.
func (k *blockKeeper) next() (netip.Prefix, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := range k.pending {
		return p, true
	}
	return netip.Prefix{}, false
}

// take takes the change of a block that is to be written.
func (k *blockKeeper) take(p netip.Prefix) (b *blocklist.Block, changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b, changed = k.pending[p]; changed {
		delete(k.pending, p)
	}
	if b != nil {
		k.stored[p] = struct{}{}
	}
	return b, changed
}

func (k *blockKeeper) keep(ctx context.Context, p netip.Prefix, b *blocklist.Block) error {
	if b == nil {
		return k.store.Delete(ctx, blockKey(p))
	}
	data, err := json.Marshal(keptBlock{Address: p, Source: b.Source, Reason: b.Reason, Since: b.Since, Until: b.Until, Times: b.Times})
	if err != nil {
		return fmt.Errorf("writing a block: %w", err)
	}
	return k.store.Put(ctx, blockKey(p), data, storage.Until(b.Forget(k.blocking.set.Memory())))
}
