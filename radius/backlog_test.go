package radius

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	layeh "layeh.com/radius"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// startTurns starts a Server with one place for logins. Its Authorizer says whom it is
// asked about, and lets them in as long as proceed has elements or is closed.
func startTurns(t *testing.T) (s *Server, client *tls.Config, asked chan string, proceed chan struct{}) {
	t.Helper()
	cfg, client, _, _ := radSecConfig(t)
	cfg.MACAuth = nil
	cfg.Limits.MaxConcurrent = 1
	asked, proceed = make(chan string, 100), make(chan struct{})
	s = startServer(t, cfg, WithAuthorizer(func(ctx context.Context, r *Request) (Decision, error) {
		asked <- r.UserName
		select {
		case <-proceed:
		case <-ctx.Done():
		}
		return Decision{Accept: true}, nil
	}))
	return s, client, asked, proceed
}

// radSecLogins sends n logins of a user.
func radSecLogins(t *testing.T, conn *tls.Conn, user string, n int) (last datagram) {
	t.Helper()
	for range n {
		last = request{user: user, secret: radSecSecret, sign: true}.encode(t)
		if _, err := conn.Write(last); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

func waitForLogins(t *testing.T, s *Server, want int64) {
	t.Helper()
	testenv.WaitFor(t, testPatience, func() error {
		if n := s.latest().loggingIn.Load(); n != want {
			return fmt.Errorf("%d logins wait, want %d", n, want)
		}
		return nil
	})
}

// Connections take turns, however many logins each has.
func TestRadSecConnectionsTakeTurns(t *testing.T) {
	s, client, asked, proceed := startTurns(t)
	radSecLogins(t, dialRadSec(t, s, client), "busy", 30)
	waitForLogins(t, s, 30)
	conn := dialRadSec(t, s, client)
	d := radSecLogins(t, conn, "alice", 1)
	waitForLogins(t, s, 31)
	before := 0
	for testenv.Receive(t, asked) != "alice" {
		before++
		proceed <- struct{}{}
	}
	if before > 10 {
		t.Errorf("%d logins of another connection came first", before)
	}
	close(proceed)
	checkReply(t, readPacket(t, conn), d, radSecSecret)
}

// What waits ends with its connection, for nobody waits for the answer.
func TestRadSecConnectionGone(t *testing.T) {
	s, client, asked, proceed := startTurns(t)
	conn := dialRadSec(t, s, client)
	radSecLogins(t, conn, "gone", 30)
	waitForLogins(t, s, 30)
	conn.Close()
	waitForLogins(t, s, 1)
	close(proceed)
	waitForLogins(t, s, 0)
	if n := len(asked); n != 1 {
		t.Errorf("the Authorizer was asked %d times", n)
	}
}

// Records that are long have no more memory, and logins go past them.
func TestRadSecLongRecords(t *testing.T) {
	s := startOthers(t)
	conn := dialRadSec(t, s.Server, s.client)
	q := start("stuck")(0)
	q.secret = radSecSecret
	for range 14 {
		q.attrs = append(q.attrs, avp(18, strings.Repeat("x", 250)))
	}
	d := q.encode(t)
	const sent = 50
	for range sent {
		conn.Write(d)
	}
	login := radSecLogins(t, conn, "alice", 1)
	checkReply(t, readPacket(t, conn), login, radSecSecret)
	want := uint64(sent - maxPendingOctets/len(d))
	if n := s.Stats().Dropped[overloaded.String()]; n != want {
		t.Errorf("%d of %d records were dropped, want %d", n, sent, want)
	}
}

func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog()
		n := 0
		for b.enter(t.Context(), maxPacket, false) {
			n++
		}
		if n != maxPendingOctets/maxPacket {
			t.Errorf("it has room for %d of the longest packets", n)
		}
		entered := false
		go func() { entered = b.enter(t.Context(), 100, true) }()
		synctest.Wait()
		if entered {
			t.Error("there is room for more octets")
		}
		b.leave(maxPacket)
		synctest.Wait()
		if !entered {
			t.Error("there is no room where one has left")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if b.enter(ctx, maxPacket, true) {
			t.Error("there is room again")
		}
	})
}

// An answer gives the client its identifier again: the request is not under way any
// more when it goes out.
func TestRadSecIdentifierReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := &radSecConn{raw: ours, tls: tls.Server(ours, &tls.Config{}), records: newBacklog()}
		in := &arrival{d: make(datagram, headerLength), conn: c, backlog: c.records}
		in.d[0] = byte(layeh.CodeAccountingRequest)
		c.records.enter(t.Context(), len(in.d), false)
		go c.send(make(datagram, headerLength), in)
		synctest.Wait() // it waits for the handshake in order to write
		if c.records.count != 0 || c.records.octets != 0 {
			t.Errorf("%d requests of %d octets are under way", c.records.count, c.records.octets)
		}
		ours.Close()
	})
}
