package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// halfConn is a connection that can end its own direction alone.
type halfConn interface {
	net.Conn
	CloseWrite() error
}

// question is what clients say first: nothing that could become HTTP, so that
// a proxy that looks inside knows at once.
const question = "\x00question"

// lane is a way of a stream through the proxy.
type lane struct {
	name string
	tls  bool // between client and proxy, so that an end is told from a cut
	look bool // the proxy looks inside, so the client has to speak first
	dial func(testing.TB) halfConn

	proxy *Proxy
}

// lanes starts a proxy with each way a stream can take; at their ends is serve.
func lanes(t testing.TB, times Timeouts, serve func(halfConn)) []lane {
	t.Helper()
	cert, key, pool := testenv.SelfSigned(t, "pass.test", "term.test", "any.test", "re.test")
	files := Certificate{CertPath: cert, KeyPath: key}
	plain := tcpServer(t, func(c *net.TCPConn) { serve(c) })
	secure := tlsServer(t, cert, key, func(c *tls.Conn) { serve(c) })
	route := func(name string, port int, target Target, mode *TLS) Route {
		r := streamRoute(name, port, target)
		if r.Action.TLS = mode; mode != nil {
			r.Match.Domains = []string{name + ".test"}
		}
		return r
	}
	direct := testenv.FreePort(t)
	guessed := route("any", 0, plain.target(), &TLS{Mode: Terminate, Certificate: files})
	guessed.Match.Protocol = ""
	p := startBare(t, Config{Timeouts: times, Routes: []Route{
		route("direct", direct, plain.target(), nil),
		route("pass", 0, secure.target(), &TLS{Mode: Passthrough}),
		route("term", 0, plain.target(), &TLS{Mode: Terminate, Certificate: files}),
		route("re", 0, secure.target(), &TLS{Mode: TerminateAndReencrypt, Certificate: files, Upstream: UpstreamTLS{CAPath: cert}}),
		guessed,
	}})
	list := []lane{{name: "direct", dial: func(t testing.TB) halfConn { return dialTCP(t, addr(t, p, direct)) }, proxy: p}}
	for _, name := range []string{"pass", "term", "any", "re"} {
		list = append(list, lane{name, true, name == "any", func(t testing.TB) halfConn { return dialTLS(t, addr(t, p, 0), name+".test", pool) }, p})
	}
	return list
}

func tlsServer(t testing.TB, cert, key string, serve func(*tls.Conn)) *tcpPeer {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return tcpServer(t, func(c *net.TCPConn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
		if s.Handshake() == nil {
			serve(s)
			s.Close()
		}
	})
}

func dialTLS(t testing.TB, addr, name string, pool *x509.CertPool, protocols ...string) *tls.Conn {
	t.Helper()
	c := tls.Client(dialTCP(t, addr), &tls.Config{ServerName: name, RootCAs: pool, NextProtos: protocols})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

// pattern is random and repeats with an odd length, so that what is lost,
// doubled or out of place changes the hash.
type pattern struct {
	block []byte
	at    int
	left  int64
	sum   interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func newPattern(seed byte, size int64) *pattern {
	p := &pattern{block: make([]byte, 1<<20+7), left: size, sum: sha256.New()}
	rand.NewChaCha8([32]byte{seed}).Read(p.block)
	return p
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(int64(len(b)), p.left)], p.block[p.at:])
	p.at = (p.at + n) % len(p.block)
	p.left -= int64(n)
	p.sum.Write(b[:n])
	return n, nil
}

// sendAll sends size bytes and ends the direction; receiveAll reads to the end.
func sendAll(c halfConn, seed byte, size int64) (sum string, err error) {
	p := newPattern(seed, size)
	if _, err := io.CopyBuffer(struct{ io.Writer }{c}, p, make([]byte, 128<<10)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %x", size, p.sum.Sum(nil)), c.CloseWrite()
}

func receiveAll(c io.Reader) (sum string, err error) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{c}, make([]byte, 128<<10))
	return fmt.Sprintf("%d %x", n, h.Sum(nil)), err
}

func TestStreamIsExact(t *testing.T) {
	t.Parallel()
	const size = 100 << 20
	type end struct {
		sent, received string
		err            error
	}
	both := func(c halfConn, seed byte) (e end) {
		var wg sync.WaitGroup
		var sendErr error
		wg.Go(func() { e.sent, sendErr = sendAll(c, seed, size) })
		e.received, e.err = receiveAll(c)
		wg.Wait()
		e.err = errors.Join(e.err, sendErr)
		return e
	}
	server := make(chan end, 1)
	for _, l := range lanes(t, Timeouts{}, func(c halfConn) { server <- both(c, 1) }) {
		t.Run(l.name, func(t *testing.T) {
			c := l.dial(t)
			c.SetDeadline(time.Now().Add(time.Minute))
			begin := time.Now()
			mine := both(c, 2)
			theirs := receive(t, server)
			if mine.err != nil || theirs.err != nil {
				t.Fatalf("client: %v, server: %v", mine.err, theirs.err)
			}
			if mine.sent != theirs.received || theirs.sent != mine.received {
				t.Errorf("client sent %s, server got %s; server sent %s, client got %s", mine.sent, theirs.received, theirs.sent, mine.received)
			}
			t.Logf("100 MB each way in %v", time.Since(begin))
		})
	}
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	t.Run("client first", func(t *testing.T) {
		for _, l := range lanes(t, Timeouts{}, func(c halfConn) {
			// The answer depends on having seen the end.
			all, err := io.ReadAll(c)
			fmt.Fprintf(c, "%d bytes, %v", len(all), err)
		}) {
			t.Run(l.name, func(t *testing.T) {
				c := l.dial(t)
				io.WriteString(c, question)
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(c); err != nil || string(got) != "9 bytes, <nil>" {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
	})
	t.Run("server first", func(t *testing.T) {
		got := make(chan string, 1)
		for _, l := range lanes(t, Timeouts{}, func(c halfConn) {
			io.WriteString(c, "bye")
			c.CloseWrite()
			all, err := io.ReadAll(c)
			got <- fmt.Sprintf("%q, %v", all, err)
		}) {
			if l.look {
				continue
			}
			t.Run(l.name, func(t *testing.T) {
				c := l.dial(t)
				if all, err := io.ReadAll(c); err != nil || string(all) != "bye" {
					t.Fatalf("%q, %v", all, err)
				}
				for range 3 {
					io.WriteString(c, "more ")
					time.Sleep(10 * time.Millisecond)
				}
				c.CloseWrite()
				if s := receive(t, got); s != `"more more more ", <nil>` {
					t.Errorf("server got %s", s)
				}
			})
		}
	})
}

// breakOff ends a connection as a crash does: no TLS alert, and a reset.
func breakOff(c net.Conn) {
	reset(c)
	if s, ok := c.(*tls.Conn); ok {
		c = s.NetConn()
	}
	c.Close()
}

// wantBroken reads to the end, which must not look like a regular one.
func wantBroken(c net.Conn, withTLS bool) error {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := io.Copy(io.Discard, c)
	switch {
	case err == nil:
		return fmt.Errorf("a clean end after %d bytes of a broken transfer", n)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("no end at all")
	case !withTLS && !errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w, want a reset", err)
	}
	return nil
}

func TestResetByTarget(t *testing.T) {
	t.Parallel()
	for _, l := range lanes(t, Timeouts{}, func(c halfConn) {
		c.Read(make([]byte, len(question)))
		io.WriteString(c, "the first half")
		time.Sleep(20 * time.Millisecond)
		breakOff(c)
	}) {
		t.Run(l.name, func(t *testing.T) {
			for range 5 {
				c := l.dial(t)
				io.WriteString(c, question)
				if err := wantBroken(c, l.tls); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestResetByClient(t *testing.T) {
	t.Parallel()
	result := make(chan error, 1)
	for _, l := range lanes(t, Timeouts{}, func(c halfConn) {
		c.Read(make([]byte, 1))
		io.WriteString(c, "hello")
		_, withTLS := c.(*tls.Conn)
		result <- wantBroken(c, withTLS)
	}) {
		t.Run(l.name, func(t *testing.T) {
			for range 5 {
				c := l.dial(t)
				io.WriteString(c, question)
				io.ReadFull(c, make([]byte, 5))
				time.Sleep(10 * time.Millisecond)
				breakOff(c)
				if err := receive(t, result); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func greet(t testing.TB) *tcpPeer {
	return tcpServer(t, func(c *net.TCPConn) {
		io.WriteString(c, "220 welcome\r\n")
		io.Copy(c, c)
	})
}

func wantGreeting(t testing.TB, c net.Conn) {
	t.Helper()
	got := make([]byte, 13)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "220 welcome\r\n" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	t.Parallel()
	peer := greet(t)
	cert, key, pool := testenv.SelfSigned(t, "term.test", "mixed.test")
	direct := testenv.FreePort(t)
	shared := streamRoute("shared", 0, peer.target())
	term := streamRoute("term", 0, peer.target())
	term.Match.Domains = []string{"term.test"}
	term.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	mixed := term
	mixed.Name, mixed.Match.Protocol, mixed.Match.Domains = "mixed", "", []string{"mixed.test"}
	const wait = 300 * time.Millisecond
	p := startBare(t, Config{Timeouts: Timeouts{Route: wait}, Routes: []Route{streamRoute("direct", direct, peer.target()), shared, term, mixed}})
	for _, test := range []struct {
		name string
		dial func() net.Conn
		from time.Duration
	}{
		{"direct", func() net.Conn { return dialTCP(t, addr(t, p, direct)) }, 0},
		{"TLS", func() net.Conn { return dialTLS(t, addr(t, p, 0), "term.test", pool) }, 0},
		// Here the proxy must first see that the client has nothing to say.
		{"port shared with TLS", func() net.Conn { return dialTCP(t, addr(t, p, 0)) }, wait},
	} {
		begin := time.Now()
		c := test.dial()
		wantGreeting(t, c)
		if d := time.Since(begin); d < test.from*9/10 || d > test.from+2*time.Second {
			t.Errorf("%s: greeted after %v, want %v", test.name, d, test.from)
		}
		time.Sleep(wait * 3 / 2) // no deadline of the routing phase is left
		mustBounce(t, c, "hello")
	}
	// A route that may carry HTTP is not open to who says nothing: HTTP could
	// follow where nobody looks any more.
	begin := time.Now()
	if !isClosed(dialTLS(t, addr(t, p, 0), "mixed.test", pool), 5*time.Second) {
		t.Error("not closed")
	}
	if d := time.Since(begin); d < wait*9/10 || d > wait+2*time.Second {
		t.Errorf("closed after %v, want %v", d, wait)
	}
}

// A target that switches protocols unasked is refused and nothing stays open.
func TestUnaskedUpgradeLeaksNothing(t *testing.T) {
	t.Parallel()
	peer := tcpServer(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 4096))
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n")
		io.Copy(io.Discard, c)
	})
	p := startBare(t, Config{Routes: []Route{httpRoute("web", 0, "a.test", peer.target())}})
	c := client(t, addr(t, p, 0), nil)
	for range 5 {
		if status, _ := get(t, c, "http://a.test/"); status != 502 {
			t.Errorf("status %d", status)
		}
	}
	eventually(t, "the connections to the target are closed", func() bool { return peer.open.Load() == 0 })
	if n := targetStats(p, peer.target()).Active; n != 0 {
		t.Errorf("%d active", n)
	}
}
