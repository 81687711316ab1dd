package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// headerValues returns the values of a header in a raw head, by its exact name
// as on the wire but for case.
func headerValues(head, name string) []string {
	var values []string
	for line := range strings.SplitSeq(head, "\r\n") {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

// stopNow stops the first of two proxies of a test before the second one's
// check for goroutines, which would find those of the first.
func stopNow(p *Proxy) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	p.Stop(ctx)
}

// headersAt sends a request with the given header lines and returns the head
// that the target gets.
func headersAt(t *testing.T, p *Proxy, rec *wireRecorder, lines string) string {
	t.Helper()
	got := wireTalk(t, addr(t, p, 0), "GET /p HTTP/1.1\r\nHost: a.test:8080\r\nConnection: close\r\n"+lines+"\r\n")
	heads := rec.take()
	if len(heads) != 1 {
		t.Fatalf("%q: target got %q, client %q", lines, heads, got)
	}
	return heads[0]
}

func TestForwardedHeaders(t *testing.T) {
	rec := newWireRecorder(t)
	stranger := start(t, oneRoute(forwardTo(rec.Target)))
	cfg := oneRoute(forwardTo(rec.Target))
	cfg.TrustedProxies = []string{"127.0.0.0/8"}
	trusting := start(t, cfg)

	t.Cleanup(func() { stopNow(stranger) })

	const claims = "X-Forwarded-For: 192.0.2.66\r\nX-Forwarded-For: 192.0.2.67\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 666\r\n" +
		"X-Real-IP: 192.0.2.68\r\nForwarded: for=192.0.2.69\r\n"
	plain := map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "a.test:8080", "X-Forwarded-Port": "8080", "X-Real-IP": "127.0.0.1"}
	check := func(name, head string, want map[string]string) {
		t.Helper()
		for header, value := range want {
			if got := headerValues(head, header); !slices.Equal(got, []string{value}) {
				t.Errorf("%s: %s is %q, want %q", name, header, got, value)
			}
		}
	}
	check("nothing claimed", headersAt(t, stranger, rec, ""), plain)
	check("nothing claimed by a trusted proxy", headersAt(t, trusting, rec, ""), plain)
	head := headersAt(t, stranger, rec, claims)
	check("stranger", head, plain)
	for _, forged := range []string{"192.0.2.6", "evil.test", "666"} {
		if strings.Contains(head, forged) {
			t.Errorf("a stranger's %s reaches the target: %q", forged, head)
		}
	}
	head = headersAt(t, trusting, rec, claims)
	check("trusted proxy", head, map[string]string{"X-Forwarded-For": "192.0.2.66, 192.0.2.67, 127.0.0.1", "X-Forwarded-Proto": "https",
		"X-Forwarded-Host": "evil.test", "X-Forwarded-Port": "666", "X-Real-IP": "192.0.2.68"})
	if got := headerValues(head, "Forwarded"); len(got) != 1 || !strings.HasPrefix(got[0], "for=192.0.2.69") {
		t.Errorf("trusted proxy: Forwarded is %q", got)
	}

	// Everything that begins with X-Forwarded- is a claim about the client.
	for _, header := range []string{"X-Forwarded-Ssl", "X-Forwarded-Scheme", "X-Forwarded-Prefix", "X-Forwarded-User", "X-Forwarded-Server", "X-Forwarded-Client-Cert", "X-Forwarded-Tls-Client-Cert", "X-Forwarded-By"} {
		if head := headersAt(t, stranger, rec, header+": forged\r\n"); strings.Contains(head, "forged") {
			t.Errorf("a stranger's %s reaches the target", header)
		}
	}
	// Names that CGI and the like cannot tell from the real ones.
	for _, header := range []string{"X_Forwarded_For", "X-Forwarded_For", "x_forwarded-for", "X_FORWARDED_PROTO", "X-Forwarded.For", "X.Forwarded.Host", "X_Real_IP", "X-Real.IP", "X_Forwarded_Port", "X_Forwarded_Server", "X_Forwarded_Prefix"} {
		for name, p := range map[string]*Proxy{"a stranger": stranger, "a trusted proxy": trusting} {
			if head := headersAt(t, p, rec, header+": forged\r\n"); strings.Contains(head, "forged") || strings.Contains(strings.ToLower(head), strings.ToLower(header)) {
				t.Errorf("%s of %s reaches the target: %q", header, name, head)
			}
		}
	}
	// Others with such characters are nobody's business.
	if head := headersAt(t, stranger, rec, "My_Header.x: 1\r\n"); !slices.Equal(headerValues(head, "My_Header.x"), []string{"1"}) {
		t.Errorf("My_Header.x is lost: %q", head)
	}
}

// A client that names our headers in Connection must not get them removed
// (Traefik CVE-2024-45410), and what it names does not get through.
func TestConnectionHeaders(t *testing.T) {
	rec := newWireRecorder(t)
	a := forwardTo(rec.Target)
	a.Headers.Request.Set = map[string]string{"X-Secret": "ours"}
	p := start(t, oneRoute(a))
	for _, lines := range []string{
		"Connection: X-Forwarded-For\r\nConnection: x-real-ip, X-Forwarded-Proto\r\nConnection: X-Secret, X-Forwarded-Host, X-Forwarded-Port\r\n",
		"Connection: close, X-Forwarded-For, X-Real-IP, X-Secret\r\nX-Forwarded-For: 192.0.2.1\r\nX-Secret: theirs\r\n",
	} {
		head := headersAt(t, p, rec, lines)
		for header, value := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "a.test:8080", "X-Forwarded-Port": "8080", "X-Secret": "ours"} {
			if got := headerValues(head, header); !slices.Equal(got, []string{value}) {
				t.Errorf("%q: %s is %q, want %q", lines, header, got, value)
			}
		}
	}
	head := headersAt(t, p, rec, "Connection: X-Hop, Keep-Alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nProxy-Authorization: Basic eA==\r\nTrailer: X-T\r\nX-End: 1\r\n")
	for _, name := range []string{"X-Hop", "Keep-Alive", "Proxy-Connection", "Te", "Proxy-Authorization", "Connection", "Upgrade"} {
		if got := headerValues(head, name); len(got) > 0 {
			t.Errorf("%s: %q reaches the target", name, got)
		}
	}
	if got := headerValues(head, "X-End"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("X-End is %q", got)
	}

	// The same from the target to the client.
	target := wireAnswer(t, "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-End: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n")
	p = start(t, oneRoute(forwardTo(target)))
	resp, err := client(t, addr(t, p, 0), nil).Get("http://a/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, name := range []string{"X-Hop", "Keep-Alive", "Proxy-Authenticate"} {
		if got := resp.Header.Values(name); len(got) > 0 {
			t.Errorf("%s: %q reaches the client", name, got)
		}
	}
	if resp.Header.Get("X-End") != "1" || !slices.Equal(resp.Header.Values("Set-Cookie"), []string{"a", "b"}) {
		t.Errorf("response headers %v", resp.Header)
	}
}

// What is nobody's business goes through as it came, and nothing is added.
func TestHeadersUntouched(t *testing.T) {
	rec := newWireRecorder(t)
	p := start(t, oneRoute(forwardTo(rec.Target)))
	head := headersAt(t, p, rec, "Cookie: a=1; b=2\r\nAuthorization: Basic eA==\r\nX-Empty:\r\nX-Twice: 1\r\nX-Twice: 2\r\nAccept-Encoding: br\r\nX-Bytes: \xc3\xbc \xff\r\n")
	for name, want := range map[string][]string{
		"Cookie": {"a=1; b=2"}, "Authorization": {"Basic eA=="}, "X-Empty": {""}, "X-Twice": {"1", "2"}, "Accept-Encoding": {"br"}, "X-Bytes": {"\xc3\xbc \xff"},
		"User-Agent": nil, "Forwarded": nil, "Via": nil, "Host": {"a.test:8080"}, "Content-Length": nil, "Transfer-Encoding": nil, "Accept": nil,
	} {
		if got := headerValues(head, name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if head := headersAt(t, p, rec, "User-Agent: mine\r\n"); !slices.Equal(headerValues(head, "User-Agent"), []string{"mine"}) {
		t.Errorf("User-Agent: %q", head)
	}
	if head := headersAt(t, p, rec, ""); len(headerValues(head, "Accept-Encoding")) > 0 {
		t.Errorf("Accept-Encoding added: %q", head)
	}
}

func TestRequestEdits(t *testing.T) {
	rec := newWireRecorder(t)
	a := forwardTo(rec.Target)
	a.Headers.Request = HeaderEdit{
		Remove: []string{"x-gone", "Cookie", "X-Moved"},
		Set: map[string]string{"host": "inner.{host}", "X-Set": "set", "X-Moved": "new",
			"X-All": "{client_ip} {host} {scheme} {port} {route}", "X-Forwarded-For": "hidden"},
		Add: map[string]string{"X-Add": "added", "X-Set": "and more"},
	}
	p := start(t, oneRoute(a))
	head := headersAt(t, p, rec, "X-Gone: 1\r\nX-Gone: 2\r\nCookie: a\r\nX-Set: client\r\nX-Add: client\r\nX-Moved: old\r\nX-Keep: k\r\n")
	for name, want := range map[string][]string{
		"X-Gone": nil, "Cookie": nil, "X-Set": {"set", "and more"}, "X-Add": {"client", "added"}, "X-Moved": {"new"}, "X-Keep": {"k"},
		"X-All": {"127.0.0.1 a.test http 8080 r"}, "Host": {"inner.a.test"}, "X-Forwarded-For": {"hidden"},
		"X-Forwarded-Host": {"a.test:8080"}, // what the client asked for
	} {
		if got := headerValues(head, name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestResponseEdits(t *testing.T) {
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Gone", "1")
		w.Header().Set("X-Set", "target")
		w.Header().Set("X-Add", "target")
		w.Header().Set("Server", "target")
		io.WriteString(w, "ok")
	})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := targetOf(closed.Addr())
	closed.Close()
	folder := testenv.Folder(t)
	if err := os.WriteFile(filepath.Join(folder, "f.txt"), []byte("file"), 0o644); err != nil {
		t.Fatal(err)
	}
	route := func(name string, a Action) Route {
		a.Headers.Response = HeaderEdit{
			Remove: []string{"X-Gone", "Server"},
			Set:    map[string]string{"X-Set": "{route} {client_ip} {host} {scheme}", "Strict-Transport-Security": "max-age=1"},
			Add:    map[string]string{"X-Add": "added"},
		}
		return Route{Name: name, Match: Match{Ports: Ports(0), Domains: []string{name + ".test"}, Protocol: "http"}, Action: a}
	}
	p := start(t, Config{Routes: []Route{
		route("forward", forwardTo(target)),
		route("dead", forwardTo(nobody)),
		route("redirect", Action{Type: Redirect, Redirect: RedirectTo{To: "https://x/"}}),
		route("static", Action{Type: Serve, Root: folder}),
		route("handler", Action{Handler: says("ok")}),
		route("flusher", Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() })}),
		route("controller", Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.NewResponseController(w).Flush() })}),
		route("status", Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })}),
		route("hints", Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); w.WriteHeader(201) })}),
		route("copied", Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, strings.NewReader("body")) })}),
	}})
	c := client(t, addr(t, p, 0), nil)
	for _, test := range []struct {
		url    string
		status int
	}{
		{"http://forward.test/", 200}, {"http://dead.test/", 502}, {"http://redirect.test/", 308}, {"http://static.test/f.txt", 200}, {"http://static.test/none", 404},
		{"http://handler.test/", 200}, {"http://flusher.test/", 200}, {"http://controller.test/", 200}, {"http://status.test/", 204}, {"http://hints.test/", 201}, {"http://copied.test/", 200},
	} {
		resp, err := c.Get(test.url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		name, _, _ := strings.Cut(strings.TrimPrefix(test.url, "http://"), ".")
		add := []string{"added"}
		if name == "forward" {
			add = []string{"target", "added"}
		}
		if resp.StatusCode != test.status || resp.Header.Get("X-Gone") != "" || resp.Header.Get("Server") != "" ||
			!slices.Equal(resp.Header.Values("X-Set"), []string{name + " 127.0.0.1 " + name + ".test http"}) || !slices.Equal(resp.Header.Values("X-Add"), add) || resp.Header.Get("Strict-Transport-Security") != "max-age=1" {
			t.Errorf("%s: %d %v", test.url, resp.StatusCode, resp.Header)
		}
	}
}

// Nothing that a client sends may end a header line that a template makes.
func TestHeaderInjection(t *testing.T) {
	rec := newWireRecorder(t)
	a := forwardTo(rec.Target)
	a.Headers.Request.Set = map[string]string{"X-Tpl": "{host}|{port}|{route}|{client_ip}|{scheme}", "Host": "{host}"}
	a.Headers.Response.Set = a.Headers.Request.Set
	p := start(t, oneRoute(a))
	for _, host := range []string{"a%0d%0aX-Evil:1", "a\tX-Evil:1", "a:80%0d%0aX-Evil", "[::1%0d%0aX-Evil]", "a:\"x", "a.test:00080", "a.test:99999", "a.test:", "A.test"} {
		got := wireReply(t, addr(t, p, 0), "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		for _, head := range append(rec.take(), got) {
			if strings.Contains(head, "\nX-Evil") || strings.Contains(head, "\rX-Evil") {
				t.Errorf("Host %q: %q", host, head)
			}
			if wireStatus(got) != 400 && len(headerValues(head, "X-Tpl")) != 1 {
				t.Errorf("Host %q: %q", host, head)
			}
		}
	}
	// A route's name comes from the configuration, but that may be written by a
	// program: it is either refused or cannot end a line.
	cfg := oneRoute(a)
	cfg.Routes[0].Name = "r\r\nX-Evil: 1"
	if _, err := New(cfg); err != nil {
		return
	}
	p = start(t, cfg)
	got := wireReply(t, addr(t, p, 0), "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	for _, head := range append(rec.take(), got) {
		if strings.Contains(head, "\nX-Evil") {
			t.Errorf("injected by the route's name: %q", head)
		}
	}
	if wireStatus(got) != 200 {
		t.Errorf("a route with a line break in its name is accepted and answers %.60q", got)
	}
}

func TestHostPort(t *testing.T) {
	c, err := net.Dial("tcp", addr(t, start(t, oneRoute(Action{Handler: says("")})), 0))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cc := &conn{local: addrPort(c.RemoteAddr())}
	port := fmt.Sprint(cc.local.Port())
	for _, test := range []struct{ host, name, port string }{
		{"a", "a", port}, {"a:80", "a", "80"}, {"a:", "a", port}, {"[::1]", "[::1]", port}, {"[::1]:80", "[::1]", "80"}, {"[::1]:", "[::1]", port}, {"", "", port},
	} {
		if name, got := hostPort(cc, test.host); name != test.name || got != test.port {
			t.Errorf("%q: %q %q, want %q %q", test.host, name, got, test.name, test.port)
		}
	}
}

func TestIsForwardedHeader(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"X-Forwarded-For", "x-forwarded-proto", "X-REAL-IP", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Port"} {
		if !isForwardedHeader(name) {
			t.Errorf("%s is not known", name)
		}
	}
	for _, name := range []string{"X-Forward", "For", "Host", ""} {
		if isForwardedHeader(name) {
			t.Errorf("%s is taken for one", name)
		}
	}
	for _, name := range []string{"Connection", "keep-alive", "TE", "Upgrade", "transfer-encoding", "Trailer", "Proxy-Connection"} {
		if !isHopByHop(name) {
			t.Errorf("%s is not known", name)
		}
	}
}

// Many headers in few bytes are as much work as long ones.
func TestManyHeaders(t *testing.T) {
	rec := newWireRecorder(t)
	p := start(t, oneRoute(forwardTo(rec.Target)))
	var lines strings.Builder
	for i := range 200 {
		fmt.Fprintf(&lines, "X-%d: %d\r\n", i, i)
	}
	head := headersAt(t, p, rec, lines.String())
	h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(head[strings.Index(head, "\n")+1:]))).ReadMIMEHeader()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if h.Get(fmt.Sprintf("X-%d", i)) != fmt.Sprint(i) {
			t.Fatalf("X-%d is lost", i)
		}
	}
}
