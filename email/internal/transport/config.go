package transport

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// Config says how a [Client] works. Hostname is required; of everything else 0
// means the default.
type Config struct {
	// Hostname is the name to say hello with, where a [Request] gives none.
	Hostname string
	// Dial opens connections, from the source address if that is valid. The
	// default is a [net.Dialer].
	Dial func(ctx context.Context, source netip.Addr, network, address string) (net.Conn, error)
	// Port is where hosts of a [mx.Destination] listen; default 25.
	Port uint16
	// Timeouts bounds the phases of a dialogue.
	Timeouts smtpc.Timeouts

	// MaxAddresses is how many addresses are tried for one message; default 5.
	MaxAddresses int
	// ConnectTime is how long it may take until one of them takes commands;
	// default 5m.
	ConnectTime time.Duration
	// SendTime bounds all of a Send, so that a host that is just fast enough for
	// each of the timeouts does not hold a message for days; default 1h.
	SendTime time.Duration
	// MaxRecipients is how many recipients go into one transaction, if the host
	// does not announce less; default [MaxRecipients].
	MaxRecipients int

	// IdleTime is how long a connection is kept for the next message; default 5s.
	// Below 0 none is.
	IdleTime time.Duration
	// MaxIdle is how many are kept at most; default 200.
	MaxIdle int
	// MaxMessages is how many transactions a connection is used for, if the host
	// does not announce less; default 100.
	MaxMessages int

	// Now is the clock of what is told of attempts; default [time.Now].
	Now func() time.Time
}

// MaxRecipients is what every host must take (RFC 5321 section 4.5.3.1.8).
const MaxRecipients = 100

func (cfg Config) withDefaults() Config {
	number := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	duration := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	number(&cfg.MaxAddresses, 5)
	number(&cfg.MaxRecipients, MaxRecipients)
	number(&cfg.MaxIdle, 200)
	number(&cfg.MaxMessages, 100)
	duration(&cfg.ConnectTime, 5*time.Minute)
	duration(&cfg.SendTime, time.Hour)
	duration(&cfg.IdleTime, 5*time.Second)
	if cfg.Port == 0 {
		cfg.Port = 25
	}
	if cfg.Dial == nil {
		cfg.Dial = dial
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg
}

func dial(ctx context.Context, source netip.Addr, network, address string) (net.Conn, error) {
	var d net.Dialer
	if source.IsValid() && network == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: source.AsSlice(), Zone: source.Zone()}
	}
	return d.DialContext(ctx, network, address)
}

// dialer is Config.Dial from one source address, as smtpc wants it.
type dialer struct {
	dial   func(ctx context.Context, source netip.Addr, network, address string) (net.Conn, error)
	source netip.Addr
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.dial(ctx, d.source, network, address)
}
