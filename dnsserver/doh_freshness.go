package dnsserver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// freshness is for how many seconds a response may be reused: the least TTL of
// the answer (RFC 8484 section 5.1), and where it denies something the time
// that RFC 2308 section 5 gives that. Failures are not to be kept.
func freshness(msg []byte) uint32 {
	if len(msg) < headLen || msg[2]&(flagTC>>8) != 0 {
		return 0
	}
	if rcode := int(msg[3] & 0x0f); rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
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
	at := headLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		if at = nameEnd(msg, at); at == 0 {
			return 0
		}
		at += 4
	}
	for section := answerSection; section <= authoritySection; section++ {
		for range binary.BigEndian.Uint16(msg[6+2*section:]) {
			start := at
			if at = skipRecord(msg, start); at == 0 {
				return least
			}
			head := nameEnd(msg, start)
			ttl := binary.BigEndian.Uint32(msg[head+4:])
			switch soa := binary.BigEndian.Uint16(msg[head:]) == dns.TypeSOA; {
			case section == answerSection:
				take(ttl)
			case soa && at-head >= 10+4:
				take(ttl)
				take(binary.BigEndian.Uint32(msg[at-4:]))
			}
		}
	}
	return least
}
