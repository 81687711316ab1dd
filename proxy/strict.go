package proxy

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/netconn"
	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// strictConn is what net/http gets to see of an HTTP/1 connection: requests in
// the strict grammar of package h1 alone. net/http bears with some messages in
// which others have found two requests (both Content-Length and
// Transfer-Encoding, folded lines, bare line feeds); with one reader for all
// lanes there is nothing to disagree about.
type strictConn struct {
	net.Conn // to write to and close
	conn     *conn
	in       *h1.Reader
	limit    int
	begun    bool // a head, which has its own deadline
	unwanted bool // the body, which has a deadline, too

	ready []byte // to be read by net/http
	req   h1.Request
	body  h1.Body
	buf   []byte // for a chunk
	state strictState

	// hijacked says that a handler has taken the connection: what comes after
	// the request may be no HTTP.
	hijacked atomic.Bool
}

type strictState int

const (
	betweenRequests strictState = iota
	inBody
	unread   // net/http is to see the bytes as they are, and to refuse them
	refusing // net/http has been given something to refuse
)

// strict wraps a stream of the connection. head has been read from it.
func (r *run) strict(c *conn, stream, source net.Conn, head []byte) *strictConn {
	return &strictConn{Conn: stream, conn: c, in: h1.NewReader(source, &r.p.buffers, head), limit: r.server.MaxHeaderBytes}
}

// Read gives net/http a part of a request that has been found to be one.
func (s *strictConn) Read(p []byte) (int, error) {
	for len(s.ready) == 0 {
		var err error
		switch s.state {
		case betweenRequests:
			switch {
			case s.hijacked.Load():
				return s.in.Read(p)
			case s.conn.serving.Load():
				return 0, s.await()
			}
			err = s.nextHead()
		case inBody:
			err = s.nextPart(len(p))
		case unread:
			return s.in.Read(p)
		case refusing:
			err = io.EOF
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, s.ready)
	if s.ready = s.ready[n:]; len(s.ready) == 0 {
		s.ready = nil
	}
	return n, nil
}

// await is for net/http's look at whether the client is still there, during a
// request. That ends when something comes, which nobody can tell the meaning of
// as long as the handler may take the connection (RFC 9110 section 7.8): it stays
// where it is, and Read reads nothing.
func (s *strictConn) await() error {
	if len(s.in.Buffered()) > 0 {
		return nil
	}
	return s.in.Fill()
}

// nextHead reads the head of a request.
func (s *strictConn) nextHead() error {
	head, ok, err := s.in.Head(s.limit)
	s.conn.whole.Store(ok && err == nil)
	if err != nil {
		s.state = unread // net/http will say that it is too long
		return nil
	}
	if !ok {
		if len(s.in.Buffered()) > 0 && !s.begun {
			// net/http does not know yet that there is anything to wait for.
			s.begun = true
			s.conn.fresh.Store(false)
			s.conn.unread.Store(true)
			s.SetReadDeadline(deadline(s.conn.run.times.RequestHead))
		}
		err := s.in.Fill()
		if err == io.EOF && len(s.in.Buffered()) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	s.ready, s.begun = []byte(head), false
	if s.conn.fresh.Swap(false) {
		// connState is not told that a first request has begun where all of it
		// came with the look for HTTP/2's preface.
		s.conn.unread.Store(true)
	}
	if h1.IsMalformed(h1.ParseRequest(head, &s.req)) {
		// An answer has to wait for those before it, so net/http must give it.
		s.ready, s.state = []byte("malformed\r\n\r\n"), refusing
		return nil
	}
	if s.req.ContentLength != 0 {
		s.body, s.state = h1.NewBody(s.in, s.req.ContentLength), inBody
		s.conn.bodyIn.Store(false)
	}
	return nil
}

// nextPart reads a part of the body, as large as net/http has room for.
func (s *strictConn) nextPart(room int) error {
	if s.conn.unread.Load() && !s.unwanted {
		// There is no handler: net/http has refused the request itself, because of
		// Expect, and would wait for the body without end.
		s.unwanted = true
		s.SetReadDeadline(time.Now().Add(restOf(s.conn.run.times.Idle)))
	}
	const most = h1.ChunkHead + 2
	if want := min(max(room, 512), 32<<10) + most; len(s.buf) < want {
		s.buf = make([]byte, want)
	}
	n, err := s.body.Read(s.buf[h1.ChunkHead : len(s.buf)-2])
	s.ready = s.buf[h1.ChunkHead : h1.ChunkHead+n]
	chunked := s.req.ContentLength == h1.Chunked
	if chunked && n > 0 {
		s.ready = frameChunk(s.buf, n)
	}
	if s.body.Done() {
		s.conn.bodyIn.Store(true)
		if chunked {
			s.ready = append(s.ready, "0\r\n"...)
			s.ready = append(s.body.Trailer.Append(s.ready), "\r\n"...)
		}
		s.state, s.buf = betweenRequests, nil
		return nil
	}
	if h1.IsMalformed(err) {
		s.ready, s.state = []byte("malformed\r\n\r\n"), refusing
		return nil
	}
	if n > 0 {
		return nil
	}
	return err
}

// CloseWrite ends the client's direction, where the connection can do that.
func (s *strictConn) CloseWrite() error { return netconn.CloseWrite(s.Conn) }
