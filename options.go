package dcrouter

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/sockets"
	"github.com/dcrouter/dcrouter/storage"
)

// An Option configures a [Router]. Options are applied in the order given.
type Option func(*options)

type options struct {
	config  Config
	log     *slog.Logger
	backend storage.Backend
	proxy   []proxy.Option
	dns     []dnsserver.Option
	radius  []radius.Option
	email   []email.Option
	ops     []opsapi.Option
	sockets []func(*sockets.Set) error

	succeeds bool // some of the sockets are another process's

	getCertificate    getCertificateFunc
	onDemand          func(ctx context.Context, name string) error
	certificateEvents func(CertificateEvent)
	cloudflare        *http.Client
}

// WithConfig sets the whole configuration, as [LoadConfig] reads it. Options
// after it change parts of it. What cannot be written as JSON is given beside it,
// by [WithProxyOptions], [WithEmailOptions], [WithDNSOptions], [WithRADIUSOptions]
// and [WithOpsOptions].
func WithConfig(c Config) Option {
	return func(o *options) { o.config = c }
}

// WithProxy sets the proxy's section of the configuration. opts are what cannot
// be written as JSON, as for [proxy.New].
func WithProxy(c proxy.Config, opts ...proxy.Option) Option {
	return withBoth(func(o *options) { o.config.Proxy = &c }, WithProxyOptions(opts...))
}

// WithProxyOptions adds options of the proxy, wherever its configuration comes
// from.
func WithProxyOptions(opts ...proxy.Option) Option {
	return func(o *options) { o.proxy = append(o.proxy, opts...) }
}

// WithEmail sets the mail system's section of the configuration. opts are what
// cannot be written as JSON: hooks of the host, who knows the users, who takes
// mail.
func WithEmail(c email.Config, opts ...email.Option) Option {
	return withBoth(func(o *options) { o.config.Email = &c }, WithEmailOptions(opts...))
}

// WithEmailOptions adds options of the mail system, wherever its configuration
// comes from. Where there is none they are for nothing.
func WithEmailOptions(opts ...email.Option) Option {
	return func(o *options) { o.email = append(o.email, opts...) }
}

// WithDNS sets the DNS server's section of the configuration. opts are what
// cannot be written as JSON.
func WithDNS(c dnsserver.Config, opts ...dnsserver.Option) Option {
	return withBoth(func(o *options) { o.config.DNS = &c }, WithDNSOptions(opts...))
}

// WithDNSOptions adds options of the DNS server, wherever its configuration comes
// from. Where there is none they are for nothing.
func WithDNSOptions(opts ...dnsserver.Option) Option {
	return func(o *options) { o.dns = append(o.dns, opts...) }
}

// WithRADIUS sets the RADIUS server's section of the configuration. opts are what
// cannot be written as JSON: who decides about users, and who is told of
// accounting.
func WithRADIUS(c radius.Config, opts ...radius.Option) Option {
	return withBoth(func(o *options) { o.config.RADIUS = &c }, WithRADIUSOptions(opts...))
}

// WithRADIUSOptions adds options of the RADIUS server, wherever its configuration
// comes from. Where there is none they are for nothing.
func WithRADIUSOptions(opts ...radius.Option) Option {
	return func(o *options) { o.radius = append(o.radius, opts...) }
}

// WithOps sets the operations API's section of the configuration. opts are what
// cannot be written as JSON: a web interface, TLS, and what takes the place of a
// source that the Router has.
func WithOps(c opsapi.Config, opts ...opsapi.Option) Option {
	return withBoth(func(o *options) { o.config.Ops = &c }, WithOpsOptions(opts...))
}

// WithOpsOptions adds options of the operations API, wherever its configuration
// comes from. Where there is none they are for nothing.
func WithOpsOptions(opts ...opsapi.Option) Option {
	return func(o *options) { o.ops = append(o.ops, opts...) }
}

// withBoth is two options as one.
func withBoth(a, b Option) Option {
	return func(o *options) { a(o); b(o) }
}

// WithStorage sets where the Router keeps what must outlive it, in place of
// the configuration's storage section. Without either, everything is kept in
// memory, and the log warns of it.
func WithStorage(b storage.Backend) Option {
	return func(o *options) { o.backend = b }
}

// WithStorageFuncs is WithStorage with a pair of functions as the backend; see
// [storage.Funcs].
func WithStorageFuncs(read storage.ReadFunc, write storage.WriteFunc, opts ...storage.FuncOption) Option {
	return WithStorage(storage.Funcs(read, write, opts...))
}

// WithLogger sets the logger of all subsystems. The default discards
// everything.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

// WithGetCertificate sets a source of certificates for routes with certificate
// "auto", for dnsDomain, for DNS over TLS, QUIC and HTTPS, for RadSec, and for
// mail where its section names none; see [proxy.WithGetCertificate]. Where the configuration turns automatic
// certificates on, they are for the names for which this func has none, nil or
// an error. Where neither has one for the name that a client of DNS, RadSec or
// mail asks for, it is asked for that of the server's own. It is also asked
// without a connection, whether it has one for a name.
func WithGetCertificate(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) Option {
	return func(o *options) { o.getCertificate = get }
}

// WithOnDemand makes the Router obtain a certificate for a name that no
// configuration has at its first handshake with a route that wants an automatic
// certificate, if allow returns nil for the name. It must be strict: who points
// his names at this machine could have it order without end. As a last resort
// there are at most ten new names a minute, and 10,000 in all; handshakes ask
// allow about 64 names at once at most. It is asked again before each renewal; names that nobody asks for are not renewed.
func WithOnDemand(allow func(ctx context.Context, name string) error) Option {
	return func(o *options) { o.onDemand = allow }
}

// WithCertificateObserver sets who is told when automatic certificates
// are obtained or renewed, and when that fails. It is called for one event at a
// time, and Stop waits for it: it should return soon, and must not call Stop.
func WithCertificateObserver(tell func(CertificateEvent)) Option {
	return func(o *options) { o.certificateEvents = tell }
}

// WithCloudflareClient sets what sends the requests to Cloudflare that
// dnsChallenge causes. The default is a client with a timeout of 30s.
func WithCloudflareClient(c *http.Client) Option {
	return func(o *options) { o.cloudflare = c }
}
