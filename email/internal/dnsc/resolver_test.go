package dnsc

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// peer is a DNS server that answers as a test wants.
type peer struct {
	addr     string
	udp, tcp atomic.Int32 // how often it was asked
}

// serve starts a server on UDP and TCP. handle returns what is written in turn.
func serve(t *testing.T, handle func(q *dns.Msg, network string) [][]byte) *peer {
	t.Helper()
	p := &peer{}
	var ln net.Listener
	var pc net.PacketConn
	testenv.WaitFor(t, time.Minute, func() (err error) {
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		if pc, err = net.ListenPacket("udp", ln.Addr().String()); err != nil {
			ln.Close()
		}
		return err
	})
	p.addr = ln.Addr().String()
	for _, s := range []*dns.Server{{PacketConn: pc}, {Listener: ln}} {
		network, count := "udp", &p.udp
		if s.Listener != nil {
			network, count = "tcp", &p.tcp
		}
		s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			count.Add(1)
			for _, b := range handle(q, network) {
				w.Write(b)
			}
		})
		ready, done := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(ready) }
		go func() { done <- s.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() {
			s.Shutdown()
			<-done
		})
	}
	return p
}

// reply is an answer with records, changed by edit.
func reply(t *testing.T, q *dns.Msg, edit func(*dns.Msg), records ...string) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetReply(q)
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Error(err)
			return nil
		}
		m.Answer = append(m.Answer, rr)
	}
	if edit != nil {
		edit(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

func resolver(t *testing.T, servers ...string) *Resolver {
	t.Helper()
	r, err := New(Config{Servers: servers, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestQuery(t *testing.T) {
	ids, ports := map[uint16]bool{}, map[string]bool{}
	seen := make(chan *dns.Msg, 50)
	p := serve(t, func(q *dns.Msg, _ string) [][]byte {
		seen <- q
		return [][]byte{reply(t, q, nil, q.Question[0].Name+" 60 TXT x")}
	})
	r := resolver(t, p.addr)
	r.dialer = dialFunc(func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			ports[c.LocalAddr().String()] = true
		}
		return c, err
	})
	var last *dns.Msg
	for range cap(seen) {
		if a, err := r.TXT(t.Context(), "a.test"); err != nil || a.TTL != time.Minute {
			t.Fatal(a, err)
		}
		last = <-seen
		ids[last.Id] = true
	}
	if len(ids) < 45 || len(ports) < 40 {
		t.Errorf("%d ids and %d ports in 50 questions", len(ids), len(ports))
	}
	if opt := last.IsEdns0(); opt == nil || opt.UDPSize() != udpSize || !last.AuthenticatedData || !last.RecursionDesired {
		t.Error(last)
	}
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}

// What comes before the answer and is none does not count.
func TestForgedAnswers(t *testing.T) {
	p := serve(t, func(q *dns.Msg, network string) [][]byte {
		good := reply(t, q, nil, "a.test. 60 TXT good")
		if network == "tcp" {
			return [][]byte{good}
		}
		forged := func(edit func(*dns.Msg)) []byte { return reply(t, q, edit, "a.test. 60 TXT forged") }
		return [][]byte{
			forged(func(m *dns.Msg) { m.Id++ }),
			forged(func(m *dns.Msg) { m.Response = false }),
			forged(func(m *dns.Msg) { m.Question[0].Name = "b.test." }),
			forged(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA }),
			forged(func(m *dns.Msg) { m.Question = nil }),
			good[:7], {}, []byte("garbage, and more garbage"),
			reply(t, q, func(m *dns.Msg) { m.Question[0].Name = "A.tEST." }, "A.Test. 60 TXT good"),
		}
	})
	a, err := resolver(t, p.addr).TXT(t.Context(), "a.test")
	if err != nil || !slices.Equal(a.Records, []string{"good"}) {
		t.Error(a, err)
	}
}

func TestFloodOfOtherAnswersEnds(t *testing.T) {
	p := serve(t, func(q *dns.Msg, _ string) (all [][]byte) {
		for range 2 * maxStray {
			all = append(all, reply(t, q, func(m *dns.Msg) { m.Id++ }))
		}
		return all
	})
	r := resolver(t, p.addr)
	r.timeout = time.Second // some of them may be dropped
	if a, err := r.TXT(t.Context(), "a.test"); err == nil || isNotFound(err) {
		t.Error(a, err)
	}
}

func TestTruncatedAnswersComeByTCP(t *testing.T) {
	p := serve(t, func(q *dns.Msg, network string) [][]byte {
		return [][]byte{reply(t, q, func(m *dns.Msg) { m.Truncated = network == "udp" }, "a.test. 60 TXT "+network)}
	})
	a, err := resolver(t, p.addr).TXT(t.Context(), "a.test")
	if err != nil || !slices.Equal(a.Records, []string{"tcp"}) {
		t.Error(a, err)
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	for _, rcode := range []int{dns.RcodeFormatError, dns.RcodeNotImplemented} {
		p := serve(t, func(q *dns.Msg, _ string) [][]byte {
			if q.IsEdns0() != nil {
				return [][]byte{reply(t, q, func(m *dns.Msg) { m.Rcode, m.Question = rcode, nil })}
			}
			return [][]byte{reply(t, q, nil, "a.test. 60 TXT plain")}
		})
		a, err := resolver(t, p.addr).TXT(t.Context(), "a.test")
		if err != nil || !slices.Equal(a.Records, []string{"plain"}) {
			t.Error(dns.RcodeToString[rcode], a, err)
		}
	}
}

func TestFailover(t *testing.T) {
	fails := serve(t, func(q *dns.Msg, _ string) [][]byte {
		return [][]byte{reply(t, q, func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })}
	})
	refuses := serve(t, func(q *dns.Msg, _ string) [][]byte {
		return [][]byte{reply(t, q, func(m *dns.Msg) { m.Rcode = dns.RcodeRefused })}
	})
	silent := serve(t, func(*dns.Msg, string) [][]byte { return nil })
	absent := serve(t, func(q *dns.Msg, _ string) [][]byte {
		return [][]byte{reply(t, q, func(m *dns.Msg) {
			m.Rcode = dns.RcodeNameError
			soa, _ := dns.NewRR("test. 300 SOA a b 1 2 3 4 77")
			m.Ns = []dns.RR{soa}
		})}
	})
	nobody := "127.0.0.1:9" // discard: nothing is there

	r := resolver(t, fails.addr, nobody, refuses.addr, silent.addr, absent.addr)
	r.timeout = 200 * time.Millisecond
	testenv.WaitFor(t, time.Minute, func() error { // on a slow machine the last may not answer in that time
		a, err := r.TXT(t.Context(), "a.test")
		if !isNotFound(err) {
			return err
		}
		if !a.NoName || a.TTL != 77*time.Second || a.Name != "a.test" {
			t.Error(a)
		}
		return nil
	})

	r = resolver(t, silent.addr, fails.addr)
	r.timeout = 200 * time.Millisecond
	silent.udp.Store(0)
	fails.udp.Store(0)
	_, err := r.TXT(t.Context(), "a.test")
	var d *net.DNSError
	if !errors.As(err, &d) || d.IsNotFound || !d.IsTemporary {
		t.Errorf("%#v", err)
	}
	if silent.udp.Load() != 2 {
		t.Errorf("the silent server was asked %d times", silent.udp.Load())
	}

	r = resolver(t, silent.addr)
	r.timeout = 50 * time.Millisecond
	if _, err := r.TXT(t.Context(), "a.test"); !errors.As(err, &d) || !d.IsTimeout || !d.IsTemporary {
		t.Errorf("%#v", err)
	}
}

// A caller who does not wait any more is let go at once.
func TestContext(t *testing.T) {
	asked := make(chan struct{}, 1)
	silent := serve(t, func(*dns.Msg, string) [][]byte { asked <- struct{}{}; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	r := resolver(t, silent.addr)
	r.timeout = time.Hour
	_, err := r.TXT(ctx, "a.test")
	var d *net.DNSError
	if !errors.As(err, &d) || !d.IsTemporary || d.IsTimeout || !errors.Is(err, context.Canceled) {
		t.Errorf("%#v", err)
	}
}

// AD counts only from a server that is near, or trusted by configuration.
func TestTrust(t *testing.T) {
	p := serve(t, func(q *dns.Msg, _ string) [][]byte {
		return [][]byte{reply(t, q, func(m *dns.Msg) { m.AuthenticatedData = true }, "a.test. 60 TXT x")}
	})
	here := dialFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, p.addr)
	})
	file := filepath.Join(t.TempDir(), "resolv.conf")
	for _, c := range []struct {
		cfg  Config
		file string
		want bool
	}{
		{cfg: Config{Servers: []string{"127.0.0.1"}}, want: true},
		{cfg: Config{Servers: []string{"127.9.9.9:54"}}, want: true},
		{cfg: Config{Servers: []string{"::1"}}, want: true},
		{cfg: Config{Servers: []string{"::ffff:127.0.0.1"}}, want: true},
		{cfg: Config{Servers: []string{"192.0.2.1"}}},
		{cfg: Config{Servers: []string{"192.0.2.1"}, TrustAD: true}, want: true},
		{file: "nameserver 127.0.0.1\n", want: true},
		{file: "nameserver 192.0.2.1\n"},
		{file: "options ndots:1 trust-ad edns0\nnameserver 192.0.2.1\n", want: true},
		{file: "# nothing\n", want: true},
	} {
		if c.file != "" {
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			c.cfg.ResolvConf = file
		}
		c.cfg.Dialer, c.cfg.Timeout = here, 20*time.Second
		r, err := New(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := r.TXT(t.Context(), "a.test"); err != nil || a.Secure != c.want {
			t.Errorf("%+v %q: %+v, %v", c.cfg.Servers, c.file, a, err)
		}
	}
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "resolv.conf")
	text := "search example\nnameserver 192.0.2.1 # first\nnameserver fe80::1%lo\nnameserver nonsense\nnameserver\n;nameserver 192.0.2.9\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs := func(r *Resolver) (list []string) {
		for _, s := range r.servers {
			list = append(list, s.addr)
		}
		return list
	}
	r, err := New(Config{ResolvConf: file})
	if err != nil || !slices.Equal(addrs(r), []string{"192.0.2.1:53", "[fe80::1%lo]:53"}) {
		t.Error(addrs(r), err)
	}
	r, err = New(Config{ResolvConf: filepath.Join(dir, "absent")})
	if err != nil || !slices.Equal(addrs(r), []string{"127.0.0.1:53"}) {
		t.Error(addrs(r), err)
	}
	if _, err = New(Config{ResolvConf: dir}); err == nil {
		t.Error("a folder was read")
	}
	_, err = New(Config{Servers: []string{"192.0.2.1", "dns.example", "192.0.2.1:x", "192.0.2.1:0"}})
	for _, want := range []string{`"dns.example"`, `"192.0.2.1:x"`, `"192.0.2.1:0"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
	if _, err = New(Config{Servers: slices.Repeat([]string{"192.0.2.1"}, 9)}); err == nil {
		t.Error("nine servers")
	}
}

func TestNames(t *testing.T) {
	r := resolver(t, "127.0.0.1:9")
	for _, name := range []string{"", ".", "..", "a..b", ".a", `a\.b`, "a b", "a\x00", "ü.test", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a"} {
		if _, err := r.TXT(t.Context(), name); !isNotFound(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := r.LookupAddr(t.Context(), "nonsense"); !isNotFound(err) {
		t.Error(err)
	}
	if _, err := r.PTR(t.Context(), netip.Addr{}); !isNotFound(err) {
		t.Error(err)
	}
}

// Whatever the other half of a lookup does, it takes nothing away.
func TestAddrsOfBothFamilies(t *testing.T) {
	type half struct {
		record string
		rcode  int
		secure bool
	}
	four, six := half{record: "a.test. 60 A 192.0.2.1"}, half{record: "a.test. 30 AAAA 2001:db8::1"}
	secure := func(h half) half { h.secure = true; return h }
	none, fails := half{}, half{rcode: dns.RcodeServerFailure}
	for _, c := range []struct {
		four, six half
		addrs     int
		secure    bool
		ttl       time.Duration
		fails     bool
	}{
		{four: four, six: six, addrs: 2, ttl: 30 * time.Second},
		{four: secure(four), six: secure(six), addrs: 2, ttl: 30 * time.Second, secure: true},
		{four: secure(four), six: six, addrs: 2, ttl: 30 * time.Second},
		{four: secure(four), six: secure(none), addrs: 1, ttl: time.Minute, secure: true},
		{four: secure(four), six: none, addrs: 1, ttl: time.Minute},
		{four: secure(four), six: fails, addrs: 1, ttl: time.Minute, secure: true},
		{four: fails, six: secure(six), addrs: 1, ttl: 30 * time.Second, secure: true},
		{four: secure(none), six: secure(six), addrs: 1, ttl: 30 * time.Second, secure: true},
		{four: secure(none), six: secure(none), secure: true},
		{four: secure(none), six: none},
		{four: fails, six: secure(none), fails: true},
		{four: secure(none), six: fails, fails: true},
		{four: fails, six: fails, fails: true},
	} {
		p := serve(t, func(q *dns.Msg, _ string) [][]byte {
			h := c.four
			if q.Question[0].Qtype == dns.TypeAAAA {
				h = c.six
			}
			var records []string
			if h.record != "" {
				records = []string{h.record}
			}
			return [][]byte{reply(t, q, func(m *dns.Msg) { m.Rcode, m.AuthenticatedData = h.rcode, h.secure }, records...)}
		})
		a, err := resolver(t, p.addr).Addrs(t.Context(), "a.test")
		switch {
		case c.fails:
			if err == nil || isNotFound(err) {
				t.Errorf("%+v: %+v, %v", c, a, err)
			}
		case len(a.Records) != c.addrs || a.Secure != c.secure || a.TTL != c.ttl || (err == nil) != (c.addrs > 0) || err != nil && !isNotFound(err):
			t.Errorf("%+v: %+v, %v", c, a, err)
		case c.addrs == 2 && !a.Records[0].Is6():
			t.Error(a.Records)
		}
	}
}

// Aliases that lead in circles, or nowhere, end.
func TestAliases(t *testing.T) {
	var long []string
	for i := range maxChain + 5 {
		long = append(long, strings.Repeat("a", i+1)+". 60 CNAME "+strings.Repeat("a", i+2)+".")
	}
	for name, c := range map[string]struct {
		records []string
		want    string // where it ends
	}{
		"circle":   {[]string{"a. 60 CNAME b.", "b. 60 CNAME a."}, "a"},
		"self":     {[]string{"a. 60 CNAME a."}, "a"},
		"nowhere":  {[]string{"a. 60 CNAME b.", "c. 60 TXT c"}, "b"},
		"too long": {long, strings.Repeat("a", maxChain+1)},
		"other":    {[]string{"b. 60 TXT b"}, "a"},
	} {
		p := serve(t, func(q *dns.Msg, _ string) [][]byte { return [][]byte{reply(t, q, nil, c.records...)} })
		a, err := resolver(t, p.addr).TXT(t.Context(), "a")
		if !isNotFound(err) || a.Name != c.want {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`plain`: "plain", `a\"b`: `a"b`, `\\`: `\`, `\200\000`: "\xc8\x00", `\999`: "999", `end\`: `end\`, `\1`: "1",
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// What a server sends is read within bounds, and without a panic.
func FuzzRead(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("a.test.", dns.TypeTLSA)
	for _, records := range [][]string{{"a.test. 60 TLSA 3 1 1 00ff"}, {"a.test. 60 CNAME b.test.", "b.test. 1 TLSA 0 0 0 00"}, {`a.test. 60 TXT "a\200"`}, {"a.test. 5 MX 1 ."}, nil} {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, s := range records {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil {
			return
		}
		answers(m, q)
		res := response{m, server{"192.0.2.1:53", false}}
		if a, err := read(res, "a.test", func(rr *dns.TXT) (string, bool) { return unescape(strings.Join(rr.Txt, "")), true }); a.Secure || (err == nil) != (len(a.Records) > 0) || a.TTL < 0 {
			t.Errorf("%+v, %v", a, err)
		}
		if a, err := read(res, "a.test", func(rr *dns.A) (netip.Addr, bool) { return ipAddr(rr.A) }); err == nil && !a.Records[0].IsValid() {
			t.Errorf("%+v", a)
		}
		read(res, "a.test", func(rr *dns.MX) (string, bool) { return rr.Mx, true })
	})
}
