package proxy

import (
	"math"
	"net"
	"sync/atomic"

	"github.com/dcrouter/dcrouter/internal/netconn"
)

// relay moves bytes both ways between a client's connection and a target's.
// When one side ends its direction, that end is passed on and the other
// direction goes on. Where a connection breaks, both are reset, so that nobody
// takes a broken transfer for a complete one.
type relay struct {
	client, upstream net.Conn
	in, out          flow
	counts           [2]byteCount // from the client, and to it
	left             atomic.Int32 // directions that have not ended

	// ended is called when both directions have ended. Both connections are to
	// be closed then.
	ended func()
}

// newRelay prepares a relay.
func (r *run) newRelay(client, upstream net.Conn, s *session, state *routeState) *relay {
	both := &relay{client: client, upstream: upstream}
	both.counts[0].route, both.counts[1].route = &state.bytesIn, &state.bytesOut
	both.in = flow{run: r, relay: both, src: client, dst: upstream, rest: math.MaxInt64, count: &both.counts[0], moved: &s.moved}
	both.out = flow{run: r, relay: both, src: upstream, dst: client, rest: math.MaxInt64, count: &both.counts[1], moved: &s.moved}
	both.in.prepare()
	both.out.prepare()
	return both
}

// start begins to move bytes, after head, which has been read from the client
// already, and returns. Each direction gets a goroutine with a fresh stack: the
// one that has found the way for this stream is several times as large.
func (r *relay) start(head []byte) {
	r.left.Store(2)
	go r.run(&r.in, head)
	go r.run(&r.out, nil)
}

// run moves the bytes of one direction, after head, until it ends or is parked.
func (r *relay) run(f *flow, head []byte) {
	err := f.send(head)
	if err == nil {
		err = f.move()
	}
	if err == errParked {
		return // the lot calls again
	}
	if err != nil || netconn.CloseWrite(f.dst) != nil {
		r.cut()
	}
	if r.left.Add(-1) == 0 {
		r.ended()
	}
}

// cut ends both directions at once, and not as if all had been said.
func (r *relay) cut() {
	reset(r.client)
	reset(r.upstream)
	r.in.wake()
	r.out.wake()
}

// doze makes the relay wait at little cost, since nothing has moved for a
// moment.
func (r *relay) doze() {
	r.in.doze()
	r.out.doze()
}
