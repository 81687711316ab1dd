package spool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// mortalBackend is a host's backend whose writes fail after some. The first
// that fails may have happened all the same.
type mortalBackend struct {
	mu      sync.Mutex
	values  map[string][]byte
	left    int // writes until it dies; negative: never
	through bool
}

func (b *mortalBackend) change(do func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		if b.through {
			do()
			b.through = false
		}
		return errDead
	}
	b.left--
	do()
	return nil
}

func (b *mortalBackend) Get(_ context.Context, key string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v, ok := b.values[key]; ok {
		return slices.Clone(v), nil
	}
	return nil, storage.ErrNotFound
}

func (b *mortalBackend) Put(_ context.Context, key string, value []byte) error {
	return b.change(func() { b.values[key] = slices.Clone(value) })
}

func (b *mortalBackend) Delete(_ context.Context, key string) error {
	return b.change(func() { delete(b.values, key) })
}

func (b *mortalBackend) List(_ context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		b.mu.Lock()
		keys := slices.Collect(maps.Keys(b.values))
		b.mu.Unlock()
		for _, k := range keys {
			if strings.HasPrefix(k, prefix) && !yield(k, nil) {
				return
			}
		}
	}
}

// TestStorageDies lets the host die before and in each write, between the
// chunks of a body too.
func TestStorageDies(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	for n := 1; n < 150; n += 1 + n/10 {
		for _, through := range []bool{false, true} {
			b := &mortalBackend{values: make(map[string][]byte), left: n, through: through}
			l := &ledger{msgs: make(map[ID]*ledgerEntry)}
			live := func() error {
				st, err := storage.Open(t.Context(), b)
				if err != nil {
					return err
				}
				defer st.Close()
				s, err := OpenStorage(t.Context(), st, "spool", Options{DraftMemory: 10_000}) // so that there are many chunks
				if err != nil {
					return err
				}
				defer s.Close(t.Context())
				if err := l.check(s); err != nil {
					return err
				}
				l.work(s, rand.New(rand.NewPCG(seed, uint64(n))), 60)
				return nil
			}
			if err := live(); err != nil && !errors.Is(err, errDead) {
				t.Fatal(err)
			}
			b.mu.Lock()
			b.left, b.through = -1, false
			b.mu.Unlock()
			if err := live(); err != nil {
				t.Fatalf("seed %d, died after %d writes (the last one happened: %v): %v", seed, n, through, err)
			}
			if err := leftovers(t, b, l); err != nil {
				t.Errorf("seed %d, died after %d writes: %v", seed, n, err)
			}
		}
	}
}

// leftovers removes every message and says what is left then.
func leftovers(t *testing.T, b *mortalBackend, l *ledger) error {
	st, err := storage.Open(t.Context(), b)
	if err != nil {
		return err
	}
	defer st.Close()
	s, err := OpenStorage(t.Context(), st, "spool", Options{})
	if err != nil {
		return err
	}
	defer s.Close(t.Context())
	for _, id := range ids(t, s) {
		if err := s.Remove(t.Context(), id); err != nil {
			return err
		}
	}
	for k := range b.values {
		if strings.HasPrefix(k, "spool/messages") || strings.HasPrefix(k, "spool/states") || strings.HasPrefix(k, "spool/bodies") {
			return fmt.Errorf("%s is left", k)
		}
	}
	return nil
}

// TestStorageSmallChunks: without memory for drafts they go to the backend in small
// chunks.
func TestStorageSmallChunks(t *testing.T) {
	st := openBackend(t, storage.Memory())
	s, err := OpenStorage(t.Context(), st, "/spool/", Options{DraftMemory: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for _, size := range []int{5000, 50_000, 700_000} {
		body := pattern(1, size)
		id := mustAdd(t, s, []byte("e"), body)
		if err := check(s, id, []byte("e"), nil, body); err != nil {
			t.Error(err)
		}
	}
	if n := s.(*stored).drafts.memory.used.Load(); n != 0 {
		t.Errorf("%d bytes are still on the books", n)
	}
}

// TestStorageCollects: a draft that comes in small pieces while others have taken
// the memory is not a write for each of them, and has large chunks once there is
// memory again.
func TestStorageCollects(t *testing.T) {
	b := &mortalBackend{values: make(map[string][]byte), left: -1}
	st := openBackend(t, b)
	s, err := OpenStorage(t.Context(), st, "spool", Options{DraftMemory: chunkSize})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	draft := func() *Draft {
		t.Helper()
		d, err := s.Draft(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Discard)
		return d
	}
	held, d := draft(), draft()
	if _, err := held.Write(make([]byte, chunkSize)); err != nil {
		t.Fatal(err)
	}
	body := pattern(1, 2*smallChunk+2*chunkSize)
	for i, piece := range slices.Collect(slices.Chunk(body, 64)) {
		if i*64 == 2*smallChunk {
			held.Discard()
		}
		if _, err := d.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	id := NewID(time.Now())
	if err := s.Add(t.Context(), id, []byte("e"), d); err != nil {
		t.Fatal(err)
	}
	chunks := 0
	for range st.List(t.Context(), "spool/bodies/") {
		chunks++
	}
	if chunks > 5 {
		t.Errorf("%d chunks", chunks)
	}
	if err := check(s, id, []byte("e"), nil, body); err != nil {
		t.Error(err)
	}
}

// TestStorageDamage: what another hand changed is not taken for a message.
func TestStorageDamage(t *testing.T) {
	b := &mortalBackend{values: make(map[string][]byte), left: -1}
	st := openBackend(t, b)
	s, err := OpenStorage(t.Context(), st, "spool", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for _, part := range []string{"spool/messages/", "spool/bodies/"} {
		id := mustAdd(t, s, []byte("envelope"), pattern(1, 1000))
		for k, v := range b.values {
			if strings.HasPrefix(k, part) {
				v[len(v)/2] ^= 1
			}
		}
		if err := check(s, id, []byte("envelope"), nil, pattern(1, 1000)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s was changed: %v", part, err)
		}
		if err := s.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

// TestStorageInUse: a lease keeps a second one out, and is given back.
func TestStorageInUse(t *testing.T) {
	testenv.Goroutines(t)
	st := openBackend(t, storage.Memory())
	s, err := OpenStorage(t.Context(), st, "spool", Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := OpenStorage(ctx, st, "spool", Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err = OpenStorage(t.Context(), st, "spool", Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close(t.Context())
}

// leaseBackend is a backend with leases of its own, which may be out of reach.
type leaseBackend struct {
	storage.Backend
	leases storage.Leaser
	down   atomic.Bool
}

func (b *leaseBackend) AcquireLease(ctx context.Context, name string, ttl time.Duration) (uint64, error) {
	if b.down.Load() {
		return 0, errDead
	}
	return b.leases.AcquireLease(ctx, name, ttl)
}

func (b *leaseBackend) RenewLease(ctx context.Context, name string, token uint64, ttl time.Duration) error {
	if b.down.Load() {
		return errDead
	}
	return b.leases.RenewLease(ctx, name, token, ttl)
}

func (b *leaseBackend) ReleaseLease(ctx context.Context, name string, token uint64) error {
	if b.down.Load() {
		return errDead
	}
	return b.leases.ReleaseLease(ctx, name, token)
}

// TestStorageLeaseLost: a lost lease is taken again, and what was begun goes on.
// Only where somebody else had the spool meanwhile it does not.
func TestStorageLeaseLost(t *testing.T) {
	for _, other := range []string{"nobody", "one that is there", "one that was there"} {
		t.Run(other, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := storage.Memory()
				b := &leaseBackend{Backend: m, leases: m.(storage.Leaser)}
				st := openBackend(t, b)
				lost := make(chan error, 1)
				s, err := OpenStorage(t.Context(), st, "spool", Options{OnLost: func(err error) { lost <- err }})
				if err != nil {
					t.Fatal(err)
				}
				id := mustAdd(t, s, []byte("e"), pattern(1, 1000))
				d, err := s.Draft(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := d.Write(pattern(2, 3*chunkSize)); err != nil {
					t.Fatal(err)
				}

				b.down.Store(true)
				time.Sleep(time.Minute)
				if _, err := s.Get(t.Context(), id); !errors.Is(err, storage.ErrLeaseLost) || !errors.Is(s.Stats().Unusable, storage.ErrLeaseLost) {
					t.Errorf("without the lease: %v, and in its figures %v", err, s.Stats().Unusable)
				}
				if other != "nobody" {
					st := openBackend(t, m)
					s, err := OpenStorage(t.Context(), st, "spool", Options{})
					if err != nil {
						t.Fatal(err)
					}
					defer s.Close(t.Context())
					if other == "one that was there" {
						s.Close(t.Context())
					}
				}
				b.down.Store(false)
				time.Sleep(10 * time.Second)
				addErr := s.Add(t.Context(), NewID(time.Now()), []byte("e"), d)
				_, getErr := s.Get(t.Context(), id)
				unusable := s.Stats().Unusable
				closeErr := s.Close(t.Context())
				if other == "nobody" {
					if addErr != nil || getErr != nil || unusable != nil || closeErr != nil {
						t.Errorf("with a new lease: %v, %v, %v, %v", addErr, getErr, unusable, closeErr)
					}
					return
				}
				if !errors.Is(addErr, storage.ErrLeaseLost) || !errors.Is(getErr, storage.ErrLeaseLost) {
					t.Errorf("it goes on behind the other's back: %v, %v", addErr, getErr)
				}
				select {
				case err := <-lost:
					if !errors.Is(err, ErrInUse) {
						t.Error(err)
					}
				default:
					t.Error("nobody is told")
				}
			})
		})
	}
}

// FuzzStoredMessage reads the value of a message.
func FuzzStoredMessage(f *testing.F) {
	f.Add(appendMessage(nil, []chunk{{5, 1}, {chunkSize, 2}}, []byte("envelope")))
	f.Add([]byte{storedVersion, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3, 4})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, appendMessage(nil, nil, data)} {
			envelope, chunks, err := parseMessage(b)
			if err != nil {
				continue
			}
			again, chunks2, err := parseMessage(appendMessage(nil, chunks, envelope))
			if err != nil || string(again) != string(envelope) || !slices.Equal(chunks, chunks2) {
				t.Fatalf("%x %v became %x %v (%v)", envelope, chunks, again, chunks2, err)
			}
		}
	})
}

// What is in the spool can leave it where nothing can be written any more.
func TestStorageOpensOnAFullDisk(t *testing.T) {
	b := &fullBackend{Backend: storage.Memory()}
	st := openBackend(t, struct {
		storage.Backend
		storage.Leaser
	}{b, b.Backend.(storage.Leaser)})
	s, err := OpenStorage(t.Context(), st, "spool", Options{})
	if err != nil {
		t.Fatal(err)
	}
	id := mustAdd(t, s, []byte("e"), pattern(1, 1000))
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.full.Store(true)
	if s, err = OpenStorage(t.Context(), st, "spool", Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if _, err := s.Get(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
}

type fullBackend struct {
	storage.Backend
	full atomic.Bool
}

func (b *fullBackend) Put(ctx context.Context, key string, value []byte) error {
	if b.full.Load() {
		return errors.New("no space left on device")
	}
	return b.Backend.Put(ctx, key, value)
}
