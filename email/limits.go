package email

import (
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/limit"
)

// defaultRecipients is InboundLimits.RecipientsPerMessage where nothing is said.
const defaultRecipients = 1000

// limits are those on messages, by whom they are for and from.
type limits struct {
	all, perIP, perUser *limit.Limiter
	domains             map[string]domainLimits // by canonical name
	connections         limit.Gate              // by domain and client
	hops                limit.Gate              // messages that wait for a next server, by client and envelope
}

// domainLimits are those on messages to a domain.
type domainLimits struct{ all, perIP *limit.Limiter }

func (s *Server) newLimits() *limits {
	perMinute := func(n int) *limit.Limiter {
		return limit.NewLimiter(0, s.now, limit.Rate{N: n, Per: time.Minute})
	}
	in := &s.cfg.RateLimits.Inbound
	l := &limits{
		all:     perMinute(in.MessagesPerMinute),
		perIP:   perMinute(in.MessagesPerMinutePerIP),
		perUser: perMinute(in.MessagesPerMinutePerUser),
		domains: make(map[string]domainLimits),
	}
	for name := range s.domains {
		if in := s.limitsOf(name); in.MessagesPerMinute > 0 || in.MessagesPerMinutePerIP > 0 {
			l.domains[name] = domainLimits{perMinute(in.MessagesPerMinute), perMinute(in.MessagesPerMinutePerIP)}
		}
	}
	return l
}

// limitsOf are the limits of mail to a domain.
func (s *Server) limitsOf(domain string) InboundLimits {
	all := valueOr(s.cfg.RateLimits.Inbound.RecipientsPerMessage, defaultRecipients)
	d := s.domain(domain)
	if d == nil {
		return InboundLimits{RecipientsPerMessage: all}
	}
	in, def := &d.RateLimits.Inbound, &s.cfg.Defaults.RateLimits.Inbound
	return InboundLimits{
		MessagesPerMinute:      valueOr(in.MessagesPerMinute, def.MessagesPerMinute),
		MessagesPerMinutePerIP: valueOr(in.MessagesPerMinutePerIP, def.MessagesPerMinutePerIP),
		ConnectionsPerIP:       valueOr(in.ConnectionsPerIP, def.ConnectionsPerIP),
		RecipientsPerMessage:   valueOr(in.RecipientsPerMessage, valueOr(def.RecipientsPerMessage, all)),
	}
}

// message counts a message among those of its client, or says how long to wait.
func (l *limits) message(client netip.Addr, user string) (wait time.Duration) {
	if user != "" {
		if ok, wait := l.perUser.Allow(user, 1); !ok {
			return wait
		}
	}
	_, wait = l.perIP.Allow(limit.HostKey(client), 1)
	return wait
}

// countShared counts the message, once, in the limits that all clients share: over
// all, and to a domain if the client is not trusted. It is for a recipient that
// everything else accepts: who could use these up with less would keep out others.
// uncount is for one that is not accepted after all.
func (s *session) countShared(domain string, trusted bool) (uncount func(), wait time.Duration) {
	tx, l := s.tx, s.r.limits
	name := canonicalDomain(domain)
	d, limited := l.domains[name]
	overAll, toDomain := len(tx.env.Recipients) == 0, limited && !trusted && !tx.domains[name]
	if overAll {
		if ok, wait := l.all.Allow("", 1); !ok {
			return nil, wait
		}
	}
	if toDomain {
		if ok, wait := d.all.Allow("", 1); !ok {
			if overAll {
				l.all.Refund("", 1)
			}
			return nil, wait
		}
		tx.domains[name] = true
	}
	return func() {
		if overAll {
			l.all.Refund("", 1)
		}
		if toDomain {
			d.all.Refund("", 1)
			tx.domains[name] = false
		}
	}, 0
}

// limitDomain counts the message, once, and the connection among those of the
// client to a domain.
func (s *session) limitDomain(domain string, in *InboundLimits) *Reply {
	name := canonicalDomain(domain)
	if _, counted := s.leave[name]; !counted && in.ConnectionsPerIP > 0 {
		leave, ok := s.r.limits.connections.Enter(name+" "+limit.HostKey(s.client.Addr), in.ConnectionsPerIP)
		if !ok {
			return &Reply{Code: 450, Enhanced: [3]int{4, 7, 0}, Text: "Too many connections for this domain, try again later"}
		}
		if s.leave == nil {
			s.leave = make(map[string]func())
		}
		s.leave[name] = leave
	}
	d, limited := s.r.limits.domains[name]
	if _, counted := s.tx.domains[name]; !limited || counted {
		return nil
	}
	if ok, wait := d.perIP.Allow(limit.HostKey(s.client.Addr), 1); !ok {
		return tooMuch(wait)
	}
	if s.tx.domains == nil {
		s.tx.domains = make(map[string]bool)
	}
	s.tx.domains[name] = false
	return nil
}
