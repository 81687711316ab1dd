package dnsserver

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/miekg/dns"
)

// readName appends the name at an offset of a message to dst, without
// compression (RFC 1035 section 4.1.4) and in the case it has, and returns the
// offset behind it. Pointers have to lead backwards, so that they end.
func readName(dst, wire []byte, at int) (name []byte, next int, ok bool) {
	start, lowest := len(dst), at
	for at < len(wire) {
		switch n := int(wire[at]); {
		case n == 0:
			if dst = append(dst, 0); next == 0 {
				next = at + 1
			}
			return dst, next, len(dst)-start <= maxName
		case n >= 0xc0:
			if at+2 > len(wire) {
				return nil, 0, false
			}
			if next == 0 {
				next = at + 2
			}
			to := int(binary.BigEndian.Uint16(wire[at:]) & 0x3fff)
			if to >= lowest {
				return nil, 0, false
			}
			at, lowest = to, to
		case n > 63 || at+1+n > len(wire) || len(dst)-start+1+n > maxName:
			return nil, 0, false
		default:
			dst = append(dst, wire[at:at+1+n]...)
			at += 1 + n
		}
	}
	return nil, 0, false
}

// lowerName returns a wire name in lower case.
func lowerName(name []byte) string {
	return string(appendLower(make([]byte, 0, len(name)), name))
}

// sentRecord is a record as it came.
type sentRecord struct {
	record
	class uint16
}

var errRecord = errors.New("a record that is none")

// readRecord reads the record at an offset of a message, and returns the offset
// behind it. Data without octets is left to the caller, as updates have it;
// other data is what its type says.
func readRecord(wire []byte, at int) (r sentRecord, next int, err error) {
	name, at, ok := readName(make([]byte, 0, 64), wire, at)
	if !ok || at+10 > len(wire) {
		return r, 0, errRecord
	}
	head := wire[at:]
	at += 10
	next = at + int(binary.BigEndian.Uint16(head[8:]))
	if next > len(wire) {
		return r, 0, errRecord
	}
	r.name = lowerName(name)
	r.rtype, r.class, r.ttl = binary.BigEndian.Uint16(head), binary.BigEndian.Uint16(head[2:]), binary.BigEndian.Uint32(head[4:])
	if r.ttl > 1<<31-1 {
		r.ttl = 0 // RFC 2181 section 8
	}
	if next == at || metaType(r.rtype) {
		return r, next, nil
	}
	data, ok := readData(wire[:next], at, r.rtype)
	if !ok || !r.holds(data) {
		return r, 0, fmt.Errorf("%s %s: %w", nameText(r.name), typeText(r.rtype), errRecord)
	}
	r.data = string(data)
	return r, next, nil
}

// holds reports whether data, which it then has, is data of the record's type.
func (r *record) holds(data []byte) bool {
	switch r.rtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeCNAME, dns.TypeSOA, dns.TypeMX, dns.TypePTR, dns.TypeSRV:
		return true // known by their shape alone
	}
	probe := record{name: r.name, rtype: r.rtype, data: string(data)}
	_, err := probe.unpack()
	return err == nil
}

// dataShape is what the data of a type begins with: octets, then names that
// may be compressed, or may have been in the past (RFC 3597 section 4), then
// more octets, or -1 for as many as there are.
func dataShape(rtype uint16) (before, names, after int) {
	switch rtype {
	case dns.TypeNS, dns.TypeCNAME, dns.TypePTR, dns.TypeDNAME, dns.TypeMB, dns.TypeMD, dns.TypeMF, dns.TypeMG, dns.TypeMR:
		return 0, 1, 0
	case dns.TypeSOA:
		return 0, 2, 20
	case dns.TypeMINFO, dns.TypeRP:
		return 0, 2, 0
	case dns.TypeMX, dns.TypeAFSDB, dns.TypeRT, dns.TypeKX:
		return 2, 1, 0
	case dns.TypePX:
		return 2, 2, 0
	case dns.TypeSRV:
		return 6, 1, 0
	case dns.TypeSVCB, dns.TypeHTTPS:
		return 2, 1, -1
	case dns.TypeRRSIG, dns.TypeSIG:
		return 18, 1, -1
	case dns.TypeNSEC:
		return 0, 1, -1
	case dns.TypeDNSKEY, dns.TypeCDNSKEY, dns.TypeDS, dns.TypeCDS:
		return 4, 0, -1
	case dns.TypeA:
		return 4, 0, 0
	case dns.TypeAAAA:
		return 16, 0, 0
	case dns.TypeNSEC3:
		return 6, 0, -1
	case dns.TypeNSEC3PARAM:
		return 5, 0, -1
	}
	return 0, 0, -1
}

// readData returns record data, which begins at an offset and ends with wire,
// without compression.
func readData(wire []byte, at int, rtype uint16) ([]byte, bool) {
	before, names, after := dataShape(rtype)
	if rtype == dns.TypeNAPTR {
		names, after = 1, 0
		before = 4
		for range 3 { // strings
			if at+before >= len(wire) {
				return nil, false
			}
			before += 1 + int(wire[at+before])
		}
	}
	if at+before > len(wire) {
		return nil, false
	}
	data := append(make([]byte, 0, len(wire)-at+maxName), wire[at:at+before]...)
	at += before
	for range names {
		var ok bool
		if data, at, ok = readName(data, wire, at); !ok {
			return nil, false
		}
	}
	if after >= 0 && len(wire)-at != after {
		return nil, false
	}
	return append(data, wire[at:]...), true
}

// metaType reports whether a type is one that questions and messages have, but
// no zone (RFC 6895 section 3.1).
func metaType(rtype uint16) bool {
	return rtype == 0 || rtype == dns.TypeOPT || rtype >= 128 && rtype <= 255 || rtype == typeALIAS
}
