package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

var ctxBackground = context.Background()

// opener opens a kind of store on what it had before.
type opener func(t testing.TB) Store

// openBackend opens a storage that the test closes in the end.
func openBackend(t testing.TB, b storage.Backend) *storage.Store {
	t.Helper()
	st, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// stores are all kinds; each call of one begins with an empty one.
func stores() map[string]func(t testing.TB) opener {
	onStorage := func(backend func(t testing.TB) storage.Backend) func(t testing.TB) opener {
		return func(t testing.TB) opener {
			b := backend(t)
			return func(t testing.TB) Store {
				st := openBackend(t, b)
				s, err := OpenStorage(t.Context(), st, "email/spool", Options{})
				if err != nil {
					t.Fatal(err)
				}
				return closing{s, st}
			}
		}
	}
	return map[string]func(t testing.TB) opener{
		"Log": func(t testing.TB) opener {
			folder := t.TempDir()
			return func(t testing.TB) Store { return openTestLog(t, folder, Options{SegmentSize: 256 << 10}) }
		},
		"Memory":        func(t testing.TB) opener { return func(t testing.TB) Store { return Memory(Options{}) } },
		"StorageMemory": onStorage(func(testing.TB) storage.Backend { return storage.Memory() }),
		"StorageDir":    onStorage(func(t testing.TB) storage.Backend { return storage.Dir(t.TempDir()) }),
	}
}

// closing closes what is below with the store.
type closing struct {
	Store
	below io.Closer
}

func (c closing) Close(ctx context.Context) error {
	return errors.Join(c.Store.Close(ctx), c.below.Close())
}

func openTestLog(t testing.TB, folder string, opts Options) *fileLog {
	t.Helper()
	if opts.Headroom == 0 {
		opts.Headroom = -1 // machines that run tests may be short of it
	}
	s, err := OpenLog(folder, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s.(*fileLog)
}

// pattern is a body that differs from every other, and everywhere in itself.
func pattern(seed uint64, size int) []byte {
	block := make([]byte, 256)
	rng := rand.NewPCG(seed, 0)
	for i := 0; i < len(block); i += 8 {
		binary.LittleEndian.PutUint64(block[i:], rng.Uint64())
	}
	b := make([]byte, 0, size+len(block))
	for len(b) < size {
		binary.LittleEndian.PutUint64(block, rng.Uint64())
		b = append(b, block...)
	}
	return b[:size:size]
}

func add(s Store, id ID, envelope, body []byte) error {
	d, err := s.Draft(context.Background())
	if err != nil {
		return err
	}
	defer d.Discard()
	for b := range slices.Chunk(body, 20_000) {
		if _, err := d.Write(b); err != nil {
			return err
		}
	}
	return s.Add(context.Background(), id, envelope, d)
}

func mustAdd(t testing.TB, s Store, envelope, body []byte) ID {
	t.Helper()
	id := NewID(time.Now())
	if err := add(s, id, envelope, body); err != nil {
		t.Fatal(err)
	}
	return id
}

// check says how a message differs from what it should be.
func check(s Store, id ID, envelope, state, body []byte) error {
	ctx := context.Background()
	msg, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	if msg.ID != id || !bytes.Equal(msg.Envelope, envelope) || !bytes.Equal(msg.State, state) || msg.Size != int64(len(body)) {
		return fmt.Errorf("%s is %.60q %.60q %d, want %.60q %.60q %d", msg.ID, msg.Envelope, msg.State, msg.Size, envelope, state, len(body))
	}
	b, err := s.Body(ctx, id)
	if err != nil {
		return err
	}
	defer b.Close()
	got := make([]byte, b.Size())
	if _, err := io.ReadFull(b, got); err != nil {
		return err
	}
	if !bytes.Equal(got, body) {
		return fmt.Errorf("the body of %s is not what was added (%d bytes, want %d)", id, len(got), len(body))
	}
	return b.Close()
}

func ids(t testing.TB, s Store) []ID {
	t.Helper()
	var list []ID
	for msg, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, msg.ID)
	}
	return list
}

// TestConformance is what holds for every store.
func TestConformance(t *testing.T) {
	tests := map[string]func(t *testing.T, open opener){
		"Messages":  conformMessages,
		"Drafts":    conformDrafts,
		"Errors":    conformErrors,
		"Removed":   conformRemovedWhileRead,
		"Restart":   conformRestart,
		"Many":      conformMany,
		"Close":     conformClose,
		"Cancelled": conformCancelled,
	}
	for kind, fresh := range stores() {
		t.Run(kind, func(t *testing.T) {
			for name, test := range tests {
				t.Run(name, func(t *testing.T) {
					testenv.Goroutines(t)
					test(t, fresh(t))
				})
			}
		})
	}
}

func conformMessages(t *testing.T, open opener) {
	s := open(t)
	defer s.Close(t.Context())
	sizes := []int{0, 1, 7, 8, 4096, 64 << 10, 64<<10 + 1, 300_000, 600_000, 1 << 20, 1<<20 + 1, 1_500_000}
	var all []ID
	for i, size := range sizes {
		body, envelope := pattern(uint64(i), size), pattern(uint64(i)+1000, i*i*100)
		id := mustAdd(t, s, envelope, body)
		all = append(all, id)
		if err := check(s, id, envelope, nil, body); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		for _, state := range [][]byte{pattern(uint64(i)+2000, 100), pattern(uint64(i)+3000, 30_000), {}} {
			if err := s.SetState(t.Context(), id, state); err != nil {
				t.Fatal(err)
			}
			if err := check(s, id, envelope, state, body); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
		b, err := s.Body(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if size <= 4096 {
			if err := iotest.TestReader(b, body); err != nil {
				t.Error(err)
			}
		}
		for range 20 { // from anywhere
			if size == 0 {
				break
			}
			from := rand.IntN(size)
			part := make([]byte, min(size-from, 1+rand.IntN(70_000)))
			if _, err := b.ReadAt(part, int64(from)); err != nil && err != io.EOF || !bytes.Equal(part, body[from:from+len(part)]) {
				t.Errorf("%d bytes: %d from %d on are wrong (%v)", size, len(part), from, err)
			}
		}
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	}
	if got := ids(t, s); !slices.Equal(got, all) {
		t.Errorf("All says %v, want %v", got, all)
	}
	if st := s.Stats(); st.Messages != int64(len(all)) || st.Added != uint64(len(all)) || st.Bytes < 1_500_000 {
		t.Errorf("%+v", st)
	}
	for i, id := range all {
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if got := ids(t, s); !slices.Equal(got, all[i+1:]) {
			t.Errorf("All says %v, want %v", got, all[i+1:])
		}
	}
	if st := s.Stats(); st.Messages != 0 || st.Bytes != 0 || st.Removed != uint64(len(all)) || st.Drafts != 0 {
		t.Errorf("%+v", st)
	}
}

func conformDrafts(t *testing.T, open opener) {
	s := open(t)
	defer s.Close(t.Context())
	for _, size := range []int{0, 10, 100_000, 900_000, 3_000_000} {
		d, err := s.Draft(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		body := pattern(1, size)
		var early io.Reader
		for b := range slices.Chunk(body, 30_000) {
			if n, err := d.Write(b); n != len(b) || err != nil {
				t.Fatal(n, err)
			}
			if early == nil {
				early = d.Body()
			}
			b[0] ^= 0xff // it is ours again
			b[0] ^= 0xff
		}
		if d.Size() != int64(size) || d.Body().Size() != int64(size) {
			t.Errorf("%d bytes: the size is %d", size, d.Size())
		}
		for range 2 { // two scanners
			if got, err := io.ReadAll(d.Body()); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes: the draft is not what was written (%v)", size, err)
			}
		}
		if early != nil {
			if got, err := io.ReadAll(early); err != nil || !bytes.Equal(got, body[:min(size, 30_000)]) {
				t.Errorf("%d bytes: what was read before it was whole is wrong (%v)", size, err)
			}
		}
		d.Discard()
		d.Discard()
		if _, err := d.Write([]byte("x")); !errors.Is(err, ErrDraft) {
			t.Errorf("a write after Discard: %v", err)
		}
		if err := s.Add(t.Context(), NewID(time.Now()), nil, d); !errors.Is(err, ErrDraft) {
			t.Errorf("a discarded draft was added: %v", err)
		}
	}
	d, _ := s.Draft(t.Context())
	other, _ := Memory(Options{}).Draft(t.Context())
	for _, d := range []*Draft{other, nil} {
		if err := s.Add(t.Context(), NewID(time.Now()), nil, d); !errors.Is(err, ErrDraft) {
			t.Errorf("another store's draft was added: %v", err)
		}
	}
	if st := s.Stats(); st.Drafts != 1 || st.Messages != 0 {
		t.Errorf("%+v", st)
	}
	id := NewID(time.Now())
	if err := s.Add(t.Context(), id, []byte("e"), d); err != nil {
		t.Fatal(err)
	}
	d.Discard()
	if err := check(s, id, []byte("e"), nil, nil); err != nil {
		t.Errorf("discarded after Add: %v", err)
	}
}

func conformErrors(t *testing.T, open opener) {
	s := open(t)
	defer s.Close(t.Context())
	ctx := t.Context()
	id := mustAdd(t, s, []byte("one"), []byte("first"))
	if err := add(s, id, []byte("two"), []byte("second")); !errors.Is(err, ErrExists) {
		t.Errorf("the same ID again: %v", err)
	}
	if err := check(s, id, []byte("one"), nil, []byte("first")); err != nil {
		t.Error(err)
	}
	if err := add(s, NewID(time.Now()), make([]byte, MaxMeta+1), nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a long envelope: %v", err)
	}
	if err := s.SetState(ctx, id, make([]byte, MaxMeta+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a long state: %v", err)
	}
	big := pattern(1, MaxMeta)
	bigID := mustAdd(t, s, big, nil)
	if err := s.SetState(ctx, bigID, big); err != nil {
		t.Error(err)
	}
	if err := check(s, bigID, big, big, nil); err != nil {
		t.Error(err)
	}
	calls := func(id ID) []error {
		_, err1 := s.Get(ctx, id)
		_, err2 := s.Body(ctx, id)
		return []error{err1, err2, s.SetState(ctx, id, nil), s.Remove(ctx, id)}
	}
	for i, err := range calls(NewID(time.Now())) {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("call %d of an unknown ID: %v", i, err)
		}
	}
	for _, id := range []ID{"", "../../../etc/passwd00", ID(bytes.Repeat([]byte("z"), 21)), "0123456789ABCDEFGHJK"} {
		for i, err := range append(calls(id), add(s, id, nil, nil)) {
			if !errors.Is(err, ErrInvalidID) {
				t.Errorf("call %d of %q: %v", i, id, err)
			}
		}
	}
	if st := s.Stats(); st.Messages != 2 || st.Drafts != 0 {
		t.Errorf("%+v", st)
	}
}

func conformRemovedWhileRead(t *testing.T, open opener) {
	s := open(t)
	defer s.Close(t.Context())
	var bodies []*Body
	sizes := []int{1000, 200_000, 2_000_000}
	for i, size := range sizes {
		id := mustAdd(t, s, nil, pattern(uint64(i), size))
		b, err := s.Body(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, b)
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Body(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("the body of what was removed: %v", err)
		}
	}
	for i := range 30 { // so that it is cleaned
		id := mustAdd(t, s, nil, pattern(uint64(i+100), 100_000))
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range bodies {
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, pattern(uint64(i), sizes[i])) {
			t.Errorf("%d bytes: the body changed while it was open (%v)", sizes[i], err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func conformRestart(t *testing.T, open opener) {
	s := open(t)
	type want struct{ envelope, state, body []byte }
	all := make(map[ID]want)
	for i := range 20 {
		w := want{[]byte(fmt.Sprint("envelope ", i)), nil, pattern(uint64(i), i*i*2000)}
		id := mustAdd(t, s, w.envelope, w.body)
		if i%2 == 0 {
			w.state = pattern(uint64(i), 10*i+1)
			if err := s.SetState(t.Context(), id, w.state); err != nil {
				t.Fatal(err)
			}
		}
		all[id] = w
		if i%5 == 0 {
			if err := s.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			delete(all, id)
		}
	}
	d, err := s.Draft(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.Write(make([]byte, 2_000_000)) // left behind
	for round := range 3 {
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s = open(t)
		if _, ok := s.(*memory); ok {
			return // for it a restart is the end
		}
		got := ids(t, s)
		if len(got) != len(all) || !slices.IsSorted(got) {
			t.Fatalf("round %d: %d messages, want %d: %v", round, len(got), len(all), got)
		}
		for _, id := range got {
			w := all[id]
			if err := check(s, id, w.envelope, w.state, w.body); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		var bytes int64
		for _, w := range all {
			bytes += int64(len(w.body))
		}
		if st := s.Stats(); st.Messages != int64(len(all)) || st.Bytes != bytes || st.Damaged != 0 {
			t.Errorf("round %d: %+v, want %d bytes", round, st, bytes)
		}
		for _, id := range got[:3] {
			if err := s.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			delete(all, id)
		}
	}
	s.Close(t.Context())
}

// conformMany: many at once, each with messages of its own.
func conformMany(t *testing.T, open opener) {
	s := open(t)
	defer s.Close(t.Context())
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range 8 {
				size := rng.IntN(8000)
				if i%6 == 0 {
					size = rng.IntN(400_000)
				}
				body, envelope := pattern(uint64(w*1000+i), size), []byte(fmt.Sprint(w, i))
				id := NewID(time.Now())
				if err := add(s, id, envelope, body); err != nil {
					t.Error(err)
					return
				}
				state := []byte(fmt.Sprint("state ", w, i))
				if err := s.SetState(t.Context(), id, state); err != nil {
					t.Error(err)
				}
				if err := check(s, id, envelope, state, body); err != nil {
					t.Error(err)
				}
				if i%4 != 0 {
					if err := s.Remove(t.Context(), id); err != nil {
						t.Error(err)
					}
				}
				for _, err := range s.All(t.Context()) {
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := len(ids(t, s)); n != 8*2 {
		t.Errorf("%d messages are left, want 16", n)
	}
}

func conformClose(t *testing.T, open opener) {
	s := open(t)
	ctx := t.Context()
	id := mustAdd(t, s, []byte("e"), pattern(1, 100_000))
	body, err := s.Body(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Draft(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err1 := s.Get(ctx, id)
	_, err2 := s.Body(ctx, id)
	_, err3 := s.Draft(ctx)
	for i, err := range []error{err1, err2, err3, s.SetState(ctx, id, nil), s.Remove(ctx, id), s.Add(ctx, NewID(time.Now()), nil, d)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
	for _, err := range s.All(ctx) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("All after Close: %v", err)
		}
	}
	if got, err := io.ReadAll(body); err == nil && !bytes.Equal(got, pattern(1, 100_000)) {
		t.Error("the body changed")
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}

func conformCancelled(t *testing.T, open opener) {
	s := open(t)
	defer s.Close(t.Context())
	id := mustAdd(t, s, nil, nil)
	d, err := s.Draft(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err1 := s.Get(ctx, id)
	_, err2 := s.Body(ctx, id)
	_, err3 := s.Draft(ctx)
	for i, err := range []error{err1, err2, err3, s.SetState(ctx, id, []byte("x")), s.Remove(ctx, id), s.Add(ctx, NewID(time.Now()), nil, d)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := check(s, id, nil, nil, nil); err != nil {
		t.Error(err)
	}
	if n := len(ids(t, s)); n != 1 {
		t.Errorf("%d messages", n)
	}
}
