package history

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

const prefix = "email/history/"

// Config of [Open]. The zero value keeps everything in memory.
type Config struct {
	// Store is where records outlast a restart. It stays the caller's, and must be
	// open until Close has returned.
	Store *storage.Store
	// Log defaults to none, Now to the system's clock.
	Log *slog.Logger
	Now func() time.Time
	// MaxCount is how many messages are remembered, 100,000 by default, and MaxAge
	// for how long, 7 days by default. As whole chunks go, it may be some less.
	MaxCount int
	MaxAge   time.Duration
	// FlushEvery is how long records wait to be stored, 5 s by default.
	FlushEvery time.Duration
}

// ErrNotFound is returned for a message that is not known, or not any more.
var ErrNotFound = errors.New("no such message in the history")

// maxUnsaved is how many full chunks wait in memory where the storage does not
// take them. Then the oldest go.
const maxUnsaved = 32

// History is the finished messages. Make one with [Open]. Its methods may be called
// from several goroutines.
type History struct {
	cfg Config

	mu     sync.Mutex
	chunks []*chunk // the oldest first; the last is being filled
	index  map[string]place
	count  int      // records in all chunks
	stale  []string // keys to be deleted
	closed bool

	saving sync.Mutex // one writes to storage at a time
	quit   chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// chunk is some records in the order in which they finished.
type chunk struct {
	key   string
	ids   []string
	times []int64
	// records has the data while the chunk is filled or not saved; packed is the
	// whole where there is no storage.
	records []record
	packed  []byte
	bytes   int
	saved   int // how many records are in the storage
	gone    bool
}

func (c *chunk) full() bool { return len(c.ids) >= chunkRecords || c.bytes >= chunkBytes }

type place struct {
	chunk *chunk
	at    int
}

// Open reads the names of what is stored. Close the history.
func Open(ctx context.Context, cfg Config) (*History, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxCount <= 0 {
		cfg.MaxCount = 100_000
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 7 * 24 * time.Hour
	}
	if cfg.FlushEvery <= 0 {
		cfg.FlushEvery = 5 * time.Second
	}
	h := &History{cfg: cfg, index: make(map[string]place), quit: make(chan struct{})}
	if cfg.Store != nil {
		if err := h.load(ctx); err != nil {
			return nil, err
		}
	}
	var life context.Context
	life, h.cancel = context.WithCancel(context.Background())
	h.done.Go(func() { h.keep(life) })
	return h, nil
}

func (h *History) load(ctx context.Context) error {
	for key, err := range h.cfg.Store.List(ctx, prefix) { // in the order of time
		if err != nil {
			return err
		}
		value, err := h.cfg.Store.Get(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		list, _, err := readIndex(value)
		if err != nil {
			h.cfg.Log.Error("a part of the history of mail is damaged and left out", "key", key, "err", err)
			continue
		}
		if len(list) == 0 { // by an older version
			h.stale = append(h.stale, key)
			continue
		}
		c := &chunk{key: key, saved: len(list), bytes: chunkBytes} // full: nothing is added to it
		for _, e := range list {
			h.enter(c, e.id, e.finished)
		}
		h.chunks = append(h.chunks, c)
	}
	return nil
}

// enter is called with the lock held, or before anybody else knows h.
func (h *History) enter(c *chunk, id string, finished time.Time) {
	h.index[id] = place{c, len(c.ids)}
	c.ids = append(c.ids, id)
	c.times = append(c.times, finished.UnixMilli())
	h.count++
}

// Put keeps the record of a finished message, in place of one that it had. It waits
// for no storage. A name of more than 255 bytes or a record of more than [MaxData] is
// not kept, which is logged.
func (h *History) Put(id string, finished time.Time, data []byte) {
	if len(id) > maxID || len(data) > MaxData {
		h.cfg.Log.Error("a record is too long for the history of mail", "msg_id", fmt.Sprintf("%.100q", id), "bytes", len(data))
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	if n := len(h.chunks); n == 0 || h.chunks[n-1].full() {
		h.seal()
		key := fmt.Sprintf("%s%016x-%s", prefix, h.cfg.Now().UnixMilli(), strings.ToLower(rand.Text()[:12]))
		h.chunks = append(h.chunks, &chunk{key: key})
	}
	c := h.chunks[len(h.chunks)-1]
	c.records = append(c.records, record{id, max(0, finished.UnixMilli()), slices.Clone(data)})
	c.bytes += len(data)
	h.enter(c, id, finished)
	for h.count > h.cfg.MaxCount && len(h.chunks) > 1 {
		h.forget(0)
	}
}

// seal packs the last chunk where there is no storage for it.
func (h *History) seal() {
	n := len(h.chunks)
	if n == 0 || h.cfg.Store != nil {
		return
	}
	c := h.chunks[n-1]
	if packed, err := encodeChunk(c.records); err == nil {
		c.packed, c.records = packed, nil
	}
}

// forget drops a chunk. What is stored of it goes with the next flush.
func (h *History) forget(at int) {
	c := h.chunks[at]
	h.chunks = slices.Delete(h.chunks, at, at+1)
	for i, id := range c.ids {
		if h.index[id] == (place{c, i}) {
			delete(h.index, id)
		}
	}
	h.count -= len(c.ids)
	if c.gone, c.records = true, nil; c.saved > 0 {
		h.stale = append(h.stale, c.key)
	}
}

// Get returns the record of a message, or [ErrNotFound].
func (h *History) Get(ctx context.Context, id string) ([]byte, error) {
	h.mu.Lock()
	p, ok := h.index[id]
	if !ok || h.cfg.Now().Sub(time.UnixMilli(p.chunk.times[p.at])) > h.cfg.MaxAge {
		h.mu.Unlock()
		return nil, ErrNotFound
	}
	if p.chunk.records != nil {
		defer h.mu.Unlock()
		return slices.Clone(p.chunk.records[p.at].data), nil
	}
	packed, key := p.chunk.packed, p.chunk.key
	h.mu.Unlock()
	if packed == nil {
		var err error
		if packed, err = h.cfg.Store.Get(ctx, key); err != nil {
			if errors.Is(err, storage.ErrNotFound) { // it has just gone
				err = ErrNotFound
			}
			return nil, err
		}
	}
	return readData(packed, p.at)
}

// All yields the messages, those that finished last first, with their time.
func (h *History) All() iter.Seq2[string, time.Time] {
	return func(yield func(string, time.Time) bool) {
		h.mu.Lock()
		chunks := slices.Clone(h.chunks)
		h.mu.Unlock()
		for _, c := range slices.Backward(chunks) {
			h.mu.Lock()
			ids, times := c.ids, c.times // grow at the end only
			h.mu.Unlock()
			for i, id := range slices.Backward(ids) {
				h.mu.Lock()
				current := h.index[id] == place{c, i}
				h.mu.Unlock()
				if current && !yield(id, time.UnixMilli(times[i])) {
					return
				}
			}
		}
	}
}

// Len is how many messages are known.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.index)
}
