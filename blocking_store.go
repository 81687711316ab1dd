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

	mu      sync.Mutex
	pending map[netip.Prefix]*blocklist.Block // nil: to be deleted
	writing netip.Prefix                      // the one that is neither pending nor written
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

// save has a block written. One that a person has made always has room.
func (k *blockKeeper) save(b blocklist.Block) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.pending[b.Prefix]; known || b.Times == 0 || len(k.pending) < maxPendingBlocks {
		k.pending[b.Prefix] = &b
		k.wake()
	}
}

// remove has a block deleted. There is always room for it, so that what a flood
// pushes out goes from the storage, too: what is stored is bounded.
func (k *blockKeeper) remove(p netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, stored := k.stored[p]; stored {
		k.pending[p] = nil
		k.wake()
	} else {
		delete(k.pending, p)
	}
}

// wake has changes written; mu is held.
func (k *blockKeeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default: // it is awake, or will look when it starts
	}
}

// use sets the storage.
func (k *blockKeeper) use(store *storage.Store) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.store, k.kick, k.quit = store, make(chan struct{}, 1), make(chan struct{})
	k.stored = map[netip.Prefix]struct{}{}
	if k.pending == nil {
		k.pending = map[netip.Prefix]*blocklist.Block{}
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
	data, err := k.store.Get(ctx, key)
	p, ok := blockOfKey(key)
	k.mu.Lock()
	switch {
	case !ok:
	case err == nil:
		k.stored[p] = struct{}{}
	case errors.Is(err, storage.ErrNotFound):
		delete(k.stored, p)
	}
	_, changed := k.pending[p]
	changed = changed || k.writing == p
	k.mu.Unlock()
	set := k.blocking.set
	switch {
	case !ok || changed: // ours is newer
		return nil
	case errors.Is(err, storage.ErrNotFound):
		_ = set.Lift(p) // another Router has, or it is over
		return nil
	case err != nil:
		return err
	}
	var b keptBlock
	if err := json.Unmarshal(data, &b); err != nil || b.Address != p {
		k.blocking.log.Warn("a blocked address that was kept cannot be read", "component", "blocking", "key", key, "err", err)
		return nil
	}
	err = set.Put(blocklist.Block{Prefix: b.Address, Source: b.Source, Reason: b.Reason, Since: b.Since, Until: b.Until, Times: b.Times})
	if err != nil && !errors.Is(err, blocklist.ErrAllowed) {
		k.blocking.log.Warn("a blocked address that was kept does not hold", "component", "blocking", "address", b.Address.String(), "err", err)
	}
	return nil
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

// follow takes over what other Routers write, until ctx ends.
func (k *blockKeeper) follow(ctx context.Context, events iter.Seq2[storage.Event, error]) {
	failed := func(err error) {
		if err != nil && ctx.Err() == nil {
			k.blocking.log.Error("the blocks of other Routers cannot be followed; it is tried again", "component", "blocking", "err", err)
		}
	}
	for {
		for event, err := range events {
			switch {
			case err != nil: // the last one
			case event.Type == storage.EventOverflow:
				err = k.load(ctx)
			default:
				err = k.read(ctx, event.Key)
			}
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(blockSweep):
		}
		events = k.watch(ctx)
		failed(k.load(ctx))
	}
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
			k.blocking.set.Sweep()
		case <-k.quit:
			k.flush(ctx)
			return
		}
		k.flush(ctx)
	}
}

func (k *blockKeeper) flush(ctx context.Context) {
	for {
		p, b, ok := k.next()
		if !ok {
			return
		}
		if b != nil && !k.blocking.set.Holds(p) {
			b = nil // it was gone before anybody had it saved
		}
		err := k.keep(ctx, p, b)
		k.mu.Lock()
		k.writing = netip.Prefix{}
		if b == nil && err == nil {
			delete(k.stored, p)
		}
		if _, newer := k.pending[p]; err != nil && !newer {
			k.pending[p] = b
		}
		waiting := len(k.pending)
		k.mu.Unlock()
		if err != nil {
			k.blocking.log.Error("blocked addresses cannot be kept; it is tried again", "component", "blocking", "waiting", waiting, "err", err)
			return
		}
	}
}

// next takes a change that is to be written.
func (k *blockKeeper) next() (netip.Prefix, *blocklist.Block, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p, b := range k.pending {
		delete(k.pending, p)
		k.writing = p
		if b != nil {
			k.stored[p] = struct{}{}
		}
		return p, b, true
	}
	return netip.Prefix{}, nil, false
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
