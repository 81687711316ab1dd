package email

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// clock is a clock that is set by hand.
func newClock() *testenv.Clock {
	return testenv.NewClock(time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC))
}

func TestLimits(t *testing.T) {
	clk := newClock()
	for _, test := range []struct {
		name   string
		limits InboundLimits
		domain InboundLimits
		do     func(*server, *client)
	}{
		{"messages", InboundLimits{MessagesPerMinute: 2}, InboundLimits{}, func(_ *server, c *client) {
			c.send("a@example.net", "b@example.com", hi)
			c.send("a@example.net", "b@example.com", hi)
			c.say("MAIL FROM:<a@example.net>", "250")
			c.say("RCPT TO:<b@example.com>", "450 4.7.1 Too much mail, try again in ")
			clk.Advance(2 * time.Minute)
			c.say("RCPT TO:<b@example.com>", "250")
			c.say("RCPT TO:<c@example.com>", "250")
		}},
		{"messages of an address", InboundLimits{MessagesPerMinutePerIP: 1}, InboundLimits{}, func(_ *server, c *client) {
			c.send("a@example.net", "b@example.com", hi)
			c.say("MAIL FROM:<a@example.net>", "450 4.7.1")
		}},
		{"recipients", InboundLimits{RecipientsPerMessage: 2}, InboundLimits{}, func(_ *server, c *client) {
			c.say("MAIL FROM:<a@example.net>", "250")
			c.say("RCPT TO:<1@example.com>", "250")
			c.say("RCPT TO:<2@example.com>", "250")
			c.say("RCPT TO:<3@example.com>", "452 4.5.3")
		}},
		{"connections", InboundLimits{ConnectionsPerIP: 1}, InboundLimits{}, func(s *server, _ *client) {
			s.dial().want("", "421 4.7.0")
		}},
		{"messages to a domain", InboundLimits{}, InboundLimits{MessagesPerMinute: 1}, func(_ *server, c *client) {
			c.say("MAIL FROM:<a@example.net>", "250")
			c.say("RCPT TO:<1@example.com>", "250")
			c.say("RCPT TO:<2@example.com>", "250") // of the same message
			c.data(hi)
			c.say("MAIL FROM:<a@example.net>", "250")
			c.say("RCPT TO:<1@example.com>", "450 4.7.1")
			c.say("RCPT TO:<1@other.example>", "250")
		}},
		{"recipients of a domain", InboundLimits{RecipientsPerMessage: 5}, InboundLimits{RecipientsPerMessage: 1}, func(_ *server, c *client) {
			c.say("MAIL FROM:<a@example.net>", "250")
			c.say("RCPT TO:<1@example.com>", "250")
			c.say("RCPT TO:<2@example.com>", "452 4.5.3")
			c.say("RCPT TO:<2@other.example>", "250")
		}},
		{"connections to a domain", InboundLimits{}, InboundLimits{ConnectionsPerIP: 1}, func(s *server, c *client) {
			c.say("MAIL FROM:<a@example.net>", "250")
			c.say("RCPT TO:<1@example.com>", "250")
			other := s.dial().hello()
			other.say("MAIL FROM:<a@example.net>", "250")
			other.say("RCPT TO:<1@example.com>", "450 4.7.0")
			other.say("RCPT TO:<1@other.example>", "250")
			c.say("QUIT", "221")
			waitFor(t, func() bool { return s.Stats().Connections.Open == 1 })
			other.say("RCPT TO:<1@example.com>", "250")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, Config{RateLimits: RateLimits{Inbound: test.limits},
				Domains: []Domain{{Domain: "example.com", RateLimits: RateLimits{Inbound: test.domain}}, {Domain: "other.example"}},
				Routes:  []Route{{Name: "all", Action: Action{Type: Deliver}}}}, WithMailbox(newMailbox(nil).take), WithClock(clk.Now))
			test.do(s, s.dial().hello())
		})
	}
}

// What comes to nothing does not use up the limits that all clients share.
func TestSharedLimitsCountAcceptedMail(t *testing.T) {
	clk := newClock()
	next := start(t, Config{Routes: routes(t, `[
		{"name":"no","priority":1,"match":{"recipients":"no@*"},"action":{"type":"reject"}},
		{"name":"rest","action":{"type":"deliver"}}]`)})
	one := RateLimits{Inbound: InboundLimits{MessagesPerMinute: 1}}
	for _, cfg := range []Config{
		{RateLimits: one, Domains: []Domain{{Domain: "example.com"}}},
		{Domains: []Domain{{Domain: "example.com", RateLimits: one}}},
		{RateLimits: one, Domains: []Domain{{Domain: "example.com", RateLimits: one}}},
	} {
		cfg.Greylisting = &Greylisting{}
		cfg.Routes = routes(t, `[`+forwardTo(t, next, "")+`]`)
		s := start(t, cfg, WithClock(clk.Now), WithHooks(Hooks{OnRcpt: func(_ context.Context, _ *Envelope, rcpt string) error {
			if rcpt == "hook@example.com" {
				return &Reply{Code: 550}
			}
			return nil
		}}))
		c := s.dial().hello()
		for range 2 {
			for _, rcpt := range []string{"no", "hook", "b"} { // by the next server, the hook, and for now not at all
				c.say("MAIL FROM:<a@example.net>", "250")
				c.say("RCPT TO:<x@elsewhere.example>", "550")
				c.say("RCPT TO:<"+rcpt+"@example.com>", "450 4.7.1 Greylisted")
				c.say("RSET", "250")
			}
		}
		clk.Advance(2 * time.Minute)
		for range 2 {
			c.say("MAIL FROM:<a@example.net>", "250")
			c.say("RCPT TO:<no@example.com>", "550")
			c.say("RCPT TO:<hook@example.com>", "550")
			c.say("RSET", "250")
		}
		c.say("MAIL FROM:<a@example.net>", "250")
		c.say("RCPT TO:<b@example.com>", "250")
		other := s.dial().hello()
		other.say("MAIL FROM:<a@example.net>", "250")
		other.say("RCPT TO:<b@example.com>", "450 4.7.1 Too much mail")
	}
}

func TestGreylisting(t *testing.T) {
	clk := newClock()
	s := start(t, Config{Greylisting: &Greylisting{}, Routes: toMailboxes}, WithMailbox(newMailbox(nil).take), WithClock(clk.Now))
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "450 4.7.1 Greylisted, try again in ")
	clk.Advance(30 * time.Second)
	c.say("RCPT TO:<b@example.com>", "450 4.7.1")
	clk.Advance(time.Minute)
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<c@example.com>", "450 4.7.1")
	if n := s.Stats().Refused["greylist"]; n != 3 {
		t.Error(n)
	}
}

func TestReputation(t *testing.T) {
	dns := resolver(t, "7.113.0.203.bad.example. A 127.0.0.2")
	for _, test := range []struct {
		cfg  IPReputation
		want string
	}{
		{IPReputation{BlockList: []string{"127.0.0.0/8"}}, "554 5.7.1"},
		{IPReputation{BlockList: []string{"127.0.0.0/8"}, AllowList: []string{"127.0.0.1"}}, "220"},
		{IPReputation{Providers: []string{"bad.example"}}, "220"}, // 127.0.0.1 is no host on the internet
	} {
		s := start(t, Config{IPReputation: &test.cfg, Routes: toMailboxes}, WithResolver(dns))
		s.dial().want("", test.want)
		if refused := s.Stats().Connections.Refused; (refused == 1) != strings.HasPrefix(test.want, "554") {
			t.Errorf("%+v: %d refused", test.cfg, refused)
		}
	}
	s := start(t, Config{IPReputation: &IPReputation{Providers: []string{"bad.example"}}, UseSocketHandler: true, Routes: toMailboxes}, WithResolver(dns))
	ours, theirs := net.Pipe()
	go s.ServeConn(t.Context(), ours, SMTP, ConnInfo{Client: mustAddrPort("203.0.113.7:4321")})
	if line, _ := bufio.NewReader(theirs).ReadString('\n'); !strings.HasPrefix(line, "554 5.7.1 203.0.113.7 is refused: ") {
		t.Error(line)
	}

	checker, err := NewReputationChecker(IPReputation{Providers: []string{"bad.example", "other.example"}, Threshold: 0.5}, WithResolver(dns))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"203.0.113.7": true, "203.0.113.8": false} {
		got, err := checker.Check(t.Context(), netip.MustParseAddr(addr))
		if err != nil || got.Blocked != want || want && (got.Score != 0.5 || len(got.Listings) != 1 || got.Reason == "") {
			t.Errorf("%s: %+v, %v", addr, got, err)
		}
	}
	if _, err := NewReputationChecker(IPReputation{Providers: []string{"x"}}); err == nil || !strings.Contains(err.Error(), "providers[0]") {
		t.Error(err)
	}
}

// Mail that is not its author's is dealt with as the author's domain asks, as far
// as the recipient's domain goes along.
func TestDMARC(t *testing.T) {
	dns := resolver(t, `_dmarc.bank.example. TXT "v=DMARC1; p=reject"
		_dmarc.shop.example. TXT "v=DMARC1; p=quarantine"
		_dmarc.ours.example. TXT "v=DMARC1; p=reject"
		ours.example. TXT "v=spf1 ip4:127.0.0.1 -all"`)
	m := newMailbox(nil)
	s := start(t, Config{
		Defaults: Defaults{DMARC: QuarantineDMARC},
		Domains:  []Domain{{Domain: "strict.example", DMARC: RejectDMARC}, {Domain: "lax.example", DMARC: MonitorDMARC}, {Domain: "default.example"}},
		Routes:   routes(t, `[{"name":"in","action":{"type":"deliver"}},{"name":"lan","priority":1,"match":{"recipients":"lan@*","clientIp":"127.0.0.1"},"action":{"type":"deliver"}}]`),
	}, WithMailbox(m.take), WithResolver(dns))
	for _, test := range []struct {
		author, to, want string
		quarantined      bool
	}{
		{"bank.example", "x@strict.example", "550 5.7.1 Rejected as the DMARC policy of bank.example asks", false},
		{"bank.example", "x@default.example", "250", true},
		{"bank.example", "x@lax.example", "250", false},
		{"shop.example", "x@strict.example", "250", true},
		{"ours.example", "x@strict.example", "250", false},
		{"unknown.example", "x@strict.example", "250", false},
		{"bank.example", "lan@strict.example", "250", false},
	} {
		before, had := s.Stats().Messages.Quarantined, len(m.all())
		sender := "a@" + test.author
		if got := s.dial().hello().send(sender, test.to, strings.Replace(hi, "a@example.net", sender, 1)); !strings.HasPrefix(got, test.want) {
			t.Errorf("%+v: %q", test, got)
		}
		if got := s.Stats().Messages.Quarantined - before; (got == 1) != test.quarantined {
			t.Errorf("%+v: %d quarantined", test, got)
		}
		if got := len(m.all()) - had; (got == 1) != (test.want == "250" && !test.quarantined) {
			t.Errorf("%+v: %d delivered", test, got)
		}
	}
}

// A domain's policy is not another one's, though a message is for both.
func TestDMARCOfSeveralDomains(t *testing.T) {
	s := start(t, Config{
		Domains: []Domain{{Domain: "strict.example"}, {Domain: "lax.example", DMARC: MonitorDMARC}, {Domain: "other.example", DMARC: RejectDMARC}},
		Routes:  routes(t, `[{"name":"in","action":{"type":"deliver"}},{"name":"lan","priority":1,"match":{"recipients":"lan@*","clientIp":"127.0.0.1"},"action":{"type":"deliver"}}]`),
	})
	for _, first := range []string{"x@strict.example", "x@lax.example"} {
		c := s.dial().hello()
		c.say("MAIL FROM:<a@example.net>", "250")
		c.say("RCPT TO:<"+first+">", "250")
		for rcpt, lax := range map[string]bool{"y@strict.example": false, "y@other.example": false, "y@lax.example": true, "lan@strict.example": true} {
			want := "250"
			if lax != strings.Contains(first, "lax") {
				want = "452 4.5.3"
			}
			c.say("RCPT TO:<"+rcpt+">", want)
		}
	}
}

func TestQuarantine(t *testing.T) {
	dir := t.TempDir()
	eicar := strings.Replace(hi, "Hello.", `X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*`, 1)
	gtube := strings.Replace(hi, "Hello.", "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X", 1)
	m := newMailbox(nil)
	next := start(t, Config{Routes: toMailboxes}, WithMailbox(m.take))
	cfg := Config{
		DataPath: dir,
		Routes: routes(t, `[{"name":"in","match":{"recipients":"*@example.com"},"action":{"type":"process","process":{"scan":true}}},
			{"name":"unscanned","priority":1,"match":{"recipients":"raw@example.com"},"action":{"type":"process"}}]`),
		SmartHost: &SmartHost{Host: "127.0.0.1", Port: int(portOf(next.Addrs()[0]))},
		Scanners:  []Scanner{{Type: SpamScanner, Action: QuarantineMail}, {Type: VirusScanner, Quarantine: true}, {Type: AttachmentScanner, BlockedExtensions: []string{".exe"}}},
	}
	s := start(t, cfg)
	c := s.dial().hello()
	for _, test := range []struct{ to, content, want string }{
		{"b@example.com", hi, "250"},
		{"b@example.com", gtube, "250"},
		{"b@example.com", eicar, "554 5.7.1"},
		{"raw@example.com", eicar, "250"},
	} {
		if got := c.send("a@example.net", test.to, test.content); !strings.HasPrefix(got, test.want) {
			t.Errorf("%q: %q, want %s", test.content[len(test.content)-20:], got, test.want)
		}
	}
	if scans := s.Stats().Scans; scans["spam/clean"] != 2 || scans["spam/bad"] != 1 || scans["virus/bad"] != 1 || scans["attachment/clean"] != 2 {
		t.Errorf("%v", scans)
	}
	// Whether there is a scan is the same for all recipients of a message.
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<raw@example.com>", "452 4.5.3")
	waitFor(t, func() bool { return len(m.all()) == 2 })
	if got := m.all()[0].content + m.all()[1].content; !strings.Contains(got, "X-Spam-Status: No, score=") || strings.Contains(got, "GTUBE") {
		t.Error(got)
	}

	// It stays there over a restart.
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg)
	held := make(map[bool]QueuedMessage)
	for q, err := range s.Queue(t.Context()) {
		if err != nil || q.Quarantine == "" {
			t.Errorf("%+v, %v", q, err)
		}
		held[q.Refused] = q
	}
	if len(held) != 2 || s.Stats().Spool.Quarantined != 2 || !strings.HasPrefix(held[true].Quarantine, "virus: ") || !strings.HasPrefix(held[false].Quarantine, "spam: ") {
		t.Fatalf("%+v", held)
	}
	_, content, err := s.Queued(t.Context(), held[false].ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(content)
	if content.Close(); err != nil || !strings.HasSuffix(string(b), gtube+"\r\n") || int64(len(b)) != held[false].Size {
		t.Errorf("%d bytes of %d, %v", len(b), held[false].Size, err)
	}
	if err := s.Retry(t.Context(), held[false].ID); err == nil {
		t.Error("what is in quarantine was tried")
	}
	if err := s.Release(t.Context(), held[false].ID); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(m.all()) == 3 })
	if got := m.all()[2].content; !strings.Contains(got, "GTUBE") {
		t.Error(got)
	}
	if err := s.Drop(t.Context(), held[true].ID); err != nil {
		t.Error(err)
	}
	waitFor(t, func() bool { return s.Stats().Spool == SpoolStats{} })
}

// A scanner that cannot be asked puts mail off, or lets it pass where the
// configuration says so.
func TestScannerIsDown(t *testing.T) {
	for onError, want := range map[string]string{"": "451 4.7.1", TempFailMail: "451 4.7.1", AcceptMail: "250"} {
		s := start(t, Config{
			Routes:   routes(t, `[{"name":"in","match":{"recipients":"*@example.com"},"action":{"type":"process","process":{"scan":true}}}]`),
			Scanners: []Scanner{{Type: VirusScanner, Backend: ClamAVBackend, Address: "127.0.0.1:1", OnError: onError}},
		})
		if got := s.dial().hello().send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %s", onError, got, want)
		}
		if got := s.Stats().Scans["virus/clamav/error"]; got != 1 {
			t.Errorf("%d errors", got)
		}
	}
}

// Clients that the host has blocked are refused when they connect, and when they
// go on after they were let in: for now, or for good.
func TestBlocked(t *testing.T) {
	for _, test := range []struct {
		until time.Time
		want  string
	}{{time.Now().Add(time.Hour), "421 4.7.1 127.0.0.1 is blocked"}, {time.Time{}, "554 5.7.1 127.0.0.1 is blocked"}} {
		var on atomic.Bool
		s := start(t, submission(t, Submission), WithMailbox(newMailbox(nil).take),
			WithBlocked(func(netip.Addr) (time.Time, bool) { return test.until, on.Load() }))
		begin := func() *client {
			c := s.dial().hello().startTLS()
			c.say("EHLO client.example.net", "250")
			return c
		}
		sends, signsIn := begin(), begin()
		sends.say("AUTH PLAIN "+plain("alice@example.com", "wonderland"), "235")
		on.Store(true)
		sends.say("MAIL FROM:<alice@example.com>", test.want)
		signsIn.say("AUTH PLAIN "+plain("alice@example.com", "wonderland"), test.want)
		s.dial().want("", test.want)
		on.Store(false)
		s.dial().hello()
		waitFor(t, func() bool { return s.Stats().Refused["blocked"] == 3 })
		for _, e := range s.seen(EventRefused) {
			if e.Security || e.Cause != "blocked" {
				t.Errorf("what is blocked already would count again: %+v", e)
			}
		}
	}
}

// What others have done is not held against a client: that they have taken up all
// the room, or failed so often that nothing is tried for a while.
func TestOthersDoings(t *testing.T) {
	cfg := submission(t, Submission)
	cfg.Connections.Max = 1
	s := start(t, cfg, WithMailbox(newMailbox(nil).take))
	c := s.dial().hello().startTLS()
	c.say("EHLO client.example.net", "250")
	s.dial().want("", "421 4.3.2")
	waitFor(t, func() bool { return len(s.seen(EventRefused)) == 1 })
	if e := s.seen(EventRefused)[0]; e.Cause != "connections" || e.Security {
		t.Errorf("who finds no room: %+v", e)
	}
	for {
		fmt.Fprintf(c, "AUTH PLAIN %s\r\n", plain("alice@example.com", "wrong"))
		if reply := c.reply(); strings.HasPrefix(reply, "454 4.7.0 Too many failures") {
			break
		} else if !strings.HasPrefix(reply, "535 ") {
			t.Fatal(reply)
		}
	}
	all := s.seen(EventSignInFailed)
	for i, e := range all {
		if tried := i < len(all)-1; e.Security != tried {
			t.Errorf("failure %d of %d: %+v", i+1, len(all), e)
		}
	}
}

// Lists hold for clients whose address has a zone.
func TestAddressWithZone(t *testing.T) {
	rules := (&Config{Security: Security{IPBlockList: []string{"fe80::/10"}}}).frontRules()
	for _, a := range []net.Addr{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1}, &net.UDPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}} {
		if addr := addrOf(a); rules.permits(addr) {
			t.Errorf("%v, of %v, is let in", addr, a)
		}
	}
}
