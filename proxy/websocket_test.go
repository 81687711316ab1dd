package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// The least of RFC 6455 that an echo needs.

const (
	wsContinuation = 0
	wsText         = 1
	wsBinary       = 2
	wsClose        = 8
	wsPing         = 9
	wsPong         = 10
)

// wsConn is one side of a WebSocket.
type wsConn struct {
	net.Conn
	r      *bufio.Reader
	client bool // masks what it sends
}

func (c *wsConn) send(opcode byte, final bool, payload []byte) error {
	first := opcode
	if final {
		first |= 0x80
	}
	frame := []byte{first}
	mask := byte(0)
	if c.client {
		mask = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, mask|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, mask|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, mask|127), uint64(n))
	}
	if c.client {
		var key [4]byte
		rand.Read(key[:])
		frame = append(frame, key[:]...)
		for i, b := range payload {
			frame = append(frame, b^key[i%4])
		}
	} else {
		frame = append(frame, payload...)
	}
	_, err := c.Write(frame)
	return err
}

func (c *wsConn) receive() (opcode byte, final bool, payload []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(c.r, head[:]); err != nil {
		return
	}
	n := uint64(head[1] & 0x7f)
	switch n {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(c.r, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(c.r, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	if err != nil {
		return
	}
	var key [4]byte
	masked := head[1]&0x80 != 0
	if masked == c.client {
		return 0, false, nil, errors.New("masked by the wrong side")
	}
	if masked {
		if _, err = io.ReadFull(c.r, key[:]); err != nil {
			return
		}
	}
	payload = make([]byte, n)
	if _, err = io.ReadFull(c.r, payload); err != nil {
		return
	}
	if masked {
		for i := range payload {
			payload[i] ^= key[i%4]
		}
	}
	return head[0] & 0x0f, head[0]&0x80 != 0, payload, nil
}

func wsAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// wsEcho answers every frame with its like, in the same fragments.
func wsEcho(t testing.TB) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") || r.Header.Get("Sec-WebSocket-Version") != "13" {
			http.Error(w, "not a WebSocket", 400)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nX-Route: %s\r\n\r\n",
			wsAccept(r.Header.Get("Sec-WebSocket-Key")), r.Header.Get("X-Route"))
		rw.Flush()
		ws := &wsConn{Conn: c, r: rw.Reader}
		for {
			op, final, payload, err := ws.receive()
			if err != nil {
				return
			}
			if op == wsPing {
				op = wsPong
			}
			if err := ws.send(op, final, payload); err != nil || op == wsClose {
				return
			}
		}
	}
}

// wsDial upgrades a connection; early is sent with the request.
func wsDial(t testing.TB, c net.Conn, host, early string) (*wsConn, *http.Response) {
	t.Helper()
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n%s", host, key, early)
	ws := &wsConn{Conn: c, r: bufio.NewReader(c), client: true}
	resp, err := http.ReadResponse(ws.r, &http.Request{Method: "GET"})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == 101 && resp.Header.Get("Sec-WebSocket-Accept") != wsAccept(key) {
		t.Errorf("wrong Sec-WebSocket-Accept: %v", resp.Header)
	}
	return ws, resp
}

func TestWebSocket(t *testing.T) {
	_, target := backend(t, wsEcho(t))
	files, pool := tlsFiles(t, "a.test")
	a := forwardTo(target)
	a.Headers.Request.Set = map[string]string{"X-Route": "{route}"}
	a.Headers.Response.Set = map[string]string{"X-Edit": "1"}
	p := start(t, Config{Routes: []Route{
		tlsRoute("secure", files, a, "a.test"),
		{Name: "plain", Match: Match{Ports: Ports(0), Path: "/ws"}, Action: a},
	}})
	for i, name := range []string{"secure", "plain"} {
		t.Run(name, func(t *testing.T) {
			c := wireDial(t, addr(t, p, 0))
			if name == "secure" {
				c = tls.Client(c, &tls.Config{ServerName: "a.test", RootCAs: pool})
			}
			ws, resp := wsDial(t, c, "a.test", "")
			if resp.StatusCode != 101 || resp.Header.Get("X-Route") != name || resp.Header.Get("X-Edit") != "1" || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
				t.Fatalf("%d %v", resp.StatusCode, resp.Header)
			}
			big := make([]byte, 300_000)
			rand.Read(big)
			for _, frame := range []struct {
				op      byte
				final   bool
				payload []byte
			}{
				{wsText, true, []byte("hello")}, {wsBinary, true, nil}, {wsBinary, true, big}, {wsBinary, true, big[:70_000]}, {wsText, true, big[:200]},
				{wsText, false, []byte("frag")}, {wsPing, true, []byte("p")}, {wsContinuation, false, []byte("ment")}, {wsContinuation, true, []byte("s")},
				{wsClose, true, []byte{3, 232}},
			} {
				go ws.send(frame.op, frame.final, frame.payload)
				want := frame.op
				if want == wsPing {
					want = wsPong
				}
				op, final, payload, err := ws.receive()
				if err != nil || op != want || final != frame.final || !bytes.Equal(payload, frame.payload) {
					t.Fatalf("frame %d with %d bytes: got %d, %v, %d bytes, %v", frame.op, len(frame.payload), op, final, len(payload), err)
				}
			}
			if _, err := ws.r.ReadByte(); err != io.EOF {
				t.Errorf("after close: %v", err)
			}
			ws.Close()
			eventually(t, "request ended", func() bool { s := p.Stats(); return s.Routes[i].Active == 0 && s.Targets[0].Active == 0 })
			s := p.Stats().Routes[i]
			if s.Requests != 1 || s.Responses[1] != 1 || s.BytesIn < 370_000 || s.BytesOut < 370_000 {
				t.Errorf("counters %+v", s)
			}
		})
	}
	eventually(t, "no connection is left", func() bool { return p.Stats().ActiveConnections == 0 })
}

// A client that does not wait for the answer to its upgrade loses nothing.
func TestWebSocketEarlyData(t *testing.T) {
	_, target := backend(t, wsEcho(t))
	p := start(t, oneRoute(forwardTo(target)))
	var early bytes.Buffer
	(&wsConn{Conn: bufferConn{w: &early}, client: true}).send(wsText, true, []byte("early"))
	ws, resp := wsDial(t, wireDial(t, addr(t, p, 0)), "a.test", early.String())
	if resp.StatusCode != 101 {
		t.Fatal(resp.Status)
	}
	ws.SetDeadline(time.Now().Add(2 * time.Second))
	if _, _, payload, err := ws.receive(); string(payload) != "early" {
		t.Errorf("%q, %v", payload, err)
	}
}

type bufferConn struct {
	net.Conn
	w io.Writer
}

func (c bufferConn) Write(b []byte) (int, error) { return c.w.Write(b) }

// Only 101 opens a tunnel: after any other answer the connection carries
// requests, each of them routed.
func TestWebSocketRefused(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
	} {
		got := make(chan string, 10)
		target := wireServer(t, func(c net.Conn) {
			r := bufio.NewReader(c)
			for {
				head, err := wireHead(r)
				if err != nil {
					return
				}
				got <- head
				io.WriteString(c, answer)
			}
		})
		p := start(t, Config{Routes: []Route{
			{Name: "ws", Match: Match{Ports: Ports(0), Path: "/ws"}, Action: forwardTo(target)},
			handlerRoute("secret", Match{Path: "/secret"}),
		}})
		ws, resp := wsDial(t, wireDial(t, addr(t, p, 0)), "a.test", "")
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode == 101 || string(body) != "no" {
			t.Errorf("%.20q: client got %d %q", answer, resp.StatusCode, body)
		}
		receive(t, got)
		// Into a tunnel this would go to the target.
		io.WriteString(ws, "GET /secret HTTP/1.1\r\nHost: a.test\r\n\r\n")
		resp, err := http.ReadResponse(ws.r, nil)
		if err == nil {
			if body, _ := io.ReadAll(resp.Body); string(body) != "secret" {
				t.Errorf("%.20q: the next request got %q", answer, body)
			}
		}
		if len(got) > 0 {
			t.Errorf("%.20q: the target got %q", answer, receive(t, got))
		}
	}

	// Another protocol than the one asked for.
	p := start(t, oneRoute(forwardTo(wireAnswer(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n"))))
	if _, resp := wsDial(t, wireDial(t, addr(t, p, 0)), "a.test", ""); resp.StatusCode != 502 {
		t.Errorf("switch to another protocol: %d, want 502", resp.StatusCode)
	}
	eventually(t, "nothing in flight", func() bool { return p.Stats().Targets[0].Active == 0 })
}

func TestWebSocketIdle(t *testing.T) {
	_, target := backend(t, wsEcho(t))
	cfg := oneRoute(forwardTo(target))
	cfg.Timeouts.Idle = 300 * time.Millisecond
	p := start(t, cfg)
	ws, _ := wsDial(t, wireDial(t, addr(t, p, 0)), "a.test", "")
	begin := time.Now()
	for time.Since(begin) < 900*time.Millisecond { // three times Idle, but never idle
		time.Sleep(100 * time.Millisecond)
		if err := ws.send(wsText, true, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := ws.receive(); err != nil {
			t.Fatalf("closed after %v with a frame every 100ms: %v", time.Since(begin), err)
		}
	}
	begin = time.Now()
	if _, err := io.ReadAll(ws.r); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("an idle WebSocket is not closed")
	}
	if d := time.Since(begin); d < 200*time.Millisecond || d > 3*time.Second {
		t.Errorf("closed after %v idle, want 300ms", d)
	}
	eventually(t, "no connection is left", func() bool { s := p.Stats(); return s.ActiveConnections == 0 && s.Targets[0].Active == 0 })
}

// A client that does not read holds neither its connection nor the target's.
func TestWebSocketSlowReader(t *testing.T) {
	target := tcpServer(t, func(c *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		for c.SetWriteDeadline(time.Now().Add(5 * time.Second)); ; {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	cfg := oneRoute(forwardTo(target.target()))
	cfg.Timeouts.Idle = 300 * time.Millisecond
	p := start(t, cfg)
	c := wireDial(t, addr(t, p, 0))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	eventually(t, "the target has a connection", func() bool { return target.open.Load() == 1 })
	eventually(t, "no connection is left", func() bool { return target.open.Load() == 0 && p.Stats().ActiveConnections == 0 })
}

// An upgraded connection is a stream whose directions end one by one.
func TestUpgradeHalfClose(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	const upgrade = "Connection: Upgrade\r\nUpgrade: raw\r\n\r\n"
	clientFirst := wireServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := wireHead(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+upgrade)
		all, _ := io.ReadAll(r)
		io.WriteString(c, "got "+string(all))
	})
	serverFirst := wireServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := wireHead(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+upgrade+"bye")
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, r)
	})
	p := start(t, Config{Routes: []Route{
		tlsRoute("secure client first", files, forwardTo(clientFirst), "c.test"),
		tlsRoute("secure server first", files, forwardTo(serverFirst), "s.test"),
		{Name: "client first", Match: Match{Ports: Ports(0), Domains: []string{"c.test"}}, Action: forwardTo(clientFirst)},
		{Name: "server first", Match: Match{Ports: Ports(0), Domains: []string{"s.test"}}, Action: forwardTo(serverFirst)},
	}})
	for _, secure := range []bool{false, true} {
		for _, host := range []string{"c.test", "s.test"} {
			c := wireDial(t, addr(t, p, 0))
			if secure {
				c = tls.Client(c, &tls.Config{ServerName: host, RootCAs: pool, InsecureSkipVerify: true})
			}
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n%s", host, upgrade)
			r := bufio.NewReader(c)
			if head, err := wireHead(r); wireStatus(head) != 101 {
				t.Fatalf("%s: %q, %v", host, head, err)
			}
			want := "bye"
			if host == "c.test" {
				io.WriteString(c, "all of it")
				c.(interface{ CloseWrite() error }).CloseWrite()
				want = "got all of it"
			}
			if got, err := io.ReadAll(r); string(got) != want || err != nil {
				t.Errorf("%s, TLS %v: %q, %v, want %q", host, secure, got, err, want)
			}
			c.Close()
		}
	}
	eventually(t, "no connection is left", func() bool { return p.Stats().ActiveConnections == 0 })
}

// When one side of a WebSocket breaks, the other hears of it.
func TestWebSocketBreaks(t *testing.T) {
	var mu sync.Mutex
	var open []net.Conn
	ended := make(chan struct{}, 10)
	target := wireServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := wireHead(r); err != nil {
			return
		}
		mu.Lock()
		open = append(open, c)
		mu.Unlock()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(io.Discard, r)
		ended <- struct{}{}
	})
	p := start(t, oneRoute(forwardTo(target)))
	const request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

	c := wireDial(t, addr(t, p, 0))
	io.WriteString(c, request)
	if head, _ := wireHead(bufio.NewReader(c)); wireStatus(head) != 101 {
		t.Fatal(head)
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the target does not hear that the client broke off")
	}

	c = wireDial(t, addr(t, p, 0))
	io.WriteString(c, request)
	r := bufio.NewReader(c)
	if head, _ := wireHead(r); wireStatus(head) != 101 {
		t.Fatal(head)
	}
	mu.Lock()
	open[len(open)-1].(*net.TCPConn).SetLinger(0)
	open[len(open)-1].Close()
	mu.Unlock()
	if _, err := io.ReadAll(r); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the client does not hear that the target broke off")
	}
	eventually(t, "nothing in flight", func() bool { s := p.Stats(); return s.Routes[0].Active == 0 && s.ActiveConnections == 0 })
}

// Over HTTP/2 there is no Upgrade; a client that sends it gets an answer.
func TestWebSocketOverHTTP2(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	_, target := backend(t, wsEcho(t))
	p := start(t, Config{Routes: []Route{tlsRoute("r", files, forwardTo(target), "a.test")}})
	status, _ := get(t, client(t, addr(t, p, 0), pool), "https://a.test/")
	if status != 400 { // the echo server's answer to what is no upgrade
		t.Errorf("%d", status)
	}
}
