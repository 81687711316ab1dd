package email

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/deliver"
	"github.com/dcrouter/dcrouter/email/internal/dsn"
	"github.com/dcrouter/dcrouter/email/internal/sched"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// delivery is a message on its way to some of its recipients.
type delivery struct {
	id   string
	env  *queued
	body *io.SectionReader // as it arrived
	// open gets body where it is nil, since many a message needs no look at it.
	open func() (*io.SectionReader, error)
	// round is nil while the client waits.
	round *round
	// comeBack is what the message says, once it was read as one that came back.
	comeBack *comeBack
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
	// handed says, if ok, that another server has it which is not the recipient's.
	handed bool
	// permanent is a refusal for good, if not ok.
	permanent bool
	// putOff says that nothing was tried, and reached that a server had a say, or
	// may have the message.
	putOff, reached bool
	// suppressed recipients are on the suppression list.
	suppressed bool
	// reply is what a client would be told.
	reply *Reply
	// said is what was said, for logs and the operator.
	said string
	// status is the enhanced status code of another server, and host its name.
	status, host string
	// source and provider are, of mail to MX hosts if ok, as in warmup.Grant.
	source   netip.Addr
	provider string
	// report is, if ok, what a sender who wants to know of success has to be told
	// by us: dsn.Delivered, dsn.Relayed, or "" where another server does it.
	report dsn.Action
}

// taken is a success here.
func taken(said string) result { return result{ok: true, said: said, report: dsn.Delivered} }

func refusal(r *Reply) result {
	return result{permanent: r.Code >= 500, reply: r, said: r.Error(), status: fmt.Sprintf("%d.%d.%d", r.Enhanced[0], r.Enhanced[1], r.Enhanced[2])}
}

// outcome is what came of an attempt: a result for each recipient.
type outcome struct {
	results []result
	steps   []step // connections that were made
	site    sched.Outcome
	later   time.Time // when to come back with what was put off
}

// all gives all recipients the same result.
func all(res result, list []int) outcome {
	return outcome{results: slices.Repeat([]result{res}, len(list))}
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
	return localError(err)
}

// localError puts off what failed through no fault of the mail.
func localError(err error) result {
	res := refusal(&Reply{Code: 451, Enhanced: [3]int{4, 3, 0}, Text: "Local error, try again later"})
	res.said = err.Error()
	return res
}

// settle notes what became of a recipient, and returns what is to be told of it.
func (r *run) settle(d *delivery, p *progress, i int, rt *route, res result) Event {
	now := r.s.now()
	a := &p.Recipients[i]
	a.Reply, a.Status, a.Host = clip(res.said), res.status, res.host
	e := d.env.event(d.id, i)
	e.Route, e.Reason, e.Status = rt.Name, res.said, res.status
	switch {
	case res.ok:
		a.State, a.At, a.Status, a.Report, a.Delayed = delivered, now, "", res.report, false
		a.Source, a.Provider = res.source, res.provider
		e.Kind = EventDelivered
		if res.handed {
			a.State = sent
		}
	case res.permanent:
		a.State, a.At = failed, now
		r.s.stats.failed.Add(1)
		if e.Kind, e.Class = EventFailed, "block"; !res.suppressed {
			e.Class = r.failure(d.env, i, res.said, res.status)
		}
	default:
		r.s.stats.retried.Add(1)
		e.Kind = EventDeferred
	}
	p.note(step{At: now, Kind: e.Kind, Recipients: some(i, len(p.Recipients)), Text: res.said, Host: res.host})
	return e
}

// some is step.Recipients for one of n.
func some(i, n int) []int {
	if n == 1 {
		return nil
	}
	return []int{i}
}

// event is one about a recipient.
func (q *queued) event(id string, i int) Event {
	return Event{ConnID: q.ConnID, MessageID: id, Client: q.ClientAddr, User: q.User, From: q.From,
		Recipients: []string{q.Recipients[i].Address}, Route: q.Recipients[i].Route, Metadata: q.Metadata}
}

// failure tells what class a failure is of, and keeps an address that there is
// not from being sent to again, if it was we who sent.
func (r *run) failure(env *queued, i int, said, status string) string {
	class := classify(said, status)
	if env.Own && env.From != "" {
		r.suppressBounce(env.Recipients[i].Address, class, said)
	}
	return className(class)
}

// giveUp ends the tries to reach a recipient.
func (rd *round) giveUp(i int, a *state) {
	now := rd.q.r.s.now()
	said := "given up; at last: " + valueOr(a.Reply, "it was not tried")
	a.State, a.At = failed, now
	if a.Status == "" {
		a.Status = "4.4.7" // RFC 3463: delivery time expired
	}
	rd.p.note(step{At: now, Kind: EventFailed, Recipients: some(i, len(rd.p.Recipients)), Text: said})
	rd.q.r.s.stats.failed.Add(1)
	e := rd.env.event(string(rd.e.id), i)
	e.Kind, e.Reason, e.Status, e.Class = EventFailed, said, a.Status, "soft"
	rd.events = append(rd.events, e)
}

// discarded remembers a message that was removed before all recipients had it, and
// tells of that. Its sender is not told.
func (r *run) discarded(id spool.ID, env *queued, p *progress, kind, said string) {
	now := r.s.now()
	e := Event{Kind: kind, ConnID: env.ConnID, MessageID: string(id), Client: env.ClientAddr, User: env.User, From: env.From,
		Reason: valueOr(env.Quarantine, said), Metadata: env.Metadata}
	for i := range p.Recipients {
		e.Recipients = append(e.Recipients, env.Recipients[i].Address)
		if a := &p.Recipients[i]; a.State == "" {
			a.State, a.At, a.Reply, a.Told = failed, now, said, true
		}
	}
	p.note(step{At: now, Kind: kind, Text: said})
	r.remember(id, env, p)
	r.s.event(e)
}

// routeOf finds the route of a recipient of a message in the spool: the one that
// took it, as it is now, or else the one that would take it now. It is nil where
// there is none, or none by which the mail may leave.
func (r *run) routeOf(t *routeTable, d *delivery, i int) (*route, error) {
	if rt := t.named(d.env.Recipients[i].Route); rt != nil && r.mayStill(rt, d.env, i) {
		return rt, nil
	}
	if err := d.load(); err != nil {
		return nil, err
	}
	f := d.env.facts(i)
	var err error
	if f.content, err = t.contentOf(d.body); err != nil {
		return nil, err
	}
	if rt, _ := t.decide(f); rt != nil && rt.Action.Type != Reject && rt.mayRelay(f, r.s.isOurs) {
		return rt, nil
	}
	return nil, nil
}

// facts are what the envelope tells of a recipient's mail.
func (q *queued) facts(i int) *facts {
	return &facts{client: q.ClientAddr, authenticated: q.User != "" || q.Own, sender: q.From, recipient: q.Recipients[i].Address}
}

// mayStill reports whether mail that a route has taken may leave by it as it is
// now: it may have been one that delivers.
func (r *run) mayStill(rt *route, env *queued, i int) bool {
	return rt.Name == outgoing || rt.mayRelay(env.facts(i), r.s.isOurs)
}

func (r *run) smartHost() *SmartHost {
	if h := r.s.cfg.SmartHost; h != nil && h.Host != "" {
		return h
	}
	return nil
}

// deliver takes a message to recipients at the same place. j is nil where that
// is no server to be looked up.
func (r *run) deliver(ctx context.Context, d *delivery, to place, j *job, list []int) outcome {
	switch a := &to.route.Action; a.Type {
	case Forward:
		return r.forward(ctx, d, to.route, list)
	case Process:
		return r.sendOut(ctx, d, to, j, list)
	case takesBack:
		out := outcome{results: make([]result, len(list))}
		for n, i := range list {
			out.results[n] = r.takeBack(ctx, d, i)
		}
		return out
	case Deliver:
		if a.Deliver != nil && a.Deliver.LMTP != "" {
			return r.sendToHop(ctx, d, r.hopOf(to.route), nil, d.env.From, list)
		}
		out := outcome{results: make([]result, len(list))}
		for n, i := range list {
			out.results[n] = r.deliverHere(ctx, d, to.route, i)
		}
		r.count(&r.s.stats.mailboxes, out.results)
		return out
	}
	return all(refusal(&Reply{Code: 451, Enhanced: [3]int{4, 3, 5}, Text: "The route has changed"}), list)
}

func (r *run) count(counter *atomic.Uint64, results []result) {
	for _, res := range results {
		if res.ok {
			counter.Add(1)
		}
	}
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
		log := []any{"conn_id", d.env.ConnID, "msg_id", d.id, "hook", "mailbox"}
		return r.s.hookResult(r.s.guarded("the mailbox", func() error {
			return r.s.opts.mailbox(ctx, &Delivery{Message: m, Recipient: rcpt})
		}, log...), log...)
	}
	local, domain, _ := cutAddress(rcpt)
	if a, err := addr.Parse(rcpt); err == nil {
		local = a.Local // without quotes
	}
	err := r.maildirs.deliver(ctx, rt, local, domain, d.content(prefix))
	if err != nil {
		r.s.log.Error("a message could not be delivered", "conn_id", d.env.ConnID, "msg_id", d.id, "recipient", rcpt, "route", rt.Name, "err", err)
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
