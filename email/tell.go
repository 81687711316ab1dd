package email

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/dsn"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// tellOutcome tells the sender of a message whom it could not be delivered to
// (RFC 5321 section 6.1), and in whose case that was asked for, who has it (RFC
// 3461), as far as that is known and has not been told. An error is that it could
// not be told now. Nobody is told of what has no sender, or one that is likely
// forged: such a message stays for somebody to look at.
func (rd *round) tellOutcome() error {
	env, p := rd.env, rd.p
	var list []int
	for i := range p.Recipients {
		a := &p.Recipients[i]
		action := reportedAs(a)
		if a.Told || action == dsn.Delayed {
			continue
		}
		switch {
		case env.Bounces == bounceHere, env.Own && env.From == "":
			// The host sees it; and that a bounce of ours has nobody who takes it is
			// no reason to keep it. Strangers cause those.
			a.Told = true
		case !env.tellable():
			a.Told = action != dsn.Failed
		case !dsn.Wanted(env.Recipients[i].Notify, action):
			a.Told = true
		default:
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := rd.tell(list); err != nil {
		return err
	}
	for _, i := range list {
		p.Recipients[i].Told = true
	}
	return nil
}

// tellable reports whether there is a sender who may be told of something.
func (q *queued) tellable() bool { return q.From != "" && q.Bounces == "" }

// reportedAs is what a notification says of a recipient; "" for one who has the
// message, where that is not for us to say.
func reportedAs(a *state) dsn.Action {
	switch a.State {
	case "":
		return dsn.Delayed
	case failed, bounced:
		return dsn.Failed
	}
	return a.Report
}

// tellSuccess tells the sender of a message that never was in the spool who has
// it, where that was asked for.
func (r *run) tellSuccess(ctx context.Context, d *delivery, list []int, results []result) {
	env := d.env
	if !env.tellable() {
		return
	}
	var about []dsn.Recipient
	for n, i := range list {
		if rcpt, res := &env.Recipients[i], &results[n]; res.ok && dsn.Wanted(rcpt.Notify, res.report) {
			about = append(about, dsn.Recipient{
				Address: rcpt.Address, Original: rcpt.ORCPT, Action: res.report, RemoteMTA: res.host, Diagnostic: res.said, LastAttempt: r.s.now(),
			})
		}
	}
	if len(about) == 0 {
		return
	}
	if err := r.report(ctx, env, d.content(nil), about); err != nil {
		r.s.log.Error("the sender of a message could not be told that it was delivered", "conn_id", env.ConnID, "msg_id", d.id, "err", err)
	}
}

// tellDelay tells the sender, once, that a message is still on its way. It
// reports whether it did.
func (rd *round) tellDelay() bool {
	env, p, now := rd.env, rd.p, rd.q.r.s.now()
	if env.Schedule.DelayNotice <= 0 || now.Sub(env.since(p)) < env.Schedule.DelayNotice {
		return false
	}
	var list []int
	changed := false
	for i := range p.Recipients {
		if a := &p.Recipients[i]; a.State == "" && !a.Delayed {
			a.Delayed, changed = true, true
			p.note(step{At: now, Kind: EventDelayed, Recipients: some(i, len(p.Recipients)), Text: "still on its way"})
			e := env.event(string(rd.e.id), i)
			e.Kind, e.Reason, e.Status = EventDelayed, a.Reply, a.Status
			rd.events = append(rd.events, e)
			if env.tellable() && dsn.Wanted(env.Recipients[i].Notify, dsn.Delayed) {
				list = append(list, i)
			}
		}
	}
	if len(list) > 0 {
		if err := rd.tell(list); err != nil {
			rd.q.r.s.log.Error("the sender of a message could not be told of its delay", "conn_id", env.ConnID, "msg_id", rd.e.id, "err", err)
		}
	}
	return changed
}

// tell queues a notification about some recipients (RFC 3464).
func (rd *round) tell(list []int) error {
	r, env, p := rd.q.r, rd.env, rd.p
	ctx, cancel := r.lasting()
	defer cancel()
	var original *io.SectionReader
	if body, err := rd.open(); err == nil {
		original = env.content(body, nil)
	} else {
		r.s.log.Error("a bounce goes without the message that it is about", "conn_id", env.ConnID, "msg_id", rd.e.id, "err", err)
	}
	var reports []dsn.Recipient
	for _, i := range list {
		a, rcpt := &p.Recipients[i], &env.Recipients[i]
		about := dsn.Recipient{
			Address: rcpt.Address, Original: rcpt.ORCPT, Action: reportedAs(a), Status: a.Status,
			RemoteMTA: a.Host, Diagnostic: a.Reply, LastAttempt: r.s.now(),
		}
		if about.Action == dsn.Delayed {
			about.RetryUntil = env.since(p).Add(valueOr(env.Schedule.MaxAge, defaultMaxAge))
		}
		reports = append(reports, about)
	}
	return r.report(ctx, env, original, reports)
}

// report queues a notification about a message, which may be nil if it cannot be
// read.
func (r *run) report(ctx context.Context, env *queued, original *io.SectionReader, about []dsn.Recipient) error {
	m, err := dsn.Make(dsn.Report{
		ReportingMTA: r.s.cfg.Hostname,
		To:           env.From,
		EnvID:        env.EnvID,
		Arrival:      env.Arrived,
		Now:          r.s.now(),
		Full:         env.Ret == "FULL" && !env.RequireTLS, // which a bounce need not meet (RFC 8689 section 5)
		UTF8:         env.UTF8,
		Original:     original,
		Recipients:   about,
	})
	if err != nil {
		return fmt.Errorf("making a notification: %w", err)
	}
	_, err = r.post(ctx, &queued{
		Recipients: []recipient{{Address: env.From, Route: r.routeToSender(env.From)}},
		EightBit:   m.EightBit, UTF8: m.UTF8, Own: true, ConnID: env.ConnID,
	}, m.Content, 0)
	return err
}

// routeToSender is the name of the route that a bounce goes by: the one that
// takes mail for a sender of ours, or else the way out.
func (r *run) routeToSender(address string) string {
	_, domain, _ := cutAddress(address)
	if r.s.isOurs(domain) {
		return "" // found by the content, as for any mail to them
	}
	return outgoing
}

// post puts a message of this server's own into the spool.
func (r *run) post(ctx context.Context, env *queued, content []byte, after time.Duration) (spool.ID, error) {
	id := spool.NewID(r.s.now())
	env.Arrived = r.s.now().UTC()
	d, err := r.queue.store.Draft(ctx)
	if err != nil {
		return "", err
	}
	if _, err := d.Write(content); err != nil {
		d.Discard()
		return "", err
	}
	return id, r.queue.add(ctx, id, env, d, after)
}
