package email

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Server that is stopped at any moment, patiently or not, and started again has
// brought every message that it accepted to where it goes.
func TestStopsLoseNothing(t *testing.T) {
	m := newMailbox(nil)
	next := start(t, Config{Routes: toMailboxes}, WithMailbox(m.take))
	here := newMailbox(nil)
	cfg := Config{DataPath: t.TempDir(), Queue: Queue{RetryDelay: time.Millisecond}, Routes: routes(t, `[
		`+forwardTo(t, next, `,"queue":true`)+`,{"name":"now","priority":2,"match":{"recipients":"now@example.com"},"action":`+actionOf(t, next)+`},
		{"name":"here","priority":1,"match":{"recipients":"here@example.com"},"action":{"type":"deliver"}}]`)}
	var mu sync.Mutex
	accepted := make(map[string]int) // recipients by subject
	for round := range 8 {
		s := start(t, cfg, WithMailbox(here.take))
		s.impatient = true
		enough := make(chan struct{}, 1000)
		var clients sync.WaitGroup
		for n := range 4 {
			clients.Go(func() {
				for i := 0; ; i++ {
					subject := fmt.Sprintf("%d-%d-%d", round, n, i)
					rcpts := [][]string{{"b", "here"}, {"now"}, {"b", "c", "here"}, {"here"}}[(n+i)%4]
					if !sendOnce(s.Server, subject, rcpts) {
						return
					}
					mu.Lock()
					accepted[subject] = len(rcpts)
					mu.Unlock()
					enough <- struct{}{}
				}
			})
		}
		for range round * 4 {
			<-enough
		}
		ctx, cancel := context.WithCancel(t.Context())
		if round%3 == 0 {
			cancel() // no patience at all
		}
		s.Stop(ctx)
		cancel()
		clients.Wait()
	}
	s := start(t, cfg, WithMailbox(here.take))
	t.Cleanup(func() {
		if t.Failed() {
			for q, err := range s.Queue(context.Background()) {
				t.Logf("still there: %+v, %v", q, err)
			}
		}
	})
	waitFor(t, func() bool { return s.Stats().Spool.Messages == 0 })
	got := make(map[string]map[string]bool)
	for _, g := range append(m.all(), here.all()...) {
		_, subject, _ := strings.Cut(g.content, "\r\nSubject: ")
		subject, _, _ = strings.Cut(subject, "\r\n")
		if got[subject] == nil {
			got[subject] = make(map[string]bool)
		}
		got[subject][g.Recipient] = true
	}
	for subject, n := range accepted {
		if len(got[subject]) != n {
			t.Errorf("message %s is accepted for %d and delivered to %v", subject, n, got[subject])
		}
	}
	t.Logf("%d messages accepted", len(accepted))
}

// What a mailbox takes at the very end is gone from the spool, and does not come
// twice.
func TestDeliveredAtTheLastMoment(t *testing.T) {
	cfg := Config{DataPath: t.TempDir(), Queue: Queue{RetryDelay: time.Millisecond}, Routes: toMailboxes}
	retried := make(chan struct{})
	tries := 0
	s := start(t, cfg, WithMailbox(func(ctx context.Context, d *Delivery) error {
		if d.Recipient != "b@example.com" {
			return nil
		}
		if tries++; tries == 1 {
			return errors.New("down")
		}
		close(retried)
		<-ctx.Done()
		return nil
	}))
	s.impatient = true
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<c@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	c.say("QUIT", "221")
	<-retried
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s = start(t, cfg, WithMailbox(func(_ context.Context, d *Delivery) error {
		t.Errorf("%s gets it again", d.Recipient)
		return nil
	}))
	if st := s.Stats().Spool; st.Messages != 0 {
		t.Errorf("%+v", st)
	}
}

// actionOf forwards to a server under test while the client waits.
func actionOf(t testing.TB, next *server) string {
	return fmt.Sprintf(`{"type":"forward","forward":{"host":"127.0.0.1","port":%d}}`, portOf(next.Addrs()[0]))
}

// sendOnce sends a message in a session of its own and reports whether it was
// accepted.
func sendOnce(s *Server, subject string, rcpts []string) bool {
	addrs := s.Addrs()
	if len(addrs) == 0 {
		return false
	}
	conn, err := net.Dial("tcp", addrs[0].String())
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	commands := []string{"", "HELO client.example.net\r\n", "MAIL FROM:<a@example.net>\r\n"}
	for _, r := range rcpts {
		commands = append(commands, "RCPT TO:<"+r+"@example.com>\r\n")
	}
	commands = append(commands, "DATA\r\n", "From: a@example.net\r\nSubject: "+subject+"\r\n\r\nHi\r\n.\r\n")
	for _, command := range commands {
		io.WriteString(conn, command)
		if line, err := in.ReadString('\n'); err != nil || line[0] > '3' {
			return false
		}
	}
	return true
}
