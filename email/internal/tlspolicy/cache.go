package tlspolicy

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
	"github.com/dcrouter/dcrouter/storage"
)

const (
	// checkEvery is how often, at most, a domain is asked whether its policy has
	// changed, and a fetch that failed is tried again (RFC 8461 section 3.3).
	checkEvery = 5 * time.Minute
	// refreshAfter is when a policy is fetched anew although it has not changed,
	// so that it never ends as long as its domain can be reached (section 3.3).
	refreshAfter = 24 * time.Hour
	// sweepEvery is how often policies are looked for that are due for that.
	sweepEvery = 10 * time.Minute
	// maxSweep bounds the refreshes that one look begins.
	maxSweep = 200
	// keepUnused is how long after the last mail to a domain that goes on.
	keepUnused = 30 * 24 * time.Hour
	// leastAge is how long a policy holds at least: the attempt that asked for
	// it has to see it.
	leastAge = time.Minute

	// maxFetches bounds the fetches at once. Domains without a policy need none,
	// so that slow policy hosts hold up only each other.
	maxFetches    = 64
	lookupTime    = 20 * time.Second
	storePrefix   = "email/mta-sts/"
	storeSuffix   = ".json"
	storeDeadline = 30 * time.Second
)

var errClosed = errors.New("the policies are closed")

// stsCache has the MTA-STS policies of domains. The first that asks for a domain
// waits for the policy to be fetched; after that it is refreshed beside.
type stsCache struct {
	resolver lookup.Resolver
	client   *http.Client
	store    *storage.Store
	log      *slog.Logger
	now      func() time.Time
	max      int

	mu      sync.Mutex
	entries map[string]*stsEntry
	// known has the domains with a policy, none the others, those used last in
	// front. Each list is bounded, so that no number of domains without a
	// policy pushes one out.
	known, none list.List // of *stsEntry

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
	fetches chan struct{} // holds one for each fetch under way
}

// stsEntry is what is known of a domain. It is guarded by the cache's mutex.
type stsEntry struct {
	domain  string
	policy  *stsPolicy // nil: none
	id      string     // of the record that policy was fetched for
	fetched time.Time
	expires time.Time
	used    time.Time

	failure *stsFailure   // why nothing better is known; nil if all went well, or there is no record
	due     time.Time     // when to ask again
	flight  chan struct{} // closed when the refresh under way is done; nil: none is

	order   *list.Element
	inOrder *list.List
}

// stored is an entry in storage.
type stored struct {
	ID      string    `json:"id"`
	Policy  stsPolicy `json:"policy"`
	Fetched time.Time `json:"fetched"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used"`
}

// start reads what is stored and begins to refresh it.
func (c *stsCache) start(ctx context.Context) error {
	c.entries = map[string]*stsEntry{}
	c.fetches = make(chan struct{}, maxFetches)
	if c.store != nil {
		if err := c.load(ctx); err != nil {
			return err
		}
	}
	c.ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.running.Go(c.sweep)
	return nil
}

func (c *stsCache) close() {
	c.mu.Lock() // nothing is begun after this
	c.stop()
	c.mu.Unlock()
	c.running.Wait()
}

// get returns the policy of a domain, nil if it has none, and then why it has
// none although it should. An error says that nobody knows yet.
func (c *stsCache) get(ctx context.Context, domain string) (*stsPolicy, *stsFailure, error) {
	c.mu.Lock()
	e := c.entries[domain]
	if e == nil {
		e = &stsEntry{domain: domain}
		c.add(e, &c.none)
	}
	now := c.now()
	e.used = now
	e.inOrder.MoveToFront(e.order)
	if !now.Before(e.due) {
		c.refresh(e)
	}
	flight := e.flight
	if flight != nil && !e.valid(now) {
		c.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if e.valid(c.now()) {
		return e.policy, nil, nil
	}
	if c.ctx.Err() != nil { // what was under way may not have come to its end
		return nil, nil, errClosed
	}
	return nil, e.failure, nil
}

func (e *stsEntry) valid(now time.Time) bool { return e.policy != nil && now.Before(e.expires) }

// recheck has a domain asked again at the next use: its policy stands in the way
// of mail, which RFC 8461 section 5.1 wants to be sure of.
func (c *stsCache) recheck(domain string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[domain]; e != nil && c.now().Before(e.due) {
		if soon := c.now().Add(leastAge); soon.Before(e.due) {
			e.due = soon
		}
	}
}

// refresh begins to ask the domain, if nobody does. It is called with the mutex
// held.
func (c *stsCache) refresh(e *stsEntry) {
	if e.flight != nil || c.ctx.Err() != nil {
		return
	}
	done := make(chan struct{})
	e.flight = done
	c.running.Go(func() {
		c.update(e)
		c.mu.Lock()
		e.flight = nil
		c.mu.Unlock()
		close(done)
	})
}

// update asks the domain.
func (c *stsCache) update(e *stsEntry) {
	id, err := c.record(e.domain)
	c.mu.Lock()
	now := c.now()
	e.due = now.Add(checkEvery)
	current := e.valid(now) && e.id == id && now.Sub(e.fetched) < min(refreshAfter, e.expires.Sub(e.fetched)/2)
	if err != nil || current {
		// A policy that is known holds until its end, whatever becomes of the
		// record (RFC 8461 section 3.1).
		e.failure = failureOf(err)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()

	select {
	case c.fetches <- struct{}{}:
		defer func() { <-c.fetches }()
	case <-c.ctx.Done():
		return
	}
	policy, err := fetch(c.ctx, c.client, e.domain)
	if c.ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	now = c.now()
	e.due = now.Add(checkEvery)
	if err != nil {
		e.failure = failureOf(err)
		held := e.valid(now) && e.policy.Mode != stsNone
		c.mu.Unlock()
		c.log.Warn("an MTA-STS policy could not be fetched", "domain", e.domain, "err", err, "older policy in use", held)
		return
	}
	e.policy, e.id, e.failure = policy, id, nil
	e.fetched, e.expires = now, now.Add(max(policy.MaxAge, leastAge))
	record := stored{e.id, *policy, e.fetched, e.expires, e.used}
	gone := c.promote(e)
	c.mu.Unlock()
	c.save(e.domain, record, gone)
}

// failureOf is what an entry remembers of an error. One of DNS is nothing that
// could be reported to the domain.
func failureOf(err error) *stsFailure {
	var failure *stsFailure
	switch {
	case err == nil || errors.Is(err, errNoRecord):
		return nil
	case errors.As(err, &failure):
		return failure
	}
	return &stsFailure{err: err}
}

// record looks up the id of the domain's record. An error that is an *stsFailure
// is the domain's fault.
func (c *stsCache) record(domain string) (string, error) {
	ctx, cancel := context.WithTimeout(c.ctx, lookupTime)
	defer cancel()
	txts, err := lookup.TXT(ctx, c.resolver, "_mta-sts."+domain)
	if err != nil {
		return "", err
	}
	id, err := stsRecord(txts)
	if err != nil && !errors.Is(err, errNoRecord) {
		return "", &stsFailure{tlsrpt.STSPolicyInvalid, err}
	}
	return id, err
}

// sweep looks at the policies now and then.
func (c *stsCache) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
			c.look()
		}
	}
}

// look refreshes, ahead of their end, policies that nobody has asked for lately,
// and forgets those that are past it.
func (c *stsCache) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	begun := 0
	var next *list.Element
	for el := c.known.Front(); el != nil && begun < maxSweep; el = next {
		next = el.Next()
		e := el.Value.(*stsEntry)
		age := e.expires.Sub(e.fetched)
		switch {
		case e.flight != nil:
		case !e.valid(now):
			c.remove(e) // storage forgets by itself
		case now.Sub(e.used) < keepUnused && now.Sub(e.fetched) >= min(refreshAfter, age/2) && !now.Before(e.due):
			c.refresh(e)
			begun++
		}
	}
}

// add enters e and makes room for it. It returns the domain that had to go, ""
// if none.
func (c *stsCache) add(e *stsEntry, order *list.List) (gone string) {
	if order.Len() >= c.max {
		oldest := order.Back().Value.(*stsEntry)
		c.remove(oldest)
		gone = oldest.domain
	}
	c.entries[e.domain] = e
	e.inOrder, e.order = order, order.PushFront(e)
	return gone
}

func (c *stsCache) remove(e *stsEntry) {
	e.inOrder.Remove(e.order)
	if c.entries[e.domain] == e {
		delete(c.entries, e.domain)
	}
}

// promote moves an entry that has a policy now to those that have. It may have
// been pushed out meanwhile, and come again as another.
func (c *stsCache) promote(e *stsEntry) (gone string) {
	if old := c.entries[e.domain]; old != nil {
		c.remove(old)
	}
	return c.add(e, &c.known)
}

func (c *stsCache) save(domain string, record stored, gone string) {
	if c.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, storeDeadline)
	defer cancel()
	b, err := json.Marshal(record)
	if err == nil {
		err = c.store.Put(ctx, storePrefix+domain+storeSuffix, b, storage.TTL(record.Expires.Sub(record.Fetched)))
	}
	if err == nil && gone != "" {
		err = c.store.Delete(ctx, storePrefix+gone+storeSuffix)
	}
	if err != nil && c.ctx.Err() == nil {
		c.log.Warn("an MTA-STS policy could not be stored", "domain", domain, "err", err)
	}
}

// load reads what is stored. What cannot be read, or has ended, is not there.
func (c *stsCache) load(ctx context.Context) error {
	for key, err := range c.store.List(ctx, storePrefix) {
		if err != nil {
			return err
		}
		if c.known.Len() >= c.max {
			return nil
		}
		b, err := c.store.Get(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		domain := strings.TrimSuffix(strings.TrimPrefix(key, storePrefix), storeSuffix)
		var r stored
		now := c.now()
		if err := json.Unmarshal(b, &r); err != nil {
			c.log.Warn("a stored MTA-STS policy cannot be read", "key", key, "err", err)
			continue
		}
		name, err := lookup.Domain(domain)
		if err != nil || name != domain || !now.Before(r.Expires) || r.Expires.Sub(now) > maxSTSAge {
			continue
		}
		e := &stsEntry{domain: domain, policy: &r.Policy, id: r.ID, fetched: r.Fetched, expires: r.Expires, used: r.Used}
		c.add(e, &c.known)
	}
	return nil
}
