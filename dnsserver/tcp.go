package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Queries and answers over a stream have two bytes with their length in front
// (RFC 1035 section 4.2.2).
const (
	maxMessage = 1<<16 - 1

	// A connection that waits has but a small buffer. One whose client sends
	// many queries at once, or a long one, gets larger ones meanwhile.
	smallRead  = 512
	mediumRead = 8 << 10
	largeRead  = 2 + maxMessage

	// flushSize is how many answers are gathered for one write.
	flushSize = 16 << 10

	// maxSlow is how many queries of one connection may be under way that take
	// long, as zone transfers do. Further ones wait, and those behind them.
	maxSlow = 4
)

// errTooShort ends a connection whose client does not speak DNS.
var errTooShort = errors.New("a message is shorter than its header")

// streamConn serves one connection of DNS over TCP or TLS (RFC 7766, RFC 7858).
// One goroutine reads queries and answers them in line; only those that may
// take long get one of their own.
type streamConn struct {
	*clientConn

	small      [smallRead]byte
	in         []byte  // small, or *pooled
	pooled     *[]byte // nil, or where in belongs to
	start, end int     // of what is in in
	lastRead   int
	began      time.Time // when the message that is not complete yet began

	sc  *scratch // both held only while there are queries
	out *[]byte  // answers that are not written yet

	writing sync.Mutex // whole messages

	slow     chan struct{} // nil until one is
	slowDone sync.WaitGroup
	active   atomic.Int32 // slow ones under way
	ctx      context.Context
	cancel   context.CancelFunc
}

// serveStream answers queries until the client is through, or breaks the rules.
func serveStream(conn *clientConn) {
	c := &streamConn{clientConn: conn}
	c.in = c.small[:]
	err := errPanicked // unless it gets another value
	defer func() {
		if c.cancel != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, errStopping) {
				c.cancel() // nobody reads any more what is still being sent
			}
			c.slowDone.Wait()
			c.cancel()
		}
	}()
	err = c.answerAll()
	c.rest()
}

var (
	errStopping = errors.New("the server stops")
	errPanicked = errors.New("an answer panicked")
)

func (c *streamConn) answerAll() error {
	for {
		for c.end-c.start >= 2 {
			size := int(binary.BigEndian.Uint16(c.in[c.start:]))
			if size < headLen {
				c.stats.dropped.Add(1)
				return errors.Join(errTooShort, c.flush())
			}
			if c.end-c.start < 2+size {
				break
			}
			query := c.in[c.start+2 : c.start+2+size]
			c.start += 2 + size
			c.began = time.Time{}
			if err := c.answer(query); err != nil {
				return err
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// fill reads more.
func (c *streamConn) fill() error {
	idle := c.start == c.end
	if idle {
		c.start, c.end = 0, 0
		c.rest()
	}
	c.makeRoom()
	for {
		now := time.Now()
		until := now.Add(c.run.s.patience())
		since := now
		if !idle {
			if c.began.IsZero() {
				c.began = now
			}
			since, until = c.began, c.began.Add(messageTime)
		}
		mark := since.UnixNano()
		if c.active.Load() == 0 {
			c.waitsSince.Store(mark)
		}
		if err := c.waitUntil(until); err != nil {
			return err
		}
		n, err := c.Conn.Read(c.in[c.end:])
		c.waitsSince.CompareAndSwap(mark, 0) // a write may wait
		if n > 0 {
			c.asked.Store(true)
			c.end += n
			c.lastRead = n
			return nil // an error will come again
		}
		if idle && errors.Is(err, os.ErrDeadlineExceeded) && c.active.Load() > 0 && !c.run.closing.Load() {
			continue // it is not the client that we wait for
		}
		if c.run.closing.Load() {
			return errStopping
		}
		if err != nil {
			return err
		}
	}
}

// makeRoom sees to it that there is room for what comes next.
func (c *streamConn) makeRoom() {
	switch {
	case c.pooled == nil && c.lastRead > smallRead/2: // there will be more of them
		c.resize(0)
	case c.end < len(c.in):
	case c.start > 0:
		c.end = copy(c.in, c.in[c.start:c.end])
		c.start = 0
	case len(c.in) < mediumRead:
		c.resize(0)
	default:
		c.resize(1)
	}
}

// resize moves what is there into a larger buffer.
func (c *streamConn) resize(size int) {
	b := c.run.s.reading[size].Get().(*[]byte)
	c.end = copy(*b, c.in[c.start:c.end])
	c.start = 0
	c.shrink()
	c.in, c.pooled = *b, b
}

// shrink gives a larger buffer back.
func (c *streamConn) shrink() {
	if c.pooled == nil {
		return
	}
	size := 0
	if len(*c.pooled) == largeRead {
		size = 1
	}
	c.run.s.reading[size].Put(c.pooled)
	c.in, c.pooled = c.small[:], nil
}

// rest gives back what an idle connection does not need.
func (c *streamConn) rest() {
	c.shrink()
	if c.sc != nil {
		c.run.s.scratches.Put(c.sc)
		c.sc = nil
	}
	if c.out != nil {
		c.run.s.putMessage(c.out)
		c.out = nil
	}
}

// answer answers a query, or sees to it that somebody does.
func (c *streamConn) answer(query []byte) error {
	c.stats.queries.Add(1)
	if mayBeSlow(query) {
		if err := c.flush(); err != nil {
			return err
		}
		return c.answerSlowly(query)
	}
	if c.out == nil {
		c.out = c.run.s.getMessage()
		c.sc = c.run.s.scratches.Get().(*scratch)
	}
	at := len(*c.out)
	out := append(*c.out, 0, 0)
	out = c.run.s.responding(c.sc, out, query, &c.from)
	size := len(out) - at - 2
	if size <= 0 || size > maxMessage {
		*c.out = out[:at]
		c.stats.dropped.Add(1)
		return nil
	}
	binary.BigEndian.PutUint16(out[at:], uint16(size))
	*c.out = out
	c.stats.responses.Add(1)
	if len(out) >= flushSize {
		return c.flush()
	}
	return nil
}

// mayBeSlow knows queries that take more than a look into memory: updates and
// other operations, and zone transfers.
func mayBeSlow(query []byte) bool {
	const ixfr, axfr = 251, 252
	if query[2]&0x78 != 0 {
		return true
	}
	i := headLen
	for i < len(query) && query[i] != 0 && query[i] < 64 {
		i += 1 + int(query[i])
	}
	if i+3 > len(query) {
		return false
	}
	t := binary.BigEndian.Uint16(query[i+1:])
	return t == ixfr || t == axfr
}

// answerSlowly answers in a goroutine, so that queries behind this one need not
// wait for it.
func (c *streamConn) answerSlowly(query []byte) error {
	if c.slow == nil {
		c.slow = make(chan struct{}, maxSlow)
		c.ctx, c.cancel = context.WithCancel(c.run.ctx)
	}
	select {
	case c.slow <- struct{}{}:
	default:
		// What is answered must not wait with the query.
		var err error
		if c.waitFor(func() { err = c.gathered.flush() }); err != nil {
			return err
		}
		select {
		case c.slow <- struct{}{}:
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
	}
	s := c.run.s
	b := s.getMessage()
	*b = append(*b, query...)
	from := c.from
	c.active.Add(1)
	c.slowDone.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				c.run.panicked(from.addr, v)
				c.cut()
			}
			s.putMessage(b)
			c.active.Add(-1)
			<-c.slow
		}()
		sc := s.scratches.Get().(*scratch)
		sent := 0
		frame := s.getMessage()
		defer s.putMessage(frame)
		err := s.exchanging(c.ctx, sc, *b, &from, func(msg []byte) error {
			if len(msg) == 0 || len(msg) > maxMessage {
				return errors.New("a message has no length that fits")
			}
			*frame = append(binary.BigEndian.AppendUint16((*frame)[:0], uint16(len(msg))), msg...)
			if err := c.write(*frame); err != nil {
				return err
			}
			sent++
			c.stats.responses.Add(1)
			return nil
		})
		s.scratches.Put(sc)
		if sent == 0 {
			c.stats.dropped.Add(1)
		}
		if err != nil && c.run.mayLog() {
			c.run.log.Debug("a query was not answered to its end", "remote", from.addr, "err", err)
		}
		if err != nil && sent > 0 {
			c.cut() // the client must not take a part for the whole
		}
	})
	return nil
}

// flush writes what has been gathered.
func (c *streamConn) flush() error {
	if c.out == nil || len(*c.out) == 0 {
		return nil
	}
	err := c.write(*c.out)
	*c.out = (*c.out)[:0]
	return err
}

// write writes whole messages.
func (c *streamConn) write(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.send(b); err != nil {
		if c.cancel != nil {
			c.cut()
		}
		return err
	}
	return nil
}
