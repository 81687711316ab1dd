package dcrouter

import (
	"crypto/tls"
	"log/slog"
	"net"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
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
}

// WithConfig sets the whole configuration, as [LoadConfig] reads it. Options
// after it change parts of it.
func WithConfig(c Config) Option {
	return func(o *options) { o.config = c }
}

// WithProxy sets the proxy's section of the configuration.
func WithProxy(c proxy.Config) Option {
	return func(o *options) { o.config.Proxy = &c }
}

// WithDNS sets the DNS server's section of the configuration. opts are what
// cannot be written as JSON.
func WithDNS(c dnsserver.Config, opts ...dnsserver.Option) Option {
	return func(o *options) { o.config.DNS, o.dns = &c, append(o.dns, opts...) }
}

// WithRADIUS sets the RADIUS server's section of the configuration. opts are what
// cannot be written as JSON: who decides about users, and who is told of
// accounting.
func WithRADIUS(c radius.Config, opts ...radius.Option) Option {
	return func(o *options) { o.config.RADIUS, o.radius = &c, append(o.radius, opts...) }
}

// WithEmail sets the mail system's section of the configuration. opts are what
// cannot be written as JSON: hooks of the host, who knows the users, who takes
// mail.
func WithEmail(c email.Config, opts ...email.Option) Option {
	return func(o *options) { o.config.Email, o.email = &c, append(o.email, opts...) }
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

// WithGetCertificate sets the source of certificates for routes with
// certificate "auto", for dnsDomain, for DNS over TLS and QUIC, for RadSec, and for
// mail where its section names none; see
// [proxy.WithGetCertificate].
func WithGetCertificate(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) Option {
	return func(o *options) {
		o.proxy = append(o.proxy, proxy.WithGetCertificate(get))
		o.dns = append(o.dns, dnsserver.WithGetCertificate(get))
		o.radius = append(o.radius, radius.WithGetCertificate(get))
		o.email = append(o.email, email.WithGetCertificate(get))
	}
}

// WithAccessLog sets a logger for the proxy's access log alone, and turns that
// on where the configuration has no section about it; see [proxy.AccessLog].
func WithAccessLog(log *slog.Logger) Option {
	return func(o *options) { o.proxy = append(o.proxy, proxy.WithAccessLog(log)) }
}

// WithListener makes the proxy accept from ln instead of binding addr; see
// [proxy.WithListener].
func WithListener(addr string, ln net.Listener) Option {
	return func(o *options) { o.proxy = append(o.proxy, proxy.WithListener(addr, ln)) }
}
