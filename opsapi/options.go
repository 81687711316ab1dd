package opsapi

import (
	"context"
	"crypto/tls"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/dcrouter/dcrouter/sockets"
	"github.com/dcrouter/dcrouter/storage"
)

// An Option configures a [Server].
type Option func(*options)

type options struct {
	log       *slog.Logger
	store     *storage.Store
	listener  net.Listener
	sockets   *sockets.Set
	tls       *tls.Config
	now       func() time.Time
	version   string
	stats     func() any
	limits    func() []Limit
	health    func(ctx context.Context) []Component
	metrics   http.Handler
	dashboard fs.FS
	logs      *LogBuffer
	routesAt  []string

	configuration Configuration
	queue         MailQueue
	suppression   Suppression
	domains       MailDomains
	reputation    ReputationSource
	dns           DNS
	certificates  Certificates
	radius        RADIUS
	blocks        Blocks
	security      func(SecurityEvent)
}

// WithLogger sets the logger. The default discards everything.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithStorage sets where sessions, the history of the configuration and the
// audit log are kept, below "ops/". The default is in memory: they are lost at
// Stop.
func WithStorage(s *storage.Store) Option { return func(o *options) { o.store = s } }

// WithListener makes the Server accept from ln instead of binding its port. The
// Server closes it.
func WithListener(ln net.Listener) Option { return func(o *options) { o.listener = ln } }

// WithSockets sets where the Server has its socket from: if the set has one for
// its address, that is not bound. What [WithListener] gives goes first.
func WithSockets(set *sockets.Set) Option { return func(o *options) { o.sockets = set } }

// WithTLSConfig makes the Server speak HTTPS. Anywhere but on the loopback
// address browsers sign in only so, or through a proxy that does.
func WithTLSConfig(c *tls.Config) Option { return func(o *options) { o.tls = c } }

// WithClock sets what tells the time. The default is [time.Now].
func WithClock(now func() time.Time) Option { return func(o *options) { o.now = now } }

// WithVersion sets what getHealthStatus says about the version of the host.
func WithVersion(version string) Option { return func(o *options) { o.version = version } }

// WithStats sets where counters come from: something that encoding/json can
// write. It is called once a second while somebody watches.
func WithStats(snapshot func() any) Option { return func(o *options) { o.stats = snapshot } }

// WithLimits sets who knows the limits of the host, and how full they are.
func WithLimits(list func() []Limit) Option { return func(o *options) { o.limits = list } }

// WithHealth sets who knows how the components are. It should answer at once.
func WithHealth(components func(ctx context.Context) []Component) Option {
	return func(o *options) { o.health = components }
}

// WithMetrics sets what answers at /metrics, such as
// promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).
func WithMetrics(h http.Handler) Option { return func(o *options) { o.metrics = h } }

// WithDashboard sets the files of the web interface. They are read once, at
// Start, and served as they are; "/" is index.html.
func WithDashboard(files fs.FS) Option { return func(o *options) { o.dashboard = files } }

// WithLogs sets where log entries are looked up.
func WithLogs(logs *LogBuffer) Option { return func(o *options) { o.logs = logs } }

// WithConfiguration sets the configuration that can be seen and changed.
func WithConfiguration(c Configuration) Option { return func(o *options) { o.configuration = c } }

// WithRoutesAt says where in the configuration the list of routes is, as
// "smartProxyConfig", "routes". Then there are methods about routes alone, which
// operators may change.
func WithRoutesAt(path ...string) Option { return func(o *options) { o.routesAt = path } }

// WithMailQueue sets the queue of the mail system.
func WithMailQueue(q MailQueue) Option { return func(o *options) { o.queue = q } }

// WithSuppression sets the list of addresses that no mail is sent to.
func WithSuppression(s Suppression) Option { return func(o *options) { o.suppression = s } }

// WithMailDomains sets who knows the domains of the mail system.
func WithMailDomains(d MailDomains) Option { return func(o *options) { o.domains = d } }

// WithReputation sets who knows the reputation of addresses.
func WithReputation(r ReputationSource) Option { return func(o *options) { o.reputation = r } }

// WithDNS sets the DNS server.
func WithDNS(d DNS) Option { return func(o *options) { o.dns = d } }

// WithCertificates sets who knows about certificates.
func WithCertificates(c Certificates) Option { return func(o *options) { o.certificates = c } }

// WithObserver sets who is told of the Server's own security events, such
// as failed attempts to sign in. It is called from several goroutines, and should
// return soon.
func WithObserver(tell func(SecurityEvent)) Option {
	return func(o *options) { o.security = tell }
}

// WithRADIUS sets the RADIUS server.
func WithRADIUS(r RADIUS) Option { return func(o *options) { o.radius = r } }
