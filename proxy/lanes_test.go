package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// scriptedTarget answers every request with the bytes that answer holds, and
// keeps what it was sent.
type scriptedTarget struct {
	Target
	mu     sync.Mutex
	answer string
	got    []string
}

func newScriptedTarget(t *testing.T) *scriptedTarget {
	s := new(scriptedTarget)
	s.Target = wireServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			head, err := wireHead(r)
			if err != nil {
				return
			}
			var body []byte
			if m := regexp.MustCompile(`(?m)^Content-Length: (\d+)\r$`).FindStringSubmatch(head); m != nil {
				n, _ := strconv.Atoi(m[1])
				body = make([]byte, n)
				if _, err := io.ReadFull(r, body); err != nil {
					return
				}
			} else if strings.Contains(head, "Transfer-Encoding: chunked\r\n") {
				if body, err = io.ReadAll(httputil.NewChunkedReader(r)); err != nil {
					return
				}
				trailer, err := wireHead(r)
				if err != nil {
					return
				}
				body = append(body, trailer...)
			}
			s.mu.Lock()
			s.got = append(s.got, head+string(body))
			answer := s.answer
			s.mu.Unlock()
			io.WriteString(c, answer)
			if !strings.Contains(answer, "Content-Length:") && !strings.Contains(answer, "chunked") && !strings.Contains(answer, " 204 ") && !strings.Contains(answer, " 304 ") {
				return
			}
		}
	})
	return s
}

func (s *scriptedTarget) script(answer string) {
	s.mu.Lock()
	s.answer, s.got = answer, nil
	s.mu.Unlock()
}

func (s *scriptedTarget) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%q", s.got)
}

// plainMessage brings a raw answer into a form that does not depend on how a
// body happened to be cut into chunks, or on the time.
func plainMessage(t *testing.T, raw string) string {
	t.Helper()
	raw = regexp.MustCompile(`(?m)^Date: .*\r$`).ReplaceAllString(raw, "Date: now\r")
	var out strings.Builder
	r := bufio.NewReader(strings.NewReader(raw))
	for {
		head, err := wireHead(r)
		out.WriteString(head)
		if err != nil {
			return out.String()
		}
		switch {
		case strings.Contains(head, "Transfer-Encoding: chunked\r\n"):
			body, err := io.ReadAll(httputil.NewChunkedReader(r))
			fmt.Fprintf(&out, "[chunked %q %v]", body, err)
			if err == nil {
				trailer, _ := wireHead(r)
				out.WriteString(trailer)
			}
		case strings.HasPrefix(head, "HTTP/1.1 1") || strings.Contains(head, " 204 ") || strings.Contains(head, " 304 "):
		default:
			if m := regexp.MustCompile(`(?m)^Content-Length: (\d+)\r$`).FindStringSubmatch(head); m != nil {
				n, _ := strconv.Atoi(m[1])
				io.CopyN(&out, r, int64(n))
			}
		}
	}
}

// Both ways through the proxy must come to the same: what the target gets, to
// the byte, and what the client gets, but for where chunks are cut.
func TestLanesGiveTheSameBytes(t *testing.T) {
	testenv.Goroutines(t)
	target := newScriptedTarget(t)
	action := forwardTo(target.Target)
	edited := Action{Type: Forward, Targets: action.Targets, Headers: HeaderEdits{
		Request:  HeaderEdit{Set: map[string]string{"x-client": "{client_ip}", "Host": "inner.{host}"}, Add: map[string]string{"Via": "1.1 {route}"}, Remove: []string{"cookie"}},
		Response: HeaderEdit{Set: map[string]string{"Server": "ours"}, Remove: []string{"x-powered-by"}, Add: map[string]string{"X-Host": "{host}:{scheme}"}},
	}}
	routes := []Route{
		{Name: "edited", Match: Match{Ports: Ports(0), Domains: []string{"a.test"}, Path: "/edited*"}, Action: edited},
		{Name: "closed", Match: Match{Ports: Ports(0), Domains: []string{"a.test"}, Path: "/closed*"}, Action: Action{Type: Forward, Targets: action.Targets, Security: Security{IPBlockList: []string{"127.0.0.0/8"}}}},
		{Name: "dead", Match: Match{Ports: Ports(0), Domains: []string{"a.test"}, Path: "/dead*"}, Action: forwardTo(Target{Host: "127.0.0.1", Port: 1})},
		{Name: "r", Match: Match{Ports: Ports(0), Protocol: "http", Domains: []string{"a.test", "*.b.test"}}, Action: action},
	}
	off := false
	trusted := Config{Routes: routes, TrustedProxies: []string{"127.0.0.1"}}
	strangers := Config{Routes: routes}
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	requests := map[string]string{
		"get":                "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"twice":              "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2?x HTTP/1.1\r\nHost: A.test.:80\r\n\r\n",
		"head":               "HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"post":               "POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
		"empty post":         "POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
		"post of no length":  "POST /p HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"chunked":            "POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
		"chunked, trailer":   "POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n0\r\nX-T: v\r\n\r\n",
		"odd headers":        "GET / HTTP/1.1\r\nx-zz:  1 \r\nhost: sub.b.test\r\nX-A: 2\r\nx-a: 3\r\nUSER-AGENT:\r\nCookie: a=b\r\nB: \xe9\r\n\r\n",
		"hop by hop":         "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers, deflate\r\nKeep-Alive: 5\r\nProxy-Authorization: x\r\nProxy-Connection: keep-alive\r\n\r\n",
		"forwarded":          "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nForwarded: for=x\r\nX_Forwarded_Proto: https\r\nX-Real-IP: 9.9.9.9\r\nX-Forwarded-Server: s\r\nX-Forwarded-Proto:\r\n\r\n",
		"edited":             "GET /edited HTTP/1.1\r\nHost: a.test\r\nCookie: a=b\r\nX-Client: me\r\nVia: 1.0 x\r\n\r\n",
		"close":              "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
		"http/1.0":           "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n",
		"http/1.0 alive":     "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n",
		"absolute":           "GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"options *":          "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"no route":           "GET / HTTP/1.1\r\nHost: nowhere.test\r\n\r\n",
		"no route, then one": "GET / HTTP/1.1\r\nHost: nowhere.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"no route, body":     "POST / HTTP/1.1\r\nHost: nowhere.test\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"blocked":            "GET /closed HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"blocked head":       "HEAD /closed HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"dead":               "GET /dead HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"dead post":          "POST /dead HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"path":               "GET /a%2Fb//c/%e4;x?q=%zz&a=b+c HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"slashes":            "GET //evil.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"empty query":        "GET /? HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"dots":               "GET /a/../b HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"malformed host":     "GET / HTTP/1.1\r\nHost: a..test\r\n\r\n",
		"no host":            "GET / HTTP/1.1\r\n\r\n",
		"expect":             "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
		"malformed":          "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
		"bad length":         "GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: -1\r\n\r\n",
		"bad version":        "GET / HTTP/3.1\r\nHost: a.test\r\n\r\n",
		"both lengths":       "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"length twice":       "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"empty length":       "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length:\r\n\r\n",
		"folded":             "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\r\n z\r\n\r\n",
		"bare line feed":     "GET / HTTP/1.1\nHost: a.test\n\n",
		"chunked twice":      "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"other coding":       "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"chunked 1.0":        "POST / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"bad chunk":          "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n0\r\n\r\n",
		"long chunk":         "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
		"second malformed":   "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
		"lower case method":  "get / HTTP/1.1\r\nHost: a.test\r\n\r\n",
	}
	answers := map[string]string{
		"ok":                  ok,
		"headers":             "HTTP/1.1 201 Whatever\r\nx-b: 1\r\nServer: x\r\nX-Powered-By: y\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nContent-Length: 0\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n",
		"chunked":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
		"chunked, empty":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked, trailer":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
		"unannounced trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
		"until close":         "HTTP/1.1 200 OK\r\n\r\nto the end",
		"until close 1.0":     "HTTP/1.0 200 OK\r\n\r\nto the end",
		"204":                 "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
		"304":                 "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
		"304 with length":     "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
		"early hints":         "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok,
		"unknown status":      "HTTP/1.1 599 x\r\nContent-Length: 2\r\n\r\nok",
		"bare LF":             "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"html without a type": "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
		"malformed":           "HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok",
		"switched":            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n",
		"folded":              "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
		"broken off":          "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"one length twice":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
	}
	for name, cfg := range map[string]Config{"strangers": strangers, "trusted": trusted} {
		slowConfig := cfg
		slowConfig.FastLane = &off
		fast, slow := startBare(t, cfg), startBare(t, slowConfig)
		port := regexp.MustCompile(addr(t, slow, 0)[len("127.0.0.1:"):])
		talk := func(p *Proxy, request, answer string) (sent, got string) {
			target.script(answer)
			// The last request ends the connection, and shows that the one before
			// was read to its end and not beyond.
			raw := wireTalk(t, addr(t, p, 0), request+"GET /end HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
			return target.take(), plainMessage(t, raw)
		}
		check := func(t *testing.T, rname, aname string) {
			var fastSent, fastGot, slowSent, slowGot string
			for range 3 { // a target that closes may be found out sooner or later
				fastSent, fastGot = talk(fast, requests[rname], answers[aname])
				slowSent, slowGot = talk(slow, requests[rname], answers[aname])
				slowSent = port.ReplaceAllString(slowSent, addr(t, fast, 0)[len("127.0.0.1:"):])
				if fastSent == slowSent && fastGot == slowGot {
					return
				}
			}
			if fastSent != slowSent {
				t.Errorf("the target got\n%s from the fast lane,\n%s from net/http", fastSent, slowSent)
			}
			if fastGot != slowGot {
				t.Errorf("the client got\n%q from the fast lane,\n%q from net/http", fastGot, slowGot)
			}
		}
		for rname := range requests {
			t.Run(name+"/"+rname, func(t *testing.T) { check(t, rname, "ok") })
		}
		for aname := range answers {
			for _, rname := range []string{"get", "head", "twice", "edited", "close", "http/1.0"} {
				t.Run(name+"/"+rname+"/"+aname, func(t *testing.T) { check(t, rname, aname) })
			}
		}
	}
}
