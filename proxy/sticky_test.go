package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// stickyBackends are n back ends that say who they are, and note the cookies
// that they get.
func stickyBackends(t testing.TB, n int) (targets []Target, servers []func()) {
	for i := range n {
		s, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ws" {
				wsEcho(t)(w, r)
				return
			}
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "x"})
			fmt.Fprintf(w, "%d", i)
		})
		targets, servers = append(targets, target), append(servers, s.Close)
	}
	return targets, servers
}

// browser is a client that keeps cookies.
type browser struct {
	*http.Client
	t   testing.TB
	set []*http.Cookie // all lb cookies it was given
}

func newBrowser(t testing.TB, addr string) *browser {
	b := &browser{Client: client(t, addr, nil), t: t}
	b.Jar, _ = cookiejar.New(nil)
	return b
}

// visit returns who answered.
func (b *browser) visit(url string) string {
	b.t.Helper()
	resp, err := b.Get(url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 {
		b.t.Errorf("%s: %s", url, resp.Status)
	}
	for _, c := range resp.Cookies() {
		if c.Name == "lb" {
			b.set = append(b.set, c)
		}
	}
	return string(body)
}

func stickyRoute(name, host string, targets ...Target) Route {
	r := httpRoute(name, 0, host, targets...)
	r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "lb"}
	return r
}

func TestSticky(t *testing.T) {
	testenv.Goroutines(t)
	targets, closeServer := stickyBackends(t, 4)
	r := stickyRoute("web", "a.test", targets[:3]...)
	p := start(t, Config{Routes: []Route{r}})
	var browsers []*browser
	where := map[*browser]string{}
	seen := map[string]int{}
	for range 9 {
		b := newBrowser(t, addr(t, p, 0))
		browsers = append(browsers, b)
		where[b] = b.visit("http://a.test/")
		seen[where[b]]++
	}
	if len(seen) != 3 {
		t.Errorf("new clients went to %v", seen)
	}
	stay := func(when string) {
		t.Helper()
		for i, b := range browsers {
			for range 3 {
				if got := b.visit("http://a.test/"); got != where[b] {
					t.Errorf("%s client %d moved from %s to %s", when, i, where[b], got)
				}
			}
			if len(b.set) != 1 {
				t.Errorf("%s client %d has been given %d cookies", when, i, len(b.set))
			}
		}
	}
	stay("at once")
	// Neither order nor weight nor other targets nor other routes matter, nor
	// does it when TLS or the algorithm change.
	changed := stickyRoute("web", "a.test", targets[3], targets[2], targets[0], targets[1])
	changed.Action.Targets[2].Weight = 7
	changed.Action.LoadBalancing.Algorithm = PowerOfTwo
	update(t, p, stickyRoute("other", "b.test", targets...), changed)
	stay("after an update")
	// The name of the route does not either: a browser has one cookie for a
	// site, which may be several routes.
	api := stickyRoute("api", "a.test", targets[:3]...)
	api.Match.Path = "/api/*"
	update(t, p, r, api)
	for i, b := range browsers {
		if got := b.visit("http://a.test/api/x"); got != where[b] || len(b.set) != 1 {
			t.Errorf("client %d is at %s, and at %s in another route of the site", i, where[b], got)
		}
	}
	// A gateway next to this one, or this one after a restart, has the same
	// opinion.
	second := startBare(t, Config{Routes: []Route{r}})
	for i, b := range browsers {
		b.Transport = client(t, addr(t, second, 0), nil).Transport
		if got := b.visit("http://a.test/"); got != where[b] || len(b.set) != 1 {
			t.Errorf("client %d is at %s, and at %s through another gateway", i, where[b], got)
		}
		b.Transport = client(t, addr(t, p, 0), nil).Transport
	}
	// A target that is gone or dead: a new one, and a new cookie, once.
	moved := func(when, from string) {
		t.Helper()
		for i, b := range browsers {
			n := len(b.set)
			got := b.visit("http://a.test/")
			if where[b] == from {
				if got == from {
					t.Errorf("%s client %d is still with it", when, i)
				}
				if len(b.set) != n+1 {
					t.Errorf("%s client %d was not given a new cookie", when, i)
				}
				where[b] = got
				n++
			} else if got != where[b] {
				t.Errorf("%s client %d moved without a reason", when, i)
			}
			if again := b.visit("http://a.test/"); again != where[b] || len(b.set) != n {
				t.Errorf("%s client %d does not stay with its new target", when, i)
			}
		}
	}
	update(t, p, stickyRoute("web", "a.test", targets[1], targets[2]))
	moved("with its target removed,", "0")
	closeServer[1]()
	moved("with its target dead,", "1")
}

// A target that a health check or a circuit breaker has taken out is not
// insisted upon.
func TestStickyLeavesTheSick(t *testing.T) {
	testenv.Goroutines(t)
	var sick, ill atomic.Int64 // which target
	sick.Store(-1)
	ill.Store(-1)
	var targets []Target
	for i := range 3 {
		_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if ill.Load() == int64(i) || sick.Load() == int64(i) && r.URL.Path == "/health" {
				w.WriteHeader(500)
			}
			fmt.Fprint(w, i)
		})
		targets = append(targets, target)
	}
	r := stickyRoute("web", "a.test", targets...)
	r.Action.LoadBalancing.HealthCheck = &HealthCheck{Path: "/health", Interval: 10 * time.Millisecond, UnhealthyAfter: 1}
	r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{ConsecutiveFailures: 1, EjectionTime: time.Hour}
	p := start(t, Config{Routes: []Route{r}})
	b := newBrowser(t, addr(t, p, 0))
	at := func() int64 {
		t.Helper()
		return int64(b.visit("http://a.test/")[0] - '0')
	}
	first := at()
	sick.Store(first)
	eventually(t, "it is found unhealthy", func() bool { return !targetStats(p, targets[first]).Healthy })
	second := at()
	if second == first || len(b.set) != 2 {
		t.Errorf("with target %d unhealthy the client is at %d, with %d cookies", first, second, len(b.set))
	}
	ill.Store(second)
	if resp, err := b.Get("http://a.test/"); err != nil || resp.StatusCode != 500 {
		t.Fatal(resp, err)
	} else {
		resp.Body.Close()
	}
	if third := at(); third == first || third == second || len(b.set) != 3 {
		t.Errorf("with target %d ejected too the client is at %d, with %d cookies", second, third, len(b.set))
	}
}

func TestStickyWebSocket(t *testing.T) {
	testenv.Goroutines(t)
	targets, _ := stickyBackends(t, 3)
	p := start(t, Config{Routes: []Route{stickyRoute("web", "a.test", targets...)}})
	b := newBrowser(t, addr(t, p, 0))
	b.visit("http://a.test/")
	cookie := b.set[0]
	dial := func(cookie string) *http.Response {
		t.Helper()
		c := wireDial(t, addr(t, p, 0))
		ws, resp := wsDial(t, c, "a.test\r\nCookie: x=1; "+cookie, "")
		if resp.StatusCode != 101 {
			t.Fatal(resp.Status)
		}
		ws.send(wsText, true, []byte("hello"))
		if _, _, got, err := ws.receive(); err != nil || string(got) != "hello" {
			t.Fatal(string(got), err)
		}
		return resp
	}
	counts := func() (list []uint64) {
		for _, target := range targets {
			list = append(list, targetStats(p, target).Total)
		}
		return list
	}
	before := counts()
	for range 5 {
		if resp := dial("lb=" + cookie.Value); len(resp.Header["Set-Cookie"]) != 0 {
			t.Errorf("a client with the right cookie is given %q", resp.Header["Set-Cookie"])
		}
	}
	moved := 0
	for i, n := range counts() {
		switch n - before[i] {
		case 0:
		case 5:
			moved++
		default:
			t.Errorf("target %d got %d of 5 WebSockets of one client", i, n-before[i])
		}
	}
	if moved != 1 {
		t.Errorf("%v became %v", before, counts())
	}
	if got := dial("lb=unknown").Header["Set-Cookie"]; len(got) != 1 || !strings.HasPrefix(got[0], "lb=") {
		t.Errorf("a client without a target is given %q", got)
	}
}

// A client may send its cookies in several headers, whatever RFC 6265 says.
func TestStickySeveralHeaders(t *testing.T) {
	targets, _ := stickyBackends(t, 3)
	p := start(t, Config{Routes: []Route{stickyRoute("web", "a.test", targets...)}})
	b := newBrowser(t, addr(t, p, 0))
	first := b.visit("http://a.test/")
	for range 6 {
		got := wireReply(t, addr(t, p, 0), "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: a=1\r\nCookie: lb="+b.set[0].Value+"\r\nCookie: lb=x\r\nConnection: close\r\n\r\n")
		if !strings.HasSuffix(got, "\r\n\r\n"+first) || strings.Contains(got, "lb=") {
			t.Errorf("at %s: %q", first, got)
		}
	}
}

func TestStickyHTTP2(t *testing.T) {
	targets, _ := stickyBackends(t, 3)
	files, pool := tlsFiles(t, "a.test")
	a := forwardTo(targets...)
	a.LoadBalancing.Sticky = &Sticky{Cookie: "lb"}
	p := start(t, Config{Routes: []Route{tlsRoute("web", files, a, "a.test")}})
	c := client(t, addr(t, p, 0), pool)
	b := &browser{Client: c, t: t}
	first := b.visit("https://a.test/")
	if len(b.set) != 1 || !b.set[0].Secure {
		t.Fatalf("over TLS the cookies are %v", b.set)
	}
	for range 6 {
		req, _ := http.NewRequest("GET", "https://a.test/", nil)
		for i := range 3 {
			req.AddCookie(&http.Cookie{Name: fmt.Sprint("other", i), Value: "v"})
		}
		req.AddCookie(&http.Cookie{Name: "lb", Value: b.set[0].Value})
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 || string(body) != first {
			t.Errorf("%s: at %s, want %s", resp.Proto, body, first)
		}
	}
}

func TestStickyAttributes(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		cfg    Sticky
		secure bool
		want   string // after the value
	}{
		{Sticky{}, false, "; Path=/; HttpOnly"},
		{Sticky{}, true, "; Path=/; HttpOnly; Secure"},
		{Sticky{Secure: &no}, true, "; Path=/; HttpOnly"},
		{Sticky{Secure: &yes}, false, "; Path=/; HttpOnly; Secure"},
		{Sticky{Path: "/app", MaxAge: time.Hour, HTTPOnly: &no, SameSite: SameSiteStrict}, false, "; Path=/app; Max-Age=3600; SameSite=Strict"},
		{Sticky{SameSite: SameSiteLax}, false, "; Path=/; HttpOnly; SameSite=Lax"},
		{Sticky{SameSite: SameSiteNone}, false, "; Path=/; HttpOnly; SameSite=None; Secure"},
	} {
		test.cfg.Cookie = "lb"
		r := balancing(LoadBalancing{Sticky: &test.cfg}, targetsNamed("a")...)
		b := apply(t, idleProxy(t, r), r)[0]
		e := &b.entries[0]
		got := b.sticky.setCookie(e, &choice{}, test.secure)
		if want := "lb=" + e.cookie + test.want; got != want {
			t.Errorf("%+v: %q, want %q", test.cfg, got, want)
		}
		if c, err := http.ParseSetCookie(got); err != nil || c.Value != e.cookie {
			t.Errorf("net/http reads %q as %v, %v", got, c, err)
		}
		if again := b.sticky.setCookie(e, &choice{sticky: e.cookie}, test.secure); again != "" {
			t.Errorf("a client that has it is given %q", again)
		}
	}
}

func TestStickyValue(t *testing.T) {
	value := func(cookie, secret, target string) string {
		return stickyValue(&Sticky{Cookie: cookie, Secret: Secret(secret)}, target)
	}
	// It must never change: clients bring it from before an update of this
	// program.
	if got := value("lb", "", "10.0.0.1:8080"); got != "Zfd5aOHQQEmKB29J" {
		t.Errorf("the value is %s now", got)
	}
	seen := map[string]bool{}
	for _, cookie := range []string{"lb", "l"} {
		for _, secret := range []string{"", "s", "t"} {
			for _, target := range []string{"10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80", "b10.0.0.1:80"} {
				v := value(cookie, secret, target)
				if seen[v] || strings.Contains(v, "10") && strings.Contains(v, "0.0") || len(v) != 16 {
					t.Errorf("%s %s %s: %s", cookie, secret, target, v)
				}
				seen[v] = true
			}
		}
	}
	data, err := json.Marshal(stickyRouteWithSecret())
	if err != nil || strings.Contains(string(data), "hunter2") || !strings.Contains(string(data), "***") {
		t.Errorf("%s %v", data, err)
	}
}

func stickyRouteWithSecret() Route {
	r := stickyRoute("web", "a.test", targetsNamed("a")...)
	r.Action.LoadBalancing.Sticky.Secret = "hunter2"
	return r
}

func TestCookieValue(t *testing.T) {
	for _, test := range []struct{ header, want string }{
		{"lb=x", "x"}, {"a=1; lb=x; b=2", "x"}, {"a=1;lb=x", "x"}, {"a=1;  lb=x ;b", "x"}, {`lb="x"`, "x"}, {"lb=", ""}, {"lb=a=b", "a=b"},
		{"lb=x; lb=y", "x"}, {"lb", "-"}, {"", "-"}, {";;;", "-"}, {"xlb=1; lbx=2; LB=3", "-"}, {"a=lb=x", "-"}, {"; lb=x", "x"}, {`lb="`, `"`},
	} {
		got, ok := cookieValue(test.header, "lb")
		if !ok {
			got = "-"
		}
		if got != test.want {
			t.Errorf("%q: %q, want %q", test.header, got, test.want)
		}
	}
	long := strings.Repeat("a=b; ", 3000) + "lb=x"
	if n := testing.AllocsPerRun(10, func() { cookieValue(long, "lb") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// Where net/http sees a cookie, its value is the same.
	for _, header := range []string{"lb=x", `a="q"; lb="x"`, "lb=1; lb=2", " lb=x", "a; lb=x"} {
		req := &http.Request{Header: http.Header{"Cookie": {header}}}
		c, err := req.Cookie("lb")
		if err != nil {
			t.Fatal(header, err)
		}
		if got, _ := cookieValue(header, "lb"); got != c.Value {
			t.Errorf("%q: %q, net/http says %q", header, got, c.Value)
		}
	}
}

// The target's own cookies arrive, and edits of the route apply to ours.
func TestStickyBesideOtherCookies(t *testing.T) {
	targets, _ := stickyBackends(t, 1)
	rec := newWireRecorder(t)
	seen := stickyRoute("seen", "b.test", rec.Target)
	p := start(t, Config{Routes: []Route{stickyRoute("web", "a.test", targets...), seen, httpRoute("without", 0, "c.test", targets...)}})
	c := client(t, addr(t, p, 0), nil)
	cookies := func(host string) (names []string) {
		t.Helper()
		resp, err := c.Get("http://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		for _, c := range resp.Cookies() {
			names = append(names, c.Name)
		}
		return names
	}
	if got := cookies("a.test"); !slices.Equal(got, []string{"session", "lb"}) {
		t.Errorf("cookies %q", got)
	}
	if got := cookies("c.test"); !slices.Equal(got, []string{"session"}) {
		t.Errorf("without sticky: cookies %q", got)
	}
	req, _ := http.NewRequest("GET", "http://b.test/", nil)
	req.Header.Set("Cookie", "a=1; lb=x; b=2")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if heads := rec.take(); len(heads) != 1 || !strings.Contains(heads[0], "\r\nCookie: a=1; lb=x; b=2\r\n") {
		t.Errorf("the target got %q", heads)
	}
}
