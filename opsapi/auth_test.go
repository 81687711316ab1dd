package opsapi

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi/internal/password"
)

func (d *desk) tryLogin(name, secret string, headers ...string) answer {
	d.t.Helper()
	return d.post("", "adminLoginWithUsernameAndPassword", object{"username": name, "password": secret}, headers...)
}

func TestTokenLivesFifteenMinutes(t *testing.T) {
	testenv.Goroutines(t)
	now := testenv.NewClock(time.Now())
	d := openDesk(t, newHost(), nil, WithClock(now.Now))
	token := d.admin()
	now.Advance(14*time.Minute + 58*time.Second)
	d.post(token, "getRoutes", object{}).into(&routesResponse{})

	var next struct {
		Identity struct {
			JWT       string
			ExpiresAt int64
		}
	}
	d.post(token, "refreshIdentity", object{}).into(&next)
	if left := time.UnixMilli(next.Identity.ExpiresAt).Sub(now.Now()); left < 14*time.Minute || left > 15*time.Minute {
		t.Errorf("the next token lasts %v", left)
	}
	now.Advance(3 * time.Second)
	d.post(token, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.post(token, "refreshIdentity", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.post(next.Identity.JWT, "getRoutes", object{}).into(&routesResponse{})

	// However often it is refreshed, a session ends after twelve hours.
	token = next.Identity.JWT
	const step = 14 * time.Minute
	for now.Now().Sub(d.server.running().started)+step < sessionLife {
		now.Advance(step)
		d.post(token, "refreshIdentity", object{}).into(&next)
		token = next.Identity.JWT
	}
	now.Advance(step)
	d.post(token, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
}

func TestTokenDiesWithItsSession(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	stolen, other := d.admin(), d.admin()
	d.post(stolen, "getRoutes", object{}).into(&routesResponse{})
	d.post(stolen, "adminLogout", object{}).into(&nothing{})
	d.post(stolen, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.post(stolen, "refreshIdentity", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.post(other, "getRoutes", object{}).into(&routesResponse{})

	third, vera := d.admin(), d.viewer()
	d.post(other, "adminLogout", object{"everywhere": true}).into(&nothing{})
	d.post(third, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.post(vera, "getRoutes", object{}).into(&routesResponse{})
}

func TestSessionsOutlastRestart(t *testing.T) {
	store := openStore(t)
	h := newHost()
	d := openDesk(t, h, store)
	token, ended := d.admin(), d.admin()
	vera := d.viewer()
	d.post(ended, "adminLogout", object{}).into(&nothing{})
	d.stop()

	d = openDesk(t, h, store)
	d.post(token, "getRoutes", object{}).into(&routesResponse{})
	d.post(ended, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.stop()

	// Another password voids what was signed with the old one; a user who is gone
	// is gone.
	cfg := testConfig()
	cfg.Admin.Password = "another password"
	cfg.Users = nil
	d = openDeskWith(t, h, store, cfg)
	d.post(token, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.post(vera, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.signIn("admin", "another password")
	d.tryLogin("admin", adminPassword).fails(http.StatusUnauthorized, CodeUnauthenticated)
}

func TestPasswordOrHashInConfiguration(t *testing.T) {
	for _, secret := range []string{adminPassword, password.New(adminPassword).String()} {
		cfg := testConfig()
		cfg.Admin.Password = Secret(secret)
		d := openDeskWith(t, newHost(), nil, cfg)
		d.admin()
		d.tryLogin("admin", secret+"x").fails(http.StatusUnauthorized, CodeUnauthenticated)
		if secret != adminPassword {
			d.tryLogin("admin", secret).fails(http.StatusUnauthorized, CodeUnauthenticated)
		}
	}
}

func TestTenFailuresLock(t *testing.T) {
	now := testenv.NewClock(time.Now())
	cfg := testConfig()
	cfg.TrustedProxies = []string{"127.0.0.1"}
	d := openDeskWith(t, newHost(), nil, cfg, WithClock(now.Now))
	from := func(addr string) []string { return []string{"X-Forwarded-For", addr} }
	locks := func(a answer) {
		t.Helper()
		data := a.fails(http.StatusTooManyRequests, CodeLocked)
		at, err := time.Parse(time.RFC3339, asText(data["retryAt"]))
		if left := at.Sub(now.Now()); err != nil || left < lockTime-2*time.Second || left > lockTime+2*time.Second {
			t.Errorf("retry at %v, in %v: %v", data["retryAt"], left, err)
		}
		if a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "try again at 2") {
			t.Errorf("says %s, %v", a.body, a.header)
		}
	}

	// An account, from wherever.
	for i := range maxFailures {
		d.tryLogin("vera", "wrong", from(fmt.Sprintf("198.51.100.%d", i))...).fails(http.StatusUnauthorized, CodeUnauthenticated)
	}
	locks(d.tryLogin("vera", otherPassword, from("198.51.100.200")...))
	// One that there is not, just so.
	for i := range maxFailures {
		d.tryLogin("nobody", "wrong", from(fmt.Sprintf("198.51.101.%d", i))...).fails(http.StatusUnauthorized, CodeUnauthenticated)
	}
	locks(d.tryLogin("nobody", "wrong", from("198.51.101.200")...))
	// An address, for whatever account; an IPv6 one with its neighbours.
	for i := range maxFailures {
		d.tryLogin(fmt.Sprintf("user%d", i), "wrong", from("2001:db8::1")...).fails(http.StatusUnauthorized, CodeUnauthenticated)
	}
	locks(d.tryLogin("otto", otherPassword, from("2001:db8::ffff")...))
	if a := d.tryLogin("otto", otherPassword, from("2001:db8:0:1::1")...); a.status != http.StatusOK {
		t.Errorf("another network is locked: %s", a.body)
	}
	// Who has signed in before is not locked out by strangers.
	for i := range maxFailures + 1 {
		d.tryLogin("otto", "wrong", from(fmt.Sprintf("198.51.102.%d", i))...)
	}
	d.tryLogin("otto", otherPassword, from("198.51.102.200")...).fails(http.StatusTooManyRequests, CodeLocked)
	if a := d.tryLogin("otto", otherPassword, from("2001:db8:0:1::1")...); a.status != http.StatusOK {
		t.Errorf("the owner is locked out: %s", a.body)
	}
	// It ends.
	now.Advance(lockTime + time.Second)
	if a := d.tryLogin("vera", otherPassword, from("198.51.100.0")...); a.status != http.StatusOK {
		t.Errorf("still locked: %s", a.body)
	}

	var audit auditResponse
	d.post(d.admin(), "getAuditLog", object{"search": "locked for"}).into(&audit)
	if len(audit.Entries) != 2 { // vera and otto
		t.Errorf("the audit log has %v", audit.Entries)
	}
	var events securityResponse
	d.post(d.admin(), "getSecurityEvents", object{"kind": "login_locked"}).into(&events)
	if len(events.Events) != 4 {
		t.Errorf("%d security events", len(events.Events))
	}
}

func TestGuessesAtOnceCountEach(t *testing.T) {
	for name, address := range map[string]string{"from one address": "198.51.100.1", "from many": "198.51.100.%d"} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.TrustedProxies = []string{"127.0.0.1"}
			d := openDeskWith(t, newHost(), nil, cfg)
			gate := d.server.running().gate
			for range cap(gate.comparing) { // nobody gets through until all have come
				gate.comparing <- struct{}{}
			}
			var wait sync.WaitGroup
			var mu sync.Mutex
			statuses := map[int]int{}
			for i := range 60 {
				wait.Go(func() {
					from := strings.Replace(address, "%d", strconv.Itoa(i), 1)
					a := d.tryLogin("admin", "wrong", "X-Forwarded-For", from)
					mu.Lock()
					defer mu.Unlock()
					statuses[a.status]++
				})
			}
			testenv.WaitFor(t, 30*time.Second, func() error {
				mu.Lock()
				defer mu.Unlock()
				if n := statuses[http.StatusTooManyRequests] + statuses[http.StatusServiceUnavailable]; n < 60-maxFailures {
					return fmt.Errorf("%d are refused", n)
				}
				return nil
			})
			for range cap(gate.comparing) {
				<-gate.comparing
			}
			wait.Wait()
			if statuses[http.StatusUnauthorized] > maxFailures || statuses[http.StatusOK] > 0 {
				t.Errorf("got %v, want at most %d guesses", statuses, maxFailures)
			}
			d.tryLogin("admin", adminPassword, "X-Forwarded-For", "198.51.100.1").fails(http.StatusTooManyRequests, CodeLocked)
		})
	}
}

func TestForwardedForOfStrangersIsNotBelieved(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	for i := range maxFailures {
		d.tryLogin(fmt.Sprintf("user%d", i), "wrong", "X-Forwarded-For", fmt.Sprintf("198.51.100.%d", i)).fails(http.StatusUnauthorized, CodeUnauthenticated)
	}
	d.tryLogin("admin", adminPassword, "X-Forwarded-For", "198.51.100.99").fails(http.StatusTooManyRequests, CodeLocked)
}

func TestClientAddress(t *testing.T) {
	s := &Server{proxies: conf.ParseCIDRs([]string{"10.0.0.0/8", "127.0.0.1"})}
	for _, test := range []struct {
		remote string
		fields []string
		want   string
	}{
		{"192.0.2.1:1", nil, "192.0.2.1"},
		{"192.0.2.1:1", []string{"198.51.100.1"}, "192.0.2.1"},
		{"127.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"127.0.0.1:1", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		{"127.0.0.1:1", []string{"1.1.1.1, 198.51.100.1, 10.1.1.1"}, "198.51.100.1"},
		{"127.0.0.1:1", []string{"1.1.1.1", "198.51.100.1", "10.1.1.1"}, "198.51.100.1"},
		{"127.0.0.1:1", []string{"10.0.0.2, 10.0.0.1"}, "10.0.0.2"},
		{"127.0.0.1:1", []string{"bogus"}, "127.0.0.1"},
		{"[::ffff:10.0.0.1]:1", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
	} {
		r := &http.Request{RemoteAddr: test.remote, Header: http.Header{}}
		r.Header["X-Forwarded-For"] = test.fields
		if got := s.clientAddress(r); got != netip.MustParseAddr(test.want) {
			t.Errorf("%s %q: got %s, want %s", test.remote, test.fields, got, test.want)
		}
	}
}

// Whether an account exists must not show in the time that an answer takes: in
// both cases it is that of a hash, some 20 ms and more.
func TestUnknownUsersTakeAsLong(t *testing.T) {
	clock := testenv.NewClock(time.Now())
	hash := password.New("x")
	g := newGate(map[string]*account{"admin": {name: "admin", hash: &hash}, "plain": {name: "plain", secret: adminPassword}}, clock.Now)
	took := func(name string) time.Duration {
		clock.Advance(time.Hour) // so that nothing is locked
		begin := time.Now()
		_, err := g.signIn(t.Context(), name, "wrong", netip.MustParseAddr("192.0.2.1"))
		d := time.Since(begin)
		if e, ok := err.(*Error); !ok || e.Code != CodeUnauthenticated {
			t.Fatalf("got %v", err)
		}
		return d
	}
	// What a busy machine adds to either, it adds by chance: the least of enough
	// times is what the work itself takes.
	for _, name := range []string{"admin", "plain"} {
		known, unknown := took(name), took("nobody")
		alike := func() bool { return unknown > known/3 && known > unknown/3 }
		for i := 0; i < 100 && !alike(); i++ {
			known, unknown = min(known, took(name)), min(unknown, took("nobody"))
		}
		if !alike() {
			t.Errorf("%s takes %v, unknown %v", name, known, unknown)
		}
	}
}

// A hash takes megabytes, which the process would keep for minutes. So there is one
// when a password is new or there are sessions of it, and not at each start or
// sign-in.
func TestPasswordTakesNoMemory(t *testing.T) {
	const little = 4 << 20 // bytes, less than a hash takes
	took := func(do func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	store, cfg := openStore(t), testConfig()
	cfg.Admin.Password, cfg.Users = adminPassword, nil
	var d *desk
	begin := func() { d = openDeskWith(t, newHost(), store, cfg) }
	for range 2 {
		if n := took(begin); n > little {
			t.Errorf("a start takes %d bytes", n)
		}
		first := d.admin()
		if n := took(func() { d.admin() }); n > little {
			t.Errorf("to sign in takes %d bytes", n)
		}
		d.post(first, "adminLogout", object{"everywhere": true}).into(&nothing{})
		d.stop()
	}
}

// What a browser would throw away on its own machine, or a neighbour could set, is
// no good.
func TestCookieByConnection(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	body, err := json.Marshal(object{"username": "admin", "password": adminPassword, "cookie": true})
	if err != nil {
		t.Fatal(err)
	}
	request := func(host, remote string, header ...string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/api/v1/adminLoginWithUsernameAndPassword", bytes.NewReader(body))
		r.Host, r.RemoteAddr = host, remote
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	encrypted := request("localhost:3000", "127.0.0.1:1")
	encrypted.TLS = &tls.ConnectionState{}
	for _, test := range []struct {
		what  string
		r     *http.Request
		local bool
	}{
		{"by name", request("localhost:3000", "127.0.0.1:1"), true},
		{"by address", request("[::1]:3000", "[::1]:1"), true},
		{"a browser", request("localhost:3000", "127.0.0.1:1", "Origin", "http://localhost:3000"), true},
		{"by TLS", encrypted, false},
		{"another machine", request("192.0.2.9:3000", "192.0.2.1:1"), false},
		{"a proxy here", request("ops.example.com", "127.0.0.1:1"), false},
		{"a proxy that hides the name", request("127.0.0.1:3000", "127.0.0.1:1", "X-Forwarded-Proto", "https"), false},
		{"a proxy that hides all", request("127.0.0.1:3000", "127.0.0.1:1", "Origin", "https://127.0.0.1:3000"), false},
	} {
		w := httptest.NewRecorder()
		d.server.Handler().ServeHTTP(w, test.r)
		cookies := w.Result().Cookies()
		if len(cookies) != 1 {
			t.Errorf("%s: %d %s", test.what, w.Code, w.Body)
			continue
		}
		c := cookies[0]
		if c.Secure == test.local || strings.HasPrefix(c.Name, "__Host-") == test.local || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("%s: %s", test.what, c)
		}
		again := test.r.Clone(t.Context())
		again.URL.Path, again.Body = "/api/v1/getRoutes", http.NoBody
		again.AddCookie(c)
		w = httptest.NewRecorder()
		if d.server.Handler().ServeHTTP(w, again); w.Code != http.StatusOK {
			t.Errorf("%s, with the cookie: %d %s", test.what, w.Code, w.Body)
		}
		if test.local {
			continue
		}
		again.Header.Set("Cookie", localCookieName+"="+c.Value)
		w = httptest.NewRecorder()
		if d.server.Handler().ServeHTTP(w, again); w.Code != http.StatusUnauthorized {
			t.Errorf("%s, with a cookie that a neighbour can set: %d", test.what, w.Code)
		}
	}
}

func TestCookie(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	a := d.post("", "adminLoginWithUsernameAndPassword", object{"username": "admin", "password": adminPassword, "cookie": true}, "X-Forwarded-Proto", "https")
	if a.status != http.StatusOK || strings.Contains(string(a.body), "jwt") {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	cookies := (&http.Response{Header: a.header}).Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies: %v", cookies)
	}
	c := cookies[0]
	if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge <= 0 || c.MaxAge > 901 {
		t.Errorf("the cookie is %s", c)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	d.client.Jar = jar
	at, err := url.Parse(strings.Replace(d.base, "http", "https", 1)) // jars keep a Secure cookie for https
	if err != nil {
		t.Fatal(err)
	}
	jar.SetCookies(at, cookies)
	header := []string{"Cookie", c.Name + "=" + c.Value, "X-Forwarded-Proto", "https"}
	var verified struct {
		Valid    bool
		Identity map[string]any
	}
	v := d.post("", "verifyIdentity", object{}, header...)
	v.into(&verified)
	if !verified.Valid || verified.Identity["role"] != "admin" || strings.Contains(string(v.body), "jwt") {
		t.Errorf("verified %s", v.body)
	}
	r := d.post("", "refreshIdentity", object{}, header...)
	if r.status != http.StatusOK || strings.Contains(string(r.body), "jwt") || !strings.Contains(r.header.Get("Set-Cookie"), cookieName) {
		t.Errorf("refreshed %s %v", r.body, r.header)
	}
	out := d.post("", "adminLogout", object{}, header...)
	if !strings.Contains(out.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("signed out with %v", out.header)
	}
	d.post("", "getRoutes", object{}, header...).fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.post("", "verifyIdentity", object{}, header...).into(&verified)
}

func TestRoles(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	tokens := map[Role]string{RolePublic: "", RoleViewer: d.viewer(), RoleOperator: d.signIn("otto", otherPassword), RoleAdmin: d.admin()}
	writes := 0
	for _, m := range d.server.methods.list() {
		if m.name == "adminLogout" {
			continue
		}
		for role, token := range tokens {
			a := d.post(token, m.name, object{"unknownField": 1})
			code := http.StatusBadRequest // it was allowed, and the request read
			if role < m.role && role == RolePublic {
				code = http.StatusUnauthorized
			} else if role < m.role {
				code = http.StatusForbidden
			}
			if a.status != code {
				t.Errorf("%s as %s: %d %s, want %d", m.name, role, a.status, a.body, code)
			}
		}
		if m.role >= RoleOperator {
			writes++
		}
		// What changes something is not for viewers.
		for _, verb := range []string{"update", "add", "remove", "retry", "drop", "release", "quarantine", "rollback", "confirm", "revert", "renew", "disconnect"} {
			if strings.HasPrefix(m.name, verb) && m.role < RoleOperator {
				t.Errorf("%s is for %s", m.name, m.role)
			}
		}
	}
	if writes < 10 {
		t.Errorf("only %d methods are for operators", writes)
	}
}

func TestOddTokens(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	good := d.admin()
	for _, token := range []string{"x", good[:len(good)-2], good + "A", strings.Repeat("a", 5000), "a.b.c"} {
		d.post(token, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	}
}

func FuzzClientAddress(f *testing.F) {
	s := &Server{proxies: conf.ParseCIDRs([]string{"10.0.0.0/8", "127.0.0.1"})}
	f.Add("127.0.0.1:1", "198.51.100.1, 10.0.0.1", "10.0.0.1")
	f.Add("[::1%lo]:1", ",", "fe80::1%eth0")
	f.Fuzz(func(t *testing.T, remote, first, second string) {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {first, second}}}
		addr := s.clientAddress(r)
		if own := parseAddr(remote); !s.trusts(own) && addr != own {
			t.Errorf("%q is taken for %s", remote, addr)
		}
		if addr.Zone() != "" || addr.Is4In6() {
			t.Errorf("%s is not plain", addr)
		}
		lockoutKey(addr)
	})
}
