package dnsserver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// query is a message that asks something, read without allocating.
type query struct {
	wire   []byte
	flags  uint16
	name   []byte // of the question, wire, in the case that was asked
	qtype  uint16
	qclass uint16
	end    int // of the question

	edns    bool
	version uint8  // of EDNS
	size    uint16 // UDP payload the client takes
	do      bool   // the client wants signatures
	co      bool   // the client knows compact proofs (RFC 9824 section 5.1)
	options []byte // of EDNS
	tsig    int    // where the TSIG record is, or 0
}

const (
	flagQR     = 1 << 15
	flagAA     = 1 << 10
	flagTC     = 1 << 9
	flagRD     = 1 << 8
	flagCD     = 1 << 4
	opcodeMask = 15 << 11
	headLen    = 12
)

func (q *query) opcode() int { return int(q.flags&opcodeMask) >> 11 }

// parse reads a message with one question. What it returns is a response code;
// the query is filled as far as it could be read. silent means that no answer
// is due at all.
func (q *query) parse(wire []byte) (rcode int, silent bool) {
	*q = query{wire: wire}
	if len(wire) < headLen {
		return 0, true
	}
	q.flags = binary.BigEndian.Uint16(wire[2:])
	if q.flags&flagQR != 0 {
		return 0, true // an answer to an answer would never end
	}
	count := func(i int) int { return int(binary.BigEndian.Uint16(wire[4+2*i:])) }
	q.end = headLen
	known := q.opcode() == dns.OpcodeQuery || q.opcode() == dns.OpcodeNotify || q.opcode() == dns.OpcodeUpdate
	if count(0) != 1 {
		if !known { // as stateful operations, which have no question (RFC 8490)
			return dns.RcodeNotImplemented, false
		}
		return dns.RcodeFormatError, false
	}
	n := nameLen(wire[headLen:])
	if n == 0 || headLen+n+4 > len(wire) {
		return dns.RcodeFormatError, false
	}
	q.name = wire[headLen : headLen+n]
	q.end = headLen + n + 4
	q.qtype = binary.BigEndian.Uint16(wire[q.end-4:])
	q.qclass = binary.BigEndian.Uint16(wire[q.end-2:])
	if !known {
		return dns.RcodeNotImplemented, false
	}
	at := q.end
	for range count(1) + count(2) { // an update has records here, and a query for IXFR
		if at = skipRecord(wire, at); at == 0 {
			return dns.RcodeFormatError, false
		}
	}
	for i := range count(3) {
		start := at
		if at = skipRecord(wire, at); at == 0 {
			return dns.RcodeFormatError, false
		}
		head := nameEnd(wire, start)
		switch binary.BigEndian.Uint16(wire[head:]) {
		case dns.TypeOPT:
			if q.edns || wire[start] != 0 { // RFC 6891 section 6.1.1
				return dns.RcodeFormatError, false
			}
			q.readOPT(wire[head:at])
			if !validOptions(q.options) {
				q.options = nil
				return dns.RcodeFormatError, false
			}
		case dns.TypeTSIG:
			if i != count(3)-1 { // RFC 8945 section 5.1
				return dns.RcodeFormatError, false
			}
			q.tsig = start
		}
	}
	if at != len(wire) {
		return dns.RcodeFormatError, false
	}
	return dns.RcodeSuccess, false
}

// readOPT reads an OPT record without its name (RFC 6891 section 6.1.2).
func (q *query) readOPT(rr []byte) {
	q.edns = true
	q.size = binary.BigEndian.Uint16(rr[2:])
	q.version = rr[5]
	q.do = rr[6]&0x80 != 0
	q.co = rr[6]&0x40 != 0
	q.options = rr[10:]
}

func validOptions(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return true
}

// option returns the contents of the first EDNS option with this code.
func (q *query) option(code uint16) ([]byte, bool) {
	for b := q.options; len(b) > 0; {
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if binary.BigEndian.Uint16(b) == code {
			return b[4:n], true
		}
		b = b[n:]
	}
	return nil, false
}

// nameEnd returns the offset behind the name at an offset of a message, or 0
// if there is none. It does not follow pointers.
func nameEnd(wire []byte, at int) int {
	for start := at; at < len(wire) && at-start < maxName; {
		switch n := int(wire[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0:
			if at+2 > len(wire) {
				return 0
			}
			return at + 2
		case n > 63:
			return 0
		default:
			at += n + 1
		}
	}
	return 0
}

// skipRecord returns the offset behind the record at an offset, or 0.
func skipRecord(wire []byte, at int) int {
	at = nameEnd(wire, at)
	if at == 0 || at+10 > len(wire) {
		return 0
	}
	at += 10 + int(binary.BigEndian.Uint16(wire[at+8:]))
	if at > len(wire) {
		return 0
	}
	return at
}
