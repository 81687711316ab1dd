package tlsrpt

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/publicsuffix"
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
	// maxOwned bounds what is kept of one owner's domains on a day, in bytes more or
	// less: he makes up as many as he likes, each with policies of 64 KB. It is enough
	// for some days' worth of one domain that is always in trouble, and for hundreds
	// with a policy each.
	maxOwned = 256 << 10
	// overhead is what a policy or a detail takes beside its text.
	overhead = 200
)

// ownerOf is the domain that somebody has registered to have this one.
func ownerOf(domain string) string {
	if owner, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil {
		return owner
	}
	return domain
}

// counts is what is known of a domain on a day. It is stored as JSON.
type counts struct {
	Day      string          `json:"day"` // 2006-01-02
	Domain   string          `json:"domain"`
	Policies []*policyCounts `json:"policies"`

	// How far its report is, once the day is over.
	Attempts int      `json:"attempts,omitempty"`
	Done     []string `json:"done,omitempty"` // addresses that have it

	size  int       // in bytes, more or less
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

// measure finds the size of what was read.
func (c *counts) measure() {
	c.size = 0
	for _, p := range c.Policies {
		c.size += p.Policy.size()
		for _, d := range p.Details {
			c.size += d.size()
		}
	}
}

func (p *Policy) size() int {
	n := overhead + len(p.Domain)
	for _, list := range [][]string{p.Lines, p.MX} {
		for _, s := range list {
			n += len(s) + 16 // a string's head
		}
	}
	return n
}

func (d *detail) size() int { return overhead + len(d.MX) + len(d.HELO) + len(d.Reason) }

// add counts a session, and tells whether there was room for it: room is how much
// larger the counts may get. A failure for which there is none is counted by its type
// alone.
func (c *counts) add(s Session, room int) bool {
	before := c.size
	p := c.policy(s.Policy, room)
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
	if len(p.Details) >= maxDetails || c.size-before+d.size() > room {
		d = detail{Failure: s.Failure, Count: 1}
		if p.count(d) {
			return true
		}
	}
	p.Details = append(p.Details, &d)
	c.size += d.size()
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

func (c *counts) policy(p Policy, room int) *policyCounts {
	for _, known := range c.Policies {
		k := known.Policy
		if k.Type == p.Type && k.Domain == p.Domain && slices.Equal(k.Lines, p.Lines) && slices.Equal(k.MX, p.MX) {
			return known
		}
	}
	if len(c.Policies) >= maxPolicies || p.size() > room {
		return nil
	}
	added := &policyCounts{Policy: p}
	c.Policies = append(c.Policies, added)
	c.size += p.size()
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
