package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// h2cClient speaks HTTP/2 without TLS, whatever the URL's host is with addr.
func h2cClient(t testing.TB, addr string) *http.Client {
	t.Helper()
	tr := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// HTTP/2 without TLS is routed by request, like everything else.
func TestH2CByPriorKnowledge(t *testing.T) {
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, r.Proto+" "+r.Host+r.URL.Path+" "+r.Header.Get("X-Forwarded-Proto")+" "+string(body))
		w.Header().Set("X-Sum", "1")
	})
	secret := httpRoute("secret", 0, "a.test", target)
	secret.Match.Path, secret.Priority = "/secret*", 1
	secret.Action.Security.IPBlockList = []string{"127.0.0.0/8"}
	echo := tcpEcho(t)
	p := start(t, Config{Routes: []Route{secret, httpRoute("a", 0, "a.test", target),
		{Name: "handler", Match: Match{Ports: Ports(0), Domains: []string{"h.test"}}, Action: Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info, _ := ConnInfoFrom(r.Context())
			io.WriteString(w, r.Proto+" "+info.Route)
		})}},
		{Name: "streams", Match: Match{Ports: Ports(0), Protocol: "tcp"}, Action: forwardTo(echo.target())}}})
	c := h2cClient(t, addr(t, p, 0))
	for url, want := range map[string]string{
		"http://a.test/x":        "HTTP/1.1 a.test/x http body",
		"http://a.test/secret/x": "Forbidden: not permitted from this address\n",
		"http://h.test/":         "HTTP/2.0 handler",
		"http://b.test/":         "Not Found: no route for this request\n",
	} {
		resp, err := c.Post(url, "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != want || err != nil || resp.ProtoMajor != 2 {
			t.Errorf("%s: %s %q, %v, want %q", url, resp.Proto, body, err, want)
		}
		if url == "http://a.test/x" && resp.Trailer.Get("X-Sum") != "1" {
			t.Errorf("trailer %v", resp.Trailer)
		}
	}
	if n := p.Stats().Connections; n != 3 {
		t.Errorf("%d connections, want one for each host", n)
	}
	// A preface in pieces, and what is none.
	h := wireDial(t, addr(t, p, 0))
	for i := range http2.ClientPreface {
		h.Write([]byte{http2.ClientPreface[i]})
	}
	f := http2.NewFramer(h, h)
	f.WriteSettings()
	if frame, err := f.ReadFrame(); err != nil || frame.Header().Type != http2.FrameSettings {
		t.Errorf("preface in pieces: %v, %v", frame, err)
	}
	for _, text := range []string{"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI * HTTP/1.1\r\nHost: a.test\r\n\r\n", "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		if got := wireReply(t, addr(t, p, 0), text); !strings.HasPrefix(got, "HTTP/1.1 4") && !strings.HasPrefix(got, "HTTP/1.1 505") {
			t.Errorf("%q: %q", text, got)
		}
	}
	if n := echo.accepted.Load(); n != 0 {
		t.Errorf("%d of them were taken for streams", n)
	}
}

// Upgrade: h2c would be a way past the routes, so it never takes place, neither
// with us nor with a target.
func TestH2CUpgradeIsIgnored(t *testing.T) {
	rec := newWireRecorder(t)
	p := start(t, oneRoute(forwardTo(rec.Target)))
	got := wireReply(t, addr(t, p, 0), "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	if wireStatus(got) != 200 {
		t.Errorf("%q", got)
	}
	for _, head := range rec.take() {
		if strings.Contains(strings.ToLower(head), "upgrade") || strings.Contains(strings.ToLower(head), "http2") {
			t.Errorf("the target got %q", head)
		}
	}
}

func TestHTTP2Disabled(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	port := testenv.FreePort(t)
	p := start(t, Config{HTTP2: HTTP2{Enabled: new(bool)}, Routes: []Route{
		tlsRoute("secure", files, Action{Handler: says("ok")}, "a.test"),
		{Name: "plain", Match: Match{Ports: Ports(port)}, Action: Action{Handler: says("ok")}},
	}})
	c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("%q was chosen", got)
	}
	if status, body, err := tlsGet(t, c, "a.test"); status != 200 || body != "ok" {
		t.Errorf("%d %q, %v", status, body, err)
	}
	if got := wireReply(t, addr(t, p, port), http2.ClientPreface); wireStatus(got) < 400 {
		t.Errorf("preface: %q", got)
	}
}

// A second client implementation, without TLS.
func TestH2CCurl(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	p := start(t, Config{Routes: []Route{{Match: Match{Ports: Ports(0)}, Action: Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto)
	})}}}})
	for arg, want := range map[string]string{
		"--http2-prior-knowledge": "HTTP/2.0",
		"--http2":                 "HTTP/1.1", // asks for an upgrade
	} {
		out, err := testenv.Command(t, curl, "-sS", "--noproxy", "*", "--max-time", "20", arg, "http://"+addr(t, p, 0)+"/").CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("curl %s: %q, %v, want %q", arg, out, err, want)
		}
	}
}

// Stop lets requests finish, and tells clients to go elsewhere.
func TestH2CStop(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	p := start(t, Config{Routes: []Route{{Match: Match{Ports: Ports(0)}, Action: Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-release
		io.WriteString(w, "done")
	})}}}})
	h := h2Dial(t, addr(t, p, 0), nil)
	h.open(1, true, "GET", "a.test", "/")
	receive(t, begun)
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop(context.Background()) }()
	for {
		f, err := h.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			if g.ErrCode != http2.ErrCodeNo {
				t.Errorf("GOAWAY %v", g.ErrCode)
			}
			break
		}
	}
	close(release)
	if a, err := h.answer(1); err != nil || a.body != "done" {
		t.Errorf("%v, %v", a, err)
	}
	if err := receive(t, stopped); err != nil {
		t.Error(err)
	}
	if _, err := bufio.NewReader(h).ReadByte(); err == nil {
		t.Error("the connection is open after Stop")
	}
}

// One request that the client breaks off ends no other of its connection.
func TestHTTP2BrokenBody(t *testing.T) {
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	p := start(t, oneRoute(forwardTo(target)))
	h := h2Dial(t, addr(t, p, 0), nil)
	for id := uint32(1); id < 100; id += 4 {
		h.open(id, false, "POST", "a.test", "/", "content-length", "10")
		h.WriteData(id, false, []byte("half"))
		if id%8 == 1 {
			h.WriteRSTStream(id, http2.ErrCodeCancel)
		} else {
			h.WriteData(id, true, nil) // too short
		}
		h.open(id+2, true, "GET", "a.test", "/")
		if a, err := h.answer(id + 2); err != nil || a.head[":status"] != "200" {
			t.Fatalf("stream %d: %v, %v", id+2, a, err)
		}
	}
}

// A load generator of another make, with many requests at once.
func TestH2Load(t *testing.T) {
	tool := testenv.Need(t, "h2load", "apt-get install nghttp2-client")
	files, _ := tlsFiles(t, "a.test")
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, make([]byte, 20_000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, webSockets := range []bool{false, true} {
		port := testenv.FreePort(t)
		p := start(t, Config{HTTP2: HTTP2{WebSockets: &webSockets}, Routes: []Route{
			tlsRoute("secure", files, forwardTo(target)),
			{Name: "plain", Match: Match{Ports: Ports(port), Protocol: "http"}, Action: forwardTo(target)},
		}})
		for _, url := range []string{"https://" + addr(t, p, 0) + "/", "http://" + addr(t, p, port) + "/"} {
			for _, args := range [][]string{{"-n", "2000"}, {"-n", "500", "-d", body}} {
				out := runTool(t, testenv.Command(t, tool, append(args, "-c", "8", "-m", "32", url)...))
				if want := fmt.Sprintf("%s succeeded, 0 failed, 0 errored, 0 timeout", args[1]); !strings.Contains(out, want) {
					t.Errorf("%s %v: %s", url, args, out)
				}
			}
		}
	}
}
