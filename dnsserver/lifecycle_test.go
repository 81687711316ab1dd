package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestServes(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{})
	a := s.Addrs()
	if len(a) != 2 || !strings.HasSuffix(a[0], "/udp") || strings.TrimSuffix(a[0], "/udp") != strings.TrimSuffix(a[1], "/tcp") {
		t.Errorf("addresses %v", a)
	}
	for _, network := range []string{"udp", "tcp"} {
		c := dial(t, network, addr(t, s, network))
		for id := range uint16(3) {
			ask(t, c, makeQuery(id, "a.example"))
		}
	}
	wantUDP(t, s, TransportStats{Queries: 3, Responses: 3})
	if u := s.counters.snapshot().TCP; u.Queries != 3 || u.Responses != 3 || u.Dropped != 0 || u.Connections != 1 || u.OpenConnections != 1 {
		t.Errorf("%+v", u)
	}
}

// Answers leave from the address that was asked, whichever of the host's it is.
func TestAllInterfaces(t *testing.T) {
	testenv.Goroutines(t)
	for host, ask4 := range map[string]bool{"": true, "0.0.0.0": true, "::": true, "::1": false} {
		s, err := New(Config{ListenHost: host, Port: new(int)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			if strings.Contains(host, ":") {
				t.Logf("no IPv6 here: %v", err)
				continue
			}
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(addr(t, s, "udp"))
		from := []string{"::1"}
		switch {
		case host == "0.0.0.0":
			from = []string{"127.0.0.1", "127.0.0.9"}
		case ask4:
			from = []string{"127.0.0.1", "127.0.0.9", "::1"}
		}
		for _, to := range from {
			if to == "127.0.0.9" && !hasAddress(to) {
				continue
			}
			// A connected socket takes datagrams from that address only.
			ask(t, dial(t, "udp", net.JoinHostPort(to, port)), makeQuery(1, "a.example"))
			ask(t, dial(t, "tcp", net.JoinHostPort(to, port)), makeQuery(1, "a.example"))
		}
		if host == "0.0.0.0" {
			if c, err := net.Dial("tcp", net.JoinHostPort("::1", port)); err == nil {
				c.Close()
				t.Error("0.0.0.0 listens on IPv6")
			}
		}
		stop(t, s)
	}
}

func hasAddress(ip string) bool {
	ln, err := net.Listen("tcp", ip+":0")
	if err == nil {
		ln.Close()
	}
	return err == nil
}

func TestStartAndStopOften(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	s := newServer(t, Config{Port: &port})
	for range 50 {
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); !errors.Is(err, ErrRunning) {
			t.Fatalf("second Start: %v", err)
		}
		ask(t, dial(t, "udp", addr(t, s, "udp")), makeQuery(1, "a.example"))
		ask(t, dial(t, "tcp", addr(t, s, "tcp")), makeQuery(1, "a.example"))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { stop(t, s) })
		}
		wg.Wait()
		if s.Addrs() != nil {
			t.Fatal("addresses after Stop")
		}
	}
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

// Sockets that share a port must not let a second server in.
func TestPortIsTaken(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{})
	port := int(netip.MustParseAddrPort(addr(t, s, "udp")).Port())
	if err := newServer(t, Config{Port: &port}).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "/tcp: ") {
		t.Errorf("got %v", err)
	}
	pcs, err := listenUDP(t.Context(), "127.0.0.1", port)
	if err == nil || !strings.Contains(err.Error(), "/udp: ") || len(pcs) > 0 {
		t.Errorf("got %v", err)
	}
	// What was bound before is given back.
	port = testenv.FreePort(t) // of those that no connection to elsewhere takes
	pc, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if err := newServer(t, Config{Port: &port}).Start(t.Context()); err == nil {
		t.Fatal("started on a port that is taken")
	}
	pc.Close()
	start(t, Config{Port: &port})
}

func TestWithoutListening(t *testing.T) {
	testenv.Goroutines(t)
	off := false
	s, err := New(Config{Listen: &off})
	if err != nil {
		t.Fatal(err)
	}
	client, server := net.Pipe()
	s.ServeConn(server) // not started yet
	wantClosed(t, client, time.Second)
	mustStart(t, s)
	if a := s.Addrs(); len(a) != 0 {
		t.Errorf("addresses %v", a)
	}
	client, server = net.Pipe()
	done := make(chan struct{})
	go func() { s.ServeConn(server); close(done) }()
	ask(t, client, makeQuery(7, "a.example"))
	stop(t, s)
	<-done
	wantClosed(t, client, time.Second)
}

func TestGivenSockets(t *testing.T) {
	testenv.Goroutines(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var opts []Option
	opts = append(opts, WithListener(ln))
	var udp []string
	for _, wrap := range []func(net.PacketConn) net.PacketConn{
		func(pc net.PacketConn) net.PacketConn { return pc },
		func(pc net.PacketConn) net.PacketConn { return struct{ net.PacketConn }{pc} }, // none of net's
	} {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp = append(udp, pc.LocalAddr().String())
		opts = append(opts, WithPacketConn(wrap(pc)))
	}
	s, err := New(Config{}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	mustStart(t, s)
	if n := len(s.Addrs()); n != 3 {
		t.Errorf("addresses %v", s.Addrs())
	}
	ask(t, dial(t, "tcp", ln.Addr().String()), makeQuery(1, "a.example"))
	for _, a := range udp {
		ask(t, dial(t, "udp", a), makeQuery(1, "a.example"))
	}
	stop(t, s)
	if err := s.Start(t.Context()); !errors.Is(err, errGivenClosed) {
		t.Errorf("Start after Stop: %v", err)
	}
	// A Server that never ran closes them too.
	ln, _ = net.Listen("tcp", "127.0.0.1:0")
	s, _ = New(Config{}, WithListener(ln))
	stop(t, s)
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("not closed: %v", err)
	}
}

func TestNewReportsAllMistakes(t *testing.T) {
	port := 70000
	_, err := New(Config{Port: &port, DoT: &EncryptedPort{}, DoQ: &EncryptedPort{}}, WithListener(nil), WithPacketConn(nil))
	for _, want := range []string{"port: 70000", "dot: needs a certificate", "doq: needs a certificate", "WithListener is nil", "WithPacketConn is nil"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

// Losing a socket is not the end of the others, but Wait reports it.
func TestWaitReportsFailure(t *testing.T) {
	testenv.Goroutines(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Config{}, WithListener(ln))
	ln.Close()
	if err := s.Wait(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestStopWhileLoaded(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		udp, c := dial(t, "udp", addr(t, s, "udp")), dial(t, "tcp", addr(t, s, "tcp"))
		wg.Go(func() { // a flood that asks for nothing back
			for ctx.Err() == nil {
				udp.Write(makeQuery(1, "a.example"))
			}
		})
		wg.Go(func() {
			go func() {
				for buf := make([]byte, 4096); ; {
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}()
			for ctx.Err() == nil {
				if _, err := c.Write(framed(makeQuery(1, "a.example"), makeQuery(2, "b.example"))); err != nil {
					return
				}
			}
		})
	}
	waitUntil(t, "load", func() bool { st := s.counters.snapshot(); return st.UDP.Queries > 500 && st.TCP.Queries > 500 })
	began := time.Now()
	stop(t, s)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Stop took %v", took)
	}
	cancel()
	wg.Wait()
}
