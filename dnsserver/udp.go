package dnsserver

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	// maxQuery is the longest query over UDP that is looked at. What is longer,
	// as large updates, has to come over TCP.
	maxQuery = 4096
	// maxDatagram is room for any response that UDP should carry (RFC 6891
	// section 6.2.5).
	maxDatagram = 4096
	// socketBuffer is what may wait while all processors are busy. The system
	// may grant less (net.core.rmem_max).
	socketBuffer = 1 << 20
)

// udpWorker answers the queries of one socket, or of one that several share.
type udpWorker struct {
	run   *run
	pc    net.PacketConn
	sc    *scratch
	from  asker
	stats *counters
}

// serveUDP begins to answer over UDP.
func (r *run) serveUDP() {
	for _, pc := range r.packets {
		for range readersOf(pc) {
			w := &udpWorker{run: r, pc: pc, stats: r.s.counters.shard(overUDP)}
			r.working.Go(w.serve)
		}
	}
}

// serve reads until Stop. A mistake of ours in answering costs the queries at
// hand, and no more.
func (w *udpWorker) serve() {
	for !w.tryServe() {
	}
}

func (w *udpWorker) tryServe() (done bool) {
	defer func() {
		if v := recover(); v != nil {
			w.run.panicked(w.from.addr, v)
		}
	}()
	w.sc = w.run.s.newScratch() // another one after a panic: nobody knows what is in the old one
	w.serveSocket()
	return true
}

// answer appends the response to a query to dst, or nothing.
func (w *udpWorker) answer(dst, query []byte, from netip.AddrPort) []byte {
	s := w.run.s
	if len(query) < headLen || query[2]&0x80 != 0 || from.Port() == 0 {
		return dst // no query, or none that an answer can be sent to
	}
	w.from = asker{addr: from, transport: overUDP}
	at := len(dst)
	dst = s.responding(w.sc, dst, query, &w.from)
	if s.rates == nil || w.from.verified || len(dst) == at {
		return dst
	}
	switch s.rates.take(from.Addr(), time.Now()) {
	case rateHeld:
		w.stats.limited.Add(1)
		return dst[:at]
	case rateSlipped:
		w.stats.limited.Add(1)
		w.stats.slipped.Add(1)
		return dst[:at+truncate(dst[at:])]
	}
	return dst
}

// truncate turns a response into one that says no more than to come back over
// TCP, and returns its size.
func truncate(msg []byte) int {
	const qdcount = 4
	size := headLen
	if binary.BigEndian.Uint16(msg[qdcount:]) == 1 {
		for size < len(msg) && msg[size] != 0 && msg[size] < 64 {
			size += 1 + int(msg[size])
		}
		size += 1 + 4 // the root, type and class
	}
	if size > len(msg) || size == headLen {
		size = headLen
		clear(msg[qdcount : qdcount+2])
	}
	msg[2] |= 0x02
	clear(msg[qdcount+2 : headLen])
	return size
}

// serveEach answers one datagram after the other, on any system and any
// socket.
func (w *udpWorker) serveEach() {
	in, out := make([]byte, maxQuery+1), make([]byte, 0, maxDatagram)
	fast, _ := w.pc.(*net.UDPConn)
	var again retry
	for !w.run.closing.Load() {
		var n int
		var from netip.AddrPort
		var sender net.Addr
		var err error
		if fast != nil {
			n, from, err = fast.ReadFromUDPAddrPort(in)
			sender = nil
		} else if n, sender, err = w.pc.ReadFrom(in); err == nil {
			from = addrPort(sender)
		}
		if err != nil && w.run.closing.Load() {
			return
		}
		if err != nil {
			// Some systems report here that an answer did not arrive: no number of
			// such errors means that the socket is no good.
			again.failures = 0
			if !again.wait(w.run, err) {
				w.run.fail(readError(w.pc, err))
				return
			}
			continue
		}
		again = retry{}
		w.stats.queries.Add(1)
		if fast != nil && n <= maxQuery && isUpdate(in[:n]) {
			w.later(fast, in[:n], nil, from)
			continue
		}
		resp := out
		if n <= maxQuery {
			resp = w.answer(out, in[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		}
		if len(resp) > 0 {
			if fast != nil {
				_, err = fast.WriteToUDPAddrPort(resp, from)
			} else {
				_, err = w.pc.WriteTo(resp, sender)
			}
		}
		if len(resp) == 0 || err != nil {
			w.stats.dropped.Add(1)
		} else {
			w.stats.responses.Add(1)
		}
	}
}

func readError(pc net.PacketConn, err error) error {
	return fmt.Errorf("dnsserver: cannot read from %s any more: %w", pc.LocalAddr(), err)
}
