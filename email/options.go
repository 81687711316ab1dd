package email

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/sockets"
	"github.com/dcrouter/dcrouter/storage"
)

// An Option gives a [Server] what cannot be written as JSON.
type Option func(*options)

type options struct {
	log            *slog.Logger
	store          *storage.Store
	getCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	hooks          Hooks
	authenticator  Authenticator
	mailbox        Mailbox
	resolver       Resolver
	publisher      DNSPublisher
	now            func() time.Time
	listeners      map[string]net.Listener
	sockets        *sockets.Set
	dial           DialFunc
	observers      []func(Event)
	blocked        func(client netip.Addr) (until time.Time, blocked bool)
}

// DialFunc connects to another server, from source if that is valid.
type DialFunc func(ctx context.Context, source netip.Addr, network, address string) (net.Conn, error)

// WithLogger sets the logger. The default discards everything.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithStorage sets where routes that [Server.UpdateRoutes] set, what is known of
// clients, and without [Config.DataPath] the spool outlast a restart. The Store
// stays the host's, and must be open from Start until Stop has returned. One
// Server uses it at a time. Without it they are kept in memory only.
func WithStorage(store *storage.Store) Option {
	return func(o *options) { o.store = store }
}

// WithGetCertificate sets the source of the certificate where [Config.TLS] names
// none. It has the contract of [tls.Config.GetCertificate].
func WithGetCertificate(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) Option {
	return func(o *options) { o.getCertificate = get }
}

// WithHooks lets the host take part in what happens to mail.
func WithHooks(h Hooks) Option {
	return func(o *options) { o.hooks = h }
}

// WithObserver adds somebody who is told of what happens, as [Hooks.OnEvent] is.
func WithObserver(tell func(Event)) Option {
	return func(o *options) { o.observers = append(o.observers, tell) }
}

// WithBlocked sets who knows the clients that are refused, and until when; the
// zero time is for ever. It is asked when a client connects, signs in or begins a
// message, and has to answer at once. A client that is blocked for a while gets 421,
// so that a server that is by mistake comes again with its mail, others get 554.
func WithBlocked(blocked func(client netip.Addr) (until time.Time, blocked bool)) Option {
	return func(o *options) { o.blocked = blocked }
}

// WithAuthenticator sets who knows the users that may sign in, in place of
// [Config.Auth].
func WithAuthenticator(a Authenticator) Option {
	return func(o *options) { o.authenticator = a }
}

// WithMailbox sets who takes the mail of routes with the action [Deliver] that
// name no place.
func WithMailbox(m Mailbox) Option {
	return func(o *options) { o.mailbox = m }
}

// WithResolver sets who is asked about names, in place of [Config.Resolvers].
func WithResolver(r Resolver) Option {
	return func(o *options) { o.resolver = r }
}

// WithClock sets what time it is, for tests.
func WithClock(now func() time.Time) Option {
	return func(o *options) { o.now = now }
}

// WithDialer sets how other servers are connected to, and where policies about
// them are fetched. The default is [net.Dialer], which is kept from addresses of
// this machine and its network where strangers name the host
// ([Outbound.PrivateNetworks]); a dialer of the host's has to see to that itself.
func WithDialer(dial DialFunc) Option {
	return func(o *options) { o.dial = dial }
}

// WithListener makes the Server accept from ln instead of binding addr, which is
// written as ListenHost and port: "127.0.0.1:25", or ":25" where ListenHost is
// empty, and may not have port 0. The Server closes it when it stops, or fails
// to start.
func WithListener(addr string, ln net.Listener) Option {
	return func(o *options) {
		if o.listeners == nil {
			o.listeners = make(map[string]net.Listener)
		}
		o.listeners[addr] = ln
	}
}

// WithSockets sets where the Server has its sockets from: what is in the set for
// an address is not bound. What [WithListener] gives goes first.
func WithSockets(set *sockets.Set) Option {
	return func(o *options) { o.sockets = set }
}

// setDefaults fills in what was not given.
func (o *options) setDefaults() {
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	o.log = o.log.With("component", "email")
	if o.now == nil {
		o.now = time.Now
	}
	if o.resolver == nil {
		o.resolver = &net.Resolver{}
	}
}
