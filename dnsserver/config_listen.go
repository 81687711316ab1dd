package dnsserver

import (
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// DefaultEncryptedPort is that of DNS over TLS (RFC 7858 section 3.1) and over
// QUIC (RFC 9250 section 4.1.1).
const DefaultEncryptedPort = 853

// DefaultHTTPSPort is that of DNS over HTTPS (RFC 8484 section 8.1).
const DefaultHTTPSPort = 443

// Defaults of the limits in [Config].
const (
	DefaultIdleTimeout             = 10 * time.Second
	DefaultMaxConnections          = 4096
	DefaultMaxConnectionsPerClient = 256
	DefaultResponsesPerSecond      = 200
	DefaultSlip                    = 2
)

// EncryptedPort is about DNS over TLS, QUIC or HTTPS, which need a certificate:
// [WithGetCertificate] or [WithTLSConfig].
type EncryptedPort struct {
	// Port is the port to listen on, of [Config.ListenHost]. The default nil
	// means 853, for HTTPS 443; 0 binds any free port.
	Port *int `json:"port"`
}

// ResponseRateLimit bounds the responses over UDP to each client network, that
// is /24 of IPv4 and /56 of IPv6. The addresses of UDP can be forged, so that
// without a limit anybody can have the server send to others. Clients that
// prove their address, by a cookie (RFC 7873) or by using anything but UDP, are
// exempt.
type ResponseRateLimit struct {
	// ResponsesPerSecond is what a network gets in the long run. The default 0
	// means 200.
	ResponsesPerSecond int `json:"responsesPerSecond"`
	// Burst is how many responses a network can get at once. The default 0
	// means those of one second.
	Burst int `json:"burst"`
	// Slip lets every n-th of the responses that are held back go out empty and
	// marked as truncated, upon which a genuine client asks again over TCP: 1
	// all of them, 10 a tenth. The default 0 means 2; -1 lets none out.
	Slip int `json:"slip"`
}

func validateListen(check *conf.Checker, c *Config) {
	check.Field("listenHost").ListenHost(c.ListenHost)
	if c.Port != nil {
		check.Field("port").ListenPort(*c.Port)
	}
	c.DoT.validate(check.Field("dot"))
	c.DoQ.validate(check.Field("doq"))
	c.DoH.validate(check.Field("doh"))
	if port := orDefault(c.Port, DefaultPort); c.listens() && port > 0 {
		c.DoT.apart(check.Field("dot"), port, "port", overTLS)
		c.DoQ.apart(check.Field("doq"), port, "port", overQUIC)
		c.DoH.apart(check.Field("doh"), port, "port", overHTTPS)
	}
	if c.DoT != nil && c.DoT.port(overTLS) > 0 {
		c.DoH.apart(check.Field("doh"), c.DoT.port(overTLS), "dot.port", overHTTPS)
	}
	check.Field("idleTimeout").Wait(c.IdleTimeout)
	check.Field("maxConnections").NotNegative(c.MaxConnections)
	check.Field("maxConnectionsPerClient").NotNegative(c.MaxConnectionsPerClient)
	if l := c.ResponseRateLimit; l != nil {
		at := check.Field("responseRateLimit")
		at.Field("responsesPerSecond").Range(l.ResponsesPerSecond, 0, 1_000_000)
		at.Field("burst").Range(l.Burst, 0, 1_000_000)
		at.Field("slip").Range(l.Slip, -1, 100)
	}
}

func (e *EncryptedPort) validate(check *conf.Checker) {
	if e != nil && e.Port != nil {
		check.Field("port").ListenPort(*e.Port)
	}
}

// apart wants another port than that of field.
func (e *EncryptedPort) apart(check *conf.Checker, port int, field string, by transport) {
	if e != nil && e.port(by) == port {
		check.Field("port").Errorf("%d is that of %s already", port, field)
	}
}

func (e *EncryptedPort) port(by transport) int {
	if by == overHTTPS {
		return orDefault(e.Port, DefaultHTTPSPort)
	}
	return orDefault(e.Port, DefaultEncryptedPort)
}

// listens reports whether Port is to be bound.
func (c *Config) listens() bool { return orDefault(c.Listen, true) }

func orDefault[T any](p *T, value T) T {
	if p == nil {
		return value
	}
	return *p
}

// idleTimeout, maxConnections and maxConnectionsPerClient have the defaults in.

func (c *Config) idleTimeout() time.Duration {
	if c.IdleTimeout == 0 {
		return DefaultIdleTimeout
	}
	return c.IdleTimeout
}

func (c *Config) maxConnections() int {
	if c.MaxConnections == 0 {
		return DefaultMaxConnections
	}
	return c.MaxConnections
}

func (c *Config) maxConnectionsPerClient() int {
	if c.MaxConnectionsPerClient == 0 {
		return DefaultMaxConnectionsPerClient
	}
	return c.MaxConnectionsPerClient
}
