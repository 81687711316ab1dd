package email

import (
	"context"
	"errors"
	"fmt"

	"github.com/dcrouter/dcrouter/email/internal/compose"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// ErrSuppressed is returned by [Server.SendEmail] for a message all of whose
// recipients are on the suppression list.
var ErrSuppressed = errors.New("email: all recipients are on the suppression list")

// SendEmail writes a message and puts it into the spool, from where it is signed
// and sent. It returns when the message is durable; what becomes of it is told by
// [Server.EmailStatus] under the id that is returned, and by events.
//
// Mail to domains of ours goes by the routes, as if a user had sent it; to others
// it goes by the first route that takes it and does not reject it, and else to
// their MX hosts.
//
// Bounces come back to this server where the sender's domain is one of
// [Config.Domains]: the message has then a return address of its own for each
// recipient (VERP), and recipients that there are not get onto the suppression
// list. Otherwise they go to the sender.
//
// The error is a [*FieldError] for each mistake in the message, [ErrSuppressed],
// [ErrNotRunning], or that the spool has no room.
func (s *Server) SendEmail(ctx context.Context, m Email) (id string, err error) {
	r := s.current()
	if r == nil {
		return "", ErrNotRunning
	}
	written, err := m.prepare(compose.Options{Now: s.now, MaxSize: valueOr(s.cfg.MaxMessageSize, defaultMessageSize)})
	if err != nil {
		return "", err
	}
	env := &queued{
		From: written.Sender.String(), UTF8: written.UTF8, Own: true, Priority: m.Queue == PriorityQueue,
		Subject: m.Subject, Metadata: m.Metadata, Arrived: s.now().UTC(),
	}
	if s.isOurs(written.Sender.Domain) {
		env.Bounces = bounceHere
	}
	suppressed := 0
	for _, to := range written.Recipients {
		if _, ok := r.suppressions.Check(to.String()); ok {
			suppressed++
		}
		env.Recipients = append(env.Recipients, recipient{Address: to.String()})
	}
	if suppressed == len(env.Recipients) {
		return "", ErrSuppressed
	}
	d, err := r.queue.store.Draft(ctx)
	if err != nil {
		return "", fmt.Errorf("email: %w", err)
	}
	defer d.Discard() // does nothing once it is added
	size, err := written.Write(d)
	if err != nil {
		return "", fmt.Errorf("email: %w", err)
	}
	env.EightBit = size.EightBit
	table := s.routes.Load()
	c, err := table.contentOf(d.Body())
	if err != nil {
		return "", fmt.Errorf("email: %w", err)
	}
	for i := range env.Recipients {
		rt := r.ownRoute(table, env, i, c)
		if rt == nil {
			return "", fmt.Errorf("email: no route takes mail to %q", env.Recipients[i].Address)
		}
		env.Recipients[i].Route = rt.Name
	}
	key := spool.NewID(s.now())
	if err := r.queue.add(ctx, key, env, d, max(0, m.SendAt.Sub(s.now()))); err != nil {
		return "", fmt.Errorf("email: %w", err)
	}
	for _, rcpt := range env.Recipients {
		s.stats.routes.add(rcpt.Route)
	}
	s.stats.submitted.Add(1)
	e := Event{Kind: EventReceived, MessageID: string(key), From: env.From, Metadata: env.Metadata}
	for _, rcpt := range env.Recipients {
		e.Recipients = append(e.Recipients, rcpt.Address)
	}
	s.event(e)
	return string(key), nil
}

// ownRoute is the route of a recipient of mail of our own.
func (r *run) ownRoute(t *routeTable, env *queued, i int, c *content) *route {
	f := &facts{authenticated: true, sender: env.From, recipient: env.Recipients[i].Address, content: c}
	rt, _ := t.decide(f)
	switch {
	case rt != nil && rt.Action.Type != Reject:
		return rt
	case r.s.isOurs(env.Recipients[i].domain()):
		return nil
	}
	return t.named(outgoing)
}
