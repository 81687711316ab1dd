package email

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/bounceaddr"
	"github.com/dcrouter/dcrouter/email/internal/dsn"
	"github.com/dcrouter/dcrouter/email/internal/warmup"
	"github.com/dcrouter/dcrouter/storage"
)

// returns knows the addresses of ours that bounces of what we sent come back to.
type returns struct {
	config bounceaddr.Config
	verp   *bounceaddr.VERP

	mu  sync.Mutex
	srs map[string]*bounceaddr.SRS // by domain
}

// returnsKey is where the secret of those addresses is kept.
const returnsKey = "email/returns.key"

// newReturns reads the secret, or makes it.
func newReturns(ctx context.Context, s *Server) (*returns, error) {
	secret, err := returnsSecret(ctx, s.opts.store, s.cfg.DataPath)
	if err != nil {
		return nil, fmt.Errorf("email: the secret of return addresses: %w", err)
	}
	r := &returns{config: bounceaddr.Config{Secrets: [][]byte{secret}, Now: s.now}, srs: make(map[string]*bounceaddr.SRS)}
	r.verp, err = bounceaddr.NewVERP(r.config)
	return r, err
}

// returnsSecret is the same for all who share the storage, or else the folder for
// data. Without either it holds as long as the process lives.
func returnsSecret(ctx context.Context, store *storage.Store, folder string) ([]byte, error) {
	secret := make([]byte, 32)
	rand.Read(secret)
	switch {
	case store != nil:
		_, err := store.Create(ctx, returnsKey, secret)
		if errors.Is(err, storage.ErrExists) {
			return store.Get(ctx, returnsKey)
		}
		return secret, err
	case folder == "":
		return secret, nil
	}
	path := filepath.Join(folder, "returns.key")
	known, err := os.ReadFile(path)
	switch {
	case err == nil && len(known) == len(secret):
		return known, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return secret, os.WriteFile(path, secret, 0o600) // one that was cut short is of no use
}

func (r *returns) of(domain string) (*bounceaddr.SRS, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.srs[domain]; s != nil {
		return s, nil
	}
	s, err := bounceaddr.NewSRS(domain, r.config)
	if err == nil {
		r.srs[domain] = s // domains are those of the configuration
	}
	return s, err
}

// rewrite is the sender of mail that is forwarded for a domain of ours.
func (r *returns) rewrite(domain, sender string) (string, error) {
	s, err := r.of(domain)
	if err != nil {
		return "", err
	}
	return s.Forward(sender)
}

// route finds out whether a recipient is an address that we gave away for
// bounces: it takes the mail, or sends it on to the returned recipient. A nil
// route means that it is none.
func (r *run) returnRoute(t *routeTable, to addr.Address) (_ *route, recipient string, err error) {
	address := to.String()
	if _, err := r.returns.verp.Decode(address); !errors.Is(err, bounceaddr.ErrNotOurs) {
		return t.named(takesBack), address, err
	}
	if !r.s.isOurs(to.Domain) {
		return nil, address, nil
	}
	s, err := r.returns.of(canonicalDomain(to.Domain))
	if err != nil {
		return nil, address, nil
	}
	back, err := s.Reverse(address)
	if errors.Is(err, bounceaddr.ErrNotOurs) {
		return nil, address, nil
	}
	return t.named(outgoing), back, err
}

// comeBack is what a message says that came to an address for bounces: one of the
// two.
type comeBack struct {
	complaint    *dsn.Complaint
	notification *dsn.Notification
}

func readComeBack(body *io.SectionReader) (*comeBack, error) {
	c, err := dsn.ParseComplaint(body)
	if !errors.Is(err, dsn.ErrNoComplaint) {
		return &comeBack{complaint: c}, err
	}
	n, err := dsn.Parse(body)
	return &comeBack{notification: n}, err
}

// takeBack takes note of a bounce, or of a complaint, about what was sent.
func (r *run) takeBack(ctx context.Context, d *delivery, i int) result {
	about, err := r.returns.verp.Decode(d.env.Recipients[i].Address)
	if err != nil {
		return refusal(&Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "No such mailbox here"})
	}
	if d.comeBack == nil { // for the first of its recipients
		said, err := readComeBack(d.body)
		if err != nil {
			return result{said: err.Error(), reply: unreadable()}
		}
		d.comeBack = said
	}
	if c := d.comeBack.complaint; c != nil {
		return noted(r.complaint(ctx, about, c), "taken as a complaint")
	}
	n := d.comeBack.notification
	switch n.Kind {
	case dsn.Bounce:
		err = r.bounce(ctx, about, n)
	case dsn.Success:
		_, err = r.amend(ctx, about, func(a *state) (step, bool) {
			if a.State != sent {
				return step{}, false
			}
			a.State = delivered
			return step{Kind: EventDelivered, Text: "its server says that it is delivered"}, true
		}, nil)
	case dsn.Delay:
		_, err = r.amend(ctx, about, func(a *state) (step, bool) {
			if a.Delayed {
				return step{}, false // it has been told before
			}
			a.Delayed = true
			return step{Kind: EventDelayed, Text: firstDiagnostic(n)}, true
		}, nil)
	}
	return noted(err, "taken as a notification")
}

// noted is what the server of a bounce is told.
func noted(err error, said string) result {
	if err != nil {
		return result{said: err.Error(), reply: unreadable()}
	}
	return taken(said)
}

func unreadable() *Reply {
	return &Reply{Code: 451, Enhanced: [3]int{4, 3, 0}, Text: "The message could not be read, try again later"}
}

// firstDiagnostic is what a notification says of the recipient it is about: an
// address for bounces is given to one alone.
func firstDiagnostic(n *dsn.Notification) string {
	if len(n.Recipients) == 0 {
		return ""
	}
	return n.Recipients[0].Diagnostic
}

// bounce takes note that a server which had taken a message could not keep it.
func (r *run) bounce(ctx context.Context, about bounceaddr.Bounce, n *dsn.Notification) error {
	var class dsn.Class
	said, status := "", ""
	if len(n.Recipients) > 0 {
		rcpt := n.Recipients[0]
		class, said, status = dsn.Classify(rcpt.Failure()), rcpt.Diagnostic, rcpt.Status
	}
	said = valueOr(said, "a bounce that does not say why")
	var of state
	address, err := r.amend(ctx, about, func(a *state) (step, bool) {
		if a.State == bounced {
			return step{}, false // it has been told before
		}
		a.State, a.At, a.Reply, a.Status = bounced, r.s.now(), clip(said), status
		of = *a
		return step{Kind: EventBounced, Text: said, Host: n.ReportingMTA}, true
	}, func(e *Event) { e.Status, e.Class = status, className(class) })
	if address != "" {
		r.s.stats.bounced.Add(1)
		r.sources.Report(of.Source, of.Provider, failureOf(class, true), 1)
		r.suppressBounce(address, class, said)
	}
	return err
}

// suppressBounce keeps an address that there is not from being sent to again.
func (r *run) suppressBounce(address string, class dsn.Class, said string) {
	if class.Severity != dsn.Hard {
		return
	}
	r.suppress(Suppression{Address: address, Reason: SuppressedBounce, Detail: clip(said)})
}

func (r *run) suppress(s Suppression) {
	if err := r.suppressions.Add(s); err != nil {
		r.s.log.Error("an address could not be put on the suppression list", "recipient", s.Address, "err", err)
	}
}

// complaint takes note that a recipient has called a message spam.
func (r *run) complaint(ctx context.Context, about bounceaddr.Bounce, c *dsn.Complaint) error {
	switch c.Type {
	case "abuse", "fraud", "opt-out":
	default: // a report of another kind, or that it is no spam
		return nil
	}
	var of state
	address, err := r.amend(ctx, about, func(a *state) (step, bool) {
		if a.Complained {
			return step{}, false // one reader is one complaint
		}
		a.Complained = true
		of = *a
		return step{Kind: EventComplained, Text: "called " + c.Type + " by its recipient"}, true
	}, func(e *Event) { e.Reason = c.Type })
	if address != "" {
		r.s.stats.complaints.Add(1)
		r.sources.Report(of.Source, of.Provider, warmup.Complaint, 1)
		r.suppress(Suppression{Address: address, Reason: SuppressedComplaint, Detail: clip(c.Type)})
	}
	return err
}

func className(c dsn.Class) string {
	switch c.Severity {
	case dsn.Hard:
		return "hard"
	case dsn.Soft:
		return "soft"
	case dsn.Block:
		return "block"
	}
	return ""
}

// amend changes what is known of a recipient of a message that was sent, tells of
// it, and returns the recipient's address; "" if nothing was changed. It also
// works while the message is still in the spool for others; the error is that it
// cannot be had now.
func (r *run) amend(ctx context.Context, about bounceaddr.Bounce, change func(*state) (step, bool), more func(*Event)) (address string, err error) {
	var e Event
	err = r.edit(ctx, about.ID, func(env *queued, p *progress) bool {
		if about.Recipient < 0 || about.Recipient >= len(p.Recipients) {
			return false
		}
		s, ok := change(&p.Recipients[about.Recipient])
		if !ok {
			return false
		}
		s.At, s.Recipients = r.s.now(), some(about.Recipient, len(p.Recipients))
		p.note(s)
		address = env.Recipients[about.Recipient].Address
		e = env.event(about.ID, about.Recipient)
		e.Kind, e.Reason = s.Kind, s.Text
		if more != nil {
			more(&e)
		}
		return true
	})
	if e.Kind != "" { // it is noted by now
		r.s.event(e)
	}
	if errors.Is(err, ErrNotFound) {
		r.s.log.Info("a notification is about a message that is no longer known", "msg_id", about.ID)
		err = nil
	}
	return address, err
}
