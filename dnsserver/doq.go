package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/dcrouter/dcrouter/internal/quietudp"
)

// Error codes of RFC 9250 section 8.4.
const (
	doqNoError          = 0x0
	doqInternalError    = 0x1
	doqProtocolError    = 0x2
	doqRequestCancelled = 0x3
	doqExcessiveLoad    = 0x4
	doqUnspecifiedError = 0x5
)

const (
	// maxUnproven is how many handshakes may be under way with clients that may
	// not be where they say they are. From there on a client has to show first
	// that it gets what is sent to it (Retry, RFC 9000 section 8.1.2).
	maxUnproven = 128
	// maxHandshakes is how many may be under way at all, and
	// maxClientHandshakes those of a client that has shown where it is.
	maxHandshakes       = 1024
	maxClientHandshakes = maxHandshakes / 8
	// maxStreams is how many queries of a connection may be under way,
	// maxClientStreams those of a client and maxAllStreams those of all.
	// Further ones wait.
	maxStreams       = 100
	maxClientStreams = maxAllStreams / 16
	maxAllStreams    = 8192
	// maxAnswers is how many answers of a connection may be made that the client
	// has not taken yet, be they as long as they can be.
	maxAnswers = 4
	// farewell is how long what was sent last may take to arrive: closing a
	// connection takes back what is still under way.
	farewell = 250 * time.Millisecond
)

// quicServer serves DNS over QUIC (RFC 9250), with a stream for each query.
type quicServer struct {
	run       *run
	pc        net.PacketConn
	transport *quic.Transport
	listener  *quic.Listener
	accepting context.Context // ends when Stop begins
	shut      context.CancelFunc

	handshakes *connLimits
	streams    chan struct{} // has an element for each that is being served

	mu     sync.Mutex
	shares map[netip.Prefix]*quicShare
}

// quicShare is what a client has of the streams.
type quicShare struct {
	conns   int           // with mu of the quicServer
	streams chan struct{} // has an element for each
}

// join returns the share that a new connection of a client has part in. leave is
// the opposite.
func (q *quicServer) join(client netip.Prefix) *quicShare {
	q.mu.Lock()
	defer q.mu.Unlock()
	share := q.shares[client]
	if share == nil {
		share = &quicShare{streams: make(chan struct{}, maxClientStreams)}
		q.shares[client] = share
	}
	share.conns++
	return share
}

func (q *quicServer) leave(client netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.shares[client].conns--; q.shares[client].conns == 0 {
		delete(q.shares, client)
	}
}

// handshakeKey is where the context of a connection has its *quicHandshake.
type handshakeKey struct{}

type quicHandshake struct {
	q    *quicServer
	addr netip.Addr // not valid where it may be forged
	over atomic.Bool
}

func (h *quicHandshake) end() {
	if !h.over.Swap(true) {
		h.q.handshakes.release(h.addr)
	}
}

// bindQUIC opens the port of DNS over QUIC.
func (r *run) bindQUIC(ctx context.Context) error {
	doq := r.s.cfg.DoQ
	if doq == nil {
		return nil
	}
	host := r.s.cfg.ListenHost
	addr := net.JoinHostPort(host, strconv.Itoa(doq.port(overQUIC)))
	var lc net.ListenConfig
	pc, err := r.s.opts.sockets.ListenPacket(ctx, lc, network("udp", host), addr)
	if err != nil {
		return listenError("quic", addr, err)
	}
	q := &quicServer{
		run: r, pc: pc, streams: make(chan struct{}, maxAllStreams), shares: make(map[netip.Prefix]*quicShare),
		handshakes: &connLimits{max: maxHandshakes, perClient: maxClientHandshakes, clients: make(map[netip.Prefix]int)},
	}
	q.accepting, q.shut = context.WithCancel(r.ctx)
	q.transport = &quic.Transport{
		Conn:                quietudp.Conn(pc),
		ConnContext:         q.admit,
		VerifySourceAddress: func(net.Addr) bool { return q.handshakes.open.Load() >= maxUnproven },
	}
	r.quic = q
	q.listener, err = q.transport.Listen(r.s.opts.tlsFor("doq"), &quic.Config{
		HandshakeIdleTimeout:  handshakeTime / 2, // the whole may take twice that
		MaxIdleTimeout:        r.s.cfg.idleTimeout(),
		MaxIncomingStreams:    maxStreams,
		MaxIncomingUniStreams: -1, // RFC 9250 has no use for them
		// What is held for streams that nobody has read yet.
		InitialStreamReceiveWindow:     4 << 10,
		MaxStreamReceiveWindow:         largeRead,
		InitialConnectionReceiveWindow: 64 << 10,
		MaxConnectionReceiveWindow:     128 << 10,
		DisablePathMTUDiscovery:        true, // more probes than answers, mostly
		// Anybody could send once more what a client has sent in 0-RTT, and
		// queries for zone transfers or updates are not to be repeated (RFC
		// 9250 section 4.5).
		Allow0RTT: false,
	})
	if err != nil {
		return listenError("quic", addr, err)
	}
	return nil
}

// admit is asked about each new connection before anything is done for it.
func (q *quicServer) admit(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
	h := &quicHandshake{q: q}
	if client.AddrVerified { // else somebody could take the places of others
		h.addr = addrPort(client.RemoteAddr).Addr()
	}
	if q.handshakes.take(h.addr) != admitted {
		q.run.s.counters.shard(overQUIC).refused.Add(1)
		return nil, errors.New("too many handshakes")
	}
	context.AfterFunc(ctx, h.end)
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

func (q *quicServer) listen() {
	if q != nil {
		q.run.working.Go(q.accept)
	}
}

// accept serves connections whose handshake is through.
func (q *quicServer) accept() {
	for {
		qc, err := q.listener.Accept(context.Background())
		if err != nil {
			if !q.run.closing.Load() {
				q.run.fail(fmt.Errorf("dnsserver: cannot accept connections on %s/quic any more: %w", q.pc.LocalAddr(), err))
			}
			return
		}
		if h, ok := qc.Context().Value(handshakeKey{}).(*quicHandshake); ok {
			h.end()
		}
		q.run.working.Go(newQUICConn(q, qc).serve)
	}
}

// drain ends accepting, of connections and of queries.
func (q *quicServer) drain() {
	if q != nil {
		q.shut()
		q.listener.Close()
	}
}

// cut ends all connections at once.
func (q *quicServer) cut() {
	if q != nil {
		q.shut()
		q.transport.Close()
	}
}

// close gives the socket up.
func (q *quicServer) close() {
	if q != nil {
		q.cut()
		q.pc.Close()
	}
}
