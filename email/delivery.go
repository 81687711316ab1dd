package email

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/deliver"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// delivery is a message on its way to some of its recipients.
type delivery struct {
	id   string
	env  *queued
	body *io.SectionReader // as it arrived
	// open gets body where it is nil, since many a message needs no look at it.
	open func() (*io.SectionReader, error)
}

func (d *delivery) load() (err error) {
	if d.body == nil {
		d.body, err = d.open()
	}
	return err
}

// content is the message as a recipient gets it, with more in front.
func (d *delivery) content(more []byte) *io.SectionReader { return d.env.content(d.body, more) }

// result is what became of a recipient.
type result struct {
	ok bool
	// permanent is a refusal for good, if not ok.
	permanent bool
	// reply is what a client would be told.
	reply *Reply
	// said is what was said, for logs and the operator.
	said string
}

func taken(said string) result { return result{ok: true, said: said} }

func refusal(r *Reply) result {
	return result{permanent: r.Code >= 500, reply: r, said: r.Error()}
}

// hookResult maps what a hook of the host has returned; see Hooks.
func (s *Server) hookResult(err error, log ...any) result {
	var r *Reply
	switch {
	case err == nil:
		return taken("")
	case errors.As(err, &r) && r.Code >= 400 && r.Code <= 599:
		return refusal(r)
	}
	s.log.Error("a hook failed", append(log, "err", err)...)
	res := refusal(&Reply{Code: 451, Enhanced: [3]int{4, 3, 0}, Text: "Local error, try again later"})
	res.said = err.Error()
	return res
}

// tryDelivery delivers a message from the spool to those who are still to get
// it, and notes in p how that went. It is stuck if no route takes one of them,
// or none that this version can go. The error is that the message cannot be read.
func (r *run) tryDelivery(ctx context.Context, t *routeTable, d *delivery, p *progress) (stuck bool, err error) {
	groups := make(map[*route][]int)
	for i := range d.env.Recipients {
		if p.Recipients[i].State != "" {
			continue
		}
		rt, err := r.routeOf(t, d, i)
		switch {
		case err != nil:
			return false, err
		case rt == nil, rt.Action.Type == Process && r.smartHost() == nil:
			stuck = true
		default:
			groups[rt] = append(groups[rt], i)
		}
	}
	if len(groups) > 0 {
		if err := d.load(); err != nil {
			return false, err
		}
	}
	for rt, list := range groups {
		for n, res := range r.deliver(ctx, d, rt, list) {
			r.settle(d, p, list[n], rt, res)
		}
	}
	return stuck, nil
}

// settle notes what became of a recipient.
func (r *run) settle(d *delivery, p *progress, i int, rt *route, res result) {
	a := &p.Recipients[i]
	a.Reply = res.said
	e := Event{ConnID: d.env.ConnID, MessageID: d.id, Client: d.env.ClientAddr, User: d.env.User,
		From: d.env.From, Recipients: []string{d.env.Recipients[i].Address}, Route: rt.Name, Reason: res.said}
	switch {
	case res.ok:
		a.State = delivered
		e.Kind = Delivered
	case res.permanent:
		a.State = failed
		r.s.stats.failed.Add(1)
		e.Kind = Failed
	default:
		r.s.stats.retried.Add(1)
		e.Kind = Deferred
	}
	r.s.event(e)
}

// gaveUp tells that a recipient has been tried long enough.
func (r *run) gaveUp(id string, env *queued, i int, said string) {
	r.s.stats.failed.Add(1)
	r.s.event(Event{Kind: Failed, ConnID: env.ConnID, MessageID: id, Client: env.ClientAddr, User: env.User, From: env.From,
		Recipients: []string{env.Recipients[i].Address}, Route: env.Recipients[i].Route, Reason: "given up; at last: " + said})
}

// expired tells that a message was held back, or kept after it was given up, long
// enough.
func (r *run) expired(id string, env *queued) {
	e := Event{Kind: Expired, ConnID: env.ConnID, MessageID: id, Client: env.ClientAddr, User: env.User, From: env.From, Reason: env.Quarantine}
	for _, rcpt := range env.Recipients {
		e.Recipients = append(e.Recipients, rcpt.Address)
	}
	r.s.event(e)
}

// routeOf finds the route of a recipient of a message in the spool: the one that
// took it, as it is now, or else the one that would take it now.
func (r *run) routeOf(t *routeTable, d *delivery, i int) (*route, error) {
	rcpt := &d.env.Recipients[i]
	for _, rt := range t.routes {
		if rt.Name == rcpt.Route && rt.Name != "" && rt.Action.Type != Reject {
			return rt, nil
		}
	}
	if err := d.load(); err != nil {
		return nil, err
	}
	f := &facts{client: d.env.ClientAddr, authenticated: d.env.User != "", sender: d.env.From, recipient: rcpt.Address}
	var err error
	if f.content, err = t.contentOf(d.body); err != nil {
		return nil, err
	}
	if rt, _ := t.decide(f); rt != nil && rt.Action.Type != Reject && rt.mayRelay(f, r.s.isOurs) {
		return rt, nil
	}
	return nil, nil
}

func (r *run) smartHost() *SmartHost {
	if h := r.s.cfg.SmartHost; h != nil && h.Host != "" {
		return h
	}
	return nil
}

// deliver takes a message to recipients that have the same route. There is a
// result for each.
func (r *run) deliver(ctx context.Context, d *delivery, rt *route, list []int) []result {
	switch a := &rt.Action; a.Type {
	case Forward:
		results := r.send(ctx, d, r.hopOf(rt), list)
		return r.count(&r.s.stats.forwarded, results)
	case Process:
		results := r.send(ctx, d, r.smartHop(), list)
		return r.count(&r.s.stats.forwarded, results)
	case Deliver:
		if a.Deliver != nil && a.Deliver.LMTP != "" {
			h := &hop{config: smtpc.Config{Address: a.Deliver.LMTP, Hostname: r.s.cfg.Hostname, LMTP: true, TLS: smtpc.NoTLS}}
			return r.count(&r.s.stats.mailboxes, r.send(ctx, d, h, list))
		}
		results := make([]result, len(list))
		for n, i := range list {
			results[n] = r.deliverHere(ctx, d, rt, i)
		}
		return r.count(&r.s.stats.mailboxes, results)
	}
	return slices.Repeat([]result{refusal(&Reply{Code: 451, Enhanced: [3]int{4, 3, 5}, Text: "The route has changed"})}, len(list))
}

func (r *run) count(counter interface{ Add(uint64) uint64 }, results []result) []result {
	for _, res := range results {
		if res.ok {
			counter.Add(1)
		}
	}
	return results
}

// deliverHere puts a message into the recipient's mailbox.
func (r *run) deliverHere(ctx context.Context, d *delivery, rt *route, i int) result {
	rcpt := d.env.Recipients[i].Address
	prefix := fmt.Appendf(nil, "Return-Path: <%s>\r\nDelivered-To: %s\r\n", d.env.From, rcpt)
	if r.s.opts.mailbox != nil && (rt.Action.Deliver == nil || rt.Action.Deliver.Maildir == "") {
		m := &Message{Envelope: d.env.envelope(), ID: d.id, Content: d.content(prefix), Authentication: d.env.Authentication}
		m.Recipients = []string{rcpt}
		ctx, cancel := context.WithTimeout(ctx, hookTimeout)
		defer cancel()
		return r.s.hookResult(r.s.opts.mailbox(ctx, &Delivery{Message: m, Recipient: rcpt}), "msg_id", d.id, "hook", "mailbox")
	}
	local, domain, _ := cutAddress(rcpt)
	if a, err := addr.Parse(rcpt); err == nil {
		local = a.Local // without quotes
	}
	err := r.maildirs.deliver(ctx, rt, local, domain, d.content(prefix))
	if err != nil {
		r.s.log.Error("a message could not be delivered", "msg_id", d.id, "recipient", rcpt, "route", rt.Name, "err", err)
		return mailboxResult(err)
	}
	return taken("delivered to the mailbox")
}

func mailboxResult(err error) result {
	reply := &Reply{Code: 451, Enhanced: [3]int{4, 3, 0}, Text: "The mailbox cannot be written, try again later"}
	var e *deliver.Error
	if errors.As(err, &e) {
		switch {
		case !e.Temporary:
			reply = &Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "There can be no such mailbox"}
		case e.Code == "4.2.2":
			reply = &Reply{Code: 452, Enhanced: [3]int{4, 2, 2}, Text: "The mailbox is full"}
		case e.Code == "4.3.1":
			reply = &Reply{Code: 452, Enhanced: [3]int{4, 3, 1}, Text: "Out of space, try again later"}
		}
	}
	res := refusal(reply)
	res.said = err.Error()
	return res
}

// hop is another server that mail is handed to.
type hop struct {
	config smtpc.Config
	err    error  // the configuration cannot be used
	prefix []byte // header fields for it
}

// hopOf is where a route forwards to.
func (r *run) hopOf(rt *route) *hop {
	f := rt.Action.Forward
	h := r.newHop(f.Host, f.Port, f.Auth, &f.TLS)
	for _, name := range slices.Sorted(maps.Keys(f.AddHeaders)) {
		h.prefix = fmt.Appendf(h.prefix, "%s: %s\r\n", name, f.AddHeaders[name])
	}
	return h
}

func (r *run) smartHop() *hop {
	s := r.smartHost()
	return r.newHop(s.Host, s.Port, s.Auth, &s.TLS)
}

func (r *run) newHop(host string, port int, auth *Credentials, t *ClientTLS) *hop {
	h := &hop{config: smtpc.Config{
		Address:    net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(valueOr(port, 25))),
		Hostname:   r.s.cfg.Hostname,
		ServerName: t.ServerName,
		Timeouts:   hopTimeouts(),
	}}
	if auth != nil {
		h.config.Auth = &smtpc.Credentials{Username: auth.Username, Password: auth.Password.Reveal()}
	}
	mode := t.Mode
	if mode == "" {
		switch {
		case port == 465:
			mode = ImplicitTLS
		case auth != nil:
			mode = StartTLS
		default:
			mode = Opportunistic
		}
	}
	switch mode {
	case ImplicitTLS:
		h.config.TLS = smtpc.ImplicitTLS
	case StartTLS:
		h.config.TLS = smtpc.StartTLS
	case NoTLS:
		h.config.TLS = smtpc.NoTLS
		h.config.AllowPlaintextAuth = true // the operator has said so
	}
	h.config.TLSConfig, h.err = clientTLS(t)
	return h
}

// send hands a message to another server in one transaction.
func (r *run) send(ctx context.Context, d *delivery, h *hop, list []int) []result {
	fail := func(err error) []result { return slices.Repeat([]result{hopResult(err)}, len(list)) }
	if h.err != nil {
		return fail(h.err)
	}
	c, err := smtpc.Dial(ctx, h.config)
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	content := d.content(h.prefix)
	env := d.smtpEnvelope(content.Size(), list)
	sent, _ := c.Send(ctx, env, content) // what ended it is in the results
	results := make([]result, len(list))
	for n, rr := range sent.Recipients {
		if rr.Status == smtpc.Delivered {
			results[n] = taken(rr.Reply.String())
			continue
		}
		results[n] = hopResult(&smtpc.Error{Phase: rr.Phase, Status: rr.Status, Reply: rr.Reply, Err: rr.Err})
	}
	return results
}

func (d *delivery) smtpEnvelope(size int64, list []int) smtpc.Envelope {
	env := smtpc.Envelope{From: d.env.From, Size: size, EightBit: d.env.EightBit, UTF8: d.env.UTF8,
		Ret: d.env.Ret, EnvID: d.env.EnvID, RequireTLS: d.env.RequireTLS}
	for _, i := range list {
		env.To = append(env.To, d.env.Recipients[i].smtpRcpt())
	}
	return env
}

func (r *recipient) smtpRcpt() smtpc.Rcpt {
	return smtpc.Rcpt{Addr: r.Address, Notify: r.Notify, ORcpt: r.ORCPT}
}

// hopResult maps what came of talking to another server to a reply to the client
// behind: its own words if it has refused, and "try later" if it could not be
// reached.
func hopResult(err error) result {
	var e *smtpc.Error
	if !errors.As(err, &e) {
		return result{said: err.Error(), reply: unreachable()}
	}
	res := result{said: e.Error(), permanent: e.Status == smtpc.Permanent}
	res.reply = unreachable()
	if e.Reply.Code >= 400 && (e.Phase == smtpc.PhaseMail || e.Phase == smtpc.PhaseRcpt || e.Phase == smtpc.PhaseData || e.Phase == smtpc.PhaseEnd) {
		res.reply = fromHop(e.Reply)
	} else if res.permanent {
		// It refuses us, not the mail: the operator has to see to that.
		res.permanent = false
	}
	return res
}

func unreachable() *Reply {
	return &Reply{Code: 451, Enhanced: [3]int{4, 4, 1}, Text: "The next server cannot be reached, try again later"}
}

// fromHop passes a reply on.
func fromHop(from smtpc.Reply) *Reply {
	r := &Reply{Code: from.Code, Text: strings.Join(from.Lines, " ")}
	if r.Code == 421 {
		r.Code = 451 // it closes its connection, not this one
	}
	var class, subject, detail int
	if n, _ := fmt.Sscanf(from.Enhanced, "%d.%d.%d", &class, &subject, &detail); n == 3 && class == r.Code/100 {
		r.Enhanced = [3]int{class, subject, detail}
	}
	return r
}
