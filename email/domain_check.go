package email

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/keys"
	"github.com/dcrouter/dcrouter/email/internal/records"
)

// domains looks after the keys and the records of a run's domains.
type domains struct {
	s    *Server
	keys *keys.Manager
	wake chan struct{}

	mu   sync.Mutex
	all  map[string]*domainCheck // by name, A-labels
	list []*domainCheck
}

// domainCheck is what is known of the records of a domain. domains.mu guards it.
type domainCheck struct {
	*Domain
	due    time.Time // of the next look; the zero time is at once
	last   *checkResult
	logged map[records.Record]loggedState
}

type checkResult struct {
	at       time.Time
	findings []records.Finding
}

type loggedState struct {
	state records.State
	at    time.Time
}

const (
	checkInterval = time.Hour
	checkTimeout  = time.Minute    // for a domain
	checkWorkers  = 4              // domains at once
	repeatLog     = 24 * time.Hour // of what is wrong still
	publishTime   = time.Minute    // after which our own records are looked for though nobody says that they are there
)

// openDomains begins to look after keys, with those that there are.
func (s *Server) openDomains(ctx context.Context) (*domains, error) {
	c := &domains{s: s, wake: make(chan struct{}, 1), all: make(map[string]*domainCheck)}
	o := keys.Options{
		Domains: make(map[string]keys.Config), Store: s.opts.store, Log: s.log, Now: s.now,
		Publish: c.publish, Seen: c.sees, Changed: c.changed,
	}
	for i := range s.cfg.Domains {
		d := &s.cfg.Domains[i]
		name := lookupName(d.Domain)
		o.Domains[name] = s.keyConfig(d)
		c.all[name] = &domainCheck{Domain: d, logged: make(map[records.Record]loggedState)}
		if s.cfg.DNSMode(d) == InternalDNS {
			c.all[name].due = s.now().Add(publishTime)
		}
		c.list = append(c.list, c.all[name])
	}
	if s.opts.store == nil && len(s.cfg.Domains) > 0 {
		s.log.Warn("no storage is configured: the domains get new DKIM keys at each start, and DNS records to go with them")
	}
	var err error
	c.keys, err = keys.Open(ctx, o)
	return c, err
}

// publish brings the records of a domain into our own DNS.
func (c *domains) publish(ctx context.Context, domain string, list []keys.Key) error {
	d := c.all[domain]
	var out []DNSRecord
	for _, r := range records.Wanted(c.s.recordSettings(d.Domain, list)) {
		out = append(out, publicRecord(r))
	}
	return c.s.guarded("the DNS publisher", func() error { return c.s.opts.publisher.Publish(ctx, domain, out) }, "domain", domain)
}

// sees looks for the record of a key.
func (c *domains) sees(ctx context.Context, domain string, k keys.Key) (bool, error) {
	list, err := lookup.TXT(ctx, c.s.opts.resolver, k.Selector+"._domainkey."+domain)
	return len(list) == 1 && records.SameKey(list[0], k.Record), err
}

// changed has a look taken at a domain whose keys have changed.
func (c *domains) changed(domain string) {
	c.mu.Lock()
	c.all[domain].due = time.Time{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// serve looks at the domains' records from time to time, until ctx ends.
func (c *domains) serve(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		timer.Reset(c.round(ctx))
	}
}

// round looks at the domains that are due, and returns when to come back.
func (c *domains) round(ctx context.Context) time.Duration {
	var working sync.WaitGroup
	slots := make(chan struct{}, checkWorkers)
	for _, d := range c.takeDue() {
		slots <- struct{}{}
		working.Go(func() {
			c.check(ctx, d.Domain)
			<-slots
		})
	}
	working.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	next := checkInterval
	for _, d := range c.list {
		next = min(next, d.due.Sub(c.s.now()))
	}
	return max(next, 0)
}

// takeDue returns the domains that are due, which are so in an hour again.
func (c *domains) takeDue() (list []*domainCheck) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.list {
		if now := c.s.now(); !now.Before(d.due) {
			d.due = now.Add(checkInterval)
			list = append(list, d)
		}
	}
	return list
}

// check looks at the records of a domain, and logs what is wrong.
func (c *domains) check(ctx context.Context, d *Domain) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	name := lookupName(d.Domain)
	list, _ := c.keys.Keys(name)
	want := c.s.expected(d, list)
	findings := records.Check(ctx, c.s.opts.resolver, c.s.recordSettings(d, list), want)
	if context.Cause(ctx) == context.Canceled {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.all[name]
	known.last = &checkResult{c.s.now(), findings}
	c.log(known, findings)
}

// log tells of required records that are not as they should be: once, once a day
// while it lasts, and when it has ended. c.mu is held.
func (c *domains) log(d *domainCheck, findings []records.Finding) {
	required, now := c.s.requiredKinds(d.Domain), c.s.now()
	logged := make(map[records.Record]loggedState)
	for i := range findings {
		f := &findings[i]
		before, known := d.logged[f.Record]
		pending := f.Kind == records.DKIM && f.State == records.Missing // what is new is to be pasted even if it can wait
		switch {
		case f.State == records.OK:
			if known {
				c.s.log.Info("a DNS record of a mail domain is there now", "domain", d.Domain.Domain, "kind", string(f.Kind), "record", f.Record.String())
			}
			continue
		case f.State == records.Unknown:
			if known {
				logged[f.Record] = before
			}
			c.s.log.Debug("a DNS record of a mail domain could not be looked up", "domain", d.Domain.Domain, "name", f.Name, "err", f.Note)
			continue
		case c.s.cfg.DNSMode(d.Domain) == ForwardDNS && f.Kind == records.DKIM, !pending && (f.Optional || !slices.Contains(required, f.Kind)):
			continue
		case known && before.state == f.State && now.Sub(before.at) < repeatLog:
			logged[f.Record] = before
			continue
		}
		logged[f.Record] = loggedState{f.State, now}
		text := "a DNS record of a mail domain is " + string(f.State)
		if c.s.cfg.DNSMode(d.Domain) == InternalDNS {
			text += ", though it is published here: does the delegation of the zone lead here, and does no record of yours say otherwise?"
		} else {
			text += ": this is the line for its zone file"
		}
		c.s.log.Warn(text, "domain", d.Domain.Domain, "kind", string(f.Kind), "record", f.Record.String(), "found", f.Found, "note", f.Note)
	}
	d.logged = logged
}

// seen returns what was seen at the last look, nil if there was none.
func (c *domains) seen(domain string) *checkResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[domain].last
}
