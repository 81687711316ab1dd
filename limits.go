package dcrouter

import (
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/proxy"
)

// Limits bounds what clients may take up, for all subsystems in one place. A
// field takes effect in the sections that it names, where these do not say
// otherwise. docs/limits.md lists all limits, and [Router.Limits] those in
// force.
type Limits struct {
	// MaxConnections is how many client connections a server may have open at
	// once: the proxy, and UDP sessions apart from them
	// (smartProxyConfig.maxConnections, without limit otherwise), the mail system
	// (emailConfig.connections.max), the DNS server (dnsServerConfig.maxConnections)
	// and RadSec (radiusConfig.radSec.maxConnections). Each has as many to itself; a
	// default that is lower stays. The default 0 leaves the sections' own.
	MaxConnections int `json:"maxConnections"`
	// MaxConnectionsPerIP is how many of them one client may have
	// (smartProxyConfig.maxConnectionsPerIp,
	// emailConfig.rateLimits.inbound.connectionsPerIp,
	// dnsServerConfig.maxConnectionsPerClient). A default that is lower stays. The
	// default 0 leaves the sections' own.
	MaxConnectionsPerIP int `json:"maxConnectionsPerIp"`
	// ConnectionTimeout is how long it may take to connect to a target of the proxy
	// (smartProxyConfig.timeouts.connect). The default 0 leaves the section's own.
	ConnectionTimeout time.Duration `json:"connectionTimeout"`
	// IdleTimeout is how long a connection may stand still
	// (smartProxyConfig.timeouts.idle and keepAlive,
	// emailConfig.connections.timeout, dnsServerConfig.idleTimeout). A default that
	// is lower stays. The default 0 leaves the sections' own.
	IdleTimeout time.Duration `json:"idleTimeout"`
	// MaxMessageSize limits a message of mail, in bytes
	// (emailConfig.maxMessageSize). The default 0 leaves the section's own.
	MaxMessageSize int64 `json:"maxMessageSize"`
	// EmailQueue is about mail on its way out.
	EmailQueue EmailQueueLimits `json:"emailQueue"`
	// Cache says how long answers of others are remembered.
	Cache CacheLimits `json:"cache"`
}

// EmailQueueLimits are those of emailConfig.queue of the same names.
type EmailQueueLimits struct {
	// Concurrency is how many deliveries go on at once. The default 0 leaves the
	// section's own.
	Concurrency int `json:"concurrency"`
	// MaxRetries is how often a failed delivery is tried again. The default nil
	// leaves the section's own; 0 means never.
	MaxRetries *int `json:"maxRetries"`
	// RetryDelay is the time before the first retry. The default 0 leaves the
	// section's own.
	RetryDelay time.Duration `json:"retryDelay"`
}

// CacheLimits say how long answers of others are remembered.
type CacheLimits struct {
	// IPReputation is about block lists (emailConfig.ipReputation.cacheTimeout).
	IPReputation CacheLimit `json:"ipReputation"`
	// DNS is about the servers that mail of a domain goes to
	// (emailConfig.outbound.mxCacheTimeout). Other answers of DNS are remembered for
	// seconds.
	DNS CacheLimit `json:"dns"`
	// Certificates is here for those who come with a configuration that has it. It
	// is an error: a certificate is kept until it is renewed, which is due by its
	// own dates.
	Certificates *CacheLimit `json:"certificates"`
}

// CacheLimit is about one kind of answers.
type CacheLimit struct {
	// TTL is how long one is remembered. The default 0 leaves the section's own.
	TTL time.Duration `json:"ttl"`
}

func (l *Limits) validate(check *conf.Checker) {
	check.Field("maxConnections").NotNegative(l.MaxConnections)
	check.Field("maxConnectionsPerIp").NotNegative(l.MaxConnectionsPerIP)
	check.Field("connectionTimeout").Wait(l.ConnectionTimeout)
	check.Field("idleTimeout").Wait(l.IdleTimeout)
	if l.MaxMessageSize < 0 {
		check.Field("maxMessageSize").Errorf("%d is negative", l.MaxMessageSize)
	}
	queue := check.Field("emailQueue")
	queue.Field("concurrency").NotNegative(l.EmailQueue.Concurrency)
	if n := l.EmailQueue.MaxRetries; n != nil {
		queue.Field("maxRetries").NotNegative(*n)
	}
	queue.Field("retryDelay").Wait(l.EmailQueue.RetryDelay)
	cache := check.Field("cache")
	cache.Field("ipReputation").Field("ttl").Wait(l.Cache.IPReputation.TTL)
	cache.Field("dns").Field("ttl").Wait(l.Cache.DNS.TTL)
	if l.Cache.Certificates != nil {
		cache.Field("certificates").Errorf("has no meaning: a certificate is kept until it is renewed, which is due by its own dates; leave it out")
	}
}

// Defaults of limits that Limits may lower, and that their packages do not
// export.
const (
	mailConnections   = 4000
	mailTimeout       = 5 * time.Minute
	radSecConnections = 256
	keepAliveTimeout  = 2 * time.Minute
	streamTimeout     = time.Hour
)

// limited is the configuration with Limits and ListenHost in its sections.
func (c *Config) limited() Config {
	all := *c
	l := c.Limits
	if l == nil {
		l = new(Limits)
	}
	var p proxy.Config
	if c.Proxy != nil {
		p = *c.Proxy
	}
	p.ListenHost = c.listenHost(p.ListenHost)
	p.MaxConnections = bounded(p.MaxConnections, l.MaxConnections, 0)
	p.MaxConnectionsPerIP = bounded(p.MaxConnectionsPerIP, l.MaxConnectionsPerIP, 0)
	p.Timeouts.Connect = orElse(p.Timeouts.Connect, l.ConnectionTimeout)
	p.Timeouts.Idle = bounded(p.Timeouts.Idle, l.IdleTimeout, streamTimeout)
	p.Timeouts.KeepAlive = bounded(p.Timeouts.KeepAlive, l.IdleTimeout, keepAliveTimeout)
	all.Proxy = &p
	if c.Email != nil {
		e := *c.Email
		e.ListenHost = c.listenHost(e.ListenHost)
		l.limitEmail(&e)
		all.Email = &e
	}
	if c.hasDNS() {
		var d dnsserver.Config
		if c.DNS != nil {
			d = *c.DNS
		}
		d.ListenHost = c.listenHost(d.ListenHost)
		d.MaxConnections = bounded(d.MaxConnections, l.MaxConnections, dnsserver.DefaultMaxConnections)
		d.MaxConnectionsPerClient = bounded(d.MaxConnectionsPerClient, l.MaxConnectionsPerIP, dnsserver.DefaultMaxConnectionsPerClient)
		d.IdleTimeout = bounded(d.IdleTimeout, l.IdleTimeout, dnsserver.DefaultIdleTimeout)
		all.DNS = &d
	}
	if c.RADIUS != nil {
		s := *c.RADIUS
		s.ListenHost = c.listenHost(s.ListenHost)
		if s.RadSec != nil {
			tls := *s.RadSec
			tls.MaxConnections = bounded(tls.MaxConnections, l.MaxConnections, radSecConnections)
			s.RadSec = &tls
		}
		all.RADIUS = &s
	}
	return all
}

func (l *Limits) limitEmail(e *email.Config) {
	e.Connections.Max = bounded(e.Connections.Max, l.MaxConnections, mailConnections)
	e.Connections.Timeout = bounded(e.Connections.Timeout, l.IdleTimeout, mailTimeout)
	in := &e.RateLimits.Inbound
	in.ConnectionsPerIP = bounded(in.ConnectionsPerIP, l.MaxConnectionsPerIP, 0)
	e.MaxMessageSize = orElse(e.MaxMessageSize, l.MaxMessageSize)
	e.Queue.Concurrency = orElse(e.Queue.Concurrency, l.EmailQueue.Concurrency)
	e.Queue.RetryDelay = orElse(e.Queue.RetryDelay, l.EmailQueue.RetryDelay)
	if e.Queue.MaxRetries == nil {
		e.Queue.MaxRetries = l.EmailQueue.MaxRetries
	}
	e.Outbound.MXCacheTimeout = orElse(e.Outbound.MXCacheTimeout, l.Cache.DNS.TTL)
	if e.IPReputation != nil {
		lists := *e.IPReputation
		lists.CacheTimeout = orElse(lists.CacheTimeout, l.Cache.IPReputation.TTL)
		e.IPReputation = &lists
	}
}

// orElse is a section's own value, or the shared one.
func orElse[T ~int | ~int64](own, shared T) T {
	if own != 0 {
		return own
	}
	return shared
}

// bounded is orElse for what is not to exceed a section's default; 0 is none.
func bounded[T ~int | ~int64](own, shared, standard T) T {
	if own == 0 && standard != 0 && shared >= standard {
		return 0
	}
	return orElse(own, shared)
}
