package dnsserver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// start starts a server on loopback that is stopped with the test.
func start(t testing.TB, c Config, opts ...Option) *Server {
	t.Helper()
	s := newServer(t, c, opts...)
	mustStart(t, s)
	return s
}

// newServer makes one on any free port of 127.0.0.1.
func newServer(t testing.TB, c Config, opts ...Option) *Server {
	t.Helper()
	if c.ListenHost == "" {
		c.ListenHost = "127.0.0.1"
	}
	if c.Port == nil {
		c.Port = new(int)
	}
	s, err := New(c, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustStart(t testing.TB, s *Server) {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s.Stop(ctx) // the test may have stopped it already, in its way
	})
}

func stop(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// addr is where a server listens for "udp", "tcp", "tls" or "quic".
func addr(t testing.TB, s *Server, kind string) string {
	t.Helper()
	for _, a := range s.Addrs() {
		if host, ok := strings.CutSuffix(a, "/"+kind); ok {
			return host
		}
	}
	t.Fatalf("no %s in %v", kind, s.Addrs())
	return ""
}

// makeQuery makes one of type A, or of another type.
func makeQuery(id uint16, name string, qtype ...uint16) []byte {
	q := []byte{byte(id >> 8), byte(id), 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	q = append(q, 0)
	if len(qtype) == 0 {
		qtype = []uint16{1}
	}
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(q, qtype[0]), 1)
}

// framed puts the length in front of messages.
func framed(msgs ...[]byte) (b []byte) {
	for _, m := range msgs {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

func readFrame(c io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, msg)
	return msg, err
}

// wantAnswer wants a response to a query.
func wantAnswer(t testing.TB, msg, query []byte) {
	t.Helper()
	if len(msg) < headLen || string(msg[:2]) != string(query[:2]) || msg[2]&0x80 == 0 {
		t.Fatalf("%x is no answer to %x", msg, query)
	}
}

func dial(t testing.TB, network, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// ask sends a query over a stream or as a datagram and wants an answer.
func ask(t testing.TB, c net.Conn, query []byte) []byte {
	t.Helper()
	var msg []byte
	var err error
	if _, datagrams := c.(*net.UDPConn); datagrams {
		buf := make([]byte, 65536)
		if _, err = c.Write(query); err == nil {
			var n int
			n, err = c.Read(buf)
			msg = buf[:n]
		}
	} else if _, err = c.Write(framed(query)); err == nil {
		msg, err = readFrame(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, msg, query)
	return msg
}

// wantClosed wants the other end to close within a time, without a word more.
func wantClosed(t testing.TB, c net.Conn, within time.Duration) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(within))
	n, err := c.Read(make([]byte, 1))
	if ne, ok := err.(net.Error); n > 0 || err == nil || ok && ne.Timeout() {
		t.Fatalf("not closed: %d bytes, %v", n, err)
	}
}

// certificate makes one for localhost, for the server and for its clients.
func certificate(t testing.TB) (Option, *tls.Config, string) {
	t.Helper()
	certPath, keyPath, pool := testenv.SelfSigned(t)
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	return WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}}), &tls.Config{RootCAs: pool, ServerName: "localhost"}, certPath
}

// waitUntil polls.
func waitUntil(t testing.TB, what string, ok func() bool) {
	t.Helper()
	testenv.WaitFor(t, 10*time.Second, func() error {
		if ok() {
			return nil
		}
		return errNotYet(what)
	})
}

// wantUDP wants counters, which are brought up to date after the answers.
func wantUDP(t testing.TB, s *Server, want TransportStats) {
	t.Helper()
	testenv.WaitFor(t, 10*time.Second, func() error {
		if got := s.counters.snapshot().UDP; got != want {
			return fmt.Errorf("got %+v, want %+v", got, want)
		}
		return nil
	})
}

type errNotYet string

func (e errNotYet) Error() string { return "not yet: " + string(e) }
