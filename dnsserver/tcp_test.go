package dnsserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// countingConn counts what a server does with a connection.
type countingConn struct {
	net.Conn
	reads, writes atomic.Int32
}

func (c *countingConn) Read(b []byte) (int, error)  { c.reads.Add(1); return c.Conn.Read(b) }
func (c *countingConn) Write(b []byte) (int, error) { c.writes.Add(1); return c.Conn.Write(b) }

// serveOne has s serve one end of a TCP connection, and returns both.
func serveOne(t *testing.T, s *Server) (client *net.TCPConn, server *countingConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client = dial(t, "tcp", ln.Addr().String()).(*net.TCPConn)
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server = &countingConn{Conn: nc}
	done := make(chan struct{})
	go func() { defer close(done); s.ServeConn(server) }()
	t.Cleanup(func() { client.Close(); <-done })
	return client, server
}

// Queries that come together are read together and answered together.
func TestPipelining(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{})
	client, server := serveOne(t, s)
	const n = 200
	var all [][]byte
	for id := range uint16(n) {
		all = append(all, makeQuery(id, "a.example"))
	}
	b := framed(all...)
	if _, err := client.Write(b); err != nil {
		t.Fatal(err)
	}
	for id := range n {
		msg, err := readFrame(client)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, msg, all[id])
	}
	// 27 bytes each: one small read, one or two larger ones, and as many writes.
	if r, w := server.reads.Load(), server.writes.Load(); r > 8 || w > 8 {
		t.Errorf("%d reads and %d writes for %d queries", r, w, n)
	}
	client.CloseWrite()
	if _, err := readFrame(client); err != io.EOF {
		t.Errorf("after the last answer: %v", err)
	}
}

// A message may come in any pieces, and be as long as messages can be.
func TestPieces(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{})
	client, _ := serveOne(t, s)
	long := append(makeQuery(1, "a.example"), make([]byte, maxMessage)...)[:maxMessage]
	b := framed(makeQuery(2, "b.example"), long, makeQuery(3, "c.example"))
	go func() {
		for at, size := 0, 1; at < len(b); at, size = at+size, size+1 {
			client.Write(b[at:min(at+size, len(b))])
		}
		client.CloseWrite()
	}()
	for _, q := range [][]byte{makeQuery(2, "b.example"), long, makeQuery(3, "c.example")} {
		msg, err := readFrame(client)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, msg, q)
	}
	if _, err := readFrame(client); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// Slow queries hold no others up, and what the client still waits for comes
// after it has said that it will send no more.
func TestSlowQueriesAndHalfClose(t *testing.T) {
	testenv.Goroutines(t)
	s := newServer(t, Config{IdleTimeout: 50 * time.Millisecond})
	release := make(chan struct{})
	s.exchanging = func(ctx context.Context, sc *scratch, query []byte, from *asker, send func([]byte) error) error {
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		for range 3 {
			if err := send(s.respond(sc, nil, query, from)); err != nil {
				return err
			}
		}
		return nil
	}
	mustStart(t, s)
	client, _ := serveOne(t, s)
	transfer := makeQuery(1, "slow.example", 252)
	client.Write(framed(transfer, makeQuery(2, "a.example")))
	msg, err := readFrame(client)
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, msg, makeQuery(2, "a.example"))
	client.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // longer than idle ones may stand
	if _, err := client.Read(make([]byte, 1)); !isTimeout(err) {
		t.Fatalf("while a transfer is under way: %v", err)
	}
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	client.CloseWrite()
	close(release)
	for range 3 {
		if msg, err = readFrame(client); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, msg, transfer)
	}
	if _, err := readFrame(client); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// No more than a few slow queries run for one connection, and they end with it.
func TestSlowQueriesAreBounded(t *testing.T) {
	testenv.Goroutines(t)
	s := newServer(t, Config{})
	var running, most atomic.Int32
	s.exchanging = func(ctx context.Context, _ *scratch, _ []byte, _ *asker, send func([]byte) error) error {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		<-ctx.Done()
		return ctx.Err()
	}
	mustStart(t, s)
	client, _ := serveOne(t, s)
	for range 20 {
		client.Write(framed(makeQuery(1, "slow.example", 252)))
	}
	waitUntil(t, "slow queries", func() bool { return running.Load() == maxSlow })
	client.SetLinger(0)
	client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err == nil {
		t.Log("all had ended already")
	}
	if running.Load() != 0 || most.Load() > maxSlow {
		t.Errorf("%d running, %d at most", running.Load(), most.Load())
	}
}

func TestTransferFailsHalfway(t *testing.T) {
	testenv.Goroutines(t)
	s := newServer(t, Config{})
	s.exchanging = func(_ context.Context, sc *scratch, query []byte, from *asker, send func([]byte) error) error {
		send(s.respond(sc, nil, query, from))
		return errors.New("on purpose")
	}
	mustStart(t, s)
	client, _ := serveOne(t, s)
	ask(t, client, makeQuery(1, "slow.example", 252))
	wantClosed(t, client, 5*time.Second)
}

func TestPanicCostsOneConnection(t *testing.T) {
	testenv.Goroutines(t)
	s := newServer(t, Config{})
	respond := s.responding
	s.responding = func(sc *scratch, dst, query []byte, from *asker) []byte {
		if query[1] == 99 {
			panic("on purpose")
		}
		return respond(sc, dst, query, from)
	}
	mustStart(t, s)
	bad := dial(t, "tcp", addr(t, s, "tcp"))
	bad.Write(framed(makeQuery(99, "a.example")))
	wantClosed(t, bad, 5*time.Second)
	udp := dial(t, "udp", addr(t, s, "udp"))
	for range 10 {
		udp.Write(makeQuery(99, "a.example"))
	}
	waitUntil(t, "an answer", func() bool {
		udp.Write(makeQuery(1, "a.example"))
		udp.SetReadDeadline(time.Now().Add(time.Second))
		_, err := udp.Read(make([]byte, 512))
		return err == nil
	})
	ask(t, dial(t, "tcp", addr(t, s, "tcp")), makeQuery(1, "a.example"))
}

// With a panic, what the connection has under way ends, too.
func TestPanicEndsSlowQueries(t *testing.T) {
	testenv.Goroutines(t)
	s := newServer(t, Config{})
	s.responding = func(*scratch, []byte, []byte, *asker) []byte { panic("on purpose") }
	begun, ended := make(chan struct{}, 1), make(chan struct{})
	s.exchanging = func(ctx context.Context, _ *scratch, _ []byte, _ *asker, _ func([]byte) error) error {
		begun <- struct{}{}
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}
	mustStart(t, s)
	c := dial(t, "tcp", addr(t, s, "tcp"))
	c.Write(framed(makeQuery(1, "slow.example", 252)))
	testenv.Receive(t, begun)
	c.Write(framed(makeQuery(2, "a.example")))
	wantClosed(t, c, 10*time.Second)
	select {
	case <-ended:
	default:
		t.Error("a query is under way on a connection that is closed")
	}
}

// What is answered arrives while a query behind it waits for its turn.
func TestAnswersBeforeSlowQueries(t *testing.T) {
	testenv.Goroutines(t)
	cert, client, _ := certificate(t)
	s := newServer(t, Config{DoT: &EncryptedPort{Port: new(int)}}, cert)
	s.exchanging = func(ctx context.Context, _ *scratch, _ []byte, _ *asker, _ func([]byte) error) error {
		<-ctx.Done()
		return ctx.Err()
	}
	mustStart(t, s)
	query := makeQuery(1, "a.example")
	for _, kind := range []string{"tcp", "tls"} {
		c := dial(t, "tcp", addr(t, s, kind))
		if kind == "tls" {
			c = tls.Client(c, client)
		}
		ask(t, c, query) // and the handshake
		all := [][]byte{query}
		for range maxSlow + 1 {
			all = append(all, makeQuery(2, "slow.example", 252))
		}
		c.Write(framed(all...))
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if msg, err := readFrame(c); err != nil {
			t.Errorf("%s: %v", kind, err)
		} else {
			wantAnswer(t, msg, query)
		}
		c.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Stop(ctx)
}

// What is no DNS ends the connection, or is met with silence, and what came
// before is answered.
func TestGarbageOverTCP(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{})
	for _, garbage := range [][]byte{
		{0, 0}, {0, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {},
	} {
		c := dial(t, "tcp", addr(t, s, "tcp"))
		c.Write(append(framed(makeQuery(1, "a.example")), garbage...))
		msg, err := readFrame(c)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, msg, makeQuery(1, "a.example"))
		if len(garbage) > 0 {
			wantClosed(t, c, 5*time.Second)
		}
	}
	c := dial(t, "tcp", addr(t, s, "tcp"))
	response := makeQuery(1, "a.example")
	response[2] |= 0x80
	c.Write(framed(response, bytes.Repeat([]byte{0xff}, 500)))
	ask(t, c, makeQuery(2, "a.example"))
}

// A connection may be idle for a time, and a message may take one.
func TestSlowClients(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{IdleTimeout: 300 * time.Millisecond})
	c := dial(t, "tcp", addr(t, s, "tcp"))
	began := time.Now()
	wantClosed(t, c, 5*time.Second)
	if took := time.Since(began); took < 200*time.Millisecond || took > 3*time.Second {
		t.Errorf("an idle connection stood for %v", took)
	}
	var wg sync.WaitGroup
	for _, begin := range [][]byte{{1}, framed(makeQuery(1, "a.example"))[:20]} {
		wg.Go(func() {
			c := dial(t, "tcp", addr(t, s, "tcp"))
			began := time.Now()
			c.Write(begin)
			// Whatever comes meanwhile: it is the message that has to come.
			drip := time.NewTicker(800 * time.Millisecond)
			defer drip.Stop()
			closed := make(chan struct{})
			wg.Go(func() { io.Copy(io.Discard, c); close(closed) })
			for open := true; open; {
				select {
				case <-drip.C:
					c.Write([]byte{0})
				case <-closed:
					open = false
				}
			}
			if took := time.Since(began); took < messageTime-500*time.Millisecond || took > messageTime+3*time.Second {
				t.Errorf("a message that does not come to its end was waited for %v", took)
			}
		})
	}
	wg.Wait()
}

// A client that reads no answers is not waited for, nor does it cost memory.
func TestClientThatDoesNotRead(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{})
	c := dial(t, "tcp", addr(t, s, "tcp")).(*net.TCPConn)
	c.SetReadBuffer(4096)
	c.SetDeadline(time.Now().Add(2 * time.Second))
	long := append(makeQuery(1, "a.example"), make([]byte, 60000)...)
	sent := 0
	for {
		n, err := c.Write(framed(long))
		sent += n
		if err != nil {
			break
		}
	}
	if sent > 64<<20 {
		t.Errorf("took %d bytes of queries without an answer read", sent)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s.Stop(ctx)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("Stop took %v", took)
	}
}

func TestConnectionLimits(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{MaxConnections: 8, MaxConnectionsPerClient: 3})
	from := func(ip string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		c, err := d.Dial("tcp", addr(t, s, "tcp"))
		if err == nil {
			t.Cleanup(func() { c.Close() })
			c.SetDeadline(time.Now().Add(10 * time.Second))
		}
		return c, err
	}
	testenv.Loopback(t, "127.0.0.2")
	var conns []net.Conn
	for range 3 {
		c, err := from("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c, makeQuery(1, "a.example"))
		conns = append(conns, c)
	}
	c, err := from("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	wantClosed(t, c, 5*time.Second)
	if n := s.counters.snapshot().TCP.Refused; n != 1 {
		t.Errorf("%d refused", n)
	}
	// Others fill the rest, and when all is full, idle ones make room.
	for _, ip := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"} {
		for range 3 {
			c, err := from(ip)
			if err != nil {
				t.Fatal(err)
			}
			ask(t, c, makeQuery(1, "a.example"))
			conns = append(conns, c)
		}
	}
	waitUntil(t, "no more than the limit", func() bool { return s.counters.snapshot().TCP.OpenConnections <= 8 })
	for _, c := range conns {
		c.Close()
	}
	waitUntil(t, "none open", func() bool { return s.counters.snapshot().TCP.OpenConnections == 0 })
	s.limits.mu.Lock()
	defer s.limits.mu.Unlock()
	if s.limits.open.Load() != 0 || len(s.limits.clients) != 0 {
		t.Errorf("the books have %d, %v", s.limits.open.Load(), s.limits.clients)
	}
}

// Connections held open in the middle of something shut nobody out.
func TestHeldConnectionsMakeRoom(t *testing.T) {
	testenv.Goroutines(t)
	cert, _, _ := certificate(t)
	s := start(t, Config{MaxConnections: 4, DoT: &EncryptedPort{Port: new(int)}}, cert)
	for kind, begin := range map[string][]byte{"tcp": {1}, "tls": {22, 3, 1}} {
		for range 8 {
			dial(t, "tcp", addr(t, s, kind)).Write(begin)
		}
		waitUntil(t, "all places taken", func() bool { return s.limits.open.Load() == 4 })
		began := time.Now()
		for range 4 {
			c := dial(t, "tcp", addr(t, s, "tcp"))
			ask(t, c, makeQuery(1, "a.example"))
			c.Close()
		}
		if took := time.Since(began); took > messageTime/2 {
			t.Errorf("%s: an answer took %v", kind, took)
		}
	}
}

func TestPatience(t *testing.T) {
	l := newConnLimits(&Config{MaxConnections: 10})
	for open, want := range map[int]time.Duration{0: 20, 5: 20, 6: 5, 9: 5, 10: 1} {
		l.open.Store(int64(open))
		if got := l.patience(20); got != want {
			t.Errorf("with %d of 10: %d, want %d", open, got, want)
		}
	}
	for _, pair := range [][2]string{{"192.0.2.1", "192.0.2.1/32"}, {"2001:db8:1:2ff:3::4", "2001:db8:1:200::/56"}} {
		if got := connClient(netip.MustParseAddr(pair[0])); got.String() != pair[1] {
			t.Errorf("%s counts as %s", pair[0], got)
		}
	}
	if connClient(netip.Addr{}).IsValid() {
		t.Error("an unknown address counts for somebody")
	}
}

// Thousands of connections that say nothing cost little and shut nobody out.
func TestThousandsOfConnections(t *testing.T) {
	testenv.Goroutines(t)
	const n = 2000
	s := start(t, Config{MaxConnections: n / 2, MaxConnectionsPerClient: n})
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range n / 10 {
				c, err := net.Dial("tcp", addr(t, s, "tcp"))
				if err != nil {
					continue // out of file descriptors
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	if len(conns) < n/2 {
		testenv.Lacks(t, "only %d connections are to be had", len(conns))
	}
	for range 20 {
		c := dial(t, "tcp", addr(t, s, "tcp"))
		ask(t, c, makeQuery(1, "a.example"))
		c.Close()
	}
}

// Framing that is broken anywhere gives answers to what was whole, and nothing
// else.
func FuzzFraming(f *testing.F) {
	f.Add(framed(makeQuery(1, "a.example"), makeQuery(2, "b.example")), uint8(3))
	f.Add([]byte{0}, uint8(1))
	f.Add([]byte{0, 0, 0, 12}, uint8(1))
	f.Add([]byte{0xff, 0xff, 1, 2}, uint8(2))
	f.Add(framed(makeQuery(1, "slow.example", 252)), uint8(9))
	s, err := New(Config{Listen: new(bool)})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Stop(context.Background()) })
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		want := 0
		for rest := data; len(rest) >= 2; {
			size := int(binary.BigEndian.Uint16(rest))
			if size < headLen || len(rest) < 2+size {
				break
			}
			if rest[4]&0x80 == 0 {
				want++
			}
			rest = rest[2+size:]
		}
		c := &scriptedConn{in: data, step: int(step) + 1}
		s.ServeConn(c)
		got := 0
		for b := c.out.Bytes(); len(b) > 0; got++ {
			size := int(binary.BigEndian.Uint16(b))
			if size < headLen || len(b) < 2+size || b[4]&0x80 == 0 {
				t.Fatalf("broken answer %x", b)
			}
			b = b[2+size:]
		}
		if got != want {
			t.Errorf("%d answers to %d queries", got, want)
		}
	})
}

// scriptedConn gives out what it has in steps, and keeps what it gets.
type scriptedConn struct {
	net.Conn
	in   []byte
	step int
	mu   sync.Mutex
	out  bytes.Buffer
}

func (c *scriptedConn) Read(b []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.in[:min(c.step, len(c.in))])
	c.in = c.in[n:]
	return n, nil
}

func (c *scriptedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (*scriptedConn) Close() error                     { return nil }
func (*scriptedConn) RemoteAddr() net.Addr             { return nil }
func (*scriptedConn) SetDeadline(time.Time) error      { return nil }
func (*scriptedConn) SetReadDeadline(time.Time) error  { return nil }
func (*scriptedConn) SetWriteDeadline(time.Time) error { return nil }
