package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"
)

// zoneCopy keeps a zone that is a copy of another server's up to date (RFC 1034
// section 4.3.5). What is not said otherwise belongs to follow.
type zoneCopy struct {
	primaries []*peer
	wake      chan struct{} // something is new, says a primary
	wanted    context.Context
	end       func()        // ends it: the copy is not wanted any more
	done      chan struct{} // closed when follow has returned
	asked     atomic.Int32  // the primary to ask first
	store     copyStore
	held      *zone     // also when it is too old to be served
	size      int       // of held, as a transfer of all of it counts
	expires   time.Time // zero: there is none; changed under the zone's lock
	checked   time.Time // when the store was last told
	storing   atomic.Bool
}

const (
	minRefresh   = 10 * time.Second // for SOA records that want to be refreshed all the time
	firstRetry   = 2 * time.Second  // while there is no copy; it doubles up to
	lastRetry    = 5 * time.Minute  // this
	wakePause    = 100 * time.Millisecond
	checkedEvery = time.Minute
	maxCopySize  = 512 << 20 // octets in memory, of which a record takes about 600
)

func newZoneCopy(z *servedZone, primaries []*peer) *zoneCopy {
	c := &zoneCopy{primaries: primaries, wake: make(chan struct{}, 1), done: make(chan struct{}), store: newCopyStore(z.all.store, z.name)}
	c.wanted, c.end = context.WithCancel(context.Background())
	return c
}

// isPrimary reports whether a message comes from a primary, signed if that has
// a key, which is then asked first.
func (c *zoneCopy) isPrimary(from *asker) bool {
	addr := from.addr.Addr().Unmap()
	for i, p := range c.primaries {
		if ip, err := netip.ParseAddr(p.ip); err == nil && ip == addr && (p.key == nil || p.key == from.key) {
			c.asked.Store(int32(i))
			return true
		}
	}
	return false
}

// hurry has a primary asked now.
func (c *zoneCopy) hurry() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// openCopy opens a zone that is a copy, with what is kept of it. If that cannot
// be read the primaries have it.
func (zs *zones) openCopy(ctx context.Context, cfg *Zone) (*servedZone, error) {
	name, err := wireName(cfg.Name)
	if err != nil {
		return nil, err
	}
	z := &servedZone{name: name, all: zs}
	z.setPeers(cfg)
	c := z.copy
	held, checked, err := c.store.load(ctx, name)
	if err != nil {
		zs.logger().Warn("the kept copy of a zone cannot be read, so its primaries have to be asked", "zone", nameText(name), "err", err)
		return z, nil
	}
	if held != nil {
		c.held, c.checked = held, checked
		for r := range held.records() {
			c.size += r.cost()
		}
		c.expires = checked.Add(held.soaTimer(soaExpireField))
		if zs.now().Before(c.expires) {
			z.ref.current.Store(held)
		}
	}
	return z, nil
}

// Fields of a SOA record, counted from its end.
const (
	soaRefreshField = 4
	soaRetryField   = 3
	soaExpireField  = 2
)

// soaTimer returns a timer of the SOA record.
func (z *zone) soaTimer(field int) time.Duration {
	for soa := range z.soaRecords(1) {
		return time.Duration(uint32At(soa.data, len(soa.data)-4*field)) * time.Second
	}
	return 0
}

// follow keeps a copy up to date until ctx ends.
func (t *transfers) follow(ctx context.Context, z *servedZone) {
	c := z.copy
	defer close(c.done)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.wanted, cancel)()
	wait := time.Duration(0)
	if c.held != nil { // after a restart not all at once
		wait = rand.N(2 * time.Second)
	}
	if c.size > t.maxCopy {
		t.log.Warn("the kept copy of a zone is larger than a zone from others may be, so no change will be taken and it will expire: have its primary serve less in it, or move a part to a zone of its own",
			"zone", nameText(z.name), "octets", c.size, "most", t.maxCopy, "expires", c.expires)
	}
	retry := t.firstRetry
	for {
		if left := t.expire(z); left > 0 {
			wait = min(wait, left) // not to serve it for longer
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-c.wake:
			timer.Stop()
		}
		meanwhile, end := context.WithCancel(ctx)
		t.goes(func(context.Context) { t.watch(meanwhile, z) })
		err := t.refresh(ctx, z)
		end()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			retry = t.firstRetry
			wait = jitter(max(c.held.soaTimer(soaRefreshField), t.minRefresh))
		case c.held == nil:
			wait = jitter(retry)
			retry = min(2*retry, lastRetry)
		default:
			wait = jitter(max(c.held.soaTimer(soaRetryField), t.minRefresh))
		}
		if err != nil {
			t.log.Warn("a zone could not be brought up to date", "zone", nameText(z.name), "again_in", wait.Round(time.Second), "err", err)
		}
		if !sleep(ctx, wakePause) { // however many notifications there are
			return
		}
	}
}

// watch takes the copy out of service when it expires, until ctx ends: a transfer
// under way may take longer than that.
func (t *transfers) watch(ctx context.Context, z *servedZone) {
	for {
		if left := t.expire(z); left <= 0 || !sleep(ctx, left) {
			return
		}
	}
}

// expire takes the copy out of service if it has expired, and returns how long it
// may be served on.
func (t *transfers) expire(z *servedZone) (left time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	left = z.copy.expires.Sub(t.now())
	if left <= 0 && z.ref.current.Swap(nil) != nil {
		t.log.Error("a copy of a zone has expired and is not served any more: no primary has been heard for too long", "zone", nameText(z.name))
	}
	return left
}

// jitter returns up to a quarter less, so that not all zones come at once.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/4+1) }

// refresh asks the primaries in turn until one has answered.
func (t *transfers) refresh(ctx context.Context, z *servedZone) error {
	c := z.copy
	first := int(c.asked.Load())
	var errs []error
	for i := range c.primaries {
		n := (first + i) % len(c.primaries)
		p := c.primaries[n]
		patience := time.Duration(never)
		if i+1 < len(c.primaries) {
			patience = connectTime // another may have time
		} else if left := c.expires.Sub(t.now()); left > 0 {
			patience = left // not to serve it for longer
		}
		turn, cancel := context.WithTimeoutCause(ctx, patience, errBusy)
		give, err := t.inward.take(turn, p)
		cancel()
		if err == nil {
			err = t.refreshFrom(ctx, z, p)
			give()
		}
		if err == nil {
			c.asked.CompareAndSwap(int32(first), int32(n))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.addr, err))
	}
	return errors.Join(errs...)
}

// refreshFrom takes what one primary has that is new.
func (t *transfers) refreshFrom(ctx context.Context, z *servedZone, p *peer) error {
	c := z.copy
	held := c.held
	if !t.now().Before(c.expires) {
		held = nil // an expired copy is discarded (RFC 1034 section 4.3.5), so its serial number does not count
	}
	in, err := t.fetch(ctx, z.name, p, held)
	var next *zone
	size := c.size
	if err == nil && in.deltas != nil {
		// Changes that are small may add up to what no full transfer may.
		for _, d := range in.deltas {
			size += d.growth()
		}
		if size > t.maxCopy {
			return tooLarge(t.maxCopy)
		}
		next, err = held.changed(in.deltas)
	}
	if err != nil && held != nil && ctx.Err() == nil && wantsAll(err) {
		t.log.Info("a primary is asked for all of a zone, as what has changed will not do", "zone", nameText(z.name), "remote", p.addr, "err", err)
		in, err = t.fetch(ctx, z.name, p, nil)
	}
	if err != nil {
		return err
	}
	if in.whole == nil && in.deltas == nil {
		if soaSerial(in.soa.data) != held.serial() {
			return errOlder
		}
		t.heard(ctx, z, held, nil, false)
		return nil
	}
	if in.whole != nil {
		if held != nil && serialAfter(held.serial(), soaSerial(in.soa.data)) {
			return errOlder
		}
		counters := (*zoneCounters)(nil)
		if c.held != nil {
			counters = c.held.counters
		}
		if next, err = newCopy(z.name, in.whole, counters); err != nil {
			return err
		}
		size = in.size
	}
	c.size = size
	t.heard(ctx, z, next, in.deltas, true)
	return nil
}

// wantsAll reports whether a full transfer may help after an error with changes.
func wantsAll(err error) bool {
	var rcode rcodeError
	var broken *ZoneError
	for _, e := range []error{errTransfer, errNotThere, errThere, errOtherQuestion} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, &rcode) || errors.As(err, &broken)
}

// heard puts the version into service that a primary has, and keeps it.
func (t *transfers) heard(ctx context.Context, z *servedZone, next *zone, deltas []*delta, isNew bool) {
	c := z.copy
	now := t.now()
	z.mu.Lock()
	c.expires = now.Add(max(next.soaTimer(soaExpireField), t.minRefresh))
	z.mu.Unlock()
	var err error
	c.storing.Store(true)
	if isNew {
		c.held = next
		if deltas != nil {
			err = c.store.keepChanges(ctx, next, deltas)
		} else {
			err = c.store.keep(ctx, next)
		}
	}
	if isNew || now.Sub(c.checked) >= checkedEvery {
		c.checked = now
		err = errors.Join(err, c.store.keepChecked(ctx, now))
	}
	c.storing.Store(false)
	if err != nil && ctx.Err() == nil {
		t.log.Error("a copy of a zone could not be kept: until the next change it will be missing after a restart", "zone", nameText(z.name), "err", err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if isNew {
		if deltas == nil {
			z.history.forget()
		}
		for _, d := range deltas {
			z.history.add(d)
		}
		next.counters.updates.Add(1)
	}
	if !t.now().Before(c.expires) {
		return // the storage took so long
	}
	if z.ref.current.Swap(next) != next && z.all.published != nil {
		z.all.published(z, nil)
	}
}

// forget begins anew.
func (h *history) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deltas, h.size = nil, 0
}
