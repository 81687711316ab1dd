package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// httpChallenge answers for one token, and counts how often it is asked.
func httpChallenge(asked *atomic.Int64) Option {
	return WithHTTPChallenge(func(w http.ResponseWriter, r *http.Request) bool {
		asked.Add(1)
		if r.URL.Path != challengePath+"token" {
			return false
		}
		io.WriteString(w, "token.thumbprint for "+r.Host)
		return true
	})
}

func TestHTTPChallengeComesBeforeRoutes(t *testing.T) {
	var asked atomic.Int64
	_, target := backend(t, says("target"))
	forward := Route{Match: Match{Ports: Ports(0), Domains: []string{"a.test"}}, Action: forwardTo(target)}
	redirect := Route{Match: Match{Ports: Ports(0), Domains: []string{"r.test"}}, Action: Action{Type: Redirect, Redirect: RedirectTo{To: "https://{host}{uri}"}}}
	blocked := Route{Match: Match{Ports: Ports(0), Domains: []string{"b.test"}}, Action: forwardTo(target)}
	blocked.Action.Security.IPBlockList = []string{"127.0.0.0/8"}
	p := start(t, Config{Routes: []Route{forward, redirect, blocked}, RequestID: &RequestID{}}, httpChallenge(&asked))
	c := client(t, addr(t, p, 0), nil)

	for _, host := range []string{"a.test", "r.test", "b.test", "unknown.test", "192.0.2.1"} {
		if status, body := get(t, c, "http://"+host+challengePath+"token"); status != 200 || body != "token.thumbprint for "+host {
			t.Errorf("%s: %d %q", host, status, body)
		}
	}
	if n := p.Stats().Refused["noRoute"] + p.Stats().Refused["blocked"]; n != 0 {
		t.Errorf("%d challenges counted as refused", n)
	}
	asked.Store(0)
	// What the host does not answer goes where it would go.
	for host, want := range map[string]int{"a.test": 200, "r.test": 308, "b.test": 403, "unknown.test": 404} {
		if status, _ := get(t, c, "http://"+host+challengePath+"other"); status != want {
			t.Errorf("%s: %d for a token of somebody else, want %d", host, status, want)
		}
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("asked about %d of 4 requests", n)
	}
	// What is none is not asked about.
	asked.Store(0)
	get(t, c, "http://a.test/")
	get(t, c, "http://a.test/.well-known/acme-challenge")
	for method, body := range map[string]io.Reader{"DELETE": nil, "POST": strings.NewReader("x"), "GET": strings.NewReader("x")} {
		req, _ := http.NewRequest(method, "http://a.test"+challengePath+"token", body)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := io.ReadAll(resp.Body); string(text) != "target" {
			t.Errorf("%s: %q, want the target's answer", method, text)
		}
		resp.Body.Close()
	}
	if asked.Load() != 0 {
		t.Errorf("asked about %d requests that are no challenge", asked.Load())
	}
}

func TestHTTPChallengeIsForPlaintext(t *testing.T) {
	var asked atomic.Int64
	files, pool := tlsFiles(t, "a.test")
	p := start(t, Config{Routes: []Route{tlsRoute("a", files, Action{Handler: says("route")}, "a.test")}}, httpChallenge(&asked))
	if _, body := get(t, client(t, addr(t, p, 0), pool), "https://a.test"+challengePath+"token"); body != "route" || asked.Load() != 0 {
		t.Errorf("over TLS: %q, asked %d times", body, asked.Load())
	}
}

func TestHTTPChallengeWithCurl(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	var asked atomic.Int64
	p := start(t, Config{Routes: []Route{{Match: Match{Ports: Ports(0), Domains: []string{"a.test"}},
		Action: Action{Type: Redirect, Redirect: RedirectTo{To: "https://{host}{uri}"}}}}}, httpChallenge(&asked))
	for _, version := range []string{"--http1.0", "--http1.1", "--http2-prior-knowledge"} {
		out := runTool(t, testenv.Command(t, curl, "-sS", "-m", "20", version, "-H", "Host: other.test", "http://"+addr(t, p, 0)+challengePath+"token"))
		if out != "token.thumbprint for other.test" {
			t.Errorf("%s: %q", version, out)
		}
	}
}

// tlsChallenge gives the certificate of files for one name, an error for
// another one.
func tlsChallenge(t *testing.T, files *TLS, name string, asked *atomic.Int64) Option {
	pair, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	return WithTLSALPNChallenge(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked.Add(1)
		if hello.Context().Err() != nil || len(hello.CipherSuites) == 0 || hello.Conn.RemoteAddr().(*net.TCPAddr).Port == 0 {
			t.Error("the host is not told what crypto/tls would tell it")
		}
		switch hello.ServerName {
		case name:
			return &pair, nil
		case "error.test":
			return nil, errors.New("storage is down")
		}
		return nil, nil
	})
}

func TestTLSALPNChallengeComesBeforeRoutes(t *testing.T) {
	var asked atomic.Int64
	ours, _ := tlsFiles(t, "challenge.test")
	files, _ := tlsFiles(t, "route.test")
	challengeUpstream, _ := tlsFiles(t, "upstream.test")
	upstream := wireServer(t, func(c net.Conn) {
		pair, _ := tls.LoadX509KeyPair(challengeUpstream.Certificate.CertPath, challengeUpstream.Certificate.KeyPath)
		tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{acmeTLS1}})
		tc.Handshake()
		tc.Close()
	})
	terminates := tlsRoute("terminates", files, Action{Handler: says("route")}, "terminates.test", "error.test")
	passes := tlsRoute("passes", &TLS{Mode: Passthrough}, forwardTo(upstream), "passes.test")
	dial := func(p *Proxy, name string, protocols ...string) (*tls.Conn, error) {
		return tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protocols})
	}
	for _, name := range []string{"terminates.test", "passes.test", "unknown.test"} {
		p := start(t, Config{Routes: []Route{terminates, passes}}, tlsChallenge(t, ours, name, &asked))
		c, err := dial(p, name, acmeTLS1)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		state := c.ConnectionState()
		if got := state.PeerCertificates[0].DNSNames[0]; got != "challenge.test" || state.NegotiatedProtocol != acmeTLS1 {
			t.Errorf("%s: certificate for %s, protocol %q", name, got, state.NegotiatedProtocol)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: %v after the handshake, want the end", name, err)
		}
		eventually(t, "the connection is off the books", func() bool { return p.Stats().ActiveConnections == 0 })
		// Other connections under the name go on as without the option.
		asked.Store(0)
		if c, err := dial(p, name, acmeTLS1, "http/1.1"); err == nil && name == "terminates.test" {
			if status, body, err := tlsGet(t, c, name); status != 200 || body != "route" {
				t.Errorf("%d %q %v", status, body, err)
			}
		} else if name != "passes.test" && (err == nil || name == "terminates.test") {
			t.Errorf("%s with another protocol: %v", name, err)
		}
		if asked.Load() != 0 {
			t.Errorf("%s: asked about a connection that offers something else too", name)
		}
	}

	p := start(t, Config{Routes: []Route{terminates, passes}}, tlsChallenge(t, ours, "", &asked))
	if c, err := dial(p, "passes.test", acmeTLS1); err != nil || c.ConnectionState().PeerCertificates[0].DNSNames[0] != "upstream.test" {
		t.Errorf("not ours: %v, want the upstream's handshake", err)
	}
	for name, want := range map[string]string{"terminates.test": "no application protocol", "unknown.test": "unrecognized name", "error.test": "internal error"} {
		if _, err := dial(p, name, acmeTLS1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, not ours: %v, want %s", name, err, want)
		}
	}
}

func TestTLSALPNChallengeWithOpenSSL(t *testing.T) {
	openssl := testenv.Need(t, "openssl", "apt-get install openssl")
	var asked atomic.Int64
	ours, _ := tlsFiles(t, "challenge.test")
	p := start(t, Config{Routes: []Route{tlsRoute("passes", &TLS{Mode: Passthrough}, forwardTo(Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}))}},
		tlsChallenge(t, ours, "ours.test", &asked))
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		cmd := testenv.Command(t, openssl, "s_client", "-alpn", acmeTLS1, "-servername", "ours.test", version, "-connect", addr(t, p, 0), "-verify_quiet")
		out := runTool(t, cmd)
		for _, want := range []string{"ALPN protocol: acme-tls/1", "CN=challenge.test"} {
			if !strings.Contains(strings.ReplaceAll(out, "CN = ", "CN="), want) {
				t.Errorf("%s: openssl does not say %q:\n%s", version, want, out)
			}
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}
