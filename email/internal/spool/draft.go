package spool

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
)

// Draft is a message's content while it arrives. It is kept in memory as long
// as it is small and there is memory to be had, and then where its store puts
// it; with a backend that takes the context that the draft was begun with.
// [Store.Add] or Discard ends it. Its methods may be called concurrently.
type Draft struct {
	pool *draftPool
	ctx  context.Context

	mu     sync.Mutex
	mem    []byte   // all of it, while long is nil
	long   overflow // where it is otherwise
	size   int64
	crc    uint32
	asked  int64 // size at which the disk was last asked for room
	err    error // of a Write; nothing goes on after it
	closed bool
}

// overflow holds a draft that is not in memory.
type overflow interface {
	io.ReaderAt
	append(p []byte) error
	discard()
}

// draftPool is what the drafts of a store share.
type draftPool struct {
	memory   budget
	perDraft int64                                       // bytes that one may keep in memory
	overflow func(ctx context.Context) (overflow, error) // nil: there is only memory
	room     func() error                                // nil: there is always room
	open     atomic.Int64
}

// roomStep is how much a long draft grows before it asks for room again.
const roomStep = 1 << 20

func (p *draftPool) draft(ctx context.Context) (*Draft, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if p.room != nil {
		if err := p.room(); err != nil {
			return nil, err
		}
	}
	p.open.Add(1)
	return &Draft{pool: p, ctx: ctx}, nil
}

// Write takes up more of the content. It fails with [ErrFull] when there is no
// room, and after an error it fails for good.
func (d *Draft) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return 0, fmt.Errorf("%w: it was added or discarded", ErrDraft)
	case d.err != nil:
		return 0, d.err
	}
	if d.err = d.write(b); d.err != nil {
		return 0, d.err
	}
	d.crc = crc32.Update(d.crc, castagnoli(), b)
	d.size += int64(len(b))
	return len(b), nil
}

func (d *Draft) write(b []byte) error {
	if d.long == nil {
		if d.grow(len(b)) {
			d.mem = append(d.mem, b...)
			return nil
		}
		if d.pool.overflow == nil {
			return fmt.Errorf("%w: no memory left for drafts", ErrFull)
		}
		long, err := d.pool.overflow(d.ctx)
		if err != nil {
			return err
		}
		d.long = long
		if err := long.append(d.mem); err != nil {
			return err
		}
		d.pool.memory.give(int64(cap(d.mem)))
		d.mem = nil
	}
	if d.pool.room != nil && d.size-d.asked >= roomStep {
		if err := d.pool.room(); err != nil {
			return err
		}
		d.asked = d.size
	}
	return d.long.append(b)
}

// grow makes room for n more bytes in memory, if they may be there.
func (d *Draft) grow(n int) bool {
	need, have := len(d.mem)+n, cap(d.mem)
	if need <= have {
		return true
	}
	for _, size := range []int{max((need+511)&^511, min(2*have, int(d.pool.perDraft))), need} {
		if int64(size) <= d.pool.perDraft && d.pool.memory.take(int64(size-have)) {
			mem := make([]byte, len(d.mem), size)
			copy(mem, d.mem)
			d.mem = mem
			return true
		}
	}
	return false
}

// Size returns how many bytes were written.
func (d *Draft) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}

// Body reads what has been written so far. It is good until the draft is added
// or discarded.
func (d *Draft) Body() *io.SectionReader {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.long != nil {
		return io.NewSectionReader(d.long, 0, d.size)
	}
	// What is written later goes behind this, or to another place.
	return io.NewSectionReader(bytes.NewReader(d.mem), 0, d.size)
}

// Discard gives the draft up. After Add, or a second time, it does nothing.
func (d *Draft) Discard() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.end().discard()
	}
}

func (d *Draft) end() *content {
	c := &content{pool: d.pool, mem: d.mem, long: d.long, size: d.size, crc: d.crc}
	d.closed, d.mem, d.long, d.size = true, nil, nil, 0
	d.pool.open.Add(-1)
	return c
}

// take ends the draft for a store that adds it.
func (p *draftPool) take(d *Draft) (*content, error) {
	if d == nil || d.pool != p {
		return nil, fmt.Errorf("%w: it is of another store", ErrDraft)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("%w: it was added or discarded", ErrDraft)
	}
	c := d.end()
	if d.err != nil {
		c.discard()
		return nil, fmt.Errorf("%w: %w", ErrDraft, d.err)
	}
	return c, nil
}

// content is what was in a draft.
type content struct {
	pool *draftPool
	mem  []byte
	long overflow
	size int64
	crc  uint32
}

// forget gives the memory back; what is elsewhere stays.
func (c *content) forget() {
	c.pool.memory.give(int64(cap(c.mem)))
	c.mem = nil
}

// discard gives everything back.
func (c *content) discard() {
	c.forget()
	if c.long != nil {
		c.long.discard()
		c.long = nil
	}
}

// budget bounds a sum of bytes.
type budget struct {
	max  int64 // 0: no bound
	used atomic.Int64
}

func (b *budget) take(n int64) bool {
	if used := b.used.Add(n); b.max > 0 && used > b.max {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// castagnoli is the polynomial of all checksums here: processors have an
// instruction for it.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }
