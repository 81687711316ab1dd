package email

import (
	"context"
	"fmt"
	"io"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// openHop is a connection to the server that a client's mail goes on to, made
// while the client waits, so that it is told what that server says.
type openHop struct {
	route *route
	hop   *hop
	conn  *smtpc.Conn
	used  bool // for an earlier message
	// begun says that MAIL was accepted, asked how many recipients were.
	begun bool
	asked int
}

// inSession returns the route that all of the transaction's mail is handed on by
// while the client waits, or nil if it is not that simple.
func (tx *transaction) inSession() *route {
	var rt *route
	for _, t := range tx.taken {
		if asksHop(t.route) == nil || rt != nil && t.route != rt {
			return nil
		}
		rt = t.route
	}
	return rt
}

// askHop asks the next server about the recipients so far, if it takes them all.
// Otherwise the message goes through the spool.
//
// Servers that hand mail on to each other in a circle would each ask the next one
// before there is a message whose Received fields could tell. So there is a bound
// to what is asked at once about the same mail.
func (s *session) askHop(ctx context.Context) error {
	rt := s.tx.inSession()
	if rt == nil {
		if s.hop != nil {
			s.hop.reset()
		}
		return nil
	}
	if s.tx.leaveHop == nil {
		leave, ok := s.r.limits.hops.Enter(fmt.Sprintf("%s %q %q", s.client.Addr, s.tx.env.From, s.tx.env.Recipients[0].Address), maxReceived)
		if !ok {
			return s.refuse("next-hop", &Reply{Code: 451, Enhanced: [3]int{4, 4, 6}, Text: "Too much of this mail is under way at once; it may be in a loop"})
		}
		s.tx.leaveHop = leave
	}
	for {
		err := s.tryHop(ctx, rt)
		if err == nil {
			return nil
		}
		if s.hop != nil && !s.hop.conn.Usable() {
			again := s.hop.used && !s.hop.begun
			s.closeHop() // there will be nothing more from it
			if again {
				continue // it did not wait for another message; a new connection will do
			}
		}
		s.r.s.log.Info("the next server did not take mail", "conn_id", s.client.ID, "route", rt.Name, "err", err)
		return s.refuse("next-hop", hopResult(err).reply)
	}
}

// tryHop makes the next server's transaction what ours is.
func (s *session) tryHop(ctx context.Context, rt *route) error {
	if s.hop != nil && s.hop.route != rt {
		s.closeHop()
	}
	if s.hop == nil {
		h := s.r.hopOf(rt)
		if h.err != nil {
			return h.err
		}
		conn, err := smtpc.Dial(ctx, h.config)
		if err != nil {
			return err
		}
		s.hop = &openHop{route: rt, hop: h, conn: conn}
	}
	o, env := s.hop, &s.tx.env
	if !o.begun {
		// What the content is like is not known yet, so it is announced as what it
		// may be, as far as the server takes that. Some clients say SMTPUTF8 of
		// all that they send.
		_, eightBit := o.conn.Extension("8BITMIME")
		_, utf8 := o.conn.Extension("SMTPUTF8")
		from := env.From
		if rt.Action.Forward.SRS {
			from = s.r.rewritten(env, 0)
		}
		out := smtpc.Envelope{From: from, EightBit: eightBit, UTF8: env.UTF8 && (utf8 || beyondASCII(from)), Ret: env.Ret, EnvID: env.EnvID, RequireTLS: env.RequireTLS}
		if _, err := o.conn.Mail(ctx, out); err != nil {
			return err
		}
		o.begun = true
	}
	for ; o.asked < len(env.Recipients); o.asked++ {
		if _, err := o.conn.Rcpt(ctx, env.Recipients[o.asked].smtpRcpt(), env.UTF8); err != nil {
			return err
		}
	}
	return nil
}

// handOn gives the content to the next server, which has accepted the
// recipients, and returns what it says.
func (s *session) handOn(ctx context.Context, content io.Reader, env *queued) result {
	o := s.hop
	if _, ok := o.conn.Extension("SMTPUTF8"); env.UTF8 && !ok {
		return refusal(&Reply{Code: 554, Enhanced: [3]int{5, 6, 9}, Text: "The next server takes no internationalised mail (SMTPUTF8)"})
	}
	if _, ok := o.conn.Extension("8BITMIME"); env.EightBit && !ok {
		return refusal(&Reply{Code: 554, Enhanced: [3]int{5, 6, 3}, Text: "The next server takes no 8-bit content"})
	}
	replies, err := o.conn.Data(ctx, content)
	o.used, o.begun, o.asked = true, false, 0
	if err != nil {
		return hopResult(err)
	}
	if reply := replies[0]; !reply.Positive() {
		return refusal(fromHop(reply))
	}
	_, offersDSN := o.conn.Extension("DSN")
	return result{ok: true, handed: true, said: replies[0].Text(), report: reportFor(offersDSN, false)}
}

// reset ends the transaction with the next server, which is told with the next
// one.
func (o *openHop) reset() { o.used, o.begun, o.asked = true, false, 0 }

func (s *session) closeHop() {
	if s.hop != nil {
		s.hop.conn.Close()
		s.hop = nil
	}
}
