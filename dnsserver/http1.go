package dnsserver

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// newHTTP1Server makes what serves clients of DNS over HTTPS that do not speak
// HTTP/2. They are few, so net/http does.
func newHTTP1Server(r *run) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:        http.HandlerFunc(r.serveHTTP1),
		ReadTimeout:    messageTime,
		WriteTimeout:   writeTime,
		IdleTimeout:    r.s.cfg.idleTimeout(),
		MaxHeaderBytes: maxHeaderList,
		Protocols:      protocols,
		ErrorLog:       slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
		ConnState:      func(nc net.Conn, state http.ConnState) { nc.(*http1Conn).note(state) },
	}
}

// serveHTTP1 answers a request, also while the run stops.
func (r *run) serveHTTP1(w http.ResponseWriter, req *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			r.panicked(addrPortOf(req.RemoteAddr), v)
			panic(http.ErrAbortHandler)
		}
	}()
	if r.closing.Load() {
		w.Header().Set("Connection", "close")
	}
	r.s.serveHTTP(w, req, nil)
}

// http1Conn is a connection in the hands of net/http.
type http1Conn struct {
	net.Conn
	client *clientConn
	idle   bool      // it begins to wait for a request
	since  time.Time // when it began to read it
	given  bool
	over   chan struct{} // closed when net/http is through with it
}

// serveHTTP1 answers requests until the client is through.
func serveHTTP1(conn *clientConn) {
	c := &http1Conn{Conn: conn.Conn, client: conn, over: make(chan struct{})}
	conn.run.http1.Serve((*http1Listener)(c)) // always an error
}

// note keeps the books.
func (c *http1Conn) note(state http.ConnState) {
	switch state {
	case http.StateActive:
		c.client.asked.Store(true)
		c.client.asking.Store(true)
	case http.StateIdle:
		c.client.asking.Store(false)
		c.idle, c.since = true, time.Time{}
	case http.StateClosed:
		close(c.over)
	}
}

// Read reads from the client, which is waited for, unless net/http looks for its
// end while it is answered. Then it reads a single byte.
func (c *http1Conn) Read(b []byte) (int, error) {
	if len(b) == 1 && c.client.asking.Load() {
		return c.Conn.Read(b)
	}
	if c.since.IsZero() {
		c.since = time.Now()
	}
	mark := c.since.UnixNano()
	c.client.waitsSince.Store(mark)
	defer c.client.waitsSince.CompareAndSwap(mark, 0)
	return c.Conn.Read(b)
}

// Write writes to the client, which has to take it.
func (c *http1Conn) Write(b []byte) (n int, err error) {
	c.client.waitFor(func() { n, err = c.Conn.Write(b) })
	return n, err
}

// SetReadDeadline sets what net/http thinks right, unless there is less patience.
func (c *http1Conn) SetReadDeadline(t time.Time) error {
	if c.idle && !t.IsZero() {
		t, c.idle = time.Now().Add(c.client.run.s.patience()), false
	}
	err := c.Conn.SetReadDeadline(t)
	if c.client.run.closing.Load() {
		c.client.hurry()
	}
	return err
}

// CloseWrite says goodbye after what has been gathered.
func (c *http1Conn) CloseWrite() (err error) {
	c.client.waitFor(func() {
		c.client.gathered.flush()
		if secure, ok := c.Conn.(*tls.Conn); ok {
			err = secure.CloseWrite()
		}
	})
	return err
}

// Close closes the connection, after the same.
func (c *http1Conn) Close() error {
	c.client.end()
	return nil
}

// http1Listener has one connection to give.
type http1Listener http1Conn

// Accept gives it, and then waits for its end.
func (l *http1Listener) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return (*http1Conn)(l), nil
	}
	<-l.over
	return nil, net.ErrClosed
}

// Close does nothing: the connection has an owner.
func (l *http1Listener) Close() error { return nil }

// Addr is the server's.
func (l *http1Listener) Addr() net.Addr { return l.LocalAddr() }
