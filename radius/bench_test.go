package radius

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// policyOf has n addresses, and a tenth as many manufacturers with rules.
func policyOf(n int) Policy {
	p := Policy{MACAuth: &MACAuth{DefaultVLAN: 1}}
	for i := range n {
		p.MACAuth.AllowedMACs = append(p.MACAuth.AllowedMACs, (0xaa0000000000 + macAddress(i)*7).String())
	}
	for i := range n / 10 {
		p.VLANAssignment = append(p.VLANAssignment, VLANRule{Match: VLANMatch{MAC: fmt.Sprintf("%06x*", 0x100000+i)}, VLAN: 1 + i%4000})
	}
	return p
}

// BenchmarkDecide is the search among addresses and rules.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := compile(policyOf(n))
			for i := 0; b.Loop(); i++ {
				r.decide(0xaa0000000000 + macAddress(i%n)*7)
			}
		})
	}
}

// BenchmarkMAB is a request by PAP from packet to answer, without the socket.
func BenchmarkMAB(b *testing.B) {
	r := fuzzServer(b)
	d := mab("aabbccddeeff").encode(b)
	out := &nowhere{}
	in := &arrival{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		// Always another address, lest it be a repetition.
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
		*in = arrival{from: from, client: r.s.clients.list[0], secret: []byte(testSecret), service: authService, at: time.Now(), out: out}
		r.take(in, d)
	}
}

type nowhere struct{}

func (nowhere) send(datagram, *arrival) {}

// A search among 100,000 addresses and 10,000 rules takes about as long as
// among few: what it may cost more is the processor's caches.
func TestLookupIsFlat(t *testing.T) {
	if testing.Short() || testenv.Race {
		t.Skip("it is about time")
	}
	measure := func(n int) time.Duration {
		r := compile(policyOf(n))
		best := time.Hour
		for range 5 {
			start := time.Now()
			for i := range 100_000 {
				r.decide(0xaa0000000000 + macAddress(i%n)*7)
			}
			best = min(best, time.Since(start))
		}
		return best / 100_000
	}
	few, many := measure(10), measure(100_000)
	t.Logf("%v among 10, %v among 100,000", few, many)
	if many > 10*few+time.Microsecond {
		t.Errorf("%v among 10, %v among 100,000", few, many)
	}
}

// BenchmarkAccounting is records of many NASes at once until they are on the
// disk.
func BenchmarkAccounting(b *testing.B) {
	s := startServer(b, Config{}, WithStorage(openStore(b, storage.Dir(testenv.Folder(b)))))
	r := s.latest()
	var n atomic.Int64
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			d := acct(StatusInterim, fmt.Sprint(n.Add(1)%10_000)).encode(b)
			in := &arrival{d: d, from: netip.AddrPortFrom(loopbackAddr(), 1), client: s.clients.list[0], secret: []byte(testSecret), at: time.Now()}
			record, err := newRecord(in)
			if err == nil {
				err = r.account(context.Background(), in, record)
			}
			if err != nil {
				b.Error(err)
			}
		}
	})
}
