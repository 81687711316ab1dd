package proxy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestHTTPRouting(t *testing.T) {
	// One target for all; which route was taken it learns from a header.
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Route")) })
	route := func(name string, m Match) Route {
		m.Ports = Ports(0)
		a := forwardTo(target)
		a.Headers.Request.Set = map[string]string{"X-Route": "{route}"}
		return Route{Name: name, Match: m, Action: a}
	}
	host := func(h string) []string { return []string{h} }
	p := start(t, Config{Routes: []Route{
		route("exact", Match{Domains: host("a.example")}),
		route("wild", Match{Domains: host("*.example")}),
		route("two", Match{Domains: []string{"x.test", "y.test"}}),
		route("idn", Match{Domains: host("bücher.test")}),
		route("v4", Match{Domains: host("192.0.2.1")}),
		route("v6", Match{Domains: host("2001:db8::1")}),
		route("path-exact", Match{Domains: host("p.test"), Path: "/exact"}),
		route("path-glob", Match{Domains: host("p.test"), Path: "/api/*"}),
		route("path-mid", Match{Domains: host("p.test"), Path: "/img/*.png"}),
		route("path-regex", Match{Domains: host("p.test"), Path: "~^/v[0-9]+/"}),
		route("post", Match{Domains: host("m.test"), Methods: []string{"POST", "PUT"}}),
		route("purge", Match{Domains: host("m.test"), Methods: []string{"PURGE"}}),
		route("header-glob", Match{Domains: host("h.test"), Headers: map[string]string{"x-kind": "a*z"}}),
		route("header-regex", Match{Domains: host("h.test"), Headers: map[string]string{"X-Kind": "/^beta-\\d+$/i"}}),
		route("header-two", Match{Domains: host("h.test"), Headers: map[string]string{"X-Kind": "both", "X-Other": "*"}}),
		route("query", Match{Domains: host("q.test"), Query: map[string]string{"v": "2"}}),
		route("query-any", Match{Domains: host("q.test"), Query: map[string]string{"w": "*"}}),
		route("client", Match{Domains: host("c.test"), ClientIP: []string{"127.0.0.2", "192.0.2.0/24"}}),
		route("client-other", Match{Domains: host("c.test")}),
		route("only-http", Match{Domains: host("http.test"), Protocol: "http"}),
		{Name: "off", Enabled: new(bool), Match: Match{Ports: Ports(0), Domains: host("off.test")}, Action: forwardTo(target)},
	}})
	c := client(t, addr(t, p, 0), nil)
	second := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
		return d.DialContext(ctx, "tcp", addr(t, p, 0))
	}}}

	for _, test := range []struct {
		method, url, header string
		want                string // "" for 404
	}{
		{"GET", "http://a.example/", "", "exact"},
		{"GET", "http://A.EXAMPLE/", "", "exact"},
		{"GET", "http://a.example.:8080/x", "", "exact"},
		{"GET", "http://b.example/", "", "wild"},
		{"GET", "http://b.a.example/", "", ""}, // a wildcard is one label
		{"GET", "http://example/", "", ""},
		{"GET", "http://x.test/", "", "two"},
		{"GET", "http://y.test/", "", "two"},
		{"GET", "http://xn--bcher-kva.test/", "", "idn"},
		{"GET", "http://XN--BCHER-KVA.test/", "", "idn"},
		{"GET", "http://192.0.2.1/", "", "v4"},
		{"GET", "http://192.0.2.1:81/", "", "v4"},
		{"GET", "http://[2001:db8:0:0::1]:81/", "", "v6"},
		{"GET", "http://unknown.test/", "", ""},
		{"GET", "http://p.test/exact", "", "path-exact"},
		{"GET", "http://p.test/exact?x=1", "", "path-exact"},
		{"GET", "http://p.test/%65xact", "", "path-exact"},
		{"GET", "http://p.test/exact/", "", ""},
		{"GET", "http://p.test/Exact", "", ""},
		{"GET", "http://p.test/api/", "", "path-glob"},
		{"GET", "http://p.test/api/a/b", "", "path-glob"},
		{"GET", "http://p.test/api", "", ""},
		{"GET", "http://p.test/apix", "", ""},
		{"GET", "http://p.test/img/a/b.png", "", "path-mid"},
		{"GET", "http://p.test/img/a.pngx", "", ""},
		{"GET", "http://p.test/img/axpng", "", ""}, // the dot is a dot
		{"GET", "http://p.test/v12/x", "", "path-regex"},
		{"GET", "http://p.test/vx/x", "", ""},
		{"GET", "http://p.test/a/v12/x", "", ""},
		{"POST", "http://m.test/", "", "post"},
		{"PUT", "http://m.test/", "", "post"},
		{"PURGE", "http://m.test/", "", "purge"},
		{"GET", "http://m.test/", "", ""},
		{"GET", "http://h.test/", "X-Kind: abcz", "header-glob"},
		{"GET", "http://h.test/", "X-Kind: abcZ", ""},
		{"GET", "http://h.test/", "X-Kind: BETA-7", "header-regex"},
		{"GET", "http://h.test/", "X-Kind: beta-7x", ""},
		{"GET", "http://h.test/", "X-Kind: both\nX-Other: 1", "header-two"},
		{"GET", "http://h.test/", "X-Kind: both", ""},
		{"GET", "http://h.test/", "X-Kind: no\nX-Kind: az", "header-glob"}, // any of several values
		{"GET", "http://h.test/", "", ""},
		{"GET", "http://q.test/?v=2", "", "query"},
		{"GET", "http://q.test/?a=1&v=%32", "", "query"},
		{"GET", "http://q.test/?v=1&v=2", "", "query"},
		{"GET", "http://q.test/?v=22", "", ""},
		{"GET", "http://q.test/?w", "", "query-any"},
		{"GET", "http://q.test/", "", ""},
		{"GET", "http://c.test/", "", "client-other"},
		{"GET", "http://http.test/", "", "only-http"},
		{"GET", "http://off.test/", "", ""},
	} {
		req, err := http.NewRequest(test.method, test.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(test.header) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			req.Header.Add(name, value)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		status := 200
		if test.want == "" {
			status = 404
		}
		if resp.StatusCode != status || status == 200 && string(body) != test.want {
			t.Errorf("%s %s %q: got %d %q, want %q", test.method, test.url, test.header, resp.StatusCode, body, test.want)
		}
	}
	if status, body := get(t, second, "http://c.test/"); status != 200 || body != "client" {
		t.Errorf("from 127.0.0.2: %d %q", status, body)
	}
	if n := p.Stats().Refused["noRoute"]; n == 0 {
		t.Error("404 was not counted as noRoute")
	}
}

func TestHTTPRouteOrder(t *testing.T) {
	any := func(m Match) Match { m.Domains = []string{"*"}; return m }
	host := func(d string, m Match) Match { m.Domains = []string{d}; return m }
	prio := func(n int, r Route) Route { r.Priority = n; return r }
	p := start(t, Config{Routes: []Route{
		// Given from the least to the most specific, so that the order given
		// cannot be what decides.
		handlerRoute("nothing", Match{}),
		handlerRoute("any-path", any(Match{Path: "/any/*"})),
		handlerRoute("wild", host("*.test", Match{})),
		handlerRoute("exact", host("a.test", Match{})),
		handlerRoute("short", host("a.test", Match{Path: "/p/*"})),
		handlerRoute("long", host("a.test", Match{Path: "/p/long/*"})),
		handlerRoute("regex", host("a.test", Match{Path: "~^/p/long/regex"})),
		handlerRoute("path", host("a.test", Match{Path: "/p/long/regex/exact"})),
		handlerRoute("method", host("a.test", Match{Path: "/p/long/regex/exact", Methods: []string{"GET"}})),
		handlerRoute("method-header", host("a.test", Match{Path: "/p/long/regex/exact", Methods: []string{"GET"}, Headers: map[string]string{"X-H": "1"}})),
		handlerRoute("first", host("a.test", Match{Path: "/tie", Query: map[string]string{"a": "*"}})),
		handlerRoute("second", host("a.test", Match{Path: "/tie", Query: map[string]string{"b": "*"}})),
		prio(10, handlerRoute("top-any", any(Match{Path: "/top/*"}))),
		prio(5, handlerRoute("top-wild", host("*.test", Match{Path: "/top/*"}))),
		prio(-1, handlerRoute("low", host("low.test", Match{}))),
	}})
	c := client(t, addr(t, p, 0), nil)
	for _, test := range []struct{ url, header, want string }{
		{"http://other/", "", "nothing"},
		{"http://other/any/x", "", "any-path"},
		{"http://b.test/", "", "wild"},
		{"http://b.test/any/x", "", "wild"}, // the domain decides before the path
		{"http://a.test/", "", "exact"},
		{"http://a.test/any/x", "", "exact"},
		{"http://a.test/p/x", "", "short"},
		{"http://a.test/p/long/x", "", "long"},
		{"http://a.test/p/long/regex", "", "regex"},
		{"http://a.test/p/long/regex/exact", "", "method"},
		{"http://a.test/p/long/regex/exact", "X-H", "method-header"},
		{"http://a.test/tie?b=1&a=1", "", "first"},
		{"http://a.test/tie?b=1", "", "second"},
		{"http://a.test/top/x", "", "top-any"},
		{"http://low.test/", "", "wild"},
	} {
		req, _ := http.NewRequest("GET", test.url, nil)
		if test.header != "" {
			req.Header.Set(test.header, "1")
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != test.want {
			t.Errorf("%s %s: got %q, want %q", test.url, test.header, body, test.want)
		}
	}
}

// Every request is routed by itself, whatever its connection carried before.
func TestHTTPKeepAliveRoutes(t *testing.T) {
	p := start(t, Config{Routes: []Route{
		handlerRoute("a", Match{Domains: []string{"a.test"}}),
		handlerRoute("b", Match{Domains: []string{"b.test"}}),
		handlerRoute("path", Match{Domains: []string{"a.test"}, Path: "/p"}),
	}})
	c := wireDial(t, addr(t, p, 0))
	r := bufio.NewReader(c)
	for i := range 4 {
		for _, test := range []struct {
			host, path, want string
			status           int
		}{{"a.test", "/", "a", 200}, {"b.test", "/", "b", 200}, {"c.test", "/", "", 404}, {"a.test", "/p", "path", 200}} {
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", test.path, test.host)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("round %d, %s%s: %v", i, test.host, test.path, err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != test.status || test.want != "" && string(body) != test.want {
				t.Errorf("%s%s: got %d %q, want %d %q", test.host, test.path, resp.StatusCode, body, test.status, test.want)
			}
		}
	}
	if n := p.Stats().Connections; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestHTTPPipelining(t *testing.T) {
	_, slow := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/1" {
			time.Sleep(100 * time.Millisecond)
		}
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "answer"+r.URL.Path)
	})
	p := start(t, oneRoute(forwardTo(slow)))
	got := wireTalk(t, addr(t, p, 0), "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"+
		"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"+
		"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"+
		"GET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	last := 0
	for i := 1; i <= 4; i++ {
		at := strings.Index(got, fmt.Sprintf("answer/%d", i))
		if at < last {
			t.Fatalf("answer %d is missing or out of order in %q", i, got)
		}
		last = at
	}
	if n := strings.Count(got, "HTTP/1.1 200 OK\r\n"); n != 4 {
		t.Errorf("%d responses, want 4: %q", n, got)
	}
}

// The forms of messages that HTTP/1 has, seen on the wire.
func TestHTTPForms(t *testing.T) {
	seen := make(chan string, 1)
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		seen <- fmt.Sprintf("%s %s %d %v %s %v", r.Method, r.Proto, r.ContentLength, r.TransferEncoding, body, err)
		w.Header()["Date"] = nil
		switch r.URL.Path {
		case "/length":
			w.Header().Set("Content-Length", "6")
			if r.Method != http.MethodHead {
				io.WriteString(w, "length")
			}
		case "/chunked":
			io.WriteString(w, "chun")
			w.(http.Flusher).Flush()
			io.WriteString(w, "ked")
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		case "/empty":
			w.Header().Set("Content-Length", "0")
		}
	})
	p := start(t, oneRoute(forwardTo(target)))
	const end = "Host: a\r\nConnection: close\r\n\r\n"
	for _, test := range []struct {
		name, send, atTarget string
		status               int
		has, hasNot          string
		body                 string
	}{
		{"1.1 length", "GET /length HTTP/1.1\r\n" + end, "GET HTTP/1.1 0 []  <nil>", 200, "Content-Length: 6\r\n", "Transfer-Encoding", "length"},
		{"1.1 chunked", "GET /chunked HTTP/1.1\r\n" + end, "GET HTTP/1.1 0 []  <nil>", 200, "Transfer-Encoding: chunked\r\n", "Content-Length", "chunked"},
		{"1.0 chunked", "GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n", "GET HTTP/1.1 0 []  <nil>", 200, "", "Transfer-Encoding", "chunked"},
		{"1.0 without Host", "GET /length HTTP/1.0\r\n\r\n", "", 200, "Content-Length: 6\r\n", "", "length"},
		{"1.0 body", "POST /length HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "POST HTTP/1.1 3 [] abc <nil>", 200, "", "", "length"},
		{"HEAD length", "HEAD /length HTTP/1.1\r\n" + end, "HEAD HTTP/1.1 0 []  <nil>", 200, "Content-Length: 6\r\n", "Transfer-Encoding", ""},
		{"HEAD chunked", "HEAD /chunked HTTP/1.1\r\n" + end, "HEAD HTTP/1.1 0 []  <nil>", 200, "", "", ""},
		{"204", "GET /204 HTTP/1.1\r\n" + end, "GET HTTP/1.1 0 []  <nil>", 204, "", "Content-Length", ""},
		{"304", "GET /304 HTTP/1.1\r\n" + end, "GET HTTP/1.1 0 []  <nil>", 304, "Etag: \"x\"\r\n", "Transfer-Encoding", ""},
		{"empty", "GET /empty HTTP/1.1\r\n" + end, "GET HTTP/1.1 0 []  <nil>", 200, "Content-Length: 0\r\n", "Transfer-Encoding", ""},
		{"request length", "POST /length HTTP/1.1\r\nContent-Length: 3\r\n" + end + "abc", "POST HTTP/1.1 3 [] abc <nil>", 200, "", "", "length"},
		{"request length 0", "POST /length HTTP/1.1\r\nContent-Length: 0\r\n" + end, "POST HTTP/1.1 0 []  <nil>", 200, "", "", "length"},
		{"request chunked", "POST /length HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + end + "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "POST HTTP/1.1 -1 [chunked] abcde <nil>", 200, "", "", "length"},
		{"GET with a body", "GET /length HTTP/1.1\r\nContent-Length: 3\r\n" + end + "abc", "GET HTTP/1.1 3 [] abc <nil>", 200, "", "", "length"},
	} {
		got := wireTalk(t, addr(t, p, 0), test.send)
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		head += "\r\n"
		if strings.Contains(head, "Transfer-Encoding: chunked\r\n") && !strings.HasPrefix(test.send, "HEAD") {
			b, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(body)))
			if body = string(b); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		if wireStatus(got) != test.status || body != test.body || !strings.Contains(head, test.has) || test.hasNot != "" && strings.Contains(head, test.hasNot) {
			t.Errorf("%s: got %q, want %d with %q, without %q, body %q", test.name, got, test.status, test.has, test.hasNot, test.body)
		}
		if at := receive(t, seen); test.atTarget != "" && at != test.atTarget {
			t.Errorf("%s: target saw %q, want %q", test.name, at, test.atTarget)
		}
	}
}

func TestHTTPTrailers(t *testing.T) {
	seen := make(chan http.Header, 1)
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		seen <- r.Trailer
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", "response")
		w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
	})
	p := start(t, oneRoute(forwardTo(target)))
	c := client(t, addr(t, p, 0), nil)
	req, _ := http.NewRequest("POST", "http://a/", io.MultiReader(strings.NewReader("some "), strings.NewReader("body")))
	req.Trailer = http.Header{"X-Check": {"request"}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "body" {
		t.Errorf("body %q, %v", body, err)
	}
	if resp.Trailer.Get("X-Sum") != "response" || resp.Trailer.Get("X-Late") != "unannounced" {
		t.Errorf("response trailers: %v", resp.Trailer)
	}
	if got := receive(t, seen); got.Get("X-Check") != "request" {
		t.Errorf("request trailers at the target: %v, want X-Check: request", got)
	}
}

// Trailers are for what the client has announced, and nothing gets past the rules
// for headers in them.
func TestHTTPTrailerRules(t *testing.T) {
	files, _ := tlsFiles(t, "a.test")
	seen := make(chan http.Header, 1)
	answer := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		seen <- r.Trailer
	}
	_, plain := backend(t, answer)
	pass := []string{"X-Sum", "Cookie"}
	forbidden := []string{"X-Forwarded-For", "X_Real_IP", "X-Request-Id", "X_Request.ID", "X-Gone", "X-Set"}
	only1 := []string{"X-Hop", "Connection", "Host", "Te", "Upgrade", "Authorization", "Content-Type"} // HTTP/2 lets none of them through
	for _, trusted := range []bool{false, true} {
		want := http.Header{"X-Sum": {"theirs"}, "Cookie": {"theirs"}, "X-Absent": nil}
		if trusted {
			want["Forwarded"] = []string{"theirs"} // as in the header
		}
		for protocol, a := range map[string]Action{"HTTP/1.1": forwardTo(plain), "HTTP/2": h2Backend(t, H2C, files, answer)} {
			a.Headers.Request = HeaderEdit{Remove: []string{"X-Gone"}, Set: map[string]string{"X-Set": "ours"}}
			cfg := oneRoute(a)
			cfg.RequestID = &RequestID{}
			if trusted {
				cfg.TrustedProxies = []string{"127.0.0.1"}
			}
			p := startBare(t, cfg)
			check := func(client string) {
				t.Helper()
				if got := receive(t, seen); !maps.EqualFunc(got, want, slices.Equal) {
					t.Errorf("trusted %v, %s to %s: the target got %q, want %q", trusted, client, protocol, got, want)
				}
			}
			names := slices.Concat(pass, []string{"Forwarded"}, forbidden)
			section := func(names []string) string { return strings.Join(names, ": theirs\r\n") + ": theirs\r\n" }
			wireTalk(t, addr(t, p, 0), "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close, X-Hop\r\nTransfer-Encoding: chunked\r\n"+
				"Trailer: X-Absent, "+strings.Join(slices.Concat(names, only1), ", ")+"\r\n\r\n1\r\nx\r\n0\r\n"+
				section(slices.Concat(names, only1))+"Content-Length: 5\r\nX-Late: unannounced\r\n\r\n")
			check("HTTP/1.1")

			req, _ := http.NewRequest("POST", "http://a.test/", io.MultiReader(strings.NewReader("x"))) // of unknown length
			req.Trailer = http.Header{"X-Absent": nil}
			for _, name := range names {
				req.Trailer[http.CanonicalHeaderKey(name)] = []string{"theirs"}
			}
			resp, err := h2cClient(t, addr(t, p, 0)).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			check("HTTP/2")
		}
	}
}

func TestHTTPContinue(t *testing.T) {
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.Header().Set("Connection", "close")
			w.WriteHeader(417)
			return
		}
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})
	p := start(t, oneRoute(forwardTo(target)))

	c := wireDial(t, addr(t, p, 0))
	r := bufio.NewReader(c)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if head, err := wireHead(r); err != nil || wireStatus(head) != 100 {
		t.Fatalf("got %q, %v; want 100 before the body has been sent", head, err)
	}
	io.WriteString(c, "body")
	head, err := wireHead(r)
	for err == nil && wireStatus(head) == 100 { // the target's own may follow ours
		head, err = wireHead(r)
	}
	if err != nil || wireStatus(head) != 200 {
		t.Fatalf("got %q, %v", head, err)
	}
	body := make([]byte, 4)
	if io.ReadFull(r, body); string(body) != "body" {
		t.Errorf("body %q", body)
	}

	// A target that does not want the body.
	c = wireDial(t, addr(t, p, 0))
	io.WriteString(c, "POST /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if head, err := wireHead(bufio.NewReader(c)); err != nil || wireStatus(head) != 417 {
		t.Errorf("got %q, %v; want 417", head, err)
	}
}

func TestHTTPEarlyHints(t *testing.T) {
	target := wireAnswer(t, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"+
		"HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n"+
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Final: 1\r\n\r\nok")
	a := forwardTo(target)
	a.Headers.Response.Set = map[string]string{"X-Edit": "1"}
	p := start(t, oneRoute(a))
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://a/", nil)
	resp, err := client(t, addr(t, p, 0), nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if want := []string{"103</a.css>; rel=preload", "103</b.css>; rel=preload"}; !slices.Equal(hints, want) {
		t.Errorf("hints %q, want %q", hints, want)
	}
	if resp.StatusCode != 200 || resp.Header.Get("X-Final") != "1" || resp.Header.Get("X-Edit") != "1" || resp.Header.Get("Link") != "" {
		t.Errorf("final response %d %v", resp.StatusCode, resp.Header)
	}
}

func TestHTTPLargeBodies(t *testing.T) {
	const size = 20 << 20
	received := make(chan [32]byte, 1)
	content := func(seed uint64) io.Reader {
		var key [32]byte
		key[0] = byte(seed)
		return io.LimitReader(rand.NewChaCha8(key), size)
	}
	sum := func(r io.Reader) [32]byte {
		h := sha256.New()
		io.Copy(h, r)
		return [32]byte(h.Sum(nil))
	}
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		received <- sum(r.Body)
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		io.Copy(w, content(2))
	})
	p := start(t, oneRoute(forwardTo(target)))
	c := client(t, addr(t, p, 0), nil)
	sent, want := sum(content(1)), sum(content(2))
	for _, path := range []string{"/length", "/chunked"} {
		req, _ := http.NewRequest("POST", "http://a"+path, content(1))
		if path == "/length" {
			req.ContentLength = size
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := sum(resp.Body); got != want {
			t.Errorf("%s: the response changed on its way", path)
		}
		resp.Body.Close()
		if got := receive(t, received); got != sent {
			t.Errorf("%s: the request changed on its way", path)
		}
	}
	// The client has the response before it is counted.
	eventually(t, "all is counted", func() bool { return p.Stats().Routes[0].Responses[2] == 2 })
	s := p.Stats().Routes[0]
	if s.BytesIn != 2*size || s.BytesOut != 2*size || s.Requests != 2 {
		t.Errorf("counters %+v, want %d bytes each way", s, 2*size)
	}
}

// Events reach the client one by one, while the response goes on.
func TestHTTPEvents(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/x-ndjson"} {
		next, gone := make(chan string), make(chan struct{})
		_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.(http.Flusher).Flush()
			for {
				select {
				case s := <-next:
					io.WriteString(w, s)
					w.(http.Flusher).Flush()
				case <-r.Context().Done():
					close(gone)
					return
				}
			}
		})
		p := start(t, oneRoute(forwardTo(target)))
		resp, err := client(t, addr(t, p, 0), nil).Get("http://a/")
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(resp.Body)
		for i := range 5 {
			event := fmt.Sprintf("data: %d\n", i)
			send(t, next, event)
			if got, err := r.ReadString('\n'); got != event || err != nil {
				t.Fatalf("%s: got %q, %v before the next event was sent", kind, got, err)
			}
		}
		resp.Body.Close()
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the target does not hear that the client has left", kind)
		}
	}
}
