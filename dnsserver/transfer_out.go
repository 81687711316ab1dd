package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/miekg/dns"
)

const (
	// transferMessage is about how long the messages of a zone transfer are.
	// Pointers reach no further than this.
	transferMessage = 16 << 10
	// maxTransfersOut is how many transfers are under way at a time. Further
	// ones wait for transferWait.
	maxTransfersOut = 64
	transferWait    = 10 * time.Second
)

// serveTransfer answers a query for a transfer where there can be no more than
// one message: one for changes with the present SOA record, as over UDP if they
// do not fit (RFC 1995 section 2), others not at all (RFC 5936 section 4.2).
func (r *responder) serveTransfer(q *query, m *message, from *asker) {
	if q.qtype == dns.TypeAXFR {
		m.rcode = dns.RcodeFormatError
		return
	}
	var z *zone
	if _, z, m.rcode = r.transferable(q, from); z == nil {
		return
	}
	m.aa = r.authoritative
	m.do = false
	m.need(z.top.set(dns.TypeSOA), owner{at: questionAt})
}

// transferable returns the zone that a query for a transfer is about, or why
// it cannot be had.
func (r *responder) transferable(q *query, from *asker) (*servedZone, *zone, int) {
	if r.transfers == nil || q.qclass != dns.ClassINET {
		return nil, nil, dns.RcodeRefused
	}
	served := r.transfers.zones.get(lowerName(q.name))
	if served == nil {
		return nil, nil, dns.RcodeNotAuth
	}
	if !served.peers.transfer.allows(from) {
		return nil, nil, dns.RcodeRefused
	}
	z := served.ref.current.Load()
	if z == nil {
		return nil, nil, dns.RcodeServerFailure
	}
	return served, z, dns.RcodeSuccess
}

// exchange answers a query of a stream (TCP, TLS, QUIC), with as many messages
// as it takes: send is called with each, in order, and may not keep it. After
// an error what was sent is not the whole answer.
func (r *responder) exchange(ctx context.Context, sc *scratch, wire []byte, from *asker, send func(msg []byte) error) error {
	q := &sc.query
	rcode, silent := q.parse(wire)
	transfer := !silent && rcode == dns.RcodeSuccess && q.opcode() == dns.OpcodeQuery &&
		(q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR) && (!q.edns || q.version == 0)
	if transfer {
		from.key = nil
		var signer *tsigSigner
		if q.tsig > 0 {
			if signer, _, rcode = r.verify(q); signer != nil {
				from.key, from.verified = signer.key, true
			}
		}
		served, z := (*servedZone)(nil), (*zone)(nil)
		if rcode == dns.RcodeSuccess {
			served, z, rcode = r.transferable(q, from)
		}
		if z != nil {
			return r.transfer(ctx, sc, served, z, signer, from, send)
		}
		if q.tsig == 0 || signer != nil {
			return send(r.noTransfer(sc, rcode, signer, from))
		}
	}
	if msg := r.respond(sc, nil, wire, from); len(msg) > 0 {
		return send(msg)
	}
	return nil
}

// noTransfer is the response to a query for a transfer that is not made.
func (r *responder) noTransfer(sc *scratch, rcode int, signer *tsigSigner, from *asker) []byte {
	sc.message.begin(nil, &sc.query, maxMessage)
	sc.message.rcode, sc.message.padded = rcode, false
	msg := r.end(sc, nil, from)
	if signer != nil {
		msg = signer.sign(msg, 0)
	}
	return msg
}

// transfer sends a zone, or what has changed in it (RFC 5936, RFC 1995). What
// is sent is one version of it, however long that takes.
func (r *responder) transfer(ctx context.Context, sc *scratch, served *servedZone, z *zone, signer *tsigSigner, from *asker, send func([]byte) error) error {
	q := &sc.query
	records := z.transferAll()
	if q.qtype == dns.TypeIXFR {
		serial, ok := q.knownSerial()
		if !ok {
			return send(r.noTransfer(sc, dns.RcodeFormatError, signer, from))
		}
		if !serialAfter(z.serial(), serial) {
			records = z.soaRecords(1)
		} else if deltas, ok := served.history.between(serial, z.serial()); ok {
			records = z.transferChanges(deltas)
		}
	}
	if err := r.transfers.takeSlot(ctx); err != nil {
		return send(r.noTransfer(sc, dns.RcodeServerFailure, signer, from))
	}
	defer r.transfers.giveSlot()
	z.counters.transfers.Add(1)
	sc.counters.count(q.qtype, dns.RcodeSuccess)
	w := &transferWriter{send: send, signer: signer, question: q.wire[headLen:q.end], flags: flagQR | flagAA | q.flags&flagRD}
	w.head = append(w.head, q.wire[:2]...)
	w.begin()
	for rec := range records {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.add(&rec, z.name); err != nil {
			return err
		}
	}
	return w.flush()
}

// knownSerial returns the serial number of the version that the sender of a
// query for changes has (RFC 1995 section 3).
func (q *query) knownSerial() (uint32, bool) {
	if binary.BigEndian.Uint16(q.wire[8:]) == 0 {
		return 0, false
	}
	r, _, err := readRecord(q.wire, q.end)
	if err != nil || r.rtype != dns.TypeSOA || len(r.data) < 20 || binary.BigEndian.Uint16(q.wire[6:]) != 0 {
		return 0, false
	}
	return soaSerial(r.data), true
}

// soaSerial returns the serial number in the data of a SOA record.
func soaSerial(data string) uint32 { return uint32At(data, len(data)-20) }

// soaRecords yields the SOA record, n times.
func (z *zone) soaRecords(n int) iter.Seq[record] {
	return func(yield func(record) bool) {
		soa := z.top.set(dns.TypeSOA)
		for range n {
			for data := range soa.data() {
				if !yield(record{z.name, dns.TypeSOA, soa.ttl(), data}) {
					return
				}
			}
		}
	}
}

// transferAll yields the records of a full transfer: all of them, between two
// of the SOA record (RFC 5936 section 2.2).
func (z *zone) transferAll() iter.Seq[record] {
	return func(yield func(record) bool) {
		for _, soa := range []bool{true, false, true} {
			for r := range z.soaRecords(1) {
				if soa && !yield(r) {
					return
				}
			}
			if soa {
				continue
			}
			for r := range z.records() {
				if r.rtype != dns.TypeSOA && !yield(r) {
					return
				}
			}
		}
	}
}

// transferChanges yields the records of a transfer of changes (RFC 1995 section
// 4): for each what is gone, behind the SOA record of before, and what is new,
// behind that of after.
func (z *zone) transferChanges(deltas []*delta) iter.Seq[record] {
	return func(yield func(record) bool) {
		whole := true
		emit := func(r record) bool {
			whole = whole && yield(r)
			return whole
		}
		z.soaRecords(1)(emit)
		for _, d := range deltas {
			for _, part := range []iter.Seq[record]{d.removed(), d.added()} {
				for _, soa := range []bool{true, false} {
					for r := range part {
						if (r.rtype == dns.TypeSOA) == soa && !emit(r) {
							return
						}
					}
				}
			}
		}
		if whole {
			z.soaRecords(1)(emit)
		}
	}
}

// between returns the changes that lead from one serial number to another, or
// false if the way is not known any more.
func (h *history) between(from, to uint32) ([]*delta, bool) {
	deltas, ok := h.since(from)
	if !ok {
		return nil, false
	}
	for i, d := range deltas {
		if d.to == to {
			return deltas[:i+1], true
		}
	}
	return nil, false
}

var errRecordTooLong = errors.New("a record does not fit into a message")

// transferWriter puts records into messages. Names are compressed where it
// costs nothing: the zone's name is a pointer to the question, and a name that
// is that of the record before one to there.
type transferWriter struct {
	send     func([]byte) error
	signer   *tsigSigner // nil: not signed
	head     []byte      // id
	question []byte
	flags    uint16

	b      []byte
	empty  int // its length without records
	count  uint16
	name   string // of the record before
	nameAt int    // where that is in b
}

// begin starts a message.
func (w *transferWriter) begin() {
	if w.b == nil {
		w.b = make([]byte, 0, transferMessage+1024)
	}
	w.b = append(w.b[:0], w.head...)
	w.b = binary.BigEndian.AppendUint16(w.b, w.flags)
	w.b = append(w.b, 0, 1, 0, 0, 0, 0, 0, 0)
	w.b = append(w.b, w.question...)
	w.empty, w.count, w.name = len(w.b), 0, ""
}

// add adds a record, and sends the message first if that would be too long.
func (w *transferWriter) add(r *record, zone string) error {
	size := len(r.name) + 10 + len(r.data)
	if len(w.b)+size > transferMessage && w.count > 0 {
		if err := w.flush(); err != nil {
			return err
		}
		w.begin()
	}
	room := 0
	if w.signer != nil {
		room = w.signer.room()
	}
	if len(w.b)+size+room > maxMessage {
		return fmt.Errorf("%s %s: %w", nameText(r.name), typeText(r.rtype), errRecordTooLong)
	}
	switch {
	case r.name == w.name:
		w.b = binary.BigEndian.AppendUint16(w.b, 0xc000|uint16(w.nameAt))
	case len(r.name) >= len(zone) && r.name[len(r.name)-len(zone):] == zone && isBelow(r.name, zone) && len(w.b) < 0x4000:
		w.name, w.nameAt = r.name, len(w.b)
		w.b = append(w.b, r.name[:len(r.name)-len(zone)]...)
		w.b = binary.BigEndian.AppendUint16(w.b, questionPtr)
	default:
		w.b = append(w.b, r.name...)
	}
	w.b = binary.BigEndian.AppendUint16(w.b, r.rtype)
	w.b = binary.BigEndian.AppendUint16(w.b, dns.ClassINET)
	w.b = binary.BigEndian.AppendUint32(w.b, r.ttl)
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(r.data)))
	w.b = append(w.b, r.data...)
	w.count++
	return nil
}

// flush sends the message.
func (w *transferWriter) flush() error {
	binary.BigEndian.PutUint16(w.b[6:], w.count)
	if w.signer != nil {
		w.b = w.signer.sign(w.b, 0)
	}
	return w.send(w.b)
}
