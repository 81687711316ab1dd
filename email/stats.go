package email

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Stats is a snapshot of a Server's counters. All but those of what is there now
// count from New on.
type Stats struct {
	// Connections are clients'.
	Connections ConnectionStats `json:"connections"`
	// Messages are those that clients have sent.
	Messages MessageStats `json:"messages"`
	// Refused counts refusals by reason: "connections", "tls", "blocked", "reputation",
	// "early-talker", "timeout", "protocol", "smuggling", "rate", "greylist",
	// "relay", "route", "suppressed", "split", "sender", "authentication",
	// "scanner", "hook", "content", "storage", "next-hop", "mailbox"; by [Security]
	// "blocked" and "port-full", and "proxy-header" by [ProxyProtocol], unless the
	// proxy has the ports: then it counts these.
	Refused map[string]uint64 `json:"refused"`
	// Routes counts recipients by the route that took them.
	Routes map[string]uint64 `json:"routes"`
	// SPF, DKIM, DMARC and ARC count messages by result (RFC 8601 section 2.7).
	SPF   map[string]uint64 `json:"spf"`
	DKIM  map[string]uint64 `json:"dkim"`
	DMARC map[string]uint64 `json:"dmarc"`
	ARC   map[string]uint64 `json:"arc"`
	// Scans counts messages by scanner and what came of it, as "spam/clean",
	// "spam/bad", "spam/deferred" and "spam/error"; other backends than the
	// built-in one are named, as in "virus/clamav/clean".
	Scans map[string]uint64 `json:"scans"`
	// SignIns and SignInFailures count attempts to sign in.
	SignIns        uint64 `json:"signIns"`
	SignInFailures uint64 `json:"signInFailures"`
	// Deliveries are to mailboxes and to other servers.
	Deliveries DeliveryStats `json:"deliveries"`
	// Spool is what is kept now.
	Spool SpoolStats `json:"spool"`
	// Submitted counts what SendEmail was given.
	Submitted uint64 `json:"submitted"`
	// Quotas are those of [OutboundLimits], by domain; that of "" is the server's.
	Quotas map[string]QuotaStats `json:"quotas"`
	// Sources are the addresses that mail goes out from, and Providers who it goes
	// to.
	Sources   []SourceStats      `json:"sources"`
	Providers map[string]Traffic `json:"providers"`
}

// ConnectionStats counts connections.
type ConnectionStats struct {
	// Open are those there now.
	Open int64 `json:"open"`
	// Total are all that there were, Refused those refused before the greeting.
	Total   uint64 `json:"total"`
	Refused uint64 `json:"refused"`
}

// MessageStats counts messages.
type MessageStats struct {
	// Accepted are those answered with 250, Bytes is how much they were.
	Accepted uint64 `json:"accepted"`
	Bytes    uint64 `json:"bytes"`
	// Refused are those refused for good after their content had come, Deferred
	// those put off.
	Refused  uint64 `json:"refused"`
	Deferred uint64 `json:"deferred"`
	// Quarantined are those of the accepted that are held back.
	Quarantined uint64 `json:"quarantined"`
}

// DeliveryStats counts recipients of deliveries.
type DeliveryStats struct {
	// Mailboxes and Forwarded were taken, by a mailbox or another server.
	Mailboxes uint64 `json:"mailboxes"`
	Forwarded uint64 `json:"forwarded"`
	// Deferred are attempts that are made again, Failed recipients that are
	// given up.
	Deferred uint64 `json:"deferred"`
	Failed   uint64 `json:"failed"`
	// Bounced are recipients whose servers reported later that they could not keep
	// a message, and Complaints those who called one spam.
	Bounced    uint64 `json:"bounced"`
	Complaints uint64 `json:"complaints"`
	// Running are deliveries under way, Waiting those that are due.
	Running int `json:"running"`
	Waiting int `json:"waiting"`
	// Sites are the servers that mail is on its way to or held up for, at most a
	// hundred.
	Sites []SiteStats `json:"sites"`
}

// SpoolStats is what the spool holds.
type SpoolStats struct {
	// Messages is how many there are, Bytes how much they take up.
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"`
	// Quarantined are those of them that are held back.
	Quarantined int64 `json:"quarantined"`
	// Paused is set between [Server.PauseQueue] and [Server.ResumeQueue].
	Paused bool `json:"paused"`
	// Unusable is set while mail can neither be taken nor delivered, because the
	// storage that has the spool could not be reached for so long that others may
	// open it.
	Unusable bool `json:"unusable"`
}

// counters are what Stats shows.
type counters struct {
	open, total, connRefused                         atomic.Int64
	accepted, bytes, refused, deferred, quarantined  atomic.Uint64
	signIns, signInFailures                          atomic.Uint64
	mailboxes, forwarded, retried, failed            atomic.Uint64
	bounced, complaints, submitted                   atomic.Uint64
	reasons, routes, spf, dkim, dmarc, arc, scanners tally
}

// tally counts by a name from a set that the configuration or the code bounds.
type tally struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (t *tally) add(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = make(map[string]uint64)
	}
	t.n[name]++
}

func (t *tally) snapshot() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		return map[string]uint64{}
	}
	return maps.Clone(t.n)
}

// Stats returns a snapshot of the counters.
func (s *Server) Stats() Stats {
	c := &s.stats
	st := Stats{
		Connections:    ConnectionStats{Open: c.open.Load(), Total: uint64(c.total.Load()), Refused: uint64(c.connRefused.Load())},
		Messages:       MessageStats{c.accepted.Load(), c.bytes.Load(), c.refused.Load(), c.deferred.Load(), c.quarantined.Load()},
		Refused:        c.reasons.snapshot(),
		Routes:         c.routes.snapshot(),
		SPF:            c.spf.snapshot(),
		DKIM:           c.dkim.snapshot(),
		DMARC:          c.dmarc.snapshot(),
		ARC:            c.arc.snapshot(),
		Scans:          c.scanners.snapshot(),
		SignIns:        c.signIns.Load(),
		SignInFailures: c.signInFailures.Load(),
		Submitted:      c.submitted.Load(),
		Deliveries: DeliveryStats{Mailboxes: c.mailboxes.Load(), Forwarded: c.forwarded.Load(), Deferred: c.retried.Load(),
			Failed: c.failed.Load(), Bounced: c.bounced.Load(), Complaints: c.complaints.Load()},
	}
	if r := s.current(); r != nil {
		st.Spool = r.queue.stats()
		st.addOutbound(r)
	}
	return st
}
