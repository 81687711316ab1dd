package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// at runs f in one phase.
func at(phase smtpc.Phase, f func(p *peer) bool) func(*peer, smtpc.Phase) bool {
	return func(p *peer, now smtpc.Phase) bool {
		if now == phase {
			return f(p)
		}
		return takes(p, now)
	}
}

func greets(line string) *server {
	return &server{on: at(smtpc.PhaseGreeting, func(p *peer) bool { p.say(line); return false })}
}

func TestFailover(t *testing.T) {
	testenv.Goroutines(t)
	for name, test := range map[string]struct {
		servers  []*server
		max      int
		want     string
		timeline string
	}{
		"the third":       {[]*server{nil, greets("421 busy"), {on: takes}}, 0, "b@y.test delivered end 250", "mx1.y.test connect, mx2.y.test greeting 421, mx3.y.test end 250"},
		"bound":           {[]*server{nil, nil, nil, nil}, 3, "b@y.test temporary connect 0; trouble", "mx1.y.test connect, mx2.y.test connect, mx3.y.test connect"},
		"all refuse us":   {[]*server{greets("554 5.7.1 not you"), greets("521 never")}, 0, "b@y.test permanent greeting 521; trouble", "mx1.y.test greeting 554, mx2.y.test greeting 521"},
		"one may recover": {[]*server{greets("554 no"), nil, greets("554 no")}, 0, "b@y.test temporary connect 0; trouble", "mx1.y.test greeting 554, mx2.y.test connect, mx3.y.test greeting 554"},
		"nobody":          {nil, 0, "b@y.test temporary connect 0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range test.servers {
				if s != nil {
					start(t, s)
				}
			}
			result := client(t, Config{Dial: network(test.servers...), MaxAddresses: test.max}).Send(t.Context(), request(len(test.servers), "b@y.test"))
			if outcome(result) != test.want || timeline(result) != test.timeline {
				t.Errorf("%s by %s\nnot %s by %s", outcome(result), timeline(result), test.want, test.timeline)
			}
			if i := result.Recipients[0].Attempt; i != len(result.Attempts)-1 {
				t.Errorf("decided in attempt %d", i)
			}
		})
	}
}

// A host that greets with our own name is this one, at whatever address, and gets
// nothing; a hop of the configuration may have the name.
func TestOurselves(t *testing.T) {
	testenv.Goroutines(t)
	us := start(t, &server{on: func(p *peer, phase smtpc.Phase) bool {
		if phase == smtpc.PhaseGreeting {
			p.say("220 Client.test ESMTP")
		}
		return true
	}})
	other := start(t, &server{})
	c := client(t, Config{Dial: network(us, other)})
	for hosts, want := range map[int]string{1: "b@y.test permanent greeting 554; trouble", 2: "b@y.test delivered end 250"} {
		result := c.Send(t.Context(), request(hosts, "b@y.test"))
		if got := outcome(result); got != want {
			t.Errorf("of %d hosts: %s by %s, not %s", hosts, got, timeline(result), want)
		}
	}
	if got := us.messages(); len(got) > 0 {
		t.Errorf("we have sent ourselves %v", got)
	}
	r := request(0, "b@y.test")
	r.Hop = &smtpc.Config{Address: us.addr, Hostname: "client.test", TLS: smtpc.NoTLS, Dialer: &net.Dialer{}}
	if got := outcome(c.Send(t.Context(), r)); got != "b@y.test delivered end 250" {
		t.Errorf("by a hop: %s", got)
	}
}

// A host that cannot be reached is tried last for a while.
func TestAilingHostsComeLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialled []string
		c := client(t, Config{Dial: func(_ context.Context, _ netip.Addr, _, address string) (net.Conn, error) {
			dialled = append(dialled, address[len("192.0.2."):])
			return nil, errors.New("no")
		}})
		r := request(2, "b@y.test")
		for _, want := range []string{"[1:25 2:25]", "[1:25 2:25]", "[1:25 2:25]"} {
			dialled = nil
			c.Send(t.Context(), r)
			if got := fmt.Sprint(dialled); got != want {
				t.Errorf("dialled %s, not %s", got, want)
			}
		}
		c.ailing.set(hostAddrs(2)[0], netip.Addr{}, false, time.Now()) // it is back
		for _, want := range []string{"[2:25 1:25]", "[1:25 2:25]"} {
			dialled = nil
			c.Send(t.Context(), r)
			if got := fmt.Sprint(dialled); got != want {
				t.Errorf("dialled %s, not %s", got, want)
			}
			time.Sleep(ailTime + time.Second) // of the bubble
		}
		for i := range 3 * maxAiling {
			c.ailing.set(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), netip.Addr{}, true, time.Now())
		}
		if n := len(c.ailing.until); n > maxAiling {
			t.Errorf("%d addresses are remembered", n)
		}
	})
}

// Hosts that do not answer at all take a bounded time together, and a context ends
// the wait.
func TestTimeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Config{Dial: func(ctx context.Context, _ netip.Addr, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, ConnectTime: 150 * time.Second})
		begun := time.Now()
		result := c.Send(t.Context(), request(5, "b@y.test"))
		if took := time.Since(begun); took != 150*time.Second || len(result.Attempts) != 3 || outcome(result) != "b@y.test temporary connect 0; trouble" {
			t.Errorf("%s after %v and %d attempts", outcome(result), took, len(result.Attempts))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		result = c.Send(ctx, request(5, "b@y.test"))
		if len(result.Attempts) != 1 || outcome(result) != "b@y.test temporary connect 0" {
			t.Errorf("%s after %d attempts", outcome(result), len(result.Attempts))
		}
	})

	// Nor does a host that is slow everywhere have all the time in the world.
	s := start(t, &server{on: at(smtpc.PhaseRcpt, func(p *peer) bool { drip(p); return false })})
	result := client(t, Config{Dial: network(s), SendTime: 500 * time.Millisecond}).Send(t.Context(), request(1, "b@y.test"))
	if !errors.Is(result.Recipients[0].Err, errSendTime) || result.Recipients[0].Status != smtpc.Temporary {
		t.Errorf("%s: %v", outcome(result), result.Recipients[0].Err)
	}
}

func TestSource(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for name, test := range map[string]struct {
		source netip.Addr
		want   string
	}{
		"any":     {netip.Addr{}, "[2001:db8::1 192.0.2.1]"},
		"IPv4":    {netip.MustParseAddr("198.51.100.1"), "[192.0.2.1]"},
		"IPv6":    {netip.MustParseAddr("2001:db8:1::1"), "[2001:db8::1]"},
		"IPv4in6": {netip.MustParseAddr("::ffff:198.51.100.1"), "[192.0.2.1]"},
	} {
		var dialled []string
		c := client(t, Config{Dial: func(_ context.Context, source netip.Addr, _, address string) (net.Conn, error) {
			if source != test.source {
				t.Errorf("%s: from %v", name, source)
			}
			host, _, _ := net.SplitHostPort(address)
			dialled = append(dialled, host)
			return nil, errors.New("no")
		}})
		r := request(1, "b@y.test")
		r.Source = test.source
		r.Destination.Hosts[0].Addrs = []netip.Addr{v6, v4}
		c.Send(t.Context(), r)
		if fmt.Sprint(dialled) != test.want {
			t.Errorf("%s: dialled %v, not %s", name, dialled, test.want)
		}
	}
	r := request(1, "b@y.test")
	r.Source = v6
	result := client(t, Config{}).Send(t.Context(), r)
	if !errors.Is(result.Recipients[0].Err, errNoAddress) || result.Trouble || result.Recipients[0].Status != smtpc.Temporary {
		t.Errorf("%s: %v", outcome(result), result.Recipients[0].Err)
	}

	// And with the default dialer.
	local := testenv.Loopback(t, "127.0.0.7")
	from := make(chan string, 1)
	s := start(t, &server{on: at(smtpc.PhaseGreeting, func(p *peer) bool { from <- p.RemoteAddr().String(); return true })})
	addr := netip.MustParseAddrPort(s.addr)
	r = request(1, "b@y.test")
	r.Source, r.Destination.Hosts = netip.MustParseAddr(local), []mx.Host{{Name: "mx.y.test", Addrs: []netip.Addr{addr.Addr()}}}
	result = client(t, Config{Port: addr.Port()}).Send(t.Context(), r)
	if host, _, _ := net.SplitHostPort(<-from); host != local || result.Attempts[0].Source.String() != local {
		t.Errorf("from %s, %+v", host, result.Attempts)
	}
}

// What each recipient is told holds, wherever the rest is sent.
func TestMixedRecipients(t *testing.T) {
	for _, extension := range []string{"PIPELINING", "SIZE"} {
		a := start(t, &server{extensions: []string{extension}, on: at(smtpc.PhaseRcpt, func(p *peer) bool {
			switch p.rcpt() {
			case "no@y.test":
				p.say("550 5.1.1 no such user")
			case "later@y.test":
				p.say("451 4.7.1 greylisted")
			case "break@y.test":
				return false
			}
			return true
		})})
		b := start(t, &server{on: takes})
		result := client(t, Config{Dial: network(a, b)}).Send(t.Context(), request(2, "b@y.test", "no@y.test", "later@y.test", "break@y.test", "e@y.test"))
		want := "b@y.test delivered end 250, no@y.test permanent rcpt 550, later@y.test temporary rcpt 451, break@y.test delivered end 250, e@y.test delivered end 250"
		if outcome(result) != want || got(a, b) != "B: b@y.test break@y.test e@y.test" {
			t.Errorf("%s, taken %s", outcome(result), got(a, b))
		}
		for i, at := range []int{1, 0, 0, 1, 1} {
			if result.Recipients[i].Attempt != at {
				t.Errorf("%s was decided in attempt %d", result.Recipients[i].Addr, result.Recipients[i].Attempt)
			}
		}
	}
}

// A host that takes fewer recipients at once gets the rest at once too.
func TestManyRecipients(t *testing.T) {
	var to []string
	for i := range 5 {
		to = append(to, fmt.Sprintf("%d@y.test", i))
	}
	all := func(status string) string {
		var parts []string
		for _, addr := range to {
			parts = append(parts, addr+" "+status)
		}
		return strings.Join(parts, ", ")
	}
	after := func(n int, reply string) func(*peer, smtpc.Phase) bool {
		return at(smtpc.PhaseRcpt, func(p *peer) bool {
			if len(p.to) == n {
				p.say(reply)
			}
			return true
		})
	}
	for name, test := range map[string]struct {
		server *server
		cfg    Config
		want   string
		taken  string
		conns  int
	}{
		"at once":         {&server{on: takes}, Config{}, all("delivered end 250"), "A: 0@y.test 1@y.test 2@y.test 3@y.test 4@y.test", 1},
		"ours":            {&server{on: takes}, Config{MaxRecipients: 3}, all("delivered end 250"), "A: 0@y.test 1@y.test 2@y.test; A: 3@y.test 4@y.test", 1},
		"announced":       {&server{on: takes, extensions: []string{"PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=100 FUTURE=1"}}, Config{}, all("delivered end 250"), "A: 0@y.test 1@y.test; A: 2@y.test 3@y.test; A: 4@y.test", 1},
		"both announced":  {&server{on: takes, extensions: []string{"LIMITS RCPTMAX=2 MAILMAX=1"}}, Config{}, all("delivered end 250"), "A: 0@y.test 1@y.test; A: 2@y.test 3@y.test; A: 4@y.test", 3},
		"452 4.5.3":       {&server{on: after(3, "452 4.5.3 too many"), extensions: []string{"PIPELINING"}}, Config{}, all("delivered end 250"), "A: 0@y.test 1@y.test 2@y.test; A: 3@y.test 4@y.test", 1},
		"452":             {&server{on: after(3, "452 too many recipients")}, Config{}, all("delivered end 250"), "A: 0@y.test 1@y.test 2@y.test; A: 3@y.test 4@y.test", 1},
		"552 5.5.3":       {&server{on: after(1, "552 5.5.3 too many")}, Config{}, all("delivered end 250"), "A: 0@y.test; A: 1@y.test; A: 2@y.test; A: 3@y.test; A: 4@y.test", 1},
		"full":            {&server{on: after(0, "452 4.2.2 mailbox full")}, Config{}, all("temporary rcpt 452"), "", 1},
		"full for some":   {&server{on: after(1, "452 4.2.2 mailbox full")}, Config{}, strings.Replace(all("temporary rcpt 452"), "temporary rcpt 452", "delivered end 250", 1), "A: 0@y.test", 1},
		"one who is late": {&server{on: after(0, "452 later")}, Config{}, all("temporary rcpt 452"), "", 1},
		"one a connection": {&server{on: func(p *peer, phase smtpc.Phase) bool {
			return phase != smtpc.PhaseMail && takes(p, phase) || p.mail == 1
		}}, Config{MaxRecipients: 2}, all("delivered end 250"), "A: 0@y.test 1@y.test; A: 2@y.test 3@y.test; A: 4@y.test", 3},
		"421 at the next": {&server{on: at(smtpc.PhaseMail, func(p *peer) bool {
			if p.mail == 1 {
				return true
			}
			p.say("421 4.7.0 enough")
			return false
		})}, Config{MaxRecipients: 2}, all("delivered end 250"), "A: 0@y.test 1@y.test; A: 2@y.test 3@y.test; A: 4@y.test", 3},
		"later for all": {&server{on: at(smtpc.PhaseEnd, func(p *peer) bool { p.say("451 4.3.0 later"); return true })}, Config{MaxRecipients: 2}, all("temporary end 451"), "", 1},
		"spam":          {&server{on: at(smtpc.PhaseEnd, func(p *peer) bool { p.say("554 5.7.1 spam"); return true })}, Config{MaxRecipients: 2}, all("permanent end 554"), "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, test.server)
			test.cfg.Dial = network(s)
			result := client(t, test.cfg).Send(t.Context(), request(1, to...))
			if outcome(result) != test.want || got(s) != test.taken || s.connections() != test.conns {
				t.Errorf("%s\ntaken %s on %d connections\nnot %s\ntaken %s on %d", outcome(result), got(s), s.connections(), test.want, test.taken, test.conns)
			}
		})
	}
}

// When a host breaks off within a message, the rest is not its next host's at once.
func TestBreakBetweenBatches(t *testing.T) {
	a := start(t, &server{on: at(smtpc.PhaseEnd, func(p *peer) bool { return false })})
	b := start(t, &server{on: takes})
	result := client(t, Config{Dial: network(a, b), MaxRecipients: 1}).Send(t.Context(), request(2, "b@y.test", "c@y.test"))
	if outcome(result) != "b@y.test unknown end 0, c@y.test temporary end 0; trouble" || got(a, b) != "" || a.connections() != 1 {
		t.Errorf("%s, taken %s", outcome(result), got(a, b))
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	s := start(t, &server{on: takes, extensions: []string{"LIMITS RCPTMAX=1"}})
	var to []string
	for i := range 100 {
		to = append(to, fmt.Sprintf("%d@y.test", i))
	}
	result := client(t, Config{Dial: network(s)}).Send(t.Context(), request(1, to...))
	if len(result.Attempts) != maxAttempts || result.Omitted != 100-maxAttempts || len(s.messages()) != 100 || result.Recipients[99].Attempt != maxAttempts-1 {
		t.Errorf("%d attempts, %d omitted, %d taken", len(result.Attempts), result.Omitted, len(s.messages()))
	}
}

// A server that wants content though it has accepted nobody gets none of it, and
// the connection is good for the next message.
func TestContentForNobody(t *testing.T) {
	s := start(t, &server{extensions: []string{"PIPELINING"}, on: at(smtpc.PhaseRcpt, func(p *peer) bool {
		if p.rcpt() != "no@y.test" {
			return true
		}
		p.say("550 5.1.1 no such user")
		p.hear() // DATA, which was sent along
		p.say("354 go on")
		if p.hear(); p.line != "." {
			t.Errorf("content for nobody: %q", p.line)
		}
		p.say("554 5.5.1 no valid recipients")
		return true
	})})
	c := client(t, Config{Dial: network(s)})
	result := c.Send(t.Context(), request(1, "no@y.test"))
	if outcome(result) != "no@y.test permanent rcpt 550" {
		t.Error(outcome(result))
	}
	if result = c.Send(t.Context(), request(1, "b@y.test")); outcome(result) != "b@y.test delivered end 250" || s.connections() != 1 {
		t.Errorf("%s, %d connections", outcome(result), s.connections())
	}
}

// What is said before the end of the content is the reply to it; if more is said,
// the connection is not used again, where it would answer for another message.
func TestEarlyReply(t *testing.T) {
	for name, test := range map[string]struct {
		say, want string
		conns     int
	}{
		"refusal":          {"550 5.7.1 no", "b@y.test permanent end 550", 2},
		"refusal, closing": {"421 4.3.2 bye", "b@y.test temporary end 421; trouble", 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, &server{on: func(p *peer, phase smtpc.Phase) bool {
				if p.n == 1 && phase == smtpc.PhaseContent {
					p.say(test.say)
					return true
				}
				if p.n == 1 && phase == smtpc.PhaseEnd {
					p.say("554 5.5.1 what was that")
					return true
				}
				return takes(p, phase)
			}})
			c := client(t, Config{Dial: network(s)})
			if result := c.Send(t.Context(), request(1, "b@y.test")); outcome(result) != test.want {
				t.Error(outcome(result))
			}
			if result := c.Send(t.Context(), request(1, "c@y.test")); outcome(result) != "c@y.test delivered end 250" || s.connections() != test.conns || got(s) != "A: c@y.test" {
				t.Errorf("%s, %d connections, taken %s", outcome(result), s.connections(), got(s))
			}
		})
	}
}

// What one host cannot do, the next one may.
func TestHostsThatLack(t *testing.T) {
	for name, test := range map[string]struct {
		change   func(env *smtpc.Envelope)
		ext      string
		code     int
		enhanced string
	}{
		"8BITMIME": {func(env *smtpc.Envelope) { env.EightBit = true }, "8BITMIME", 554, "5.6.3"},
		"SMTPUTF8": {func(env *smtpc.Envelope) { env.UTF8 = true }, "SMTPUTF8", 554, "5.6.9"},
		"size":     {func(env *smtpc.Envelope) {}, "SIZE 1000", 552, "5.3.4"},
	} {
		t.Run(name, func(t *testing.T) {
			lacks := start(t, &server{on: takes, extensions: []string{"SIZE 10"}})
			if name != "size" {
				lacks.extensions = []string{"PIPELINING"}
			}
			has := start(t, &server{on: takes, extensions: []string{test.ext}})
			r := request(2, "b@y.test")
			test.change(&r.Envelope)
			if result := client(t, Config{Dial: network(lacks, has)}).Send(t.Context(), r); outcome(result) != "b@y.test delivered end 250" || got(lacks, has) != "B: b@y.test" {
				t.Errorf("%s, taken %s", outcome(result), got(lacks, has))
			}
			result := client(t, Config{Dial: network(lacks, lacks)}).Send(t.Context(), r)
			if want := fmt.Sprintf("b@y.test permanent mail %d", test.code); outcome(result) != want || result.Recipients[0].Reply.Enhanced != test.enhanced {
				t.Errorf("%s, %v", outcome(result), result.Recipients[0])
			}
			if result = client(t, Config{Dial: network(lacks, nil)}).Send(t.Context(), r); outcome(result) != "b@y.test temporary connect 0" {
				t.Error(outcome(result))
			}
		})
	}
}

// Greylisting: the next try succeeds, on the same connection if it comes at once.
func TestLaterThenTaken(t *testing.T) {
	asked := 0
	s := start(t, &server{on: at(smtpc.PhaseRcpt, func(p *peer) bool {
		if asked++; asked == 1 {
			p.say("450 4.2.0 greylisted")
		}
		return true
	})})
	c := client(t, Config{Dial: network(s)})
	for _, want := range []string{"b@y.test temporary rcpt 450", "b@y.test delivered end 250"} {
		if result := c.Send(t.Context(), request(1, "b@y.test")); outcome(result) != want {
			t.Errorf("%s, not %s", outcome(result), want)
		}
	}
	if got(s) != "A: b@y.test" || s.connections() != 1 {
		t.Errorf("taken %s on %d connections", got(s), s.connections())
	}
}

// Content that cannot be read is nobody's fault over there.
func TestUnreadableContent(t *testing.T) {
	s := start(t, &server{on: takes})
	r := request(1, "b@y.test")
	r.Content = unreadable{}
	result := client(t, Config{Dial: network(s)}).Send(t.Context(), r)
	if outcome(result) != "b@y.test temporary content 0" || got(s) != "" {
		t.Errorf("%s, taken %s", outcome(result), got(s))
	}
	r.Content = strings.NewReader("Subject: x\r\n\r\nbare\nLF\r\n")
	result = client(t, Config{Dial: network(s)}).Send(t.Context(), r)
	if outcome(result) != "b@y.test permanent content 550" || got(s) != "" {
		t.Errorf("%s, taken %s", outcome(result), got(s))
	}
}

type unreadable struct{}

func (unreadable) Size() int64                       { return 100 }
func (unreadable) ReadAt([]byte, int64) (int, error) { return 0, errors.New("disk") }

func TestHop(t *testing.T) {
	s := start(t, &server{extensions: []string{"PIPELINING"}, on: func(p *peer, phase smtpc.Phase) bool {
		if phase == smtpc.PhaseHello && p.line != "LHLO inner.test" {
			t.Errorf("the client said %q", p.line)
		}
		if phase == smtpc.PhaseEnd {
			p.say("250 2.0.0 ok", "452 4.2.2 full")
			p.take()
		}
		return true
	}})
	c := client(t, Config{})
	hop := &smtpc.Config{Address: s.addr, Hostname: "outer.test", LMTP: true, TLS: smtpc.NoTLS}
	for n := range 2 {
		r := request(0, "b@y.test", "c@y.test")
		r.Hop, r.HELO = hop, "inner.test"
		result := c.Send(t.Context(), r)
		if outcome(result) != "b@y.test delivered end 250, c@y.test temporary end 452" || s.connections() != 1 {
			t.Errorf("%s, %d connections", outcome(result), s.connections())
		}
		if a := result.Attempts[0]; a.Host != s.addr || a.Addr.String() != s.addr || a.Source.String() != "127.0.0.1" || a.Reused != (n > 0) || a.Phase != smtpc.PhaseEnd {
			t.Errorf("%+v", a)
		}
	}
	hop = &smtpc.Config{Address: "nowhere", Hostname: "outer.test"} // cannot be used
	r := request(0, "b@y.test")
	r.Hop = hop
	if result := c.Send(t.Context(), r); outcome(result) != "b@y.test temporary connect 0; trouble" {
		t.Error(outcome(result))
	}
}
