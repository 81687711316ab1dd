package proxy

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Streams that the proxy itself ends look broken to both sides, whatever they
// are doing, and end at once.
func TestCutStreamLooksBroken(t *testing.T) {
	t.Parallel()
	const idle, size = 2 * time.Second, 64 << 20
	for _, cause := range []struct {
		name  string
		times Timeouts
		cut   func(testing.TB, *Proxy) (restore func())
	}{
		{"Stop", Timeouts{}, func(t testing.TB, p *Proxy) func() {
			if stopWithin(p, 20*time.Millisecond) == nil {
				t.Error("Stop cut a stream and says nothing")
			}
			return func() {}
		}},
		{"drain", Timeouts{Drain: 20 * time.Millisecond}, func(t testing.TB, p *Proxy) func() {
			routes := p.Routes()
			update(t, p)
			return func() { update(t, p, routes...) }
		}},
		{"idle", Timeouts{Idle: idle}, func(testing.TB, *Proxy) func() { return func() {} }},
	} {
		for _, state := range []string{"silent", "stuck", "half-closed by the client", "half-closed by the server"} {
			t.Run(cause.name+", "+state, func(t *testing.T) {
				t.Parallel()
				server := make(chan error, 1)
				for _, l := range lanes(t, cause.times, func(c halfConn) {
					c.Read(make([]byte, len(question)))
					io.WriteString(c, "hello")
					var err error
					switch state {
					case "stuck":
						_, err = io.Copy(c, newPattern(1, size))
					case "half-closed by the server":
						c.CloseWrite()
						fallthrough
					default:
						_, err = io.Copy(io.Discard, c)
					}
					server <- err
					<-t.Context().Done()
				}) {
					if l.name == "pass" || l.name == "any" || cause.name == "Stop" && l.name != "direct" {
						continue // like another, or stopped with it
					}
					c := l.dial(t)
					io.WriteString(c, question)
					io.ReadFull(c, make([]byte, 5))
					switch state {
					case "stuck":
						eventually(t, "nothing moves any more", func() bool {
							return l.proxy.bytesOut() > 5 && standsStillFor(l.proxy, 100*time.Millisecond)
						})
					case "half-closed by the client":
						c.CloseWrite()
						if err := receive(t, server); err != nil {
							t.Fatal(err)
						}
					case "half-closed by the server":
						if n, err := c.Read(make([]byte, 1)); n > 0 || err != io.EOF {
							t.Fatal(n, err)
						}
					}
					begin := time.Now()
					restore := cause.cut(t, l.proxy)
					eventually(t, "the stream is gone", func() bool { return len(l.proxy.run.open()) == 0 })
					if d := time.Since(begin); d > 2*idle {
						t.Errorf("%s: it took %v", l.name, d)
					}
					if state != "half-closed by the server" {
						if err := wantBroken(c, l.tls); err != nil {
							t.Errorf("%s: %v", l.name, err)
						}
					}
					if state != "half-closed by the client" {
						if err := receive(t, server); err == nil {
							t.Errorf("%s: the target sees a clean end", l.name)
						}
					}
					restore()
				}
			})
		}
	}
}

// One side breaks off a bulk transfer: the other must not take it for complete.
func TestBulkBrokenOff(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	var server atomic.Value // func(halfConn)
	for _, l := range lanes(t, Timeouts{}, func(c halfConn) { server.Load().(func(halfConn))(c) }) {
		t.Run(l.name+", by the target", func(t *testing.T) {
			server.Store(func(c halfConn) {
				c.Read(make([]byte, 1))
				io.Copy(c, newPattern(1, size))
				breakOff(c)
			})
			for range 5 {
				c := l.dial(t)
				io.WriteString(c, question)
				if err := wantBroken(c, l.tls); err != nil {
					t.Fatal(err)
				}
			}
		})
		t.Run(l.name+", by the client", func(t *testing.T) {
			result := make(chan error, 1)
			server.Store(func(c halfConn) { result <- wantBroken(c, l.name == "pass" || l.name == "re") })
			for range 5 {
				c := l.dial(t)
				io.WriteString(c, question)
				io.Copy(c, newPattern(1, size))
				breakOff(c)
				if err := receive(t, result); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Large and small pieces, pauses and ends of directions in between, so that
// streams change between their ways of moving bytes.
func TestOddStreamIsExact(t *testing.T) {
	t.Parallel()
	const size = 10<<20 + 1
	both := func(c halfConn, seed byte) (e ends) {
		var wg sync.WaitGroup
		wg.Go(func() {
			p := newPattern(seed, size)
			newOddly(p).WriteTo(c)
			e.sent = fmt.Sprintf("%d %x", size, p.sum.Sum(nil))
			c.CloseWrite()
		})
		e.received, e.err = receiveAll(c)
		wg.Wait()
		return e
	}
	server := make(chan ends, 1)
	for _, l := range lanes(t, Timeouts{}, func(c halfConn) { server <- both(c, 1) }) {
		for _, sleepy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, dozing %v", l.name, sleepy), func(t *testing.T) {
				done := make(chan struct{})
				var wg sync.WaitGroup
				defer waitAll(t, &wg)
				defer close(done)
				if sleepy {
					wg.Go(func() { doze(l.proxy, done) })
				}
				c := l.dial(t)
				mine := both(c, 2)
				theirs := receive(t, server)
				if mine.err != nil || theirs.err != nil {
					t.Fatalf("client: %v, server: %v", mine.err, theirs.err)
				}
				if mine.sent != theirs.received || theirs.sent != mine.received {
					t.Errorf("client sent %s, server got %s; server sent %s, client got %s", mine.sent, theirs.received, theirs.sent, mine.received)
				}
			})
		}
	}
}

// ends is what one end of a stream has sent and received.
type ends struct {
	sent, received string
	err            error
}

// doze has the streams of a proxy taken for such that stand still, again and
// again until done.
func doze(p *Proxy, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(100 * time.Microsecond):
			dozeOnce(p)
		}
	}
}

func dozeOnce(p *Proxy) {
	for _, c := range p.latest().open() {
		c.mu.Lock()
		for _, s := range c.sessions {
			if s.doze != nil {
				s.doze()
			}
		}
		c.mu.Unlock()
	}
}

func TestHalfClosedBulk(t *testing.T) {
	t.Parallel()
	const size = 16 << 20
	for _, first := range []string{"client", "server"} {
		server := make(chan string, 1)
		later := func(c halfConn) string { // ends its direction and then listens
			c.CloseWrite()
			sum, err := receiveAll(c)
			return fmt.Sprint(sum, err)
		}
		earlier := func(c halfConn) string { // hears the end and then talks
			if n, err := c.Read(make([]byte, 1)); n > 0 || err != io.EOF {
				return fmt.Sprintf("%d bytes, %v", n, err)
			}
			sum, err := sendAll(c, 1, size)
			return fmt.Sprint(sum, err)
		}
		for _, l := range lanes(t, Timeouts{}, func(c halfConn) {
			c.Read(make([]byte, len(question)))
			if first == "client" {
				server <- earlier(c)
			} else {
				server <- later(c)
			}
		}) {
			t.Run(first+" first, "+l.name, func(t *testing.T) {
				c := l.dial(t)
				io.WriteString(c, question)
				var mine string
				if first == "client" {
					mine = later(c)
				} else {
					mine = earlier(c)
				}
				if theirs := receive(t, server); mine != theirs {
					t.Errorf("client says %s, server says %s", mine, theirs)
				}
			})
		}
	}
}

// Who does not read holds up who sends, and no more is taken from the sender
// than socket buffers and one pipe hold.
func TestSlowReaderHoldsUpSender(t *testing.T) {
	t.Parallel()
	const size = 96 << 20
	result := make(chan error, 1)
	for _, l := range lanes(t, Timeouts{}, func(c halfConn) {
		c.Read(make([]byte, len(question)))
		_, err := sendAll(c, 1, size)
		result <- err
	}) {
		t.Run(l.name, func(t *testing.T) {
			before := l.proxy.bytesOut()
			c := l.dial(t)
			c.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(c, question)
			eventually(t, "the sender is held up", func() bool {
				select {
				case err := <-result:
					t.Fatalf("all sent, though nothing was read: %v", err)
				default:
				}
				return l.proxy.bytesOut() > before && standsStillFor(l.proxy, 100*time.Millisecond)
			})
			if n := l.proxy.bytesOut() - before; n > 32<<20 {
				t.Errorf("%d bytes taken from the target", n)
			}
			if n, err := io.Copy(io.Discard, c); n != size || err != nil {
				t.Errorf("then %d of %d bytes, %v", n, size, err)
			}
			if err := receive(t, result); err != nil {
				t.Error(err)
			}
		})
	}
}

func (p *Proxy) bytesOut() (n uint64) {
	for _, s := range p.Stats().Routes {
		n += s.BytesOut
	}
	return n
}

func standsStillFor(p *Proxy, d time.Duration) bool {
	before := p.bytesOut()
	time.Sleep(d)
	return p.bytesOut() == before
}

func TestLooksKeepToIdle(t *testing.T) {
	for idle, want := range map[time.Duration]string{
		-1: "500ms 0", time.Hour: "500ms 7200", 4 * time.Second: "500ms 8", time.Second: "125ms 8", 3 * time.Millisecond: "1ms 3", 1: "1ms 1", 4100 * time.Millisecond: "500ms 9",
	} {
		pause, limit := (&Timeouts{Idle: idle}).looks()
		if got := fmt.Sprint(pause, limit); got != want {
			t.Errorf("idle %v: %s, want %s", idle, got, want)
		}
		if idle > 0 && time.Duration(limit)*pause < idle {
			t.Errorf("idle %v: ends after %v", idle, time.Duration(limit)*pause)
		}
	}
}

// A stream has its whole time from its beginning and from each movement on.
func TestSweepCountsFromMovement(t *testing.T) {
	var ended, dozed int
	c := new(conn)
	s := c.begin(new(route), nil)
	const limit = 5
	look := func(times int) {
		for range times {
			c.sweep(limit)
		}
	}
	look(3 * limit) // nobody watches yet
	c.watch(s, func() { ended++ }, func() { dozed++ })
	look(1)
	look(limit - 1)
	if ended != 0 || dozed != 1 {
		t.Errorf("ended %d times, dozed %d", ended, dozed)
	}
	s.moved.Add(1)
	look(limit)
	if ended != 0 || dozed != 2 {
		t.Errorf("after a movement: ended %d times, dozed %d", ended, dozed)
	}
	look(1)
	if ended != 1 {
		t.Errorf("in the end: ended %d times", ended)
	}
	c.watch(s, func() { ended++ }, nil)
	ended = 0
	for range 10 * limit {
		c.sweep(0)
	}
	if ended != 0 {
		t.Error("ended without a limit")
	}
}

// dripping sends everything in small pieces, one after the other.
type dripping struct{ net.Conn }

func (d dripping) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var m int
		m, err = d.Conn.Write(b[:min(len(b), 1+n%7)])
		b = b[m:]
		n += m
		time.Sleep(50 * time.Microsecond)
	}
	return n, err
}

// Records of TLS come in pieces, and streams are taken for idle in the middle
// of them.
func TestTLSInPieces(t *testing.T) {
	t.Parallel()
	cert, key, pool := testenv.SelfSigned(t, "term.test")
	peer := tcpEcho(t)
	term := streamRoute("term", 0, peer.target())
	term.Match.Domains = []string{"term.test"}
	term.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	p := startBare(t, Config{Routes: []Route{term}})
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer waitAll(t, &wg)
	defer close(done)
	wg.Go(func() { doze(p, done) })
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		raw := dialTCP(t, addr(t, p, 0))
		raw.SetNoDelay(true)
		c := tls.Client(dripping{raw}, &tls.Config{ServerName: "term.test", RootCAs: pool, MaxVersion: version})
		for i := range 30 {
			mustBounce(t, c, strings.Repeat(question, 1+i))
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
			t.Errorf("then %q, %v", rest, err)
		}
	}
	// Cut in the middle of a record, it is no end.
	result := make(chan error, 1)
	deaf := tcpServer(t, func(c *net.TCPConn) { result <- wantBroken(c, false) })
	term.Action.Targets = []Target{deaf.target()}
	update(t, p, term)
	raw := dialTCP(t, addr(t, p, 0))
	short := &shortened{Conn: raw, left: 1 << 20}
	c := tls.Client(short, &tls.Config{ServerName: "term.test", RootCAs: pool})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	short.left = 10
	io.WriteString(c, question)
	raw.CloseWrite()
	if err := receive(t, result); err != nil {
		t.Error(err)
	}
}

// shortened drops what is more than left.
type shortened struct {
	net.Conn
	left int
}

func (s *shortened) Write(b []byte) (int, error) {
	n := min(len(b), s.left)
	s.left -= n
	if n > 0 {
		if _, err := s.Conn.Write(b[:n]); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
