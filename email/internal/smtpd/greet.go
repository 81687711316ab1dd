package smtpd

import (
	"time"
)

// greet begins the connection: TLS, the session, the greeting.
func (g *guard) greet() {
	cfg := &g.server.cfg
	if g.conn.mode.ImplicitTLS && g.conn.tls == nil {
		if cfg.TLS == nil {
			g.ended = true
			return
		}
		if !g.handshake() {
			return
		}
	}
	err := g.call("NewSession", func() (err error) {
		g.session, err = g.server.backend.NewSession(g.ctx, g.conn)
		return err
	})
	if err != nil {
		r := *g.replyTo(err, "NewSession", 421, [3]int{4, 3, 0}, cfg.Hostname+" has a local error, try again later")
		g.send(r.closing())
		return
	}
	if cfg.GreetDelay > 0 && !g.conn.mode.ImplicitTLS && !g.keepsQuiet(cfg.GreetDelay) {
		return
	}
	g.send(&Reply{Code: 220, Text: cfg.Hostname + " ESMTP", plain: true})
}

// keepsQuiet waits for a client to speak before it was greeted, which programs do
// that only want to be rid of their mail (RFC 5321 section 4.3.1).
func (g *guard) keepsQuiet(delay time.Duration) bool {
	err := error(nil)
	if len(g.in.pending()) == 0 {
		err = g.fill(time.Now().Add(delay), true)
	}
	switch {
	case err == nil:
		g.event(EarlyTalker, nil)
		g.send(newReply(554, 5, 5, 1, g.server.cfg.Hostname+" speaks first").closing())
	case err == errTimeout:
		return true
	case err == errInterrupted:
		g.send(g.lineError(nil, err))
	}
	return false
}
