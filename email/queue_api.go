package email

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// ErrNotFound is returned for a message that is not in the spool.
var ErrNotFound = errors.New("email: no such message")

// QueuedMessage is a message in the spool.
type QueuedMessage struct {
	// ID is that of [Message.ID].
	ID string `json:"id"`
	// ConnID is that of [EmailStatus.ConnID].
	ConnID string `json:"connId,omitempty"`
	// From is the sender, "" for bounces.
	From string `json:"from"`
	// Recipients are all that the message is or was for.
	Recipients []QueuedRecipient `json:"recipients"`
	// Size of the content, in bytes.
	Size int64 `json:"size"`
	// Arrived is when it was received, Next when it is tried again; or removed, if
	// it is in quarantine or given up ([Queue.KeepHeld]).
	Arrived time.Time `json:"arrived"`
	Next    time.Time `json:"next"`
	// Tries is how often it was tried.
	Tries int `json:"tries"`
	// Stuck is set for one that no route takes any more, or none by which it may
	// leave: it waits for other routes.
	Stuck bool `json:"stuck,omitempty"`
	// Quarantine says why it is held back, or is "".
	Quarantine string `json:"quarantine,omitempty"`
	// Refused is set for a copy of a message that its sender was told is refused.
	Refused bool `json:"refused,omitempty"`
}

// QueuedRecipient is a recipient of a message in the spool.
type QueuedRecipient struct {
	Address string `json:"address"`
	// Route is the name of the route that took the recipient.
	Route string `json:"route"`
	// State is "" for one that is still to be delivered to, "delivered", "sent" (a
	// server on the way has it), "failed", or "bounced" (its server took it and has
	// said later that it could not keep it).
	State string `json:"state"`
	// Reply is what was said last when it was tried.
	Reply string `json:"reply,omitempty"`
}

// Queue yields the messages in the spool, the oldest first, those in quarantine
// among them. An error is about one message, and the next follows.
func (s *Server) Queue(ctx context.Context) iter.Seq2[QueuedMessage, error] {
	return func(yield func(QueuedMessage, error) bool) {
		r := s.current()
		if r == nil {
			yield(QueuedMessage{}, ErrNotRunning)
			return
		}
		for m, err := range r.queue.store.All(ctx) {
			qm := QueuedMessage{ID: string(m.ID)}
			if err == nil {
				qm, err = r.queue.describe(m)
			}
			if !yield(qm, err) {
				return
			}
		}
	}
}

func (q *queue) describe(m spool.Message) (QueuedMessage, error) {
	env, p, err := decodeMessage(m)
	if err != nil {
		return QueuedMessage{ID: string(m.ID)}, err
	}
	p = valueOr(q.shownOf(m.ID), p)
	qm := QueuedMessage{
		ID: string(m.ID), ConnID: env.ConnID, From: env.From, Size: m.Size + int64(len(env.Prefix)), Arrived: env.Arrived, Next: p.Next, Tries: p.Tries, Refused: env.Refused,
	}
	for _, c := range env.Cuts {
		qm.Size -= c.End - c.Start
	}
	if env.Break > 0 {
		qm.Size += 2
	}
	qm.Quarantine = env.quarantine(p)
	q.mu.Lock()
	if e := q.entries[m.ID]; e != nil {
		qm.Stuck, qm.Next = e.stuck, e.next
	}
	q.mu.Unlock()
	for i, rcpt := range env.Recipients {
		qm.Recipients = append(qm.Recipients, QueuedRecipient{rcpt.Address, rcpt.Route, p.Recipients[i].State, p.Recipients[i].Reply})
	}
	return qm, nil
}

// Queued returns a message in the spool and its content. Close the content.
func (s *Server) Queued(ctx context.Context, id string) (QueuedMessage, io.ReadCloser, error) {
	r := s.current()
	if r == nil {
		return QueuedMessage{}, nil, ErrNotRunning
	}
	m, err := r.queue.store.Get(ctx, spool.ID(id))
	if err != nil {
		return QueuedMessage{}, nil, queueError(err)
	}
	qm, err := r.queue.describe(m)
	if err != nil {
		return qm, nil, err
	}
	env, err := decodeQueued(m.Envelope)
	if err != nil {
		return qm, nil, err
	}
	body, err := r.queue.store.Body(ctx, m.ID)
	if err != nil {
		return qm, nil, queueError(err)
	}
	return qm, struct {
		io.Reader
		io.Closer
	}{env.content(body.SectionReader, nil), body}, nil
}

// Release takes a message out of quarantine: it is delivered as if nothing had
// been found.
func (s *Server) Release(ctx context.Context, id string) error {
	return s.change(ctx, id, func(env *queued, p *progress) error {
		if env.quarantine(p) == "" {
			return fmt.Errorf("email: message %q is not in quarantine", id)
		}
		p.Released, p.Since, p.Held = true, s.now().UTC(), ""
		p.note(step{At: s.now(), Kind: EventReleased})
		return nil
	})
}

// Quarantine puts a message that is on its way into quarantine, for a reason that
// [Server.Queue] shows.
func (s *Server) Quarantine(ctx context.Context, id, reason string) error {
	reason = valueOr(clip(reason), "held by the operator")
	return s.change(ctx, id, func(env *queued, p *progress) error {
		switch {
		case env.quarantine(p) != "":
			return fmt.Errorf("email: message %q is in quarantine already", id)
		case p.open() == 0:
			return fmt.Errorf("email: nothing more is tried with message %q", id)
		}
		p.Held = reason
		p.note(step{At: s.now(), Kind: EventQuarantined, Text: reason})
		return nil
	})
}

// Retry tries a message at once, and also recipients that were given up.
func (s *Server) Retry(ctx context.Context, id string) error {
	return s.change(ctx, id, func(env *queued, p *progress) error {
		if env.quarantine(p) != "" {
			return fmt.Errorf("email: message %q is in quarantine; release it", id)
		}
		for i := range p.Recipients {
			if p.Recipients[i].State == failed {
				p.Recipients[i] = state{}
				p.Tries = 0
			}
		}
		return nil
	})
}

// PauseQueue keeps the mail in the spool from being tried, until ResumeQueue or
// the next Start; what is under way goes on. Mail is still accepted.
func (s *Server) PauseQueue() error { return s.pause(true) }

// ResumeQueue ends PauseQueue.
func (s *Server) ResumeQueue() error { return s.pause(false) }

func (s *Server) pause(yes bool) error {
	r := s.current()
	if r == nil {
		return ErrNotRunning
	}
	r.queue.pause(yes)
	return nil
}

// wakeSites ends the rest of the sites that a message goes to: somebody wants to
// see it tried.
func (q *queue) wakeSites(env *queued) {
	t := q.r.s.routes.Load()
	for i := range env.Recipients {
		rcpt := &env.Recipients[i]
		to := q.place(t, destination{rcpt.Route, rcpt.domain()})
		site := q.r.siteOf(to.route)
		if to.domain != "" {
			d, _, _ := q.r.mx.Cached(to.domain)
			site = d.Site
		}
		q.sites.Wake(site)
	}
}

// Drop removes a message for good.
func (s *Server) Drop(ctx context.Context, id string) error {
	r := s.current()
	if r == nil {
		return ErrNotRunning
	}
	e, err := r.queue.take(spool.ID(id))
	if err != nil {
		return err
	}
	env, p, readErr := r.queue.read(ctx, e.id) // what cannot be read can still be dropped
	if err := r.queue.store.Remove(ctx, e.id); err != nil {
		r.queue.putBack(e, e.next)
		return queueError(err)
	}
	if readErr == nil {
		r.discarded(e.id, env, e.latest(p), EventDropped, "removed from the queue")
	}
	r.queue.forget(e)
	return nil
}

// change edits the progress of a message that is not under way, and has it tried.
func (s *Server) change(ctx context.Context, id string, edit func(*queued, *progress) error) error {
	r := s.current()
	if r == nil {
		return ErrNotRunning
	}
	q := r.queue
	e, err := q.take(spool.ID(id))
	if err != nil {
		return err
	}
	next := e.next
	defer func() { q.putBack(e, next) }()
	m, err := q.store.Get(ctx, e.id)
	if err != nil {
		return queueError(err)
	}
	env, p, err := decodeMessage(m)
	if err != nil {
		return err
	}
	p = e.latest(p)
	if err := edit(env, p); err != nil {
		return err
	}
	p.Next = s.now()
	text, err := p.encode()
	if err != nil {
		return err
	}
	if err := q.store.SetState(ctx, e.id, text); err != nil {
		return queueError(err)
	}
	e.unsaved = nil
	q.mu.Lock()
	e.shown = nil
	if held := env.quarantine(p) != ""; held != e.quarantined {
		e.quarantined = held
		if held {
			q.held++
		} else {
			q.held--
		}
	}
	e.spent = p.open() == 0
	e.since, e.look = env.since(p), env.look(p)
	q.mu.Unlock()
	if !e.resting() {
		q.wakeSites(env)
	}
	next = p.Next
	return nil
}

func queueError(err error) error {
	if errors.Is(err, spool.ErrNotFound) || errors.Is(err, spool.ErrInvalidID) {
		return ErrNotFound
	}
	return err
}
