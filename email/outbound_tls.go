package email

import (
	"context"
	"errors"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/email/internal/tlspolicy"
	"github.com/dcrouter/dcrouter/email/internal/transport"
)

// policyFor finds out which TLS the servers of a domain want.
func (r *run) policyFor(ctx context.Context, d mx.Destination, env *queued) (transport.Policy, error) {
	demand := tlspolicy.Default
	switch {
	case env.RequireTLS:
		demand = tlspolicy.Require
	case env.OptionalTLS:
		demand = tlspolicy.Optional
	}
	p, err := r.policies.For(ctx, tlspolicy.Destination{Domain: d.Domain, Secure: d.Secure}, demand)
	if err != nil {
		return nil, err
	}
	return policy{p}, nil
}

// policy is a policy as transport wants it.
type policy struct{ *tlspolicy.Policy }

func (p policy) Host(ctx context.Context, h mx.Host) transport.Requirement {
	q := p.Policy.Host(ctx, h.Name)
	out := transport.Requirement{Mode: q.Mode, Config: q.Config, ServerName: q.ServerName, Source: q.Source, Key: q.Key}
	if q.Refuse != nil {
		out.Refuse = q.Refuse
	}
	return out
}

func (p policy) Result(o transport.Outcome) {
	p.Policy.Result(tlspolicy.Outcome{
		Host: o.Host.Name, SendingIP: o.Local, ReceivingIP: o.Remote, HELO: o.HELO, TLS: o.TLS, Err: o.Err,
		NotOffered: errors.Is(o.Err, smtpc.ErrNoStartTLS),
	})
}
