package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestHTTP3ConnectionLimits(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, test := range []struct {
		name   string
		limit  func(*Config)
		reason string
	}{
		{"in all", func(c *Config) { c.MaxConnections = 3 }, "tooManyConnections"},
		{"of one address", func(c *Config) { c.MaxConnectionsPerIP = 3 }, "tooManyPerIp"},
	} {
		for _, proven := range []bool{false, true} {
			cfg := with3(tlsRoute("r", files, Action{Handler: says("ok")}, "a.test"))
			test.limit(&cfg)
			p := start(t, cfg)
			if proven {
				// Everybody has to show where he is.
				p.current().quicPorts()[0].unproven.Add(maxUnproven)
			}
			at := addr(t, p, 0)
			one := wireDial(t, at) // those of TCP count too
			var open []*quic.Conn
			for range 2 {
				c, err := quicOpen(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool})
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, c)
			}
			eventually(t, "3 connections", func() bool { return p.Stats().ActiveConnections == 3 })
			var refused *quic.TransportError
			if _, err := quicOpen(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool}); !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
				t.Errorf("%s: one more: %v, want it refused before anything is done for it", test.name, err)
			}
			if n := p.Stats().Refused[test.reason]; n == 0 {
				t.Errorf("%s: not counted as %s: %v", test.name, test.reason, p.Stats().Refused)
			}
			// Those who come all at once are counted when they are known.
			one.Close()
			open[0].CloseWithError(0, "")
			open[1].CloseWithError(0, "")
			eventually(t, "no connection", func() bool { return p.Stats().ActiveConnections == 0 })
			open = nil
			var mu sync.Mutex
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					c, err := quicOpen(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool})
					if err != nil {
						return
					}
					if status, _, _ := ask3(t, c, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"); status == "200" {
						mu.Lock()
						open = append(open, c)
						mu.Unlock()
					}
				})
			}
			waitAll(t, &all)
			if len(open) != 3 {
				t.Fatalf("%s: %d of 20 at once got in, want 3", test.name, len(open))
			}
			open[2].CloseWithError(0, "")
			// A place that is given back can be taken.
			open[0].CloseWithError(0, "")
			eventually(t, "1 connection", func() bool { return p.Stats().ActiveConnections == 1 })
			if status, _, err := exchange3(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool},
				":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"); status != "200" {
				t.Errorf("%s: after one has left: %s, %v", test.name, status, err)
			}
			open[1].CloseWithError(0, "")
			eventually(t, "no connection", func() bool { return p.Stats().ActiveConnections == 0 })
			r := p.current()
			r.mu.Lock()
			if len(r.perIP) > 0 {
				t.Errorf("%s: addresses are still counted: %v", test.name, r.perIP)
			}
			r.mu.Unlock()
		}
	}
}

// datagrams relays between one client and a server, and shows what passes.
type datagrams struct {
	t      testing.TB
	server *net.UDPAddr
	front  *net.UDPConn
	mu     sync.Mutex
	back   *net.UDPConn
	client *net.UDPAddr
	sent   [][]byte // by the client
	got    [][]byte // by the client
}

func relayDatagrams(t testing.TB, addr string) *datagrams {
	server, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	d := &datagrams{t: t, server: server}
	if d.front, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	d.moveTo("127.0.0.1")
	t.Cleanup(func() {
		d.front.Close()
		d.mu.Lock()
		d.back.Close()
		d.mu.Unlock()
	})
	go func() {
		for {
			b := make([]byte, 2048)
			n, from, err := d.front.ReadFromUDP(b)
			if err != nil {
				return
			}
			d.mu.Lock()
			d.client = from
			d.sent = append(d.sent, b[:n])
			d.back.WriteToUDP(b[:n], d.server)
			d.mu.Unlock()
		}
	}()
	return d
}

// moveTo makes the server see the client at another address.
func (d *datagrams) moveTo(ip string) {
	back, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		testenv.Lacks(d.t, "no such address here: %v", err)
	}
	d.mu.Lock()
	if d.back != nil {
		d.back.Close()
	}
	d.back = back
	d.mu.Unlock()
	go func() {
		for {
			b := make([]byte, 2048)
			n, err := back.Read(b)
			if err != nil {
				return
			}
			d.mu.Lock()
			d.got = append(d.got, b[:n])
			d.front.WriteToUDP(b[:n], d.client)
			d.mu.Unlock()
		}
	}()
}

// packetType is that of the first packet of a datagram with a long header of
// QUIC version 1 (RFC 9000 section 17.2), or -1.
func packetType(b []byte) int {
	if len(b) == 0 || b[0]&0x80 == 0 {
		return -1
	}
	return int(b[0] >> 4 & 3)
}

const packetRetry = 3

// Whoever may not be where he says he is gets three times what he has sent at
// most; and when there are many of him, nobody is served who has not shown
// that he receives what is sent to him.
func TestHTTP3IsNoAmplifier(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	cfg := with3(tlsRoute("r", files, Action{Handler: says("ok")}, "a.test"))
	cfg.Timeouts.Route = 10 * time.Second // for half of which all handshakes are there at once
	p := start(t, cfg)
	at := addr(t, p, 0)
	visit := func() *datagrams {
		t.Helper()
		relay := relayDatagrams(t, at)
		if status, _, err := exchange3(t, relay.front.LocalAddr().String(), &tls.Config{ServerName: "a.test", RootCAs: pool},
			":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"); status != "200" {
			t.Fatalf("%s, %v", status, err)
		}
		return relay
	}
	relay := visit()
	relay.mu.Lock()
	if kind := packetType(relay.got[0]); kind == packetRetry {
		t.Error("a client had to show where it is, although there is nobody else")
	}
	relay.mu.Unlock()

	victim, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	var received atomic.Int64
	go func() {
		b := make([]byte, 2048)
		for {
			n, err := victim.Read(b)
			if err != nil {
				return
			}
			received.Add(int64(n))
		}
	}()
	sent := 0
	hello := firstFlight(t)
	victim.Write(hello)
	sent += len(hello)
	time.Sleep(1500 * time.Millisecond) // for what the server sends again on its own
	if n := received.Load(); n > int64(3*sent) || n == 0 {
		t.Errorf("%d bytes for %d", n, sent)
	}

	q := p.current().quicPorts()[0]
	var clients []*net.UDPConn
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	handshakes := func() int64 { return q.unproven.Load() }
	crowd := func() {
		t.Helper()
		var flights [][]byte
		for range 2 * maxUnproven {
			flights = append(flights, firstFlight(t))
		}
		eventually(t, "those of before have been given up", func() bool { return handshakes() == 0 })
		for i, flight := range flights {
			c, err := net.DialUDP("udp", nil, victim.RemoteAddr().(*net.UDPAddr))
			if err != nil {
				t.Fatal(err)
			}
			clients = append(clients, c)
			c.Write(flight)
			if i%16 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		eventually(t, "many handshakes", func() bool { return handshakes() == maxUnproven })
	}
	for try := 1; ; try++ {
		crowd()
		if n := p.Stats().ActiveConnections; n > 1 {
			t.Errorf("%d connections are on the books", n)
		}
		relay = visit() // others are still served
		// Nobody has come since, so if it is full it was so all the time. On a busy
		// machine the first of the crowd may have been given up meanwhile.
		full := handshakes() == maxUnproven
		relay.mu.Lock()
		kind := packetType(relay.got[0])
		relay.mu.Unlock()
		if kind == packetRetry {
			break
		}
		if full || try == 5 {
			t.Fatalf("the first answer under load is of type %d, want Retry (try %d)", kind, try)
		}
	}
	eventually(t, "the handshakes have been given up", func() bool { return handshakes() == 0 })
	if n := p.Stats().Refused["badTls"]; n < maxUnproven {
		t.Errorf("%d failed handshakes counted, want %d or more", n, maxUnproven)
	}
}

// firstFlight is the first datagram of a client of its own.
func firstFlight(t testing.TB) []byte {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		quic.DialAddr(ctx, pc.LocalAddr().String(), &tls.Config{ServerName: "a.test", InsecureSkipVerify: true, NextProtos: []string{"h3"}, CurvePreferences: []tls.CurveID{tls.X25519}}, nil)
	}()
	b := make([]byte, 2048)
	pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, _, err := pc.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	receive(t, done)
	return b[:n]
}

// Every phase before a request is known has an end.
func TestHTTP3Deadlines(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	cfg := with3(tlsRoute("r", files, Action{Handler: says("ok")}, "a.test"))
	cfg.Timeouts.Route, cfg.Timeouts.RequestHead, cfg.Timeouts.KeepAlive = time.Second, 300*time.Millisecond, 600*time.Millisecond
	p := start(t, cfg)
	at := addr(t, p, 0)
	request := headersFrame3(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/")
	for _, test := range []struct {
		name   string
		do     func(*quic.Conn)
		within time.Duration
	}{
		{"no stream", func(*quic.Conn) {}, 2 * time.Second},
		{"a stream with nothing", func(c *quic.Conn) {
			for range 100 {
				str, _ := c.OpenStream()
				str.Write(nil)
			}
		}, 2 * time.Second},
		{"streams with a part of a head", func(c *quic.Conn) {
			for range 100 {
				str, _ := c.OpenStream()
				str.Write(request[:len(request)-1])
			}
		}, 2 * time.Second},
		{"a head that comes byte by byte", func(c *quic.Conn) {
			str, _ := c.OpenStream()
			for i := range request {
				if _, err := str.Write(request[i : i+1]); err != nil {
					return
				}
				time.Sleep(30 * time.Millisecond)
			}
		}, 2 * time.Second},
		{"unknown frames without end", func(c *quic.Conn) {
			str, _ := c.OpenStream()
			for {
				if _, err := str.Write(frame3(0x21, make([]byte, 1000))); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}, 2 * time.Second},
		{"a GET that does not end", func(c *quic.Conn) {
			str, _ := c.OpenStream()
			str.Write(request)
		}, 3 * time.Second},
		{"a request, then nothing", func(c *quic.Conn) {
			if status, _, err := ask3(t, c, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"); status != "200" {
				t.Errorf("%s, %v", status, err)
			}
		}, 3 * time.Second},
		{"one-way streams", func(c *quic.Conn) {
			for range 8 {
				if str, err := c.OpenUniStream(); err == nil {
					str.Write([]byte{0x40})
				}
			}
		}, 2 * time.Second},
	} {
		c, err := quicOpen(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		test.do(c)
		if err := awaitClose(t, c, test.within); !closedWith(err, http3.ErrCodeNoError) {
			t.Errorf("%s: ended with %v", test.name, err)
		}
		t.Logf("%s: closed after %v", test.name, time.Since(begin).Round(10*time.Millisecond))
	}
	// Half a handshake.
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write(firstFlight(t))
	q := p.current().quicPorts()[0]
	eventually(t, "the handshake begins", func() bool { return q.unproven.Load() == 1 })
	begin := time.Now()
	eventually(t, "the handshake is given up", func() bool { return q.unproven.Load() == 0 })
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("given up after %v", d)
	}
	eventually(t, "nothing is left", func() bool { return p.Stats().ActiveConnections == 0 && !q.inUse() })
}
