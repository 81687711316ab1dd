package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// HTTP/3 to the client, HTTP/1.1 to the target: bodies, trailers, streams.
func TestHTTP3Forward(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	ends := newEndings()
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if ends.serve(w, r) {
			return
		}
		switch r.URL.Path {
		case "/echo":
			http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("Trailer", "X-Sum")
			n, _ := io.Copy(w, r.Body)
			w.Header().Set("X-Sum", fmt.Sprint(n, " ", r.Trailer.Get("X-Mine"), " ", r.Trailer.Get("X-Unannounced")))
		case "/early":
			w.WriteHeader(http.StatusForbidden) // without reading
		case "/hints":
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, "done")
		case "/chunked":
			w.(http.Flusher).Flush()
			io.WriteString(w, "content")
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/unchanged":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		case "/hop":
			w.Header().Set("Keep-Alive", "timeout=5")
			w.Header().Set("Proxy-Connection", "keep-alive")
			w.Header().Set("Connection", "X-Hop")
			w.Header().Set("X-Hop", "1")
			io.WriteString(w, "ok")
		}
	})
	p := start(t, with3(tlsRoute("r", files, forwardTo(target), "a.test")))
	c := client3(t, addr(t, p, 0), pool)

	// Large both ways, of announced and of unknown length, several at once.
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MB
	want := sha256.Sum256(content)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			body := io.Reader(bytes.NewReader(content))
			if i%2 == 1 {
				body = struct{ io.Reader }{body}
			}
			req, _ := http.NewRequest("POST", "https://a.test/echo", body)
			if i%2 == 1 {
				req.Trailer = http.Header{"X-Mine": nil}
				req.Body = io.NopCloser(io.MultiReader(body, readerFunc(func([]byte) (int, error) {
					req.Trailer.Set("X-Mine", "sum")
					return 0, io.EOF
				})))
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			hash := sha256.New()
			n, err := io.Copy(hash, resp.Body)
			if err != nil || string(hash.Sum(nil)) != string(want[:]) || resp.ProtoMajor != 3 {
				t.Errorf("%d: %s, %d bytes came back of %d, %v", i, resp.Proto, n, len(content), err)
			}
			if want := fmt.Sprint(len(content), " ", map[bool]string{true: "sum"}[i%2 == 1], " "); resp.Trailer.Get("X-Sum") != strings.TrimSpace(want) {
				t.Errorf("%d: trailer %q, want %q", i, resp.Trailer, want)
			}
		})
	}
	waitAll(t, &all)

	ends.check(t, c, "https://a.test")

	resp, err := c.Post("https://a.test/early", "text/plain", readerFunc(func(b []byte) (int, error) { return len(b), nil }))
	if err != nil || resp.StatusCode != 403 {
		t.Errorf("early answer: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}

	for _, test := range []struct {
		method, path string
		status       int
		body         string
		length       int64
		header       string
	}{
		{"HEAD", "/chunked", 200, "", -1, ""},
		{"GET", "/chunked", 200, "content", -1, ""},
		{"GET", "/none", 204, "", 0, ""},
		{"GET", "/unchanged", 304, "", -1, `"x"`},
		{"HEAD", "/hop", 200, "", 2, ""},
		{"GET", "/hop", 200, "ok", 2, ""},
		{"GET", "/hints", 200, "done", 4, ""},
		{"DELETE", "/none", 204, "", 0, ""},
	} {
		req, _ := http.NewRequest(test.method, "https://a.test"+test.path, nil)
		resp, err := c.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", test.method, test.path, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.status || string(body) != test.body || err != nil || resp.ContentLength != test.length || resp.Header.Get("Etag") != test.header {
			t.Errorf("%s %s: %d %q %v, length %d, %v", test.method, test.path, resp.StatusCode, body, err, resp.ContentLength, resp.Header)
		}
		for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Connection", "X-Hop", "Transfer-Encoding"} {
			if v, ok := resp.Header[name]; ok {
				t.Errorf("%s %s: %s: %q", test.method, test.path, name, v)
			}
		}
	}
	if n := p.Stats().Connections; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// Handlers of the host see what they would see of net/http, and what they do to
// a connection of HTTP/1.1 does no harm to one of QUIC.
func TestHTTP3Handler(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	p := start(t, with3(tlsRoute("r", files, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/close":
			w.Header().Set("Connection", "close")
			w.Header().Set("Upgrade", "x")
			io.WriteString(w, "closing")
		case "/large":
			io.WriteString(w, "<html>"+strings.Repeat("x", 10_000))
		case "/small":
			io.WriteString(w, "<html>")
		case "/untyped":
			w.Header()["Content-Type"] = nil
			io.WriteString(w, "<html>")
		case "/encoded":
			w.Header().Set("Content-Encoding", "x")
			io.WriteString(w, "<html>")
		case "/panics":
			panic("on purpose")
		case "/hijacks":
			if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
				t.Error("hijacked")
			}
			w.WriteHeader(http.StatusTeapot)
		case "/expects":
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		case "/quiet":
			if r.Method != "HEAD" {
				io.WriteString(w, "content")
			}
		case "/body":
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, " ", err, " ", r.ContentLength, " ", r.Body == http.NoBody)
		}
	})}, "a.test")))
	c := client3(t, addr(t, p, 0), pool)
	for _, test := range []struct{ path, kind string }{
		{"/large", "text/html; charset=utf-8"}, {"/small", "text/html; charset=utf-8"}, {"/untyped", ""}, {"/encoded", ""},
	} {
		resp, err := c.Get("https://a.test" + test.path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Content-Type"); got != test.kind {
			t.Errorf("%s: Content-Type %q, want %q", test.path, got, test.kind)
		}
	}
	for path, want := range map[string]int64{"/small": 6, "/large": 10_006, "/quiet": -1} {
		resp, err := c.Head("https://a.test" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.ContentLength != want {
			t.Errorf("HEAD %s: length %d, want %d", path, resp.ContentLength, want)
		}
	}
	var stream *http3.Error
	if resp, err := c.Get("https://a.test/panics"); !errors.As(err, &stream) || stream.ErrorCode != http3.ErrCodeInternalError {
		t.Errorf("a handler that panics: %v, %v", resp, err)
	}
	if status, _ := get(t, c, "https://a.test/hijacks"); status != 418 {
		t.Errorf("hijack: %d", status)
	}
	if status, body := get(t, c, "https://a.test/body"); status != 200 || body != "0 <nil> 0 true" {
		t.Errorf("a GET has %q", body)
	}
	// A GET may have a body, of known length or not.
	for body, want := range map[io.Reader]string{
		strings.NewReader("hello"):                      "5 <nil> 5 false",
		struct{ io.Reader }{strings.NewReader("hello")}: "5 <nil> -1 false",
		struct{ io.Reader }{strings.NewReader("")}:      "0 <nil> 0 true",
		struct{ io.Reader }{strings.NewReader("h")}:     "1 <nil> -1 false",
		http.NoBody:                      "0 <nil> 0 true",
		io.LimitReader(zeros{}, 100_000): "100000 <nil> -1 false",
		io.MultiReader(pause{}, strings.NewReader("xy")): "2 <nil> -1 false",
	} {
		req, _ := http.NewRequest("GET", "https://a.test/body", body)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != want {
			t.Errorf("a GET with a body: %s, want %s", got, want)
		}
	}
	req, _ := http.NewRequest("POST", "https://a.test/expects", strings.NewReader("content"))
	req.Header.Set("Expect", "100-continue")
	if resp, err := c.Do(req); err != nil {
		t.Error(err)
	} else if body, err := io.ReadAll(resp.Body); string(body) != "content" {
		t.Errorf("expect: %q, %v", body, err)
	}
	// The client leaves, as it would in HTTP/1.1 and HTTP/2.
	open := p.Stats().ActiveConnections
	resp, err := c.Get("https://a.test/close")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); string(body) != "closing" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if len(resp.Header["Connection"])+len(resp.Header["Upgrade"]) > 0 {
		t.Errorf("headers of HTTP/1.1: %v", resp.Header)
	}
	before := p.Stats().Connections
	if status, _ := get(t, c, "https://a.test/small"); status != 200 {
		t.Error(status)
	}
	if n := p.Stats().Connections; n != before+1 {
		t.Errorf("%d connections after one that was asked to end, %d before", n, before)
	}
	eventually(t, "the old connection has ended", func() bool { return p.Stats().ActiveConnections == open })
}

// pause is nothing, after a while.
type pause struct{}

func (pause) Read([]byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return 0, io.EOF
}

// A WebSocket has a stream of its own (RFC 9220), and is one of HTTP/1.1 to
// whoever serves it.
func TestHTTP3WebSocket(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	_, target := backend(t, wsEcho(t))
	_, plain := backend(t, says("no WebSocket"))
	handler := tlsRoute("handler", files, Action{Handler: wsEcho(t)}, "a.test")
	handler.Match.Path = "/handler"
	refuses := tlsRoute("refuses", files, forwardTo(plain), "a.test")
	refuses.Match.Path = "/plain"
	p := start(t, with3(tlsRoute("target", files, forwardTo(target), "a.test"), handler, refuses))
	qc, err := quicOpen(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	c := new(http3.Transport).NewClientConn(qc)
	open := func(path string) (*wsConn, *http.Response) {
		t.Helper()
		str, err := c.OpenRequestStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		str.SetDeadline(time.Now().Add(10 * time.Second))
		req, _ := http.NewRequest("CONNECT", "https://a.test"+path, nil)
		req.Proto = "websocket"
		req.Header.Set("Sec-Websocket-Version", "13")
		if err := str.SendRequestHeader(req); err != nil {
			t.Fatal(err)
		}
		resp, err := str.ReadResponse()
		if err != nil {
			t.Fatal(err)
		}
		return &wsConn{Conn: stream3{nil, str}, r: bufio.NewReader(str), client: true}, resp
	}
	large := bytes.Repeat([]byte("0123456789"), 20_000)
	for _, path := range []string{"/", "/handler"} {
		ws, resp := open(path)
		if resp.StatusCode != 200 || resp.Header["Content-Type"] != nil || resp.Header["Upgrade"] != nil || resp.Header["Connection"] != nil {
			t.Fatalf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
		for _, payload := range [][]byte{[]byte("hello"), nil, large, []byte("<html>")} {
			if err := ws.send(wsBinary, true, payload); err != nil {
				t.Fatal(err)
			}
			if op, _, got, err := ws.receive(); op != wsBinary || !bytes.Equal(got, payload) || err != nil {
				t.Errorf("%s: %d bytes of type %d came back of %d, %v", path, len(got), op, len(payload), err)
			}
		}
		ws.send(wsClose, true, nil)
		if op, _, _, err := ws.receive(); op != wsClose || err != nil {
			t.Errorf("%s: close answered with %d, %v", path, op, err)
		}
		if _, err := ws.r.ReadByte(); err != io.EOF {
			t.Errorf("%s: after the end: %v", path, err)
		}
		ws.Close()
	}
	if _, resp := open("/plain"); resp.StatusCode != 502 {
		t.Errorf("a target without WebSockets: %d", resp.StatusCode)
	}
	eventually(t, "all have ended", func() bool {
		s := p.Stats()
		return s.Routes[0].Active+s.Routes[1].Active+s.Routes[2].Active == 0
	})
	// One that is open when its route goes drains with it, and Stop ends it.
	ws, _ := open("/")
	if err := ws.send(wsText, true, []byte("x")); err != nil {
		t.Fatal(err)
	}
	ws.receive()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); err == nil {
		t.Error("Stop with a WebSocket open reports nothing")
	}
	if _, err := ws.r.ReadByte(); err == nil || err == io.EOF {
		t.Errorf("after Stop: %v", err)
	}
}

// stream3 is a stream of HTTP/3 as far as a WebSocket needs a connection.
type stream3 struct {
	net.Conn
	*http3.RequestStream
}

func (s stream3) Read(b []byte) (int, error)          { return s.RequestStream.Read(b) }
func (s stream3) Write(b []byte) (int, error)         { return s.RequestStream.Write(b) }
func (s stream3) Close() error                        { return s.RequestStream.Close() }
func (s stream3) SetDeadline(by time.Time) error      { return s.RequestStream.SetDeadline(by) }
func (s stream3) SetReadDeadline(by time.Time) error  { return s.RequestStream.SetReadDeadline(by) }
func (s stream3) SetWriteDeadline(by time.Time) error { return s.RequestStream.SetWriteDeadline(by) }
