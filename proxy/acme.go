package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// A certification authority wants proof that we have a name, on the ports that
// serve it. The host answers, ahead of the routes: whether there is a
// certificate must not depend on what they do with the traffic for the name.

// challengePath is where an authority looks over HTTP (RFC 8555 section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// isHTTPChallenge reports whether a request may be an authority's.
func (r *run) isHTTPChallenge(c *conn, method, path string) bool {
	return r.p.opts.httpChallenge != nil && c.tls == nil && method == http.MethodGet && strings.HasPrefix(path, challengePath)
}

// answersChallenge lets the host answer a request, and reports whether it did.
func (r *run) answersChallenge(w http.ResponseWriter, req *http.Request, c *conn, rec *accessRecord) bool {
	if req.ContentLength != 0 {
		return false // a body would have to be waited for, and no authority sends one
	}
	out := byteCount{route: new(atomic.Uint64)} // of none
	rw := responseWriter{ResponseWriter: w, idle: r.times.Idle, bytes: &out, writeBy: &c.writeBy, edit: func(h http.Header) {
		if rec.id != "" {
			h.Set(r.p.requestIDHeader, rec.id)
		}
	}}
	if req.ProtoMajor > 1 {
		rw.writeBy = new(time.Time) // the deadline is the stream's
	}
	if !r.p.opts.httpChallenge(&rw, req) {
		return false
	}
	if rw.status == 0 {
		rw.WriteHeader(http.StatusOK)
	}
	rw.end()
	rec.status, rec.out, rec.aborted = rw.status, out.own.Load(), rw.broken
	return true
}

// acmeTLS1 is what an authority offers in ALPN, and nothing else
// (RFC 8737 section 3).
const acmeTLS1 = "acme-tls/1"

// isTLSChallenge reports whether a ClientHello may be an authority's.
func (r *run) isTLSChallenge(hello *clientHello) bool {
	return r.p.opts.tlsChallenge != nil && len(hello.protocols) == 1 && hello.protocols[0] == acmeTLS1
}

// answersTLSChallenge makes the handshake that proves a name if the host has a
// certificate for that, and reports whether it has. The connection is closed
// then; otherwise nothing has happened to it.
func (r *run) answersTLSChallenge(c *conn) bool {
	ctx, cancel := r.routeContext()
	defer cancel()
	// The host is asked before anything is sent, because the connection may have
	// to be passed on as it is. It is crypto/tls that reads the hello, so that the
	// host is told what it would be told otherwise.
	var cert *tls.Certificate
	var problem error
	tls.Server(helloConn{c, bytes.NewReader(c.head)}, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			cert, problem = r.p.opts.tlsChallenge(hello)
			return nil, errHelloRead
		},
	}).HandshakeContext(ctx)
	if cert == nil && problem == nil {
		return false
	}
	tc := tls.Server(c, &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{acmeTLS1},
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, problem },
		SessionTicketsDisabled: true,
	})
	if err := tc.HandshakeContext(ctx); err != nil {
		r.reject(c, &r.p.stats.badTLS, err)
		return true
	}
	r.log.Debug("proved a name to a certification authority", "conn_id", c.name(), "remote", c.client, "server_name", c.serverName)
	tc.Close() // no data follows, RFC 8737 section 3
	c.Close()
	return true
}

var errHelloRead = errors.New("the hello has been read")

// helloConn lets a hello that has been read be read once more, and keeps quiet.
type helloConn struct {
	net.Conn
	hello *bytes.Reader
}

func (c helloConn) Read(b []byte) (int, error)  { return c.hello.Read(b) }
func (c helloConn) Write(b []byte) (int, error) { return len(b), nil }
func (c helloConn) Close() error                { return nil }
