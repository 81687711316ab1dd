package dnsbl

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// cache holds the answers of late, the one used last in front.
type cache struct {
	max     int
	entries map[netip.Addr]*list.Element // of Result
	order   *list.List
}

func newCache(max int) cache {
	return cache{max: max, entries: map[netip.Addr]*list.Element{}, order: list.New()}
}

func (c *cache) get(addr netip.Addr, now time.Time) (Result, bool) {
	e := c.entries[addr]
	if e == nil {
		return Result{}, false
	}
	r := e.Value.(Result)
	if !now.Before(r.Expires) || now.Before(r.Checked.Add(-time.Minute)) { // the clock was set back
		c.drop(e)
		return Result{}, false
	}
	c.order.MoveToFront(e)
	return r, true
}

// put enters an answer, and returns the address that had to go for it.
func (c *cache) put(r Result) (gone netip.Addr, full bool) {
	if e := c.entries[r.Addr]; e != nil {
		c.drop(e)
	}
	if len(c.entries) >= c.max {
		oldest := c.order.Back()
		gone, full = oldest.Value.(Result).Addr, true
		c.drop(oldest)
	}
	c.entries[r.Addr] = c.order.PushFront(r)
	return gone, full
}

func (c *cache) drop(e *list.Element) {
	delete(c.entries, e.Value.(Result).Addr)
	c.order.Remove(e)
}

func storeKey(addr netip.Addr) string { return "security/ip-reputation/" + addr.String() + ".json" }

// remember puts an answer into memory. What has to go for it goes from storage
// too, so that strangers cannot fill that.
func (c *Checker) remember(ctx context.Context, r Result) {
	c.mu.Lock()
	gone, full := c.cache.put(r)
	c.mu.Unlock()
	if full && c.cfg.Store != nil {
		if err := c.cfg.Store.Delete(ctx, storeKey(gone)); err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("an answer about an address could not be removed", "ip", gone, "err", err)
		}
	}
}

// load looks for an answer of before a restart. What cannot be read is not
// there.
func (c *Checker) load(ctx context.Context, addr netip.Addr) (Result, bool) {
	if c.cfg.Store == nil {
		return Result{}, false
	}
	b, err := c.cfg.Store.Get(ctx, storeKey(addr))
	if err != nil {
		if !errors.Is(err, storage.ErrNotFound) && ctx.Err() == nil {
			c.cfg.Log.Warn("an answer about an address could not be read", "ip", addr, "err", err)
		}
		return Result{}, false
	}
	var r Result
	now := c.cfg.Now()
	if err := json.Unmarshal(b, &r); err != nil || r.Addr != addr || !now.Before(r.Expires) ||
		r.Expires.Sub(now) > max(c.cfg.CacheTimeout, c.cfg.CleanTimeout) {
		return Result{}, false
	}
	return r, true
}

// save keeps an answer over a restart; the store forgets it in time.
func (c *Checker) save(ctx context.Context, r Result) {
	ttl := r.Expires.Sub(r.Checked)
	if c.cfg.Store == nil || ttl <= failureTimeout {
		return // not worth a write
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = c.cfg.Store.Put(ctx, storeKey(r.Addr), b, storage.TTL(ttl))
	}
	if err != nil && ctx.Err() == nil {
		c.cfg.Log.Warn("an answer about an address could not be stored", "ip", r.Addr, "err", err)
	}
}
