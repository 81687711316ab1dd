package dnsserver

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"github.com/miekg/dns"
)

// node is what a zone has at a name. It is immutable.
type node struct {
	key  string  // below the zone's own
	sets []rrset // by type; none where only names below have records
}

// rrset is the records of a type at a name. It is immutable.
type rrset struct {
	// wire is the records as they go into a message whose question is for this
	// name: each begins with a pointer to the name there. So to answer is to
	// copy.
	wire string
	// sigs are the signatures of the set, in the same form.
	sigs  string
	rtype uint16
	count uint16 // of records
	signs uint16 // of signatures
}

// typeALIAS stands for the addresses of another name. It has a number for
// private use (RFC 6895 section 3.1) and never reaches the wire.
const typeALIAS = 65401

const (
	questionAt  = 12 // offset of the question's name in a message
	questionPtr = 0xc000 | questionAt
	recordHead  = 12 // octets of a record before its data, name as a pointer
)

// set returns the records of a type, or nil.
func (n *node) set(rtype uint16) *rrset {
	for i := range n.sets {
		if n.sets[i].rtype == rtype {
			return &n.sets[i]
		}
	}
	return nil
}

// with returns the node with a set added or replaced, or taken out if it is
// empty.
func (n *node) with(set rrset) *node {
	i, found := slices.BinarySearchFunc(n.sets, set.rtype, func(s rrset, t uint16) int { return int(s.rtype) - int(t) })
	sets := make([]rrset, 0, len(n.sets)+1)
	sets = append(sets, n.sets[:i]...)
	if set.count > 0 {
		sets = append(sets, set)
	}
	if found {
		i++
	}
	return &node{key: n.key, sets: append(sets, n.sets[i:]...)}
}

// newSet makes the set of these data, each without compression, of which none
// may occur twice. They are put in canonical order (RFC 4034 section 6.3).
func newSet(rtype uint16, ttl uint32, data []string) rrset {
	slices.Sort(data)
	size := 0
	for _, d := range data {
		size += recordHead + len(d)
	}
	wire := make([]byte, 0, size)
	for _, d := range data {
		wire = appendRecord(wire, rtype, ttl, d)
	}
	return rrset{rtype: rtype, count: uint16(len(data)), wire: string(wire)}
}

func appendRecord[T string | []byte](wire []byte, rtype uint16, ttl uint32, data T) []byte {
	wire = binary.BigEndian.AppendUint16(wire, questionPtr)
	wire = binary.BigEndian.AppendUint16(wire, rtype)
	wire = binary.BigEndian.AppendUint16(wire, dns.ClassINET)
	wire = binary.BigEndian.AppendUint32(wire, ttl)
	wire = binary.BigEndian.AppendUint16(wire, uint16(len(data)))
	return append(wire, data...)
}

// ttl returns the TTL of the records, in seconds.
func (s *rrset) ttl() uint32 { return uint32At(s.wire, 6) }

// data iterates over the data of the records.
func (s *rrset) data() iter.Seq[string] { return eachData(s.wire) }

func eachData(wire string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for len(wire) > 0 {
			end := recordHead + int(uint16At(wire, 10))
			if !yield(wire[recordHead:end]) {
				return
			}
			wire = wire[end:]
		}
	}
}

func uint16At(s string, at int) uint16 { return uint16(s[at])<<8 | uint16(s[at+1]) }

func uint32At(s string, at int) uint32 {
	return uint32(s[at])<<24 | uint32(s[at+1])<<16 | uint32(s[at+2])<<8 | uint32(s[at+3])
}

// record is one record of a zone as it is written, transferred and signed.
type record struct {
	name  string // wire
	rtype uint16
	ttl   uint32
	data  string // wire, without compression
}

// packRecord makes a record of one that has been parsed, and can be again.
func packRecord(rr dns.RR) (record, error) {
	r, err := packed(rr)
	if err != nil {
		return record{}, err
	}
	if metaType(r.rtype) && r.rtype != typeALIAS {
		return record{}, fmt.Errorf("there are no %s records in zones", typeText(r.rtype))
	}
	// The parser lets fields at the end be missing, and packing leaves them out.
	if !r.complete() {
		return record{}, fmt.Errorf("its %s record is not complete", typeText(r.rtype))
	}
	return r, nil
}

func packed(rr dns.RR) (record, error) {
	h := rr.Header()
	name, err := wireName(h.Name)
	if err != nil {
		return record{}, err
	}
	buf := make([]byte, dns.Len(rr)+16)
	n, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		return record{}, err
	}
	return record{name: name, rtype: h.Rrtype, ttl: h.Ttl, data: string(buf[len(name)+10 : n])}, nil
}

// complete reports whether the data has all that its type wants.
func (r *record) complete() bool {
	switch r.rtype {
	case dns.TypeA:
		return len(r.data) == 4
	case dns.TypeAAAA:
		return len(r.data) == 16
	case dns.TypeNS, dns.TypeCNAME, dns.TypePTR, dns.TypeDNAME, typeALIAS:
		return nameLen(r.data) == len(r.data) && r.data != ""
	case dns.TypeMX:
		return len(r.data) > 2 && nameLen(r.data[2:]) == len(r.data)-2
	}
	if r.generic() {
		return true
	}
	rr, err := dns.NewRR(r.text())
	if err != nil || rr == nil {
		return false
	}
	again, err := packed(rr)
	return err == nil && canonicalData(r.rtype, again.data) == canonicalData(r.rtype, r.data)
}

// unpack is the reverse of packRecord.
func (r *record) unpack() (dns.RR, error) {
	wire := append(make([]byte, 0, len(r.name)+10+len(r.data)), r.name...)
	wire = appendRecord(wire, r.rtype, r.ttl, r.data)
	wire = slices.Delete(wire, len(r.name), len(r.name)+2)
	rr, _, err := dns.UnpackRR(wire, 0)
	return rr, err
}

// canonicalData returns record data with its names in lower case where that is
// the canonical form (RFC 4034 section 6.2 with RFC 6840 section 5.1). Data that
// is equal in this form is equal.
func canonicalData(rtype uint16, data string) string {
	at, names := 0, 1
	switch rtype {
	case dns.TypeNS, dns.TypeCNAME, dns.TypePTR, dns.TypeDNAME, dns.TypeMB, dns.TypeMD, dns.TypeMF, dns.TypeMG, dns.TypeMR:
	case dns.TypeSOA, dns.TypeMINFO, dns.TypeRP:
		names = 2
	case dns.TypeMX, dns.TypeAFSDB, dns.TypeRT, dns.TypeKX:
		at = 2
	case dns.TypePX:
		at, names = 2, 2
	case dns.TypeSRV:
		at = 6
	case dns.TypeNAPTR:
		at = 4
		for range 3 { // strings
			if at >= len(data) {
				return data
			}
			at += int(data[at]) + 1
		}
	default:
		return data
	}
	b := []byte(data)
	for ; names > 0 && at < len(b); names-- {
		n := nameLen(b[at:])
		if n == 0 {
			break
		}
		for i := range n {
			b[at+i] = lower(b[at+i])
		}
		at += n
	}
	return string(b)
}
