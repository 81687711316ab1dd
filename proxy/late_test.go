package proxy

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// lateListener has accepted a connection when it is closed, and says so
// afterwards, as a system call may that Close finds under way.
type lateListener struct {
	net.Listener
	conn   chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newLateListener(ln net.Listener) *lateListener {
	l := &lateListener{Listener: ln, conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	go func() {
		if c, err := ln.Accept(); err == nil {
			l.conn <- c
		}
	}()
	return l
}

func (l *lateListener) Accept() (net.Conn, error) {
	<-l.closed
	select {
	case c := <-l.conn:
		return c, nil
	default:
		return nil, net.ErrClosed
	}
}

func (l *lateListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// A client that was accepted before Stop is answered, also if Stop comes first to
// hear of it.
func TestStopServesWhoWasAccepted(t *testing.T) {
	testenv.Goroutines(t)
	_, web := backend(t, says("web"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	late := newLateListener(ln)
	p, err := New(Config{ListenHost: "127.0.0.1", Routes: []Route{httpRoute("web", 4711, "a.test", web)}}, WithListener("127.0.0.1:4711", late))
	if err != nil {
		t.Fatal(err)
	}
	mustStart(t, p)
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
	eventually(t, "the connection to be accepted", func() bool { return len(late.conn) == 1 })
	if err := stopWithin(p, 20*time.Second); err != nil {
		t.Error(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
		t.Errorf("%q, %v", answer, err)
	}
}
