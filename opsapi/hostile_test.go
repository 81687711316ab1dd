package opsapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// A user who shares an address with another, as behind one proxy or one NAT,
// must not be able to guess that one's password: not by signing in between
// guesses, and not because the other has signed in from there.
func TestSigningInBetweenDoesNotAllowMoreGuesses(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	d.admin() // the address is familiar
	guesses := 0
	for range 4 {
		for range maxFailures - 1 {
			if d.tryLogin("admin", "wrong").status == http.StatusUnauthorized {
				guesses++
			}
		}
		d.tryLogin("vera", otherPassword)
	}
	if guesses > maxFailures {
		t.Errorf("%d guesses, want at most %d", guesses, maxFailures)
	}
}

// Who mistypes his password and then does not is not counted for long: signing
// in takes back nothing but its own attempt.
func TestSuccessesDoNotCount(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	for range 3 * maxFailures {
		d.viewer()
	}
	for range maxFailures - 1 {
		d.tryLogin("vera", "wrong").fails(http.StatusUnauthorized, CodeUnauthenticated)
	}
	d.viewer()
	d.tryLogin("vera", "wrong").fails(http.StatusUnauthorized, CodeUnauthenticated)
	d.tryLogin("vera", otherPassword).fails(http.StatusTooManyRequests, CodeLocked)
}

// That an account is locked is not forgotten for the many names that somebody
// with many addresses can try.
func TestOtherNamesDoNotUnlock(t *testing.T) {
	g := newGate(map[string]*account{"admin": {name: "admin", secret: adminPassword}}, time.Now)
	tries := 0
	try := func(name, password string) error {
		tries++ // nine from each /64
		_, err := g.signIn(t.Context(), name, password, netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::1", tries/9)))
		return err
	}
	code := func(err error) string {
		var e *Error
		errors.As(err, &e)
		return e.Code
	}
	for range maxFailures {
		try("admin", "wrong")
	}
	for i := range lockoutKeys {
		if got := code(try(fmt.Sprint("name", i), "wrong")); got != CodeUnauthenticated {
			t.Fatalf("name %d: %s", i, got)
		}
	}
	if err := try("admin", adminPassword); err == nil || code(err) != CodeLocked {
		t.Errorf("the account is locked no more: %v", err)
	}
}

// Whether a secret is the one in force shows in what is said of a configuration
// that has it: who may not change it must not try, for nobody counts.
func TestOnlyAdminsTryOutSecrets(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	otto := d.signIn("otto", otherPassword)
	for _, guess := range []string{"wrong", secretToken} {
		for _, method := range []string{"validateConfiguration", "updateConfiguration"} {
			d.post(otto, method, object{"configuration": object{"apiToken": guess}}).fails(http.StatusForbidden, CodeForbidden)
		}
	}
	d.post(otto, "validateRoutes", object{"routes": []object{{"name": "web", "port": 443, "password": "***"}}}).into(&validateResponse{})
}

// However much there is to read, a stream ends with its session.
func TestFloodedStreamEndsWithItsSession(t *testing.T) {
	testenv.Goroutines(t)
	d := openDesk(t, newHost(), nil)
	token := d.admin()
	own, _, _, err := d.server.running().sessions.find(token)
	if err != nil {
		t.Fatal(err)
	}
	st := &stream{boot: "x", feeds: []*feed{{topic: topicLog, read: func(n uint64) ([]numbered, uint64, uint64, error) {
		return []numbered{{n + 1, []byte("{}")}}, 0, n + streamBatch, nil // there is always more
	}}}}
	d.post(token, "adminLogout", object{}).into(&nothing{})
	writes, said := 0, ""
	d.server.follow(t.Context(), d.server.running(), &caller{session: own}, st, func() error {
		said += st.out.String()
		st.out.Reset()
		if writes++; writes > 100 {
			return errors.New("it goes on")
		}
		return nil
	})
	if writes > 2 || !strings.Contains(said, "signed out") {
		t.Errorf("%d writes after signing out", writes)
	}
}

// Strangers who send large requests slowly do not keep out those who have
// signed in, nor do those who send small ones.
func TestStrangersDoNotUseUpTheRoomForBodies(t *testing.T) {
	for name, size := range map[string]int{"large": smallBody + 1000, "small": 1000} {
		t.Run(name, func(t *testing.T) {
			d := openDesk(t, newHost(), nil)
			token := d.admin()
			many := maxLarge + 1
			if size < smallBody {
				many = maxSmall + 1
			}
			for i := range many {
				d.sendSlowly(i%8+2, size)
			}
			room := &d.server.running().strangers
			testenv.WaitFor(t, 30*time.Second, func() error {
				if room.large.number() < maxLarge && room.small.number() < maxSmall {
					return errors.New("there is room")
				}
				return nil
			})
			large := strings.Repeat(" ", 2*smallBody)
			if a := d.send(http.MethodPost, "/api/v1/getRoutes", token, []byte("{"+large+"}")); a.status != http.StatusOK {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
}

// sendSlowly begins a request from 127.0.0.n, with a body that lacks its last byte.
func (d *desk) sendSlowly(n, size int) net.Conn {
	d.t.Helper()
	conn, err := d.dialerFrom(n).Dial("tcp", d.server.Addr().String())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, "POST /api/v1/getHealthStatus HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", size+1, strings.Repeat(" ", size)); err != nil {
		d.t.Fatal(err)
	}
	return conn
}

// dialerFrom dials from 127.0.0.n.
func (d *desk) dialerFrom(n int) *net.Dialer {
	d.t.Helper()
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(testenv.Loopback(d.t, fmt.Sprintf("127.0.0.%d", n)))}}
}

// number is how many places are taken.
func (p *places) number() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// One stranger takes neither all the room for bodies, nor all connections.
func TestOneStrangerLeavesRoom(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	for range maxConnections / 4 {
		d.sendSlowly(2, 1)
	}
	one, err := d.dialerFrom(2).Dial("tcp", d.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	one.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := one.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection more: %v", err)
	}
	small := d.server.running().strangers.small
	testenv.WaitFor(t, 30*time.Second, func() error {
		if n := small.number(); n != maxSmall/4 {
			return fmt.Errorf("%d bodies are read", n)
		}
		return nil
	})
	d.viewer() // from another address
}

// A proxy in front that is trusted has the connections of all its clients.
func TestTrustedProxiesHaveAllConnections(t *testing.T) {
	for _, trusted := range []bool{false, true} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		bounded := newBoundedListener(ln, 8, func(netip.Addr) bool { return trusted }, func(string) {})
		go http.Serve(bounded, http.NotFoundHandler())
		served := 0
		for range 8 {
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if n, _ := conn.Read(make([]byte, 1)); n == 1 {
				served++
			}
		}
		bounded.Close()
		if want := map[bool]int{false: 2, true: 8}[trusted]; served != want {
			t.Errorf("trusted %t: %d connections are served, want %d", trusted, served, want)
		}
	}
}

// Who has a share has no more, until he gives something back; others have theirs.
func TestPlaces(t *testing.T) {
	p := newPlaces(5, 2)
	a, b := holder(netip.MustParseAddr("2001:db8::1")), holder(netip.MustParseAddr("2001:db8:0:ff::1"))
	other := holder(netip.MustParseAddr("2001:db8:1::1"))
	for i, step := range []struct {
		who  string
		want bool
	}{{a, true}, {b, true}, {a, false}, {other, true}, {holder(netip.Addr{}), true}, {"", true}, {"", false}, {other, false}} {
		if got := p.take(step.who); got != step.want {
			t.Errorf("%d: %q: %t", i, step.who, got)
		}
	}
	for _, who := range []string{a, b, other, "", ""} {
		p.release(who)
	}
	if p.taken != 0 || len(p.by) != 0 {
		t.Errorf("%d, %v are left", p.taken, p.by)
	}
}

// What is searched is compared with the text as often as there is something to
// search, so a long one would take minutes.
func TestSearchesAreShort(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.admin()
	searches := 0
	for _, m := range d.server.methods.list() {
		request := object{"search": strings.Repeat("x", maxSearch+1)}
		if m.name == "getDnsRecords" {
			request["zone"] = "example.com"
		}
		a := d.post(token, m.name, request)
		if a.status != http.StatusBadRequest || !strings.Contains(string(a.body), `"path":"search"`) { // or it knows no such field
			t.Errorf("%s: %d %s", m.name, a.status, a.body)
		}
		if strings.Contains(string(a.body), "longer") {
			searches++
			request["search"] = strings.Repeat("x", maxSearch)
			if a := d.post(token, m.name, request); a.status != http.StatusOK {
				t.Errorf("%s: %d %s", m.name, a.status, a.body)
			}
		}
	}
	if searches < 6 {
		t.Errorf("%d methods search", searches)
	}
	d.send(http.MethodGet, "/api/v1/events?search="+strings.Repeat("x", maxSearch+1), token, nil).fails(http.StatusBadRequest, CodeInvalid)
}

// One user's sessions do not end another's.
func TestSessionsOfOneUserDoNotEndOthers(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	admin, first := d.admin(), d.viewer()
	s := d.server.running().sessions
	for range maxSessions + 5 {
		if _, err := s.begin(t.Context(), s.accounts["vera"]); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.live); n != maxSessions+1 {
		t.Errorf("%d sessions", n)
	}
	d.post(admin, "getRoutes", object{}).into(&routesResponse{})
	d.post(first, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
}

// One user's streams leave room for others'.
func TestStreamsOfOneUserLeaveRoom(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.viewer()
	for range maxUserStreams {
		if r := d.follow(token, "topics=health"); r.status != http.StatusOK {
			t.Fatalf("status %d", r.status)
		}
	}
	d.send(http.MethodGet, "/api/v1/events", token, nil).fails(http.StatusServiceUnavailable, "busy")
	if r := d.follow(d.admin(), "topics=health"); r.status != http.StatusOK {
		t.Errorf("status %d for another user", r.status)
	}
}

// unsteady is a storage that does what it is asked for and says that it has not.
type unsteady struct {
	storage.Backend
	failing atomic.Bool
}

func (u *unsteady) Put(ctx context.Context, key string, value []byte) error {
	err := u.Backend.Put(ctx, key, value)
	if u.failing.Load() {
		return errors.New("timeout")
	}
	return err
}

// bare hides what a backend can do beyond the least.
type bare struct{ storage.Backend }

// What becomes of one entry of the audit log does not keep out those after it.
func TestAuditLogOutlastsTroubleWithTheStorage(t *testing.T) {
	backend := &unsteady{Backend: bare{storage.Memory()}}
	store, err := storage.Open(t.Context(), backend)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	d := openDesk(t, newHost(), store)
	token := d.admin()
	backend.failing.Store(true)
	d.post(token, "retryEmail", object{"id": "m1"}).into(&nothing{})
	backend.failing.Store(false)
	d.post(token, "dropEmail", object{"id": "m1"}).into(&nothing{})
	var log auditResponse
	d.post(token, "getAuditLog", object{}).into(&log)
	if len(log.Entries) == 0 || log.Entries[0].Method != "dropEmail" {
		t.Errorf("the log has %+v", log.Entries)
	}
}

// A page whose name was made to lead here (DNS rebinding) is of this origin as
// its browser sees it, and runs on this machine.
func TestMetricsAreNotForRebindingPages(t *testing.T) {
	d := openDesk(t, newHost(), nil, WithMetrics(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metric 1\n") })))
	_, port, err := net.SplitHostPort(d.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{"127.0.0.1": 200, "localhost": 200, "LOCALHOST": 200, "[::1]": 200, "evil.example": 401, "localhost.evil.example": 401, "192.0.2.1": 401} {
		for _, host := range []string{host, host + ":" + port} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.base+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = host
			resp, err := d.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("Host %s: %d, want %d", host, resp.StatusCode, want)
			}
		}
	}
}

// Pages of other origins cannot hold streams open either, which go by GET.
func TestStreamsAreNotForOtherOrigins(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	for _, site := range []string{"cross-site", "same-site"} {
		d.send(http.MethodGet, "/api/v1/events", "", nil, "Cookie", cookieName+"="+d.admin(), "Sec-Fetch-Site", site).fails(http.StatusForbidden, CodeForbidden)
	}
}

// A user cannot have the name by which the history calls the host program:
// what he changes would not come back after a restart.
func TestNobodyIsCalledHost(t *testing.T) {
	cfg := testConfig()
	cfg.Users = append(cfg.Users, User{hostAuthor, "x", "admin"})
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "users[2].username") {
		t.Errorf("got %v", err)
	}
}

// A request that is still being read when the Server has stopped ends in an
// error, not in a panic.
func TestRequestThatOutlastsTheServer(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	handler := d.server.Handler()
	body, more := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/getRoutes", body)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan any, 1)
	go func() {
		defer func() { body.Close(); done <- recover() }()
		handler.ServeHTTP(discardResponse{}, r)
	}()
	if _, err := more.Write([]byte("{")); err != nil { // it is being read
		t.Fatal(err)
	}
	d.stop()
	more.Write([]byte(strings.Repeat(" ", 2*smallBody) + "}"))
	more.Close()
	if panicked := testenv.Receive(t, done); panicked != nil {
		t.Errorf("panic: %v", panicked)
	}
}

type discardResponse struct{}

func (discardResponse) Header() http.Header         { return http.Header{} }
func (discardResponse) Write(p []byte) (int, error) { return len(p), nil }
func (discardResponse) WriteHeader(int)             {}

// Nesting and repetition in a request cost no more than its size.
func TestDeepAndWideRequests(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.admin()
	const n = maxBody / 16
	for name, body := range map[string]string{
		"lists":      strings.Repeat("[", n),
		"objects":    strings.Repeat(`{"a":`, n/5),
		"closed":     strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
		"in routes":  `{"routes":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}",
		"in unknown": `{"x":` + strings.Repeat("[", n/2) + strings.Repeat("]", n/2) + "}",
		"identity":   `{"identity":` + strings.Repeat(`{"jwt":`, 9000) + "1" + strings.Repeat("}", 9000) + "}",
		"repeated":   "{" + strings.Repeat(`"routes":[],`, n/12) + `"routes":[]}`,
		"escapes":    `{"routes":"` + strings.Repeat(`\u0000`, n/6) + `"}`,
	} {
		for _, path := range []string{"/api/v1/updateRoutes", "/typedrequest"} {
			a := d.send(http.MethodPost, path, token, []byte(body))
			if path == "/typedrequest" && a.status != 200 || path != "/typedrequest" && a.status != 400 || len(a.body) > 1<<20 {
				t.Errorf("%s to %s: %d, %d bytes: %.200s", name, path, a.status, len(a.body), a.body)
			}
		}
	}
	d.post(token, "getRoutes", object{}).into(&routesResponse{})
}
