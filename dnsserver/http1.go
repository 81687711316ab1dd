package dnsserver

import (
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
		Handler:        r.s,
		ReadTimeout:    messageTime,
		WriteTimeout:   writeTime,
		IdleTimeout:    r.s.cfg.idleTimeout(),
		MaxHeaderBytes: maxHeaderList,
		Protocols:      protocols,
		ErrorLog:       slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
		ConnState:      func(nc net.Conn, state http.ConnState) { nc.(*http1Conn).note(state) },
	}
}

// http1Conn is a connection, in the hands of net/http.
type http1Conn struct {
	net.Conn
	client *clientConn
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
		c.client.waitsSince.Store(0)
	case http.StateIdle:
		c.client.waitsSince.Store(time.Now().UnixNano())
	case http.StateClosed:
		close(c.over)
	}
}

// Close closes the connection, after what has been gathered for it.
func (c *http1Conn) Close() error {
	c.client.gathered.flush()
	return c.Conn.Close()
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
