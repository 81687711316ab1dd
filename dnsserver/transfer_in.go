package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/miekg/dns"
)

// transferIn takes the records of a transfer from another server, in the order
// they come, and knows when they are all there (RFC 5936 section 2.2, RFC 1995
// section 4).
type transferIn struct {
	zone  string // wire
	have  uint32 // serial number of the version we have
	known bool   // there is one: changes will do
	limit int    // of size

	state  transferState
	size   int // octets in memory, about, until a zone is made of it
	soa    record
	whole  []record // the zone, or nil if there are
	deltas []*delta // changes
}

type transferState int

const (
	inStart  transferState = iota
	inSecond               // the first record has come
	inWhole                // of a full transfer
	inGone                 // of a change: what is gone
	inCome                 // of a change: what is new
	inEnd
)

var (
	errTransfer      = errors.New("it sends what is no zone transfer")
	errTransferSize  = errors.New("the zone is too large")
	errOutOfZone     = errors.New("it sends a record that is not in the zone")
	errOtherZone     = errors.New("it answers for another zone")
	errOlder         = errors.New("it has an older version than this server")
	errOtherQuestion = errors.New("it answers another question")
)

// recordCost is what a record takes in memory beside its name and data, which
// are there several times while a zone is made of it: measured, and rounded up.
const recordCost = 500

func (r *record) cost() int { return recordCost + 4*(len(r.name)+len(r.data)) }

// tooLarge is the error of a zone that takes more than limit octets of memory.
func tooLarge(limit int) error {
	return fmt.Errorf("%w: this server takes what fits into %d MiB of memory", errTransferSize, limit>>20)
}

// rcodeError is a response code in place of a transfer.
type rcodeError int

func (e rcodeError) Error() string { return "it answers " + rcodeText(int(e)) }

// message takes the records of a message. It reports whether they were the
// last.
func (in *transferIn) message(a *answerIn) (end bool, err error) {
	if a.answers == 0 {
		return false, errTransfer
	}
	at := a.at
	for range a.answers {
		r, next, err := readRecord(a.wire, at)
		if err != nil {
			return false, err
		}
		if r.class != dns.ClassINET || metaType(r.rtype) || r.data == "" && !r.whole() {
			return false, fmt.Errorf("%s %s: %w", nameText(r.name), typeText(r.rtype), errTransfer)
		}
		if in.state == inEnd {
			return false, errTransfer
		}
		if in.size += r.cost(); in.size > in.limit {
			return false, tooLarge(in.limit)
		}
		if err := in.record(r.record); err != nil {
			return false, err
		}
		at = next
	}
	return in.state == inEnd, nil
}

// record takes the next record.
func (in *transferIn) record(r record) error {
	soa := r.rtype == dns.TypeSOA
	switch {
	case in.state == inStart && !soa:
		return errTransfer
	case soa && r.name != in.zone:
		return errOtherZone
	case !isBelow(r.name, in.zone):
		return fmt.Errorf("%s: %w", nameText(r.name), errOutOfZone)
	}
	switch in.state {
	case inStart:
		in.soa, in.state = r, inSecond
		switch {
		case !in.known:
			in.whole, in.state = []record{r}, inWhole
		case !serialAfter(soaSerial(r.data), in.have): // there is nothing new
			in.state = inEnd
		}
	case inSecond:
		if soa && soaSerial(r.data) == in.have {
			in.begin(r)
			return nil
		}
		in.whole, in.state = []record{in.soa}, inWhole
		return in.record(r)
	case inWhole:
		switch {
		case !soa:
			in.whole = append(in.whole, r)
		case r.data != in.soa.data:
			return errTransfer // the zone has changed midway
		default:
			in.state = inEnd
		}
	case inGone:
		d := in.deltas[len(in.deltas)-1]
		d.size += len(r.name) + len(r.data) + 64
		if !soa {
			d.gone = append(d.gone, r)
			return nil
		}
		d.to, d.come, in.state = soaSerial(r.data), []record{r}, inCome
	case inCome:
		d := in.deltas[len(in.deltas)-1]
		d.size += len(r.name) + len(r.data) + 64
		switch {
		case !soa:
			d.come = append(d.come, r)
		case d.to == soaSerial(in.soa.data) && r.data == in.soa.data && d.come[0].data == r.data:
			in.state = inEnd
		case d.to == soaSerial(r.data) && serialAfter(d.to, d.from):
			in.begin(r)
		default:
			return errTransfer
		}
	}
	return nil
}

// begin begins a change, with the SOA record of before.
func (in *transferIn) begin(soa record) {
	in.state = inGone
	in.deltas = append(in.deltas, &delta{zone: in.zone, from: soaSerial(soa.data), gone: []record{soa}, size: 256})
}

const (
	connectTime     = 5 * time.Second
	transferPause   = 10 * time.Second // in which a message must come
	transferLongest = 30 * time.Minute
)

// fetch has a server send a zone over TCP: all of it, or, if known is set, what
// has changed since the version with this serial number.
func (t *transfers) fetch(ctx context.Context, zone string, p *peer, have *zone) (*transferIn, error) {
	ctx, cancel := context.WithTimeout(ctx, transferLongest)
	defer cancel()
	dialer := net.Dialer{Timeout: connectTime}
	conn, err := dialer.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	in := &transferIn{zone: zone, limit: t.maxCopy}
	rtype := dns.TypeAXFR
	if have != nil {
		in.have, in.known, rtype = have.serial(), true, dns.TypeIXFR
	}
	m := beginMessage(zone, rtype, 0)
	question, id := m[headLen:], binary.BigEndian.Uint16(m)
	if have != nil {
		for soa := range have.soaRecords(1) {
			m = appendPlain(m, &soa, 8)
		}
	}
	var verifier *tsigVerifier
	if p.key != nil {
		signer := &tsigSigner{key: p.key, id: id, now: t.now}
		m = signer.sign(m, 0)
		verifier = newTSIGVerifier(p.key, signer.prior)
	}
	conn.SetDeadline(time.Now().Add(transferPause))
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
		return nil, err
	}
	buf := make([]byte, maxMessage)
	for {
		conn.SetDeadline(time.Now().Add(transferPause))
		if _, err := io.ReadFull(conn, buf[:2]); err != nil {
			return nil, noEOF(err)
		}
		wire := buf[:binary.BigEndian.Uint16(buf)]
		if _, err := io.ReadFull(conn, wire); err != nil {
			return nil, noEOF(err)
		}
		a, err := readAnswer(wire)
		if err != nil {
			return nil, err
		}
		if a.id != id || a.opcode() != dns.OpcodeQuery || a.question != nil && !foldedEqual(a.question, question) {
			return nil, errOtherQuestion
		}
		if verifier != nil {
			if err := verifier.message(wire, a.tsig, t.now()); err != nil {
				return nil, fmt.Errorf("%w%s", err, a.complaint())
			}
		}
		if a.rcode() != dns.RcodeSuccess {
			return nil, rcodeError(a.rcode())
		}
		if a.flags&flagTC != 0 {
			return nil, errTransfer
		}
		end, err := in.message(&a)
		if err != nil {
			return nil, err
		}
		if end {
			if verifier != nil && verifier.unsigned > 0 {
				return nil, errUnsigned // the last one has to be signed
			}
			return in, nil
		}
	}
}

// noEOF says what it means when a connection ends.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends the connection before the transfer is complete")
	}
	return err
}
