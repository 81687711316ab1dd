//go:build unix

package sockets_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/sockets"
)

func listen(t *testing.T, s *sockets.Set, addr string) net.Listener {
	t.Helper()
	ln, err := s.Listen(t.Context(), net.ListenConfig{}, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func listenPacket(t *testing.T, s *sockets.Set, addr string) net.PacketConn {
	t.Helper()
	pc, err := s.ListenPacket(t.Context(), net.ListenConfig{}, "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}

// handOver gives all sockets of one Set to another, as to another process.
func handOver(t *testing.T, from, to *sockets.Set) {
	t.Helper()
	list, err := from.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, so := range list {
		so.File.Fd() // os/exec does that
	}
	if err := to.Add(list...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(to.Close)
}

// What comes while nobody listens is there for who does next.
func TestHandOver(t *testing.T) {
	var old, next sockets.Set
	ln, pc := listen(t, &old, "127.0.0.1:0"), listenPacket(t, &old, "127.0.0.1:0")
	handOver(t, &old, &next)
	ln.Close()
	pc.Close()

	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	from, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if _, err := from.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}

	ln2, pc2 := listen(t, &next, "127.0.0.1:0"), listenPacket(t, &next, pc.LocalAddr().String())
	if ln2.Addr().String() != ln.Addr().String() || pc2.LocalAddr().String() != pc.LocalAddr().String() {
		t.Errorf("got %v and %v, want %v and %v", ln2.Addr(), pc2.LocalAddr(), ln.Addr(), pc.LocalAddr())
	}
	ln2.(*net.TCPListener).SetDeadline(time.Now().Add(30 * time.Second))
	c, err := ln2.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	pc2.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, _, err := pc2.ReadFrom(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if closed := next.Release(); len(closed) != 0 {
		t.Errorf("closed %v", closed)
	}
	ln2.Close()
	old.Close()
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
}

// A file that goes to another process must not make the sockets of this one
// block: Close would not end Accept.
func TestFilesDoNotBlock(t *testing.T) {
	var old, next sockets.Set
	ln := listen(t, &old, "127.0.0.1:0")
	handOver(t, &old, &next)
	ended := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		if err == nil {
			_, err = ln.Accept()
		}
		ended <- err
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ln.Close()
	if err := testenv.Receive(t, ended); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// Hold keeps what is closed for whoever asks again; Release lets go of it.
func TestHold(t *testing.T) {
	var s sockets.Set
	ln, other := listen(t, &s, "127.0.0.1:0"), listen(t, &s, "127.0.0.1:0")
	if err := s.Hold(); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	other.Close()
	if again := listen(t, &s, "127.0.0.1:0"); again.Addr().String() != ln.Addr().String() {
		t.Errorf("got %v back, not %v", again.Addr(), ln.Addr())
	}
	if closed := s.Release(); !slices.Equal(closed, []string{"127.0.0.1:0/tcp"}) {
		t.Errorf("closed %v", closed)
	}
	if _, err := net.Dial("tcp", other.Addr().String()); err == nil {
		t.Error("the port that nobody has taken back is open")
	}
	if list, err := s.List(); len(list) != 1 || err != nil {
		t.Errorf("%d sockets are left, %v", len(list), err)
	}
}

func TestGiven(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var s sockets.Set
	s.AddListener(":443", ln)
	s.AddPacketConn(":53", pc)
	if got := listen(t, &s, ":443"); got != ln {
		t.Errorf("got %v, not the listener that was given", got)
	}
	if names := s.Unwanted(); !slices.Equal(names, []string{":53/udp"}) {
		t.Errorf("unwanted are %v", names)
	}
	// Whoever asked failed to start, and tries again.
	ln.Close()
	if again := listen(t, &s, ":443"); again.Addr().String() != ln.Addr().String() {
		t.Errorf("got %v, not what was given", again.Addr())
	}
	s.Close()
	if err := pc.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("what nobody wanted is not closed: %v", err)
	}
	// One that is not the system's can be used, but not handed over.
	s.AddListener(":80", struct{ net.Listener }{listen(t, new(sockets.Set), "127.0.0.1:0")})
	listen(t, &s, ":80")
	if err := s.Hold(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// The address may be written in several ways.
func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		bound, network, asked string
		want                  bool
	}{
		{":0", "tcp", ":%", true},
		{":0", "tcp", "0.0.0.0:%", true},
		{"0.0.0.0:0", "tcp4", "0.0.0.0:%", true},
		{"0.0.0.0:0", "tcp4", ":%", true},
		{"127.0.0.1:0", "tcp", "127.0.0.1:%", true},
		{"127.0.0.1:0", "tcp", ":%", false},
		{"127.0.0.1:0", "tcp", "127.0.0.2:%", false},
	} {
		ln, err := net.Listen(c.network, c.bound)
		if err != nil {
			t.Log(err) // no IPv6
			continue
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		asked := c.asked[:len(c.asked)-1] + port
		var s sockets.Set
		s.AddListener("given", ln)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nothing is to be bound
		got, _ := s.Listen(ctx, net.ListenConfig{}, c.network, asked)
		if (got == ln) != c.want {
			t.Errorf("%s for %s %s: %v", c.bound, c.network, asked, got == ln)
		}
		ln.Close()
	}
}

func TestGroup(t *testing.T) {
	var s, next sockets.Set
	bind := func() (list []net.PacketConn, err error) {
		for range 3 {
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { pc.Close() })
			list = append(list, pc)
		}
		return list, nil
	}
	if list, err := s.ListenGroup("udp", "127.0.0.1:53", bind); len(list) != 3 || err != nil {
		t.Fatal(list, err)
	}
	handOver(t, &s, &next)
	list, err := next.ListenGroup("udp", "127.0.0.1:53", func() ([]net.PacketConn, error) { return nil, errors.New("bound anew") })
	if len(list) != 3 || err != nil {
		t.Error(list, err)
	}
	for _, pc := range list {
		pc.Close()
	}
}

// Without a Set everything is bound as ever.
func TestNil(t *testing.T) {
	listen(t, nil, "127.0.0.1:0")
	listenPacket(t, nil, "127.0.0.1:0")
}

// What is in a Set can be had, and stays there; of anything else the system says.
func TestProbe(t *testing.T) {
	var old, next sockets.Set
	ln, pc := listen(t, &old, "127.0.0.1:0"), listenPacket(t, &old, "127.0.0.1:0")
	handOver(t, &old, &next)
	for network, addr := range map[string]string{"tcp": ln.Addr().String(), "udp": pc.LocalAddr().String()} {
		for range 2 {
			if err := next.Probe(t.Context(), network, addr); err != nil {
				t.Error(err)
			}
		}
		var other *sockets.Set
		if err := other.Probe(t.Context(), network, addr); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s of another one: %v", network, err)
		}
		if err := next.Probe(t.Context(), network, "127.0.0.1:0"); err != nil {
			t.Error(err)
		}
	}
	if list, err := next.List(); err != nil || len(list) != 2 {
		t.Errorf("left: %v, %v", list, err)
	} else {
		for _, so := range list {
			so.File.Close()
		}
	}
	listen(t, &next, ln.Addr().String())
	listenPacket(t, &next, pc.LocalAddr().String())
}
