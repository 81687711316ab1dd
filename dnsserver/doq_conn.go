package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// quicConn is a connection of DNS over QUIC.
type quicConn struct {
	*quic.Conn
	place
	q       *quicServer
	from    asker
	stats   *counters
	answers chan struct{} // has an element for each that is made and not sent yet

	busy   atomic.Int32 // answers that are being made
	rested atomic.Int64 // when the last of them was, in Unix time in ns
}

func newQUICConn(q *quicServer, qc *quic.Conn) *quicConn {
	c := &quicConn{
		Conn: qc, q: q, from: asker{addr: addrPort(qc.RemoteAddr()), transport: overQUIC},
		stats: q.run.s.counters.shard(overQUIC), answers: make(chan struct{}, maxAnswers),
	}
	c.place.addr = c.from.addr.Addr()
	c.rested.Store(time.Now().UnixNano())
	return c
}

// work and rest are around what does not wait for the client.
func (c *quicConn) work() { c.busy.Add(1) }

func (c *quicConn) rest() {
	c.rested.Store(time.Now().UnixNano())
	c.busy.Add(-1)
}

func (c *quicConn) waiting() int64 {
	if c.busy.Load() > 0 {
		return 0
	}
	return c.rested.Load()
}

// hurry has nothing to do: who accepts streams knows of the end.
func (c *quicConn) hurry() {}

func (c *quicConn) cut() { c.CloseWithError(doqExcessiveLoad, "") }

// serve serves a connection to its end. Its client's address is proven by the
// handshake.
func (c *quicConn) serve() {
	q, r, client := c.q, c.q.run, connClient(c.place.addr)
	if !r.admit(c) {
		c.stats.refused.Add(1)
		c.CloseWithError(doqExcessiveLoad, "")
		return
	}
	defer r.forget(c)
	share := q.join(client)
	defer q.leave(client)
	c.stats.connections.Add(1)
	c.stats.open.Add(1)
	defer c.stats.open.Add(-1)
	var active atomic.Int32
	var streams sync.WaitGroup
	for {
		// Packets alone, that ask for nothing, keep no connection open.
		ctx, cancel := context.WithTimeout(q.accepting, r.s.patience())
		st, err := c.AcceptStream(ctx)
		cancel()
		if err != nil {
			if active.Load() > 0 && q.accepting.Err() == nil && c.Context().Err() == nil {
				continue
			}
			break
		}
		select {
		case share.streams <- struct{}{}:
		case <-c.Context().Done():
			continue
		}
		select {
		case q.streams <- struct{}{}:
		case <-c.Context().Done():
			<-share.streams
			continue
		}
		active.Add(1)
		streams.Go(func() {
			c.serveStream(st)
			active.Add(-1)
			<-q.streams
			<-share.streams
		})
	}
	streams.Wait()
	if r.closing.Load() {
		select {
		case <-time.After(farewell):
		case <-c.Context().Done():
		}
	}
	c.CloseWithError(doqNoError, "")
}

// errProtocol is a client that breaks RFC 9250, which ends its connection.
var errProtocol = errors.New("against the rules of DNS over QUIC")

// serveStream answers the query of a stream.
func (c *quicConn) serveStream(st *quic.Stream) {
	r := c.q.run
	in := r.s.getMessage()
	defer func() {
		if v := recover(); v != nil {
			r.panicked(c.from.addr, v)
			st.CancelWrite(doqInternalError)
		}
		r.s.putMessage(in)
	}()
	c.stats.queries.Add(1)
	query, err := readStream(st, in)
	if err == nil {
		err = c.answer(st, query)
	}
	if err == nil {
		st.Close()
		return
	}
	c.stats.dropped.Add(1)
	var reset *quic.StreamError
	switch {
	case errors.Is(err, errProtocol):
		c.CloseWithError(doqProtocolError, "")
	case errors.Is(err, errNotTaken):
		st.CancelWrite(doqExcessiveLoad)
	case errors.As(err, &reset):
		st.CancelWrite(doqRequestCancelled)
	default:
		st.CancelRead(doqUnspecifiedError)
		st.CancelWrite(doqUnspecifiedError)
	}
}

// readStream reads the one query that a stream has, after which it has to end.
func readStream(st *quic.Stream, in *[]byte) ([]byte, error) {
	st.SetReadDeadline(time.Now().Add(messageTime))
	b, err := readUpTo(st, *in, 2+maxMessage)
	*in = b
	if err != nil {
		return nil, err
	}
	return streamQuery(b)
}

// streamQuery checks what has come over a stream (RFC 9250 section 4.2).
func streamQuery(b []byte) ([]byte, error) {
	if len(b) < 2+headLen || len(b)-2 != int(binary.BigEndian.Uint16(b)) {
		return nil, errProtocol
	}
	msg := b[2:]
	if msg[0] != 0 || msg[1] != 0 {
		return nil, errProtocol
	}
	var q query
	q.parse(msg)
	if _, ok := q.option(dns.EDNS0TCPKEEPALIVE); ok { // of TCP, section 5.5.2
		return nil, errProtocol
	}
	return msg, nil
}

// errTooLong is about what exceeds any message.
var errTooLong = fmt.Errorf("%w: longer than any message", errProtocol)

// readUpTo appends what r has to b, which grows as it comes.
func readUpTo(r io.Reader, b []byte, limit int) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return b, errTooLong
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		}
	}
}

// takeTurn waits until the client has taken enough of what was made for it before.
func (c *quicConn) takeTurn() error {
	select {
	case c.answers <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(writeTime)
	defer timer.Stop()
	select {
	case c.answers <- struct{}{}:
		return nil
	case <-timer.C:
		return errNotTaken
	case <-c.Context().Done():
		return context.Cause(c.Context())
	}
}

// answer writes the answers to a query.
func (c *quicConn) answer(st *quic.Stream, query []byte) error {
	s, from := c.q.run.s, c.from
	slow := mayBeSlow(query) // of those that are long there are few, see maxTransfersOut
	if !slow {
		if err := c.takeTurn(); err != nil {
			return err
		}
		defer func() { <-c.answers }()
	}
	c.work()
	defer c.rest()
	sc := s.scratches.Get().(*scratch) // not to be given back after a panic
	out := s.getMessage()
	defer s.putMessage(out)
	sent := 0
	send := func() error {
		size := len(*out) - 2
		if size <= 0 || size > maxMessage {
			return errors.New("no response")
		}
		binary.BigEndian.PutUint16(*out, uint16(size))
		c.rest()
		defer c.work()
		st.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := st.Write(*out); err != nil {
			return err
		}
		sent++
		c.stats.responses.Add(1)
		return nil
	}
	if !slow {
		*out = s.responding(sc, append(*out, 0, 0), query, &from)
		s.scratches.Put(sc)
		return send()
	}
	err := s.exchanging(st.Context(), sc, query, &from, func(msg []byte) error {
		*out = append(append((*out)[:0], 0, 0), msg...)
		return send()
	})
	s.scratches.Put(sc)
	if err == nil && sent == 0 {
		return errors.New("no response")
	}
	return err
}
