package dnsserver

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"

	"github.com/dcrouter/dcrouter/sockets"
	"github.com/dcrouter/dcrouter/storage"
)

// An Option gives a [Server] what cannot be written as JSON.
type Option func(*options)

type options struct {
	log            *slog.Logger
	listeners      []net.Listener
	packetConns    []net.PacketConn
	sockets        *sockets.Set
	tlsConfig      *tls.Config
	getCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	store          *storage.Store
	resolver       Resolver
	parentDS       func(ctx context.Context, zone string) ([]string, error)
	zoneChanged    func(zone string)
}

// WithLogger sets the logger. The default discards everything.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithListener makes the Server accept from ln. Where there is a listener or a
// packet connection of the host's, [Config.Port] is not bound. Each connection
// is one of DNS over TCP (RFC 7766), or over TLS or HTTPS if ln gives connections
// of crypto/tls, as [Server.ServeConn] says. [Config.MaxConnectionsPerClient] does not hold for clients whose
// address is none of IP. It may be given several times. Stop closes ln.
func WithListener(ln net.Listener) Option {
	return func(o *options) { o.listeners = append(o.listeners, ln) }
}

// WithPacketConn does for DNS over UDP what [WithListener] does for TCP. pc
// need not be a *net.UDPConn, which is the fastest, if the addresses that it
// reports are IP addresses.
func WithPacketConn(pc net.PacketConn) Option {
	return func(o *options) { o.packetConns = append(o.packetConns, pc) }
}

// WithSockets sets where the Server has its sockets from: what is in the set for
// an address is not bound. Of DNS over UDP all that the set has for the
// port are used: the system spreads queries among them. Where [WithListener] or
// [WithPacketConn] is given, [Config.Port] is not asked for.
func WithSockets(set *sockets.Set) Option {
	return func(o *options) { o.sockets = set }
}

// WithTLSConfig sets what DNS over TLS, HTTPS and QUIC go by. The Server takes a
// copy and sets the application protocols (ALPN) itself, and the oldest version
// to TLS 1.2 if it is lower. A config that its GetConfigForClient returns is
// taken as it is, and has to name the protocols: "dot", "h2" and "http/1.1", and
// "doq".
func WithTLSConfig(c *tls.Config) Option {
	return func(o *options) { o.tlsConfig = c }
}

// WithGetCertificate sets the source of certificates for DNS over TLS, HTTPS and
// QUIC. It has the contract of [tls.Config.GetCertificate], and goes before
// what [WithTLSConfig] says about certificates.
func WithGetCertificate(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) Option {
	return func(o *options) { o.getCertificate = get }
}

// WithStorage sets where the Server keeps what must outlive it.
func WithStorage(s *storage.Store) Option {
	return func(o *options) { o.store = s }
}

// WithResolver sets who looks up the addresses that ALIAS records stand for,
// in the place of [Config.Resolvers].
func WithResolver(r Resolver) Option {
	return func(o *options) { o.resolver = r }
}

// WithZoneChanged sets who is told of each new version of a zone: its name, with
// final dot. It is called while the zone is held, and must not use the Server or
// wait.
func WithZoneChanged(told func(zone string)) Option {
	return func(o *options) { o.zoneChanged = told }
}
