package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// accessLines collects what is logged as JSON.
type accessLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *accessLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *accessLines) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// take returns the next n records and forgets them.
func (l *accessLines) take(t testing.TB, n int) []map[string]any {
	t.Helper()
	eventually(t, fmt.Sprintf("%d records", n), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return bytes.Count(l.text.Bytes(), []byte("\n")) >= n
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	var records []map[string]any
	for line := range bytes.Lines(l.text.Bytes()) {
		var r map[string]any
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		records = append(records, r)
	}
	l.text.Reset()
	if len(records) != n {
		t.Fatalf("%d records, want %d: %v", len(records), n, records)
	}
	return records
}

// wantRecord checks some attributes; nil stands for one that must not be there.
func wantRecord(t testing.TB, what string, got, want map[string]any) {
	t.Helper()
	for name, value := range want {
		if n, ok := value.(int); ok {
			value = float64(n)
		}
		if got[name] != value {
			t.Errorf("%s: %s is %v, want %v in %v", what, name, got[name], value, got)
		}
	}
}

type attrs = map[string]any

func TestAccessLogOfForward(t *testing.T) {
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(201)
		io.WriteString(w, "answer")
	})
	files, pool := tlsFiles(t, "a.test")
	lines := new(accessLines)
	cfg := Config{RequestID: &RequestID{}, AccessLog: &AccessLog{}, Routes: []Route{tlsRoute("r", files, forwardTo(target), "a.test")}}
	p := start(t, cfg, WithAccessLog(lines.logger()))
	ask := func(proto string) *http.Response {
		t.Helper()
		c := client(t, addr(t, p, 0), pool)
		c.Transport.(*http.Transport).ForceAttemptHTTP2 = proto == "HTTP/2.0"
		req, _ := http.NewRequest("POST", "https://a.test/a%20b/c?token=secret", strings.NewReader("0123456789"))
		req.Header = http.Header{"Authorization": {"Basic secret"}, "Cookie": {"secret=1"}, "Referer": {"https://b.test/page?secret"}, "User-Agent": {`agent "1"`},
			"X-Tenant": {"one", "two"}, "X-Other": {"other"}}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		resp := ask(proto)
		r := lines.take(t, 1)[0]
		alpn := any("h2")
		if proto == "HTTP/1.1" {
			alpn = nil
		}
		_, port, _ := net.SplitHostPort(addr(t, p, 0))
		wantRecord(t, proto, r, attrs{"level": "INFO", "msg": "request", "route": "r", "method": "POST", "scheme": "https", "host": "a.test", "path": "/a%20b/c",
			"query": nil, "protocol": proto, "status": 201, "bytes_in": 10, "bytes_out": 6, "target": fmt.Sprintf("127.0.0.1:%d", target.Port), "server_name": "a.test",
			"tls": "TLS 1.3", "alpn": alpn, "user_agent": `agent "1"`, "referer": nil, "headers": nil, "port": 0, "request_id": resp.Header.Get("X-Request-Id"),
			"refused": nil, "error": nil, "aborted": nil, "not_logged": nil})
		if ap, err := netip.ParseAddrPort(r["client"].(string)); err != nil || !ap.Addr().IsLoopback() || fmt.Sprint(ap.Port()) == port {
			t.Errorf("client %v, %v", r["client"], err)
		}
		if d, f := r["duration"].(float64), r["first_byte"].(float64); f <= 0 || f >= d || d > float64(20*time.Second) {
			t.Errorf("duration %v, first byte %v", d, f)
		}
		if r["conn_id"] == "" || strings.Contains(fmt.Sprint(r), "secret") {
			t.Errorf("%v", r)
		}
	}

	stopNow(p)
	cfg.AccessLog = &AccessLog{Query: true, Referer: true, Headers: []string{"x-tenant", "X-None"}}
	p = start(t, cfg, WithAccessLog(lines.logger()))
	ask("HTTP/2.0")
	r := lines.take(t, 1)[0]
	wantRecord(t, "with all", r, attrs{"query": "token=secret", "referer": "https://b.test/page?secret"})
	if got := fmt.Sprint(r["headers"]); got != "map[X-Tenant:one, two]" {
		t.Errorf("headers %s", got)
	}

	stopNow(p)
	cfg.AccessLog = &AccessLog{Referer: true}
	p = start(t, cfg, WithAccessLog(lines.logger()))
	ask("HTTP/2.0")
	wantRecord(t, "referer without query", lines.take(t, 1)[0], attrs{"query": nil, "referer": "https://b.test/page"})
}

func TestAccessLogOfRefusals(t *testing.T) {
	dead := Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
	files, pool := tlsFiles(t, "a.test")
	other, _ := tlsFiles(t, "b.test")
	hold := make(chan bool)
	path := func(path string, a Action) Route {
		return Route{Name: path, Match: Match{Ports: Ports(0), Path: path}, Action: a}
	}
	ok := Action{Handler: says("ok")}
	with := func(s Security) Action { return Action{Handler: says("ok"), Security: s} }
	full := Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hold <- true; <-hold }), Security: Security{MaxConnections: 1}}
	lines := new(accessLines)
	p := start(t, Config{Routes: []Route{path("/ok", ok), path("/blocked", with(Security{IPBlockList: []string{"127.0.0.1"}})),
		path("/rate", with(Security{RateLimit: &RateLimit{RequestsPerSecond: 0.001}})), path("/full", full), path("//*", forwardTo(dead)), path("/dead", forwardTo(dead)),
		tlsRoute("a", files, ok, "a.test"), tlsRoute("b", other, ok, "b.test")}}, WithAccessLog(lines.logger()))
	ask := func(path string) {
		t.Helper()
		wireTalk(t, addr(t, p, 0), "GET "+path+" HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n")
	}
	for _, test := range []struct {
		path string
		want attrs
	}{
		{"/ok", attrs{"status": 200, "route": "/ok", "refused": nil, "bytes_out": 2}},
		{"/none?x=secret", attrs{"status": 404, "route": nil, "refused": "noRoute", "path": "/none", "bytes_out": 37}},
		{"/blocked", attrs{"status": 403, "route": "/blocked", "refused": "blocked"}},
		{"/rate", attrs{"status": 200, "route": "/rate"}},
		{"/rate", attrs{"status": 429, "route": "/rate", "refused": "rateLimited"}},
		{"/a/../b?secret", attrs{"status": 400, "route": nil, "refused": "badRequest", "path": "/a/../b"}},
		{"/a#secret", attrs{"status": 400, "refused": "badRequest", "path": nil}},
		{"//a|b", attrs{"status": 400, "route": "//*", "refused": "badRequest", "path": "//a|b"}},
		{"/dead", attrs{"status": 502, "route": "/dead", "refused": nil, "target": fmt.Sprintf("127.0.0.1:%d", dead.Port), "first_byte": nil}},
	} {
		ask(test.path)
		r := lines.take(t, 1)[0]
		wantRecord(t, test.path, r, test.want)
		wantRecord(t, test.path, r, attrs{"method": "GET", "host": "h.test", "scheme": "http", "tls": nil, "aborted": nil})
		if failed := test.want["status"] == 502; (r["error"] != nil) != failed || strings.Contains(fmt.Sprint(r), "secret") {
			t.Errorf("%v", r)
		}
	}
	wireTalk(t, addr(t, p, 0), "GET /ok HTTP/1.1\r\nHost: a_b..c\r\nConnection: close\r\n\r\n")
	wantRecord(t, "bad host", lines.take(t, 1)[0], attrs{"status": 400, "refused": "badRequest", "host": "a_b..c", "path": "/ok"})

	var running sync.WaitGroup
	running.Go(func() { ask("/full") })
	receive(t, hold)
	ask("/full")
	wantRecord(t, "full", lines.take(t, 1)[0], attrs{"status": 503, "route": "/full", "refused": "routeFull"})
	send(t, hold, true)
	waitAll(t, &running)
	wantRecord(t, "not full", lines.take(t, 1)[0], attrs{"status": 200, "route": "/full"})

	c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := tlsGet(t, c, "b.test"); status != 421 {
		t.Fatal(status, err)
	}
	wantRecord(t, "misdirected", lines.take(t, 1)[0], attrs{"status": 421, "refused": "misdirected", "host": "b.test", "server_name": "a.test", "scheme": "https"})
}

func TestAccessLogOfWhatEndsEarly(t *testing.T) {
	half := wireAnswer(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	left := make(chan error, 1)
	lines := new(accessLines)
	handler := func(path string, h http.HandlerFunc) Route {
		return Route{Name: path, Match: Match{Ports: Ports(0), Path: path}, Action: Action{Handler: h}}
	}
	p := start(t, Config{Routes: []Route{
		{Name: "half", Match: Match{Ports: Ports(0), Path: "/half"}, Action: forwardTo(half)},
		handler("/panics", func(w http.ResponseWriter, r *http.Request) { panic("on purpose") }),
		handler("/endless", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					left <- err
					return
				}
			}
		}),
	}}, WithAccessLog(lines.logger()))
	c := wireDial(t, addr(t, p, 0))
	io.WriteString(c, "GET /half HTTP/1.1\r\nHost: a\r\n\r\n")
	io.Copy(io.Discard, c)
	wantRecord(t, "half", lines.take(t, 1)[0], attrs{"status": 200, "bytes_out": 4, "aborted": true})

	wireTalk(t, addr(t, p, 0), "GET /panics HTTP/1.1\r\nHost: a\r\n\r\n")
	wantRecord(t, "panics", lines.take(t, 1)[0], attrs{"status": 0, "bytes_out": 0, "aborted": true})

	c = wireDial(t, addr(t, p, 0))
	io.WriteString(c, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
	io.ReadFull(c, make([]byte, 1<<16))
	c.Close()
	receive(t, left)
	wantRecord(t, "left", lines.take(t, 1)[0], attrs{"status": 200, "aborted": true})
}

func TestAccessLogOfUpgrade(t *testing.T) {
	target := wireServer(t, func(c net.Conn) {
		b := make([]byte, 1024)
		c.Read(b)
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nhello")
		io.ReadFull(c, b[:3])
	})
	lines := new(accessLines)
	p := start(t, oneRoute(forwardTo(target)), WithAccessLog(lines.logger()))
	c := wireDial(t, addr(t, p, 0))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nbye")
	io.Copy(io.Discard, c)
	c.Close()
	wantRecord(t, "upgrade", lines.take(t, 1)[0], attrs{"msg": "request", "status": 101, "bytes_in": 3, "bytes_out": 5, "aborted": nil})
}

func TestAccessLogOfStreams(t *testing.T) {
	echo := tcpEcho(t)
	dead := Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
	files, pool := tlsFiles(t, "a.test")
	port, deadPort, blocked, socket := testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t)
	secret := tlsRoute("tls", files, forwardTo(echo.target()), "a.test")
	secret.Match.Protocol = "tcp"
	no := streamRoute("blocked", blocked, echo.target())
	no.Action.Security.IPBlockList = []string{"127.0.0.1"}
	own := Route{Name: "socket", Match: Match{Ports: Ports(socket)}, Action: Action{SocketHandler: SocketHandlerFunc(func(_ context.Context, c net.Conn, _ ConnInfo) { io.Copy(c, c) })}}
	lines := new(accessLines)
	p := start(t, Config{Routes: []Route{streamRoute("raw", port, echo.target()), streamRoute("dead", deadPort, dead), no, own, secret}}, WithAccessLog(lines.logger()))
	target := fmt.Sprintf("127.0.0.1:%d", echo.target().Port)

	c := dialTCP(t, addr(t, p, port))
	mustBounce(t, c, "hello")
	c.CloseWrite()
	io.Copy(io.Discard, c)
	r := lines.take(t, 1)[0]
	wantRecord(t, "raw", r, attrs{"msg": "stream", "route": "raw", "port": port, "bytes_in": 5, "bytes_out": 5, "target": target, "client": c.LocalAddr().String(),
		"server_name": nil, "tls": nil, "method": nil, "status": nil, "error": nil, "refused": nil})
	if r["duration"].(float64) <= 0 {
		t.Errorf("%v", r)
	}

	tc, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "A.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	mustBounce(t, tc, "hello")
	mustBounce(t, tc, "again")
	tc.Close()
	wantRecord(t, "TLS", lines.take(t, 1)[0], attrs{"msg": "stream", "route": "tls", "bytes_in": 10, "bytes_out": 10, "target": target, "server_name": "a.test", "tls": "TLS 1.3"})

	io.Copy(io.Discard, dialTCP(t, addr(t, p, deadPort)))
	r = lines.take(t, 1)[0]
	wantRecord(t, "dead", r, attrs{"route": "dead", "bytes_in": 0, "bytes_out": 0, "target": nil})
	if r["error"] == nil {
		t.Errorf("no error in %v", r)
	}
	io.Copy(io.Discard, dialTCP(t, addr(t, p, blocked)))
	wantRecord(t, "blocked", lines.take(t, 1)[0], attrs{"route": "blocked", "refused": "blocked", "target": nil})

	c = dialTCP(t, addr(t, p, socket))
	mustBounce(t, c, "hello")
	c.Close()
	wantRecord(t, "socket", lines.take(t, 1)[0], attrs{"route": "socket", "target": nil, "bytes_in": nil})
}

// Nothing that a client sends can end a line, pass for another attribute or
// make a record large.
func TestAccessLogHostile(t *testing.T) {
	lines := new(accessLines)
	cfg := Config{MaxHeaderBytes: 64 << 10, AccessLog: &AccessLog{Query: true, Referer: true, Headers: []string{"X-Tenant"}}, Routes: []Route{handlerRoute("r", Match{Path: "/*"})}}
	p := start(t, cfg, WithAccessLog(lines.logger()))
	long := strings.Repeat("x", 3000)
	for _, evil := range []string{`","status":200,"x":"`, "\t\x80\xff", `\`, "<script>", "\u2028", strings.Repeat("ü", 2500)} {
		wireTalk(t, addr(t, p, 0), fmt.Sprintf("GET /%s%s?%s%s HTTP/1.0\r\nHost: a.test\r\nUser-Agent: %s%s\r\nReferer: %s%s\r\nX-Tenant: %s%s\r\n\r\n",
			strings.ReplaceAll(evil, "\t", ""), long, strings.ReplaceAll(evil, "\t", ""), long, evil, long, evil, long, evil, long))
		lines.mu.Lock()
		raw := lines.text.String()
		lines.mu.Unlock()
		r := lines.take(t, 1)[0]
		if len(raw) > 12_000 || strings.ContainsFunc(strings.TrimSuffix(raw, "\n"), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%d bytes: %q", len(raw), raw)
		}
		wantRecord(t, evil, r, attrs{"status": 200, "route": "r", "x": nil})
		for name, limit := range map[string]int{"path": 2048, "query": 2048, "user_agent": 512, "referer": 1024} {
			if s, _ := r[name].(string); len([]rune(s)) > limit+3 || !strings.HasSuffix(s, "...") {
				t.Errorf("%s has %d runes: %.40q", name, len([]rune(s)), s)
			}
		}
	}
}

func TestAccessLogSwitches(t *testing.T) {
	off := false
	for _, test := range []struct {
		name     string
		cfg      *AccessLog
		own      bool
		own2, to int // records in the own log, and in the Proxy's
	}{
		{"nothing", nil, false, 0, 0},
		{"configured", &AccessLog{}, false, 0, 1},
		{"configured, own logger", &AccessLog{}, true, 1, 0},
		{"own logger alone", nil, true, 1, 0},
		{"disabled", &AccessLog{Enabled: &off}, true, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			proxys, own := new(accessLines), new(accessLines)
			opts := []Option{WithLogger(proxys.logger())}
			if test.own {
				opts = append(opts, WithAccessLog(own.logger()))
			}
			p := start(t, Config{AccessLog: test.cfg, Routes: []Route{handlerRoute("r", Match{})}}, opts...)
			get(t, client(t, addr(t, p, 0), nil), "http://a.test/")
			stopNow(p)
			own.take(t, test.own2)
			for _, r := range proxys.take(t, test.to) {
				wantRecord(t, "the Proxy's log", r, attrs{"component": "proxy", "msg": "request"})
			}
		})
	}
	quiet := new(accessLines)
	p := start(t, Config{Routes: []Route{handlerRoute("r", Match{})}},
		WithAccessLog(slog.New(slog.NewJSONHandler(quiet, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	get(t, client(t, addr(t, p, 0), nil), "http://a.test/")
	stopNow(p)
	quiet.take(t, 0)
}

func TestAccessLogSampling(t *testing.T) {
	t.Parallel()
	failed := func(rec *accessRecord, i int) {
		switch i % 4 {
		case 0:
			rec.status = 500
		case 1:
			rec.refused = new(rejection)
		case 2:
			rec.aborted = true
		case 3:
			rec.problem = errors.New("no")
		}
	}
	count := func(cfg AccessLog, n int, change func(*accessRecord, int)) (written int, lines *accessLines) {
		lines = new(accessLines)
		a := newAccessLog(&cfg, lines.logger(), nil)
		for i := range n {
			rec := accessRecord{conn: new(conn), method: "GET", status: 200}
			if change != nil {
				change(&rec, i)
			}
			a.write(&rec)
		}
		return bytes.Count(lines.text.Bytes(), []byte("\n")), lines
	}
	no := false
	if n, _ := count(AccessLog{Sample: 0.1}, 20_000, nil); n < 1700 || n > 2300 {
		t.Errorf("%d of 20000 with a sample of 0.1", n)
	}
	if n, _ := count(AccessLog{}, 1000, nil); n != 1000 {
		t.Errorf("%d of 1000", n)
	}
	if n, _ := count(AccessLog{Sample: 1e-9}, 100, failed); n != 100 {
		t.Errorf("%d of 100 failures", n)
	}
	if n, _ := count(AccessLog{Sample: 1e-9, Errors: &no}, 1000, failed); n != 0 {
		t.Errorf("%d of 1000 failures that are of no interest", n)
	}
	began := time.Now()
	n, lines := count(AccessLog{Sample: 1e-9}, 20_000, failed)
	if seconds := int(time.Since(began)/time.Second) + 2; n > seconds*extraErrorsPerSecond {
		t.Errorf("%d failures in %v", n, time.Since(began))
	}
	// What was left out is said, once there is room again.
	a := newAccessLog(&AccessLog{Sample: 1e-9}, lines.logger(), nil)
	a.extra.skipped.Store(7)
	lines.text.Reset()
	for range 2 {
		a.write(&accessRecord{conn: new(conn), method: "GET", status: 503})
	}
	records := lines.take(t, 2)
	wantRecord(t, "after a gap", records[0], attrs{"not_logged": 7})
	wantRecord(t, "after that", records[1], attrs{"not_logged": nil})
}

func TestAccessLogSettings(t *testing.T) {
	t.Parallel()
	var c Config
	if err := json.Unmarshal([]byte(`{"requestId":{},"accessLog":{"enabled":true,"sample":0.01,"errors":false,"query":true,"referer":true,"headers":["X-A"]}}`), &c); err != nil {
		t.Fatal(err)
	}
	if a := c.AccessLog; c.RequestID == nil || !*a.Enabled || a.Sample != 0.01 || *a.Errors || !a.Query || !a.Referer || !slices.Equal(a.Headers, []string{"X-A"}) {
		t.Errorf("%+v", a)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	var zero float64
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{AccessLog: &AccessLog{Sample: -0.1}}, "accessLog.sample: -0.1"},
		{Config{AccessLog: &AccessLog{Sample: 1.1}}, "accessLog.sample: 1.1"},
		{Config{AccessLog: &AccessLog{Sample: zero / zero}}, "accessLog.sample: NaN"},
		{Config{AccessLog: &AccessLog{Headers: []string{"X-A", "X A"}}}, `accessLog.headers[1]: "X A"`},
		{Config{AccessLog: &AccessLog{Headers: []string{"authorization"}}}, "accessLog.headers[0]: authorization holds secrets"},
		{Config{AccessLog: &AccessLog{Headers: []string{"COOKIE"}}}, "accessLog.headers[0]: COOKIE holds secrets"},
		{Config{AccessLog: &AccessLog{Headers: []string{"Proxy-Authorization"}}}, "accessLog.headers[0]: Proxy-Authorization holds secrets"},
		{Config{RequestID: &RequestID{Header: "X Y"}}, `requestId.header: "X Y" is not`},
		{Config{RequestID: &RequestID{Header: "x-forwarded-for"}}, `requestId.header: "x-forwarded-for" has a meaning`},
		{Config{RequestID: &RequestID{Header: "Connection"}}, `requestId.header: "Connection" has a meaning`},
		{Config{RequestID: &RequestID{Header: "host"}}, `requestId.header: "host" has a meaning`},
	} {
		wantFields(t, fmt.Sprintf("%+v", test.cfg), test.cfg.Validate(), test.want)
	}
}

// discard formats records and drops them.
func discard() *slog.Logger { return slog.New(slog.NewJSONHandler(io.Discard, nil)) }

func BenchmarkAccessLog(b *testing.B) {
	rt := &route{Route: &Route{Name: "web"}}
	c := &conn{id: 1 << 60, client: netip.MustParseAddrPort("192.0.2.17:40000")}
	header := http.Header{"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"}}
	for _, test := range []struct {
		name string
		log  *accessLog
	}{
		{"off", nil},
		{"sampled 1%", newAccessLog(&AccessLog{Sample: 0.01}, discard(), nil)},
		{"full", newAccessLog(&AccessLog{}, discard(), nil)},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rec := accessRecord{began: test.log.now(), conn: c, route: rt, method: "GET", protocol: "HTTP/1.1", host: "www.example.com", path: "/some/path",
					header: header, status: 200, out: 1234, firstByte: time.Millisecond}
				test.log.write(&rec)
			}
		})
	}
}

// BenchmarkForward measures the HTTP lane with what the figures of the access
// log and the rate limit have to be seen against.
func BenchmarkForward(b *testing.B) {
	target := wireServer(b, func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			if n, err := c.Read(buf); err != nil || !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"+strings.Repeat("x", 100))
		}
	})
	for _, test := range []struct {
		name   string
		change func(*Config)
	}{
		{"plain", func(*Config) {}},
		{"request id", func(c *Config) { c.RequestID = &RequestID{} }},
		{"rate limit", func(c *Config) { c.Routes[0].Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1e6} }},
		{"access log sampled", func(c *Config) { c.AccessLog = &AccessLog{Sample: 0.01} }},
		{"access log full", func(c *Config) { c.AccessLog = &AccessLog{} }},
	} {
		b.Run(test.name, func(b *testing.B) {
			cfg := oneRoute(forwardTo(target))
			test.change(&cfg)
			p := startBare(b, cfg, WithLogger(discard()))
			c := wireDial(b, addr(b, p, 0))
			c.SetDeadline(time.Time{})
			buf := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				io.WriteString(c, "GET /some/path HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: bench\r\n\r\n")
				for n := 0; n == 0 || buf[n-1] != 'x'; {
					m, err := c.Read(buf[n:])
					if err != nil {
						b.Fatal(err)
					}
					n += m
				}
			}
		})
	}
}
