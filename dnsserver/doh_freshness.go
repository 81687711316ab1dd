package dnsserver

import "encoding/binary"

// records walks over the records of a message, as far as they can be read.
type records struct {
	msg  []byte
	at   int
	left [3]int // of the answer, authority and additional sections
}

// wireRecord is one of them.
type wireRecord struct {
	section int // 0 answer, 1 authority, 2 additional
	rtype   uint16
	ttl     uint32
	data    []byte
}

const (
	inAnswer = iota
	inAuthority
	inAdditional

	typeSOA, typeOPT = 6, 41
)

// recordsOf begins behind the questions.
func recordsOf(msg []byte) records {
	r := records{msg: msg, at: -1}
	if len(msg) < headerSize {
		return r
	}
	at := headerSize
	for range binary.BigEndian.Uint16(msg[4:]) {
		if at = skipName(msg, at); at < 0 || at+4 > len(msg) {
			return r
		}
		at += 4
	}
	r.at = at
	for i := range r.left {
		r.left[i] = int(binary.BigEndian.Uint16(msg[6+2*i:]))
	}
	return r
}

// next returns the next one, if there is one that can be read.
func (r *records) next() (rec wireRecord, ok bool) {
	for rec.section < len(r.left) && r.left[rec.section] == 0 {
		rec.section++
	}
	if rec.section == len(r.left) || r.at < 0 {
		return wireRecord{}, false
	}
	r.left[rec.section]--
	at := skipName(r.msg, r.at)
	r.at = -1
	if at < 0 || at+10 > len(r.msg) {
		return wireRecord{}, false
	}
	rec.rtype = binary.BigEndian.Uint16(r.msg[at:])
	rec.ttl = binary.BigEndian.Uint32(r.msg[at+4:])
	end := at + 10 + int(binary.BigEndian.Uint16(r.msg[at+8:]))
	if end > len(r.msg) {
		return wireRecord{}, false
	}
	rec.data = r.msg[at+10 : end]
	r.at = end
	return rec, true
}

// skipName returns where a name ends, or -1.
func skipName(msg []byte, at int) int {
	for at < len(msg) {
		switch c := int(msg[at]); {
		case c == 0:
			return at + 1
		case c >= 0xc0:
			return at + 2
		case c > 63:
			return -1
		default:
			at += 1 + c
		}
	}
	return -1
}

// freshness is for how many seconds a response may be reused: the least TTL of
// the answer (RFC 8484 section 5.1), and where it denies something the time
// that RFC 2308 section 5 gives that. Failures are not to be kept.
func freshness(msg []byte) uint32 {
	const nxdomain = 3
	if len(msg) < headerSize || msg[3]&0x0f != 0 && msg[3]&0x0f != nxdomain || msg[2]&0x02 != 0 {
		return 0
	}
	least, found := uint32(0), false
	take := func(ttl uint32) {
		if ttl > 1<<31-1 {
			ttl = 0 // RFC 2181 section 8
		}
		if !found || ttl < least {
			least, found = ttl, true
		}
	}
	rs := recordsOf(msg)
	for {
		rec, ok := rs.next()
		switch {
		case !ok:
			return least
		case rec.section == inAnswer:
			take(rec.ttl)
		case rec.section == inAuthority && rec.rtype == typeSOA && len(rec.data) >= 4:
			take(rec.ttl)
			take(binary.BigEndian.Uint32(rec.data[len(rec.data)-4:]))
		}
	}
}

// hasKeepalive reports whether a query has the option edns-tcp-keepalive
// (RFC 7828).
func hasKeepalive(msg []byte) bool {
	const keepalive = 11
	rs := recordsOf(msg)
	for {
		rec, ok := rs.next()
		if !ok {
			return false
		}
		if rec.section != inAdditional || rec.rtype != typeOPT {
			continue
		}
		for b := rec.data; len(b) >= 4; {
			size := int(binary.BigEndian.Uint16(b[2:]))
			if binary.BigEndian.Uint16(b) == keepalive {
				return true
			}
			if 4+size > len(b) {
				break
			}
			b = b[4+size:]
		}
	}
}
