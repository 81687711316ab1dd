package dnsserver

import (
	"encoding/binary"
	"time"

	"github.com/miekg/dns"
)

// respondSigned is respond for a query with a TSIG record (RFC 8945 section
// 5.2).
func (r *responder) respondSigned(sc *scratch, dst []byte, from *asker) []byte {
	base := len(dst)
	s, t, rcode := r.verify(&sc.query)
	if s != nil {
		from.key, from.verified = s.key, true
		dst = r.reply(sc, dst, dns.RcodeSuccess, from, s.room())
		if len(dst) == base {
			return dst // silence
		}
		return s.sign(dst, base)
	}
	return r.refuseSigned(sc, dst, from, t, rcode)
}

// verify checks the signature of a query. It returns what signs the response,
// or the TSIG record of the response and an error: FORMERR, BADKEY, BADSIG,
// BADTIME or BADTRUNC.
func (r *responder) verify(q *query) (*tsigSigner, *tsigRecord, int) {
	t, ok := readTSIG(q.wire, q.tsig)
	if !ok {
		return nil, nil, dns.RcodeFormatError
	}
	answer := &tsigRecord{name: t.name, algorithm: t.algorithm, time: t.time, fudge: tsigFudge, id: t.id}
	key := r.transfers.key(t.name)
	if key == nil || key.algorithm != t.algorithm {
		return nil, answer, dns.RcodeBadKey
	}
	h := key.begin(nil)
	h.Write(t.unsigned(q.wire, q.tsig))
	h.Write(t.variables())
	now := time.Now()
	if r.transfers != nil {
		now = r.transfers.now()
	}
	rcode := t.verify(h)
	if rcode == 0 && !t.timely(now) {
		rcode = dns.RcodeBadTime
		// With the client's time and ours, so that it can see which is wrong.
		answer.other = binary.BigEndian.AppendUint16(nil, uint16(now.Unix()>>32))
		answer.other = binary.BigEndian.AppendUint32(answer.other, uint32(now.Unix()))
	}
	if rcode != 0 {
		answer.mac = t.mac
		return nil, answer, rcode
	}
	return &tsigSigner{key: key, prior: t.mac, id: t.id, now: r.transfers.now}, nil, 0
}

// refuseSigned answers a query whose signature is not right. t has the MAC of
// the query, if that is to be trusted.
func (r *responder) refuseSigned(sc *scratch, dst []byte, from *asker, t *tsigRecord, rcode int) []byte {
	base := len(dst)
	if rcode == dns.RcodeFormatError {
		return r.reply(sc, dst, rcode, from, 0)
	}
	var s *tsigSigner
	room := 0
	if rcode != dns.RcodeBadKey && rcode != dns.RcodeBadSig { // RFC 8945 section 5.3.2: nobody could check it
		s = &tsigSigner{key: r.transfers.key(t.name), prior: t.mac}
		room = s.key.hash().Size()
	}
	t.mac, t.err = nil, uint16(rcode)
	room += t.len()
	dst = r.reply(sc, dst, dns.RcodeNotAuth, from, room)
	switch {
	case len(dst)-base+room > r.sizeLimit(&sc.query, from):
		// The names in it may be much longer than the query, which has them
		// compressed and may come from anybody.
		dst[base+2] |= flagTC >> 8
		return dst
	case s == nil:
		return t.appendTo(dst, base)
	}
	return s.finish(t, dst, base)
}
