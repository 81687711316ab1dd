package email

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/history"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// Values of [EmailStatus.Status] and [RecipientStatus.Status].
const (
	// StatusPending is mail that waits for its first or its next attempt, or for
	// somebody to release it.
	StatusPending = "pending"
	// StatusSent is mail that a server has taken which is not the recipient's: a
	// smart host, or one that a route forwards to.
	StatusSent = "sent"
	// StatusDelivered is mail that the recipient's server has taken, or that is in
	// a mailbox here.
	StatusDelivered = "delivered"
	// StatusBounced is mail that will not be delivered: it was refused, given up,
	// or a bounce has come back.
	StatusBounced = "bounced"
)

// EmailStatus is what became of a message.
type EmailStatus struct {
	// ID is that of [Message.ID].
	ID string `json:"id"`
	// ConnID is that of [Client.ID], the client's that brought the message. A
	// notification has that of the message that it is about, and what this server
	// or its host sends has none.
	ConnID string `json:"connId,omitempty"`
	// From is the sender, Subject that of an [Email].
	From    string `json:"from"`
	Subject string `json:"subject,omitempty"`
	// Status is the worst that holds for a recipient, in the order bounced,
	// pending, sent, delivered.
	Status string `json:"status"`
	// Arrived is when the message was accepted, Next when it is tried again; zero
	// if it is not.
	Arrived time.Time `json:"arrived"`
	Next    time.Time `json:"next,omitzero"`
	// Tries is how often it was tried.
	Tries int `json:"tries"`
	// Recipients are all that the message is or was for.
	Recipients []RecipientStatus `json:"recipients"`
	// Timeline is what has happened, in order. Of much, the first and the latest
	// are kept; Skipped is how many steps there were between.
	Timeline []TimelineEntry `json:"timeline"`
	Skipped  int             `json:"skipped,omitempty"`
	// Metadata is that of the [Email].
	Metadata map[string]string `json:"metadata,omitempty"`
}

// RecipientStatus is what became of a message for a recipient.
type RecipientStatus struct {
	Address string `json:"address"`
	// Status is one of the constants.
	Status string `json:"status"`
	// Reply is what was said last about it, and Code the enhanced status code of a
	// failure (RFC 3463).
	Reply string `json:"reply,omitempty"`
	Code  string `json:"code,omitempty"`
	// Host is the server that said so.
	Host string `json:"host,omitempty"`
	// At is since when Status holds; zero while it is pending.
	At time.Time `json:"at,omitzero"`
}

// TimelineEntry is something that happened to a message.
type TimelineEntry struct {
	Time time.Time `json:"time"`
	// Kind is one of [Event.Kind], or "tried" for a connection to a server.
	Kind string `json:"kind"`
	// Recipients are those it is about; empty means all.
	Recipients []string `json:"recipients,omitempty"`
	// Text is what was said.
	Text string `json:"text,omitempty"`
	// Host is the server, Addr its address, Source ours, and TLS how the connection
	// was protected, "" if it was not.
	Host   string `json:"host,omitempty"`
	Addr   string `json:"addr,omitempty"`
	Source string `json:"source,omitempty"`
	TLS    string `json:"tls,omitempty"`
}

// EmailStatus tells what became of a message that went through the spool, also
// when it has left that: the latest 100,000 of them are remembered for seven
// days. [ErrNotFound] is returned for others.
func (s *Server) EmailStatus(ctx context.Context, id string) (EmailStatus, error) {
	r := s.current()
	if r == nil {
		return EmailStatus{}, ErrNotRunning
	}
	env, p, next, err := r.known(ctx, spool.ID(id))
	if err != nil {
		return EmailStatus{}, err
	}
	return statusOf(id, env, p, next), nil
}

// known is what is known of a message, in the spool or of the past.
func (r *run) known(ctx context.Context, id spool.ID) (env *queued, p *progress, next time.Time, err error) {
	env, p, err = r.queue.read(ctx, id)
	if err == nil {
		return env, p, r.queue.nextOf(id, p), nil
	}
	if !errors.Is(err, spool.ErrNotFound) && !errors.Is(err, spool.ErrInvalidID) {
		return nil, nil, next, err
	}
	past, err := r.past(ctx, id)
	if err != nil {
		return nil, nil, next, err
	}
	return &past.Envelope, &past.Progress, next, nil
}

// nextOf is when a message is tried next.
func (q *queue) nextOf(id spool.ID, p *progress) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[id]
	if e == nil || e.busy && p.Next.After(e.next) { // its round is all but over
		return p.Next
	}
	return e.next
}

// pastMessage is what is remembered of a message that has left the spool.
type pastMessage struct {
	Envelope queued   `json:"envelope"`
	Progress progress `json:"progress"`
}

// remember keeps what became of a message that leaves the spool.
func (r *run) remember(id spool.ID, env *queued, p *progress) {
	m := pastMessage{Envelope: *env}
	m.Envelope.Prefix, m.Envelope.Cuts = nil, nil
	text, err := p.within(history.MaxData, func(p *progress) ([]byte, error) {
		m.Progress = *p
		return json.Marshal(&m)
	})
	if err != nil {
		r.s.log.Error("what became of a message could not be remembered", "conn_id", env.ConnID, "msg_id", id, "err", err)
		return
	}
	r.history.Put(string(id), r.s.now(), text)
}

func (r *run) past(ctx context.Context, id spool.ID) (*pastMessage, error) {
	text, err := r.history.Get(ctx, string(id))
	if errors.Is(err, history.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	m := new(pastMessage)
	return m, json.Unmarshal(text, m)
}

// edit changes what is known of a message, in the spool or of the past, unless it
// is under way.
func (r *run) edit(ctx context.Context, id string, change func(*queued, *progress) bool) error {
	q := r.queue
	e, err := q.take(spool.ID(id))
	if errors.Is(err, ErrNotFound) {
		r.pastMu.Lock()
		defer r.pastMu.Unlock()
		m, err := r.past(ctx, spool.ID(id))
		if err == nil && change(&m.Envelope, &m.Progress) {
			r.remember(spool.ID(id), &m.Envelope, &m.Progress)
		}
		return err
	}
	if err != nil {
		return err
	}
	defer func() { q.putBack(e, e.next) }()
	env, p, err := q.read(ctx, e.id)
	if err != nil {
		return queueError(err)
	}
	p = e.latest(p)
	if change(env, p) {
		q.note(e, p)
	}
	return nil
}

func statusOf(id string, env *queued, p *progress, next time.Time) EmailStatus {
	st := EmailStatus{
		ID: id, ConnID: env.ConnID, From: env.From, Subject: env.Subject, Arrived: env.Arrived, Tries: p.Tries, Metadata: env.Metadata, Skipped: p.Skipped,
		Status: StatusDelivered,
	}
	for i, rcpt := range env.Recipients {
		a := &p.Recipients[i]
		rs := RecipientStatus{Address: rcpt.Address, Status: statusName(a.State), Reply: a.Reply, Code: a.Status, Host: a.Host, At: a.At}
		st.Recipients = append(st.Recipients, rs)
		if badness(rs.Status) > badness(st.Status) {
			st.Status = rs.Status
		}
	}
	if p.open() > 0 {
		st.Next = next
	}
	for _, s := range p.Steps {
		t := TimelineEntry{Time: s.At, Kind: s.Kind, Text: s.Text, Host: s.Host, Addr: s.Addr, Source: s.Source, TLS: s.TLS}
		for _, i := range s.Recipients {
			if i < len(env.Recipients) {
				t.Recipients = append(t.Recipients, env.Recipients[i].Address)
			}
		}
		st.Timeline = append(st.Timeline, t)
	}
	return st
}

func statusName(state string) string {
	switch state {
	case "":
		return StatusPending
	case sent:
		return StatusSent
	case delivered:
		return StatusDelivered
	}
	return StatusBounced
}

func badness(status string) int {
	switch status {
	case StatusBounced:
		return 3
	case StatusPending:
		return 2
	case StatusSent:
		return 1
	}
	return 0
}
