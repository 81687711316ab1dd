package proxy

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

const strace = "strace"

func needStrace(t testing.TB) string {
	t.Helper()
	return testenv.Need(t, strace, "apt-get install strace")
}

// bothWays sends and receives size bytes at the same time, in pieces of odd
// sizes, and returns the sums of both.
func bothWays(c halfConn, seed byte, size int64) (sent, received string, err error) {
	var wg sync.WaitGroup
	var sendErr error
	wg.Go(func() { sent, sendErr = sendAll(c, seed, size) })
	received, err = receiveAll(c)
	wg.Wait()
	if err == nil {
		err = sendErr
	}
	return sent, received, err
}

// exchanger is a target for mustExchange.
func exchanger(t testing.TB, size int64) (*tcpPeer, <-chan ends) {
	t.Helper()
	got := make(chan ends, 1)
	return tcpServer(t, func(c *net.TCPConn) {
		var b [1]byte
		if _, err := c.Read(b[:]); err != nil {
			return // the client has failed
		}
		var e ends
		e.sent, e.received, e.err = bothWays(c, 1, size)
		got <- e
	}), got
}

func mustExchange(t testing.TB, c halfConn, size int64, server <-chan ends) {
	t.Helper()
	if _, err := c.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	sent, received, err := bothWays(c, 2, size)
	theirs := receive(t, server)
	if err != nil || theirs.err != nil {
		t.Fatalf("client: %v, server: %v", err, theirs.err)
	}
	if sent != theirs.received || theirs.sent != received {
		t.Errorf("client sent %s, server got %s; server sent %s, client got %s", sent, theirs.received, theirs.sent, received)
	}
}

// spliced adds up what splice(2) has moved according to strace.
func spliced(t testing.TB, file string) (calls int, bytes int64) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)splice.* = (\d+)$`).FindAllSubmatch(text, -1) {
		n, _ := strconv.ParseInt(string(m[1]), 10, 64)
		calls++
		bytes += n
	}
	return calls, bytes
}

// A stream with TLS that is passed on goes through splice(2), though its first
// bytes have been looked at; so does one that is forwarded unseen.
func TestBulkIsSpliced(t *testing.T) {
	testenv.Goroutines(t)
	tool := needStrace(t)
	const size = 32 << 20
	cert, key, pool := testenv.SelfSigned(t, "pass.test")
	serve := func(c halfConn) { sendAll(c, 1, size) }
	for _, test := range []struct {
		name   string
		target *tcpPeer
		dial   func(*proxyProcess) halfConn
	}{
		{"passthrough", tlsServer(t, cert, key, func(c *tls.Conn) { serve(c) }), func(p *proxyProcess) halfConn { return dialTLS(t, p.pass, "pass.test", pool) }},
		{"forward", tcpServer(t, func(c *net.TCPConn) { serve(c) }), func(p *proxyProcess) halfConn { return dialTCP(t, p.direct) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			trace := filepath.Join(testenv.Folder(t), "trace")
			p := startProcess(t, test.target.target(), tool, "-f", "--seccomp-bpf", "-qq", "-I", "2", "-e", "trace=splice", "-o", trace)
			got, err := receiveAll(test.dial(p))
			if err != nil {
				t.Fatal(err)
			}
			if want, _ := io.Copy(io.Discard, newPattern(1, size)); got[:len(fmt.Sprint(want))] != fmt.Sprint(want) {
				t.Errorf("got %s", got)
			}
			p.Stop()
			// Each byte goes into a pipe and out of it; not all do, since what
			// comes in small pieces is copied.
			calls, bytes := spliced(t, trace)
			if bytes < 2*size/8 {
				t.Errorf("splice moved %d bytes of %d", bytes/2, size)
			}
			t.Logf("%d calls moved %d bytes, twice", calls, bytes/2)
		})
	}
}

// What the system refuses to a bulk transfer is done without.
func TestBulkWithoutPipes(t *testing.T) {
	testenv.Goroutines(t)
	const size = 16 << 20
	for _, fault := range []string{"pipe2:error=ENFILE", "pipe2:error=EMFILE", "splice:error=EINVAL", "splice:error=EPERM"} {
		t.Run(fault, func(t *testing.T) {
			peer, server := exchanger(t, size)
			trace := filepath.Join(testenv.Folder(t), "trace")
			p := startProcess(t, peer.target(), needStrace(t), "-f", "--seccomp-bpf", "-qq", "-I", "2", "-e", "trace=splice,pipe2", "-e", "inject="+fault, "-o", trace)
			mustExchange(t, dialTCP(t, p.direct), size, server)
			p.Stop()
			text, err := os.ReadFile(trace)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(`\(INJECTED\)`).Match(text) {
				t.Error("the fault did not happen")
			}
			if calls, _ := spliced(t, trace); calls > 0 {
				t.Error("something was spliced all the same")
			}
		})
	}
	t.Run("no descriptors left", func(t *testing.T) {
		peer, server := exchanger(t, size)
		p := startProcess(t, peer.target())
		before := p.files(t)["socket"]
		c := dialTCP(t, p.direct)
		eventually(t, "the stream is there", func() bool { return p.files(t)["socket"] == before+2 })
		limit := unix.Rlimit{Cur: 3, Max: 3} // fewer than it has
		if err := unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Fatal(err)
		}
		mustExchange(t, c, size, server)
	})
}

func TestIdleStreamDescriptors(t *testing.T) {
	testenv.Goroutines(t)
	const count, size = 200, 1 << 20
	peer := tcpServer(t, func(c *net.TCPConn) {
		b := make([]byte, 100)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if string(b[:n]) == "more" {
				io.Copy(c, newPattern(1, size))
			} else {
				c.Write(b[:n])
			}
		}
	})
	p := startProcess(t, peer.target())
	before := p.files(t)
	conns := hold(t, p.direct, count)
	check := func(when string, spare int) {
		t.Helper()
		now := p.files(t)
		if n := now["socket"] - before["socket"]; n != 2*count {
			t.Errorf("%s: %d sockets for %d streams", when, n, count)
		}
		if n := now["pipe"] - before["pipe"]; n > 2*spare {
			t.Errorf("%s: %d ends of pipes", when, n)
		}
		delete(now, "socket")
		delete(now, "pipe")
		t.Logf("%s: %d streams; beside sockets and pipes %v", when, count, now)
		for kind, n := range now {
			if n > before[kind] {
				t.Errorf("%s: %d %s, %d before", when, n, kind, before[kind])
			}
		}
	}
	check("after one message each", 0)
	for _, c := range conns[:count/2] {
		io.WriteString(c, "more")
		if _, err := io.CopyN(io.Discard, c, size); err != nil {
			t.Fatal(err)
		}
	}
	check("after bulk", sparePipes)
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			io.WriteString(c, "more")
			if _, err := io.CopyN(io.Discard, c, size); err != nil {
				t.Error(err)
			}
		})
	}
	waitAll(t, &wg)
	check("after bulk all at once", sparePipes)
	for _, c := range conns {
		mustBounce(t, c, "hello")
	}
}

// Streams come and go, end well and badly, with bytes in pipes and without.
func TestStreamsLeakNoPipes(t *testing.T) {
	testenv.Goroutines(t)
	const size = 512 << 10
	peer := tcpServer(t, func(c *net.TCPConn) {
		b := make([]byte, 1)
		io.ReadFull(c, b)
		switch b[0] {
		case 0: // a regular answer
			sendAll(c, 1, size)
		case 1: // more than anybody reads
			sendAll(c, 1, 64*size)
		case 2: // broken off
			io.Copy(c, newPattern(1, size))
			breakOff(c)
		}
	})
	p := startProcess(t, peer.target())
	before := p.files(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 60 {
				kind := byte((w + i) % 3)
				c, err := net.Dial("tcp", p.direct)
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(20 * time.Second))
				c.Write([]byte{kind})
				switch kind {
				case 0:
					if n, err := io.Copy(io.Discard, c); n != size || err != nil {
						t.Errorf("%d bytes of %d, %v", n, size, err)
					}
				case 1:
					io.CopyN(io.Discard, c, size/2)
					breakOff(c)
				case 2:
					if err := wantBroken(c, false); err != nil {
						t.Error(err)
					}
				}
				c.Close()
			}
		})
	}
	waitAll(t, &wg)
	var now map[string]int
	defer func() {
		if t.Failed() {
			t.Logf("open before: %v, and now: %v", before, now)
			p.Signal(unix.SIGQUIT) // it prints what its goroutines do
			testenv.Receive(t, p.Done())
		}
	}()
	eventually(t, "only spare pipes are left", func() bool {
		now = p.files(t)
		return now["socket"] == before["socket"] && now["pipe"]-before["pipe"] <= 2*sparePipes
	})
}

// A destination that takes a part of a buffer gets the rest of it later.
func TestBuffersWrittenInParts(t *testing.T) {
	const size = 32 << 20
	m := newMove(t)
	m.run.pipes.lent = maxPipes // none is left
	m.dst.SetWriteBuffer(10_001)
	sent := make(chan string, 1)
	go func() {
		sum, err := sendAll(m.from, 1, size)
		sent <- fmt.Sprint(sum, err)
	}()
	got := make(chan string, 1)
	go func() {
		sum, err := receiveAll(m.to)
		got <- fmt.Sprint(sum, err)
	}()
	if n, err := m.n(size); n != size || err != nil {
		t.Fatal(n, err)
	}
	m.dst.Close()
	if s, want := receive(t, got), receive(t, sent); s != want {
		t.Errorf("got %s, sent %s", s, want)
	}
}
