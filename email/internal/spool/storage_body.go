package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/dcrouter/dcrouter/storage"
)

// chunkSize is the greatest length of a chunk. It is well below what backends
// take as one value. smallChunk is what a draft collects where there is no memory
// for more: a chunk for each piece that comes from a slow client, and two flushes
// with it, would cost far more than that.
const (
	chunkSize  = 256 << 10
	smallChunk = 16 << 10
)

// chunk is a part of a body.
type chunk struct {
	size int
	crc  uint32
}

// chunkReader reads the chunks of a set, and keeps the last one it had.
type chunkReader struct {
	ctx    context.Context
	s      *stored
	set    uint64
	chunks []chunk

	mu   sync.Mutex
	have int // number of the chunk that data is, if that is not nil
	data []byte
}

func (r *chunkReader) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	var start int64
	for i, c := range r.chunks {
		end := start + int64(c.size)
		if pos := off + int64(n); pos >= start && pos < end {
			data, err := r.load(i)
			if err != nil {
				return n, err
			}
			n += copy(p[n:], data[pos-start:])
			if n == len(p) {
				return n, nil
			}
		}
		start = end
	}
	return n, io.EOF
}

func (r *chunkReader) load(i int) ([]byte, error) {
	if r.data != nil && r.have == i {
		return r.data, nil
	}
	name := r.s.chunkKey(r.set, i)
	data, err := r.s.st.Get(r.ctx, name)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, fmt.Errorf("spool: %w: %w", ErrDamaged, err)
	case err != nil:
		return nil, fmt.Errorf("spool: %w", err)
	case len(data) != r.chunks[i].size || crc32.Checksum(data, castagnoli()) != r.chunks[i].crc:
		return nil, fmt.Errorf("spool: %w: %q: %w", ErrDamaged, name, errChecksum)
	}
	r.have, r.data = i, data
	return data, nil
}

// Body opens a body. Its chunks are read and verified as they are needed.
func (s *stored) Body(ctx context.Context, id ID) (*Body, error) {
	k, e, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	defer s.busy.Done()
	s.mu.Lock()
	if _, ok := s.index[k]; !ok {
		s.mu.Unlock()
		return nil, notFound(id)
	}
	readers := s.reading[e.set]
	if readers == nil {
		readers = &storedReaders{}
		s.reading[e.set] = readers
	}
	readers.n++
	s.mu.Unlock()
	closeBody := func() error {
		s.mu.Lock()
		readers.n--
		last := readers.n == 0
		if last {
			delete(s.reading, e.set)
		}
		s.mu.Unlock()
		if last && readers.gone != nil {
			ctx, cancel := afterwards(ctx)
			defer cancel()
			s.removeChunks(ctx, e.set, len(readers.gone))
		}
		return nil
	}
	_, chunks, err := s.readMessage(ctx, k, e)
	if err != nil {
		return nil, errors.Join(err, closeBody())
	}
	return newBody(&chunkReader{ctx: ctx, s: s, set: e.set, chunks: chunks}, 0, e.size, closeBody), nil
}

// chunkWriter writes a draft as the chunks of a set.
type chunkWriter struct {
	ctx context.Context
	s   *stored
	set uint64

	mu     sync.Mutex
	chunks []chunk
	size   int64 // of the chunks
	buf    []byte
	taken  int64 // memory for buf
	reader *chunkReader
	tried  int  // chunks that may be there, also after an error
	kept   bool // discard leaves them
}

func newChunkWriter(ctx context.Context, s *stored) *chunkWriter {
	return &chunkWriter{ctx: ctx, s: s, set: newSalt()}
}

// append collects whole chunks if there is memory for them, and makes do with small
// ones otherwise.
func (w *chunkWriter) append(p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(p) > 0 {
		limit := w.limit()
		if len(w.buf) == 0 && len(p) >= limit { // nothing has to be collected
			n := min(len(p), chunkSize)
			if err := w.put(p[:n]); err != nil {
				return err
			}
			p = p[n:]
			continue
		}
		n := min(len(p), limit-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		if len(w.buf) == limit {
			if err := w.putBuf(); err != nil {
				return err
			}
		}
	}
	return nil
}

// limit is how much buf may hold. Whether there is memory is asked for each chunk.
func (w *chunkWriter) limit() int {
	if w.taken == 0 && len(w.buf) == 0 && w.s.drafts.memory.take(chunkSize) {
		w.taken = chunkSize
	}
	if w.taken == 0 {
		return smallChunk
	}
	return chunkSize
}

// put writes a chunk.
func (w *chunkWriter) put(b []byte) error {
	w.tried = len(w.chunks) + 1
	if err := w.s.st.Put(w.ctx, w.s.chunkKey(w.set, len(w.chunks)), b); err != nil {
		return full(err)
	}
	w.chunks = append(w.chunks, chunk{len(b), crc32.Checksum(b, castagnoli())})
	w.size += int64(len(b))
	return nil
}

// putBuf writes what was collected.
func (w *chunkWriter) putBuf() error {
	if len(w.buf) == 0 {
		return nil
	}
	if err := w.put(w.buf); err != nil {
		return err
	}
	w.buf = w.buf[:0]
	return nil
}

func (w *chunkWriter) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.putBuf()
}

func (w *chunkWriter) ReadAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	if off < w.size {
		if w.reader == nil {
			w.reader = &chunkReader{ctx: w.ctx, s: w.s, set: w.set}
		}
		w.reader.chunks = w.chunks
		var err error
		if n, err = w.reader.ReadAt(p, off); n == len(p) || err != io.EOF {
			return n, err
		}
	}
	if rest := off + int64(n) - w.size; rest < int64(len(w.buf)) {
		n += copy(p[n:], w.buf[rest:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// keep leaves the chunks for the next start to remove, or not.
func (w *chunkWriter) keep() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = true
}

// forget gives the memory back.
func (w *chunkWriter) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.s.drafts.memory.give(w.taken)
	w.taken, w.buf, w.reader = 0, nil, nil
}

func (w *chunkWriter) discard() {
	w.forget()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.tried
	if w.kept || n == 0 {
		return
	}
	w.chunks, w.tried = nil, 0
	ctx, cancel := afterwards(w.ctx)
	defer cancel()
	w.s.removeChunks(ctx, w.set, n)
}
