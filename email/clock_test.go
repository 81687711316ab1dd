package email

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/smtp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// network connects servers without a real one, so that the clock of synctest can
// run forward: a connection to an address is served by the server that is there.
type network struct {
	mu      sync.Mutex
	servers map[string]*Server // by IP address
	dials   []time.Time
}

func (n *network) dial(ctx context.Context, source netip.Addr, _, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials = append(n.dials, time.Now())
	s := n.servers[host]
	if s == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	if !source.IsValid() {
		source = netip.MustParseAddr("192.0.2.1")
	}
	ours, theirs := net.Pipe()
	go s.ServeConn(context.WithoutCancel(ctx), theirs, SMTP, ConnInfo{Client: netip.AddrPortFrom(source, 30000), Local: netip.MustParseAddrPort(host + ":25")})
	return ours, nil
}

// hosts is a resolver: each domain in it has its mail at the address.
type hosts map[string]string

func (h hosts) LookupTXT(_ context.Context, name string) ([]string, error) {
	return nil, noDNS{}.err(name)
}

func (h hosts) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	name = strings.TrimSuffix(name, ".")
	if h[name] == "" {
		return nil, noDNS{}.err(name)
	}
	return []*net.MX{{Host: "mx." + name + ".", Pref: 10}}, nil
}

func (h hosts) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	ip := h[strings.TrimPrefix(strings.TrimSuffix(name, "."), "mx.")]
	if ip == "" {
		return nil, noDNS{}.err(name)
	}
	return []net.IPAddr{{IP: net.ParseIP(ip)}}, nil
}

func (h hosts) LookupAddr(_ context.Context, addr string) ([]string, error) {
	return nil, noDNS{}.err(addr)
}

// inBubble starts a server in the bubble of a synctest. Its mail comes through
// ServeConn, and leaves through n.
func inBubble(t *testing.T, n *network, cfg Config, opts ...Option) *server {
	t.Helper()
	cfg.UseSocketHandler = true
	cfg.Ports = Ports(25)
	cfg.Hostname = "mx." + cfg.Domains[0].Domain
	s := &server{t: t}
	all := []Option{WithLogger(slog.New(slog.NewTextHandler(testLog{t}, nil))), WithDialer(n.dial), WithHooks(Hooks{OnEvent: s.note})}
	var err error
	if s.Server, err = New(cfg, append(all, opts...)...); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) stop() {
	s.t.Helper()
	if err := s.Stop(context.Background()); err != nil {
		s.t.Errorf("Stop: %v", err)
	}
}

// inject sends a message to the server as a client at that address.
func (n *network) inject(t *testing.T, to *server, client, from, rcpt, content string) {
	t.Helper()
	ours, theirs := net.Pipe()
	go to.ServeConn(context.Background(), theirs, SMTP, ConnInfo{Client: netip.MustParseAddrPort(client + ":30000")})
	c, err := smtp.NewClient(ours, "mx")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Hello("client.example.net"), c.Mail(from), c.Rcpt(rcpt)); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c.Quit()
}

// relay is the configuration of a server that takes mail for a domain, and sends
// on what a client in 10.0.0.0/8 brings.
func relay(domain string) Config {
	return Config{
		Domains: []Domain{{Domain: domain}},
		Routes: []Route{
			{Name: "in", Match: Match{Recipients: []string{"*@" + domain}}, Action: Action{Type: Deliver}},
			{Name: "out", Match: Match{ClientIP: []string{"10.0.0.0/8"}}, Action: Action{Type: Process}},
		},
	}
}

const toB = "From: user@a.example\r\nTo: user@b.example\r\nSubject: hi\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@a.example>\r\n\r\nHello."

// A server that says "later" for ever gets the message again and again, less and
// less often; its sender is told after four hours that it is late, and after five
// days that it failed.
func TestFiveDaysOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}
		inbox := newMailbox(nil)
		a := inBubble(t, n, relay("a.example"), WithResolver(dns), WithMailbox(inbox.take))
		defer a.stop()
		b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(newMailbox(nil).take), WithHooks(Hooks{
			OnRcpt: func(context.Context, *Envelope, string) error {
				return &Reply{Code: 450, Enhanced: [3]int{4, 2, 1}, Text: "Not today"}
			},
		}))
		defer b.stop()
		n.servers["192.0.2.2"] = b.Server

		begin := time.Now()
		n.inject(t, a, "10.0.0.1", "user@a.example", "user@b.example", toB)
		time.Sleep(3*time.Hour + 50*time.Minute)
		if got := inbox.all(); len(got) != 0 {
			t.Fatalf("the sender was told too early:\n%s", got[0].content)
		}
		var id string
		for m, err := range a.Queue(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			id = m.ID
		}
		st, err := a.EmailStatus(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if st.Status != StatusPending || st.Tries < 5 || st.Recipients[0].Code != "4.2.1" || !st.Next.After(time.Now()) {
			t.Errorf("on the way: %+v", st)
		}
		time.Sleep(5 * time.Hour)
		got := inbox.all()
		if len(got) != 1 || !strings.Contains(got[0].content, "Action: delayed") || !strings.Contains(got[0].content, "Not today") {
			t.Fatalf("%d messages after nine hours: %+v", len(got), got)
		}
		time.Sleep(5 * 24 * time.Hour)
		got = inbox.all()
		if len(got) != 2 {
			t.Fatalf("%d messages after five days", len(got))
		}
		for _, want := range []string{"Action: failed", "Status: 4.2.1", "Final-Recipient: rfc822;user@b.example", "Not today", "Subject: hi", "Auto-Submitted: auto-replied"} {
			if !strings.Contains(got[1].content, want) {
				t.Errorf("%q is missing in\n%s", want, got[1].content)
			}
		}
		if got[1].From != "" || got[1].Recipient != "user@a.example" {
			t.Errorf("the bounce is from %q to %q", got[1].From, got[1].Recipient)
		}
		first, last := n.dials[0].Sub(begin), n.dials[len(n.dials)-1].Sub(begin)
		if first > time.Second || last < 5*24*time.Hour || last > 5*24*time.Hour+time.Minute || len(n.dials) < 25 || len(n.dials) > 50 {
			t.Errorf("%d tries, the first after %v and the last after %v", len(n.dials), first, last)
		}
		for i := 2; i < len(n.dials); i++ {
			if gap := n.dials[i].Sub(n.dials[i-1]); gap > maxRetryDelay*12/10 {
				t.Errorf("try %d came after %v", i, gap)
			}
		}
		st, err = a.EmailStatus(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if st.Status != StatusBounced || len(st.Timeline) == 0 || st.Skipped == 0 {
			t.Errorf("in the end: %v, %d steps", st, len(st.Timeline))
		}
		for m := range a.Queue(t.Context()) {
			t.Errorf("still in the spool: %+v", m)
		}
	})
}

// Nobody is told of a bounce that bounces: it stays for somebody to look at, and
// goes in the end.
func TestNoBounceToTheNullSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		inbox := newMailbox(nil)
		a := inBubble(t, n, relay("a.example"), WithResolver(hosts{"b.example": "192.0.2.2"}), WithMailbox(inbox.take))
		defer a.stop()
		n.inject(t, a, "10.0.0.1", "", "user@b.example", toB)
		time.Sleep(6 * 24 * time.Hour)
		kept := 0
		for m, err := range a.Queue(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			kept++
			if m.Recipients[0].State != failed {
				t.Errorf("kept as %+v", m)
			}
		}
		if kept != 1 || len(inbox.all()) != 0 {
			t.Errorf("%d kept, %d bounces", kept, len(inbox.all()))
		}
		time.Sleep(defaultKeepHeld)
		for m := range a.Queue(t.Context()) {
			t.Errorf("kept for ever: %+v", m)
		}
	})
}

// What is accepted goes by the schedule that held then.
func TestScheduleOfAMessageStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		cfg := relay("a.example")
		cfg.DataPath = t.TempDir()
		never := 0
		cfg.Queue.MaxAge = time.Hour
		a := inBubble(t, n, cfg, WithResolver(hosts{"b.example": "192.0.2.2"}))
		n.inject(t, a, "10.0.0.1", "user@a.example", "user@b.example", toB)
		synctest.Wait()
		a.stop()
		cfg.Queue.MaxAge, cfg.Queue.MaxRetries = 0, &never
		a = inBubble(t, n, cfg, WithResolver(hosts{"b.example": "192.0.2.2"}))
		defer a.stop()
		time.Sleep(50 * time.Minute)
		if e := a.seen(EventFailed); len(e) != 0 {
			t.Errorf("given up by the new schedule: %+v", e)
		}
		time.Sleep(time.Hour)
		if e := a.seen(EventFailed); len(e) != 1 {
			t.Errorf("%d given up by the old schedule, 1 wanted", len(e))
		}
	})
}

// A site that is down does not keep mail to others, and its mail is not tried a
// thousand times.
func TestADeadSiteHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"b.example": "192.0.2.2", "dead.example": "192.0.2.3"}
		a := inBubble(t, n, relay("a.example"), WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		inbox := newMailbox(nil)
		b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(inbox.take))
		defer b.stop()
		n.servers["192.0.2.2"] = b.Server
		for i := range 200 {
			n.inject(t, a, "10.0.0.1", "user@a.example", fmt.Sprintf("u%d@dead.example", i), toB)
		}
		n.inject(t, a, "10.0.0.1", "user@a.example", "user@b.example", toB)
		time.Sleep(time.Second)
		if len(inbox.all()) != 1 {
			t.Error("mail to another site was held up")
		}
		if len(n.dials) > 20 {
			t.Errorf("%d connections to a dead site", len(n.dials))
		}
		st := a.Stats().Deliveries
		if len(st.Sites) != 1 || st.Sites[0].Rest.IsZero() || !strings.Contains(st.Sites[0].Why, "refused") {
			t.Errorf("sites: %+v", st.Sites)
		}
		dead := inBubble(t, n, relay("dead.example"), WithResolver(dns), WithMailbox(inbox.take))
		defer dead.stop()
		n.mu.Lock()
		n.servers["192.0.2.3"] = dead.Server
		n.mu.Unlock()
		time.Sleep(2 * time.Hour)
		if got := len(inbox.all()); got != 201 {
			t.Errorf("%d of 201 messages arrived", got)
		}
	})
}

// A new address sends what its schedule allows from day to day, and the rest
// waits.
func TestWarmUpOverThirtyDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"b.example": "192.0.2.2"}
		cfg := relay("a.example")
		cfg.Queue.MaxAge = 60 * 24 * time.Hour
		cfg.Queue.DelayNotice = -1
		schedule := make([]int, 30)
		for day := range schedule {
			schedule[day] = 10 + 2*day
		}
		cfg.Outbound.WarmUp = WarmUp{
			Schedule:  schedule,
			Providers: []MailProvider{{Name: "b", MX: []string{"mx.b.example"}, Share: 1}},
			Pools:     []SourcePool{{Name: "new", Addresses: []SourceAddress{{Address: "192.0.2.77", HELO: "out.a.example"}}}},
		}
		a := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		var mu sync.Mutex
		perDay := make(map[int]int)
		begin := time.Now().Truncate(24 * time.Hour)
		b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(func(_ context.Context, d *Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			perDay[int(time.Since(begin)/(24*time.Hour))]++
			if d.Client.Addr.String() != "192.0.2.77" || d.Client.Helo != "out.a.example" {
				t.Errorf("from %v, %q", d.Client.Addr, d.Client.Helo)
			}
			return nil
		}))
		defer b.stop()
		n.servers["192.0.2.2"] = b.Server
		const messages = 1100 // less than 30 days allow: 1170
		for i := range messages {
			n.inject(t, a, "10.0.0.1", "user@a.example", fmt.Sprintf("u%d@b.example", i), toB)
		}
		time.Sleep(31 * 24 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		sum := 0
		for day := range 32 {
			sum += perDay[day]
			if day < len(schedule) && perDay[day] > schedule[day] {
				t.Errorf("%d messages on day %d, %d allowed", perDay[day], day, schedule[day])
			}
		}
		if sum != messages {
			t.Errorf("%d of %d messages arrived: %v", sum, messages, perDay)
		}
	})
}

// What exceeds a limit is sent when there is room again, and does not count as
// tried.
func TestOutboundLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := relay("a.example")
		cfg.Domains[0].RateLimits.Outbound.MessagesPerHour = 20
		n, a, inbox := limited(t, cfg)
		for i := range 50 {
			n.inject(t, a, "10.0.0.1", "user@a.example", fmt.Sprintf("u%d@b.example", i), toB)
		}
		time.Sleep(50 * time.Minute)
		if got := len(inbox.all()); got != 20 {
			t.Errorf("%d messages in the first hour, 20 allowed", got)
		}
		for m := range a.Queue(t.Context()) {
			if m.Tries != 0 {
				t.Errorf("a message that waits counts as tried %d times", m.Tries)
			}
		}
		time.Sleep(3 * time.Hour)
		if got := len(inbox.all()); got != 50 {
			t.Errorf("%d of 50 messages after some hours", got)
		}
	})
}

// limited is a server with limits for what it sends, and the mailboxes of the one
// that it sends to.
func limited(t *testing.T, cfg Config) (n *network, a *server, inbox *mailboxes) {
	t.Helper()
	n = &network{servers: map[string]*Server{}}
	dns := hosts{"b.example": "192.0.2.2"}
	a = inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
	t.Cleanup(a.stop)
	inbox = newMailbox(nil)
	b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(inbox.take))
	t.Cleanup(b.stop)
	n.servers["192.0.2.2"] = b.Server
	return n, a, inbox
}

// published is hosts with the TXT records that servers want for their domains.
type published struct {
	hosts
	mu      sync.Mutex
	servers []*server
}

func (p *published) add(s *server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers = append(p.servers, s)
}

func (p *published) LookupTXT(_ context.Context, name string) ([]string, error) {
	p.mu.Lock()
	servers := p.servers
	p.mu.Unlock()
	var list []string
	for _, s := range servers {
		for _, d := range s.Domains() {
			for _, r := range d.Records {
				if r.Type == "TXT" && r.Name == strings.TrimSuffix(name, ".") {
					list = append(list, r.Value)
				}
			}
		}
	}
	if len(list) == 0 {
		return nil, noDNS{}.err(name)
	}
	return list, nil
}

// pair is a server that sends and one that takes its mail, in a bubble.
func pair(t *testing.T, mailbox Mailbox, opts ...Option) (n *network, a, b *server, inbox *mailboxes) {
	t.Helper()
	n = &network{servers: map[string]*Server{}}
	dns := &published{hosts: hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2", "c.example": "192.0.2.3"}}
	cfg := relay("a.example")
	cfg.Domains[0].DKIM.KeySize = 1024 // quicker
	inbox = newMailbox(nil)
	a = inBubble(t, n, cfg, append([]Option{WithResolver(dns), WithMailbox(inbox.take)}, opts...)...)
	t.Cleanup(a.stop)
	b = inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(mailbox))
	t.Cleanup(b.stop)
	dns.add(a)
	n.mu.Lock()
	n.servers["192.0.2.1"], n.servers["192.0.2.2"] = a.Server, b.Server
	n.mu.Unlock()
	time.Sleep(3 * time.Hour) // until keys are in use
	return n, a, b, inbox
}

var hello = Email{
	From: "Ann <ann@a.example>", To: []string{"Bob <bob@b.example>"}, Bcc: []string{"carol@b.example"},
	Subject: "Grüße", Text: "Hello Bob.", HTML: "<p>Hello <b>Bob</b>.</p>", Metadata: map[string]string{"order": "17"},
}

// A message of the host arrives signed, and its status and events say so.
func TestSendEmail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := newMailbox(nil)
		_, a, _, _ := pair(t, got.take)
		id, err := a.SendEmail(t.Context(), hello)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		mail := got.all()
		if len(mail) != 2 {
			t.Fatalf("%d messages arrived", len(mail))
		}
		for _, m := range mail {
			if !strings.HasPrefix(m.From, "bounce+") || !strings.HasSuffix(m.From, "@a.example") {
				t.Errorf("the envelope is from %q", m.From)
			}
			for _, want := range []string{"dkim=pass", "header.d=a.example", "dmarc=pass", "spf="} {
				if !strings.Contains(m.Authentication, want) {
					t.Errorf("%q is missing in %q", want, m.Authentication)
				}
			}
			if strings.Contains(m.content, "carol") && m.Recipient != "carol@b.example" || strings.Count(m.content, "DKIM-Signature:") != 2 {
				t.Errorf("to %s:\n%s", m.Recipient, m.content)
			}
		}
		st, err := a.EmailStatus(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if st.Status != StatusDelivered || st.Subject != "Grüße" || st.Metadata["order"] != "17" || len(st.Recipients) != 2 ||
			st.Recipients[0].Host != "mx.b.example" || st.Recipients[1].At.IsZero() || len(st.Timeline) < 2 {
			t.Errorf("%+v", st)
		}
		events := a.seen(EventDelivered)
		if len(events) != 2 || events[0].MessageID != id || events[0].Metadata["order"] != "17" {
			t.Errorf("%+v", events)
		}
		if _, err := a.EmailStatus(t.Context(), "nothing"); !errors.Is(err, ErrNotFound) {
			t.Errorf("of a message that there is not: %v", err)
		}
		later := hello
		later.SendAt = time.Now().Add(time.Hour)
		if id, err = a.SendEmail(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if st, err := a.EmailStatus(t.Context(), id); err != nil || st.Status != StatusPending || len(got.all()) != 2 {
			t.Errorf("before its time: %v, %v", st, err)
		}
		time.Sleep(2 * time.Minute)
		if len(got.all()) != 4 {
			t.Error("it did not go at its time")
		}
		time.Sleep(8 * 24 * time.Hour)
		if _, err := a.EmailStatus(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("after eight days: %v", err)
		}
	})
}

// bounceOf is a notification as a server sends it, about a message to the address.
func bounceOf(recipient, status, said string) string {
	return "From: MAILER-DAEMON@mx.b.example\r\nTo: x@a.example\r\nSubject: Undelivered Mail\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\nIt failed.\r\n" +
		"--x\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.b.example\r\n\r\n" +
		"Final-Recipient: rfc822; " + recipient + "\r\nAction: failed\r\nStatus: " + status + "\r\nDiagnostic-Code: smtp; " + said + "\r\n\r\n--x--\r\n"
}

// A bounce that comes back later ends in the status of its message, and the
// recipient, whom there is not, is not sent to again.
func TestBounceComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := newMailbox(nil)
		n, a, _, _ := pair(t, got.take)
		one := hello
		one.Bcc = nil
		id, err := a.SendEmail(t.Context(), one)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		back := got.all()[0].From
		n.inject(t, a, "192.0.2.2", "", back, bounceOf("bob@b.example", "5.1.1", "550 5.1.1 no such user"))
		n.inject(t, a, "192.0.2.2", "", back, bounceOf("bob@b.example", "5.1.1", "550 5.1.1 no such user")) // once more
		time.Sleep(time.Minute)
		st, err := a.EmailStatus(t.Context(), id)
		if err != nil || st.Status != StatusBounced || st.Recipients[0].Code != "5.1.1" {
			t.Errorf("%+v, %v", st, err)
		}
		if e := a.seen(EventBounced); len(e) != 1 || e[0].Class != "hard" || e[0].MessageID != id || e[0].Recipients[0] != "bob@b.example" {
			t.Errorf("%+v", e)
		}
		if s, ok := a.Suppressions().Check("Bob@B.example"); !ok || s.Reason != SuppressedBounce {
			t.Errorf("%+v, %v", s, ok)
		}
		if _, err := a.SendEmail(t.Context(), one); !errors.Is(err, ErrSuppressed) {
			t.Errorf("to the suppressed recipient alone: %v", err)
		}
		id, err = a.SendEmail(t.Context(), hello)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		st, err = a.EmailStatus(t.Context(), id)
		if err != nil || st.Recipients[0].Status != StatusBounced || !strings.Contains(st.Recipients[0].Reply, "suppression list") || st.Recipients[1].Status != StatusDelivered {
			t.Errorf("to two, one of whom is suppressed: %+v, %v", st, err)
		}

		// Somebody else's bounce is not believed.
		forged := strings.Replace(back, "bounce+", "bounce+0", 1)
		c := dialPipe(t, a, "192.0.2.2")
		c.say("MAIL FROM:<>", "250")
		c.say("RCPT TO:<"+forged+">", "550 5.1.1 ")
		c.say("RSET", "250")
		c.say("MAIL FROM:<spam@elsewhere.example>", "250")
		c.say("RCPT TO:<"+back+">", "550 5.1.1 ")
		c.say("RSET", "250")
		time.Sleep(15 * 24 * time.Hour)
		c = dialPipe(t, a, "192.0.2.2")
		c.say("MAIL FROM:<>", "250")
		c.say("RCPT TO:<"+back+">", "550 5.1.1 ")
	})
}

// dialPipe is a client in the bubble.
func dialPipe(t *testing.T, s *server, from string) *client {
	t.Helper()
	ours, theirs := net.Pipe()
	go s.ServeConn(context.Background(), theirs, SMTP, ConnInfo{Client: netip.MustParseAddrPort(from + ":30000")})
	t.Cleanup(func() { ours.Close() })
	return (&client{t, ours, bufio.NewReader(ours)}).hello()
}

const complaint = "From: fbl@b.example\r\nTo: x@a.example\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n" +
	"Content-Type: multipart/report; report-type=feedback-report; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\nSpam.\r\n" +
	"--x\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: x/1\r\nVersion: 1\r\n\r\n" +
	"--x\r\nContent-Type: message/rfc822\r\n\r\nFrom: ann@a.example\r\nTo: bob@b.example\r\n\r\nHello\r\n--x--\r\n"

// A complaint is remembered, and counts once.
func TestComplaint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := newMailbox(nil)
		n, a, _, _ := pair(t, got.take)
		one := hello
		one.Bcc = nil
		id, err := a.SendEmail(t.Context(), one)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for range 3 { // providers repeat themselves
			n.inject(t, a, "192.0.2.2", "", got.all()[0].From, complaint)
			time.Sleep(time.Minute)
		}
		if s, ok := a.Suppressions().Check("bob@b.example"); !ok || s.Reason != SuppressedComplaint {
			t.Errorf("%+v, %v", s, ok)
		}
		if e := a.seen(EventComplained); len(e) != 1 || e[0].MessageID != id {
			t.Errorf("%+v", e)
		}
		if got := a.Stats().Deliveries.Complaints; got != 1 {
			t.Errorf("%d complaints are counted", got)
		}
		if st, err := a.EmailStatus(t.Context(), id); err != nil || st.Status != StatusDelivered || st.Timeline[len(st.Timeline)-1].Kind != EventComplained {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

// Mail that is forwarded with SRS has a sender of ours, to which bounces find the
// way back.
func TestSRS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := newMailbox(nil)
		n, a, b, _ := pair(t, got.take)
		elsewhere := newMailbox(nil)
		list := append(a.Routes(), Route{Name: "srs", Priority: 5, Match: Match{Recipients: []string{"fwd@a.example"}},
			Action: Action{Type: Forward, Forward: &ForwardAction{Host: "192.0.2.2", SRS: true}}})
		if err := a.UpdateRoutes(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		if err := b.UpdateRoutes(t.Context(), routes(t, `[{"name":"all","match":{"recipients":["*@a.example","*@b.example"]},"action":{"type":"deliver"}}]`)); err != nil {
			t.Fatal(err)
		}
		c := inBubble(t, n, relay("c.example"), WithResolver(noDNS{}), WithMailbox(elsewhere.take))
		defer c.stop()
		n.mu.Lock()
		n.servers["192.0.2.3"] = c.Server
		n.mu.Unlock()
		n.inject(t, a, "192.0.2.3", "carl@c.example", "fwd@a.example", strings.ReplaceAll(toB, "a.example", "c.example"))
		time.Sleep(time.Minute)
		mail := got.all()
		if len(mail) != 1 || !strings.HasPrefix(mail[0].From, "SRS0=") || !strings.HasSuffix(mail[0].From, "=c.example=carl@a.example") {
			t.Fatalf("%d messages: %+v", len(mail), mail)
		}
		if !strings.Contains(mail[0].content, "ARC-Seal: i=1;") || !strings.Contains(mail[0].Authentication, "arc=pass") {
			t.Errorf("it is not sealed: %s\n%s", mail[0].Authentication, mail[0].content)
		}
		n.inject(t, a, "192.0.2.2", "", mail[0].From, bounceOf("fwd@a.example", "5.1.1", "550 5.1.1 no such user"))
		time.Sleep(time.Minute)
		if back := elsewhere.all(); len(back) != 1 || back[0].Recipient != "carl@c.example" || back[0].From != "" {
			t.Errorf("the bounce did not come back: %+v", back)
		}
	})
}
