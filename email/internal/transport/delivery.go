package transport

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// delivery is a Send under way.
type delivery struct {
	client  *Client
	request *Request
	result  Result
	// open has the indices of the recipients whose fate is not known.
	open []int
	// failure is what they get if nobody else can be tried.
	failure *smtpc.Error
	// choosy says that a host was passed over for what the policy or the message
	// wants of it. Others may get on well with it.
	choosy bool
}

func newDelivery(c *Client, r *Request) *delivery {
	d := &delivery{client: c, request: r, result: Result{Recipients: make([]RcptResult, len(r.Envelope.To))}, open: make([]int, len(r.Envelope.To))}
	for i, to := range r.Envelope.To {
		d.result.Recipients[i] = RcptResult{RcptResult: smtpc.RcptResult{Addr: to.Addr}, Attempt: -1}
		d.open[i] = i
	}
	return d
}

// finish decides on those that are left.
func (d *delivery) finish() Result {
	d.result.Trouble = d.result.Trouble && !d.choosy
	e := d.failure
	if e == nil {
		e = asError(smtpc.PhaseConnect, errNoHost)
	}
	for _, i := range d.open {
		r := &d.result.Recipients[i]
		r.Status, r.Phase, r.Reply, r.Err = e.Status, e.Phase, e.Reply, e.Err
		r.Attempt = len(d.result.Attempts) - 1
	}
	return d.result
}

// failed notes that a host was of no use. Of reasons, one that may pass counts
// more: the message is not lost yet.
func (d *delivery) failed(a Attempt, e *smtpc.Error) {
	a.ended(e, d.client.cfg.Now())
	d.result.record(a)
	if d.failure == nil || d.failure.Status == smtpc.Permanent || e.Status != smtpc.Permanent {
		d.failure = e
	}
}

// try gives a message to one target, in as many transactions as it takes. It
// returns whether another target may be tried for those that are left.
func (d *delivery) try(ctx, connecting context.Context, t *target) (more bool) {
	c := d.client.pool.take(t.key)
	for len(d.open) > 0 {
		a := Attempt{Time: d.client.cfg.Now(), Host: t.host.Name, Addr: t.key.addr, Recipients: len(d.open), Reused: c != nil}
		if c == nil {
			var err error
			if c, err = d.dial(connecting, t); err != nil {
				e := asError(smtpc.PhaseConnect, err)
				d.result.Trouble = ctx.Err() == nil
				d.choosy = d.choosy || t.policy != nil && t.requirement.Mode == smtpc.StartTLS && e.Phase == smtpc.PhaseTLS
				d.failed(a, e)
				return true
			}
		}
		d.result.Answered = true
		a.describe(c.Conn, t.requirement.Source)

		batch := d.open[:min(len(d.open), d.batch(c.Conn))]
		a.Recipients = len(batch)
		result, err := c.Send(ctx, d.envelope(batch), io.NewSectionReader(d.request.Content, 0, d.request.Content.Size()))
		c.served++
		connecting = ctx // from here on it is known that somebody answers
		var e *smtpc.Error
		errors.As(err, &e)
		if e != nil && c.served > 1 && unheard(e) && ctx.Err() == nil {
			c.Close()
			c = nil
			continue
		}
		more = d.settle(ctx, a, batch, result.Recipients, e)
		if refusedContent(result.Recipients) {
			c.limit = 0
		}
		if e != nil || len(d.open) > 0 && (!c.Usable() || c.served >= c.limit) {
			d.client.pool.put(t.key, c)
			c = nil
		}
		if e != nil || !more {
			break
		}
	}
	if c != nil {
		d.client.pool.put(t.key, c)
	}
	return more
}

// batch is how many recipients go into a transaction.
func (d *delivery) batch(c *smtpc.Conn) int {
	n := d.client.cfg.MaxRecipients
	if limit := c.Limits().RcptMax; limit > 0 {
		n = min(n, limit)
	}
	return n
}

func (d *delivery) envelope(batch []int) smtpc.Envelope {
	env := d.request.Envelope
	env.Size = d.request.Content.Size()
	if len(batch) < len(env.To) {
		env.To = make([]smtpc.Rcpt, len(batch))
		for n, i := range batch {
			env.To[n] = d.request.Envelope.To[i]
		}
	}
	return env
}

// dial makes a new connection, and tells those who want to know.
func (d *delivery) dial(ctx context.Context, t *target) (*conn, error) {
	c, err := smtpc.Dial(ctx, t.config)
	if err == nil && t.policy != nil && d.client.isUs(c) {
		c.Close()
		return nil, errLoop()
	}
	if t.policy != nil && (err == nil || ctx.Err() == nil) {
		o := Outcome{Host: t.host, Requirement: t.requirement, Remote: t.key.addr.Addr(), Local: t.key.source, HELO: t.config.Hostname, Err: err}
		if err == nil {
			o.TLS, o.Err = c.TLS(), c.TLSFailure()
			o.Local = addrPort(c.LocalAddr()).Addr()
		}
		t.policy.Result(o)
		d.client.ailing.set(t.key.addr.Addr(), t.key.source, cannotBeReached(err), time.Now())
	}
	if err != nil {
		return nil, err
	}
	limit := d.client.cfg.MaxMessages
	if l := c.Limits().MailMax; l > 0 {
		limit = min(limit, l)
	}
	return &conn{Conn: c, limit: limit}, nil
}

// isUs reports whether a host that DNS gave is this one, by the name that it greets
// with: by address it may go unseen, behind NAT or on an inner side. It would take
// the mail for a neighbour's.
func (c *Client) isUs(to *smtpc.Conn) bool {
	name, _, _ := strings.Cut(to.Greeting().Text(), " ")
	return strings.EqualFold(name, c.cfg.Hostname)
}

func errLoop() *smtpc.Error {
	reply := smtpc.Reply{Code: 554, Enhanced: "5.4.6", Lines: []string{"the mail would come back to this host"}}
	return &smtpc.Error{Phase: smtpc.PhaseGreeting, Status: smtpc.Permanent, Reply: reply, Err: smtpc.ErrNotAsked}
}

// cannotBeReached says that the next message need not try.
func cannotBeReached(err error) bool {
	var e *smtpc.Error
	return errors.As(err, &e) && (e.Phase == smtpc.PhaseConnect || e.Phase == smtpc.PhaseGreeting)
}

// unheard says that a host has ended a connection that had served a message before,
// without having seen more than the envelope of this one: a new connection will do.
func unheard(e *smtpc.Error) bool {
	return e.Phase == smtpc.PhaseOther || e.Phase == smtpc.PhaseMail && (e.Reply.Code == 0 || e.Reply.Code == 421)
}

// settle notes how a transaction went. It returns whether those that are left may
// be tried, here or if e is not nil elsewhere.
func (d *delivery) settle(ctx context.Context, a Attempt, batch []int, results []smtpc.RcptResult, e *smtpc.Error) (more bool) {
	if e != nil && errors.Is(e, smtpc.ErrNotAsked) {
		d.choosy = true
		d.failed(a, e)
		return true
	}
	if e != nil {
		a.ended(e, d.client.cfg.Now())
	} else {
		a.ended(summary(results), d.client.cfg.Now())
	}
	at := d.result.record(a)
	d.result.Trouble = e != nil && ctx.Err() == nil && !errors.Is(e, smtpc.ErrUnreadable) && (e.Reply.Code == 0 || e.Reply.Code == 421 || e.Status == smtpc.Unknown)

	goOn := true
	last := lastAccepted(results)
	left := d.open[:0:0]
	for n, i := range batch {
		r := results[n]
		switch {
		case e != nil && r.Status == smtpc.Temporary && r.Reply.Code == 0 && !begun(r.Phase):
			left = append(left, i) // the dialogue broke off before it was decided
			continue
		case e == nil && n > last && last >= 0 && tooMany(r):
			left = append(left, i)
			continue
		case r.Status == smtpc.Temporary && r.Phase != smtpc.PhaseRcpt:
			goOn = false // what is said to all the message would be said to the rest too
		}
		d.result.Recipients[i] = RcptResult{RcptResult: r, Attempt: at, DSN: a.DSN}
	}
	d.open = append(left, d.open[len(batch):]...)
	switch {
	case e == nil:
		d.result.Trouble = slices.ContainsFunc(results, func(r smtpc.RcptResult) bool { return r.Reply.Code == 421 })
		d.failure = &smtpc.Error{Phase: smtpc.PhaseOther, Status: smtpc.Temporary, Err: errSendTime}
		if s := summary(results); !goOn {
			d.failure = s
		}
		return goOn
	case begun(e.Phase) || e.Reply.Code != 0:
		d.failure = &smtpc.Error{Phase: e.Phase, Status: smtpc.Temporary, Reply: e.Reply, Err: e.Err}
		return false
	}
	d.failure = e
	return true
}

// begun says that content was sent.
func begun(p smtpc.Phase) bool { return p == smtpc.PhaseContent || p == smtpc.PhaseEnd }

// lastAccepted is the index of the last recipient that RCPT was accepted for; -1
// means none.
func lastAccepted(results []smtpc.RcptResult) int {
	for n := len(results) - 1; n >= 0; n-- {
		if p := results[n].Phase; p == smtpc.PhaseData || begun(p) {
			return n
		}
	}
	return -1
}

// refusedContent says that nobody got the message for what is in it. A host may say
// so before the end of the content and once more after it, which would be taken for
// the answer to the next message. So that goes over another connection.
func refusedContent(results []smtpc.RcptResult) bool {
	refused := false
	for _, r := range results {
		if r.Status == smtpc.Delivered {
			return false
		}
		refused = refused || r.Phase == smtpc.PhaseEnd
	}
	return refused
}

// tooMany says that a recipient may be one too many for the transaction rather than
// unwelcome (RFC 5321 section 4.5.3.1.10).
func tooMany(r smtpc.RcptResult) bool {
	return r.Phase == smtpc.PhaseRcpt && (r.Reply.Code == 452 || r.Reply.Code == 552) &&
		(r.Reply.Enhanced == "" || r.Reply.Enhanced[1:] == ".5.3")
}

// summary is what the host said to the message, or at least to a recipient.
func summary(results []smtpc.RcptResult) *smtpc.Error {
	r := results[max(lastAccepted(results), 0)]
	return &smtpc.Error{Phase: r.Phase, Status: r.Status, Reply: r.Reply, Err: r.Err}
}
