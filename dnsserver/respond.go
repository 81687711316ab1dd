package dnsserver

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// transport is how a query came.
type transport uint8

const (
	overUDP transport = iota
	overTCP
	overTLS
	overHTTPS
	overQUIC
)

// asker is who asks, and how.
type asker struct {
	addr      netip.AddrPort
	transport transport
	// verified is set by respond if the asker has shown that it does not forge
	// its address.
	verified bool
	// key is that of the query's signature (TSIG), if that is good. respond
	// sets it.
	key *tsigKey
}

// scratch is what a goroutine needs to make answers without allocating. It is
// not for concurrent use.
type scratch struct {
	query    query
	message  message
	options  [maxOptions]byte
	counters *answerCounters
}

// responder answers queries from zones. It knows nothing of sockets.
type responder struct {
	zones         atomic.Pointer[zoneSet]
	authoritative bool
	udpSize       int                  // of the largest response over UDP
	nsid          string               // "": not told
	version       string               // "": not told
	cookies       *cookies             // nil: none
	idle          func() time.Duration // how long a connection may idle just now
	transfers     *transfers           // nil: no keys, transfers and updates
	nextShard     atomic.Uint32
	shards        [16]answerCounters
}

// init takes over what a configuration says about answers.
func (r *responder) init(c *Config) {
	r.authoritative = orDefault(c.Authoritative, true)
	r.udpSize = c.MaxUDPSize
	if r.udpSize == 0 {
		r.udpSize = DefaultMaxUDPSize
	}
	r.nsid, r.version = c.NSID, c.Version
	if orDefault(c.Cookies, true) {
		r.cookies = newCookies()
	}
	r.zones.Store(newZoneSet(nil))
}

func (r *responder) newScratch() *scratch {
	return &scratch{counters: &r.shards[int(r.nextShard.Add(1))%len(r.shards)]}
}

const (
	plainUDPSize = 512 // RFC 1035 section 2.3.4
)

// respond appends the response to a query to dst; if it appends nothing the
// query is met with silence. The response keeps to what the transport and the
// client allow.
func (r *responder) respond(sc *scratch, dst, wire []byte, from *asker) []byte {
	q := &sc.query
	rcode, silent := q.parse(wire)
	if silent {
		return dst
	}
	from.key = nil
	if q.tsig > 0 && rcode == dns.RcodeSuccess {
		return r.respondSigned(sc, dst, from)
	}
	return r.reply(sc, dst, rcode, from, 0)
}

// reply is respond for a query that has been read. With an rcode that is all
// there is to say. room is kept free for what comes after the response.
func (r *responder) reply(sc *scratch, dst []byte, rcode int, from *asker, room int) []byte {
	q, m := &sc.query, &sc.message
	if cookie, ok := q.option(dns.EDNS0COOKIE); ok && r.cookies != nil && rcode == dns.RcodeSuccess && !isCookie(cookie) {
		rcode = dns.RcodeFormatError // RFC 7873 section 5.2.2
	}
	options := r.answerOptions(sc, from)
	// What is signed has no padding: nobody has said that it may be longer.
	m.padded = from.transport >= overTLS && room == 0
	m.begin(dst, q, r.sizeLimit(q, from)-r.optLen(q, options)-room)
	if m.rcode = rcode; rcode == dns.RcodeSuccess {
		r.serve(sc, from)
	}
	return r.end(sc, options, from)
}

// serve fills the message with the answer to the query.
func (r *responder) serve(sc *scratch, from *asker) {
	q, m := &sc.query, &sc.message
	switch {
	case q.edns && q.version > 0:
		m.rcode = dns.RcodeBadVers // RFC 6891 section 6.1.3
	case q.opcode() == dns.OpcodeNotify && r.transfers != nil:
		r.transfers.notified(q, m, from)
	case q.opcode() == dns.OpcodeUpdate && r.transfers != nil:
		m.rcode = r.transfers.update(q, from)
	case q.opcode() != dns.OpcodeQuery:
		m.rcode = dns.RcodeNotImplemented
	case q.qtype == dns.TypeNXNAME:
		m.rcode = dns.RcodeFormatError // RFC 9824 section 3.5
	case q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR:
		r.serveTransfer(q, m, from)
	case q.qclass == dns.ClassCHAOS:
		r.answerChaos(q, m)
	case q.qclass != dns.ClassINET && q.qclass != dns.ClassANY:
		m.rcode = dns.RcodeRefused
	default:
		z := r.zones.Load().answer(m, from.transport != overUDP)
		if z != nil {
			z.counters.count(m)
		}
		// Of other classes nobody knows here (RFC 1035 section 6.2).
		m.aa = m.aa && r.authoritative && q.qclass != dns.ClassANY
	}
}

// end adds what the query does not ask for, and counts the response.
func (r *responder) end(sc *scratch, options []byte, from *asker) []byte {
	q, m := &sc.query, &sc.message
	m.finish(q)
	if q.edns {
		m.appendOPT(q, r.udpSize, options)
	}
	sc.counters.count(q.qtype, m.rcode)
	return m.b
}

// sizeLimit is how long a response may be.
func (r *responder) sizeLimit(q *query, from *asker) int {
	switch {
	case from.transport != overUDP:
		return maxMessage
	case !q.edns:
		return plainUDPSize
	}
	return min(max(int(q.size), plainUDPSize), r.udpSize)
}

// answerChaos answers what servers are asked about themselves (RFC 4892).
func (r *responder) answerChaos(q *query, m *message) {
	m.rcode = dns.RcodeRefused
	if q.qtype != dns.TypeTXT && q.qtype != dns.TypeANY {
		return
	}
	text := ""
	switch string(appendLower(m.other[:0], q.name)) {
	case "\x07version\x04bind\x00", "\x07version\x06server\x00":
		text = r.version
	case "\x02id\x06server\x00", "\x08hostname\x04bind\x00":
		text = r.nsid
	}
	if text == "" {
		return
	}
	m.rcode, m.aa = dns.RcodeSuccess, true
	if m.len()+recordHead+1+len(text) > m.limit {
		m.full = true
		return
	}
	head := [recordHead]byte{0xc0, questionAt, 0, byte(dns.TypeTXT), 0, byte(dns.ClassCHAOS), 10: byte((len(text) + 1) >> 8), 11: byte(len(text) + 1)}
	m.b = append(append(append(m.b, head[:]...), byte(len(text))), text...)
	m.counts[answerSection]++
}

func appendLower(dst, name []byte) []byte {
	for _, c := range name {
		dst = append(dst, lower(c))
	}
	return dst
}
