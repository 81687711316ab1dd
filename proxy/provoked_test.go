package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// alert watches a target so that one failure ejects it.
func alert(a *Action) {
	a.LoadBalancing.CircuitBreaker = &CircuitBreaker{ConsecutiveFailures: 1}
}

// statusOf sends a request as the caller changes it, and returns the status.
func statusOf(t testing.TB, c *http.Client, url string, change func(*http.Request)) int {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	change(req)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// wellRegarded checks that nothing is held against any target.
func wellRegarded(t testing.TB, p *Proxy) {
	t.Helper()
	for _, s := range p.Stats().Targets {
		if !s.Healthy || s.Failures > 0 || s.Ejections > 0 || s.Circuit != CircuitClosed {
			t.Errorf("%+v", s)
		}
	}
}

// A target has no certificate for a name that a client makes up. That must not
// take it from those who ask for its own.
func TestMadeUpNames(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	reencrypt := *files
	reencrypt.Mode, reencrypt.Upstream = TerminateAndReencrypt, UpstreamTLS{CAPath: files.Certificate.CertPath}
	for _, protocol := range []string{HTTP1, H2} {
		target := func() Target {
			if protocol == H2 {
				return h2Backend(t, H2, files, says("ok")).Targets[0]
			}
			return tlsUpstream(t, files.Certificate.CertPath, files.Certificate.KeyPath)
		}
		a := forwardTo(target(), target())
		a.UpstreamProtocol, a.TLS = protocol, &reencrypt
		alert(&a)
		p := start(t, Config{Routes: []Route{{Match: Match{Ports: Ports(0)}, Action: a}}})
		for _, front := range []string{"http1", "h2"} {
			c := client(t, addr(t, p, 0), pool)
			c.Transport.(*http.Transport).ForceAttemptHTTP2 = front == "h2"
			for _, name := range []string{"b.test", "127.0.0.1"} {
				if status := statusOf(t, c, "https://a.test/", func(r *http.Request) { r.Host = name }); status != 502 {
					t.Errorf("%s, %s: %d for %s, want 502", protocol, front, status, name)
				}
			}
			for range 2 {
				if status, _ := get(t, c, "https://a.test/"); status != 200 {
					t.Errorf("%s, %s: %d for the target's own name", protocol, front, status)
				}
			}
		}
		wellRegarded(t, p)

		// What the configuration names, the target has to know.
		p = start(t, Config{Routes: []Route{{Match: Match{Ports: Ports(0), Domains: []string{"a.test", "B.test"}}, Action: a}}})
		statusOf(t, client(t, addr(t, p, 0), pool), "https://a.test/", func(r *http.Request) { r.Host = "b.test" })
		for _, s := range p.Stats().Targets {
			if s.Failures != 1 || s.Circuit != CircuitOpen {
				t.Errorf("%s, with the name in the configuration: %+v", protocol, s)
			}
		}
	}
}

// What is no name is nobody's choice of the configuration.
func TestNamesOfTheConfiguration(t *testing.T) {
	r := &route{domains: []domain{{exactDomain, "a.test"}}}
	for name, want := range map[string]bool{"a.test": true, "A.test.": true, "a.test:443": true, "b.test": false, "[": false, "a b": false} {
		if got := r.names(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	r.requestEdits.set = r.requestEdits.set.Set("Host", "Fixed.test:443")
	if !r.names("fixed.test") || r.names("[") {
		t.Error("a fixed Host is not found, or what is no name is one")
	}
}

// A target that nobody gets TLS with comes after the others, whatever names clients
// ask for.
func TestBrokenTLSOfTarget(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	reencrypt := *files
	reencrypt.Mode, reencrypt.Upstream = TerminateAndReencrypt, UpstreamTLS{CAPath: files.Certificate.CertPath}
	broken := wireServer(t, func(c net.Conn) { c.Read(make([]byte, 1)) })
	a := forwardTo(broken, tlsUpstream(t, files.Certificate.CertPath, files.Certificate.KeyPath))
	a.TLS = &reencrypt
	alert(&a)
	p := start(t, Config{Routes: []Route{{Match: Match{Ports: Ports(0), Domains: []string{"*.test"}}, Action: a}}})
	c := client(t, addr(t, p, 0), pool)
	for range 10 {
		if status, _ := get(t, c, "https://a.test/"); status != 200 {
			t.Errorf("%d although one target is well", status)
		}
	}
	for i, s := range p.Stats().Targets {
		if isBroken := s.Name == net.JoinHostPort(broken.Host, strconv.Itoa(broken.Port)); s.Healthy == isBroken {
			t.Errorf("target %d: %+v", i, s)
		}
	}
}

// Who goes on asking does not make the time longer for which a target comes last.
func TestDoubtIsNotProlonged(t *testing.T) {
	tg := new(target)
	tg.doubted(errSilent)
	until := tg.pause.until.Load()
	time.Sleep(time.Millisecond)
	tg.doubted(errSilent)
	if until == 0 || tg.pause.until.Load() != until {
		t.Error("the pause is another one")
	}
	tg.pause.until.Store(1)
	if !tg.pause.enter(&pick{}, failPause) {
		t.Fatal("nobody may try")
	}
	until = tg.pause.until.Load()
	tg.doubted(errSilent)
	if tg.pause.until.Load() != until || tg.pause.trying.Load() {
		t.Error("after a try that tells nothing it is not the next one's turn when the pause is over")
	}
}

// A target of which nothing has been heard for a while must not be out for everybody
// because of what one client asks for, nor must each such request go to all targets.
func TestMadeUpNamesBeforeOthers(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	cert, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	reencrypt := *files
	reencrypt.Mode, reencrypt.Upstream = TerminateAndReencrypt, UpstreamTLS{CAPath: files.Certificate.CertPath}
	var handshakes atomic.Int32
	picky := func() Target {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			handshakes.Add(1)
			if hello.ServerName != "a.test" {
				return nil, errors.New("no such name") // clients hear of an internal error
			}
			return &cert, nil
		}}
		s.StartTLS()
		closeAfter(t, s)
		return targetOf(s.Listener.Addr())
	}
	var targets []Target
	for range 8 {
		targets = append(targets, picky())
	}
	for _, list := range [][]Target{targets[:1], targets} {
		a := forwardTo(list...)
		a.TLS = &reencrypt
		alert(&a)
		p := start(t, Config{Routes: []Route{{Match: Match{Ports: Ports(0)}, Action: a}}})
		c := client(t, addr(t, p, 0), pool)
		ask := func() {
			if status := statusOf(t, c, "https://a.test/", func(r *http.Request) { r.Host = "b.test" }); status != 502 {
				t.Errorf("%d for a name that the target does not have", status)
			}
		}
		ask()
		for range list {
			if status, _ := get(t, c, "https://a.test/"); status != 200 {
				t.Errorf("%d for the target's own name", status)
			}
		}
		handshakes.Store(0)
		began := time.Now()
		const requests = 60
		for range requests {
			ask()
		}
		budget := requests/5 + 10*int(time.Since(began)/time.Second+1)
		if n := int(handshakes.Load()); n > requests+budget {
			t.Errorf("%d handshakes with %d targets for %d requests", n, len(list), requests)
		}
	}
}

func TestMadeUpNamesOfStreams(t *testing.T) {
	front, pool := tlsFiles(t, "a.test", "b.test")
	cert, key, _ := testenv.SelfSigned(t, "a.test")
	echo := tlsServer(t, cert, key, func(c *tls.Conn) {
		b := make([]byte, 100)
		n, _ := c.Read(b)
		c.Write(b[:n])
	})
	a := forwardTo(echo.target())
	settings := *front
	settings.Mode, settings.Upstream = TerminateAndReencrypt, UpstreamTLS{CAPath: cert}
	a.TLS = &settings
	alert(&a)
	p := start(t, Config{Routes: []Route{{Match: Match{Ports: Ports(0), Protocol: "tcp", Domains: []string{"*.test"}}, Action: a}}})
	if c := dialTLS(t, addr(t, p, 0), "b.test", pool); !isClosed(c, 10*time.Second) {
		t.Error("a stream to a name that the target does not have is open")
	}
	mustBounce(t, dialTLS(t, addr(t, p, 0), "A.test", pool), "hello")
	wellRegarded(t, p)
}

// How long a header a target of HTTP/2 takes is between it and the client.
func TestOversizedHeader(t *testing.T) {
	server := func() Target {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/early" {
				http.NewResponseController(w).Flush()
			}
			io.Copy(w, r.Body)
		}))
		s.Config.MaxHeaderBytes = 4 << 10
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		closeAfter(t, s)
		return targetOf(s.Listener.Addr())
	}
	a := forwardTo(server(), server())
	a.UpstreamProtocol = H2C
	alert(&a)
	p := start(t, oneRoute(a))
	large := strings.Repeat("x", 10<<10)
	for _, c := range []*http.Client{client(t, addr(t, p, 0), nil), h2cClient(t, addr(t, p, 0))} {
		get(t, c, "http://a.test/") // before, the limit is not known
		get(t, c, "http://a.test/")
		if status := statusOf(t, c, "http://a.test/", func(r *http.Request) { r.Header.Set("X-Large", large) }); status != 431 {
			t.Errorf("%d for a large header, want 431", status)
		}
		if status, _ := get(t, c, "http://a.test/"); status != 200 {
			t.Errorf("%d afterwards", status)
		}
	}
	c := h2cClient(t, addr(t, p, 0)) // trailers of HTTP/1.1 have a limit of their own
	for path, want := range map[string]int{"/": 431, "/early": 200} {
		body, end := io.Pipe()
		if path == "/" {
			end.Close()
		}
		req, _ := http.NewRequest("POST", "http://a.test"+path, body)
		req.Trailer = http.Header{"X-Large": {large}}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		end.Close()
		if _, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != want || (err == nil) != (want == 431) {
			t.Errorf("%s: %d, %v, for a large trailer, want %d", path, resp.StatusCode, err, want)
		}
		resp.Body.Close()
	}
	wellRegarded(t, p)
}

// A target of HTTP/2 is asked in HTTP/1.1 if a client wants an upgrade. That it
// does not understand that is no fault.
func TestUpgradeNotSpoken(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	pair, _ := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	// strict is what gRPC servers do with clients that do not offer h2.
	strict := func() Target {
		return tcpServer(t, func(c *net.TCPConn) {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				if len(h.SupportedProtos) == 0 {
					return nil, errors.New("no ALPN")
				}
				return nil, nil
			}})
			if s.Handshake() != nil {
				return
			}
			if p := h2Greet(s, 0); p != nil {
				for id, _ := p.request(); id != 0; id, _ = p.request() {
					p.respond(id, "ok")
				}
			}
		}).target()
	}
	h2, h2c := h2Backend(t, H2, files, says("ok")), h2Backend(t, H2C, files, says("ok"))
	h2.Targets = append(h2.Targets, strict())
	h2c.Targets = append(h2c.Targets, h2Backend(t, H2C, files, says("ok")).Targets...)
	for _, a := range []Action{h2, h2c} {
		alert(&a)
		p, addrs := h2Front(t, nil, files, a)
		c, url := client(t, addrs["h2"], pool), "https://a.test/"
		c.Transport.(*http.Transport).ForceAttemptHTTP2 = false
		for range 3 {
			for _, protocol := range []string{"websocket", "other"} {
				status := statusOf(t, c, url, func(r *http.Request) {
					r.Header.Set("Connection", "Upgrade")
					r.Header.Set("Upgrade", protocol)
				})
				if status != 502 {
					t.Errorf("%s: %d for an upgrade to %q, want 502", a.UpstreamProtocol, status, protocol)
				}
			}
			if status, _ := get(t, c, url); status != 200 {
				t.Errorf("%s: %d afterwards", a.UpstreamProtocol, status)
			}
		}
		wellRegarded(t, p)
	}

	// Where there is nobody another target is asked.
	_, plain := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(400)
		}
	})
	a := forwardTo(deadTarget(t), plain)
	a.UpstreamProtocol = H2C
	p := start(t, oneRoute(a))
	for range 2 {
		status := statusOf(t, client(t, addr(t, p, 0), nil), "http://a.test/", func(r *http.Request) {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
		})
		if status != 200 {
			t.Errorf("%d with a dead target beside", status)
		}
	}
}
