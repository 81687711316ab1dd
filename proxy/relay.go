package proxy

import (
	"net"
	"sync/atomic"
)

// relay moves bytes both ways between a client's connection and a target's.
// When one side ends its direction, that end is passed on and the other
// direction goes on. Where a connection breaks, both are reset, so that nobody
// takes a broken transfer for a complete one.
type relay struct {
	client, upstream net.Conn
	in, out          *flow
	left             atomic.Int32 // directions that have not ended
	ended            func()
}

// relay begins to move bytes and returns. head has been read from the client
// already. in and out count bytes from and to the client. ended is called when
// both directions have ended; both connections are to be closed then.
func (r *run) newRelay(client, upstream net.Conn, s *session, in, out *atomic.Uint64, ended func()) *relay {
	return &relay{
		client: client, upstream: upstream, ended: ended,
		in:  r.newFlow(upstream, client, in, &s.moved),
		out: r.newFlow(client, upstream, out, &s.moved),
	}
}

// start begins to move bytes, after head, which has been read from the client
// already. Each direction gets a goroutine with a fresh stack: most streams
// stand still most of the time, and the stack that has found the way for this
// one is several times as large.
func (r *relay) start(head []byte) {
	r.left.Store(2)
	go r.run(r.in, head)
	go r.run(r.out, nil)
}

func (r *relay) run(f *flow, head []byte) {
	if f.send(head) != nil || f.move() != nil || closeWrite(f.dst) != nil {
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
}
