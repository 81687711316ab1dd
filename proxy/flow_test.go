package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/netconn"
)

// tcpPair returns the two ends of a connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a = dialTCP(t, ln.Addr().String())
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return a, c.(*net.TCPConn)
}

// mover is what moveN needs, without a proxy that serves.
func mover(t testing.TB) *run {
	r := newRun(newProxy(t, Config{}))
	t.Cleanup(func() {
		r.cancel()
		r.pipes.close()
	})
	return r
}

// move is moveN between a and b; what is sent to the first returned connection
// comes out of the second.
type move struct {
	from, to *net.TCPConn // the other ends
	src, dst *net.TCPConn
	run      *run
	count    atomic.Uint64
	moved    atomic.Uint64
}

func newMove(t testing.TB) *move {
	m := &move{run: mover(t)}
	m.from, m.src = tcpPair(t)
	m.dst, m.to = tcpPair(t)
	return m
}

func (m *move) n(n int64) (int64, error) {
	return m.run.moveN(m.dst, m.src, n, &byteCount{route: &m.count}, &m.moved)
}

// oddly hands a reader's bytes on in pieces of odd sizes, small and large, and
// now and then takes a rest.
type oddly struct {
	io.Reader
	random *rand.Rand
}

func newOddly(r io.Reader) *oddly {
	return &oddly{Reader: r, random: rand.New(rand.NewPCG(1, 2))}
}

func (o *oddly) WriteTo(w io.Writer) (total int64, err error) {
	buf := make([]byte, 300<<10)
	for {
		size := 1 + o.random.IntN(1<<o.random.IntN(18))
		n, err := io.ReadFull(o.Reader, buf[:size])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		switch {
		case err != nil && n == 0, err == io.ErrUnexpectedEOF:
			return total, nil
		case err != nil:
			return total, err
		case o.random.IntN(50) == 0:
			time.Sleep(time.Millisecond) // so that the proxy gets ahead
		}
	}
}

func TestMoveNIsExact(t *testing.T) {
	t.Parallel()
	type wrapped struct{ net.Conn }
	for _, size := range []int64{0, 1, 1000, 32<<10 - 1, 32 << 10, 64 << 10, 64<<10 + 1, 96<<10 + 7, 1 << 20, 20<<20 + 3} {
		for _, kind := range []string{"bare", "wrapped source", "wrapped destination"} {
			t.Run(fmt.Sprintf("%s, %d bytes", kind, size), func(t *testing.T) {
				m := newMove(t)
				var src, dst net.Conn = m.src, m.dst
				switch kind {
				case "wrapped source":
					src = wrapped{src}
				case "wrapped destination":
					dst = wrapped{dst}
				}
				const tail = "what comes after it"
				go func() {
					newOddly(newPattern(1, size)).WriteTo(m.from)
					io.WriteString(m.from, tail)
				}()
				got := make(chan string, 1)
				go func() {
					sum, err := receiveAll(m.to)
					got <- fmt.Sprint(sum, err)
				}()
				n, err := m.run.moveN(dst, src, size, &byteCount{route: &m.count}, &m.moved)
				if n != size || err != nil {
					t.Fatalf("moved %d, %v", n, err)
				}
				if c := m.count.Load(); c != uint64(size) {
					t.Errorf("counted %d", c)
				}
				m.dst.Close()
				want := newPattern(1, size)
				io.Copy(io.Discard, want)
				if s, want := receive(t, got), fmt.Sprintf("%d %x<nil>", size, want.sum.Sum(nil)); s != want {
					t.Errorf("got %s, want %s", s, want)
				}
				rest := make([]byte, len(tail))
				if _, err := io.ReadFull(m.src, rest); err != nil || string(rest) != tail {
					t.Errorf("then %q, %v", rest, err)
				}
			})
		}
	}
}

func TestMoveNReportsWhichSideFailed(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	reset := []error{syscall.ECONNRESET, syscall.EPIPE}
	for _, test := range []struct {
		name  string
		begin func(*move)
		write bool
		want  []error // one of them
	}{
		{"source ends at once", func(m *move) { m.from.CloseWrite() }, false, []error{io.ErrUnexpectedEOF}},
		{"source ends early", func(m *move) { sendAll(m.from, 1, size/2) }, false, []error{io.ErrUnexpectedEOF}},
		{"source is reset", func(m *move) { io.Copy(m.from, newPattern(1, size/2)); breakOff(m.from) }, false, reset},
		{"source stops", func(m *move) {
			io.Copy(m.from, newPattern(1, size/2))
			m.src.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		}, false, []error{os.ErrDeadlineExceeded}},
		{"source is closed", func(m *move) { io.Copy(m.from, newPattern(1, size/2)); m.src.Close() }, false, []error{net.ErrClosed}},
		{"destination is reset", func(m *move) { breakOff(m.to); io.Copy(m.from, newPattern(1, size)) }, true, reset},
		{"destination stops", func(m *move) {
			m.dst.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			io.Copy(m.from, newPattern(1, size))
		}, true, []error{os.ErrDeadlineExceeded}},
		{"destination is closed", func(m *move) { m.dst.Close(); io.Copy(m.from, newPattern(1, size)) }, true, []error{net.ErrClosed}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMove(t)
			stops := test.name == "destination stops"
			got := make(chan int64, 1)
			read := func() {
				n, _ := io.Copy(io.Discard, m.to)
				got <- n
			}
			if !test.write {
				go read()
			}
			begun := make(chan bool)
			go func() {
				close(begun)
				test.begin(m)
			}()
			receive(t, begun)
			n, err := m.n(size)
			if !matches(err, test.want) || isWriteError(err) != test.write {
				t.Errorf("%v, of the destination: %v", err, isWriteError(err))
			}
			m.from.Close()
			m.dst.Close()
			if stops {
				go read()
			}
			// What counts as moved has been handed over.
			if !test.write || stops {
				if theirs := receive(t, got); theirs != n {
					t.Errorf("moved %d, and %d have arrived", n, theirs)
				}
			}
			t.Logf("%d moved", n)
		})
	}
}

func matches(err error, wanted []error) bool {
	for _, want := range wanted {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

// Bytes that have been read ahead stay in order before what is spliced.
func TestBareConnections(t *testing.T) {
	tcp, _ := tcpPair(t)
	if bare(tcp) != tcp || bare(&conn{Conn: tcp}) != tcp || bare(&conn{Conn: &conn{Conn: tcp}}) != tcp {
		t.Error("a connection with nothing in between is not found")
	}
	for _, c := range []net.Conn{&conn{Conn: tcp, head: []byte("x")}, &netconn.Unread{Conn: tcp}, struct{ net.Conn }{tcp}} {
		if bare(c) != nil {
			t.Errorf("%T counts as bare", c)
		}
	}
	if head := bytes.Repeat([]byte("x"), 10); bare(&conn{Conn: tcp, head: head[:0]}) != tcp {
		t.Error("an empty head is in the way")
	}
}
