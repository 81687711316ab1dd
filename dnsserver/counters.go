package dnsserver

import (
	"sync/atomic"

	"github.com/miekg/dns"
)

// answerCounters count questions and what became of them. There are several of them,
// so that processors do not take them from each other.
type answerCounters struct {
	_      [64]byte
	types  [256]atomic.Uint64 // of questions; the last is all that are not listed
	rcodes [24]atomic.Uint64
}

const otherType = 255 // as QTYPE that is ANY, which is counted there too

func (c *answerCounters) count(qtype uint16, rcode int) {
	c.types[min(qtype, otherType)].Add(1)
	if rcode < len(c.rcodes) {
		c.rcodes[rcode].Add(1)
	}
}

// zoneCounters count the questions for a zone.
type zoneCounters struct {
	queries, nameErrors, noData, referrals, updates, transfers atomic.Uint64
}

// count counts an answer from the zone.
func (c *zoneCounters) count(m *message) {
	c.queries.Add(1)
	switch {
	case m.rcode == dns.RcodeNameError:
		c.nameErrors.Add(1)
	case m.full || m.counts[answerSection] > 0:
	case m.aa:
		c.noData.Add(1)
	default:
		c.referrals.Add(1)
	}
}
