package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// target is one server behind the proxy, with everything about it that must
// survive updates of the routing table: connections, health, counters. Routes
// that send to the same server on the same terms share it.
type target struct {
	proxy *Proxy
	key   targetKey
	name  string // host:port, for logs and statistics
	tls   *tls.Config
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	conns connPool        // idle HTTP/1.1 connections
	h2    *http.Transport // nil unless it speaks HTTP/2
	round uint64          // of the last assembly with a route to it; see there

	h2gate dialGate

	active   atomic.Int64
	total    atomic.Uint64 // streams and requests
	failures atomic.Uint64 // could not be reached, or broke off

	lastError atomic.Pointer[string]
	standing
}

// targetKey is the identity of a target.
type targetKey struct {
	host      string
	port      int    // PreservePort if it depends on the connection
	protocol  string // H2, H2C, or "" for HTTP/1.1
	reencrypt bool
	upstream  UpstreamTLS
	caPEM     string // contents of upstream.CAPath

	proxyVersion int // of the PROXY protocol to send, 0: none
	udp          bool
}

func (p *Proxy) newTarget(key targetKey, tlsConfig *tls.Config) *target {
	times := p.times
	dialer := &net.Dialer{Timeout: max(times.Connect, 0)}
	t := &target{proxy: p, key: key, tls: tlsConfig, name: net.JoinHostPort(key.host, portName(key.port))}
	if key.udp {
		t.name += "/udp"
	}
	t.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		// With TLS to the target the pool's address carries the server name,
		// so that connections for different names are not mixed up. Where to
		// connect to is the target's business alone.
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		ctx, cancel := t.whileRunning(ctx)
		defer cancel()
		conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(key.host, port))
		if err != nil {
			return nil, &dialError{err}
		}
		return conn, nil
	}
	if key.protocol != "" {
		t.h2 = newHTTP2Transport(t, &t.h2gate)
	}
	return t
}

// whileRunning ends ctx when the Proxy stops.
func (t *target) whileRunning(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	r := t.proxy.latest()
	if r == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(r.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// dialError marks failures before a connection was there: nothing can have
// been sent, so another target may be tried.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

func isDialError(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

// tlsError is a TLS handshake that failed.
type tlsError struct {
	error
	asked string // the name to expect of the target, if it is the client's
}

func (e *tlsError) Unwrap() error { return e.error }

// asTLSError returns nil if err is something else.
func asTLSError(err error) *tlsError {
	var t *tlsError
	errors.As(err, &t)
	return t
}

// isNameError knows a handshake that failed because of the name and nothing else.
// crypto/tls has no value for the alert.
func isNameError(err error) bool {
	return errors.As(err, new(x509.HostnameError)) || strings.HasSuffix(err.Error(), "tls: unrecognized name")
}

// dialStream opens a connection for a stream, with TLS if the route asks for
// it. serverName is the name the client asked for.
func (t *target) dialStream(ctx context.Context, port int, serverName string, proxyHeader []byte, timeout time.Duration) (net.Conn, error) {
	addr := net.JoinHostPort("", strconv.Itoa(port))
	switch {
	case t.key.udp:
		return t.dial(ctx, "udp", addr)
	case t.tls == nil:
		return t.connect(ctx, "tcp", addr, proxyHeader)
	}
	return t.dialTLS(ctx, addr, t.serverName(serverName), proxyHeader, timeout)
}

// dialTLS opens a connection with TLS on top. timeout is for all of it.
func (t *target) dialTLS(ctx context.Context, addr, serverName string, proxyHeader []byte, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := t.whileRunning(ctx)
	defer cancel()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	conn, err := t.connect(ctx, "tcp", addr, proxyHeader)
	if err != nil {
		return nil, err
	}
	secure, err := t.handshake(ctx, conn, serverName)
	if err != nil {
		return nil, err
	}
	return secure, nil
}

// handshake puts TLS on top of a connection. protocols are offered in ALPN. With
// serverName "" the certificate may be for any name.
func (t *target) handshake(ctx context.Context, conn net.Conn, serverName string, protocols ...string) (*tls.Conn, error) {
	config := t.tls.Clone()
	config.ServerName, config.NextProtos = serverName, protocols
	if serverName == "" && !config.InsecureSkipVerify {
		config.InsecureSkipVerify, config.VerifyConnection = true, verifyChain(config.RootCAs)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, t.tlsError(serverName, fmt.Errorf("TLS with %s: %w", t.name, err))
	}
	return secure, nil
}

// verifyChain is what crypto/tls does by itself, but for the name.
func verifyChain(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, cert := range state.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(opts)
		return err
	}
}

// tlsError makes a dialError of a handshake that expected a name.
func (t *target) tlsError(serverName string, err error) error {
	e := &tlsError{error: err}
	if t.namedByClients() {
		e.asked = serverName
	}
	return &dialError{e}
}

// serverName is the name to expect of the target: the configured one, or its
// host, or if that is an address the one the client asked for.
func (t *target) serverName(asked string) string {
	switch {
	case t.key.upstream.ServerName != "":
		return t.key.upstream.ServerName
	case asked != "" && t.namedByClients():
		return asked
	}
	return t.key.host
}

// ownName is the name to expect where no client asks for one, "" if that is any.
func (t *target) ownName() string {
	if t.namedByClients() {
		return ""
	}
	return t.serverName("")
}

// namedByClients reports whether the name to expect is up to the client.
func (t *target) namedByClients() bool {
	_, err := netip.ParseAddr(t.key.host)
	return err == nil && t.key.upstream.ServerName == ""
}

func (t *target) noteError(err error) {
	text := err.Error()
	t.lastError.Store(&text)
}

func portName(port int) string {
	if port == PreservePort {
		return "preserve"
	}
	return strconv.Itoa(port)
}
