package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"
)

// Bounds on what handshakes can ask for.
const (
	// newNamesPerMinute is how many names may be ordered for that were not known
	// before.
	newNamesPerMinute = 10
	// maxDecisions is how many times at once the host is asked about names.
	maxDecisions = 64
	// maxOnDemand is how many names there may be at once.
	maxOnDemand = 10_000
	// demandPatience is how long a handshake waits, unless it ends before.
	demandPatience = time.Minute
	// Names without certificate go when nobody has asked for them this long, and
	// certificates are not renewed.
	forgetFailed = time.Hour
	forgetUnused = 30 * 24 * time.Hour
)

// demand returns the certificate of a name that nobody has configured.
func (m *Manager) demand(ctx context.Context, name string) (*tls.Certificate, error) {
	if m.opts.onDemand == nil || !isDomain(name) || !strings.Contains(name, ".") {
		return nil, errNotFor(name)
	}
	ctx, cancel := context.WithTimeout(ctx, demandPatience)
	defer cancel()
	c := (*m.names.Load())[name]
	if c == nil {
		var err error
		if c, err = m.admit(ctx, name); err != nil {
			return nil, fmt.Errorf("no certificate for %q: %w", name, err)
		}
	}
	c.used.Store(time.Now().Unix())
	return c.wait(ctx)
}

// admit makes a name one that is managed.
func (m *Manager) admit(ctx context.Context, name string) (*managed, error) {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r == nil || !r.started {
		return nil, errors.New("certificates are not obtained yet, or no more")
	}
	if err := m.allowed(ctx, name); err != nil {
		return nil, err
	}
	kept, err := r.magic.certificate(ctx, name)
	var unusable *errUnusable
	if err != nil && !errors.As(err, &unusable) { // which is obtained anew
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.names.Load()
	if c := old[name]; c != nil { // somebody else was faster
		return c, nil
	}
	if len(old)-len(m.order) >= maxOnDemand {
		return nil, fmt.Errorf("%d names on demand already", maxOnDemand)
	}
	if kept == nil && !m.newNames.take(time.Now(), newNamesPerMinute) {
		return nil, fmt.Errorf("more than %d new names a minute", newNamesPerMinute)
	}
	c := m.newManaged(name, true)
	c.used.Store(time.Now().Unix())
	all := maps.Clone(old)
	all[name] = c
	m.names.Store(&all)
	m.keep(c)
	return c, nil
}

// allowed asks the host about a name that a stranger has come with.
func (m *Manager) allowed(ctx context.Context, name string) error {
	select {
	case m.decisions <- struct{}{}:
		defer func() { <-m.decisions }()
	case <-ctx.Done():
		return fmt.Errorf("not decided yet: %w", ctx.Err())
	}
	return m.opts.onDemand(ctx, name)
}

// wait waits for the end of the attempt that is under way or about to begin. It
// does not wait for another one after a failure.
func (c *managed) wait(ctx context.Context) (*tls.Certificate, error) {
	for {
		c.mu.Lock()
		changed, failed, busy := c.changed, c.state.LastError, c.state.InProgress
		c.mu.Unlock()
		if cert := c.shown.Load(); cert != nil {
			return cert, nil
		}
		if failed != "" && !busy {
			return nil, fmt.Errorf("no certificate for %q: %s", c.name, failed)
		}
		select {
		case <-changed:
		case <-time.After(time.Second): // it may have come from the storage
		case <-ctx.Done():
			return nil, fmt.Errorf("no certificate for %q yet: %w", c.name, ctx.Err())
		}
	}
}

// isUnused reports whether a name that came with a handshake is of no use any
// more.
func (m *Manager) isUnused(c *managed) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.onDemand {
		return false
	}
	idle := time.Since(time.Unix(c.used.Load(), 0))
	if c.pair == nil {
		return c.state.Failures > 0 && idle > forgetFailed
	}
	return idle > forgetUnused && !time.Now().Before(c.renewAt)
}

// drop forgets a name, unless it has become one that was asked for.
func (m *Manager) drop(c *managed) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.names.Load()
	if old[c.name] == c && !c.isOnDemand() {
		return false
	}
	all := maps.Clone(old)
	if all[c.name] == c {
		delete(all, c.name)
	}
	m.names.Store(&all)
	return true
}

// bucket limits what strangers cause: so many a minute, and as many at once.
type bucket struct {
	mu    sync.Mutex
	level float64
	at    time.Time
}

func (b *bucket) take(now time.Time, perMinute float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.level = perMinute
	} else {
		b.level = min(perMinute, b.level+now.Sub(b.at).Minutes()*perMinute)
	}
	b.at = now
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}
