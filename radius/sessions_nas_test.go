package radius

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// keep puts a session into the table.
func keep(s *Server, session *Session) {
	k := keyOfSession(session)
	shard := s.sessions.shard(k)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	s.sessions.put(shard, k, string(appendSession(nil, session)))
}

// After a power failure all switches of a site restart at once, and again and
// again until they are answered: what that costs must not grow with the sessions of
// others.
func TestAccountingOnOfManyNASes(t *testing.T) {
	s, err := New(Config{Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	const nases, each = 1000, 20
	now := time.Now()
	for i := range nases * each {
		keep(s, &Session{ID: fmt.Sprint(i), Source: loopbackAddr(), NASIdentifier: fmt.Sprint("switch-", i%nases), Updated: now, Start: now})
	}
	began := time.Now()
	for i := range nases {
		c := &closing{nas{source: loopbackAddr(), identifier: fmt.Sprint("switch-", i)}, now.Add(time.Second), causeNASReboot}
		if n := len(s.sessions.wouldClose(c)); n != each {
			t.Fatalf("switch %d would close %d sessions, want %d", i, n, each)
		}
		if err := j.commit([]*change{{closing: c}}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); s.Stats().Sessions != 0 || took > 4*time.Second {
		t.Errorf("%d sessions are open after %v", s.Stats().Sessions, took)
	}
}

// The index of sessions by NAS is what a look at all of them finds.
func TestSessionsByNAS(t *testing.T) {
	s, err := New(Config{Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	table := s.sessions
	rng := rand.New(rand.NewPCG(5, 6))
	addrs := []netip.Addr{{}, loopbackAddr(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	identifiers := []string{"", "a", "b"}
	for range 2000 {
		session := &Session{ID: fmt.Sprint(rng.IntN(50)), Source: addrs[1+rng.IntN(3)], NASIdentifier: identifiers[rng.IntN(3)], NASAddress: addrs[rng.IntN(4)], Updated: time.Now()}
		if rng.IntN(3) == 0 {
			session.Stopped = time.Now()
		}
		if rng.IntN(4) > 0 {
			keep(s, session)
			continue
		}
		k := keyOfSession(session)
		shard := table.shard(k)
		shard.mu.Lock()
		table.remove(shard, k)
		shard.mu.Unlock()
	}
	open := 0
	for _, source := range addrs[1:] {
		for _, identifier := range identifiers {
			for _, addr := range addrs {
				n := &nas{source, identifier, addr}
				want := map[sessionKey]bool{}
				for i := range table.shards {
					for k, encoded := range table.shards[i].entries {
						if h := decodeHead(encoded); h.stopped.IsZero() && n.has(h.nasHead) {
							want[k] = true
						}
					}
				}
				got := table.byNAS.of(n)
				for _, k := range got {
					if !want[k] {
						t.Errorf("%v: a session is not its own, or closed", n)
					}
				}
				if len(got) != len(want) {
					t.Errorf("%v: %d sessions, want %d", n, len(got), len(want))
				}
				if identifier == "" && !addr.IsValid() {
					open += len(got)
				}
			}
		}
	}
	if open == 0 || open != table.open() {
		t.Errorf("%d are open, counted %d", open, table.open())
	}
	table.clear()
	if n := len(table.byNAS.bySource); n != 0 {
		t.Errorf("%d sources are left", n)
	}
}
