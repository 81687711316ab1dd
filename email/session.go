package email

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/smtpd"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// session is the conversation with a client.
type session struct {
	r      *run
	conn   *smtpd.Conn
	client *Client
	user   *user        // who has signed in, or nil
	tx     *transaction // from MAIL on, or nil
	hop    *openHop     // where this client's mail goes on to, kept for the next message
	asks   Event        // what the client asks for, for the event if it is refused
	// leave gives back this connection's place among those to a domain.
	leave map[string]func()
}

// transaction is a message under way.
type transaction struct {
	routes *routeTable // those in force at MAIL
	facts  facts
	env    queued
	taken  []recipientRoute // for each recipient of env
	// leaveHop gives back the place among the messages that wait for a next server.
	leaveHop func()
	// draft is where the content goes.
	draft *spool.Draft
	// content is what routes have looked at of the message, nil before.
	content *content
	// domains are those whose limits of the client have counted the message; true
	// if that of all clients has, too.
	domains map[string]bool
}

// recipientRoute is what is known of where a recipient's mail goes.
type recipientRoute struct {
	route *route   // nil: depends on the content
	open  []*route // then those that it may be
}

// NewSession lets a client in, or not.
func (r *run) NewSession(ctx context.Context, c *smtpd.Conn) (smtpd.Session, error) {
	s := &session{r: r, conn: c, client: &Client{ID: c.ID(), Addr: addrOf(c.RemoteAddr()), Local: c.LocalAddr(), Mode: modeOf(c.Mode()), TLS: c.TLS()}}
	r.s.stats.total.Add(1)
	if err := s.admit(ctx); err != nil {
		r.s.stats.connRefused.Add(1)
		return nil, err
	}
	r.s.stats.open.Add(1)
	s.event(Event{Kind: EventConnected})
	return s, nil
}

func (s *session) admit(ctx context.Context) error {
	if reply := s.blocked(); reply != nil {
		return s.refuse("blocked", reply)
	}
	if err := s.r.checkReputation(ctx, s.client.Addr); err != nil {
		return s.refuse("reputation", err)
	}
	if hook := s.r.s.opts.hooks.OnConnect; hook != nil {
		ctx, cancel := context.WithTimeout(ctx, hookTimeout)
		defer cancel()
		if res := s.r.s.hookResult(hook(ctx, s.who()), "conn_id", s.client.ID, "hook", "OnConnect"); !res.ok {
			return s.refuse("hook", res.reply)
		}
	}
	return nil
}

// blocked refuses a client that the host has blocked. What passes may have been a
// mistake, so a server may come back with its mail (RFC 5321 section 3.8); what
// lasts is said so (section 3.1).
func (s *session) blocked() *Reply {
	if s.r.s.opts.blocked == nil {
		return nil
	}
	until, blocked := s.r.s.opts.blocked(s.client.Addr)
	switch {
	case !blocked:
		return nil
	case until.IsZero():
		return &Reply{Code: 554, Enhanced: [3]int{5, 7, 1}, Text: fmt.Sprintf("%s is blocked", s.client.Addr)}
	}
	return &Reply{Code: 421, Enhanced: [3]int{4, 7, 1}, Text: fmt.Sprintf("%s is blocked for a while", s.client.Addr)}
}

// refuse counts a refusal and tells of it.
func (s *session) refuse(reason string, reply *Reply) error {
	s.r.s.stats.reasons.add(reason)
	e := s.asks
	e.Kind, e.Reason, e.Cause, e.Security = EventRefused, reply.Error(), reason, isSecurity(reason)
	s.event(e)
	return reply.wire()
}

// isSecurity reports whether a refusal for this reason hints at abuse.
func isSecurity(reason string) bool {
	switch reason {
	case "reputation", "relay", "sender", "authentication", "scanner", "early-talker", "smuggling", "connections":
		return true
	}
	return false
}

func (s *session) event(e Event) {
	e.ConnID, e.Client = s.client.ID, s.client.Addr
	if e.User == "" {
		e.User = s.client.User
	}
	s.r.s.event(e)
}

// wire is the reply as the engine sends it.
func (r *Reply) wire() *smtpd.Reply {
	return &smtpd.Reply{Code: r.Code, Enhanced: r.Enhanced, Text: r.Text}
}

// Helo takes note of how the client calls itself.
func (s *session) Helo(_ context.Context, name string) error {
	s.client.Helo = name
	s.client.TLS = s.conn.TLS()
	return nil
}

// Mail begins a message.
func (s *session) Mail(ctx context.Context, from addr.Address, o *smtpd.MailOptions) error {
	sender := from.String()
	s.asks = Event{From: sender}
	if reply := s.blocked(); reply != nil { // since it was let in
		return s.refuse("blocked", reply)
	}
	if wait := s.r.limits.message(s.client.Addr, s.client.User); wait > 0 {
		return s.refuse("rate", tooMuch(wait))
	}
	if s.user != nil && !s.user.maySend(sender) {
		return s.refuse("sender", &Reply{Code: 553, Enhanced: [3]int{5, 7, 1}, Text: fmt.Sprintf("<%s> is not an address of %s", sender, s.user.name)})
	}
	tx := &transaction{
		routes: s.r.s.routes.Load(),
		facts:  facts{client: s.client.Addr, authenticated: s.user != nil, sender: sender},
		env: queued{
			From: sender, UTF8: o.UTF8, RequireTLS: o.RequireTLS, EnvID: o.EnvelopeID, Ret: o.Return,
			ConnID: s.client.ID, ClientAddr: s.client.Addr, Mode: s.client.Mode, Helo: s.client.Helo, User: s.client.User,
		},
	}
	if hook := s.r.s.opts.hooks.OnMail; hook != nil {
		ctx, cancel := context.WithTimeout(ctx, hookTimeout)
		defer cancel()
		e := s.envelope(tx)
		if res := s.r.s.hookResult(hook(ctx, &e), "conn_id", s.client.ID, "hook", "OnMail"); !res.ok {
			return s.refuse("hook", res.reply)
		}
	}
	draft, err := s.r.queue.store.Draft(ctx)
	if err != nil {
		return s.storageError(err) // before anything is sent
	}
	tx.draft = draft
	s.tx = tx
	return nil
}

func (s *session) envelope(tx *transaction) Envelope {
	e := tx.env.envelope()
	e.Client = s.who()
	return e
}

// who is a copy for the host, which may keep it while ours changes.
func (s *session) who() *Client {
	c := *s.client
	return &c
}

// tooMuch puts off what exceeds a limit.
func tooMuch(wait time.Duration) *Reply {
	return &Reply{Code: 450, Enhanced: [3]int{4, 7, 1}, Text: fmt.Sprintf("Too much mail, try again in %d seconds", int(wait.Seconds())+1)}
}

// goesTo reports whether a recipient is one already. An address of ours for bounces
// leads to the same place in letters of any case.
func (tx *transaction) goesTo(rcpt string, anyCase bool) bool {
	return slices.ContainsFunc(tx.env.Recipients, func(r recipient) bool {
		return r.Address == rcpt || anyCase && strings.EqualFold(r.Address, rcpt)
	})
}

// Rcpt decides about a recipient, as far as that can be told before the content.
func (s *session) Rcpt(ctx context.Context, to addr.Address, o *smtpd.RcptOptions) error {
	tx := s.tx
	if to.Domain == "" {
		to.Domain = s.r.s.postmasterDomain() // "<postmaster>"
	}
	rcpt := to.String()
	s.asks = Event{From: tx.env.From, Recipients: []string{rcpt}}
	rt, back, err := s.r.returnRoute(tx.routes, to)
	if err != nil || rt != nil && tx.env.From != "" {
		// What comes back has no sender; with one, it would be a way past the rules
		// for whoever has seen the address.
		return s.refuse("route", &Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "Only bounces are taken here, and for some days"})
	}
	if rt != nil {
		rcpt = back
	}
	if tx.goesTo(rcpt, rt != nil) {
		return nil // once is enough
	}
	limits := s.r.s.limitsOf(to.Domain)
	if len(tx.env.Recipients) >= limits.RecipientsPerMessage {
		return s.refuse("rate", &Reply{Code: 452, Enhanced: [3]int{4, 5, 3}, Text: "Too many recipients, send the rest in another message"})
	}

	var open []*route
	if rt == nil {
		f := tx.facts
		f.recipient = rcpt
		rt, open = tx.routes.decide(&f)
		if rt != nil {
			s.asks.Route = rt.Name
		}
		if reply, reason := s.r.mayGo(&f, to, rt, open); reply != nil {
			if n := len(open); reason == "route" && n > 0 && open[n-1].match(&f) == yes {
				s.asks.Route = open[n-1].Name // it rejects what the others do not take
			}
			return s.refuse(reason, reply)
		}
	}
	if reply := s.suppressed(rcpt, rt); reply != nil {
		return s.refuse("suppressed", reply)
	}
	if err := s.sameFate(to.Domain, rt, open); err != nil {
		return err
	}
	trusted := s.user != nil || rt != nil && rt.trusts
	if !trusted {
		if reply := s.limitDomain(to.Domain, &limits); reply != nil {
			return s.refuse("rate", reply)
		}
		if wait := s.r.greylisted(s.client.Addr, tx.env.From, rcpt); wait > 0 {
			return s.refuse("greylist", &Reply{Code: 450, Enhanced: [3]int{4, 7, 1}, Text: fmt.Sprintf("Greylisted, try again in %d seconds", int(wait.Seconds())+1)})
		}
	}
	if hook := s.r.s.opts.hooks.OnRcpt; hook != nil {
		ctx, cancel := context.WithTimeout(ctx, hookTimeout)
		defer cancel()
		e := s.envelope(tx)
		if res := s.r.s.hookResult(hook(ctx, &e, rcpt), "conn_id", s.client.ID, "hook", "OnRcpt"); !res.ok {
			return s.refuse("hook", res.reply)
		}
	}
	uncount, wait := s.countShared(to.Domain, trusted)
	if wait > 0 {
		return s.refuse("rate", tooMuch(wait))
	}
	add := recipient{Address: rcpt, Notify: o.Notify}
	if o.Original != "" {
		add.ORCPT = strings.ToLower(o.OriginalType) + ";" + o.Original
	}
	if rt != nil {
		add.Route = rt.Name
	}
	tx.env.Recipients = append(tx.env.Recipients, add)
	tx.taken = append(tx.taken, recipientRoute{rt, open})
	if err := s.askHop(ctx); err != nil {
		tx.env.Recipients = tx.env.Recipients[:len(tx.env.Recipients)-1]
		tx.taken = tx.taken[:len(tx.taken)-1]
		uncount()
		return err
	}
	return nil
}

// suppressed keeps users from sending to who is on the suppression list.
func (s *session) suppressed(rcpt string, rt *route) *Reply {
	if s.user == nil || rt == nil || rt.Action.Type != Process {
		return nil
	}
	if sup, ok := s.r.suppressions.Check(rcpt); ok {
		return &Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: sentence(errors.New(suppressedText(sup)))}
	}
	return nil
}

// mayGo refuses a recipient that no route takes, that the route rejects, or that
// would make an open relay of us, whatever the content turns out to be.
func (r *run) mayGo(f *facts, to addr.Address, rt *route, open []*route) (*Reply, string) {
	if rt != nil {
		open = []*route{rt}
	}
	isReject := func(rt *route) bool { return rt.Action.Type == Reject }
	takers := slices.DeleteFunc(slices.Clone(open), isReject)
	if !slices.ContainsFunc(takers, func(rt *route) bool { return rt.mayRelay(f, r.s.isOurs) }) {
		if n := len(open); n > 0 && isReject(open[n-1]) && open[n-1].match(f) == yes {
			return rejection(&open[n-1].Action), "route" // in the operator's words
		}
		if len(takers) == 0 && r.s.isOurs(to.Domain) {
			return &Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "No such mailbox here"}, "route"
		}
		return relayDenied(), "relay"
	}
	if to.Reroutes() && !f.authenticated && slices.ContainsFunc(takers, func(rt *route) bool { return rt.Action.Type != Deliver }) {
		// The server behind may heed it, and trust us.
		return &Reply{Code: 553, Enhanced: [3]int{5, 1, 3}, Text: "Source routing is not supported"}, "relay"
	}
	return nil, ""
}

func relayDenied() *Reply {
	return &Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "Relaying denied"}
}

// rejection is the reply of an action of type Reject.
func rejection(a *Action) *Reply {
	r := &Reply{Code: 550, Text: "Rejected by policy"}
	if a.Reject != nil {
		r.Code = valueOr(a.Reject.Code, r.Code)
		if a.Reject.Message != "" {
			r.Text = a.Reject.Message
		}
	}
	r.Enhanced = [3]int{r.Code / 100, 7, 1}
	return r
}

// sameFate keeps recipients apart that the content, or the server that it goes
// on to, may decide about differently: there is one reply to it, and a bounce to
// a sender who may be forged is no better. Clients send the others in a message
// of their own (RFC 5321 section 4.5.3.1.10). For users who signed in, one
// refusal is for all.
func (s *session) sameFate(domain string, rt *route, open []*route) error {
	if len(s.tx.taken) == 0 || s.user != nil {
		return nil
	}
	first := s.tx.taken[0]
	_, firstDomain, _ := cutAddress(s.tx.env.Recipients[0].Address)
	if slices.Equal(first.open, open) && scans(first.route) == scans(rt) && asksHop(first.route) == asksHop(rt) &&
		s.heeds(firstDomain, first.route) == s.heeds(domain, rt) {
		return nil
	}
	return s.refuse("split", &Reply{Code: 452, Enhanced: [3]int{4, 5, 3}, Text: "Send to this recipient in another message"})
}

// asksHop returns the route if the next server decides about its mail while the
// client waits, and otherwise nil.
func asksHop(rt *route) *route {
	if rt != nil && rt.Action.Type == Forward && !rt.Action.Forward.Queue {
		return rt
	}
	return nil
}

// heeds is how far mail to a domain by a route heeds the policies of authors'
// domains.
func (s *session) heeds(domain string, rt *route) string {
	if rt != nil && rt.trusts {
		return MonitorDMARC
	}
	return s.r.s.dmarcPolicy(domain)
}

// scans reports whether a route has mail scanned.
func scans(rt *route) bool {
	return rt != nil && rt.Action.Type == Process && rt.Action.Process != nil && rt.Action.Process.Scan
}

// Reset ends a message.
func (s *session) Reset() {
	s.endTransaction()
	if s.hop != nil {
		s.hop.reset()
	}
}

func (s *session) endTransaction() {
	if tx := s.tx; tx != nil {
		tx.draft.Discard() // does nothing once it was added
		if tx.leaveHop != nil {
			tx.leaveHop()
		}
	}
	s.tx, s.asks = nil, Event{}
}

// Close ends the conversation.
func (s *session) Close() {
	s.r.s.stats.open.Add(-1)
	s.endTransaction()
	for _, leave := range s.leave {
		leave()
	}
	s.closeHop()
}
