package radius

import (
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
	store          *storage.Store
	authorize      Authorizer
	sink           AccountingSink
	tls            *tls.Config
	getCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	packetConns    map[string]net.PacketConn
	listeners      map[string]net.Listener
	observers      []func(Event)
	sockets        *sockets.Set
}

// WithLogger sets the logger. The default discards everything.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithStorage sets where sessions, and the rules that [Server.UpdatePolicy]
// sets, outlast a restart: below "radius/". The Store stays the host's, and
// must be open from Start until Stop has returned. One Server uses it at a
// time. Without it both are kept in memory only.
func WithStorage(store *storage.Store) Option {
	return func(o *options) { o.store = store }
}

// WithAuthorizer sets who decides about users, and about devices if there are
// neither [Config.MACAuth] nor [Config.VLANAssignment]. Without it all of these
// are rejected.
func WithAuthorizer(a Authorizer) Option {
	return func(o *options) { o.authorize = a }
}

// WithAccountingSink sets who is told of accounting records, for billing.
func WithAccountingSink(sink AccountingSink) Option {
	return func(o *options) { o.sink = sink }
}

// WithTLSConfig sets what RadSec does TLS with, in place of the files that
// [RadSec] names. It is not changed. Unless it says how clients are to be
// verified (ClientAuth), they need a certificate of its ClientCAs. TLS before
// 1.2 is not spoken.
func WithTLSConfig(cfg *tls.Config) Option {
	return func(o *options) { o.tls = cfg }
}

// WithGetCertificate sets the source of RadSec's certificate where that is
// "auto". It has the contract of [tls.Config.GetCertificate].
func WithGetCertificate(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) Option {
	return func(o *options) { o.getCertificate = get }
}

// WithPacketConn makes the Server use pc instead of binding addr, which is
// written as ListenHost and port: "127.0.0.1:1812", or ":1812" where ListenHost
// is empty, and may not be 0. pc need not be a *net.UDPConn, if the addresses it reports are IP
// addresses with ports. The Server closes it when it stops, or fails to start.
func WithPacketConn(addr string, pc net.PacketConn) Option {
	return func(o *options) {
		if o.packetConns == nil {
			o.packetConns = make(map[string]net.PacketConn)
		}
		o.packetConns[addr] = pc
	}
}

// WithListener does for RadSec, whose connections need not be TCP, what
// [WithPacketConn] does for the ports for UDP.
func WithListener(addr string, ln net.Listener) Option {
	return func(o *options) {
		if o.listeners == nil {
			o.listeners = make(map[string]net.Listener)
		}
		o.listeners[addr] = ln
	}
}

// WithSockets sets where the Server has its sockets from: what is in the set for
// an address is not bound. What [WithPacketConn] and
// [WithListener] give goes first.
func WithSockets(set *sockets.Set) Option {
	return func(o *options) { o.sockets = set }
}
