package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// serveAt serves HTTP at a machine of the place: what it says of a request is its
// name, and what the gateway has told it.
func (p *place) serveAt(t *testing.T, name string, host, port int) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Backend", name)
		fmt.Fprintf(w, "%s %s %s proto=%s for=%s", r.Method, r.Host, r.URL, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"))
	}))
	s.Listener.Close()
	var err error
	if s.Listener, err = net.Listen("tcp", fmt.Sprintf("%s:%d", p.at(host), port)); err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Close)
}

// curl makes a request of a stranger, in which all names lead to the gateway.
func (p *place) curl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"-sS", "--max-time", "20", "--interface", p.at(atStranger), "--connect-to", "::" + p.at(atGateway) + ":", "--cacert", p.roots}, args...)
	return try(t, "curl", "apt-get install curl", "", args...)
}

// wantCurl waits for an answer, as long as it may take the certificate to come.
func (p *place) wantCurl(t *testing.T, want string, args ...string) {
	t.Helper()
	testenv.WaitFor(t, patience, func() error {
		if got, err := p.curl(t, args...); err != nil || got != want {
			return fmt.Errorf("curl %v: %v, %q, want %q", args, err, got, want)
		}
		return nil
	})
}

// refusesName wants that nothing is served under a name.
func (p *place) refusesName(t *testing.T, url string) {
	t.Helper()
	if got, err := p.curl(t, "-k", "-f", url); err == nil {
		t.Errorf("%s: %q", url, got)
	}
}

func referenceBasicHTTP(t *testing.T) {
	p := newPlace(t)
	p.serveAt(t, "web", 10, 8080)
	g := p.run(t, p.load(t, "basic-http", func(c *dcrouter.Config) {
		a := p.authority(t, atWorld)
		a.Email = c.Proxy.ACME.Email
		c.Proxy.ACME = a
	}))
	g.listens(t, p, "proxy", "443")
	p.wantCurl(t, fmt.Sprintf("GET example.com /a?b=c proto=https for=%s", p.at(atStranger)), "https://example.com/a?b=c")
	p.wantCurl(t, "2 200 web", "--http2", "-X", "POST", "-d", "x", "-o", "/dev/null", "-w", "%{http_version} %{http_code} %header{x-backend}", "https://example.com/")
	p.refusesName(t, "https://www.example.com/")
}

func referenceHTTPRoutes(t *testing.T) {
	p := newPlace(t)
	p.serveAt(t, "api", 20, 8080)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "style.css"), []byte("body { color: teal }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.run(t, p.load(t, "http-routes", func(c *dcrouter.Config) {
		c.Proxy.ACME = p.authority(t, atWorld)
		if action := &c.Proxy.Routes[1].Action; action.Root != "/var/www/static" {
			t.Errorf("the folder is %q", action.Root)
		} else {
			action.Root = root
		}
	}))
	p.wantCurl(t, fmt.Sprintf("GET api.example.com /v1/users proto=https for=%s", p.at(atStranger)), "https://api.example.com/v1/users")
	p.wantCurl(t, "body { color: teal }\n", "https://cdn.example.com/style.css")
	p.wantCurl(t, "teal", "-r", "14-17", "https://cdn.example.com/style.css")
	p.wantCurl(t, "text/css; charset=utf-8", "-o", "/dev/null", "-w", "%{content_type}", "https://cdn.example.com/style.css")
	for _, path := range []string{"missing", "../../../../etc/passwd", "%2e%2e/%2e%2e/%2e%2e/etc/passwd"} {
		if got, err := p.curl(t, "-f", "--path-as-is", "https://cdn.example.com/"+path); err == nil {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func referenceTCPRoutes(t *testing.T) {
	p := newPlace(t)
	for port := 5432; port <= 5439; port++ { // the server speaks first
		p.acceptAt(t, 30, port, func(c net.Conn) { fmt.Fprintf(c, "database %d\n", port) })
	}
	cert, key, _ := testenv.SelfSigned(t, "secure.example.com")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	p.acceptAt(t, 40, 8443, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
		if s.Handshake() == nil {
			io.WriteString(s, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
			io.Copy(io.Discard, s)
		}
	})
	p.roots = cert // the client trusts the server behind, so it must be that one's TLS
	g := p.run(t, p.load(t, "tcp-sni-routes", nil))
	g.listens(t, p, "proxy", "5432", "5433", "5434", "5435", "5436", "5437", "5438", "5439", "8443")

	for port := 5432; port <= 5439; port++ {
		got, err := p.readFrom(t, atOffice, p.port(port))
		if want := fmt.Sprintf("database %d\n", port); err != nil || got != want {
			t.Errorf("%d: %q, %v", port, got, err)
		}
		if got, _ := p.readFrom(t, atStranger, p.port(port)); got != "" {
			t.Errorf("%d says %q to somebody who is not allowed", port, got)
		}
	}
	p.wantCurl(t, "secret", "https://secure.example.com:8443/")
	p.refusesName(t, "https://other.example.com:8443/")
}

// acceptAt serves connections at a machine of the place.
func (p *place) acceptAt(t *testing.T, host, port int, serve func(net.Conn)) {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", p.at(host), port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// readFrom connects and reads until the other end closes.
func (p *place) readFrom(t *testing.T, host int, addr string) (string, error) {
	t.Helper()
	c, err := p.dialFrom(host, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func referenceDNS(t *testing.T) {
	p := newPlace(t)
	g := p.run(t, p.load(t, "dns-doh", func(c *dcrouter.Config) {
		a := p.authority(t, atGateway) // the zone is ours, so this server is asked
		a.Email = c.Proxy.ACME.Email
		c.Proxy.ACME = a
		c.PublicIP = []string{p.at(atGateway)}
	}))
	g.listens(t, p, "dns", "53/udp", "53/tcp")
	g.listens(t, p, "proxy", "443")
	for _, want := range []struct{ name, rtype, answer string }{
		{"www.example.com", "A", "www.example.com. 300 IN A 192.0.2.10"},
		{"example.com", "MX", "example.com. 3600 IN MX 10 mail.example.com."},
		{"example.com", "TXT", `"v=spf1 mx -all"`},
		{"example.com", "NS", "example.com. 3600 IN NS ns1.example.com. | example.com. 3600 IN NS ns2.example.com."},
		{"ns2.example.com", "A", p.at(atGateway)},
		{"dns.example.com", "A", p.at(atGateway)},
	} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			out := tool(t, "dig", "apt-get install bind9-dnsutils", "@"+p.at(atGateway), "+time=10", "+noall", "+comments", "+answer", transport, want.name, want.rtype)
			if got := answers(out); !strings.HasSuffix(got, want.answer) || !strings.Contains(out, "flags: qr aa rd;") {
				t.Errorf("%s %s %s: %s, want %s\n%s", transport, want.name, want.rtype, got, want.answer, out)
			}
		}
	}
	p.wantCurl(t, "application/json", "-o", "/dev/null", "-w", "%{content_type}", "https://dns.example.com/resolve?name=www.example.com&type=A")
	if got, err := p.curl(t, "https://dns.example.com/resolve?name=www.example.com&type=A"); err != nil || !strings.Contains(got, `"data":"192.0.2.10"`) || !strings.Contains(got, `"TTL":300`) {
		t.Errorf("%s, %v", got, err)
	}
	// www.example.com A, in the form of messages (RFC 8484). Not by kdig, which cannot
	// read certificates without a subject, or dig, which names no server.
	got, err := p.curl(t, "https://dns.example.com/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB")
	if err != nil || !strings.HasSuffix(got, "\xc0\x00\x02\x0a") {
		t.Errorf("%q, %v", got, err)
	}
	// A client that looks up the host of its request over HTTPS, and finds no web
	// server there.
	got, err = try(t, "curl", "apt-get install curl", "", "-sS", "-v", "--connect-timeout", "1", "--cacert", p.roots,
		"--doh-url", "https://dns.example.com/dns-query", "--resolve", "dns.example.com:443:"+p.at(atGateway), "http://www.example.com/")
	if err == nil || !strings.Contains(got, "192.0.2.10") {
		t.Errorf("curl with --doh-url: %v\n%s", err, got)
	}
	p.refusesName(t, "https://dns.example.com/")
	p.refusesName(t, "https://other.example.com/resolve?name=www.example.com")
}

// answers are the records that dig prints.
func answers(out string) string {
	var list []string
	for line := range strings.Lines(out) {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.HasPrefix(line, ";") {
			list = append(list, line)
		}
	}
	return strings.Join(list, " | ")
}
