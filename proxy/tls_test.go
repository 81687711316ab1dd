package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// tlsFiles is a TLS setting with a certificate of its own.
func tlsFiles(t testing.TB, names ...string) (*TLS, *x509.CertPool) {
	cert, key, pool := testenv.SelfSigned(t, names...)
	return &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}, pool
}

// tlsRoute is a route for domains with a TLS setting.
func tlsRoute(name string, settings *TLS, a Action, domains ...string) Route {
	a.TLS = settings
	return Route{Name: name, Match: Match{Ports: Ports(0), Domains: domains}, Action: a}
}

// tlsDial makes a TLS connection that ends with the test.
func tlsDial(t testing.TB, addr string, cfg *tls.Config) (*tls.Conn, error) {
	t.Helper()
	c := tls.Client(wireDial(t, addr), cfg)
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	return c, nil
}

// tlsGet makes one HTTP/1.1 request on c.
func tlsGet(t testing.TB, c net.Conn, host string) (int, string, error) {
	t.Helper()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// tlsEcho is a target that sends everything back until the client ends.
func tlsEcho(t testing.TB) Target {
	return wireServer(t, func(c net.Conn) { io.Copy(c, c) })
}

// tlsUpstream is an HTTPS target; it answers with the server name it was asked for.
func tlsUpstream(t testing.TB, cert, key string) Target {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "sni=%s host=%s", r.TLS.ServerName, r.Host)
	}))
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	closeAfter(t, s)
	return targetOf(s.Listener.Addr())
}

func TestTLSServerNames(t *testing.T) {
	a, _ := tlsFiles(t, "a.test")
	b, _ := tlsFiles(t, "b.test")
	wild, _ := tlsFiles(t, "*.w.test")
	other, _ := tlsFiles(t, "default.test")
	routes := []Route{
		tlsRoute("a", a, Action{Handler: says("a")}, "a.test"),
		tlsRoute("b", b, Action{Handler: says("b")}, "b.test"),
		tlsRoute("wild", wild, Action{Handler: says("wild")}, "*.w.test"),
	}
	named := start(t, Config{Routes: routes})
	withDefault := start(t, Config{Routes: append(slices.Clone(routes), tlsRoute("default", other, Action{Handler: says("default")}, "*"))})

	for _, test := range []struct {
		name               string // server name, "" for none
		want, wantDefault  string // certificate; "" for the alert
		body, bodyFallback string
	}{
		{"a.test", "a.test", "a.test", "a", "a"},
		{"A.Test", "a.test", "a.test", "a", "a"},
		{"b.test", "b.test", "b.test", "b", "b"},
		{"x.w.test", "*.w.test", "*.w.test", "wild", "wild"},
		{"w.test", "", "default.test", "", "default"},
		{"x.y.w.test", "", "default.test", "", "default"},
		{"unknown.test", "", "default.test", "", "default"},
		{"", "", "default.test", "", "default"},
	} {
		for _, p := range []*Proxy{named, withDefault} {
			want, body := test.want, test.body
			if p == withDefault {
				want, body = test.wantDefault, test.bodyFallback
			}
			before := p.Stats().Refused["unknownName"]
			c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: test.name, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			if want == "" {
				if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
					t.Errorf("%q: %v, want the alert unrecognized_name", test.name, err)
				}
				if n := p.Stats().Refused["unknownName"]; n != before+1 {
					t.Errorf("%q: unknownName counted %d times", test.name, n-before)
				}
				continue
			}
			if err != nil {
				t.Errorf("%q: %v", test.name, err)
				continue
			}
			if got := c.ConnectionState().PeerCertificates[0].DNSNames[0]; got != want {
				t.Errorf("%q: shown the certificate of %s, want %s", test.name, got, want)
			}
			host := test.name
			if host == "" {
				host = "whatever.test"
			}
			if status, got, err := tlsGet(t, c, host); status != 200 || got != body {
				t.Errorf("%q: %d %q %v, want %q", test.name, status, got, err, body)
			}
			c.Close()
		}
	}
}

func TestTLSGetCertificate(t *testing.T) {
	files, pool := tlsFiles(t, "auto.test")
	pair, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	auto := &TLS{Mode: Terminate, Certificate: Certificate{Auto: true}}
	cfg := Config{ListenHost: "127.0.0.1", Routes: []Route{
		handlerRoute("plain", Match{}),
		tlsRoute("auto", auto, Action{Handler: says("auto")}, "auto.test", "fails.test", "nil.test"),
	}}

	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var field *FieldError
	if err := p.Start(t.Context()); !errors.As(err, &field) || field.Path != "routes[1].action.tls.certificate" {
		t.Errorf("without a hook: %v, want an error at routes[1].action.tls.certificate", err)
		p.Stop(t.Context())
	}

	names := make(chan string, 10)
	p = start(t, cfg, WithGetCertificate(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		names <- hello.ServerName
		switch hello.ServerName {
		case "auto.test":
			return &pair, nil
		case "nil.test":
			return nil, nil
		}
		return nil, errors.New("no certificate for this name")
	}))
	if status, body := get(t, client(t, addr(t, p, 0), pool), "https://auto.test/"); status != 200 || body != "auto" {
		t.Errorf("%d %q", status, body)
	}
	if name := receive(t, names); name != "auto.test" {
		t.Errorf("hook asked for %q", name)
	}
	for i, name := range []string{"fails.test", "nil.test"} {
		if _, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: name, InsecureSkipVerify: true}); err == nil {
			t.Errorf("%s: handshake without a certificate", name)
		}
		eventually(t, name+" counted", func() bool { return p.Stats().Refused["badTls"] == uint64(i+1) })
	}
}

func TestTLSALPN(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	a := Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, _ := ConnInfoFrom(r.Context())
		fmt.Fprintf(w, "%s %s %s %v %v", r.Proto, info.ALPN, info.ServerName, r.TLS != nil, info.TLS != nil)
	})}
	echo := forwardTo(tlsEcho(t))
	stream := tlsRoute("stream", files, echo, "a.test")
	stream.Match.Protocol = "tcp"
	stream.Priority = -1
	for _, test := range []struct {
		name   string
		routes []Route
	}{
		{"only HTTP", []Route{tlsRoute("http", files, a, "a.test")}},
		{"HTTP and streams", []Route{tlsRoute("http", files, a, "a.test"), stream}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, Config{Routes: test.routes})
			if _, body := get(t, client(t, addr(t, p, 0), pool), "https://a.test/"); body != "HTTP/2.0 h2 a.test true true" {
				t.Errorf("h2: %q", body)
			}
			for _, protocols := range [][]string{{"http/1.1"}, {"x", "http/1.1"}, nil} {
				c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool, NextProtos: protocols})
				if err != nil {
					t.Fatal(err)
				}
				alpn := ""
				if protocols != nil {
					alpn = "http/1.1"
				}
				_, body, err := tlsGet(t, c, "a.test")
				if want := fmt.Sprintf("HTTP/1.1 %s a.test true true", alpn); body != want || err != nil {
					t.Errorf("client offers %q: got %q, %v, want %q", protocols, body, err, want)
				}
				c.Close()
			}
		})
	}
}

func TestTLSToStream(t *testing.T) {
	files, pool := tlsFiles(t, "a.test", "mixed.test")
	_, web := backend(t, says("web"))
	banner := wireServer(t, func(c net.Conn) {
		io.WriteString(c, "220 ready\r\n")
		io.Copy(c, c)
	})
	serverFirst := tlsRoute("server first", files, forwardTo(banner), "a.test")
	serverFirst.Match.Protocol = "tcp"
	onlyHTTP := tlsRoute("web", files, forwardTo(web), "mixed.test")
	onlyHTTP.Match.Protocol, onlyHTTP.Priority = "http", 1
	mixed := tlsRoute("mixed", files, forwardTo(tlsEcho(t)), "mixed.test")
	mixed.Match.Protocol = "tcp"
	p := start(t, Config{Routes: []Route{serverFirst, onlyHTTP, mixed}})

	begin := time.Now()
	c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); line != "220 ready\r\n" {
		t.Fatalf("greeting %q, %v", line, err)
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("the greeting took %v", d)
	}
	// Both directions, half-closed at the end.
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		c.Write(content)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(r); !bytes.Equal(got, content) || err != nil {
		t.Errorf("echo of %d bytes: %d bytes, %v", len(content), len(got), err)
	}

	// One name, HTTP and another protocol in which the client speaks first.
	c, err = tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "mixed.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	if status, body, err := tlsGet(t, c, "mixed.test"); status != 200 || body != "web" {
		t.Errorf("HTTP on a mixed name: %d %q %v", status, body, err)
	}
	c, err = tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "mixed.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "\x00\x01binary")
	buf := make([]byte, 8)
	if _, err := io.ReadFull(c, buf); string(buf) != "\x00\x01binary" {
		t.Errorf("stream on a mixed name: %q, %v", buf, err)
	}
	if s := p.Stats(); s.Routes[1].Requests != 1 || s.Routes[2].Streams != 1 {
		t.Errorf("counters %+v", s.Routes)
	}
}

// A route that takes HTTP must not be talked into passing HTTP through as a
// stream: the target would believe the client's X-Forwarded-For, and no rule
// on paths would hold.
func TestTLSNoStreamPastHTTP(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	var mu sync.Mutex
	var got []byte
	target := wireServer(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			mu.Lock()
			got = append(got, buf[:n]...)
			mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	cfg := Config{Routes: []Route{
		tlsRoute("site", files, forwardTo(target), "a.test"),
		{Name: "plain site", Match: Match{Ports: Ports(0), Domains: []string{"a.test"}}, Action: forwardTo(target)},
		{Name: "plain", Match: Match{Ports: Ports(0), Domains: []string{"*"}}, Action: forwardTo(target)},
		handlerRoute("admin", Match{Path: "/admin"}),
	}}
	cfg.Timeouts.Route = 200 * time.Millisecond
	p := start(t, cfg)
	const rest = "Host: a.test\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n"
	for _, test := range []struct {
		first string
		wait  bool
	}{
		{"", true},
		{"\r\n", false},
		{"\n", false},
		{"\r\n\r\n\r\n", false},
		{" ", false},
	} {
		for _, line := range []string{"GET /admin HTTP/1.1\r\n", "GET  /admin HTTP/1.1\r\n", "GET\t/admin HTTP/1.1\r\n", "get /admin HTTP/1.1\r\n", "Get /admin HTTP/1.1\r\n", "GET admin HTTP/1.1\r\n", "X /admin HTTP/1.1\r\n", "M1 /admin HTTP/1.1\r\n",
			strings.Repeat("A", 40) + " /admin HTTP/1.1\r\n", "GET\x0b/admin HTTP/1.1\r\n", "GET\x0c/admin HTTP/1.1\r\n", "GET\r/admin HTTP/1.1\r\n"} {
			for _, secure := range []bool{true, false} {
				var c net.Conn = wireDial(t, addr(t, p, 0))
				if secure {
					c = tls.Client(c, &tls.Config{ServerName: "a.test", RootCAs: pool})
					if err := c.(*tls.Conn).Handshake(); err != nil {
						t.Fatal(err)
					}
				}
				io.WriteString(c, test.first)
				if test.wait {
					time.Sleep(250 * time.Millisecond)
				}
				io.WriteString(c, line+rest)
				c.SetReadDeadline(time.Now().Add(40 * time.Millisecond))
				io.Copy(io.Discard, c)
				c.Close()
				mu.Lock()
				if bytes.Contains(got, []byte("192.0.2.66")) {
					t.Errorf("TLS %v, %q then %q (waited: %v): the target got %q", secure, test.first, line, test.wait, got)
				}
				got = nil
				mu.Unlock()
			}
			if test.wait {
				break // one is enough
			}
		}
	}
}

func TestTLSReencryptHTTP(t *testing.T) {
	front, pool := tlsFiles(t, "a.test")
	upCert, upKey, _ := testenv.SelfSigned(t, "up.test", "a.test")
	wrongCA, _, _ := testenv.SelfSigned(t, "up.test", "a.test")
	target := tlsUpstream(t, upCert, upKey)
	for _, test := range []struct {
		name   string
		up     UpstreamTLS
		target Target
		status int
		body   string
	}{
		{"verified by serverName", UpstreamTLS{CAPath: upCert, ServerName: "up.test"}, target, 200, "sni=up.test host=a.test"},
		{"verified by the name asked for", UpstreamTLS{CAPath: upCert}, target, 200, "sni=a.test host=a.test"},
		{"no authority", UpstreamTLS{ServerName: "up.test"}, target, 502, ""},
		{"wrong authority", UpstreamTLS{CAPath: wrongCA, ServerName: "up.test"}, target, 502, ""},
		{"wrong name", UpstreamTLS{CAPath: upCert, ServerName: "other.test"}, target, 502, ""},
		{"target by name", UpstreamTLS{CAPath: upCert}, Target{Host: "localhost", Port: target.Port}, 502, ""},
		{"not verified", UpstreamTLS{InsecureSkipVerify: true}, target, 200, "sni=a.test host=a.test"},
		{"not TLS", UpstreamTLS{InsecureSkipVerify: true}, wireServer(t, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			io.Copy(io.Discard, c)
		}), 502, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			settings := *front
			settings.Mode, settings.Upstream = TerminateAndReencrypt, test.up
			p := start(t, Config{Routes: []Route{tlsRoute("r", &settings, forwardTo(test.target), "a.test")}})
			status, body := get(t, client(t, addr(t, p, 0), pool), "https://a.test/")
			if status != test.status || test.body != "" && body != test.body {
				t.Errorf("%d %q, want %d %q", status, body, test.status, test.body)
			}
		})
	}
}

func TestTLSReencryptStream(t *testing.T) {
	front, pool := tlsFiles(t, "a.test")
	upCert, upKey, _ := testenv.SelfSigned(t, "up.test")
	wrongCA, _, _ := testenv.SelfSigned(t, "up.test")
	pair, err := tls.LoadX509KeyPair(upCert, upKey)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan []byte, 10)
	target := wireServer(t, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
		b := make([]byte, 100)
		n, _ := s.Read(b)
		received <- b[:n]
		s.Write(b[:n])
		s.Close()
	})
	for _, test := range []struct {
		name string
		up   UpstreamTLS
		ok   bool
	}{
		{"verified", UpstreamTLS{CAPath: upCert, ServerName: "up.test"}, true},
		{"wrong authority", UpstreamTLS{CAPath: wrongCA, ServerName: "up.test"}, false},
		{"wrong name", UpstreamTLS{CAPath: upCert}, false},
		{"not verified", UpstreamTLS{InsecureSkipVerify: true}, true},
	} {
		settings := *front
		settings.Mode, settings.Upstream = TerminateAndReencrypt, test.up
		r := tlsRoute("r", &settings, forwardTo(target), "a.test")
		r.Match.Protocol = "tcp"
		p := start(t, Config{Routes: []Route{r}})
		c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "secret")
		b, _ := io.ReadAll(c)
		if test.ok != (string(b) == "secret") {
			t.Errorf("%s: got %q", test.name, b)
		}
		if got := receive(t, received); test.ok != (string(got) == "secret") {
			t.Errorf("%s: target got %q", test.name, got)
		}
	}
}

func TestTLSClientAuth(t *testing.T) {
	open, pool := tlsFiles(t, "closed.test", "open.test")
	clientCert, clientKey, _ := testenv.SelfSigned(t, "client")
	strangerCert, strangerKey, _ := testenv.SelfSigned(t, "client")
	closed := *open
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	p := start(t, Config{Routes: []Route{
		tlsRoute("open", open, Action{Handler: says("open")}, "open.test"),
		tlsRoute("closed", &closed, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info, _ := ConnInfoFrom(r.Context())
			io.WriteString(w, info.TLS.PeerCertificates[0].Subject.CommonName)
		})}, "closed.test"),
	}})
	load := func(cert, key string) *tls.Certificate {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	try := func(name string, version uint16, cert *tls.Certificate) (int, string, error) {
		c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: name, RootCAs: pool, MaxVersion: version,
			// Unlike Certificates, sent even if the server asks for other authorities.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }})
		if err != nil {
			return 0, "", err
		}
		return tlsGet(t, c, name)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if _, body, err := try("closed.test", version, load(clientCert, clientKey)); body != "client" {
			t.Errorf("%x: right certificate: %q, %v", version, body, err)
		}
		before := p.Stats()
		for name, cert := range map[string]*tls.Certificate{"none": new(tls.Certificate), "stranger's": load(strangerCert, strangerKey)} {
			if status, body, err := try("closed.test", version, cert); err == nil {
				t.Errorf("%x: %s certificate: got %d %q", version, name, status, body)
			}
		}
		eventually(t, "refusals counted", func() bool { return p.Stats().Refused["badTls"] == before.Refused["badTls"]+2 })
		if n := p.Stats().Requests; n != before.Requests {
			t.Errorf("%x: %d requests got through", version, n-before.Requests)
		}
		if status, body, err := try("open.test", version, new(tls.Certificate)); status != 200 || body != "open" {
			t.Errorf("%x: name without client authentication: %d %q %v", version, status, body, err)
		}
	}
}

// What is wrong with files keeps the proxy from starting; it never starts with
// less protection than asked for.
func TestTLSBadFiles(t *testing.T) {
	good, _ := tlsFiles(t, "a.test")
	other, _ := tlsFiles(t, "a.test")
	folder := testenv.Folder(t)
	file := func(name, content string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := os.ReadFile(good.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*TLS)
		path   string
	}{
		{"CA file missing", func(s *TLS) { s.ClientAuth = &ClientAuth{CAPath: filepath.Join(folder, "none.pem")} }, "clientAuth.caPath"},
		{"CA file empty", func(s *TLS) { s.ClientAuth = &ClientAuth{CAPath: file("empty.pem", "")} }, "clientAuth.caPath"},
		{"CA file without certificates", func(s *TLS) { s.ClientAuth = &ClientAuth{CAPath: file("key.pem", string(key))} }, "clientAuth.caPath"},
		{"CA file is a folder", func(s *TLS) { s.ClientAuth = &ClientAuth{CAPath: folder} }, "clientAuth.caPath"},
		{"CA file broken", func(s *TLS) {
			s.ClientAuth = &ClientAuth{CAPath: file("broken.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")}
		}, "clientAuth.caPath"},
		{"certificate missing", func(s *TLS) { s.Certificate.CertPath += ".none" }, "certificate.certPath"},
		{"key missing", func(s *TLS) { s.Certificate.KeyPath += ".none" }, "certificate.keyPath"},
		{"key of another", func(s *TLS) { s.Certificate.KeyPath = other.Certificate.KeyPath }, "certificate"},
		{"certificate empty", func(s *TLS) { s.Certificate.CertPath = file("empty2.pem", "") }, "certificate"},
		{"upstream CA missing", func(s *TLS) { s.Mode = TerminateAndReencrypt; s.Upstream.CAPath = filepath.Join(folder, "none.pem") }, "upstream.caPath"},
		{"upstream CA empty", func(s *TLS) { s.Mode = TerminateAndReencrypt; s.Upstream.CAPath = file("empty3.pem", "") }, "upstream.caPath"},
	} {
		t.Run(test.name, func(t *testing.T) {
			settings := *good
			test.change(&settings)
			routes := []Route{handlerRoute("first", Match{}), tlsRoute("bad", &settings, forwardTo(Target{Host: "127.0.0.1", Port: 1}), "a.test")}
			p, err := New(Config{ListenHost: "127.0.0.1", Routes: routes})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Stop(t.Context())
			for what, err := range map[string]error{"Start": p.Start(t.Context()), "Check": p.Check()} {
				var field *FieldError
				if !errors.As(err, &field) || field.Path != "routes[1].action.tls."+test.path {
					t.Errorf("%s: %v, want an error at routes[1].action.tls.%s", what, err, test.path)
				}
			}
			// Nor does a running one take it; what was there goes on.
			running := start(t, Config{Routes: []Route{tlsRoute("good", good, Action{Handler: says("good")}, "a.test")}})
			if err := running.UpdateRoutes(t.Context(), routes); err == nil {
				t.Error("UpdateRoutes took it")
			}
			c, err := tlsDial(t, addr(t, running, 0), &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, body, err := tlsGet(t, c, "a.test"); body != "good" {
				t.Errorf("after the refused update: %q, %v", body, err)
			}
		})
	}
}
