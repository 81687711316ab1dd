package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// memory is a listener without a network.
type memory struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemory() *memory {
	return &memory{conns: make(chan net.Conn), done: make(chan struct{})}
}

// memoryConn has addresses, as WithListener asks for.
type memoryConn struct{ net.Conn }

func (memoryConn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25} }

func (memoryConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1234} }

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, errors.New("no more") // not every listener knows net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25} }

func (m *memory) dial(t testing.TB) net.Conn {
	t.Helper()
	mine, theirs := net.Pipe()
	t.Cleanup(func() { mine.Close() })
	mine.SetDeadline(time.Now().Add(20 * time.Second))
	select {
	case m.conns <- memoryConn{theirs}:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody accepts")
	}
	return mine
}

func TestGivenListeners(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	says := tcpServer(t, func(c *net.TCPConn) { sendAll(c, 9, 1<<20) })
	_, web := backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Forwarded-For")) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mem, mem2, mem3, mem4 := newMemory(), newMemory(), newMemory(), newMemory()
	infos := make(chan ConnInfo, 1)
	socket := Route{Name: "socket", Match: Match{Ports: Ports(24)}, Action: Action{SocketHandler: SocketHandlerFunc(func(_ context.Context, c net.Conn, i ConnInfo) { infos <- i })}}
	p := start(t, Config{Routes: []Route{
		streamRoute("tcp", 7, peer.target()), streamRoute("memory", 25, peer.target()), httpRoute("web", 80, "a.test", web), socket, streamRoute("says", 26, says.target()),
	}}, WithListener("127.0.0.1:7", ln), WithListener("127.0.0.1:25", mem), WithListener("127.0.0.1:80", mem2), WithListener("127.0.0.1:24", mem3),
		WithListener("127.0.0.1:26", mem4))
	if a := addr(t, p, 7); a != ln.Addr().String() {
		t.Errorf("address is %s", a)
	}
	mustBounce(t, dialTCP(t, ln.Addr().String()), "over TCP")
	mustBounce(t, mem.dial(t), "in memory")
	c := mem2.dial(t)
	io.WriteString(c, "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(got, []byte("192.0.2.7")) {
		t.Errorf("%q, %v", got, err)
	}
	mem3.dial(t)
	if i := receive(t, infos); i.Client.String() != "192.0.2.7:1234" || i.Local.String() != "192.0.2.1:25" || i.Port != 24 {
		t.Errorf("%+v", i)
	}
	// All that the target says arrives, though the pipe knows no half-close.
	if sum, err := receiveAll(mem4.dial(t)); err != nil || sum[:7] != "1048576" {
		t.Errorf("%s, %v", sum, err)
	}
	update(t, p)
	select {
	case <-mem.done:
	default:
		t.Error("the listener of a removed port is open")
	}
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		c.Close()
		t.Error("the TCP listener of a removed port is open")
	}
}
