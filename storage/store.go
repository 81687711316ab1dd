package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// DefaultMaxValueSize is the greatest length of a value, in bytes, unless
// [WithMaxValueSize] sets another: 16 MiB.
const DefaultMaxValueSize = 16 << 20

// schemaVersion is the value of schemaKey that this package reads and writes.
const schemaVersion = "1"

// Store is what components use: a [Backend] and everything that the backend
// does not do by itself. Make one with [Open]. Its methods may be called
// concurrently, and after Close they fail with [ErrClosed].
//
// What the Store does in place of the backend holds among all users of this
// one Store. So open a backend once and share the Store: two Stores on one
// plain backend do not see each other's revisions, watches and leases.
type Store struct {
	backend Backend
	opener  Opener      // nil: the backend need not be opened
	cond    Conditional // nil: revisions are kept here
	expirer Expirer     // nil: expiry is kept here
	watcher Watcher     // nil: the hub does it
	leaser  Leaser      // never nil: the backend's, or a leaseTable
	stater  Stater      // nil: unknown

	log        *slog.Logger
	maxValue   int
	sweepPause time.Duration
	caps       Caps

	locks  *keyLocks // one writer a key
	lists  *listGate // keeps the removal of expired values and List apart
	local  *localState
	hub    *hub
	fence  *fence         // of the leaseTable; nil if the backend has leases
	leases *releaseNotice // who waits here for a lease

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	wake   chan struct{}  // tells the sweeper about an earlier expiry
	wg     sync.WaitGroup // the sweeper and the renewals of leases

	mu       sync.RWMutex // held for reading by every operation under way
	closed   bool
	closeErr error
	done     chan struct{} // closed when Close has finished
}

// Caps says what the backend does by itself. What it does not, the Store does
// within this process.
type Caps struct {
	NativeRevisions bool // Create and CompareAndSwap: Conditional
	NativeTTL       bool // Expirer
	NativeWatch     bool // Watcher
	NativeLeases    bool // Leaser

	// ClusterSafe: all four are native and the backend says, by
	// [Clustered], that several processes may use it at once.
	ClusterSafe bool
}

// Option changes how [Open] opens a Store.
type Option func(*openConfig)

type openConfig struct {
	log         *slog.Logger
	maxValue    int
	migrateFrom Backend
	readOnly    bool // write nothing, not even the schema, and sweep nothing
	sweepPause  time.Duration
}

// WithLogger sets where the Store reports what no caller waits for, such as
// an expired value that could not be removed. The default discards it.
func WithLogger(log *slog.Logger) Option { return func(c *openConfig) { c.log = log } }

// WithMaxValueSize sets the greatest length of a value in bytes; the default
// is [DefaultMaxValueSize]. Longer values fail with [ErrTooLarge].
func WithMaxValueSize(bytes int) Option { return func(c *openConfig) { c.maxValue = bytes } }

// MigrateFrom makes Open copy everything from old, once: when that is done a
// record in the new backend says so, and later calls of Open do not even open
// old. If it is interrupted Open fails, and the next Open goes on with it. A
// key that has a different value in the new backend makes Open fail with
// [ErrExists] before anything is copied. Nobody may write to old meanwhile.
// old is not changed. To see progress or to overwrite, call [Migrate].
func MigrateFrom(old Backend) Option { return func(c *openConfig) { c.migrateFrom = old } }

// Open opens b and returns the Store on it. ctx bounds the opening only. If b
// is an [Opener] it is opened here and closed by [Store.Close].
//
// Errors: ErrInUse if the backend is open elsewhere; ErrSchema if the data is
// from a newer version; what the backend and the migration say.
func Open(ctx context.Context, b Backend, opts ...Option) (*Store, error) {
	cfg := openConfig{log: slog.New(slog.DiscardHandler), maxValue: DefaultMaxValueSize, sweepPause: time.Second}
	for _, o := range opts {
		o(&cfg)
	}
	switch {
	case b == nil:
		return nil, &KeyError{Op: "open", Err: errors.New("no backend given; use Memory, Dir, Funcs or one of your own")}
	case cfg.log == nil:
		return nil, &KeyError{Op: "open", Err: errors.New("WithLogger: nil logger; leave the option out to discard the log")}
	case cfg.maxValue <= 0:
		return nil, &KeyError{Op: "open", Err: fmt.Errorf("WithMaxValueSize: %d is not a size; give a positive number of bytes", cfg.maxValue)}
	}

	s := newStore(b, cfg)
	if s.opener != nil {
		if err := s.opener.Open(ctx); err != nil {
			return nil, keyErr("open", "", err)
		}
	}
	if err := s.prepare(ctx, cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// newStore puts a Store together; nothing runs yet.
func newStore(b Backend, cfg openConfig) *Store {
	s := &Store{
		backend: b, log: cfg.log, maxValue: cfg.maxValue, sweepPause: cfg.sweepPause,
		locks: newKeyLocks(), lists: newListGate(), local: newLocalState(rand.Text()), hub: newHub(), leases: newReleaseNotice(),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.opener, _ = b.(Opener)
	s.cond, s.caps.NativeRevisions = b.(Conditional)
	s.expirer, s.caps.NativeTTL = b.(Expirer)
	s.watcher, s.caps.NativeWatch = b.(Watcher)
	s.leaser, s.caps.NativeLeases = b.(Leaser)
	s.stater, _ = b.(Stater)
	if !s.caps.NativeLeases {
		s.fence = &fence{backend: b}
		s.leaser = newLeaseTable(s.fence.next)
	}
	if c, ok := b.(Clustered); ok {
		s.caps.ClusterSafe = c.ClusterSafe() && s.caps.NativeRevisions && s.caps.NativeTTL &&
			s.caps.NativeWatch && s.caps.NativeLeases
	}
	return s
}

// prepare does what needs the open backend.
func (s *Store) prepare(ctx context.Context, cfg openConfig) error {
	if err := s.checkSchema(ctx, cfg.readOnly); err != nil {
		return err
	}
	if s.expirer == nil {
		if err := s.loadExpiry(ctx); err != nil {
			return err
		}
	}
	if cfg.migrateFrom != nil {
		if err := s.migrateOnce(ctx, cfg); err != nil {
			return err
		}
	}
	if s.expirer == nil && !cfg.readOnly {
		s.wg.Go(s.sweep)
	}
	return nil
}

func (s *Store) checkSchema(ctx context.Context, readOnly bool) error {
	v, err := s.backend.Get(ctx, schemaKey)
	switch {
	case isNotFound(err):
		if readOnly {
			return nil
		}
		return keyErr("open", schemaKey, s.backend.Put(ctx, schemaKey, []byte(schemaVersion)))
	case err != nil:
		return keyErr("open", schemaKey, err)
	case string(v) != schemaVersion:
		return keyErr("open", schemaKey, fmt.Errorf("%w: schema %.20q, known is %q", ErrSchema, v, schemaVersion))
	}
	return nil
}

// Caps says what the backend does by itself and whether the Store is fit for
// several processes.
func (s *Store) Caps() Caps { return s.caps }

// Close ends watches, releases leases, waits for operations under way, stops
// every goroutine of the Store and closes the backend if Open opened it. It
// may be called more than once, also at once; every call waits for the end
// and returns the same.
func (s *Store) Close() error {
	s.cancel() // waiting Acquires give up, leases are released
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return s.closeErr
	}
	s.closed = true
	s.mu.Unlock()

	s.hub.close()
	s.wg.Wait()
	if s.opener != nil {
		s.closeErr = keyErr("close", "", s.opener.Close())
	}
	close(s.done)
	return s.closeErr
}

// begin starts an operation that Close must wait for; call the result at its
// end. Operations do not nest: a waiting Close would come in between.
func (s *Store) begin() (end func(), err error) {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return nil, ErrClosed
	}
	return s.mu.RUnlock, nil
}
