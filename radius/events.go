package radius

import (
	"cmp"
	"net/netip"
	"time"
)

// Event is something about a packet or connection that hints at an attack, abuse
// or a wrong secret.
type Event struct {
	Time time.Time `json:"time"`
	// Reason is what [Stats.Dropped] counts it as: "unknownClient", "malformed",
	// "badMessageAuthenticator", "badAuthenticator", "missingMessageAuthenticator",
	// "unsignedProxyState", "tooManyFailures", "unreadablePassword" or "badRadSec".
	Reason string `json:"reason"`
	// Detail says it in words.
	Detail string `json:"detail"`
	// Client is the name of the client as configured, or its IP if it has none. It
	// is "" if it comes from no client's address, or there are no clients.
	Client string `json:"client,omitempty"`
	// Remote is where it came from.
	Remote netip.AddrPort `json:"remote"`
	// User is the user or device that it is about, or "".
	User string `json:"user,omitempty"`
	// Proven is whether it has come by RadSec. Anybody can send a packet of UDP in
	// another's name.
	Proven bool `json:"proven"`
}

// WithObserver adds somebody who is told of what hints at an attack, abuse or a wrong
// secret: of packets of UDP once a minute for each address and reason, as the log
// is, of RadSec each time. It is called from several goroutines, and should
// return soon.
func WithObserver(tell func(Event)) Option {
	return func(o *options) { o.observers = append(o.observers, tell) }
}

// isSuspect reports whether a packet without an answer for this reason hints at
// abuse.
func (r reason) isSuspect() bool {
	switch r {
	case unknownClient, malformed, badSignature, badAuthenticator, unsigned, proxyState, tooManyFailures, badPassword, badRadSec:
		return true
	}
	return false
}

// dropped is a packet or connection that came to nothing.
type dropped struct {
	from   netip.AddrPort
	client *client // or nil
	why    reason
	err    error  // or nil
	user   string // or ""
	radSec bool
}

// drop counts it, logs it if it is the first of its kind in a minute, and tells
// the observer.
func (s *Server) drop(d dropped) {
	s.stats.dropped[d.why].Add(1)
	name, notices := "", &s.strangers
	if d.client != nil {
		d.client.stats.dropped.Add(1)
		name, notices = cmp.Or(d.client.Name, d.client.IP), &s.notices
	}
	now := time.Now()
	skipped, first := notices.first(d.from.Addr(), d.why, now)
	if first {
		args := []any{"reason", d.why.String(), "client", name, "remote", d.from.String(), "not_logged", skipped}
		if d.err != nil {
			args = append(args, "err", d.err)
		}
		s.log.Warn(d.why.explain(), args...)
	}
	if len(s.opts.observers) == 0 || !d.why.isSuspect() || !first && !d.radSec {
		return
	}
	e := Event{Time: now, Reason: d.why.String(), Detail: d.why.explain(), Client: name, Remote: d.from, User: d.user, Proven: d.radSec}
	if d.err != nil {
		e.Detail += ": " + d.err.Error()
	}
	for _, tell := range s.opts.observers {
		tell(e)
	}
}

// drop is what becomes of a packet that gets no answer.
func (in *arrival) drop(s *Server, why reason, err error) {
	s.drop(dropped{from: in.from, client: in.client, why: why, err: err, radSec: in.tls()})
}

// drop is what becomes of a request that is not answered, or rejected without
// asking.
func (a *access) drop(s *Server, why reason, err error) {
	s.drop(dropped{from: a.from, client: a.client, why: why, err: err, user: a.subject.who, radSec: a.tls()})
}
