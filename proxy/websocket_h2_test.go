package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// h2Stream is a stream as a connection.
type h2Stream struct {
	*h2Wire
	id   uint32
	rest []byte
}

func (s *h2Stream) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(len(rest), 16<<10)
		if err := s.WriteData(s.id, false, rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(b), nil
}

func (s *h2Stream) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		f, err := s.ReadFrame()
		if err != nil {
			return 0, err
		}
		if f.Header().StreamID != s.id {
			continue
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			s.rest = append(s.rest, f.Data()...)
			if f.StreamEnded() && len(s.rest) == 0 {
				return 0, io.EOF
			}
		case *http2.RSTStreamFrame:
			return 0, http2.StreamError{StreamID: s.id, Code: f.ErrCode}
		}
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close of a stream only ends it.
func (s *h2Stream) Close() error { return s.WriteData(s.id, true, nil) }

// openWebSocket asks for a WebSocket on a stream of its own, and returns the
// head of the answer.
func (h *h2Wire) openWebSocket(t testing.TB, id uint32, host, path string, more ...string) (*wsConn, map[string]string) {
	t.Helper()
	fields := append([]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", path, ":authority", host,
		"sec-websocket-version", "13"}, more...)
	if err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: h.fields(fields...)}); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := h.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Header().StreamID != id {
			continue
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			head := make(map[string]string)
			for _, field := range f.Fields {
				head[field.Name] = field.Value
			}
			s := &h2Stream{h2Wire: h, id: id}
			return &wsConn{Conn: s, r: bufio.NewReader(s), client: true}, head
		case *http2.RSTStreamFrame:
			return nil, map[string]string{":status": f.ErrCode.String()}
		}
	}
}

// wsFront is a proxy for WebSockets over HTTP/2, with TLS and without.
func wsFront(t testing.TB, change func(*Config), a Action) (p *Proxy, dial map[string]func() *h2Wire) {
	t.Helper()
	files, pool := tlsFiles(t, "a.test")
	port := testenv.FreePort(t)
	cfg := Config{Routes: []Route{
		tlsRoute("secure", files, a, "a.test"),
		{Name: "plain", Match: Match{Ports: Ports(port), Protocol: "http"}, Action: a},
	}}
	if change != nil {
		change(&cfg)
	}
	p = start(t, cfg)
	window := http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24}
	open := func(h *h2Wire) *h2Wire {
		h.WriteWindowUpdate(0, 1<<24)
		return h
	}
	return p, map[string]func() *h2Wire{
		"secure": func() *h2Wire {
			return open(h2Dial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool}, window))
		},
		"plain": func() *h2Wire { return open(h2Dial(t, addr(t, p, port), nil, window)) },
	}
}

// talk sends frames of all kinds and wants them back.
func (c *wsConn) talk(t testing.TB) {
	t.Helper()
	big := make([]byte, 300_000)
	rand.Read(big)
	for _, frame := range []struct {
		op      byte
		final   bool
		payload []byte
	}{
		{wsText, true, []byte("hello")}, {wsBinary, true, nil}, {wsBinary, true, big}, {wsText, true, big[:200]},
		{wsText, false, []byte("frag")}, {wsPing, true, []byte("p")}, {wsContinuation, true, []byte("ment")},
		{wsClose, true, []byte{3, 232}},
	} {
		sent := make(chan error, 1)
		go func() { sent <- c.send(frame.op, frame.final, frame.payload) }()
		want := frame.op
		if want == wsPing {
			want = wsPong
		}
		op, final, payload, err := c.receive()
		if err = errors.Join(err, receive(t, sent)); err != nil || op != want || final != frame.final || !bytes.Equal(payload, frame.payload) {
			t.Fatalf("frame %d with %d bytes: got %d, %v, %d bytes, %v", frame.op, len(frame.payload), op, final, len(payload), err)
		}
	}
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Errorf("after close: %v", err)
	}
}

func TestWebSocketOnStream(t *testing.T) {
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.Proto != "HTTP/1.1" || r.Host != "a.test" || r.RequestURI != "/ws?x=1" ||
			r.Header.Get("X-Forwarded-For") != "127.0.0.1" || r.Header.Get("Origin") != "https://a.test" || r.ContentLength != 0 {
			t.Errorf("the target got %s %s %s %s %v", r.Method, r.Proto, r.Host, r.RequestURI, r.Header)
		}
		for name := range r.Header {
			if strings.Contains(name, "Protocol") {
				t.Errorf("the target got %s: %s", name, r.Header[name])
			}
		}
		wsEcho(t)(w, r)
	})
	a := forwardTo(target)
	a.Headers.Request.Set = map[string]string{"X-Route": "{route}"}
	a.Headers.Response.Set = map[string]string{"X-Edit": "1"}
	p, dial := wsFront(t, func(c *Config) {
		for i := range c.Routes {
			c.Routes[i].Match.Path, c.Routes[i].Match.Methods = "/ws", []string{"GET"}
		}
	}, a)
	for i, name := range []string{"secure", "plain"} {
		h := dial[name]()
		f, err := h.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := f.(*http2.SettingsFrame).Value(http2.SettingEnableConnectProtocol); !ok || v != 1 {
			t.Errorf("%s: extended CONNECT is not announced: %v", name, f)
		}
		for id := uint32(1); id < 10; id += 4 { // several on a connection, beside other requests
			ws, head := h.openWebSocket(t, id, "a.test", "/ws?x=1", "origin", "https://a.test")
			if head[":status"] != "200" || head["x-route"] != name || head["x-edit"] != "1" {
				t.Fatalf("%s: %v", name, head)
			}
			for field := range head {
				if field == "upgrade" || field == "connection" || field == "sec-websocket-accept" {
					t.Errorf("%s: %s: %s in the answer", name, field, head[field])
				}
			}
			ws.talk(t)
			h.open(id+2, true, "GET", "a.test", "/other")
			if a, err := h.answer(id + 2); err != nil || a.head[":status"] != "404" {
				t.Errorf("%s: %v, %v", name, a, err)
			}
		}
		eventually(t, "requests ended", func() bool { s := p.Stats(); return s.Routes[i].Active == 0 && s.Targets[0].Active == 0 })
		s := p.Stats().Routes[i]
		if s.Requests != 3 || s.Responses[1] != 3 || s.BytesIn < 900_000 || s.BytesOut < 900_000 {
			t.Errorf("%s: counters %+v", name, s)
		}
		h.Conn.Close()
	}
	eventually(t, "no connection is left", func() bool { return p.Stats().ActiveConnections == 0 })
}

// A handler of the host that knows only connections gets one.
func TestWebSocketOnStreamForHandler(t *testing.T) {
	_, dial := wsFront(t, nil, Action{Handler: wsEcho(t)})
	for _, dial := range dial {
		ws, head := dial().openWebSocket(t, 1, "a.test", "/")
		if head[":status"] != "200" {
			t.Fatal(head)
		}
		ws.talk(t)
	}
	// One that goes on when it has returned, and then writes what nobody gets.
	done := make(chan error, 10)
	p, dial := wsFront(t, nil, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if _, _, err := w.(http.Hijacker).Hijack(); err == nil {
			t.Error("hijacked twice")
		}
		key := r.Header.Get("Sec-Websocket-Key")
		go func() {
			fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
			fmt.Fprintf(c, "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\nfirst", wsAccept(key))
			io.Copy(c, c)
			c.Close()
			_, err := c.Write([]byte("x"))
			done <- errors.Join(err, c.SetDeadline(time.Now()))
		}()
	})})
	for name, dial := range dial {
		h := dial()
		ws, head := h.openWebSocket(t, 1, "a.test", "/")
		if head[":status"] != "200" {
			t.Fatal(head)
		}
		io.WriteString(ws, " second")
		ws.Close()
		if got, err := io.ReadAll(ws.r); string(got) != "first second" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err := receive(t, done); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: using what is closed: %v", name, err)
		}
	}
	eventually(t, "nothing in flight", func() bool { s := p.Stats(); return s.Routes[0].Active+s.Routes[1].Active == 0 })
}

// It is one only if the target says 101, and proves that it means it.
func TestWebSocketOnStreamRefused(t *testing.T) {
	answer := "" // of the target; KEY stands for what the key demands
	target := wireServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.WriteString(c, strings.Replace(answer, "KEY", wsAccept(req.Header.Get("Sec-Websocket-Key")), 1))
		io.Copy(io.Discard, r)
	})
	blocked := forwardTo(target)
	blocked.Security.IPBlockList = []string{"127.0.0.1"}
	p, dial := wsFront(t, func(c *Config) {
		for _, r := range c.Routes {
			r.Name, r.Match.Path, r.Action, r.Priority = "blocked "+r.Name, "/blocked", blocked, 1
			if r.Action.TLS = c.Routes[0].Action.TLS; r.Match.Protocol == "http" {
				r.Action.TLS = nil
			}
			c.Routes = append(c.Routes, r)
		}
	}, forwardTo(target))
	for name, dial := range dial {
		h := dial()
		id := uint32(1)
		const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
		for _, test := range []struct{ answer, want string }{
			{switching + "Upgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\n\r\n", "200"},
			{switching + "Upgrade: websocket\r\nSec-WebSocket-Accept: wrong\r\n\r\n", "502"},
			{switching + "Upgrade: websocket\r\n\r\n", "502"},
			{switching + "Upgrade: other\r\nSec-WebSocket-Accept: KEY\r\n\r\n", "502"},
			{"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: KEY\r\n\r\n", "502"},
			{"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "502"},
			{"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", "502"},
			{"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", "403"},
			{"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "302"},
			{"", "502"},
		} {
			answer = test.answer
			if test.answer == "" {
				answer = "garbage\r\n\r\n"
			}
			ws, head := h.openWebSocket(t, id, "a.test", "/")
			if head[":status"] != test.want {
				t.Errorf("%s, %q: %v, want %s", name, test.answer, head, test.want)
			}
			if ws != nil {
				ws.Close()
			}
			id += 2
		}
		for _, test := range []struct {
			want   string
			fields []string
		}{
			{"403", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/blocked", ":authority", "a.test"}},
			{"501", []string{":method", "CONNECT", ":protocol", "connect-udp", ":scheme", "https", ":path", "/", ":authority", "a.test"}},
			{"400", []string{":method", "CONNECT", ":authority", "a.test:443"}},
			{"400", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/../x", ":authority", "a.test"}},
			{"PROTOCOL_ERROR", []string{":method", "CONNECT", ":protocol", "websocket", ":authority", "a.test"}},
			{"PROTOCOL_ERROR", []string{":method", "GET", ":protocol", "websocket", ":scheme", "https", ":path", "/", ":authority", "a.test"}},
			{"PROTOCOL_ERROR", []string{":method", "CONNECT", ":protocol", "websocket", ":protocol", "x", ":scheme", "https", ":path", "/", ":authority", "a.test"}},
			{"PROTOCOL_ERROR", []string{":method", "CONNECT", ":scheme", "https", ":path", "/", ":authority", "a.test", "x", "y", ":protocol", "websocket"}},
		} {
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: h.fields(test.fields...)})
			a, err := h.answer(id)
			var reset http2.StreamError
			got := a.head[":status"]
			if errors.As(a.reset, &reset) && got == "" {
				got = reset.Code.String()
			}
			if got != test.want || err != nil {
				t.Errorf("%s, %q: %q, %v, want %s", name, test.fields, got, err, test.want)
			}
			id += 2
		}
	}
	eventually(t, "nothing in flight", func() bool { return p.Stats().Targets[0].Active == 0 })
}

// What a client says in the place of our own mark means nothing.
func TestWebSocketMarkCannotBeForged(t *testing.T) {
	for _, enabled := range []bool{true, false} {
		got := make(chan http.Header, 1)
		_, target := backend(t, func(w http.ResponseWriter, r *http.Request) { got <- r.Header })
		_, dial := wsFront(t, func(c *Config) { c.HTTP2.WebSockets = &enabled }, forwardTo(target))
		for name, dial := range dial {
			h := dial()
			h.open(1, true, "GET", "a.test", "/", strings.ToLower(connectMarker), "websocket")
			if a, err := h.answer(1); err != nil || a.head[":status"] != "200" {
				t.Errorf("%v, %s: %v, %v", enabled, name, a, err)
			}
			if header := receive(t, got); header.Get("Upgrade") != "" {
				t.Errorf("%v, %s: the target got %v", enabled, name, header)
			}
		}
	}
}

func TestWebSocketOnStreamNotEnabled(t *testing.T) {
	_, dial := wsFront(t, func(c *Config) { c.HTTP2.WebSockets = new(bool) }, Action{Handler: wsEcho(t)})
	for name, dial := range dial {
		h := dial()
		f, err := h.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := f.(*http2.SettingsFrame).Value(http2.SettingEnableConnectProtocol); ok {
			t.Errorf("%s: announced", name)
		}
		if _, head := h.openWebSocket(t, 1, "a.test", "/"); head[":status"] != "PROTOCOL_ERROR" {
			t.Errorf("%s: %v", name, head)
		}
	}
}

// Where the process's environment turns extended CONNECT on, all goes well too.
func TestWebSocketOnStreamByGODEBUG(t *testing.T) {
	const child = "PROXY_TEST_CHILD"
	if os.Getenv(child) == "" {
		cmd := testenv.Command(t, os.Args[0], "-test.timeout=2m", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1", "GODEBUG=http2xconnect=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	_, target := backend(t, wsEcho(t))
	for _, enabled := range []bool{true, false} {
		_, dial := wsFront(t, func(c *Config) { c.HTTP2.WebSockets = &enabled }, forwardTo(target))
		for name, dial := range dial {
			ws, head := dial().openWebSocket(t, 1, "a.test", "/")
			if head[":status"] != "200" {
				t.Fatal(name, head)
			}
			ws.talk(t)
		}
	}
}

// When one side breaks, stands still or does not read, both end.
func TestWebSocketOnStreamEnds(t *testing.T) {
	ended, act := make(chan struct{}, 1), make(chan func(*net.TCPConn), 1)
	target := tcpServer(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", wsAccept(req.Header.Get("Sec-Websocket-Key")))
		(<-act)(c)
		io.Copy(io.Discard, r)
		ended <- struct{}{}
	})
	const idle = 500 * time.Millisecond
	p, dial := wsFront(t, func(c *Config) { c.Timeouts.Idle = idle }, forwardTo(target.target()))
	nothing := func(*net.TCPConn) {}
	for name, dial := range dial {
		h := dial()
		id := uint32(1)
		for _, test := range []struct {
			name   string
			target func(*net.TCPConn)
			client func(ws *wsConn, id uint32)
			reset  bool // the stream ends with a reset
		}{
			{"client resets", nothing, func(_ *wsConn, id uint32) { h.WriteRSTStream(id, http2.ErrCodeCancel) }, false},
			{"client ends", nothing, func(ws *wsConn, _ uint32) { ws.Close() }, false},
			{"target closes", func(c *net.TCPConn) { c.Close() }, nil, false},
			{"target resets", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, nil, false},
			{"nobody speaks", nothing, nil, false},
			{"client does not read", func(c *net.TCPConn) {
				for c.SetWriteDeadline(time.Now().Add(5 * time.Second)); ; {
					if _, err := c.Write(make([]byte, 64<<10)); err != nil {
						return
					}
				}
			}, nil, true},
		} {
			if test.reset { // 16 MiB of window are as good as none here
				h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 10})
			}
			ws, head := h.openWebSocket(t, id, "a.test", "/")
			if head[":status"] != "200" {
				t.Fatalf("%s, %s: %v", name, test.name, head)
			}
			send(t, act, test.target)
			if test.client != nil {
				test.client(ws, id)
			}
			begin := time.Now()
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Errorf("%s, %s: the target does not hear of it", name, test.name)
			}
			if test.name != "client resets" {
				_, err := io.Copy(io.Discard, ws.r)
				if test.reset && err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s, %s: the client hears %v", name, test.name, err)
				}
			}
			if d := time.Since(begin); d > 8*idle {
				t.Errorf("%s, %s: it took %v", name, test.name, d)
			}
			id += 2
		}
		h.Conn.Close()
	}
	eventually(t, "nothing in flight", func() bool { s := p.Stats(); return s.Targets[0].Active == 0 && s.ActiveConnections == 0 })
}
