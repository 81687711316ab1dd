package warmup

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func newClock() *testenv.Clock { return testenv.NewClock(time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)) }

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

func open(t *testing.T, cfg Config) *Pools {
	t.Helper()
	p, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(context.Background()) })
	return p
}

func memory(t *testing.T) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// onePool is a pool of addresses that warm up, and warm ones that begin with "w".
func onePool(overflow string, addresses ...string) Settings {
	pool := Pool{Name: "main", Overflow: overflow}
	for _, a := range addresses {
		warm := a[0] == 'w'
		if warm {
			a = a[1:]
		}
		pool.Addresses = append(pool.Addresses, Address{Address: a, Warm: warm})
	}
	return Settings{Pools: []Pool{pool}}
}

// send takes as much as there is of n recipients, and
// reports it delivered. It returns how many went from each address.
func send(p *Pools, provider string, n int) map[string]int {
	sent := map[string]int{}
	for n > 0 {
		g, ok := p.Take(Request{Sender: "a@example.com", Provider: provider, Recipients: n})
		if !ok {
			break
		}
		p.Report(g.Source, provider, Delivered, g.N)
		sent[g.Source.String()] += g.N
		n -= g.N
	}
	return sent
}

func total(sent map[string]int) (n int) {
	for _, one := range sent {
		n += one
	}
	return n
}

func lane1(t *testing.T, p *Pools, ip, provider string) LaneStats {
	t.Helper()
	return addressOf(t, p, ip).Providers[provider]
}

func addressOf(t *testing.T, p *Pools, ip string) AddressStats {
	t.Helper()
	for _, a := range p.Stats().Addresses {
		if a.Address == ip {
			return a
		}
	}
	t.Fatalf("there is no %q", ip)
	return AddressStats{}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
