package dnsserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// writesConn keeps what each write of a connection wrote.
type writesConn struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
}

func (c *writesConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.writes = append(c.writes, bytes.Clone(b))
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *writesConn) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.writes)
}

// joinedConn writes what a client of TLS says all at once.
type joinedConn struct {
	net.Conn
	joined []byte
	hold   bool
}

func (c *joinedConn) Write(b []byte) (int, error) {
	if !c.hold {
		return c.Conn.Write(b)
	}
	c.joined = append(c.joined, b...)
	return len(b), nil
}

// Queries that come together, each in a record of its own, are answered with one
// write, and a late one at once.
func TestTLSAnswersTogether(t *testing.T) {
	testenv.Goroutines(t)
	option, trust, _ := certificate(t)
	s := start(t, Config{DoT: &EncryptedPort{Port: new(int)}}, option)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan *writesConn, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		w := &writesConn{Conn: nc}
		served <- w
		s.ServeConn(tls.Server(&gatherConn{Conn: w, s: s}, s.opts.tlsFor("dot")))
	}()
	client := &joinedConn{Conn: dial(t, "tcp", ln.Addr().String())}
	c := tls.Client(client, trust)
	defer c.Close()
	query := makeQuery(1, "a.example")
	wantAnswer(t, ask(t, c, query), query) // and the handshake
	w := <-served
	before := w.count()

	const queries = 50
	client.hold = true
	for range queries {
		if _, err := c.Write(framed(query)); err != nil {
			t.Fatal(err)
		}
	}
	client.hold = false
	if _, err := client.Write(client.joined); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for range queries {
		msg, err := readFrame(c)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, msg, query)
	}
	if n := w.count() - before; n > queries/5 {
		t.Errorf("%d writes for %d answers", n, queries)
	}
	wantAnswer(t, ask(t, c, query), query)
}

// The last words of TLS arrive: why there is no handshake, and goodbye.
func TestTLSAlertsArrive(t *testing.T) {
	testenv.Goroutines(t)
	option, trust, _ := certificate(t)
	s := start(t, Config{DoT: &EncryptedPort{Port: new(int)}}, option)
	other := trust.Clone()
	other.NextProtos = []string{"h2"}
	c := tls.Client(dial(t, "tcp", addr(t, s, "tls")), other)
	if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("a handshake for HTTP: %v", err)
	}
	c.Close()

	c = tls.Client(dial(t, "tcp", addr(t, s, "tls")), trust)
	defer c.Close()
	query := makeQuery(1, "a.example")
	// One that is answered, and one that breaks the rules, upon which it ends.
	if _, err := c.Write(append(framed(query), 0, 1, 0)); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	msg, err := readFrame(c)
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, msg, query)
	wantClosed(t, c, 5*time.Second)
}

// stuckConn tells when something is written to it that is not read at once.
type stuckConn struct {
	net.Conn
	writing chan struct{} // has room for all
}

func (c *stuckConn) Write(b []byte) (int, error) {
	c.writing <- struct{}{}
	return c.Conn.Write(b)
}

// Who does not take the last words of a connection keeps its place, until another
// client needs it or Stop ends.
func TestTLSLastWordsAreOnTheBooks(t *testing.T) {
	testenv.Goroutines(t)
	option, trust, _ := certificate(t)
	query := makeQuery(1, "a.example")
	for protocol, last := range map[string][]byte{
		"dot":      append(framed(query), 0, 0), // an answer, and the end
		"h2":       []byte(strings.Repeat("no preface at all", 2)),
		"http/1.1": []byte("nonsense\r\n\r\n"),
	} {
		s := newServer(t, Config{MaxConnections: 1}, option)
		mustStart(t, s)
		client, settings := trust.Clone(), s.opts.tlsFor(protocol).Clone()
		client.NextProtos = []string{protocol}
		settings.SessionTicketsDisabled = true // nothing follows the handshake by itself
		// hold leaves a connection that has to end in the middle of that.
		hold := func() (ended chan struct{}) {
			a, b := net.Pipe() // nothing is written that is not read
			t.Cleanup(func() { b.Close() })
			stuck := &stuckConn{a, make(chan struct{}, 1000)}
			ended = make(chan struct{})
			go func() {
				defer close(ended)
				s.ServeConn(tls.Server(&gatherConn{Conn: stuck, s: s}, settings))
			}()
			c := tls.Client(b, client)
			c.SetDeadline(time.Now().Add(10 * time.Second))
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			if protocol == "h2" { // the server begins
				if _, err := c.Read(make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
			}
			for len(stuck.writing) > 0 {
				<-stuck.writing
			}
			if _, err := c.Write(last); err != nil {
				t.Fatal(err)
			}
			testenv.Receive(t, stuck.writing)
			return ended
		}
		ended := hold()
		if n := s.limits.open.Load(); n != 1 {
			t.Errorf("%s: %d on the books", protocol, n)
		}
		began := time.Now()
		ask(t, dial(t, "tcp", addr(t, s, "tcp")), query)
		testenv.Await(t, protocol+": the end of the one that made room", func() { <-ended })
		if took := time.Since(began); took > writeTime/3 {
			t.Errorf("%s: it took %v to make room", protocol, took)
		}
		ended = hold()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began = time.Now()
		s.Stop(ctx)
		if took := time.Since(began); took > writeTime/3 {
			t.Errorf("%s: Stop took %v", protocol, took)
		}
		<-ended
	}
}

// Who reads hears that the client takes nothing, and not that it sends nothing.
func TestGatherDeadline(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := &gatherConn{Conn: a, s: startDoH(t)}
	c.until.Store(time.Now().Add(writeTime - time.Second).UnixNano()) // so that it is left alone
	a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != errNotTaken {
		t.Errorf("%v", err)
	}
	// What has been gathered has its time, whatever was set before.
	for _, deadline := range []time.Time{{}, time.Unix(1, 0), time.Now().Add(time.Hour)} {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go io.Copy(io.Discard, b)
		c := &gatherConn{Conn: a, s: c.s}
		c.SetWriteDeadline(deadline)
		c.Write([]byte("hello"))
		if err := c.flush(); err != nil {
			t.Errorf("%v: %v", deadline, err)
		}
		if left := time.Until(time.Unix(0, c.until.Load())); left < writeTime/2 || left > writeTime {
			t.Errorf("%v: %v are left", deadline, left)
		}
	}
}
