package dcrouter

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/opsapi"
)

// mailEvents is the topic of the operations API's events of the mail system.
const mailEvents = "mail"

// mailEvent counts abuse of mail, and shows the operations API what happens to it.
func (r *Router) mailEvent(e email.Event) {
	if e.Security {
		r.mailMisdeed(e)
	}
	if r.ops == nil {
		return
	}
	if e.Security {
		subject := e.From
		if len(e.Recipients) > 0 {
			subject = e.Recipients[0]
		}
		r.reportCause(opsapi.SecurityEvent{
			Time: e.Time, Kind: "mail_" + strings.ReplaceAll(e.Kind, "-", "_"), Component: "email", Severity: opsapi.SeverityWarning,
			Address: e.Client, Subject: cmp.Or(e.User, subject), Message: e.Reason, Correlation: e.ConnID,
		}, e.Cause)
		return
	}
	if e.Kind == email.EventConnected {
		return // there are too many, and nobody looks for one
	}
	if err := r.ops.Publish(mailEvents, e); err != nil {
		r.log.Debug("an event of mail is not shown", "component", "ops", "err", err)
	}
}

// opsMail is the mail system for the operations API.
type opsMail struct{ server *email.Server }

// mailError knows messages that there are not.
func mailError(err error) error {
	if errors.Is(err, email.ErrNotFound) {
		return fmt.Errorf("%w: %w", err, opsapi.ErrNotFound)
	}
	return err
}

func (m opsMail) Messages(ctx context.Context, state string, p opsapi.Page) ([]opsapi.QueuedMessage, string, error) {
	found := page[opsapi.QueuedMessage]{p: p}
	var errs []error
	for q, err := range m.server.Queue(ctx) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		one := queuedMessage(q)
		text := []string{one.ID, one.ConnID, one.From}
		for _, r := range one.Recipients {
			text = append(text, r.Address)
		}
		if state == "" || state == one.State {
			found.add(one.ID, one, text...)
		}
	}
	list, next := found.result()
	if len(list) > 0 { // the others are there all the same
		return list, next, nil
	}
	return nil, "", errors.Join(errs...)
}

func queuedMessage(q email.QueuedMessage) opsapi.QueuedMessage {
	m := opsapi.QueuedMessage{ID: q.ID, ConnID: q.ConnID, From: q.From, Size: q.Size, Arrived: q.Arrived, Next: q.Next, Tries: q.Tries, State: opsapi.StateQueued}
	pending := false
	for _, r := range q.Recipients {
		if r.State == "" {
			r.State, pending = "pending", true
		}
		m.Recipients = append(m.Recipients, opsapi.QueuedRecipient(r))
	}
	switch {
	case q.Quarantine != "":
		m.State, m.Reason = opsapi.StateQuarantine, q.Quarantine
	case !pending:
		m.State = opsapi.StateFailed
	case q.Tries > 0 || q.Stuck:
		m.State = opsapi.StateDeferred
	}
	if q.Stuck && m.Reason == "" {
		m.Reason = "no route takes it any more"
	}
	return m
}

func (m opsMail) Message(ctx context.Context, id string) (opsapi.MessageDetail, error) {
	st, err := m.server.EmailStatus(ctx, id)
	if err != nil {
		return opsapi.MessageDetail{}, mailError(err)
	}
	d := opsapi.MessageDetail{Timeline: []opsapi.MessageEvent{{Time: st.Arrived, Kind: email.EventReceived, Text: "from " + strconv.Quote(st.From)}}}
	for _, t := range st.Timeline {
		e := opsapi.MessageEvent{Time: t.Time, Kind: t.Kind, Recipient: strings.Join(t.Recipients, ", "), Host: t.Host, Text: t.Text}
		for _, more := range [][2]string{{"at", t.Addr}, {"from", t.Source}, {"by", t.TLS}} {
			if more[1] != "" {
				e.Text = strings.TrimPrefix(e.Text+"; "+more[0]+" "+more[1], "; ")
			}
		}
		d.Timeline = append(d.Timeline, e)
	}
	q, content, err := m.server.Queued(ctx, id)
	if errors.Is(err, email.ErrNotFound) {
		return d, nil // it has left the spool, and is remembered
	}
	if err != nil {
		return opsapi.MessageDetail{}, mailError(err)
	}
	defer content.Close()
	one := queuedMessage(q)
	d.Message = &one
	d.Headers, err = readHeader(content)
	return d, err
}

// readHeader reads the header of a message.
func readHeader(content io.Reader) (string, error) {
	var header strings.Builder
	lines := bufio.NewReader(io.LimitReader(content, maxShownHeader))
	for {
		line, err := lines.ReadString('\n')
		if strings.TrimRight(line, "\r\n") == "" {
			return strings.ToValidUTF8(header.String(), "\uFFFD"), nil
		}
		header.WriteString(line)
		if errors.Is(err, io.EOF) {
			return strings.ToValidUTF8(header.String(), "\uFFFD"), nil
		}
		if err != nil {
			return "", err
		}
	}
}

func (m opsMail) Retry(ctx context.Context, id string) error {
	return mailError(m.server.Retry(ctx, id))
}
func (m opsMail) Drop(ctx context.Context, id string) error { return mailError(m.server.Drop(ctx, id)) }
func (m opsMail) Release(ctx context.Context, id string) error {
	return mailError(m.server.Release(ctx, id))
}
func (m opsMail) Quarantine(ctx context.Context, id, reason string) error {
	return mailError(m.server.Quarantine(ctx, id, reason))
}

// opsSuppression is the mail system's suppression list for the operations API.
type opsSuppression struct{ server *email.Server }

func (o opsSuppression) list() (*email.SuppressionList, error) {
	if l := o.server.Suppressions(); l != nil {
		return l, nil
	}
	return nil, email.ErrNotRunning
}

func (o opsSuppression) Suppressed(_ context.Context, p opsapi.Page) (list []opsapi.Suppressed, next string, err error) {
	l, err := o.list()
	if err != nil {
		return nil, "", err
	}
	for s := range l.All(email.SuppressionQuery{After: p.After}) {
		if !matches(p.Search, s.Address, string(s.Reason), s.Detail) {
			continue
		}
		if len(list) == p.Limit {
			return list, list[len(list)-1].Address, nil
		}
		list = append(list, opsapi.Suppressed{Address: s.Address, Reason: string(s.Reason), Detail: s.Detail, Since: s.Added, Expires: s.Expires})
	}
	return list, "", nil
}

func (o opsSuppression) Suppress(ctx context.Context, s opsapi.Suppressed) error {
	l, err := o.list()
	if err != nil {
		return err
	}
	if err := l.Add(email.Suppression{Address: s.Address, Reason: email.SuppressedManual, Detail: s.Reason, Added: s.Since, Expires: s.Expires}); err != nil {
		return err
	}
	return l.Flush(ctx)
}

func (o opsSuppression) Unsuppress(ctx context.Context, address string) error {
	l, err := o.list()
	if err != nil {
		return err
	}
	was, err := l.Remove(address)
	if err == nil && !was {
		err = fmt.Errorf("%q is not on the list: %w", address, opsapi.ErrNotFound)
	}
	if err != nil {
		return err
	}
	return l.Flush(ctx)
}

// opsDomains tells the operations API about mail domains.
type opsDomains struct{ server *email.Server }

func (o opsDomains) MailDomains(context.Context) ([]opsapi.MailDomain, error) {
	var list []opsapi.MailDomain
	for _, d := range o.server.Domains() {
		one := opsapi.MailDomain{Domain: d.Domain, Mode: d.Mode, Ready: d.OK}
		for _, r := range d.Records {
			state := r.State
			if state == email.RecordWrong {
				state = "differs"
			}
			one.Records = append(one.Records, opsapi.MailRecord{Name: r.Name, Type: r.Type, Value: r.Value, State: state, Found: r.Found})
		}
		list = append(list, one)
	}
	return list, nil
}
