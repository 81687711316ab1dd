package email

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/dsn"
	"github.com/dcrouter/dcrouter/email/internal/sched"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/email/internal/transport"
)

// hop is another server that mail is handed to.
type hop struct {
	run    *run
	config smtpc.Config
	err    error  // the configuration cannot be used
	prefix []byte // header fields for it
}

// hopOf is the server that a route hands mail to, or nil if that is none in
// particular. It is made once, as connections to it are kept for the next
// message.
func (r *run) hopOf(rt *route) *hop {
	if h := rt.hop.Load(); h != nil && h.run == r && h.err == nil {
		return h
	}
	h := r.makeHop(rt)
	if h != nil {
		h.run = r
		rt.hop.Store(h)
	}
	return h
}

func (r *run) makeHop(rt *route) *hop {
	switch a := &rt.Action; a.Type {
	case Forward:
		f := a.Forward
		h := r.newHop(f.Host, f.Port, f.Auth, &f.TLS)
		for _, name := range slices.Sorted(maps.Keys(f.AddHeaders)) {
			h.prefix = fmt.Appendf(h.prefix, "%s: %s\r\n", name, f.AddHeaders[name])
		}
		return h
	case Process:
		if s := r.smartHost(); s != nil {
			return r.newHop(s.Host, s.Port, s.Auth, &s.TLS)
		}
	case Deliver:
		if a.Deliver != nil && a.Deliver.LMTP != "" {
			return &hop{config: smtpc.Config{Address: a.Deliver.LMTP, Hostname: r.s.cfg.Hostname, LMTP: true, TLS: smtpc.NoTLS}}
		}
	}
	return nil
}

// siteOf is where a route's mail goes together, for the scheduler.
func (r *run) siteOf(rt *route) string {
	if rt == nil {
		return ""
	}
	if h := r.hopOf(rt); h != nil {
		return h.config.Address
	}
	return ""
}

func (r *run) newHop(host string, port int, auth *Credentials, t *ClientTLS) *hop {
	h := &hop{config: smtpc.Config{
		Address:    net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(valueOr(port, 25))),
		Hostname:   r.s.cfg.Hostname,
		ServerName: t.ServerName,
		Timeouts:   hopTimeouts(),
	}}
	if r.s.opts.dial != nil {
		h.config.Dialer = r.s.opts.dial.dialer()
	}
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
			mode = OpportunisticTLS
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

// sendToHop hands a message to a server that is fixed.
func (r *run) sendToHop(ctx context.Context, d *delivery, h *hop, seal []byte, from string, list []int) outcome {
	if h.err != nil {
		return all(hopResult(h.err), list)
	}
	return r.send(ctx, d, &transport.Request{
		Hop: &h.config, Envelope: d.smtpEnvelope(from, list), Content: d.content(slices.Concat(seal, h.prefix)),
	})
}

// watchedContent tells the scheduler of a job when all of the message is on its way.
type watchedContent struct {
	transport.Content
	ctx context.Context
}

func (c watchedContent) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.Content.ReadAt(p, at)
	sched.SetLate(c.ctx, at+int64(n) >= c.Size())
	return n, err
}

// send makes the transaction, or several.
func (r *run) send(ctx context.Context, d *delivery, req *transport.Request) outcome {
	watched := *req
	watched.Content = watchedContent{req.Content, ctx}
	sent := r.transport.Send(ctx, &watched)
	sched.SetLate(ctx, false)
	out := outcome{results: make([]result, len(sent.Recipients)), site: sched.Outcome{Trouble: sent.Trouble}}
	for i := range sent.Attempts {
		out.steps = append(out.steps, stepOf(&sent.Attempts[i]))
	}
	for n := range sent.Recipients {
		rr := &sent.Recipients[n]
		host := ""
		if rr.Attempt >= 0 && rr.Attempt < len(sent.Attempts) {
			host = sent.Attempts[rr.Attempt].Host
		}
		if rr.Status == smtpc.Delivered {
			out.results[n] = result{ok: true, reached: true, handed: req.Hop != nil && !req.Hop.LMTP, said: rr.Reply.String(), host: host,
				report: reportFor(rr.DSN, req.Hop != nil && req.Hop.LMTP)}
			out.site.Works = true
			continue
		}
		res := hopResult(&smtpc.Error{Phase: rr.Phase, Status: rr.Status, Reply: rr.Reply, Err: rr.Err})
		if req.Hop == nil && rr.Status == smtpc.Permanent {
			res.permanent = true // its hosts all refuse us: there is nobody else to ask
		}
		res.status, res.host = rr.Reply.Enhanced, host
		res.reached = rr.Reply.Code > 0 || rr.Phase == smtpc.PhaseContent || rr.Phase == smtpc.PhaseEnd
		switch {
		case rr.Status == smtpc.Unknown:
			res.said = fmt.Sprintf("no answer to the content (%v): it may have been taken, and is sent again", rr.Err)
		case rr.Reply.Code > 0:
			res.said = rr.Reply.String()
		}
		out.results[n] = res
		out.site.Works = out.site.Works || sent.Answered && !sent.Trouble
		if sent.Trouble {
			out.site.Why = res.said
		}
	}
	counter := &r.s.stats.forwarded
	if req.Hop != nil && req.Hop.LMTP {
		counter = &r.s.stats.mailboxes
	}
	r.count(counter, out.results)
	return out
}

// reportFor is what a sender who wants to know of success has to be told when
// another server has taken a message (RFC 3461 sections 5.2.1 and 5.2.2). A mailbox
// is behind LMTP.
func reportFor(offersDSN, lmtp bool) dsn.Action {
	switch {
	case offersDSN:
		return "" // by that server
	case lmtp:
		return dsn.Delivered
	}
	return dsn.Relayed
}

// stepOf is what the timeline shows of a connection. What was said about the
// message is shown with its recipients.
func stepOf(a *transport.Attempt) step {
	s := step{At: a.Time, Kind: tried, Host: a.Host, TLS: a.TLS}
	if a.Addr.IsValid() {
		s.Addr = a.Addr.String()
	}
	if a.Source.IsValid() {
		s.Source = a.Source.String()
	}
	switch {
	case a.Err != "":
		s.Text = fmt.Sprintf("%s: %s", a.Phase, a.Err)
	case a.TLSError != "":
		s.Text = "went on without TLS: " + a.TLSError
	default:
		s.Text = a.Reply
	}
	return s
}

func (d *delivery) smtpEnvelope(from string, list []int) smtpc.Envelope {
	env := smtpc.Envelope{From: from, EightBit: d.env.EightBit, UTF8: d.env.UTF8,
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
