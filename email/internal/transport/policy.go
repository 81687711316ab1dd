package transport

import (
	"context"
	"crypto/tls"
	"net/netip"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// Policy says which TLS the hosts of a destination need.
type Policy interface {
	// Host says what a host needs. It may ask DNS.
	Host(ctx context.Context, h mx.Host) Requirement
	// Result is told how each new connection went, and of each host that was
	// refused.
	Result(o Outcome)
}

// Requirement is what TLS to a host must be like.
type Requirement struct {
	// Mode is Opportunistic, StartTLS or NoTLS.
	Mode smtpc.TLSMode
	// Config is as [smtpc.Config.TLSConfig]; nil means the defaults.
	Config *tls.Config
	// ServerName is whom the certificate must be for; the default is the host's
	// name.
	ServerName string
	// Source says in a word where the requirement is from: "dane", "mta-sts", ...
	Source string
	// Key tells requirements apart: with equal ones, of the same Source, messages
	// may share a connection to a host.
	Key string
	// Refuse is why the host must not be used at all. As an [*smtpc.Error] it says
	// whether that is for good; any other error may pass.
	Refuse error
}

// Outcome is how a connection to a host went.
type Outcome struct {
	Host        mx.Host
	Requirement Requirement
	// Local and Remote are its addresses; they are not valid where there was no
	// connection.
	Local, Remote netip.Addr
	// HELO is the name that we said hello with.
	HELO string
	// TLS describes the connection's TLS; nil means that there is none.
	TLS *smtpc.TLSState
	// Err is why there is no connection, no TLS, or the requirement's Refuse.
	Err error
}

// opportunistic is the policy where none is given.
type opportunistic struct{ requireTLS bool }

func (p opportunistic) Host(context.Context, mx.Host) Requirement {
	if p.requireTLS { // RFC 8689
		return Requirement{Mode: smtpc.StartTLS, Source: "requiretls"}
	}
	return Requirement{Mode: smtpc.Opportunistic, Source: "opportunistic"}
}

func (opportunistic) Result(Outcome) {}
