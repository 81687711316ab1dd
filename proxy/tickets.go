package proxy

import (
	"crypto/rand"
	"sync"
	"time"
)

// A session ticket (RFC 8446 section 4.6.1, RFC 5077) is sealed with a key
// that only this process knows. Whoever gets hold of the key can read what was
// said in TLS 1.2 under its tickets, so a key seals for a day only. It opens
// tickets for two more, in which clients come back without a full handshake.
const (
	ticketKeyLife = 24 * time.Hour
	ticketKeys    = 3
)

// ticketRing has the keys of one TLS policy, newest first.
type ticketRing struct {
	mu   sync.Mutex
	keys [][32]byte
	made time.Time // when the newest was
}

// rotate makes a new key when it is time for one, and reports whether it was.
func (t *ticketRing) rotate(now time.Time) bool {
	lives := int(now.Sub(t.made) / ticketKeyLife)
	if len(t.keys) > 0 && lives < 1 {
		return false
	}
	// Nobody may have looked for long, while the Proxy was stopped.
	old := t.keys[:min(len(t.keys), max(0, ticketKeys-lives))]
	t.keys, t.made = append(make([][32]byte, 1, ticketKeys), old...), now
	rand.Read(t.keys[0][:]) // never fails
	return true
}

// rotateTickets gives the policy a new ticket key when it is time for one. Its
// configurations share the keys, so that a client resumes whatever it comes
// for. The keys that crypto/tls would make would be one configuration's, and
// in QUIC, where GetConfigForClient chooses it, those of no policy at all: a
// session could be resumed under another one's rules.
func (p *tlsPolicy) rotateTickets(now time.Time) {
	p.tickets.mu.Lock()
	defer p.tickets.mu.Unlock()
	if p.tickets.rotate(now) {
		for _, c := range p.configs() {
			c.SetSessionTicketKeys(p.tickets.keys)
		}
	}
}

// rotateTickets keeps the ticket keys of all policies fresh as long as the run
// lasts.
func (r *run) rotateTickets() {
	ticker := time.NewTicker(10 * time.Minute)
	defer ticker.Stop()
	for {
		for _, rt := range r.table.Load().routes {
			if rt.policy != nil {
				rt.policy.rotateTickets(time.Now())
			}
		}
		select {
		case <-ticker.C:
		case <-r.ctx.Done():
			return
		}
	}
}
