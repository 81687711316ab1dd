package dnsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func startQUIC(t *testing.T, c Config) (*Server, func(...string) (*quic.Conn, error)) {
	t.Helper()
	cert, client, _ := certificate(t)
	c.DoQ = &EncryptedPort{Port: new(int)}
	s := start(t, c, cert)
	to := addr(t, s, "quic")
	return s, func(protocols ...string) (*quic.Conn, error) {
		conf := client.Clone()
		conf.NextProtos = protocols
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		qc, err := quic.DialAddr(ctx, to, conf, nil)
		if err == nil {
			t.Cleanup(func() { qc.CloseWithError(0, "") })
		}
		return qc, err
	}
}

// dialQUIC connects with settings of the client's.
func dialQUIC(t *testing.T, s *Server, client *tls.Config, c *quic.Config) *quic.Conn {
	t.Helper()
	client = client.Clone()
	client.NextProtos = []string{"doq"}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	qc, err := quic.DialAddr(ctx, addr(t, s, "quic"), client, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { qc.CloseWithError(0, "") })
	return qc
}

// askQUIC sends bytes over a stream of its own and returns what comes back.
func askQUIC(t *testing.T, qc *quic.Conn, b []byte) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	st, err := qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	st.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := st.Write(b); err != nil {
		return nil, err
	}
	st.Close()
	return io.ReadAll(st)
}

func TestQUIC(t *testing.T) {
	testenv.Goroutines(t)
	s, connect := startQUIC(t, Config{})
	qc, err := connect("doq")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				b, err := askQUIC(t, qc, framed(makeQuery(0, "a.example")))
				if err != nil || len(b) < 2+headLen || len(b)-2 != int(b[0])<<8|int(b[1]) || b[4]&0x80 == 0 {
					t.Errorf("got %x, %v", b, err)
					return
				}
			}
		})
	}
	wg.Wait()
	waitUntil(t, "all counted", func() bool {
		return s.counters.snapshot().QUIC == TransportStats{Queries: 400, Responses: 400, Connections: 1, OpenConnections: 1}
	})
	if _, err := connect("h3"); err == nil {
		t.Error("a client of another protocol was let in")
	}
	began := time.Now()
	stop(t, s)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Stop took %v", took)
	}
	var end *quic.ApplicationError
	if <-qc.Context().Done(); !errors.As(context.Cause(qc.Context()), &end) || end.ErrorCode != doqNoError {
		t.Errorf("the connection ended with %v", context.Cause(qc.Context()))
	}
}

// Clients that break the rules lose their connection, and nobody else theirs.
func TestQUICProtocolErrors(t *testing.T) {
	testenv.Goroutines(t)
	_, connect := startQUIC(t, Config{})
	good, err := connect("doq")
	if err != nil {
		t.Fatal(err)
	}
	query := makeQuery(0, "a.example")
	keepalive := append(append([]byte{}, query...), 0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0)
	keepalive[11] = 1
	for what, b := range map[string][]byte{
		"nothing":      {},
		"half prefix":  {0},
		"half query":   framed(query)[:20],
		"two queries":  framed(query, query),
		"an id":        framed(makeQuery(7, "a.example")),
		"no header":    {0, 3, 1, 2, 3},
		"keepalive":    framed(keepalive),
		"far too long": make([]byte, 70000),
	} {
		qc, err := connect("doq")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := askQUIC(t, qc, b); err == nil {
			t.Errorf("%s: got %x", what, b)
		}
		var end *quic.ApplicationError
		select {
		case <-qc.Context().Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the connection goes on", what)
		}
		if !errors.As(context.Cause(qc.Context()), &end) || end.ErrorCode != doqProtocolError {
			t.Errorf("%s: the connection ended with %v", what, context.Cause(qc.Context()))
		}
	}
	if _, err := good.OpenUniStream(); err == nil {
		t.Error("there are streams of one direction")
	}
	if _, err := askQUIC(t, good, framed(query)); err != nil {
		t.Errorf("another client: %v", err)
	}
}

func TestQUICTimesAndLimits(t *testing.T) {
	testenv.Goroutines(t)
	s, connect := startQUIC(t, Config{IdleTimeout: time.Second, MaxConnectionsPerClient: 2})
	a, err := connect("doq")
	if err != nil {
		t.Fatal(err)
	}
	b, err := connect("doq")
	if err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "two connections", func() bool { return s.counters.snapshot().QUIC.OpenConnections == 2 })
	c, err := connect("doq")
	if err == nil {
		var end *quic.ApplicationError
		select {
		case <-c.Context().Done():
		case <-time.After(10 * time.Second):
			t.Fatal("a third connection was let in")
		}
		if !errors.As(context.Cause(c.Context()), &end) || end.ErrorCode != doqExcessiveLoad {
			t.Errorf("the third ended with %v", context.Cause(c.Context()))
		}
	}
	// A stream on which no whole query comes, from a client that is there.
	st, err := a.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	st.Write([]byte{0})
	st.SetReadDeadline(time.Now().Add(15 * time.Second))
	began := time.Now()
	_, err = io.ReadAll(st)
	if took := time.Since(began); err == nil || isTimeout(err) && took > 14*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	for _, qc := range []*quic.Conn{a, b} {
		select {
		case <-qc.Context().Done():
		case <-time.After(15 * time.Second):
			t.Fatal("an idle connection goes on")
		}
	}
	waitUntil(t, "none open", func() bool {
		s.limits.mu.Lock()
		defer s.limits.mu.Unlock()
		return s.limits.open.Load() == 0 && len(s.limits.clients) == 0 && s.counters.snapshot().QUIC.OpenConnections == 0
	})
	waitUntil(t, "no handshakes", func() bool { return s.run.Load().quic.handshakes.open.Load() == 0 })
}

// One client alone takes neither all streams nor all handshakes.
func TestQUICShares(t *testing.T) {
	testenv.Goroutines(t)
	s, connect := startQUIC(t, Config{})
	q := s.run.Load().quic
	var conns []*quic.Conn
	for range maxClientStreams/maxStreams + 1 {
		qc, err := connect("doq")
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, qc)
		for range maxStreams {
			st, err := qc.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			st.Write([]byte{0})
		}
	}
	looks := 0
	waitUntil(t, "the streams", func() bool {
		if n := len(q.streams); n > maxClientStreams {
			t.Fatalf("one client has %d streams", n)
		} else if n == maxClientStreams {
			looks++
		}
		return looks > 20
	})
	for _, qc := range conns {
		qc.CloseWithError(0, "")
	}
	waitUntil(t, "no streams and shares", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.streams) == 0 && len(q.shares) == 0
	})

	waitUntil(t, "no handshakes", func() bool { return q.handshakes.open.Load() == 0 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begin := func(ip byte, proven bool) error {
		_, err := q.admit(ctx, &quic.ClientInfo{RemoteAddr: &net.UDPAddr{IP: net.IPv4(192, 0, 2, ip), Port: 53}, AddrVerified: proven})
		return err
	}
	for range maxClientHandshakes {
		if err := begin(1, true); err != nil {
			t.Fatal(err)
		}
	}
	if begin(1, true) == nil {
		t.Error("one client has all handshakes that it wants")
	}
	if err := begin(2, true); err != nil {
		t.Errorf("another client: %v", err)
	}
	if err := begin(1, false); err != nil { // that may be anybody
		t.Errorf("a client that may be elsewhere: %v", err)
	}
	cancel()
	waitUntil(t, "that they are over", func() bool { return q.handshakes.open.Load() == 0 })
	ctx = t.Context()
	if err := begin(1, true); err != nil {
		t.Errorf("later on: %v", err)
	}
}

// For a client that does not take its answers no more than a few are made, and
// one that does gets as many as it likes.
func TestQUICAnswersThatWait(t *testing.T) {
	testenv.Goroutines(t)
	var made atomic.Int32
	const size = 50000
	cert, client, _ := certificate(t)
	s := newServer(t, Config{DoQ: &EncryptedPort{Port: new(int)}}, cert)
	s.responding = func(_ *scratch, dst, query []byte, _ *asker) []byte {
		made.Add(1)
		return append(append(append(dst, query[:2]...), 0x80), make([]byte, size-3)...)
	}
	mustStart(t, s)
	query := framed(makeQuery(0, "a.example"))
	good := dialQUIC(t, s, client, nil)
	var streams sync.WaitGroup
	for range maxStreams {
		streams.Go(func() {
			if b, err := askQUIC(t, good, query); err != nil || len(b) != 2+size {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	testenv.Await(t, "answers for a client that takes them", streams.Wait)

	made.Store(0)
	bad := dialQUIC(t, s, client, &quic.Config{InitialStreamReceiveWindow: 1, MaxStreamReceiveWindow: 1, InitialConnectionReceiveWindow: 1, MaxConnectionReceiveWindow: 1})
	for range maxStreams {
		st, err := bad.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		st.Write(query)
		st.Close()
	}
	looks := 0
	waitUntil(t, "that the server waits", func() bool {
		if n := made.Load(); n > maxAnswers {
			t.Fatalf("%d answers wait", n)
		} else if n == maxAnswers && s.counters.snapshot().QUIC.Queries == 2*maxStreams {
			looks++
		}
		return looks > 20
	})
}

// Connections over QUIC make room for others like all, while they wait for their
// clients.
func TestQUICConnectionsMakeRoom(t *testing.T) {
	testenv.Goroutines(t)
	cert, client, _ := certificate(t)
	s := newServer(t, Config{MaxConnections: 2, DoQ: &EncryptedPort{Port: new(int)}}, cert)
	working, release := make(chan struct{}, 1), make(chan struct{})
	s.exchanging = func(ctx context.Context, sc *scratch, query []byte, from *asker, send func([]byte) error) error {
		working <- struct{}{}
		select {
		case <-release:
			return send(s.respond(sc, nil, query, from))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	mustStart(t, s)
	open := func(b []byte) (*quic.Conn, *quic.Stream) {
		qc := dialQUIC(t, s, client, nil)
		st, err := qc.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st.Write(b)
		return qc, st
	}
	_, busy := open(framed(makeQuery(0, "slow.example", 252)))
	busy.Close()
	testenv.Receive(t, working)
	held, _ := open([]byte{0})
	waitUntil(t, "all places taken", func() bool { return s.limits.open.Load() == 2 })
	began := time.Now()
	for range 4 {
		c := dial(t, "tcp", addr(t, s, "tcp"))
		ask(t, c, makeQuery(1, "a.example"))
		c.Close()
	}
	if took := time.Since(began); took > messageTime/2 {
		t.Errorf("answers took %v", took)
	}
	var end *quic.ApplicationError
	testenv.Await(t, "the end of the one that made room", func() { <-held.Context().Done() })
	if !errors.As(context.Cause(held.Context()), &end) || end.ErrorCode != doqExcessiveLoad {
		t.Errorf("it ended with %v", context.Cause(held.Context()))
	}
	close(release)
	busy.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(busy); len(b) < 2+headLen || err != nil {
		t.Errorf("one that was busy: %x, %v", b, err)
	}
}

// What is no QUIC is met with silence, or with what it says of itself.
func TestGarbageOverQUIC(t *testing.T) {
	testenv.Goroutines(t)
	s, connect := startQUIC(t, Config{})
	c := dial(t, "udp", addr(t, s, "quic"))
	for size := range 200 {
		b := make([]byte, size*7)
		for i := range b {
			b[i] = byte(i*size + size)
		}
		c.Write(b)
	}
	qc, err := connect("doq")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := askQUIC(t, qc, framed(makeQuery(0, "a.example"))); err != nil {
		t.Error(err)
	}
}

func FuzzStreamQuery(f *testing.F) {
	f.Add(framed(makeQuery(0, "a.example")))
	f.Add([]byte{0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add(framed(append(makeQuery(0, "a"), 0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		query, err := streamQuery(b)
		if err == nil && (len(query) < headLen || len(query) != len(b)-2) {
			t.Errorf("%x gave %x", b, query)
		}
		if err == nil {
			mayBeSlow(query)
			freshness(query)
		}
	})
}
