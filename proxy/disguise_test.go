package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A request must not pass as an ordinary stream by way of a route that takes
// both, past all that is done to HTTP. What comes after a pause is what another
// look would have told. Beside a route for HTTP alone no stream passes.
func TestNoRequestPassesAsAStream(t *testing.T) {
	t.Parallel()
	const secret = "GET /admin/x HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 10.1.1.1\r\nConnection: close\r\n\r\n"
	const noEnd = "without an end of the line"
	long := strings.Repeat("a", maxRequestLine+100)
	for _, d := range []struct {
		name   string
		parts  []string
		beside bool // only beside a route for HTTP alone is it known what it is
	}{
		{"HTTP/0.9", []string{"GET http://a.test/admin/x\r\n"}, false},
		{"HTTP/0.9 without a slash", []string{"GET admin/x\r\n"}, false},
		{noEnd, []string{"GET admin/x"}, false},
		{"long path", []string{"GET http://a.test/" + long, " HTTP/1.1\r\nHost: a.test\r\n\r\n" + secret}, false},
		{"long method", []string{long, " / HTTP/1.1\r\nHost: a.test\r\n\r\n" + secret}, false},
		{"long line", []string{"GET a" + strings.Repeat(" ", maxRequestLine), " HTTP/1.1\r\nHost: a.test\r\n\r\n" + secret}, false},
		{"PROXY", []string{"PROXY TCP4 10.1.1.1 10.0.0.1 1 80\r\n" + secret}, false},
		{"PROXY, binary", []string{"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x01\x01\x01\x0a\x00\x00\x01\x00\x01\x00\x50" + secret}, false},
		{"another version", []string{"GET http://a.test/admin/x RTSP/1.0\r\nHost: a.test\r\n\r\n"}, false},
		{"another version before", []string{"OPTIONS rtsp://a.test/x RTSP/1.0\r\n\r\n" + secret}, false},
		{"another blank", []string{"GET\x1c/admin/x HTTP/1.1\r\nHost: a.test\r\n\r\n"}, false},
		{"NUL", []string{"\x00" + secret}, true},
		{"no character of a method", []string{"(" + secret}, true},
		{"TLS", []string{"\x16\x03\x01\n" + secret}, true},
		{"bare line feed", []string{"GET\n/admin/x HTTP/1.1\r\nHost: a.test\r\n\r\n"}, true},
		{"another protocol's version", []string{"GET xadmin/x FOO/1.1\r\nHost: a.test\r\n\r\n"}, true},
		{"another protocol before", []string{"INVITE sip:a@b SIP/2.0\r\nHost: a.test\r\n\r\n" + secret}, true},
		{"no method", []string{"GET@ /admin/x HTTP/1.1\r\nHost: a.test\r\n\r\n"}, true},
		{"LDAP", []string{"000\x0c\x02 /admin/x HTTP/1.1\r\nHost: a.test\r\n\r\n"}, true},
	} {
		for i := range 4 {
			secure, beside := i&1 != 0, i&2 != 0
			if d.beside && !beside {
				continue
			}
			got := make(chan string, 100)
			target := wireServer(t, func(c net.Conn) {
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					got <- line
					if err != nil {
						return
					}
					if line == "\r\n" {
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				}
			})
			admin := Route{Name: "admin", Match: Match{Ports: Ports(0), Path: "/admin/*"}, Action: forwardTo(target)}
			admin.Action.Security.IPAllowList = []string{"10.0.0.0/8"}
			rest := Route{Name: "rest", Match: Match{Ports: Ports(0)}, Action: forwardTo(target)}
			files, pool := tlsFiles(t, "a.test")
			if secure {
				admin.Action.TLS, admin.Match.Domains = files, []string{"a.test"}
				rest.Action.TLS, rest.Match.Domains = files, []string{"a.test"}
			}
			cfg := Config{Routes: []Route{rest, admin}}
			if !beside { // HTTP is still looked for, since a route has a domain
				cfg.Routes[1] = Route{Name: "other", Match: Match{Ports: Ports(0), Domains: []string{"b.test"}}, Action: forwardTo(target)}
			}
			cfg.Timeouts.RequestHead, cfg.Timeouts.Idle = 500*time.Millisecond, time.Second
			p := startBare(t, cfg)
			c := wireDial(t, addr(t, p, 0))
			if secure {
				c = tls.Client(c, &tls.Config{ServerName: "a.test", RootCAs: pool})
			}
			for i, part := range d.parts {
				if i > 0 {
					time.Sleep(50 * time.Millisecond) // so that the part before is judged alone
				}
				io.WriteString(c, part)
			}
			if d.name == noEnd {
				c.(interface{ CloseWrite() error }).CloseWrite()
			}
			answer, _ := io.ReadAll(c)
			if p.Stats().Routes[0].Streams != 0 {
				t.Errorf("%s, TLS %v, beside HTTP %v: passed as a stream", d.name, secure, beside)
			}
			for len(got) > 0 && beside {
				if line := <-got; strings.Contains(line, "admin") {
					t.Errorf("%s, TLS %v: the target got %.80q; the client %.80q", d.name, secure, line, answer)
				}
			}
			c.Close()
		}
	}
}
