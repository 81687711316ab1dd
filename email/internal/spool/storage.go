package spool

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// OpenStorage returns a store on a backend, below prefix. A message is there
// when its last key is, which is written after its body's; what a crash left of
// bodies is removed here. Each call costs a write or more, and a message is as
// durable as the backend makes it.
//
// A lease on prefix keeps others out. OpenStorage waits for it as long as ctx
// lives, because that of a process that was killed may last a while, and then
// returns ErrInUse. Without the lease all calls fail. When it is lost, it is
// taken again, see storage_lease.go.
func OpenStorage(ctx context.Context, st *storage.Store, prefix string, opts Options) (Store, error) {
	prefix, err := storage.CanonicalKey(strings.TrimSuffix(prefix, "/"))
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	lease, err := st.Acquire(ctx, prefix+"/lock", 0)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, storage.ErrLocked) {
			err = fmt.Errorf("%w: %w", ErrInUse, err)
		}
		return nil, fmt.Errorf("spool: opening %q: %w", prefix, err)
	}
	s := &stored{st: st, prefix: prefix, log: opts.Logger, lease: lease, holder: rand.Text(), maxBytes: opts.MaxBytes,
		index: make(map[key]storedEntry), reading: make(map[uint64]*storedReaders), done: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.drafts.memory.max = cmp.Or(opts.DraftMemory, 32<<20)
	s.drafts.perDraft = chunkSize
	s.drafts.overflow = func(ctx context.Context) (overflow, error) { return newChunkWriter(ctx, s), nil }
	s.drafts.room = s.room
	// Before anything is changed. On a full disk, which only what leaves the spool
	// makes room on, that nobody holds it will do: a lost lease is then lost for good.
	if err = st.Put(ctx, s.holderKey(), []byte(s.holder)); err != nil && st.Delete(ctx, s.holderKey()) == nil {
		s.log.Warn("the spool cannot be marked as in use here", "err", err)
		err = nil
	}
	if err == nil {
		err = s.load(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("spool: opening %q: %w", prefix, errors.Join(err, lease.Release(context.WithoutCancel(ctx))))
	}
	keep, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.keeping.Go(func() { s.keepLease(keep, opts.OnLost) })
	return s, nil
}

// stored is the store that OpenStorage returns. Its keys, below the prefix:
//
//	messages/{ID}/{set}-{size}  checksums and sizes of the chunks, and the envelope
//	states/{ID}                 the state
//	bodies/{set}/{number}       a chunk of a body
//	holder                      who opened it last
//
// The set of chunks has a random name, because the ID comes after the body.
type stored struct {
	st       *storage.Store
	prefix   string
	log      *slog.Logger
	holder   string // a random name
	maxBytes int64
	drafts   draftPool
	done     chan struct{} // closed when Close has finished
	closeErr error
	busy     sync.WaitGroup
	cancel   context.CancelFunc // ends keepLease
	keeping  sync.WaitGroup

	mu      sync.Mutex
	lease   *storage.Lease
	index   map[key]storedEntry
	reading map[uint64]*storedReaders // by set
	stats   Stats
	closed  bool
}

type storedEntry struct {
	set  uint64
	size int64
	// ready is false while the message is being added, and again while it is
	// being removed.
	ready bool
}

// storedReaders counts who reads a set of chunks, which goes after the last.
type storedReaders struct {
	n    int
	gone []chunk // not nil: the message is removed, and these are to be
}

func (s *stored) messageKey(k key, e storedEntry) string {
	return fmt.Sprintf("%s/messages/%s/%016x-%d", s.prefix, k.id(), e.set, e.size)
}

func (s *stored) stateKey(k key) string { return s.prefix + "/states/" + string(k.id()) }

func (s *stored) chunkKey(set uint64, n int) string {
	return fmt.Sprintf("%s/bodies/%016x/%d", s.prefix, set, n)
}

// load reads what is there and removes what belongs to no message.
func (s *stored) load(ctx context.Context) error {
	sets := make(map[string]bool)
	for name, err := range s.st.List(ctx, s.prefix+"/messages/") {
		if err != nil {
			return err
		}
		k, e, ok := parseMessageKey(strings.TrimPrefix(name, s.prefix+"/messages/"))
		if !ok {
			continue // not ours
		}
		s.index[k] = e
		s.stats.Bytes += e.size
		sets[fmt.Sprintf("%016x", e.set)] = true
	}
	var orphans []string
	for name, err := range s.st.List(ctx, s.prefix+"/bodies/") {
		if err != nil {
			return err
		}
		if set, _, _ := strings.Cut(strings.TrimPrefix(name, s.prefix+"/bodies/"), "/"); !sets[set] {
			orphans = append(orphans, name)
		}
	}
	for name, err := range s.st.List(ctx, s.prefix+"/states/") {
		if err != nil {
			return err
		}
		k, err := ID(strings.TrimPrefix(name, s.prefix+"/states/")).key()
		if _, ok := s.index[k]; err == nil && !ok {
			orphans = append(orphans, name)
		}
	}
	for _, name := range orphans {
		if err := s.st.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func parseMessageKey(name string) (key, storedEntry, bool) {
	id, rest, _ := strings.Cut(name, "/")
	set, size, _ := strings.Cut(rest, "-")
	k, err1 := ID(id).key()
	setNumber, err2 := strconv.ParseUint(set, 16, 64)
	sizeNumber, err3 := strconv.ParseInt(size, 10, 64)
	e := storedEntry{set: setNumber, size: sizeNumber, ready: true}
	return k, e, err1 == nil && err2 == nil && err3 == nil && e.size >= 0
}

func (s *stored) room() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.maxBytes > 0 && s.stats.Bytes >= s.maxBytes {
		return fmt.Errorf("%w: it holds %d bytes", ErrFull, s.stats.Bytes)
	}
	return nil
}

// begin checks what every call checks; the call must end with s.busy.Done.
func (s *stored) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if err := s.lease.Err(); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.busy.Add(1)
	return nil
}

// find is begin for a message that must be there.
func (s *stored) find(ctx context.Context, id ID) (key, storedEntry, error) {
	k, err := id.key()
	if err != nil {
		return key{}, storedEntry{}, err
	}
	if err := s.begin(ctx); err != nil {
		return key{}, storedEntry{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.index[k]
	if !ok || !e.ready {
		s.busy.Done()
		return key{}, storedEntry{}, notFound(id)
	}
	return k, e, nil
}

func (s *stored) Draft(ctx context.Context) (*Draft, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.busy.Done()
	return s.drafts.draft(ctx)
}

func (s *stored) Add(ctx context.Context, id ID, envelope []byte, d *Draft) error {
	c, err := s.drafts.take(d)
	if err != nil {
		return err
	}
	if err := s.add(ctx, id, envelope, c); err != nil {
		c.discard()
		return fmt.Errorf("spool: adding %.40q: %w", string(id), full(err))
	}
	c.forget()
	return nil
}

func (s *stored) add(ctx context.Context, id ID, envelope []byte, c *content) error {
	if err := checkMeta("envelope", envelope); err != nil {
		return err
	}
	k, err := id.key()
	if err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.busy.Done()
	w, _ := c.long.(*chunkWriter)
	if w == nil {
		w = newChunkWriter(ctx, s)
		defer w.forget()
	}
	e := storedEntry{set: w.set, size: c.size}
	s.mu.Lock()
	if _, ok := s.index[k]; ok {
		s.mu.Unlock()
		return ErrExists
	}
	s.index[k] = e
	s.mu.Unlock()

	if c.long == nil {
		err = w.append(c.mem)
	}
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		if err = s.st.Put(ctx, s.messageKey(k, e), appendMessage(nil, w.chunks, envelope)); err != nil {
			// It may be there all the same, and then its body must stay.
			clean, cancel := afterwards(ctx)
			defer cancel()
			if e2 := s.st.Delete(clean, s.messageKey(k, e)); e2 != nil {
				err = errors.Join(err, e2)
				w.keep()
			}
		}
	}
	s.mu.Lock()
	if err == nil {
		e.ready = true
		s.index[k] = e
		s.stats.Added++
		s.stats.Bytes += e.size
	} else {
		delete(s.index, k)
	}
	s.mu.Unlock()
	if err != nil && c.long == nil {
		w.discard()
	}
	w.forget()
	return err
}

// afterwards is for tidying up, also when ctx has ended.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
}

func (s *stored) SetState(ctx context.Context, id ID, state []byte) error {
	if err := checkMeta("state", state); err != nil {
		return err
	}
	k, _, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	defer s.busy.Done()
	if err := s.st.Put(ctx, s.stateKey(k), state); err != nil {
		return fmt.Errorf("spool: state of %s: %w", id, full(err))
	}
	s.mu.Lock()
	s.stats.StateChanges++
	s.mu.Unlock()
	return nil
}

func (s *stored) Remove(ctx context.Context, id ID) error {
	k, e, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	defer s.busy.Done()
	s.setReady(k, false) // of two who remove it, one does
	_, chunks, err := s.readMessage(ctx, k, e)
	if errors.Is(err, ErrDamaged) {
		err = nil // the next start finds the chunks
	}
	if err == nil {
		err = s.st.Delete(ctx, s.messageKey(k, e))
	}
	if err != nil {
		s.setReady(k, true)
		return fmt.Errorf("spool: removing %s: %w", id, err)
	}
	s.mu.Lock()
	delete(s.index, k)
	s.stats.Removed++
	s.stats.Bytes -= e.size
	readers := s.reading[e.set]
	if readers != nil {
		readers.gone = chunks
	}
	s.mu.Unlock()
	ctx, cancel := afterwards(ctx)
	defer cancel()
	if err := s.st.Delete(ctx, s.stateKey(k)); err != nil {
		s.log.Warn("a state of the spool could not be removed; the next start does it", "msg_id", id, "err", err)
	}
	if readers == nil {
		s.removeChunks(ctx, e.set, len(chunks))
	}
	return nil
}

func (s *stored) setReady(k key, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index[k]
	e.ready = ready
	s.index[k] = e
}

func (s *stored) removeChunks(ctx context.Context, set uint64, n int) {
	for i := range n {
		if err := s.st.Delete(ctx, s.chunkKey(set, i)); err != nil {
			s.log.Warn("a body of the spool could not be removed; the next start does it", "key", s.chunkKey(set, i), "err", err)
			return
		}
	}
}

func (s *stored) Get(ctx context.Context, id ID) (Message, error) {
	k, e, err := s.find(ctx, id)
	if err != nil {
		return Message{}, err
	}
	defer s.busy.Done()
	envelope, _, err := s.readMessage(ctx, k, e)
	if err != nil {
		return Message{}, err
	}
	state, err := s.st.Get(ctx, s.stateKey(k))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return Message{}, fmt.Errorf("spool: %w", err)
	}
	return Message{ID: id, Envelope: envelope, State: state, Size: e.size}, nil
}

func (s *stored) readMessage(ctx context.Context, k key, e storedEntry) (envelope []byte, chunks []chunk, err error) {
	value, err := s.st.Get(ctx, s.messageKey(k, e))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil, notFound(k.id())
	} else if err != nil {
		return nil, nil, fmt.Errorf("spool: %w", err)
	}
	envelope, chunks, err = parseMessage(value)
	var size int64
	for _, c := range chunks {
		size += int64(c.size)
	}
	if err == nil && size != e.size {
		err = fmt.Errorf("%w: its chunks have %d bytes, not %d", ErrDamaged, size, e.size)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("spool: %s: %w", k.id(), err)
	}
	return envelope, chunks, nil
}

func (s *stored) All(ctx context.Context) iter.Seq2[Message, error] {
	return all(ctx, s, func() ([]key, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			return nil, ErrClosed
		}
		keys := make([]key, 0, len(s.index))
		for k, e := range s.index {
			if e.ready {
				keys = append(keys, k)
			}
		}
		return keys, nil
	})
}

func (s *stored) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Unusable = s.lease.Err()
	st.Drafts = s.drafts.open.Load()
	for _, e := range s.index {
		if e.ready {
			st.Messages++
		}
	}
	return st
}

func (s *stored) Close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if first {
		s.cancel()
		go func() {
			s.busy.Wait()
			s.keeping.Wait()
			release, cancel := afterwards(ctx)
			defer cancel()
			s.closeErr = s.lease.Release(release)
			close(s.done)
		}()
	}
	select {
	case <-s.done:
		return s.closeErr
	case <-ctx.Done():
		return fmt.Errorf("spool: closing: %w", ctx.Err())
	}
}
