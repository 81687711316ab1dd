package mx

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// How long answers hold. A resolver does not tell its TTL; these lie within the
// delays that mail has anyway.
const (
	keepFound   = 5 * time.Minute
	keepNothing = time.Minute      // that there is nowhere to go
	keepFailure = 10 * time.Second // that DNS does not answer, so that a queue full of mail does not ask for each
	keepDomains = 10_000
)

// lookupTime bounds the questions about one domain.
const lookupTime = time.Minute

// Options are what a [Resolver] may be told; all may be left out.
type Options struct {
	// Names are this host's own. Where they are among a domain's hosts, mail goes
	// to better hosts only (RFC 5321 section 5.1).
	Names []string
	// Own tells whether an address is this host's own, with the same effect.
	Own func(netip.Addr) bool
	// Usable tells whether mail may go to an address. Without it all are.
	Usable func(netip.Addr) bool
	// Keep is how long it is remembered where mail goes; the default is 5 minutes.
	Keep time.Duration
	// Now is the clock; the default is [time.Now].
	Now func() time.Time
}

// Resolver looks up where mail goes. It remembers answers for [Options.Keep],
// that there is nowhere to go for a minute. It may be used by several goroutines.
type Resolver struct {
	dns    SecureResolver
	names  map[string]bool
	own    func(netip.Addr) bool
	usable func(netip.Addr) bool
	now    func() time.Time
	found  time.Duration // Options.Keep

	mu      sync.Mutex
	known   map[string]answer
	flights map[string]*flight
}

type answer struct {
	destination Destination
	err         error
	until       time.Time
}

// flight is a lookup under way, for all who want to know the same.
type flight struct {
	done   chan struct{}
	answer answer
	// abandoned says that whoever did it did not wait for the answer.
	abandoned bool
}

// New makes a Resolver that asks r, and if that is a [SecureResolver] also
// whether answers are validated.
func New(r lookup.Resolver, o Options) *Resolver {
	m := &Resolver{dns: insecure{r}, names: map[string]bool{}, own: o.Own, usable: o.Usable, now: o.Now,
		found: o.Keep, known: map[string]answer{}, flights: map[string]*flight{}}
	if s, ok := r.(SecureResolver); ok {
		m.dns = s
	}
	if m.found <= 0 {
		m.found = keepFound
	}
	if m.now == nil {
		m.now = time.Now
	}
	for _, name := range o.Names {
		if name, err := lookup.Domain(name); err == nil {
			m.names[name] = true
		}
	}
	return m
}

// Lookup finds where mail for a domain goes, or for an address literal, as
// "[192.0.2.1]". The error is an [*Error].
func (r *Resolver) Lookup(ctx context.Context, domain string) (Destination, error) {
	if len(domain) > 0 && domain[0] == '[' {
		return r.literal(domain)
	}
	name, err := lookup.Domain(domain)
	if err != nil {
		return Destination{}, permanent("5.1.2", "%.300q is no domain name", domain)
	}
	for {
		a, f, mine := r.begin(name)
		switch {
		case f == nil:
			return a.result()
		case mine:
			return r.fly(ctx, name, f).result()
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return Destination{}, noAnswer(name, context.Cause(ctx))
		}
		if !f.abandoned {
			return f.answer.result()
		}
	}
}

func (a answer) result() (Destination, error) {
	if a.err != nil {
		return Destination{}, a.err
	}
	return a.destination.shuffled(), nil
}

// begin returns what is known, or the lookup that will tell, which may be the
// caller's to do.
func (r *Resolver) begin(name string) (a answer, f *flight, mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.known[name]; ok && r.now().Before(a.until) {
		return a, nil, false
	}
	if f := r.flights[name]; f != nil {
		return answer{}, f, false
	}
	f = &flight{done: make(chan struct{})}
	r.flights[name] = f
	return answer{}, f, true
}

// fly does a lookup and tells all who wait for it.
func (r *Resolver) fly(ctx context.Context, name string, f *flight) answer {
	f.abandoned = true // if the host's resolver panics
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.flights, name)
		close(f.done)
	}()
	bounded, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	a := answer{}
	a.destination, a.err = r.resolve(bounded, name)
	keep := r.found
	var e *Error
	if errors.As(a.err, &e) {
		keep = keepFailure
		if e.Permanent {
			keep = keepNothing
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a.until = r.now().Add(keep)
	f.answer, f.abandoned = a, a.err != nil && ctx.Err() != nil
	if !f.abandoned {
		r.keep(name, a)
	}
	return a
}

// keep remembers an answer. When there are too many, those that no longer hold
// go, and then any: they will be asked for again.
func (r *Resolver) keep(name string, a answer) {
	if len(r.known) >= keepDomains {
		for old, o := range r.known {
			if !r.now().Before(o.until) {
				delete(r.known, old)
			}
		}
		for old := range r.known {
			if len(r.known) < keepDomains*9/10 {
				break
			}
			delete(r.known, old)
		}
	}
	r.known[name] = a
}
