package nonblock_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dcrouter/dcrouter/internal/nonblock"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// pair is a connection and its other end.
func pair(t *testing.T) (net.Conn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return nonblock.NewConn(c), peer.(*net.TCPConn)
}

// Much goes both ways at once, more than the sockets take, and ends where it ends.
func TestNonblockConn(t *testing.T) {
	testenv.Goroutines(t)
	c, peer := pair(t)
	sent := make([]byte, 8<<20)
	rand.Read(sent)
	var echo sync.WaitGroup
	echo.Go(func() {
		io.Copy(peer, peer)
		peer.CloseWrite()
	})
	echo.Go(func() {
		if n, err := c.Write(sent); n != len(sent) || err != nil {
			t.Errorf("%d bytes are written, %v", n, err)
		}
		c.(interface{ CloseWrite() error }).CloseWrite()
	})
	got, err := io.ReadAll(c)
	if !bytes.Equal(got, sent) || err != nil {
		t.Errorf("%d of %d bytes come back, or others, %v", len(got), len(sent), err)
	}
	testenv.Await(t, "both directions", echo.Wait)
	if err := iotest.TestReader(c, nil); err != nil {
		t.Error(err)
	}
}

// Deadlines, Close and what the other end does are reported as always.
func TestNonblockConnErrors(t *testing.T) {
	testenv.Goroutines(t)
	b := make([]byte, 100)
	c, peer := pair(t)
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("reading nothing: %d, %v", n, err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	var timeout net.Error
	if n, err := c.Read(b); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("after the deadline: %d, %v", n, err)
	}
	c.SetReadDeadline(time.Time{})
	peer.Write([]byte("hello"))
	if n, err := c.Read(b); string(b[:n]) != "hello" || err != nil {
		t.Errorf("after it was taken back: %q, %v", b[:n], err)
	}
	much := make([]byte, 64<<20)
	c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := c.Write(much); n == 0 || n == len(much) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody reads: %d, %v", n, err)
	}
	peer.SetLinger(0)
	peer.Close()
	if n, err := c.Read(b); n != 0 || err == nil || err == io.EOF {
		t.Errorf("after a reset: %d, %v", n, err)
	}

	c, _ = pair(t)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(b)
		read <- err
	}()
	time.Sleep(10 * time.Millisecond)
	c.Close()
	if err := testenv.Receive(t, read); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed meanwhile: %v", err)
	}
	if _, err := c.Write(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing after Close: %v", err)
	}
}

// What is no TCP connection is left alone.
func TestNonblockConnOfAnotherKind(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if nonblock.NewConn(a) != a || nonblock.NewWriter(a) != a {
		t.Error("a pipe is taken for a socket")
	}
}
