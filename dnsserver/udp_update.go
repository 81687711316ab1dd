package dnsserver

import (
	"net"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// maxUpdatesUDP is how many dynamic updates over UDP are under way at a time.
const maxUpdatesUDP = 64

func isUpdate(query []byte) bool {
	return len(query) >= headLen && query[2]&0xf8 == dns.OpcodeUpdate<<3
}

// later answers a dynamic update in a goroutine of its own: it may have to wait
// for the storage and for other changes of the zone, which the queries that
// come over the same socket must not. control is what tells the socket where
// the answer is to come from, or nil. Too many are dropped, as by a full
// socket: who sends them tries again.
func (w *udpWorker) later(c *net.UDPConn, query, control []byte, from netip.AddrPort) {
	r := w.run
	select {
	case r.updates <- struct{}{}:
	default:
		w.stats.dropped.Add(1)
		return
	}
	query, control = slices.Clone(query), slices.Clone(control)
	r.working.Go(func() {
		defer func() { <-r.updates }()
		defer func() {
			if v := recover(); v != nil {
				r.panicked(from, v)
			}
		}()
		sc := r.s.scratches.Get().(*scratch) // not to be given back after a panic
		one := &udpWorker{run: r, pc: w.pc, sc: sc, stats: w.stats}
		resp := one.answer(nil, query, from)
		r.s.scratches.Put(sc)
		if len(resp) > 0 {
			if _, _, err := c.WriteMsgUDPAddrPort(resp, control, from); err == nil {
				w.stats.responses.Add(1)
				return
			}
		}
		w.stats.dropped.Add(1)
	})
}
