package proxy

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"

	"github.com/dcrouter/dcrouter/sockets"
)

// An Option gives a [Proxy] what cannot be written as JSON.
type Option func(*options)

type options struct {
	log            *slog.Logger
	accessLog      *slog.Logger
	getCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	httpChallenge  func(http.ResponseWriter, *http.Request) bool
	tlsChallenge   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	echKeys        func(*tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error)
	listeners      map[string]net.Listener
	sockets        *sockets.Set
	packetConns    map[string]net.PacketConn
	observe        func(Event)
	blocked        func(client netip.Addr, port int) bool
}

// WithLogger sets the logger. The default discards everything.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithAccessLog sets a logger for the access log alone, and turns that on where
// the configuration has no section about it; see [AccessLog].
func WithAccessLog(log *slog.Logger) Option {
	return func(o *options) { o.accessLog = log }
}

// WithGetCertificate sets the source of certificates for routes with
// certificate "auto". It has the contract of [tls.Config.GetCertificate].
func WithGetCertificate(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) Option {
	return func(o *options) { o.getCertificate = get }
}

// WithHTTPChallenge sets what answers certification authorities over HTTP
// (ACME HTTP-01, RFC 8555 section 8.3). It is asked about each GET request
// without TLS for a path below /.well-known/acme-challenge/, on every port
// with a route that takes HTTP without TLS, whatever the host and whether or
// not a route takes the request; no route's action, access rules or limits
// apply. It returns true if it has answered. If it returns false it must not
// have, and the request goes on to the routes.
func WithHTTPChallenge(answer func(http.ResponseWriter, *http.Request) bool) Option {
	return func(o *options) { o.httpChallenge = answer }
}

// WithTLSALPNChallenge sets the source of the certificates that prove a name
// to certification authorities over TLS (ACME TLS-ALPN-01, RFC 8737). It is
// asked about each connection that offers acme-tls/1 in ALPN and nothing else,
// on every port with a route that terminates TLS or passes it through,
// whichever route would take the connection, if any. If it returns a
// certificate the handshake is made with that and the connection closed; an
// error fails the handshake. With nil and nil the connection goes on to the
// routes.
func WithTLSALPNChallenge(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) Option {
	return func(o *options) { o.tlsChallenge = get }
}

// WithECHKeys turns Encrypted Client Hello (RFC 9849) on, for TLS that routes
// terminate and HTTP/3, and sets the source of its keys. It has the contract of
// [tls.Config.GetEncryptedClientHelloKeys], but for an error: handshakes go on
// as without keys then. It is called in each handshake, so it should have the
// keys at hand.
//
// The encrypted server name chooses the route. Clients that have an outdated
// key, or none, are served under the public name of their configuration, so
// there should be a route for it that terminates TLS and has a certificate. If
// the public name's route passes TLS through, encrypted hellos do too.
func WithECHKeys(get func(*tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error)) Option {
	return func(o *options) { o.echKeys = get }
}

// WithListener makes the Proxy accept from ln instead of binding addr, which
// is written as ListenHost and port: "127.0.0.1:443", or ":443" where
// ListenHost is empty. Connections of a listener that is not TCP work, if
// their addresses are IP addresses. The Proxy closes ln when no route needs
// addr any more, at the latest when it stops.
func WithListener(addr string, ln net.Listener) Option {
	return func(o *options) {
		if o.listeners == nil {
			o.listeners = make(map[string]net.Listener)
		}
		o.listeners[addr] = ln
	}
}

// WithPacketConn does for datagrams what [WithListener] does for connections.
// pc need not be a *net.UDPConn, if the addresses it reports are IP addresses;
// one goroutine reads from it, several write.
func WithPacketConn(addr string, pc net.PacketConn) Option {
	return func(o *options) {
		if o.packetConns == nil {
			o.packetConns = make(map[string]net.PacketConn)
		}
		o.packetConns[addr] = pc
	}
}

// WithSockets sets where the Proxy has its sockets from: what is in the set for
// an address is not bound. What [WithListener] and [WithPacketConn]
// give goes first.
func WithSockets(set *sockets.Set) Option {
	return func(o *options) { o.sockets = set }
}
