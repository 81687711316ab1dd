package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// managed is a name and its certificate.
type managed struct {
	name string
	// shown is what handshakes get: nil if there is none.
	shown     atomic.Pointer[tls.Certificate]
	used      atomic.Int64 // last handshake, in Unix seconds; on demand only
	wake      chan struct{}
	noRenewal bool
	least     time.Duration // between two orders

	mu       sync.Mutex
	onDemand bool
	cancel   context.CancelFunc // ends its goroutine; nil if there is none
	changed  chan struct{}      // closed when an attempt has ended
	pair     *keyPair
	renewal  acme.RenewalInfo
	staple   staple
	revoked  bool // says its OCSP responder
	asked    bool // for another one, by Renew
	askAgain time.Time
	blocked  bool // no challenge was possible at the last attempt
	state    State

	restUntil, renewAt, suggestAt, stapleAt time.Time
}

func (m *Manager) newManaged(name string, onDemand bool) *managed {
	return &managed{name: name, noRenewal: m.cfg.NoRenewal, least: m.cfg.RetryInterval, onDemand: onDemand, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

func (c *managed) begin(cancel context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = cancel
}

func (c *managed) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}

// wanted makes it one of the names that were asked for.
func (c *managed) wanted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onDemand = false
}

func (c *managed) isOnDemand() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.onDemand
}

// reset forgets failures of an earlier run.
func (c *managed) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Failures, c.state.LastError, c.state.NextTry, c.state.InProgress = 0, "", time.Time{}, false
}

// lookAgain makes the next attempt due where none was possible: routes may have
// changed.
func (c *managed) lookAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocked {
		c.blocked, c.state.NextTry = false, time.Time{}
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// Errors of [Manager.Renew].
var (
	ErrUnknownName = errors.New("no certificate is kept for this name")
	ErrTooEarly    = errors.New("too early for another certificate")
)

// Renew has another certificate of a name obtained now, or what failed tried
// again. It does not wait for that. It is an error if the name is not managed, and
// soon after one was obtained or it was called, as authorities allow a few a week
// only.
func (m *Manager) Renew(name string) error {
	c := (*m.names.Load())[CanonicalName(name)]
	if c == nil {
		return fmt.Errorf("%q: %w", name, ErrUnknownName)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now, earliest := time.Now(), c.askAgain
	if c.pair != nil && earliest.Before(c.restUntil) {
		earliest = c.restUntil
	}
	if now.Before(earliest) {
		return fmt.Errorf("%q: %w: not before %s", name, ErrTooEarly, earliest.UTC().Format(time.RFC3339))
	}
	c.asked, c.askAgain, c.state.NextTry = true, now.Add(c.least), time.Time{}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

func (c *managed) snapshot() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snapshotLocked()
}

func (c *managed) snapshotLocked() State {
	s := c.state
	s.Name, s.OnDemand = c.name, c.onDemand
	if c.pair != nil {
		s.Issuer, s.NotBefore, s.NotAfter = c.pair.issuer(), c.pair.leaf().NotBefore, c.pair.leaf().NotAfter
		s.Stapled = len(c.staple.raw) > 0
	}
	if s.NextTry.IsZero() && !s.InProgress && c.pair != nil && !c.noRenewal {
		s.NextTry = c.nextRenewal()
	}
	return s
}

// load takes the certificate from the storage, if there is one.
func (c *managed) load(ctx context.Context, kept *magic) error {
	k, err := kept.certificate(ctx, c.name)
	if err != nil || k == nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair == nil || k.leaf().NotAfter.After(c.pair.leaf().NotAfter) {
		c.use(k, acme.RenewalInfo{}, k.leaf().NotBefore)
	}
	return nil
}

// use makes a certificate of some time the one in use. c.mu is held.
func (c *managed) use(k *keyPair, info acme.RenewalInfo, since time.Time) {
	c.pair, c.renewal, c.staple, c.revoked, c.asked = k, info, staple{}, false, false
	c.restUntil, c.renewAt, c.suggestAt, c.stapleAt = since.Add(max(rest(k), c.least)), renewalTime(k, info), time.Time{}, time.Time{}
	if info.HasWindow() {
		c.suggestAt = suggestionTime(k, info, time.Now())
	}
	cert := k.tls
	c.shown.Store(&cert)
}

// keepGoing looks after a certificate until ctx ends.
func (m *Manager) keepGoing(ctx context.Context, r *run, c *managed) {
	if c.current() == nil {
		if err := c.load(ctx, r.magic); err != nil && ctx.Err() == nil {
			m.log.Error("no certificate from the storage", "name", c.name, "err", errorText(err))
		}
	}
	for ctx.Err() == nil {
		if m.isUnused(c) && m.drop(c) { // before it is renewed
			return
		}
		if m.isDue(c) {
			m.attempt(ctx, r, c)
		}
		if c.current() != nil && ctx.Err() == nil {
			m.askForRenewal(ctx, r, c)
			m.refreshStaple(ctx, c)
		}
		timer := time.NewTimer(time.Until(m.nextLook(c)))
		select {
		case <-timer.C:
		case <-c.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (c *managed) current() *keyPair {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pair
}

// isDue reports whether it is time for an attempt.
func (m *Manager) isDue(c *managed) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	return m.isWanted(c, now) && !now.Before(c.state.NextTry)
}

// isWanted reports whether another certificate is wanted. c.mu is held.
func (m *Manager) isWanted(c *managed, now time.Time) bool {
	if c.pair == nil || c.asked {
		return true
	}
	return !m.cfg.NoRenewal && !now.Before(c.nextRenewal())
}

// nextRenewal is when the certificate in use is to be replaced. c.mu is held.
func (c *managed) nextRenewal() time.Time {
	if c.revoked || c.renewAt.Before(c.restUntil) {
		return c.restUntil
	}
	return c.renewAt
}

// maxLook bounds the time between two looks, should the clock be changed.
const maxLook = time.Hour

// nextLook is when there is something to do.
func (m *Manager) nextLook(c *managed) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	next := now.Add(maxLook)
	sooner := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if m.isWanted(c, now) {
		sooner(c.state.NextTry)
	} else if !m.cfg.NoRenewal {
		sooner(c.nextRenewal())
	}
	if c.pair != nil {
		if !m.cfg.NoRenewal {
			sooner(c.suggestAt)
		}
		sooner(c.stapleAt)
	}
	if least := now.Add(100 * time.Millisecond); next.Before(least) { // whatever is wrong, no busy loop
		return least
	}
	return next
}

// attempt tries once to get a certificate.
func (m *Manager) attempt(ctx context.Context, r *run, c *managed) {
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return
	}
	c.mu.Lock()
	c.state.InProgress = true
	had := c.pair != nil
	c.mu.Unlock()

	trying, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	client := r.authority.client()
	err := m.obtain(trying, r, client, c)
	if err != nil && trying.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("not done in %v: %w", m.cfg.Timeout, err)
	}
	cancel()

	c.mu.Lock()
	c.state.InProgress = false
	e := Event{Kind: Obtained}
	switch {
	case err == nil:
		if had {
			e.Kind = Renewed
		}
		c.state.Failures, c.state.LastError, c.state.NextTry = 0, "", time.Time{}
	case errors.Is(err, errElsewhere): // which is all right
		c.state.Failures, c.state.LastError, c.state.NextTry = 0, err.Error(), time.Now().Add(maxLook)
		c.mu.Unlock()
		return
	case ctx.Err() != nil: // it was told to stop
		c.mu.Unlock()
		return
	default:
		var impossible *errImpossible
		c.blocked = errors.As(err, &impossible)
		c.state.Failures++
		c.state.TotalFailures++
		c.state.LastError = errorText(err)
		c.state.NextTry = time.Now().Add(backoff(m.cfg.RetryInterval, c.state.Failures, client.replies.asked()))
		e = Event{Kind: Failed, Err: err}
	}
	e.State = c.snapshotLocked()
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	m.tell(e)
}

// errElsewhere is why nothing is obtained for names that others answer for.
var errElsewhere = errors.New("somebody else has a certificate for this name (WithGetCertificate)")

// obtain gets a certificate from the storage, where another Router may have put
// one meanwhile, or from the authority.
func (m *Manager) obtain(ctx context.Context, r *run, client *client, c *managed) error {
	if !isDomain(c.name) {
		return &errImpossible{fmt.Sprintf("%q is no name that a certificate can be for: give domains, with \"*.\" in front or not, or certificate files", c.name)}
	}
	if c.isOnDemand() {
		if err := m.opts.onDemand(ctx, c.name); err != nil {
			return fmt.Errorf("not allowed: %w", err)
		}
	}
	if m.opts.others != nil && m.opts.others(c.name) {
		return errElsewhere
	}
	return r.shelf.alone(ctx, r.shelf.nameLease(c.name), func(ctx context.Context) error {
		if m.takeOver(ctx, r, c) {
			return nil
		}
		c.mu.Lock()
		failures := c.state.Failures
		req := &request{
			client: client,
			old:    c.pair,
			solve:  func() (solver, error) { return m.choose(c.name, failures) },
			registered: func(ctx context.Context, account string, identities []string) {
				m.publishCAA(ctx, r.shelf, c.name, account, identities)
			},
		}
		c.mu.Unlock()
		pair, err := r.magic.obtain(ctx, c.name, req)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.use(pair, req.renewal, time.Now())
		if req.challenge != "" {
			c.state.Challenge = req.challenge
		}
		return nil
	})
}

// takeOver reports whether another Router has obtained a certificate meanwhile,
// which is then in use.
func (m *Manager) takeOver(ctx context.Context, r *run, c *managed) bool {
	if err := c.load(ctx, r.magic); err != nil {
		m.log.Error("no certificate from the storage", "name", c.name, "err", errorText(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !m.isWanted(c, time.Now())
}

// askForRenewal asks the authority when it would like a certificate to be
// renewed. Without an answer it goes by what was known.
func (m *Manager) askForRenewal(ctx context.Context, r *run, c *managed) {
	c.mu.Lock()
	pair, due := c.pair, !time.Now().Before(c.suggestAt)
	c.mu.Unlock()
	if !due || m.cfg.NoRenewal || len(pair.leaf().AuthorityKeyId) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	client := r.authority.client()
	var info acme.RenewalInfo
	_, err := client.open(ctx)
	if err == nil {
		info, err = client.GetRenewalInfo(ctx, pair.leaf())
		info = suggested(info)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != pair {
		return
	}
	if err == nil && info.HasWindow() && !info.SameWindow(c.renewal) {
		c.renewal, c.renewAt = info, renewalTime(pair, info)
	}
	c.suggestAt = suggestionTime(pair, info, time.Now())
}
