package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestTicketRing(t *testing.T) {
	t.Parallel()
	day := ticketKeyLife
	begin := time.Now()
	var ring ticketRing
	seen := make(map[[32]byte]bool)
	for _, test := range []struct {
		at   time.Duration // since begin
		made bool
		keys int
	}{
		{0, true, 1},
		{time.Minute, false, 1},
		{day - time.Second, false, 1},
		{day, true, 2},
		{2*day - time.Second, false, 2},
		{2*day + time.Hour, true, 3},
		{3*day + time.Hour, true, 3},
		{4*day + time.Hour, true, 3},
		{6*day + 2*time.Hour, true, 2},  // nobody looked for two days
		{60*day + 3*time.Hour, true, 1}, // nor for two months
	} {
		before := slices.Clone(ring.keys)
		if made := ring.rotate(begin.Add(test.at)); made != test.made || len(ring.keys) != test.keys {
			t.Errorf("after %v: a new key %v, %d keys, want %v and %d", test.at, made, len(ring.keys), test.made, test.keys)
		}
		if !test.made {
			continue
		}
		if seen[ring.keys[0]] || ring.keys[0] == [32]byte{} {
			t.Errorf("after %v: the new key is not new", test.at)
		}
		seen[ring.keys[0]] = true
		if old := ring.keys[1:]; !slices.Equal(old, before[:len(old)]) {
			t.Errorf("after %v: the old keys are not those there were", test.at)
		}
	}
}

// The run gives each policy a new key every day, and ends with its context.
func TestTicketKeysRotateByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := &tlsPolicy{http: new(tls.Config), stream: new(tls.Config), http3: new(tls.Config)}
		policy.rotateTickets(time.Now())
		r := new(run)
		r.ctx, r.cancel = context.WithCancel(t.Context())
		r.table.Store(&table{routes: []*route{{policy: policy}, {}, {policy: policy}}})
		r.working.Go(r.rotateTickets)
		keys := func() [][32]byte {
			synctest.Wait()
			policy.tickets.mu.Lock()
			defer policy.tickets.mu.Unlock()
			return policy.tickets.keys
		}
		for day := range 5 {
			now := keys()
			if want := min(day+1, ticketKeys); len(now) != want {
				t.Errorf("day %d: %d keys, want %d", day, len(now), want)
			}
			time.Sleep(ticketKeyLife - time.Hour)
			if keys()[0] != now[0] {
				t.Errorf("day %d: a new key within the day", day)
			}
			time.Sleep(time.Hour + time.Minute)
		}
		r.cancel()
		r.working.Wait()
	})
}

// A ticket is good under all configurations of its policy while its key is
// there, and under no other policy's, however the keys rotate.
func TestTicketsAcrossRotation(t *testing.T) {
	open, _ := tlsFiles(t, "open.test", "stream.test", "closed.test")
	clientCert, _, _ := testenv.SelfSigned(t, "client")
	closed := *open
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	stream := tlsRoute("stream", open, forwardTo(tlsEcho(t)), "stream.test")
	stream.Match.Protocol = "tcp"
	p := start(t, Config{Routes: []Route{
		tlsRoute("open", open, Action{Handler: says("open")}, "open.test"), stream,
		tlsRoute("closed", &closed, Action{Handler: says("closed")}, "closed.test"),
	}})
	// visit talks to a name and reports whether the session was resumed.
	visit := func(cache tls.ClientSessionCache, name string, version uint16) (bool, error) {
		protocols := []string{"http/1.1"}
		if name == "stream.test" {
			protocols = nil
		}
		c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: version, ClientSessionCache: cache, NextProtos: protocols})
		if err != nil {
			return false, err
		}
		defer c.Close()
		if name == "stream.test" {
			fmt.Fprint(c, "hello")
			_, err = c.Read(make([]byte, 5)) // a ticket of TLS 1.3 comes before it
		} else {
			_, _, err = tlsGet(t, c, name)
		}
		return c.ConnectionState().DidResume, err
	}
	policies := make(map[*tlsPolicy]bool)
	for _, rt := range p.current().table.Load().routes {
		policies[rt.policy] = true
	}
	if len(policies) != 2 {
		t.Fatalf("%d policies, want 2", len(policies))
	}
	now := time.Now()
	rotate := func() {
		now = now.Add(ticketKeyLife)
		for policy := range policies {
			policy.rotateTickets(now)
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, test := range []struct {
			from, to  string
			rotations int
			resumed   bool
		}{
			{"open.test", "open.test", 0, true},
			{"open.test", "open.test", 1, true},
			{"open.test", "open.test", ticketKeys - 1, true},
			{"open.test", "open.test", ticketKeys, false},
			{"open.test", "stream.test", 0, true},
			{"stream.test", "open.test", 1, true},
			{"stream.test", "stream.test", ticketKeys, false},
		} {
			cache := new(oneSession)
			if resumed, err := visit(cache, test.from, version); resumed || err != nil || cache.s == nil {
				t.Fatalf("%x, first visit to %s: resumed %v, %v, ticket %v", version, test.from, resumed, err, cache.s != nil)
			}
			for range test.rotations {
				rotate()
			}
			if resumed, err := visit(cache, test.to, version); resumed != test.resumed || err != nil {
				t.Errorf("%x, %s, %d rotations, %s: resumed %v, %v, want %v", version, test.from, test.rotations, test.to, resumed, err, test.resumed)
			}
			if resumed, err := visit(cache, "closed.test", version); resumed || err == nil {
				t.Errorf("%x, %s, then the name that asks for a certificate: resumed %v, %v", version, test.from, resumed, err)
			}
		}
	}
}
