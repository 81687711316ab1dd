package opsapi

import (
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// crowdAgain is how often it is said that many clients seem to be one.
const crowdAgain = time.Hour

// crowd finds out that an address, which has reached a limit, may be a proxy that
// nobody has said is one: all its clients share what is for one.
type crowd struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	last string // the holder that has last sent a header of proxies
	said time.Time
}

// note notes that a request for somebody else has come from an address that is not
// trusted. Anybody may send such a header: it makes a line in the log and no more.
func (c *crowd) note(r *http.Request, from netip.Addr) {
	if r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("Forwarded") == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = holder(from)
}

// full says what to do, if who has reached a limit seems to be a proxy.
func (c *crowd) full(who string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if who == "" || who != c.last || !c.said.IsZero() && now.Sub(c.said) < crowdAgain {
		return
	}
	c.said = now
	c.log.Warn("an address that says it is a proxy has reached a limit for one client, and its clients are refused: if it is a proxy of yours, "+
		"put it into trustedProxies, and have it send X-Forwarded-For", "address", who)
}
