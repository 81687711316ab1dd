package dnsserver

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	optHead    = 11 // octets of an OPT record without options
	maxOptions = 1024
	maxCookie  = 4 + 24 // octets of the option with a cookie

	// paddingBlock is the multiple that responses on encrypted transports are
	// padded to (RFC 8467 section 4.1).
	paddingBlock = 468
)

// answerOptions makes the EDNS options of the response, padding aside.
func (r *responder) answerOptions(sc *scratch, from *asker) []byte {
	q, out := &sc.query, sc.options[:0]
	if !q.edns {
		return nil
	}
	if _, asked := q.option(dns.EDNS0NSID); asked && r.nsid != "" && q.end+optHead+4+len(r.nsid)+maxCookie <= r.sizeLimit(q, from) {
		out = appendOption(out, dns.EDNS0NSID, []byte(r.nsid))
	}
	if cookie, ok := q.option(dns.EDNS0COOKIE); ok && r.cookies != nil {
		var full [24]byte
		if r.cookies.answer(&full, cookie, from) {
			out = appendOption(out, dns.EDNS0COOKIE, full[:])
		}
	}
	if _, asked := q.option(dns.EDNS0TCPKEEPALIVE); asked && (from.transport == overTCP || from.transport == overTLS) {
		idle := min(r.idle()/(100*time.Millisecond), 65535) // RFC 7828 section 3.1
		out = appendOption(out, dns.EDNS0TCPKEEPALIVE, binary.BigEndian.AppendUint16(nil, uint16(idle)))
	}
	return out
}

func appendOption(b []byte, code uint16, data []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// optLen is the length of the OPT record of the response.
func (r *responder) optLen(q *query, options []byte) int {
	if !q.edns {
		return 0
	}
	return optHead + len(options)
}

// appendOPT adds the OPT record (RFC 6891 section 6.1.2). With padding the
// message gets a length that tells less about it.
func (m *message) appendOPT(q *query, size int, options []byte) {
	flags := byte(0)
	if q.do {
		flags = 0x80
	}
	padding := -1
	if _, asked := q.option(dns.EDNS0PADDING); asked && m.padded {
		padding = (paddingBlock - (m.len()+optHead+len(options)+4)%paddingBlock) % paddingBlock
		padding = max(min(padding, maxMessage-m.len()-optHead-len(options)-4), -1)
	}
	n := len(options)
	if padding >= 0 {
		n += 4 + padding
	}
	m.b = append(m.b, 0, 0, byte(dns.TypeOPT), byte(size>>8), byte(size), byte(m.rcode>>4), 0, flags, 0, byte(n>>8), byte(n))
	m.b = append(m.b, options...)
	if padding >= 0 {
		m.b = append(m.b, 0, byte(dns.EDNS0PADDING), byte(padding>>8), byte(padding))
		for range padding {
			m.b = append(m.b, 0)
		}
	}
	at := m.base + 10
	binary.BigEndian.PutUint16(m.b[at:], binary.BigEndian.Uint16(m.b[at:])+1)
}

// cookies makes and checks the cookies that show that a client does not forge
// its address (RFC 7873, RFC 9018).
type cookies struct {
	now  func() time.Time
	keys atomic.Pointer[cookieKeys]
}

// cookieKeys are the current key, and the one before, which counts as long as
// its cookies last.
type cookieKeys struct {
	current, before [2]uint64
}

const (
	cookieLasts   = time.Hour // RFC 9018 section 4.3
	cookieAhead   = 5 * time.Minute
	cookieRenewed = 30 * time.Minute
)

func newCookies() *cookies {
	c := &cookies{now: time.Now}
	c.keys.Store(&cookieKeys{current: randomKey(), before: randomKey()})
	return c
}

func randomKey() (k [2]uint64) {
	var b [16]byte
	rand.Read(b[:])
	return [2]uint64{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
}

// rotate makes a new key. Cookies of the current one stay good.
func (c *cookies) rotate() {
	c.keys.Store(&cookieKeys{current: randomKey(), before: c.keys.Load().current})
}

// answer writes the cookie of the response to one that came, and marks from if
// that is one of ours. It reports false if there is nothing to answer.
func (c *cookies) answer(full *[24]byte, cookie []byte, from *asker) bool {
	if !isCookie(cookie) {
		return false
	}
	now, keys := uint32(c.now().Unix()), c.keys.Load()
	copy(full[:], cookie[:8])
	if len(cookie) == 24 && cookie[8] == 1 {
		made := binary.BigEndian.Uint32(cookie[12:])
		age := time.Duration(int32(now-made)) * time.Second
		copy(full[8:16], cookie[8:16])
		if age <= cookieLasts && age >= -cookieAhead {
			for i, key := range [2][2]uint64{keys.current, keys.before} {
				sign(full, from.addr.Addr(), key)
				if subtle.ConstantTimeCompare(full[16:], cookie[16:]) == 1 {
					from.verified = true
					if i == 0 && age < cookieRenewed && age >= 0 {
						return true
					}
				}
			}
		}
	}
	full[8], full[9], full[10], full[11] = 1, 0, 0, 0
	binary.BigEndian.PutUint32(full[12:], now)
	sign(full, from.addr.Addr(), keys.current)
	return true
}

// isCookie reports whether this is the cookie of a client, with or without that
// of a server (RFC 7873 section 4).
func isCookie(b []byte) bool { return len(b) == 8 || len(b) >= 16 && len(b) <= 40 }

// sign fills in the hash of a cookie (RFC 9018 section 4.4).
func sign(full *[24]byte, addr netip.Addr, key [2]uint64) {
	var b [32]byte
	n := copy(b[:], full[:16])
	if addr = addr.Unmap(); addr.Is4() {
		a := addr.As4()
		n += copy(b[n:], a[:])
	} else {
		a := addr.As16()
		n += copy(b[n:], a[:])
	}
	binary.LittleEndian.PutUint64(full[16:], sipHash(key, b[:n]))
}
