package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, list := range p.idle {
		n += len(list)
	}
	if n != p.count {
		return -1
	}
	return n
}

// waitIdle waits until so many connections are kept.
func waitIdle(t testing.TB, c *Client, n int) {
	t.Helper()
	testenv.WaitFor(t, time.Minute, func() error {
		if got := c.pool.size(); got != n {
			return fmt.Errorf("%d connections are kept, not %d", got, n)
		}
		return nil
	})
}

func wantDelivered(t testing.TB, result Result, reused bool) {
	t.Helper()
	if outcome(result) != "b@y.test delivered end 250" || len(result.Attempts) != 1 || result.Attempts[0].Reused != reused {
		t.Errorf("%s by %s", outcome(result), timeline(result))
	}
}

func TestConnectionsAreKept(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, &server{on: takes, extensions: []string{"PIPELINING"}})
	c := client(t, Config{Dial: network(s), MaxMessages: 3})
	for n := range 7 {
		wantDelivered(t, c.Send(t.Context(), request(1, "b@y.test")), n%3 != 0)
	}
	if s.connections() != 3 || len(s.messages()) != 7 {
		t.Errorf("%d messages on %d connections", len(s.messages()), s.connections())
	}

	// What tells messages apart tells connections apart.
	c = client(t, Config{Dial: network(s, s)})
	requests := []*Request{request(1, "b@y.test"), request(1, "b@y.test"), request(1, "b@y.test"), request(1, "b@y.test"), request(2, "b@y.test"), request(1, "b@y.test")}
	requests[1].HELO = "other.test"
	requests[2].Source = netip.MustParseAddr("127.0.0.1")
	requests[3].Policy = &policy{requirement: Requirement{Mode: smtpc.NoTLS, Source: "config"}}
	requests[4].Destination.Hosts = requests[4].Destination.Hosts[1:]
	requests[5].Policy = &policy{requirement: Requirement{Mode: smtpc.Opportunistic, Source: "opportunistic", Key: "other"}}
	for _, reused := range []bool{false, true} {
		for _, r := range requests {
			wantDelivered(t, c.Send(t.Context(), r), reused)
		}
	}
	if n := c.pool.size(); n != len(requests) {
		t.Errorf("%d connections are kept", n)
	}

	c = client(t, Config{Dial: network(s), IdleTime: -1})
	for range 2 {
		wantDelivered(t, c.Send(t.Context(), request(1, "b@y.test")), false)
	}
	c = client(t, Config{Dial: network(s, s), MaxIdle: 1})
	wantDelivered(t, c.Send(t.Context(), requests[0]), false)
	wantDelivered(t, c.Send(t.Context(), requests[1]), false)
	wantDelivered(t, c.Send(t.Context(), requests[0]), true)
	if n := c.pool.size(); n != 1 {
		t.Errorf("%d connections are kept", n)
	}
}

// An idle connection is left with QUIT after its time, and at the end.
func TestIdleConnectionsEnd(t *testing.T) {
	testenv.Goroutines(t)
	for name, idle := range map[string]time.Duration{"time is over": 50 * time.Millisecond, "the client is closed": time.Hour} {
		t.Run(name, func(t *testing.T) {
			s := start(t, &server{on: takes})
			c := client(t, Config{IdleTime: idle, Dial: network(s)})
			wantDelivered(t, c.Send(t.Context(), request(1, "b@y.test")), false)
			if idle == time.Hour {
				if c.pool.size() != 1 {
					t.Error("no connection is kept")
				}
				c.Close()
				c.Close()
			}
			waitIdle(t, c, 0)
			testenv.WaitFor(t, time.Minute, func() error {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.quits != 1 {
					return fmt.Errorf("%d QUITs", s.quits)
				}
				return nil
			})
			if idle == time.Hour { // nothing is kept any more
				wantDelivered(t, c.Send(t.Context(), request(1, "b@y.test")), false)
				if c.pool.size() != 0 {
					t.Error("a connection is kept after Close")
				}
			}
		})
	}
}

// A kept connection that the host has closed, or where it speaks out of turn, is
// not used. One that dies while we begin to use it is replaced, and nobody notices;
// the message is not doubled.
func TestDeadConnectionsAreReplaced(t *testing.T) {
	testenv.Goroutines(t)
	second := func(phase smtpc.Phase, f func(p *peer) bool) func(*peer, smtpc.Phase) bool {
		return func(p *peer, now smtpc.Phase) bool {
			if now == phase && p.n == 1 && p.mail > 1 {
				return f(p)
			}
			return takes(p, now)
		}
	}
	end := func(f func(p *peer)) func(*peer, smtpc.Phase) bool {
		return func(p *peer, now smtpc.Phase) bool {
			if now == smtpc.PhaseEnd && p.n == 1 {
				p.take()
				p.say("250 2.0.0 ok")
				f(p)
			}
			return now != smtpc.PhaseEnd || p.n != 1 && takes(p, now)
		}
	}
	for name, on := range map[string]func(*peer, smtpc.Phase) bool{
		"closed at once":  end(func(p *peer) {}),
		"421 at once":     end(func(p *peer) { p.say("421 4.4.2 bye") }),
		"speaks":          end(func(p *peer) { p.say("250 again"); p.hear() }),
		"closed at MAIL":  second(smtpc.PhaseMail, func(p *peer) bool { return false }),
		"421 at MAIL":     second(smtpc.PhaseMail, func(p *peer) bool { p.say("421 4.4.2 idle for too long"); return false }),
		"garbage at MAIL": second(smtpc.PhaseMail, func(p *peer) bool { p.say("what"); return false }),
	} {
		for _, extension := range []string{"PIPELINING", "SIZE"} {
			t.Run(name+" "+extension, func(t *testing.T) {
				s := start(t, &server{on: on, extensions: []string{extension}})
				c := client(t, Config{Dial: network(s), IdleTime: time.Minute})
				wantDelivered(t, c.Send(t.Context(), request(1, "b@y.test")), false)
				if name == "speaks" { // it must have been heard
					waitIdle(t, c, 0)
				}
				wantDelivered(t, c.Send(t.Context(), request(1, "b@y.test")), false)
				if s.connections() != 2 || got(s) != "A: b@y.test; A: b@y.test" {
					t.Errorf("%d connections, taken %s", s.connections(), got(s))
				}
			})
		}
	}
	// It was left in the middle, and RSET is too much for the host.
	s := start(t, &server{on: func(p *peer, now smtpc.Phase) bool {
		if now == smtpc.PhaseRcpt && p.n == 1 {
			p.say("550 5.1.1 no such user")
		}
		return now != smtpc.PhaseOther && takes(p, now)
	}})
	c := client(t, Config{Dial: network(s)})
	if result := c.Send(t.Context(), request(1, "b@y.test")); outcome(result) != "b@y.test permanent rcpt 550" {
		t.Error(outcome(result))
	}
	wantDelivered(t, c.Send(t.Context(), request(1, "b@y.test")), false)
	// The host goes away for good.
	s = start(t, &server{on: takes})
	closed := make(chan struct{}, 1)
	dial := network(s)
	c = client(t, Config{IdleTime: time.Minute, Dial: func(ctx context.Context, source netip.Addr, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, source, network, address)
		return closing{conn, closed}, err
	}})
	wantDelivered(t, c.Send(t.Context(), request(1, "b@y.test")), false)
	c.cfg.Dial = network(nil)
	s.hangUp()
	waitIdle(t, c, 0)
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("our end was not closed")
	}
	if result := c.Send(t.Context(), request(1, "b@y.test")); outcome(result) != "b@y.test temporary connect 0; trouble" {
		t.Error(outcome(result))
	}
}

// closing tells when a connection is closed.
type closing struct {
	net.Conn
	closed chan struct{}
}

func (c closing) Close() error {
	select {
	case c.closed <- struct{}{}:
	default:
	}
	return c.Conn.Close()
}

func TestConcurrentSends(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, &server{on: takes, extensions: []string{"PIPELINING"}})
	c := client(t, Config{Dial: network(s), MaxMessages: 7})
	const senders, messages = 10, 30
	var group sync.WaitGroup
	for n := range senders {
		group.Go(func() {
			for i := range messages {
				to := fmt.Sprintf("%d.%d@y.test", n, i)
				if result := c.Send(t.Context(), request(1, to)); outcome(result) != to+" delivered end 250" {
					t.Error(outcome(result))
				}
			}
		})
	}
	group.Wait()
	seen := map[string]bool{}
	for _, to := range s.messages() {
		seen[to] = true
	}
	if len(seen) != senders*messages || len(s.messages()) != len(seen) {
		t.Errorf("%d of %d messages, %d in all", len(seen), senders*messages, len(s.messages()))
	}
	if s.connections() > senders*messages/3 {
		t.Errorf("%d connections", s.connections())
	}
}
