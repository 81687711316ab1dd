package smtpd

import (
	"crypto/tls"
	"errors"
	"io"
	"syscall"
	"time"
)

// startTLS answers STARTTLS (RFC 3207).
func (g *guard) startTLS(arg string) {
	switch {
	case g.server.cfg.TLS == nil:
		g.send(newReply(502, 5, 5, 1, "TLS is not available"))
	case arg != "":
		g.send(newReply(501, 5, 5, 4, "STARTTLS has no parameters"))
	case g.conn.tls != nil:
		g.send(newReply(503, 5, 5, 1, "TLS is there already"))
	case len(g.in.pending()) > 0:
		// What came in plaintext must not be read as if it had come in TLS
		// (CVE-2011-0411).
		g.event(InjectedBehindTLS, nil)
		g.send(newReply(503, 5, 5, 1, "STARTTLS must be the last command of a group").closing())
	default:
		g.send(&Reply{Code: 220, Enhanced: [3]int{2, 0, 0}, Text: "Go ahead"})
		if g.flush() == nil && g.handshake() {
			g.restart()
		}
	}
}

// handshake makes the connection one of TLS, or ends it: plaintext after a
// failed handshake would be the attacker's wish.
func (g *guard) handshake() bool {
	conn := tls.Server(g.raw, g.server.cfg.TLS)
	deadline := time.Now().Add(g.server.cfg.HandshakeTimeout)
	g.ended = true // until it has succeeded, also if code of the host panics in it
	err := errInterrupted
	if g.wait(deadline, true) {
		err = conn.HandshakeContext(g.ctx)
		if g.waited() {
			err = errInterrupted
		}
	}
	if err != nil {
		switch {
		case g.ctx.Err() != nil, errors.Is(err, errInterrupted), isHangUp(err): // not the client's fault
		case isTimeout(err):
			g.event(TimedOut, err)
		default:
			g.event(HandshakeFailed, err)
		}
		g.in.err = err
		return false
	}
	g.ended = false
	g.net = conn
	g.conn.setTLS(conn)
	return true
}

// isHangUp says whether an error of a connection is that the client has ended it.
func isHangUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// restart forgets all that was said in plaintext (RFC 3207 section 4.2): the
// connection goes on with a new machine.
func (g *guard) restart() {
	if g.tx.begun {
		_ = g.call("Reset", func() error { g.session.Reset(); return nil })
	}
	g.tx = transaction{}
	g.conn.helo, g.conn.esmtp, g.conn.authenticated = "", false, false
	g.stage = newStage(g)
}
