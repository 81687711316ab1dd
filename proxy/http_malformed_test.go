package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// What must not reach a target: requests that it might read differently.
func TestHTTPMalformed(t *testing.T) {
	rec := newWireRecorder(t)
	p := start(t, oneRoute(forwardTo(rec.Target)))
	bad := func() uint64 { return p.Stats().Refused["badRequest"] }
	get := func(head string) string { return "GET / HTTP/1.1\r\n" + head + "\r\n\r\n" }
	post := func(head, body string) string { return "POST / HTTP/1.1\r\nHost: a\r\n" + head + "\r\n\r\n" + body }
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, test := range []struct {
		name, send string
		status     int // 0: any refusal
	}{
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"two Hosts", get("Host: a\r\nHost: b"), 400},
		{"Host with a space", get("Host: a b"), 400},
		{"Host with a slash", get("Host: a/b"), 400},
		{"Host with a user", get("Host: u@a"), 400},
		{"Host with an empty label", get("Host: a..b"), 400},
		{"Host with a bad port", get("Host: a:x"), 400},
		{"Host with a long port", get("Host: a:123456"), 400},
		{"Host, open bracket", get("Host: [::1"), 400},
		{"Host, list", get("Host: a, b"), 400},
		{"Host, NUL", get("Host: a\x00b"), 400},
		{"Host, too long", get("Host: " + strings.Repeat("a.", 130) + "a"), 400},
		{"Host, zone", get("Host: [fe80::1%25EVIL]"), 400},
		{"Host, bare IPv6", get("Host: 2001:db8::1"), 400},
		{"Host, a dot", get("Host: ."), 400},
		{"absolute form, bad host", "GET http://a..b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"space before colon", get("Host: a\r\nX-A : b"), 400},
		{"empty header name", get("Host: a\r\n: b"), 400},
		{"header without colon", get("Host: a\r\nnothing"), 400},
		{"header name with a space", get("Host: a\r\nX A: b"), 400},
		{"header name, control", get("Host: a\r\nX\x01A: b"), 400},
		{"header value, NUL", get("Host: a\r\nX-A: b\x00c"), 400},
		{"header value, CR", get("Host: a\r\nX-A: b\rX-B: c"), 400},
		{"first header folded", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
		{"bad version", "GET / HTTP/1.x\r\nHost: a\r\n\r\n", 400},
		{"version 3", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505},
		{"no version", "GET /\r\n\r\n", 400},
		{"space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"two lengths", post("Content-Length: 3\r\nContent-Length: 4", "abcd"), 400},
		{"length list", post("Content-Length: 3, 4", "abcd"), 400},
		{"empty length", post("Content-Length: ", "abc"), 400},
		{"length with a sign", post("Content-Length: +3", "abc"), 400},
		{"negative length", post("Content-Length: -1", "abc"), 400},
		{"hexadecimal length", post("Content-Length: 0x3", "abc"), 400},
		{"length too large", post("Content-Length: 99999999999999999999", "abc"), 400},
		{"encoding with a tab", post("Transfer-Encoding: \tchunked, identity", "0\r\n\r\n"), 0},
		{"unknown encoding", post("Transfer-Encoding: gzip", "abc"), 501},
		{"encoding list", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), 501},
		{"misspelt encoding", post("Transfer-Encoding: xchunked", "0\r\n\r\n"), 501},
		{"two encodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 0},
		{"two encodings, one of them nothing", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"+smuggled), 0},
		{"encoding, vertical tab", post("Transfer-Encoding: \x0bchunked", "0\r\n\r\n"), 0},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
		{"HTTP/2 preface as a request", "PRI /x HTTP/2.0\r\nHost: a\r\n\r\n", 0},
	} {
		before := bad()
		got := wireReply(t, addr(t, p, 0), test.send)
		status := wireStatus(got)
		if test.status != 0 && status != test.status || status >= 200 && status < 300 || strings.Count(got, "HTTP/1.1 ") > 1 && strings.Contains(got, " 200 ") {
			t.Errorf("%s: got %.120q, want %d", test.name, got, test.status)
		}
		if heads := rec.take(); len(heads) != 0 {
			t.Errorf("%s: the target got %q", test.name, heads)
		}
		if status >= 400 && test.status != 0 {
			// connState hears of the end only after the client has.
			eventually(t, test.name+" counted as badRequest", func() bool { return bad() > before })
		}
	}
}

// Two ways to say where the body ends: refused, or made one before it goes on.
func TestHTTPAmbiguousLength(t *testing.T) {
	var mu sync.Mutex
	var requests []string
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		requests = append(requests, fmt.Sprintf("%s %s %v %q %q", r.Method, r.URL, r.TransferEncoding, r.Header["Content-Length"], body))
	})
	p := start(t, oneRoute(forwardTo(target)))
	for _, test := range []struct{ send, want string }{
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", `POST / [chunked] [] "x"`},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n1\r\nx\r\n0\r\n\r\n", `POST / [chunked] [] "x"`},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", `POST / [] ["3"] "abc"`},
		{"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", `POST / [] ["3"] "abc"`},
	} {
		requests = nil
		got := wireTalk(t, addr(t, p, 0), test.send+"nonsense\r\n\r\n")
		mu.Lock()
		if wireStatus(got) == 400 && len(requests) == 0 {
			mu.Unlock()
			continue
		}
		if len(requests) != 1 || requests[0] != test.want {
			t.Errorf("%q: the target got %q, want nothing or %q; answer %q", test.send, requests, test.want, got)
		}
		mu.Unlock()
	}
}

func TestHTTPHeadLimits(t *testing.T) {
	cfg := oneRoute(Action{Handler: says("ok")})
	cfg.MaxHeaderBytes = 2048
	p := start(t, cfg)
	big := wireDefault(t)
	for _, test := range []struct {
		name, addr string
		size       int
		status     int
	}{
		{"2 KiB limit", addr(t, p, 0), 1500, 200},
		{"2 KiB limit", addr(t, p, 0), 20000, 431},
		{"default", big, 15000, 200},
		{"default", big, 40000, 431},
	} {
		got := wireTalk(t, test.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-A: "+strings.Repeat("x", test.size)+"\r\n\r\n")
		if wireStatus(got) != test.status {
			t.Errorf("%s, head of %d: got %.60q, want %d", test.name, test.size, got, test.status)
		}
	}
	eventually(t, "431 counted", func() bool { return p.Stats().Refused["badRequest"] == 1 })

	// An endless head is not read to its end.
	c := wireDial(t, addr(t, p, 0))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n")
	sent := 0
	for sent < 64<<20 {
		n, err := io.WriteString(c, "X-A: "+strings.Repeat("x", 1000)+"\r\n")
		sent += n
		if err != nil {
			break
		}
	}
	if sent >= 64<<20 {
		t.Errorf("took %d bytes of a head", sent)
	}
}

// wireDefault is a proxy with all defaults.
func wireDefault(t *testing.T) string {
	return addr(t, start(t, oneRoute(Action{Handler: says("ok")})), 0)
}

// Slow heads end at their deadline, however diligently they drip.
func TestHTTPHeadDeadline(t *testing.T) {
	cfg := oneRoute(Action{Handler: says("ok")})
	cfg.Timeouts.Route, cfg.Timeouts.RequestHead = 300*time.Millisecond, 300*time.Millisecond
	p := start(t, cfg)
	for _, test := range []struct{ name, first, drip, reason string }{
		{"silent", "", "", "silent"},
		{"method", "GE", "", "silent"},
		{"dripping method", "", "GETGETGETGETGETGETGET", "silent"},
		{"half a line", "GET / HT", "", "badRequest"},
		{"half a head", "GET / HTTP/1.1\r\nHost: a\r\n", "", "badRequest"},
		{"dripping head", "GET / HTTP/1.1\r\nHost: a\r\n", "X: y\r\n", "badRequest"},
		{"second request", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n", "X: y\r\n", "badRequest"},
	} {
		before := p.Stats().Refused[test.reason]
		c := wireDial(t, addr(t, p, 0))
		io.WriteString(c, test.first)
		stop := make(chan struct{})
		var dripping sync.WaitGroup
		if test.drip != "" {
			dripping.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case <-time.After(30 * time.Millisecond):
						c.Write([]byte{test.drip[i%len(test.drip)]})
					}
				}
			})
		}
		begin := time.Now()
		b, err := io.ReadAll(c)
		if d := time.Since(begin); d > 2*time.Second || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: closed after %v with %q", test.name, d, b)
		}
		close(stop)
		waitAll(t, &dripping)
		eventually(t, test.name+" counted as "+test.reason, func() bool { return p.Stats().Refused[test.reason] == before+1 })
	}
}

// What never becomes a request line is not kept without end.
func TestHTTPEndlessBlankLines(t *testing.T) {
	p := start(t, oneRoute(Action{Handler: says("ok")}))
	for _, flood := range []string{"\r\n", " ", "A"} {
		begin := time.Now()
		c := wireDial(t, addr(t, p, 0))
		sent := 0
		chunk := strings.Repeat(flood, 8192)
		for sent < 16<<20 {
			n, err := io.WriteString(c, chunk)
			sent += n
			if err != nil {
				break
			}
		}
		if d := time.Since(begin); sent >= 16<<20 || d > 3*time.Second {
			t.Errorf("%q: took %d bytes in %v", flood, sent, d)
		}
		c.Close()
	}
	eventually(t, "counted", func() bool {
		s := p.Stats()
		return s.ActiveConnections == 0 && s.Refused["silent"]+s.Refused["badRequest"] == 3
	})
}

// Paths that servers read in different ways are refused; all others reach the
// target byte for byte, and a route takes what the target sees.
func TestHTTPPaths(t *testing.T) {
	rec := newWireRecorder(t)
	admin := handlerRoute("admin", Match{Path: "/admin"})
	below := handlerRoute("below", Match{Path: "/admin/*"})
	p := start(t, Config{Routes: []Route{
		admin, below,
		{Name: "all", Match: Match{Ports: Ports(0), Protocol: "http"}, Action: forwardTo(rec.Target)},
	}})
	const forwarded = ""
	for _, test := range []struct {
		target string // request target, as sent
		want   string // forwarded, "refused" or the name of a route
	}{
		{"/", forwarded},
		{"/a/b?c=d", forwarded},
		{"/a?", forwarded},
		{"/a??", forwarded},
		{"/a?b?", forwarded},
		{"/?x=%zz&y;z=%", forwarded},
		{"/a?b=c;d&e=%20+f&&=", forwarded},
		{"/a?q=http://x/../y/%2e%2e/", forwarded},
		{"/a%20b", forwarded},
		{"/a+b", forwarded},
		{"/a;b=c/d", forwarded},
		{"/%61%C3%BC", forwarded},
		{"/%c3%bc", forwarded}, // lower-case digits stay
		{"/\xc3\xbc", forwarded},
		{"/a%2Fb", forwarded},
		{"/a%2fb", forwarded},
		{"/a%5cb", forwarded},
		{`/a\b`, forwarded},
		{"/a%25b", forwarded},
		{"/%252e%252e/", forwarded},
		{"/a%0d%0ab", forwarded},
		{"/a|b", forwarded},
		{`/a"<>^{}` + "`b", forwarded},
		{"/[a]", forwarded},
		{"/a:b@c!$&'()*,=~", forwarded},
		{"//x/y", forwarded},
		{"///", forwarded},
		{"/a//b", forwarded},
		{"/...", forwarded},
		{"/.../x", forwarded},
		{"/.well-known/x", forwarded},
		{"/a..", forwarded},
		{"/a./b", forwarded},
		{"/adminx", forwarded},
		{"/ADMIN", forwarded},
		{"/x/admin", forwarded},
		{"/" + strings.Repeat("long/", 1000), forwarded},
		{"/admin", "admin"},
		{"/%61dmin", "admin"},
		{"/admin?x", "admin"},
		{"/admin/x", "below"},
		{"/admin/%2F|", "below"},
		// Matched as one name, not as a path below /admin: that is what the
		// target is sent, too.
		{"/admin%2Fx", forwarded},
		{"/admin%2Fx|", forwarded},
		{"/admin%5Cx", forwarded},

		{"/../admin", "refused"},
		{"/a/../admin", "refused"},
		{"/a/..", "refused"},
		{"/.", "refused"},
		{"/./admin", "refused"},
		{"/a/%2e%2e/admin", "refused"},
		{"/a/%2E./admin", "refused"},
		{"/a/.%2e", "refused"},
		{"/a%2F..%2Fadmin", "refused"},
		{"/a%2f%2e%2e%2fadmin", "refused"},
		{"/a%5C..%5Cadmin", "refused"},
		{`/a\..\admin`, "refused"},
		{"/a/..;x/admin", "refused"},
		{"/a/..%3bx/admin", "refused"},
		{"/a/%2e%2e;/admin", "refused"},
		{"/a%00b", "refused"},
		{"/admin%00", "refused"},
		{"//x|y", "refused"}, // it could not be sent on as it came
		{"/a%", "refused"},
		{"/a%2", "refused"},
		{"/a%zz", "refused"},
		{"/a%u0041", "refused"},
		// A fragment is no part of a request target (RFC 9112 section 3.2); a
		// target that cuts it off would serve /admin.
		{"/admin#", "refused"},
		{"/admin#x", "refused"},
		{"/x#/../admin", "refused"},
		{"/x?a#b", "refused"},
		{"/a\tb", "refused"},
		{"/a\x01b", "refused"},
		{"/a\x7fb", "refused"},
		{"", "refused"},
		{"admin", "refused"},
		{"?x", "refused"},
	} {
		got := wireTalk(t, addr(t, p, 0), "GET "+test.target+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		heads := rec.take()
		body := got[strings.LastIndex(got, "\n")+1:]
		shown := fmt.Sprintf("%.60q", test.target)
		switch test.want {
		case forwarded:
			if len(heads) != 1 || !strings.HasPrefix(heads[0], "GET "+test.target+" HTTP/1.1\r\n") {
				t.Errorf("%s: the target got %.120q, want it as sent; answer %.80q", shown, heads, got)
			}
		case "refused":
			// What is not even a request line is closed without a word.
			if status := wireStatus(got); len(heads) != 0 || status != 400 && got != "" {
				t.Errorf("%s: got %.80q, target got %.80q, want 400", shown, got, heads)
			}
		default:
			if body != test.want || len(heads) != 0 {
				t.Errorf("%s: got %.80q, target got %.80q; want route %q", shown, body, heads, test.want)
			}
		}
	}
}

// The other forms of request targets (RFC 9112 section 3.2).
func TestHTTPTargetForms(t *testing.T) {
	rec := newWireRecorder(t)
	block := forwardTo(rec.Target)
	block.Security.IPBlockList = []string{"127.0.0.0/8"}
	p := start(t, Config{Routes: []Route{
		{Name: "a", Match: Match{Ports: Ports(0), Domains: []string{"a.test"}}, Action: forwardTo(rec.Target)},
		handlerRoute("b", Match{Domains: []string{"b.test"}}),
		{Name: "blocked", Match: Match{Ports: Ports(0), Domains: []string{"blocked.test"}}, Action: block},
	}})
	talk := func(head string) string { return wireTalk(t, addr(t, p, 0), head+"Connection: close\r\n\r\n") }

	// In absolute form the target's host counts, not the Host header.
	if got := talk("GET http://b.test/x HTTP/1.1\r\nHost: a.test\r\n"); !strings.HasSuffix(got, "b") || wireStatus(got) != 200 {
		t.Errorf("absolute form went to %q", got)
	}
	for _, target := range []string{"/p%2Fq?a=1;b=%zz", "/p|q", "//p", "/p?", ""} {
		got := talk("GET http://a.test" + target + " HTTP/1.1\r\nHost: b.test\r\n")
		want := "GET " + target + " HTTP/1.1\r\n"
		if target == "" {
			want = "GET / HTTP/1.1\r\n"
		}
		heads := rec.take()
		if len(heads) != 1 || !strings.HasPrefix(heads[0], want) {
			t.Errorf("absolute form with %q: target got %q, want %q; answer %q", target, heads, want, got)
		} else if !strings.Contains(heads[0], "\r\nHost: a.test\r\n") || strings.Contains(heads[0], "b.test") {
			t.Errorf("absolute form: target got %q, want Host: a.test only", heads)
		}
	}
	if got := talk("GET http://a.test/../x HTTP/1.1\r\nHost: a.test\r\n"); wireStatus(got) != 400 {
		t.Errorf("dot segments in absolute form: %q", got)
	}

	// A tunnel is nothing that a reverse proxy offers.
	for _, head := range []string{"CONNECT evil.test:443 HTTP/1.1\r\nHost: a.test\r\n", "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n", "CONNECT / HTTP/1.1\r\nHost: a.test\r\n"} {
		got := talk(head)
		if status := wireStatus(got); status < 400 {
			t.Errorf("%q: got %q", head, got)
		}
		if heads := rec.take(); len(heads) != 0 {
			t.Errorf("%q: target got %q", head, heads)
		}
	}

	// "*" is subject to the rules of its host, too.
	if got := talk("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n"); wireStatus(got) != 200 {
		t.Errorf("OPTIONS *: %q", got)
	} else if heads := rec.take(); len(heads) != 1 || !strings.HasPrefix(heads[0], "OPTIONS * HTTP/1.1\r\n") {
		t.Errorf("OPTIONS *: target got %q", heads)
	}
	if got := talk("OPTIONS * HTTP/1.1\r\nHost: blocked.test\r\n"); wireStatus(got) != 403 {
		t.Errorf("OPTIONS * from a blocked address: %q", got)
	}
	if got := talk("OPTIONS * HTTP/1.1\r\nHost: unknown.test\r\n"); wireStatus(got) != 404 {
		t.Errorf("OPTIONS * of an unknown host: %q", got)
	}
	if got := talk("GET * HTTP/1.1\r\nHost: a.test\r\n"); wireStatus(got) != 400 {
		t.Errorf("GET *: %q", got)
	}
	rec.take()
	if n := p.Stats().Refused["badRequest"]; n > 6 {
		t.Errorf("%d bad requests counted", n)
	}
}

// An upgrade to HTTP/2 would carry requests past the routes (h2c smuggling).
func TestHTTPUpgradeH2C(t *testing.T) {
	rec := newWireRecorder(t)
	p := start(t, oneRoute(forwardTo(rec.Target)))
	wireTalk(t, addr(t, p, 0), "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
	wireTalk(t, addr(t, p, 0), "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket, H2C\r\n\r\n")
	for _, head := range rec.take() {
		if strings.Contains(strings.ToLower(head), "h2c") || strings.Contains(strings.ToLower(head), "http2-settings") {
			t.Errorf("the target got %q", head)
		}
	}
}
