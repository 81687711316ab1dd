package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// h2Victim runs a proxy that forwards HTTP with and without TLS to one target.
type h2Victim struct {
	*Proxy
	plain, secure string // addresses
	tls           *tls.Config
	ask           func() error // as another client, once
}

func newH2Victim(t *testing.T, change func(*Config), serve http.HandlerFunc) *h2Victim {
	t.Helper()
	files, pool := tlsFiles(t, "a.test")
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			io.WriteString(w, "ok")
			return
		}
		serve(w, r)
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	cfg := Config{Routes: []Route{
		tlsRoute("secure", files, forwardTo(target), "a.test"),
		{Name: "plain", Match: Match{Ports: Ports(port), Protocol: "http"}, Action: forwardTo(target)},
	}}
	if change != nil {
		change(&cfg)
	}
	p := start(t, cfg, WithListener(ln.Addr().String(), shortOfBuffers{ln}))
	v := &h2Victim{Proxy: p, plain: addr(t, p, port), secure: addr(t, p, 0),
		tls: &tls.Config{ServerName: "a.test", RootCAs: pool}}
	other := client(t, v.secure, pool)
	v.ask = func() error {
		resp, err := other.Get("https://a.test/other")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); string(body) != "ok" || resp.ProtoMajor != 2 {
			return fmt.Errorf("%s %s %q, %v", resp.Proto, resp.Status, body, err)
		}
		return nil
	}
	return v
}

// shortOfBuffers leaves the kernel little room for what a client does not read,
// so that it piles up in the proxy.
type shortOfBuffers struct{ net.Listener }

func (s shortOfBuffers) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err == nil {
		c.(*net.TCPConn).SetWriteBuffer(16 << 10)
	}
	return c, err
}

// both runs a test over TLS and without.
func (v *h2Victim) both(t *testing.T, test func(t *testing.T, dial func(...http2.Setting) *h2Wire)) {
	for _, name := range []string{"secure", "plain"} {
		t.Run(name, func(t *testing.T) {
			test(t, func(settings ...http2.Setting) *h2Wire {
				if name == "plain" {
					return h2Dial(t, v.plain, nil, settings...)
				}
				return h2Dial(t, v.secure, v.tls, settings...)
			})
		})
	}
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// CVE-2023-44487: requests that are reset as soon as they have been sent. Their
// target speaks HTTP/1.1, so each costs it a connection.
func TestHTTP2RapidReset(t *testing.T) {
	for _, webSockets := range []bool{false, true} {
		var now, most, total atomic.Int64
		v := newH2Victim(t, func(c *Config) { c.HTTP2.WebSockets = &webSockets }, func(w http.ResponseWriter, r *http.Request) {
			total.Add(1)
			for n := now.Add(1); ; {
				if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
					break
				}
			}
			defer now.Add(-1)
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Second):
			}
		})
		v.both(t, func(t *testing.T, dial func(...http2.Setting) *h2Wire) {
			defer bystander(t, v.ask)()
			before, closed := total.Load(), v.Stats().Refused["tooManyResets"]+v.Stats().Refused["badHttp2"]
			h := dial()
			var sent uint32
			for sent < 200_000 {
				id := 2*sent + 1
				if h.open(id, true, "GET", "a.test", "/") != nil || h.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
					break
				}
				sent++
			}
			if sent == 200_000 {
				t.Error("the connection stays open")
			}
			eventually(t, "the target is left alone", func() bool { return now.Load() == 0 })
			if n := total.Load() - before; n > 3000 {
				t.Errorf("%d requests reached the target", n)
			}
			s := v.Stats()
			if s.Refused["tooManyResets"]+s.Refused["badHttp2"] == closed {
				t.Errorf("not counted: %v", s.Refused)
			}
			t.Logf("cut off after %d resets, of which the target saw %d, %d at once", sent, total.Load()-before, most.Load())
		})
		if n := most.Load(); n > 2*250 {
			t.Errorf("the target had %d requests at once", n)
		}
	}
}

// The same against a handler that does not notice that the client has left.
func TestHTTP2RapidResetOfBusyHandlers(t *testing.T) {
	release := make(chan struct{})
	var now, most atomic.Int64
	p := start(t, Config{HTTP2: HTTP2{MaxConcurrentStreams: 10}, Routes: []Route{{Match: Match{Ports: Ports(0)},
		Action: Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			most.Store(max(most.Load(), now.Add(1)))
			<-release
			now.Add(-1)
		})}}}})
	defer close(release)
	h := h2Dial(t, addr(t, p, 0), nil)
	go func() {
		for id := uint32(1); id < 10_000; id += 2 {
			if h.open(id, true, "GET", "a.test", "/") != nil || h.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	code, _, err := h.goodbye()
	if code != http2.ErrCodeEnhanceYourCalm || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("GOAWAY %v, %v, want ENHANCE_YOUR_CALM", code, err)
	}
	if n := most.Load(); n > 10 {
		t.Errorf("%d handlers at once, want 10", n)
	}
}

// Who resets now and then is served on.
func TestHTTP2ResetsThatAreFine(t *testing.T) {
	v := newH2Victim(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "HEAD" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Length", "10")
	})
	h := h2Dial(t, v.plain, nil)
	id := uint32(1)
	for range 300 {
		for range 2 {
			h.open(id, true, "GET", "a.test", "/")
			h.WriteRSTStream(id, http2.ErrCodeCancel)
			id += 2
		}
		for _, method := range []string{"GET", "HEAD"} {
			h.open(id, true, method, "a.test", "/other")
			if a, err := h.answer(id); err != nil || a.head[":status"] != "200" {
				t.Fatalf("after %d requests: %v, %v", id/2, a, err)
			}
			id += 2
		}
	}
}

func TestResetMeter(t *testing.T) {
	now := time.Now()
	var m resetMeter
	for i := range 100 {
		if n := m.note(true, now); n != i+1 {
			t.Fatalf("%d after %d resets", n, i+1)
		}
	}
	for range 50 {
		m.note(false, now)
	}
	if n := m.note(true, now); n != 51 {
		t.Errorf("%d after 50 that were none", n)
	}
	if n := m.note(true, now.Add(time.Second)); n != 51-resetsPerSecond+1 {
		t.Errorf("%d a second later", n)
	}
	for i := range 1000 { // at the rate that is fine
		if n := m.note(true, now.Add(time.Minute+time.Duration(i)*time.Second/resetsPerSecond)); n > 2 {
			t.Fatalf("%d after %d slow ones", n, i)
		}
	}
}

// CVE-2023-45288, CVE-2024-30255: a header block that does not end.
func TestHTTP2ContinuationFlood(t *testing.T) {
	for _, webSockets := range []bool{false, true} {
		v := newH2Victim(t, func(c *Config) { c.HTTP2.WebSockets = &webSockets }, func(w http.ResponseWriter, r *http.Request) { t.Error("the target is asked") })
		v.both(t, func(t *testing.T, dial func(...http2.Setting) *h2Wire) {
			for name, fragment := range map[string][]byte{
				"fields": []byte("\x00\x01x\x01y"), // literal, not indexed
				"huge":   append([]byte("\x00\x01x\x7f\x81\x7e"), strings.Repeat("y", 16<<10-10)...),
				"dense":  {0x82}, // a reference
			} {
				before, done := heap(), bystander(t, v.ask)
				if name != "huge" {
					fragment = []byte(strings.Repeat(string(fragment), (16<<10)/len(fragment)))
				}
				h := dial()
				block := h.fields(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/")
				h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block})
				sent := 0
				for sent < 64<<20 && h.WriteContinuation(1, false, fragment) == nil {
					sent += len(fragment)
				}
				if sent == 64<<20 {
					t.Errorf("%s: the connection stays open", name)
				}
				if code, _, err := h.goodbye(); code == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s: %v, %v", name, code, err)
				}
				done()
				if after := heap(); after > before+4<<20 {
					t.Errorf("%s: %d KiB more in use", name, (after-before)>>10)
				}
				t.Logf("%s: cut off after %d KiB", name, sent>>10)
			}
		})
	}
}

// A header list over the limit is refused, and costs no more than the limit
// even if compression makes megabytes of it. The connection goes on.
func TestHTTP2HeaderListSize(t *testing.T) {
	for _, webSockets := range []bool{false, true} {
		v := newH2Victim(t, func(c *Config) { c.HTTP2.WebSockets = &webSockets }, func(w http.ResponseWriter, r *http.Request) {})
		v.both(t, func(t *testing.T, dial func(...http2.Setting) *h2Wire) {
			h := dial()
			h.open(1, true, "GET", "a.test", "/", "x", strings.Repeat("y", 15<<10))
			if a, err := h.answer(1); err != nil || a.head[":status"] != "200" {
				t.Errorf("15 KiB: %v, %v", a, err)
			}
			h.open(3, true, "GET", "a.test", "/", "x", strings.Repeat("y", 9<<10), "z", strings.Repeat("y", 8<<10))
			if a, err := h.answer(3); err != nil || a.head[":status"] != "431" {
				t.Errorf("17 KiB: %v, %v", a, err)
			}
			before := heap()
			bomb := []string{"x", strings.Repeat("y", 3000)}
			for range 2000 { // 6 MB
				bomb = append(bomb, bomb[:2]...)
			}
			h.open(5, true, "GET", "a.test", "/", bomb...)
			if a, err := h.answer(5); err != nil || a.head[":status"] != "431" {
				t.Errorf("bomb: %v, %v", a, err)
			}
			if after := heap(); after > before+1<<20 {
				t.Errorf("bomb: %d KiB more in use", (after-before)>>10)
			}
			h.open(7, true, "GET", "a.test", "/other")
			if a, err := h.answer(7); err != nil || a.body != "ok" {
				t.Errorf("afterwards: %v, %v", a, err)
			}
		})
	}
}

// What costs the sender as much as us is let be, as long as nothing piles up.
func TestHTTP2FrameFloods(t *testing.T) {
	v := newH2Victim(t, func(c *Config) { c.Timeouts.Idle = time.Second }, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	const count = 50_000
	for _, flood := range []struct {
		name  string
		send  func(h *h2Wire, i uint32) error
		close bool // the connection must be closed
	}{
		// The answers are not read, so they pile up.
		{"PING", func(h *h2Wire, i uint32) error { return h.WritePing(false, [8]byte{1}) }, true},
		{"refused streams", func(h *h2Wire, i uint32) error {
			return h.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 3, EndHeaders: true, EndStream: true, BlockFragment: []byte{0x82}})
		}, true},
		{"SETTINGS", func(h *h2Wire, i uint32) error {
			return h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: i})
		}, false},
		{"PING answers", func(h *h2Wire, i uint32) error { return h.WritePing(true, [8]byte{1}) }, false},
		{"PRIORITY", func(h *h2Wire, i uint32) error {
			return h.WritePriority(2*i+3, http2.PriorityParam{StreamDep: 2*i + 1})
		}, false},
		{"empty DATA", func(h *h2Wire, i uint32) error { return h.WriteData(1, false, nil) }, false},
		{"WINDOW_UPDATE", func(h *h2Wire, i uint32) error { return h.WriteWindowUpdate(1, 1) }, false},
		{"RST_STREAM", func(h *h2Wire, i uint32) error { return h.WriteRSTStream(1, http2.ErrCodeCancel) }, false},
		{"unknown", func(h *h2Wire, i uint32) error { return h.WriteRawFrame(0xbe, 0, 0, nil) }, false},
	} {
		before, done := heap(), bystander(t, v.ask)
		h := h2Dial(t, v.plain, nil)
		h.SetDeadline(time.Now().Add(20 * time.Second))
		h.tcp().SetReadBuffer(16 << 10) // so that answers pile up here, not in the kernel
		h.open(1, false, "POST", "a.test", "/")
		var sent uint32
		var err error
		for sent < count && err == nil {
			err = flood.send(h, sent)
			sent++
		}
		after := heap() // with the connection open, if it is
		if done(); after > before+8<<20 {
			t.Errorf("%s: %d KiB more in use", flood.name, (after-before)>>10)
		}
		if flood.close && !errors.Is(err, os.ErrDeadlineExceeded) { // or this machine cannot fill the kernel's buffers in time
			eventually(t, flood.name+" closes the connection", func() bool { return v.Stats().ActiveConnections <= 1 })
		}
		t.Logf("%s: %d sent, %v, %d KiB", flood.name, sent, err, int64(after-before)>>10)
		h.Close()
		eventually(t, "its request has ended", func() bool { return v.Stats().Targets[0].Active == 0 })
	}
}

// Memory is not set aside for what has only been announced.
func TestHTTP2AnnouncedFrames(t *testing.T) {
	v := newH2Victim(t, nil, func(w http.ResponseWriter, r *http.Request) {})
	before := heap()
	for range 100 {
		h := h2Dial(t, v.plain, nil)
		h.Write([]byte{0, 0x40, 0, byte(http2.FrameData), 0, 0, 0, 0, 1}) // 16 KiB
	}
	eventually(t, "all are served", func() bool { return v.Stats().ActiveConnections == 100 })
	if after := heap(); after > before+100*(64<<10) {
		t.Errorf("%d KiB more in use", (after-before)>>10)
	}
	h := h2Dial(t, v.plain, nil)
	h.Write([]byte{1, 0, 0, byte(http2.FrameData), 0, 0, 0, 0, 1}) // 64 KiB
	if code, _, err := h.goodbye(); code != http2.ErrCodeFrameSize || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("GOAWAY %v, %v, want FRAME_SIZE_ERROR", code, err)
	}
}

// One request more than allowed is refused, and the others go on.
func TestHTTP2MaxConcurrentStreams(t *testing.T) {
	for limit, want := range map[int]uint32{0: 250, 3: 3} {
		release := make(chan struct{})
		v := newH2Victim(t, func(c *Config) { c.HTTP2.MaxConcurrentStreams = limit }, func(w http.ResponseWriter, r *http.Request) {
			<-release
			io.WriteString(w, "done")
		})
		v.both(t, func(t *testing.T, dial func(...http2.Setting) *h2Wire) {
			h := dial()
			f, err := h.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if n, _ := f.(*http2.SettingsFrame).Value(http2.SettingMaxConcurrentStreams); n != want {
				t.Errorf("%d announced, want %d", n, want)
			}
			h.WriteSettingsAck()
			for i := range want + 1 {
				h.open(2*i+1, true, "GET", "a.test", "/")
			}
			a, err := h.answer(2*want + 1)
			if err != nil || a.reset == nil {
				t.Errorf("stream %d: %v, %v, want it refused", want+1, a, err)
			}
			go func() {
				for range want {
					release <- struct{}{}
				}
			}()
			for range want {
				// They end in any order; the last frame of each is counted.
				for {
					f, err := h.ReadFrame()
					if err != nil {
						t.Fatal(err)
					}
					if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
						break
					}
				}
			}
		})
	}
}

// A client that opens no window, and one that does not read at all.
func TestHTTP2SlowReader(t *testing.T) {
	ended := make(chan struct{}, 10)
	v := newH2Victim(t, func(c *Config) { c.Timeouts.Idle, c.Timeouts.KeepAlive = 500*time.Millisecond, 2*time.Second }, func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		for range 1024 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	v.both(t, func(t *testing.T, dial func(...http2.Setting) *h2Wire) {
		done := bystander(t, v.ask)
		h := dial(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		h.open(1, true, "GET", "a.test", "/")
		begin := time.Now()
		if a, err := h.answer(1); err != nil || a.reset == nil {
			t.Errorf("no window: %v, %v, want a reset", a, err)
		}
		if d := time.Since(begin); d < 300*time.Millisecond || d > 5*time.Second {
			t.Errorf("no window: ended after %v", d)
		}
		receive(t, ended)
		h.open(3, true, "GET", "a.test", "/other", "x", "y")
		h.WriteWindowUpdate(3, 100)
		if a, err := h.answer(3); err != nil || a.body != "ok" {
			t.Errorf("afterwards: %v, %v", a, err)
		}
		h.Close()

		h = dial(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		h.WriteWindowUpdate(0, 1<<30)
		h.open(1, true, "GET", "a.test", "/")
		begin = time.Now()
		select {
		case <-ended:
		case <-time.After(8 * time.Second):
			t.Error("nothing read: the target still writes")
		}
		eventually(t, "the exchange has ended", func() bool { return v.Stats().Targets[0].Active <= 1 })
		if d := time.Since(begin); d < 300*time.Millisecond {
			t.Errorf("nothing read: ended after %v", d)
		}
		done()
		// Its end may still have fitted into the kernel's buffers.
		eventually(t, "the connections are closed", func() bool { return v.Stats().ActiveConnections == 0 })
	})
}

// Nor does a refusal wait for ever for a client that opens no window.
func TestHTTP2RefusalToSlowReader(t *testing.T) {
	v := newH2Victim(t, func(c *Config) {
		c.Timeouts.Idle, c.Timeouts.KeepAlive = 300*time.Millisecond, 300*time.Millisecond
		for i := range c.Routes {
			c.Routes[i].Match.Path = "/other"
		}
	}, says("x"))
	v.both(t, func(t *testing.T, dial func(...http2.Setting) *h2Wire) {
		h := dial(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		h.open(1, true, "GET", "a.test", "/")
		if a, err := h.answer(1); err != nil || a.reset == nil {
			t.Errorf("%v, %v, want a reset", a, err)
		}
		eventually(t, "the connection ends", func() bool { return v.Stats().ActiveConnections == 0 })
	})
}

// Connections that ask for nothing, or for half of something, end in time.
func TestHTTP2Idle(t *testing.T) {
	v := newH2Victim(t, func(c *Config) {
		c.Timeouts.KeepAlive, c.Timeouts.RequestHead, c.Timeouts.Route = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	}, says("x"))
	open := make(map[string]*h2Wire)
	for name, send := range map[string]func(h *h2Wire){
		"greeting only": func(h *h2Wire) {},
		"half a header block": func(h *h2Wire) {
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.fields(":method", "GET")})
		},
		"half a frame": func(h *h2Wire) { h.Write([]byte{0, 0, 8, 6, 0, 0}) },
		"one request": func(h *h2Wire) {
			h.open(1, true, "GET", "a.test", "/")
			h.answer(1)
		},
	} {
		for _, secure := range []bool{false, true} {
			at, settings := v.plain, (*tls.Config)(nil)
			if secure {
				at, settings = v.secure, v.tls
			}
			h := h2Dial(t, at, settings)
			send(h)
			open[fmt.Sprintf("%s, TLS %v", name, secure)] = h
		}
	}
	for i, start := range []string{"PRI", "PRI * HTTP/2.0\r\n", http2.ClientPreface[:23], http2.ClientPreface} {
		c := wireDial(t, v.plain)
		io.WriteString(c, start)
		open[fmt.Sprint("preface ", i)] = &h2Wire{Conn: c, Framer: http2.NewFramer(c, c)}
	}
	begin := time.Now()
	for name, h := range open {
		if code, _, err := h.goodbye(); code != http2.ErrCodeNo || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: GOAWAY %v, %v", name, code, err)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("%s: closed after %v", name, d)
		}
	}
	eventually(t, "no connection is left", func() bool { return v.Stats().ActiveConnections == 0 })
}
