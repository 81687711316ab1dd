package tlsrpt

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxPolicies bounds the policies of a domain in a day: they change now and
	// then, and MX hosts have their own.
	maxPolicies = 20
	// maxDetails bounds the kinds of failure that are told apart for one policy.
	// Those beyond are counted by their type alone.
	maxDetails = 100
	// maxReason bounds the text about a failure, in bytes.
	maxReason = 200
)

// counts is what is known of a domain on a day. It is stored as JSON.
type counts struct {
	Day      string          `json:"day"` // 2006-01-02
	Domain   string          `json:"domain"`
	Policies []*policyCounts `json:"policies"`

	// How far its report is, once the day is over.
	Attempts int      `json:"attempts,omitempty"`
	Done     []string `json:"done,omitempty"` // addresses that have it

	next  time.Time // the next attempt
	dirty bool      // it is to be stored
	busy  bool      // it is being delivered
}

type policyCounts struct {
	Policy    Policy    `json:"policy"`
	Successes uint64    `json:"successes"`
	Failures  uint64    `json:"failures"`
	Details   []*detail `json:"details,omitempty"`
}

// detail counts the sessions that failed in one way.
type detail struct {
	Failure     Failure    `json:"failure"`
	SendingIP   netip.Addr `json:"sending_ip,omitzero"`
	ReceivingIP netip.Addr `json:"receiving_ip,omitzero"`
	MX          string     `json:"mx,omitempty"`
	HELO        string     `json:"helo,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	Count       uint64     `json:"count"`
}

// add counts a session, and tells whether there was room for it.
func (c *counts) add(s Session) bool {
	p := c.policy(s.Policy)
	if p == nil {
		return false
	}
	c.dirty = true
	if s.Failure == "" {
		p.Successes++
		return true
	}
	p.Failures++
	d := detail{s.Failure, s.SendingIP, s.ReceivingIP, s.MX, s.HELO, shorten(s.Reason), 1}
	if p.count(d) {
		return true
	}
	if len(p.Details) >= maxDetails {
		d = detail{Failure: s.Failure, Count: 1}
		if p.count(d) {
			return true
		}
	}
	p.Details = append(p.Details, &d)
	return true
}

// count adds one to what is the same as d, if there is such.
func (p *policyCounts) count(d detail) bool {
	for _, known := range p.Details {
		d.Count = known.Count
		if *known == d {
			known.Count++
			return true
		}
	}
	return false
}

func (c *counts) policy(p Policy) *policyCounts {
	for _, known := range c.Policies {
		k := known.Policy
		if k.Type == p.Type && k.Domain == p.Domain && slices.Equal(k.Lines, p.Lines) && slices.Equal(k.MX, p.MX) {
			return known
		}
	}
	if len(c.Policies) >= maxPolicies {
		return nil
	}
	added := &policyCounts{Policy: p}
	c.Policies = append(c.Policies, added)
	return added
}

func shorten(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
