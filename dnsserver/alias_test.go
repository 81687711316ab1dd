package dnsserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// waitLookup waits until the server has these addresses, of which the TTL does
// not count.
func waitLookup(t testing.TB, s *testServer, name string, rtype uint16, want ...string) {
	t.Helper()
	testenv.WaitFor(t, 20*time.Second, func() error {
		var got []string
		for _, line := range lookup(t, s.responder, name, rtype) {
			words := strings.Fields(line)
			got = append(got, words[len(words)-1])
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("%s %s: %q, want %q", name, dns.Type(rtype), got, want)
		}
		return nil
	})
}

func TestAlias(t *testing.T) {
	testenv.Goroutines(t)
	var many []Record
	var manyAddrs []string
	for i := range 50 { // too many for a datagram
		many = append(many, Record{Name: "many.example.net", Type: "A", Value: fmt.Sprintf("192.0.2.%d", 100+i), TTL: 60})
		manyAddrs = append(manyAddrs, fmt.Sprintf("192.0.2.%d", 100+i))
	}
	upstream := testServerOf(t, nil, Config{Records: append(many,
		Record{Name: "lb.example.net", Type: "CNAME", Value: "real.example.net", TTL: 60},
		Record{Name: "real.example.net", Type: "A", Value: "192.0.2.1", TTL: 45},
		Record{Name: "real.example.net", Type: "AAAA", Value: "2001:db8::1", TTL: 45},
	)}, 0)
	store := memory(t)
	cfg := Config{
		Resolvers: []string{upstream.addr()},
		Records: []Record{
			{Name: "example.com", Type: "ALIAS", Value: "LB.example.net", TTL: 300},
			{Name: "many.example.com", Type: "ALIAS", Value: "many.example.net"},
			{Name: "inner.example.com", Type: "ALIAS", Value: "own.example.com"},
			{Name: "own.example.com", Type: "CNAME", Value: "host.example.com"},
			{Name: "host.example.com", Type: "A", Value: "192.0.2.7"},
			{Name: "none.example.com", Type: "ALIAS", Value: "none.example.net"},
		},
		Zones: []Zone{{Name: "example.com", DNSSEC: &DNSSEC{}, AllowTransfer: []string{"127.0.0.1"}}},
	}
	s := testServerOf(t, store, cfg, 0)
	s.transfers.aliases.retry = 100 * time.Millisecond
	waitLookup(t, s, "example.com.", dns.TypeA, "192.0.2.1")
	waitLookup(t, s, "example.com.", dns.TypeAAAA, "2001:db8::1")
	waitLookup(t, s, "many.example.com.", dns.TypeA, manyAddrs...)
	waitLookup(t, s, "inner.example.com.", dns.TypeA, "192.0.2.7")
	waitLookup(t, s, "none.example.com.", dns.TypeA)
	wantLookup(t, s.responder, "example.com.", dns.TypeA, "example.com. 45 in a 192.0.2.1")

	// Signed, and in transfers as addresses.
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	q.SetEdns0(4096, true)
	if m := ask2(t, s, q); len(m.Answer) != 2 || m.Answer[1].Header().Rrtype != dns.TypeRRSIG {
		t.Errorf("not signed: %v", m)
	}
	list, err := axfr(t, s.addr(), "example.com.", "", "")
	if err != nil || !slices.ContainsFunc(list, func(rr dns.RR) bool { return rr.Header().Name == "example.com." && rr.Header().Rrtype == dns.TypeAAAA }) {
		t.Errorf("transferred %v, %v", list, err)
	}

	// Changes there, and the loss of the resolver.
	due := func() {
		a := &s.transfers.aliases
		a.mu.Lock()
		for _, one := range a.list {
			one.due = time.Time{}
		}
		a.mu.Unlock()
		a.hurry()
	}
	tx := new(Tx)
	tx.Set(Record{Name: "real.example.net", Type: "A", Value: "192.0.2.2", TTL: 45})
	tx.Remove(Record{Name: "real.example.net", Type: "AAAA"})
	if err := upstream.zones.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	due()
	waitLookup(t, s, "example.com.", dns.TypeA, "192.0.2.2")
	waitLookup(t, s, "example.com.", dns.TypeAAAA)
	upstream.stop()
	due()
	testenv.WaitFor(t, 30*time.Second, func() error {
		a := &s.transfers.aliases
		a.mu.Lock()
		defer a.mu.Unlock()
		for id, one := range a.list {
			if id.key == "" && one.failed {
				return nil
			}
		}
		return fmt.Errorf("no lookup has failed")
	})
	waitLookup(t, s, "example.com.", dns.TypeA, "192.0.2.2")

	// A restart finds no addresses in what is kept; an ALIAS that goes takes its
	// own along.
	tx = new(Tx)
	tx.Remove(Record{Name: "inner.example.com", Type: "ALIAS"})
	if err := s.zones.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	waitLookup(t, s, "inner.example.com.", dns.TypeA, "NXDOMAIN")
	s.stop()
	s = testServerOf(t, store, cfg, 0)
	waitLookup(t, s, "inner.example.com.", dns.TypeA, "NXDOMAIN")
	waitLookup(t, s, "example.com.", dns.TypeA)
}

func ask2(t testing.TB, s *testServer, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: "tcp"}
	m, _, err := c.Exchange(q, s.addr())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func FuzzResolverAnswer(f *testing.F) {
	for _, rrs := range [][]dns.RR{
		zoneRecords("a.example. 1 IN A 192.0.2.1", "a.example. 2 IN A 192.0.2.2"),
		zoneRecords("a.example. 1 IN CNAME b.example.", "b.example. 1 IN CNAME a.example."),
	} {
		m := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
		m.Response, m.Answer = true, rrs
		wire, _ := m.Pack()
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		a, err := readAnswer(wire)
		if err != nil {
			return
		}
		list, _, ttl, err := a.addrs("\x01a\x07example\x00", dns.TypeA)
		if err == nil && (len(list) > maxAddrs || ttl < 0) {
			t.Errorf("%d addresses, %v", len(list), ttl)
		}
	})
}

// A lookup that the end of a run comes before takes no slot along.
func TestAliasSlots(t *testing.T) {
	s := newServer(t, Config{})
	a := &s.transfers.aliases
	a.list = map[aliasID]*alias{{key: "x"}: {}}
	s.transfers.followAliases(t.Context()) // nothing runs
	if n := len(a.slots); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

// A change of a zone between two runs is no affair of the second.
func TestAliasesOfEarlierRun(t *testing.T) {
	s := testServerOf(t, nil, Config{Zones: []Zone{{Name: "example.com"}}}, 0)
	s.stop()
	tx := new(Tx)
	tx.Add(Record{Name: "a.example.com", Type: "ALIAS", Value: "b.example.com"})
	if err := s.zones.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	mustStart(t, s.server)
	a := &s.transfers.aliases
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.list) != 0 {
		t.Errorf("%d aliases are followed", len(a.list))
	}
}

// asked is a resolver of the host's, which knows one name.
type asked struct{ name string }

func (a asked) LookupAddrs(_ context.Context, name string, rtype uint16) ([]netip.Addr, time.Duration, error) {
	if name != a.name || rtype != dns.TypeA {
		return nil, time.Minute, nil
	}
	return []netip.Addr{netip.MustParseAddr("192.0.2.77")}, time.Minute, nil
}

func TestWithResolver(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{Resolvers: []string{"127.0.0.1:1"}, Records: []Record{{Name: "example.com", Type: "ALIAS", Value: "lb.example.net"}}},
		WithResolver(asked{"lb.example.net."}))
	waitUntil(t, "the address of the alias", func() bool {
		return strings.Contains(strings.Join(lookup(t, &s.responder, "example.com.", dns.TypeA), " "), "192.0.2.77")
	})
}
