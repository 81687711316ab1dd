package tlspolicy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// policyHost is an HTTPS server for the policies of all domains.
type policyHost struct {
	addr string
	root *chain

	mu      sync.Mutex
	handler map[string]http.HandlerFunc // by domain
	fetched map[string]int
}

func startPolicyHost(t *testing.T, edit map[string]*chain) *policyHost {
	t.Helper()
	h := &policyHost{root: issue(t, nil, "root", authority), handler: map[string]http.HandlerFunc{}, fetched: map[string]int{}}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		domain := strings.TrimPrefix(r.Host, "mta-sts.")
		h.mu.Lock()
		h.fetched[domain]++
		handler := h.handler[domain]
		h.mu.Unlock()
		if handler == nil || r.Method != http.MethodGet || r.URL.Path != "/.well-known/mta-sts.txt" {
			http.NotFound(w, r)
			return
		}
		handler(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	var certs sync.Map // by name
	s.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := edit[hello.ServerName]; c != nil {
			cert := c.tls()
			return &cert, nil
		}
		c, ok := certs.Load(hello.ServerName)
		if !ok {
			cert := issue(t, h.root, hello.ServerName, forNames(hello.ServerName)).tls()
			c, _ = certs.LoadOrStore(hello.ServerName, &cert)
		}
		return c.(*tls.Certificate), nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	h.addr = s.Listener.Addr().String()
	return h
}

// DialContext leads all policy hosts here.
func (h *policyHost) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if !strings.HasPrefix(addr, "mta-sts.") || !strings.HasSuffix(addr, ":443") {
		return nil, fmt.Errorf("%s is no policy host", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, network, h.addr)
}

// set makes the policy of a domain.
func (h *policyHost) set(domain, text string) {
	h.handle(domain, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte(text))
	})
}

func (h *policyHost) handle(domain string, f http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handler[domain] = f
}

// fetches returns how often the policy of a domain was fetched.
func (h *policyHost) fetches(domain string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fetched[domain]
}

// clock is a clock that tests move.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

func policyText(mode string, age time.Duration, mx ...string) string {
	text := fmt.Sprintf("version: STSv1\nmode: %s\nmax_age: %d\n", mode, age/time.Second)
	for _, host := range mx {
		text += "mx: " + host + "\n"
	}
	return text
}

func open(t *testing.T, cfg Config) *Policies {
	t.Helper()
	p, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// source asks for a domain and host, and says what came of it in a word.
func source(t *testing.T, p *Policies, d Destination, demand Demand, host string) string {
	t.Helper()
	policy, err := p.For(t.Context(), d, demand)
	if err != nil {
		return "unknown"
	}
	r := policy.Host(t.Context(), host)
	switch {
	case r.Refuse == nil:
		return fmt.Sprint(r.Source, " ", r.Mode)
	default:
		return fmt.Sprint(r.Source, " refuses: ", r.Refuse.Status, " ", r.Refuse.Reply.Enhanced)
	}
}

const (
	asItGoes  = "opportunistic 0"
	enforced  = "mta-sts 1"
	unlisted  = "mta-sts refuses: temporary 4.7.5"
	sevenDays = 7 * 24 * time.Hour
)

func TestMTASTS(t *testing.T) {
	testenv.Goroutines(t)
	h := startPolicyHost(t, nil)
	dns := dnstest.New(t, dnstest.Zone{})
	domain := func(name, text string) {
		dns.Set("_mta-sts."+name, `TXT v=STSv1; id=1;`)
		h.set(name, text)
	}
	domain("enforce.test", policyText("enforce", sevenDays, "mx.enforce.test", "*.backup.test"))
	domain("testing.test", policyText("testing", sevenDays, "mx.testing.test"))
	domain("none.test", policyText("none", sevenDays))
	dns.Set("_mta-sts.two.test", "TXT v=STSv1; id=1;", "TXT v=STSv1; id=2;")
	h.set("two.test", policyText("enforce", sevenDays, "mx.two.test"))
	dns.Set("_mta-sts.down.test", "SERVFAIL")
	reported := &sessions{}
	p := open(t, Config{Resolver: dns.Resolver(), Roots: pool(h.root), Dialer: h, Report: reported.add})

	for _, c := range []struct{ domain, host, want string }{
		{"enforce.test", "mx.enforce.test", enforced},
		{"Enforce.test.", "a.backup.test", enforced},
		{"enforce.test", "other.test", unlisted},
		{"enforce.test", "a.b.backup.test", unlisted},
		{"testing.test", "mx.testing.test", asItGoes},
		{"testing.test", "other.test", asItGoes},
		{"none.test", "mx.none.test", asItGoes},
		{"absent.test", "mx.absent.test", asItGoes},
		{"two.test", "mx.two.test", asItGoes},
		{"down.test", "mx.down.test", asItGoes},
		{"[192.0.2.1]", "192.0.2.1", asItGoes},
	} {
		if got := source(t, p, Destination{Domain: c.domain}, Default, c.host); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.domain, c.host, got, c.want)
		}
	}
	if n := h.fetches("enforce.test") + h.fetches("two.test"); n != 1 {
		t.Errorf("%d fetches", n)
	}
	policy, err := p.For(t.Context(), Destination{Domain: "enforce.test"}, Default)
	if err != nil {
		t.Fatal(err)
	}
	r := policy.Host(t.Context(), "mx.enforce.test")
	if r.ServerName != "mx.enforce.test" || r.Config == nil || r.Config.RootCAs == nil || r.Config.InsecureSkipVerify || r.Key == "" {
		t.Errorf("%+v", r)
	}
	if r = policy.Host(t.Context(), "other.test"); r.Refuse == nil || !strings.Contains(r.Refuse.Error(), `"other.test\"`) && !strings.Contains(r.Refuse.Error(), "other.test") {
		t.Errorf("%+v", r)
	}
	policy.Result(Outcome{Host: "other.test", Err: r.Refuse})
	if list := reported.take(); len(list) != 1 || list[0].Failure != tlsrpt.ValidationFailure || list[0].Policy.Type != tlsrpt.STS || !slices.Equal(list[0].Policy.MX, []string{"mx.enforce.test", "*.backup.test"}) || list[0].Domain != "enforce.test" {
		t.Errorf("%+v", list)
	}
}

// What cannot be fetched is as if it were not there, is reported, and is not
// asked for again and again.
func TestMTASTSFetchFails(t *testing.T) {
	testenv.Goroutines(t)
	stranger := issue(t, nil, "stranger", authority)
	h := startPolicyHost(t, map[string]*chain{
		"mta-sts.stranger.test": issue(t, stranger, "x", forNames("mta-sts.stranger.test")),
	})
	certs := map[string]*chain{
		"mta-sts.name.test":     issue(t, h.root, "x", forNames("name.test")),
		"mta-sts.expired.test":  issue(t, h.root, "x", expired("mta-sts.expired.test")),
		"mta-sts.stranger.test": issue(t, stranger, "x", forNames("mta-sts.stranger.test")),
	}
	h2 := startPolicyHost(t, certs)
	h2.root = h.root
	dns := dnstest.New(t, dnstest.Zone{})
	reported := &sessions{}
	var logged bytes.Buffer
	c := &clock{}
	roots := pool(h.root)
	p := open(t, Config{Resolver: dns.Resolver(), Roots: roots, Dialer: h, Report: reported.add, Log: slog.New(slog.NewTextHandler(&logged, nil)), Now: c.now})
	p2 := open(t, Config{Resolver: dns.Resolver(), Roots: roots, Dialer: h2, Report: reported.add, Now: c.now})

	good := func(name string) string { return policyText("enforce", sevenDays, "mx."+name) }
	h.set("good.test", good("redirect.test"))
	plain := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Write([]byte(text))
		}
	}
	for name, c := range map[string]struct {
		policies *Policies
		handler  http.HandlerFunc
		want     tlsrpt.Failure
	}{
		"404.test": {p, nil, tlsrpt.STSPolicyFetchError},
		"500.test": {p, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, good("500.test"), 500) }, tlsrpt.STSPolicyFetchError},
		"redirect.test": {p, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://mta-sts.good.test/.well-known/mta-sts.txt", http.StatusFound)
		}, tlsrpt.STSPolicyFetchError},
		"html.test": {p, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Write([]byte(good("html.test")))
		}, tlsrpt.STSPolicyFetchError},
		"cut.test": {p, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", "10000")
			w.Write([]byte(good("cut.test")))
		}, tlsrpt.STSPolicyFetchError},
		"large.test":    {p, plain(good("large.test") + strings.Repeat("x: 0123456789\n", maxPolicy/13)), tlsrpt.STSPolicyInvalid},
		"invalid.test":  {p, plain("hello"), tlsrpt.STSPolicyInvalid},
		"name.test":     {p2, plain(good("name.test")), tlsrpt.STSWebPKIInvalid},
		"expired.test":  {p2, plain(good("expired.test")), tlsrpt.STSWebPKIInvalid},
		"stranger.test": {p2, plain(good("stranger.test")), tlsrpt.STSWebPKIInvalid},
		"record.test":   {p, plain(good("record.test")), tlsrpt.STSPolicyInvalid},
	} {
		host := h
		if c.policies == p2 {
			host = h2
		}
		host.handle(name, c.handler)
		record := "TXT v=STSv1; id=1"
		if name == "record.test" {
			record = "TXT v=STSv1; id=???"
		}
		dns.Set("_mta-sts."+name, record)
		for range 3 {
			policy, err := c.policies.For(t.Context(), Destination{Domain: name}, Default)
			if err != nil {
				t.Fatal(err)
			}
			if r := policy.Host(t.Context(), "mx."+name); r.Refuse != nil || r.Source != "opportunistic" {
				t.Errorf("%s: %+v", name, r)
			}
			policy.Result(Outcome{Host: "mx." + name})
			list := reported.take()
			if len(list) != 1 || list[0].Failure != c.want || list[0].Policy.Type != tlsrpt.STS || list[0].Policy.Domain != name || list[0].Reason == "" {
				t.Errorf("%s: %+v", name, list)
			}
		}
		if n := host.fetches(name); n > 1 {
			t.Errorf("%s: %d fetches", name, n)
		}
		if got := source(t, c.policies, Destination{Domain: name}, Require, "mx."+name); got != "requiretls refuses: temporary 4.7.5" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if !strings.Contains(logged.String(), "404.test") {
		t.Error(logged.String())
	}
	// Mended, and noticed after a while.
	h.set("404.test", good("404.test"))
	if got := source(t, p, Destination{Domain: "404.test"}, Default, "mx.404.test"); got != asItGoes {
		t.Error(got)
	}
	c.advance(checkEvery)
	if got := source(t, p, Destination{Domain: "404.test"}, Default, "mx.404.test"); got != enforced {
		t.Error(got)
	}
}

// A policy is kept until its end, over restarts too, and replaced when there is
// another.
func TestMTASTSCache(t *testing.T) {
	testenv.Goroutines(t)
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	h := startPolicyHost(t, nil)
	dns := dnstest.New(t, dnstest.Zone{"_mta-sts.a.test": {"TXT v=STSv1; id=1"}})
	h.set("a.test", policyText("enforce", sevenDays, "mx1.a.test"))
	c := &clock{}
	cfg := Config{Resolver: dns.Resolver(), Roots: pool(h.root), Dialer: h, Store: store, Now: c.now}
	p := open(t, cfg)
	is := func(step, host, want string) {
		t.Helper()
		if got := source(t, p, Destination{Domain: "a.test"}, Default, host); got != want {
			t.Errorf("%s: %s: %s, want %s", step, host, got, want)
		}
	}
	becomes := func(host, want string) {
		t.Helper()
		testenv.WaitFor(t, time.Minute, func() error {
			if got := source(t, p, Destination{Domain: "a.test"}, Default, host); got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	settled := func() {
		t.Helper()
		testenv.WaitFor(t, time.Minute, func() error {
			p.sts.mu.Lock()
			defer p.sts.mu.Unlock()
			if e := p.sts.entries["a.test"]; e != nil && e.flight != nil {
				return errors.New("it is still being asked")
			}
			return nil
		})
	}
	is("first", "mx1.a.test", enforced)
	is("again", "mx2.a.test", unlisted)

	// The same id: nothing is fetched.
	c.advance(checkEvery)
	is("checked", "mx1.a.test", enforced)
	settled()
	if n := h.fetches("a.test"); n != 1 {
		t.Errorf("%d fetches", n)
	}
	// Another id: the policy is fetched beside, and the old one used meanwhile.
	h.set("a.test", policyText("enforce", sevenDays, "mx2.a.test"))
	dns.Set("_mta-sts.a.test", "TXT v=STSv1; id=2")
	c.advance(checkEvery)
	becomes("mx2.a.test", enforced)
	is("changed", "mx1.a.test", unlisted)

	// A host that the policy forbids has it asked for again soon.
	h.set("a.test", policyText("enforce", sevenDays, "mx1.a.test", "mx2.a.test"))
	dns.Set("_mta-sts.a.test", "TXT v=STSv1; id=3")
	c.advance(leastAge)
	becomes("mx1.a.test", enforced)

	// An attacker hides the record, or the policy: it holds.
	settled()
	dns.Set("_mta-sts.a.test", "SERVFAIL")
	c.advance(24 * time.Hour)
	is("no DNS", "mx3.a.test", unlisted)
	settled()
	is("no DNS, noticed", "mx3.a.test", unlisted)
	dns.Set("_mta-sts.a.test")
	c.advance(24 * time.Hour)
	is("no record", "mx3.a.test", unlisted)
	settled()
	is("no record, noticed", "mx3.a.test", unlisted)
	dns.Set("_mta-sts.a.test", "TXT v=STSv1; id=4")
	h.handle("a.test", nil)
	c.advance(24 * time.Hour)
	is("no policy", "mx3.a.test", unlisted)
	settled()
	is("no policy, noticed", "mx3.a.test", unlisted)

	// A restart forgets nothing.
	p.Close()
	p = open(t, cfg)
	is("restarted", "mx3.a.test", unlisted)
	settled()
	// Its end is its end.
	c.advance(5 * 24 * time.Hour)
	is("ended", "mx3.a.test", asItGoes)

	// It comes back, and is taken back by mode none.
	h.set("a.test", policyText("enforce", sevenDays, "mx1.a.test"))
	c.advance(checkEvery)
	is("back", "mx3.a.test", unlisted)
	h.set("a.test", policyText("none", sevenDays))
	dns.Set("_mta-sts.a.test", "TXT v=STSv1; id=5")
	c.advance(checkEvery)
	becomes("mx3.a.test", asItGoes)
}

// A policy that is used is fetched anew, although its id is the same, so that it
// does not end.
func TestMTASTSIsRefreshed(t *testing.T) {
	h := startPolicyHost(t, nil)
	dns := dnstest.New(t, dnstest.Zone{"_mta-sts.a.test": {"TXT v=STSv1; id=1"}})
	h.set("a.test", policyText("enforce", sevenDays, "mx.a.test"))
	c := &clock{}
	p := open(t, Config{Resolver: dns.Resolver(), Roots: pool(h.root), Dialer: h, Now: c.now})
	for day := 1; day <= 30; day++ {
		if got := source(t, p, Destination{Domain: "a.test"}, Default, "mx.a.test"); got != enforced {
			t.Errorf("day %d: %s", day, got)
		}
		testenv.WaitFor(t, time.Minute, func() error {
			if n := h.fetches("a.test"); n != day {
				return fmt.Errorf("%d fetches on day %d", n, day)
			}
			p.sts.mu.Lock()
			defer p.sts.mu.Unlock()
			if p.sts.entries["a.test"].flight != nil {
				return errors.New("it is still being fetched")
			}
			return nil
		})
		c.advance(refreshAfter + time.Minute)
	}
}

// One that is not used is fetched anew too, for a while, and forgotten at its end.
func TestMTASTSIsRefreshedUnused(t *testing.T) {
	testenv.Goroutines(t)
	h := startPolicyHost(t, nil)
	dns := dnstest.New(t, dnstest.Zone{"_mta-sts.a.test": {"TXT v=STSv1; id=1"}})
	h.set("a.test", policyText("enforce", sevenDays, "mx.a.test"))
	c := &clock{}
	p := open(t, Config{Resolver: dns.Resolver(), Roots: pool(h.root), Dialer: h, Now: c.now})
	if got := source(t, p, Destination{Domain: "a.test"}, Default, "mx.a.test"); got != enforced {
		t.Error(got)
	}
	p.sts.look() // too early
	for range 40 {
		c.advance(refreshAfter)
		p.sts.look()
		testenv.WaitFor(t, time.Minute, func() error {
			p.sts.mu.Lock()
			defer p.sts.mu.Unlock()
			if e := p.sts.entries["a.test"]; e != nil && e.flight != nil {
				return errors.New("it is still being fetched")
			}
			return nil
		})
	}
	if n := h.fetches("a.test"); n != 30 {
		t.Errorf("%d fetches", n)
	}
	p.sts.mu.Lock()
	defer p.sts.mu.Unlock()
	if len(p.sts.entries) != 0 || p.sts.known.Len() != 0 {
		t.Error("it was not forgotten")
	}
}

// Many who ask at once make one fetch, and wait no longer than they want to.
func TestMTASTSOneFetch(t *testing.T) {
	testenv.Goroutines(t)
	h := startPolicyHost(t, nil)
	dns := dnstest.New(t, dnstest.Zone{"_mta-sts.a.test": {"TXT v=STSv1; id=1"}})
	begun, release := make(chan struct{}, 100), make(chan struct{})
	h.handle("a.test", func(w http.ResponseWriter, _ *http.Request) {
		begun <- struct{}{}
		<-release
		w.Header().Set("Content-Type", "text/plain")
		w.Write([]byte(policyText("enforce", sevenDays, "mx.a.test")))
	})
	p := open(t, Config{Resolver: dns.Resolver(), Roots: pool(h.root), Dialer: h})
	got := make(chan string, 20)
	for range cap(got) {
		go func() { got <- source(t, p, Destination{Domain: "a.test"}, Default, "mx.a.test") }()
	}
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.For(ctx, Destination{Domain: "a.test"}, Default); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(release)
	for range cap(got) {
		if s := <-got; s != enforced {
			t.Error(s)
		}
	}
	if n := h.fetches("a.test"); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// The end does not make mail less safe: who waits for a policy gets an error.
func TestMTASTSClose(t *testing.T) {
	testenv.Goroutines(t)
	h := startPolicyHost(t, nil)
	dns := dnstest.New(t, dnstest.Zone{"_mta-sts.a.test": {"TXT v=STSv1; id=1"}})
	begun := make(chan struct{}, 1)
	h.handle("a.test", func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
	})
	p := open(t, Config{Resolver: dns.Resolver(), Roots: pool(h.root), Dialer: h})
	got := make(chan error)
	go func() {
		_, err := p.For(t.Context(), Destination{Domain: "a.test"}, Default)
		got <- err
	}()
	<-begun
	p.Close()
	if err := <-got; !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if _, err := p.For(t.Context(), Destination{Domain: "b.test"}, Default); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

func TestMTASTSIsBounded(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	h := startPolicyHost(t, nil)
	dns := dnstest.New(t, dnstest.Zone{})
	cfg := Config{Resolver: dns.Resolver(), Roots: pool(h.root), Dialer: h, Store: store, MaxDomains: 3}
	p := open(t, cfg)
	for i := range 5 {
		name := fmt.Sprintf("a%d.test", i)
		dns.Set("_mta-sts."+name, "TXT v=STSv1; id=1")
		h.set(name, policyText("enforce", sevenDays, "mx."+name))
		if got := source(t, p, Destination{Domain: name}, Default, "mx."+name); got != enforced {
			t.Error(name, got)
		}
	}
	for i := range 50 { // push none of those out
		source(t, p, Destination{Domain: fmt.Sprintf("b%d.test", i)}, Default, "mx.test")
	}
	p.sts.mu.Lock()
	if len(p.sts.entries) != 6 || p.sts.known.Len() != 3 || p.sts.none.Len() != 3 {
		t.Error(len(p.sts.entries), p.sts.known.Len(), p.sts.none.Len())
	}
	p.sts.mu.Unlock()
	p.Close() // waits for what is still to be stored
	var keys []string
	for key, err := range store.List(t.Context(), storePrefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if want := []string{"email/mta-sts/a2.test.json", "email/mta-sts/a3.test.json", "email/mta-sts/a4.test.json"}; !slices.Equal(keys, want) {
		t.Error(keys)
	}
	// What cannot be read is passed over.
	for key, text := range map[string]string{"a2.test.json": "{", "a3.test.json": `{"expires":"2999-01-01T00:00:00Z"}`, "A.test.json": `{}`} {
		if err := store.Put(t.Context(), storePrefix+key, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	p = open(t, cfg)
	p.sts.mu.Lock()
	defer p.sts.mu.Unlock()
	if len(p.sts.entries) != 1 || p.sts.entries["a4.test"] == nil {
		t.Error(p.sts.entries)
	}
}
