package smtpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// TLSMode says when TLS is used and what is expected of it.
type TLSMode int

const (
	// Opportunistic uses STARTTLS where the server offers it, whatever its
	// certificate, and goes on without TLS where that fails (RFC 7435). It is
	// the default.
	Opportunistic TLSMode = iota
	// StartTLS insists on STARTTLS with a valid certificate.
	StartTLS
	// ImplicitTLS begins with TLS and insists on a valid certificate.
	ImplicitTLS
	// NoTLS speaks plaintext.
	NoTLS
)

// Dialer opens connections; [net.Dialer] is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config says how to reach a server and who we are.
type Config struct {
	// Address is host:port, or the path of a Unix socket. Required.
	Address string
	// Dialer opens the connection. Nil means a [net.Dialer].
	Dialer Dialer
	// LocalAddr is the address to connect from; the zero Addr leaves it to the
	// system. It must not be given together with Dialer.
	LocalAddr netip.Addr
	// Hostname is the name by which we say hello: a domain, or an address
	// literal (RFC 5321 section 4.1.3). Required.
	Hostname string
	// LMTP speaks LMTP instead of SMTP.
	LMTP bool

	// TLS says when TLS is used.
	TLS TLSMode
	// ServerName is the name that the server's certificate must be for. The
	// default is the host of Address.
	ServerName string
	// TLSConfig has further settings; nil means none. Its ServerName is
	// ignored. With InsecureSkipVerify any certificate is good enough, but
	// [TLSState.Verified] still tells the truth. Its VerifyConnection is asked
	// in every mode, and its error ends the connection.
	TLSConfig *tls.Config

	// Auth signs in. Nil means not to.
	Auth *Credentials
	// AllowPlaintextAuth lets Auth be used without TLS.
	AllowPlaintextAuth bool

	// Chunking sends content in chunks (BDAT, RFC 3030) where the server offers
	// that. It makes for less work, but some servers offer it and do it wrong.
	Chunking bool

	// Timeouts bounds each phase.
	Timeouts Timeouts
}

// Credentials sign in at a server.
type Credentials struct {
	Username, Password string
}

// String keeps the password out of logs.
func (c Credentials) String() string { return fmt.Sprintf("%q (password hidden)", c.Username) }

// GoString keeps the password out of logs.
func (c Credentials) GoString() string { return c.String() }

// Timeouts bounds the phases of a dialogue. In each field, 0 means the default,
// which is what RFC 5321 section 4.5.3.2 asks for.
type Timeouts struct {
	Connect  time.Duration // until the connection is there; default 1m
	TLS      time.Duration // for a TLS handshake; default 1m
	Greeting time.Duration // for the server's greeting; default 5m
	Command  time.Duration // for the reply to a command without a field of its own; default 5m
	Mail     time.Duration // for the reply to MAIL; default 5m
	Rcpt     time.Duration // for the reply to RCPT; default 5m
	Data     time.Duration // for the reply to DATA, or to a chunk but the last; default 2m
	Block    time.Duration // for a part of the content to be taken; default 3m
	End      time.Duration // for the reply to the end of the content; default 10m
	Quit     time.Duration // for the reply to QUIT; default 5s
}

func (t Timeouts) withDefaults() Timeouts {
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	def(&t.Connect, time.Minute)
	def(&t.TLS, time.Minute)
	def(&t.Greeting, 5*time.Minute)
	def(&t.Command, 5*time.Minute)
	def(&t.Mail, 5*time.Minute)
	def(&t.Rcpt, 5*time.Minute)
	def(&t.Data, 2*time.Minute)
	def(&t.Block, 3*time.Minute)
	def(&t.End, 10*time.Minute)
	def(&t.Quit, 5*time.Second)
	return t
}

// prepare checks the configuration and fills in defaults.
func (cfg *Config) prepare() error {
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	if cfg.Hostname == "" || strings.ContainsFunc(cfg.Hostname, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("the host name %q cannot be used to say hello: give a domain, in ASCII", cfg.Hostname)
	}
	if cfg.network() == "tcp" {
		host, _, err := net.SplitHostPort(cfg.Address)
		if err != nil {
			return fmt.Errorf("the address %q is neither host:port nor the path of a socket", cfg.Address)
		}
		if cfg.ServerName == "" {
			cfg.ServerName = host
		}
	}
	if cfg.Dialer != nil && cfg.LocalAddr.IsValid() {
		return errors.New("a local address cannot be set for a dialer that was given")
	}
	if cfg.Dialer == nil {
		d := &net.Dialer{}
		if cfg.LocalAddr.IsValid() {
			d.LocalAddr = &net.TCPAddr{IP: cfg.LocalAddr.AsSlice(), Zone: cfg.LocalAddr.Zone()}
		}
		cfg.Dialer = d
	}
	return nil
}

func (cfg *Config) network() string {
	if strings.HasPrefix(cfg.Address, "/") {
		return "unix"
	}
	return "tcp"
}
