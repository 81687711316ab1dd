package email

import (
	"context"
	"fmt"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/dsn"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// tellFailure tells the sender of a message whom it could not be delivered to
// (RFC 5321 section 6.1), and in whose case that was asked for, who has it (RFC
// 3461). An error is that it could not be told now. Nobody is told of what has no
// sender, or one that is likely forged: such a message stays for somebody to look
// at.
func (rd *round) tellFailure() error {
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
		case env.From == "" || env.Bounces == bounceNowhere:
			a.Told = action != dsn.Failed
		case !dsn.Wanted(env.Recipients[i].Notify, action) || action == dsn.Delivered && a.State == sent:
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

// reportedAs is what a notification says of a recipient.
func reportedAs(a *state) dsn.Action {
	switch a.State {
	case "":
		return dsn.Delayed
	case failed, bounced:
		return dsn.Failed
	}
	return dsn.Delivered
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
			p.note(step{At: now, Kind: Delayed, Recipients: some(i, len(p.Recipients)), Text: "still on its way"})
			e := env.event(string(rd.e.id), i)
			e.Kind, e.Reason, e.Status = Delayed, a.Reply, a.Status
			rd.q.r.s.event(e)
			if env.From != "" && env.Bounces == "" && dsn.Wanted(env.Recipients[i].Notify, dsn.Delayed) {
				list = append(list, i)
			}
		}
	}
	if len(list) > 0 {
		if err := rd.tell(list); err != nil {
			rd.q.r.s.log.Error("the sender of a message could not be told of its delay", "msg_id", rd.e.id, "err", err)
		}
	}
	return changed
}

// tell queues a notification about some recipients (RFC 3464).
func (rd *round) tell(list []int) error {
	r, env, p := rd.q.r, rd.env, rd.p
	ctx, cancel := r.lasting()
	defer cancel()
	report := dsn.Report{
		ReportingMTA: r.s.cfg.Hostname,
		To:           env.From,
		EnvID:        env.EnvID,
		Arrival:      env.Arrived,
		Now:          r.s.now(),
		Full:         env.Ret == "FULL",
		UTF8:         env.UTF8,
	}
	if body, err := rd.open(); err == nil {
		report.Original = env.content(body, nil)
	} else {
		r.s.log.Error("a bounce goes without the message that it is about", "msg_id", rd.e.id, "err", err)
	}
	for _, i := range list {
		a, rcpt := &p.Recipients[i], &env.Recipients[i]
		about := dsn.Recipient{
			Address: rcpt.Address, Original: rcpt.ORCPT, Action: reportedAs(a), Status: a.Status,
			RemoteMTA: a.Host, Diagnostic: a.Reply, LastAttempt: r.s.now(),
		}
		if about.Action == dsn.Delayed {
			about.RetryUntil = env.since(p).Add(valueOr(env.Schedule.MaxAge, defaultMaxAge))
		}
		report.Recipients = append(report.Recipients, about)
	}
	m, err := dsn.Make(report)
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
