package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
)

// Notifications of a change (RFC 1996), to others and from others.

const (
	notifyTries   = 6               // RFC 1996 section 3.6
	notifyTimeout = 2 * time.Second // of the first try; it doubles with each
	notifyPause   = 100 * time.Millisecond
)

// notify tells the servers that the configuration names that a zone has
// changed. Changes that come while one is being told are told together.
func (t *transfers) notify(z *servedZone) {
	for _, p := range z.peers.notify {
		p.mu.Lock()
		p.due = true
		begin := !p.active
		p.active = true
		p.mu.Unlock()
		if begin && !t.goes(func(ctx context.Context) { t.tell(ctx, z, p) }) {
			p.mu.Lock()
			p.active = false
			p.mu.Unlock()
		}
	}
}

// tell tells one server for as long as there is something new.
func (t *transfers) tell(ctx context.Context, z *servedZone, p *peer) {
	for {
		p.mu.Lock()
		if !p.due || ctx.Err() != nil {
			p.active = false
			p.mu.Unlock()
			return
		}
		p.due = false
		p.mu.Unlock()
		if err := t.tellOnce(ctx, z, p); err != nil && ctx.Err() == nil {
			t.log.Warn("a server was not notified of a change", "zone", nameText(z.name), "remote", p.addr, "err", err)
		}
		if !sleep(ctx, notifyPause) {
			continue
		}
	}
}

// tellOnce sends a notification until it is answered, or hope is gone.
func (t *transfers) tellOnce(ctx context.Context, z *servedZone, p *peer) error {
	give, err := t.telling.take(ctx, p)
	if err != nil {
		return err
	}
	defer give()
	wait := notifyTimeout
	for range notifyTries {
		current := z.ref.current.Load()
		if current == nil {
			return nil
		}
		m := beginMessage(z.name, dns.TypeSOA, flagAA|dns.OpcodeNotify<<11)
		for soa := range current.soaRecords(1) {
			m = appendPlain(m, &soa, 6)
		}
		started := time.Now()
		if err = t.askUDP(ctx, p, m, wait); err == nil || ctx.Err() != nil {
			return err
		}
		// An error that comes at once, as of a closed port, is no reason to hurry.
		if !sleep(ctx, wait-time.Since(started)) {
			return ctx.Err()
		}
		wait *= 2
	}
	return err
}

// beginMessage begins a message that asks, with an id that nobody can guess.
func beginMessage(name string, rtype uint16, flags uint16) []byte {
	id := randomID()
	b := append(make([]byte, 0, 512), byte(id>>8), byte(id))
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 0)
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, rtype)
	return binary.BigEndian.AppendUint16(b, dns.ClassINET)
}

func randomID() uint16 { return uint16(randomKey()[0]) }

// appendPlain appends a record without compression to a message of ours, in the
// section whose count is at an offset.
func appendPlain(b []byte, r *record, countAt int) []byte {
	b = append(b, r.name...)
	b = appendRecordTail(b, r)
	binary.BigEndian.PutUint16(b[countAt:], binary.BigEndian.Uint16(b[countAt:])+1)
	return b
}

// appendRecordTail appends what comes behind the name of a record.
func appendRecordTail(b []byte, r *record) []byte {
	b = binary.BigEndian.AppendUint16(b, r.rtype)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, r.ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.data)))
	return append(b, r.data...)
}

var errNoAnswer = errors.New("it does not answer")

// askUDP sends a message to a server, signed if it has a key, and waits for the
// response. Responses that are not from there or do not belong to it are
// ignored.
func (t *transfers) askUDP(ctx context.Context, p *peer, m []byte, wait time.Duration) error {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", p.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var verifier *tsigVerifier
	question := m[headLen : headLen+nameLen(m[headLen:])+4]
	if p.key != nil {
		signer := &tsigSigner{key: p.key, id: binary.BigEndian.Uint16(m), now: t.now}
		m = signer.sign(m, 0)
		verifier = newTSIGVerifier(p.key, signer.prior)
	}
	conn.SetDeadline(time.Now().Add(wait))
	if _, err := conn.Write(m); err != nil {
		return err
	}
	buf := make([]byte, maxMessage)
	for range 16 {
		n, err := conn.Read(buf)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return errNoAnswer
			}
			return err
		}
		a, err := readAnswer(buf[:n])
		if err != nil || a.id != binary.BigEndian.Uint16(m) || a.opcode() != int(m[2]>>3&15) || a.question != nil && !foldedEqual(a.question, question) {
			continue
		}
		if verifier != nil {
			if err := verifier.message(buf[:n], a.tsig, t.now()); err != nil {
				return fmt.Errorf("%w%s", err, a.complaint())
			}
		}
		if a.rcode() != dns.RcodeSuccess {
			return fmt.Errorf("it answers %s", rcodeText(a.rcode()))
		}
		return nil
	}
	return errNoAnswer
}

// rcodeText is the name of a response code.
func rcodeText(rcode int) string {
	if s, ok := dns.RcodeToString[rcode]; ok {
		return s
	}
	return fmt.Sprintf("RCODE%d", rcode)
}

// notified answers a notification from another server (RFC 1996 section 3.10).
func (t *transfers) notified(q *query, m *message, from *asker) {
	z := t.zones.get(lowerName(q.name))
	switch {
	case z == nil:
		m.rcode = dns.RcodeNotAuth
	case q.qtype != dns.TypeSOA || q.qclass != dns.ClassINET:
		m.rcode = dns.RcodeFormatError
	case z.copy == nil || !z.copy.isPrimary(from):
		m.rcode = dns.RcodeRefused
		if t.mayLog() {
			t.log.Debug("a notification of somebody who is no primary of the zone", "zone", nameText(z.name), "remote", from.addr)
		}
	default:
		m.aa = true
		z.copy.hurry()
	}
}
