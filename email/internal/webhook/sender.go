package webhook

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Event is something that happened.
type Event struct {
	// ID names the event; "" means a random name.
	ID string
	// Type says what happened, such as "delivered".
	Type string
	// Time is when; zero means now.
	Time time.Time
	// Data is more about it, JSON.
	Data json.RawMessage
}

// maxPayload bounds what is posted, in bytes.
const maxPayload = 64 << 10

// ErrTooLarge is returned for an event of more than 64 KB.
var ErrTooLarge = errors.New("webhook: the event is too large")

// Sender posts events. Make one with [New]. Its methods may be called from several
// goroutines.
type Sender struct {
	cfg       Config
	endpoints []*endpoint

	mu     sync.Mutex
	state  int // 0, started, closed
	cancel context.CancelFunc
	quit   chan struct{}
	loops  sync.WaitGroup
}

const (
	started = iota + 1
	closed
)

// New makes a Sender without doing any I/O. The error joins all mistakes, each a
// [conf.FieldError], the paths beginning with [i] for an endpoint.
func New(cfg Config) (*Sender, error) {
	cfg.setDefaults()
	s := &Sender{cfg: cfg, quit: make(chan struct{})}
	check := conf.NewChecker()
	urls := make(map[string]int)
	for i, c := range cfg.Endpoints {
		at := check.Index(i)
		e := newEndpoint(c, at)
		if before, twice := urls[c.URL]; twice && c.URL != "" {
			at.Field("url").Errorf("is that of [%d] already", before)
		}
		urls[c.URL] = i
		e.cfg = &s.cfg
		e.log = cfg.Log.With("endpoint", e.name)
		s.endpoints = append(s.endpoints, e)
	}
	if err := check.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

// Start reads what waited when the process ended, and begins to post. After that,
// Close has to be called.
func (s *Sender) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != 0 {
		return errors.New("webhook: it was started already")
	}
	if err := s.load(ctx); err != nil {
		return fmt.Errorf("webhook: reading what waits: %w", err)
	}
	s.state = started
	var life context.Context
	life, s.cancel = context.WithCancel(context.Background())
	for _, e := range s.endpoints {
		s.loops.Go(func() { e.run(life, s.quit) })
	}
	if s.cfg.Store != nil {
		s.loops.Go(func() { s.keep(life) })
	}
	return nil
}

// Send queues an event for the endpoints that want it, and does not wait for
// anything. It may be called before Start. The error is [ErrTooLarge], that the event
// cannot be written, or that the Sender was closed.
func (s *Sender) Send(ev Event) error {
	if ev.ID == "" {
		ev.ID = "evt_" + strings.ToLower(rand.Text())
	}
	if len(ev.ID) > 128 || strings.ContainsFunc(ev.ID, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '.' }) {
		return fmt.Errorf("webhook: %.150q cannot be the name of an event", ev.ID)
	}
	now := s.cfg.Now()
	if ev.Time.IsZero() {
		ev.Time = now
	}
	if ev.Data == nil {
		ev.Data = json.RawMessage("{}")
	}
	payload, err := json.Marshal(struct {
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}{ev.Type, ev.Time.UTC(), ev.Data})
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	if len(payload) > maxPayload {
		return fmt.Errorf("%w: %d bytes of %.50q; %d at most are possible", ErrTooLarge, len(payload), ev.Type, maxPayload)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == closed {
		return errors.New("webhook: it was closed")
	}
	for _, e := range s.endpoints {
		if len(e.wanted) == 0 || slices.Contains(e.wanted, ev.Type) {
			e.add(&item{ID: ev.ID, Created: now, Payload: payload})
		}
	}
	return nil
}

// Close ends the posting, waits for requests under way, though only some seconds,
// and stores what waits. If ctx ends before, what was not stored is lost.
func (s *Sender) Close(ctx context.Context) error {
	s.mu.Lock()
	before := s.state
	s.state = closed
	s.mu.Unlock()
	if before != started {
		return nil
	}
	close(s.quit)
	// The answers of requests under way are worth a while, but not the time to store.
	patience := 5 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	timer := time.AfterFunc(patience, s.cancel)
	defer timer.Stop()
	defer context.AfterFunc(ctx, s.cancel)()
	s.loops.Wait()
	s.cancel()
	closeIdle(s.cfg.Transport)
	var errs []error
	for _, e := range s.endpoints {
		errs = append(errs, e.save(ctx, true))
	}
	return errors.Join(errs...)
}

// Stats is how an endpoint does.
type Stats struct {
	// Endpoint is its scheme and host.
	Endpoint string
	// Queued is how many events wait. Sent were taken, Failed were given up, Dropped
	// had no room in the queue or no endpoint any more.
	Queued                int
	Sent, Failed, Dropped uint64
	// Failures is how many requests in a row have failed, LastError what the last of
	// them said, "" after a success.
	Failures  int
	LastError string
	// Disabled is set when the endpoint has answered that it is gone (410).
	Disabled bool
}

// Stats returns how the endpoints do, in the order of the configuration.
func (s *Sender) Stats() []Stats {
	list := make([]Stats, len(s.endpoints))
	for i, e := range s.endpoints {
		e.mu.Lock()
		list[i] = e.stats
		list[i].Endpoint, list[i].Queued, list[i].Failures = e.name, len(e.waiting)+len(e.underWay), e.failures
		e.mu.Unlock()
	}
	return list
}
