package soak

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/smtp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// mailBook has the mail that the gateway has accepted.
type mailBook struct {
	last atomic.Int64
	mu   sync.Mutex
	// accepted mail has to arrive.
	accepted map[string]time.Time
	// unsure are those whose 250 did not come: they may arrive.
	unsure map[string]bool
}

// body is some lines of text.
func body() []byte {
	var b strings.Builder
	for range 1 + rand.IntN(200) {
		b.WriteString(strings.Repeat("soak ", rand.IntN(12)))
		b.WriteString("\r\n")
	}
	return []byte(b.String())
}

// connect begins a session.
func (w *world) connect(ctx context.Context, port int) (*smtp.Client, error) {
	c, err := dial(ctx, port)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(requestTime))
	client, err := smtp.NewClient(c, "mx."+zone)
	if err != nil {
		c.Close()
		return nil, err
	}
	if err := client.Hello("mx.sender.test"); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// signIn begins a session of a user.
func (w *world) signIn(ctx context.Context) (*smtp.Client, error) {
	c, err := w.connect(ctx, w.submission)
	if err != nil {
		return nil, err
	}
	if err := c.StartTLS(&tls.Config{ServerName: "mx." + zone, RootCAs: w.trusted()}); err != nil {
		c.Close()
		return nil, err
	}
	if state, ok := c.TLSConnectionState(); ok {
		w.serials.note("mx."+zone, state)
	}
	if err := c.Auth(smtp.PlainAuth("", "app@"+zone, secret, "mx."+zone)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// send hands a message in and notes it if it is accepted.
func (b *mailBook) send(c *smtp.Client, from, to string) error {
	defer c.Close()
	id := fmt.Sprint(b.last.Add(1))
	if err := errors.Join(c.Mail(from), c.Rcpt(strings.ReplaceAll(to, "ID", id))); err != nil {
		return err
	}
	data, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := data.Write(compose(id, from, to, body())); err != nil {
		return err
	}
	begin := time.Now()
	err = data.Close()
	b.mu.Lock()
	if err == nil {
		b.accepted[id] = begin
	} else {
		b.unsure[id] = true
	}
	b.mu.Unlock()
	if err != nil {
		return err
	}
	_ = c.Quit() // the mail is in
	return nil
}

// relayed is mail from another server.
func (w *world) relayed(ctx context.Context, b *mailBook, to string) error {
	c, err := w.connect(ctx, w.smtp)
	if err != nil {
		return err
	}
	return b.send(c, "someone@sender.test", to)
}

// submitted is mail of a user.
func (w *world) submitted(ctx context.Context, b *mailBook, to string) error {
	c, err := w.signIn(ctx)
	if err != nil {
		return err
	}
	return b.send(c, "app@"+zone, to)
}

// missing are the accepted messages that have not arrived yet.
func (b *mailBook) missing(s *sink) (ids []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range b.accepted {
		if s.arrived[id] == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// report compares what was accepted with what has arrived.
func (b *mailBook) report(s *sink, start time.Time, queued int) (text string, problems []string) {
	lost := b.missing(s)
	b.mu.Lock()
	defer b.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	arrived, doubled := 0, 0
	for id, n := range s.arrived {
		arrived++
		if n > 1 {
			doubled++
			if !s.cut[id] {
				problems = append(problems, fmt.Sprintf("message %s has come %d times, though nobody cut the answer", id, n))
			}
		}
		if _, ok := b.accepted[id]; !ok && !b.unsure[id] {
			problems = append(problems, fmt.Sprintf("message %q has arrived, which nobody sent", id))
		}
	}
	for _, id := range lost {
		problems = append(problems, fmt.Sprintf("message %s is lost, accepted %.3fs after the start", id, b.accepted[id].Sub(start).Seconds()))
	}
	problems = append(problems, s.damaged...)
	return fmt.Sprintf("mail: %d accepted, %d arrived (of these %d without a 250 to the client), %d of them more than once, answers cut %d, in the queue at the stop %d, lost %d",
		len(b.accepted), arrived, arrived-(len(b.accepted)-len(lost)), doubled, len(s.cut), queued, len(lost)), problems
}
