package proxy

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestRequestID(t *testing.T) {
	t.Parallel()
	fresh := regexp.MustCompile(`^[0-9a-f]{32}$`)
	for _, test := range []struct {
		incoming string
		kept     bool // if it is trusted
	}{
		{"", false},
		{"0", true},
		{"550e8400-e29b-41d4-a716-446655440000", true},
		{"01ARZ3NDEKTSV4RRFFQ69G5FAV", true},
		{"Root=1-67891233-abcdef012345678912345678", true},
		{"a_b.c:d/e+f=g@h~i", true},
		{strings.Repeat("a", 128), true},
		{strings.Repeat("a", 129), false},
		{"a b", false},
		{"a\tb", false},
		{"a\x00", false},
		{"a\r\nX: y", false},
		{`a"b`, false},
		{"a,b", false},
		{"a;b", false},
		{"a%0ab", false},
		{"${jndi:x}", false},
		{"<script>", false},
		{"\xff", false},
		{"ü", false},
	} {
		if got := requestID(test.incoming, true); (got == test.incoming) != test.kept || !test.kept && !fresh.MatchString(got) {
			t.Errorf("%q of a trusted proxy became %q", test.incoming, got)
		}
		if got := requestID(test.incoming, false); !fresh.MatchString(got) {
			t.Errorf("%q of a stranger became %q", test.incoming, got)
		}
	}
	seen := make(map[string]bool)
	for range 10_000 {
		id := requestID("", true)
		if seen[id] {
			t.Fatalf("%s twice", id)
		}
		seen[id] = true
	}
}

func TestRequestIDOnTheWay(t *testing.T) {
	rec := newWireRecorder(t)
	echo := wireAnswer(t, "HTTP/1.1 200 OK\r\nX-Request-Id: of the target\r\nX-Request-Id: again\r\nContent-Length: 2\r\n\r\nok")
	upgraded := wireAnswer(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\nX-Request-Id: of the target\r\n\r\nhello")
	var info ConnInfo
	seen := ""
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, _ = ConnInfoFrom(r.Context())
		seen = strings.Join(r.Header["X-Request-Id"], "|") + strings.Join(r.Header["X_request_id"], "|")
	})
	path := func(name, path string, a Action) Route {
		return Route{Name: name, Match: Match{Ports: Ports(0), Protocol: "http", Path: path}, Action: a}
	}
	cfg := Config{RequestID: &RequestID{}, Routes: []Route{
		path("p", "/p", forwardTo(rec.Target)), path("echo", "/echo", forwardTo(echo)), path("upgrade", "/upgrade", forwardTo(upgraded)),
		path("handler", "/handler", Action{Handler: handler}), path("blocked", "/blocked", Action{Handler: handler, Security: Security{IPBlockList: []string{"::/0", "0.0.0.0/0"}}})}}
	p := start(t, cfg)
	ask := func(p *Proxy, path, lines string) (string, string) {
		t.Helper()
		got := wireTalk(t, addr(t, p, 0), "GET "+path+" HTTP/1.1\r\nHost: a.test\r\n"+lines+"\r\n")
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		return head, body
	}
	one := func(what, head string) string {
		t.Helper()
		ids := headerValues(head, "X-Request-Id")
		if len(ids) != 1 || len(ids[0]) < 3 {
			t.Fatalf("%s: ids %q in %q", what, ids, head)
		}
		return ids[0]
	}
	const last = "Connection: close\r\n"
	for _, lines := range []string{"", "X-Request-Id: mine\r\n", "X-Request-Id: mine\r\nX-Request-Id: mine\r\n", "x_request_id: mine\r\nX.Request-ID: mine\r\n", "Connection: x-request-id\r\nX-Request-Id: mine\r\n"} {
		head, _ := ask(p, "/p", last+lines)
		sent := rec.take()
		if len(sent) != 1 || one("request", sent[0]) != one("response", head) || strings.Contains(sent[0]+head, "mine") {
			t.Errorf("%q: the target got %q, the client %q", lines, sent, head)
		}
		head, _ = ask(p, "/handler", last+lines)
		if id := one("handler's response", head); id != info.RequestID || id != seen || strings.Contains(id, "mine") {
			t.Errorf("%q: %s, handler got %q and %+v", lines, head, seen, info)
		}
	}
	for _, path := range []string{"/echo", "/none", "/blocked", "/a/../b"} {
		head, _ := ask(p, path, last)
		if id := one(path, head); len(id) != 32 {
			t.Errorf("%s: id %q", path, id)
		}
	}
	head, rest := ask(p, "/upgrade", "Connection: Upgrade\r\nUpgrade: test\r\n")
	if one("upgrade", head); wireStatus(head) != 101 || rest != "hello" {
		t.Errorf("upgrade: %q %q", head, rest)
	}

	stopNow(p)
	cfg.TrustedProxies, cfg.RequestID = []string{"127.0.0.1"}, &RequestID{Header: "x-trace"}
	p = start(t, cfg)
	for lines, want := range map[string]string{
		"X-Trace: theirs\r\n":                      "theirs",
		"X-Trace: theirs\r\nX-Trace: theirs\r\n":   "",
		"X-Trace: their s\r\n":                     "",
		"X_Trace: other\r\n":                       "",
		"X-Trace: theirs\r\nX_Trace: other\r\n":    "theirs",
		fmt.Sprintf("X-Trace: %0200d\r\n", 1):      "",
		"X-Trace: theirs\r\nX-Request-Id: own\r\n": "theirs",
	} {
		head, _ := ask(p, "/p", last+lines)
		sent := rec.take()[0]
		in, out := headerValues(head, "X-Trace"), headerValues(sent, "X-Trace")
		if len(in) != 1 || len(out) != 1 || in[0] != out[0] || want != "" && in[0] != want || want == "" && len(in[0]) != 32 || strings.Contains(sent, "other") {
			t.Errorf("%q: the target got %q, the client %q", lines, sent, head)
		}
		if strings.Contains(lines, "own") && !strings.Contains(sent, "X-Request-Id: own") {
			t.Errorf("another header is gone: %q", sent)
		}
	}

	// Not asked for, nothing changes.
	stopNow(p)
	cfg.RequestID = nil
	p = start(t, cfg)
	head, _ = ask(p, "/p", last+"X-Request-Id: mine\r\n")
	if sent := rec.take()[0]; strings.Join(headerValues(sent, "X-Request-Id"), "|") != "mine" || headerValues(head, "X-Request-Id") != nil {
		t.Errorf("the target got %q, the client %q", sent, head)
	}
}

func BenchmarkRequestID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		requestID("", false)
	}
}
