package certs

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/dcrouter/dcrouter/storage"
)

// Manager has the certificates of a set of names. Make one with [New]. Its
// methods may be called from several goroutines.
type Manager struct {
	cfg         Config
	opts        options
	log         *slog.Logger
	answers     *answers
	plainClient *http.Client
	slots       chan struct{} // one for each attempt under way
	decisions   chan struct{} // one for each name that the host is asked about
	standIn     standIn
	newNames    bucket // on demand

	names atomic.Pointer[map[string]*managed] // by name; copied on change
	mu    sync.Mutex                          // held by whoever changes names, wanted or run
	order []string                            // wanted, in the order given
	run   *run                                // nil: not loaded, or stopped

	events sync.Mutex // held while the host is told of one
	caa    sync.Mutex // held while CAA records are changed
}

// run is a Manager between Load and Stop.
type run struct {
	ctx       context.Context
	cancel    context.CancelFunc
	shelf     *shelf
	authority *authority
	magic     *magic
	started   bool
	wg        sync.WaitGroup
}

// maxAttempts is how many attempts are under way at once.
const maxAttempts = 8

// New makes a Manager. It does no I/O.
func New(cfg Config, opts ...Option) (*Manager, error) {
	m := &Manager{cfg: cfg, answers: new(answers), slots: make(chan struct{}, maxAttempts), decisions: make(chan struct{}, maxDecisions)}
	m.plainClient = &http.Client{Timeout: requestTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute}}
	for _, opt := range opts {
		opt(&m.opts)
	}
	m.cfg.Challenges = slices.Clone(cfg.Challenges)
	if err := m.cfg.check(&m.opts); err != nil {
		return nil, err
	}
	m.log = m.opts.log.With("component", "certificates")
	m.names.Store(&map[string]*managed{})
	return m, nil
}

// Check reads the files that the configuration names, and says what is wrong
// with them.
func (m *Manager) Check() error {
	_, err := readRoots(m.cfg.CARootPath)
	return err
}

// ErrRunning is returned by Load when the Manager has been loaded and not
// stopped.
var ErrRunning = errors.New("certs: already running")

// Load reads the certificates of the names from a storage. From then on they are
// there for handshakes. What cannot be read is logged, and obtained anew if the
// storage works but what it holds does not. It is an error that ctx ends, or that
// the roots of [Config.CARootPath] cannot be read.
func (m *Manager) Load(ctx context.Context, store *storage.Store) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil {
		return ErrRunning
	}
	roots, err := readRoots(m.cfg.CARootPath)
	if err != nil {
		return err
	}
	shelf := newShelf(store, m.cfg.Directory)
	authority := newAuthority(&m.cfg, shelf, roots)
	kept := newMagic(&m.cfg, shelf, authority, m.log)
	for _, c := range *m.names.Load() {
		c.reset()
		if err := c.load(ctx, kept); err != nil {
			m.log.Error("no certificate from the storage", "name", c.name, "err", errorText(err))
		}
		if err := ctx.Err(); err != nil {
			kept.close()
			return err
		}
	}
	m.answers.mu.Lock()
	m.answers.shelf = shelf
	m.answers.mu.Unlock()
	r := &run{shelf: shelf, authority: authority, magic: kept}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	m.run = r
	return nil
}

// Start begins to obtain and renew certificates, in the background. It goes
// after Load, and after whatever answers challenges is there.
func (m *Manager) Start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run == nil || m.run.started {
		return
	}
	m.run.started = true
	for _, name := range slices.Sorted(maps.Keys(*m.names.Load())) {
		m.keep((*m.names.Load())[name])
	}
	r := m.run
	r.wg.Go(func() {
		m.withdrawOldCAA(r.ctx, r.shelf)
		m.tidy(r.ctx, r.magic)
	})
}

// Stop ends what is under way and waits for it. The certificates stay there for
// handshakes. A Manager that has stopped can be loaded again.
func (m *Manager) Stop(context.Context) error {
	m.mu.Lock()
	r := m.run
	m.run = nil
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel()
	r.wg.Wait()
	r.magic.close()
	r.authority.close()
	m.plainClient.CloseIdleConnections()
	m.answers.mu.Lock()
	m.answers.shelf = nil
	m.answers.mu.Unlock()
	return nil
}

// SetNames sets the names to have certificates for: domains, which may have
// "*." in front. It returns at once. Names that are new are looked up in the
// storage and if need be obtained in the background; those that went are not
// renewed any more, and no longer answered for. What was obtained on demand
// stays.
func (m *Manager) SetNames(names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.names.Load()
	all := make(map[string]*managed, len(old))
	m.order = nil
	for _, name := range names {
		name = CanonicalName(name)
		if all[name] != nil {
			continue
		}
		m.order = append(m.order, name)
		c := old[name]
		if c == nil {
			c = m.newManaged(name, false)
		}
		c.wanted()
		all[name] = c
	}
	var gone []string
	for name, c := range old {
		switch {
		case all[name] != nil:
		case c.isOnDemand():
			all[name] = c
		default:
			c.stop()
			gone = append(gone, name)
		}
	}
	m.names.Store(&all)
	for name, c := range all {
		if old[name] == nil {
			m.keep(c)
		} else {
			c.lookAgain()
		}
	}
	if r := m.run; r != nil && r.started && len(gone) > 0 {
		r.wg.Go(func() {
			for _, name := range gone {
				m.withdrawCAA(r.ctx, r.shelf, name)
			}
		})
	}
}

// keep starts the goroutine that keeps a certificate. m.mu is held.
func (m *Manager) keep(c *managed) {
	if m.run == nil || !m.run.started {
		return
	}
	r := m.run
	ctx, cancel := context.WithCancel(r.ctx)
	c.begin(cancel)
	r.wg.Go(func() {
		defer cancel()
		m.keepGoing(ctx, r, c)
	})
}

func wildcardOf(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	return "*." + rest
}

// States lists what is managed, by name.
func (m *Manager) States() []State {
	var list []State
	for _, c := range *m.names.Load() {
		list = append(list, c.snapshot())
	}
	slices.SortFunc(list, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (m *Manager) tell(e Event) {
	attrs := []any{"name", e.State.Name}
	if e.Kind == Failed {
		m.log.Warn("no certificate", append(attrs, "err", e.State.LastError, "failures", e.State.Failures, "next_try", e.State.NextTry)...)
	} else {
		m.log.Info("certificate "+e.Kind, append(attrs, "issuer", e.State.Issuer, "not_after", e.State.NotAfter, "challenge", e.State.Challenge)...)
	}
	if m.opts.events != nil {
		m.events.Lock()
		defer m.events.Unlock()
		m.opts.events(e)
	}
}

// keepExpired is for how long certificates of names that are not managed any
// more stay in the storage after they have expired.
const keepExpired = 30 * 24 * time.Hour

// tidy removes from the storage what nobody needs, once a day.
func (m *Manager) tidy(ctx context.Context, kept *magic) {
	for pause(ctx, 24*time.Hour) == nil {
		if err := m.tidyOnce(ctx, kept); err != nil {
			m.log.Warn("cannot remove certificates that have expired", "err", errorText(err))
		}
	}
}

func (m *Manager) tidyOnce(ctx context.Context, kept *magic) error {
	return certmagic.CleanStorage(ctx, kept.config.Storage, certmagic.CleanStorageOptions{
		Logger:                 zapLogger(m.log),
		ExpiredCerts:           true,
		ExpiredCertGracePeriod: keepExpired,
	})
}
