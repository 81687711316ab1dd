package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Over HTTP/2 a path may hold what would end it in a request line of HTTP/1.
func TestTLSHTTP2Paths(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	rec := newWireRecorder(t)
	admin := tlsRoute("admin", files, Action{Handler: says("admin")}, "a.test")
	admin.Match.Path = "/admin*"
	p := start(t, Config{Routes: []Route{admin, tlsRoute("r", files, forwardTo(rec.Target), "a.test")}})
	c := client(t, addr(t, p, 0), pool)
	for path, forwarded := range map[string]bool{
		"/plain?x=1;y":             true,
		"/a%2Fb":                   true,
		"//x":                      true,
		"/a?":                      true,
		"/a HTTP/1.0":              false,
		"/a b":                     false,
		"/?q=a b HTTP/1.1":         false,
		"/x#y":                     false,
		"/a/../admin":              false,
		"/a%00":                    false,
		"/x HTTP/1.1 Host: evil a": false,
	} {
		req := &http.Request{Method: "GET", Host: "a.test", URL: &url.URL{Scheme: "https", Host: "a.test", Opaque: path}, Header: http.Header{}}
		if strings.HasPrefix(path, "//") {
			req.URL.Opaque, req.URL.Path = "", path
		}
		resp, err := c.Do(req)
		if err != nil {
			if forwarded {
				t.Errorf("%q: %v", path, err)
			}
			continue
		}
		resp.Body.Close()
		heads := rec.take()
		if forwarded {
			if len(heads) != 1 || !strings.HasPrefix(heads[0], "GET "+path+" HTTP/1.1\r\n") {
				t.Errorf("%q: the target got %q", path, heads)
			}
		} else if len(heads) != 0 || resp.StatusCode != 400 {
			t.Errorf("%q: %d, the target got %q, want 400", path, resp.StatusCode, heads)
		}
	}
	req, _ := http.NewRequest("GET", "https://a.test/", nil)
	req.Method = "GET /admin HTTP/1.1"
	if resp, err := c.Do(req); err == nil {
		resp.Body.Close()
	}
	if heads := rec.take(); len(heads) != 0 {
		t.Errorf("a method with spaces: the target got %q", heads)
	}
}

// HTTP/2 to the client, HTTP/1.1 to the target: bodies, trailers, streams.
func TestTLSHTTP2Forward(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	ends := newEndings()
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if ends.serve(w, r) {
			return
		}
		switch r.URL.Path {
		case "/echo":
			w.Header().Set("Trailer", "X-Sum")
			io.Copy(w, r.Body)
			w.Header().Set("X-Sum", r.Proto+r.Header.Get("X-Forwarded-Proto"))
		}
	})
	p := start(t, Config{Routes: []Route{tlsRoute("r", files, forwardTo(target), "a.test")}})
	c := client(t, addr(t, p, 0), pool)
	content := strings.Repeat("content ", 1<<17)
	resp, err := c.Post("https://a.test/echo", "text/plain", strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); string(body) != content || err != nil || resp.ProtoMajor != 2 {
		t.Errorf("%s, echo of %d bytes: %d bytes, %v", resp.Proto, len(content), len(body), err)
	}
	if got := resp.Trailer.Get("X-Sum"); got != "HTTP/1.1https" {
		t.Errorf("trailer %q", got)
	}
	resp.Body.Close()

	ends.check(t, c, "https://a.test")
	if n := p.Stats().Connections; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// A second client implementation.
func TestTLSCurl(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	files, _ := tlsFiles(t, "a.test")
	p := start(t, Config{Routes: []Route{tlsRoute("r", files, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, " ", r.TLS.ServerName)
	})}, "a.test")}})
	_, port, _ := net.SplitHostPort(addr(t, p, 0))
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--http1.1"}, "HTTP/1.1 a.test"},
		{[]string{"--http2"}, "HTTP/2.0 a.test"},
		{[]string{"--no-alpn"}, "HTTP/1.1 a.test"},
		{[]string{"--tls-max", "1.2"}, "HTTP/2.0 a.test"},
	} {
		args := append([]string{"-sS", "--noproxy", "*", "--max-time", "20", "--cacert", files.Certificate.CertPath,
			"--resolve", "a.test:" + port + ":127.0.0.1"}, test.args...)
		out, err := testenv.Command(t, curl, append(args, "https://a.test:"+port+"/")...).CombinedOutput()
		if err != nil || string(out) != test.want {
			t.Errorf("curl %v: %q, %v, want %q", test.args, out, err, test.want)
		}
	}
}
