package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
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
		q.run.working.Go(func() { q.serve(qc) })
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

// serve serves a connection to its end. Its client's address is proven by the
// handshake.
func (q *quicServer) serve(qc *quic.Conn) {
	r := q.run
	stats := r.s.counters.shard(overQUIC)
	from := asker{addr: addrPort(qc.RemoteAddr()), transport: overQUIC}
	if !r.takePlace(from.addr.Addr()) {
		stats.refused.Add(1)
		qc.CloseWithError(doqExcessiveLoad, "")
		return
	}
	defer r.s.limits.release(from.addr.Addr())
	client := connClient(from.addr.Addr())
	share := q.join(client)
	defer q.leave(client)
	stats.connections.Add(1)
	stats.open.Add(1)
	defer stats.open.Add(-1)
	var active atomic.Int32
	var streams sync.WaitGroup
	for {
		// Packets alone, that ask for nothing, keep no connection open.
		ctx, cancel := context.WithTimeout(q.accepting, r.s.patience())
		st, err := qc.AcceptStream(ctx)
		cancel()
		if err != nil {
			if active.Load() > 0 && q.accepting.Err() == nil && qc.Context().Err() == nil {
				continue
			}
			break
		}
		select {
		case share.streams <- struct{}{}:
		case <-qc.Context().Done():
			continue
		}
		select {
		case q.streams <- struct{}{}:
		case <-qc.Context().Done():
			<-share.streams
			continue
		}
		active.Add(1)
		streams.Go(func() {
			q.serveStream(qc, st, from, stats)
			active.Add(-1)
			<-q.streams
			<-share.streams
		})
	}
	streams.Wait()
	if r.closing.Load() {
		select {
		case <-time.After(farewell):
		case <-qc.Context().Done():
		}
	}
	qc.CloseWithError(doqNoError, "")
}

// errProtocol is a client that breaks RFC 9250, which ends its connection.
var errProtocol = errors.New("against the rules of DNS over QUIC")

// serveStream answers the query of a stream.
func (q *quicServer) serveStream(qc *quic.Conn, st *quic.Stream, from asker, stats *counters) {
	in := q.run.s.getMessage()
	defer func() {
		if v := recover(); v != nil {
			q.run.panicked(from.addr, v)
			st.CancelWrite(doqInternalError)
		}
		q.run.s.putMessage(in)
	}()
	stats.queries.Add(1)
	query, err := readStream(st, in)
	if err == nil {
		err = q.answer(st, query, &from, stats)
	}
	if err == nil {
		st.Close()
		return
	}
	stats.dropped.Add(1)
	var reset *quic.StreamError
	switch {
	case errors.Is(err, errProtocol):
		qc.CloseWithError(doqProtocolError, "")
	case errors.As(err, &reset):
		st.CancelWrite(doqRequestCancelled)
	default:
		st.CancelRead(doqUnspecifiedError)
		st.CancelWrite(doqUnspecifiedError)
	}
}

// readStream reads the one query that a stream has, after which it has to end.
func readStream(st *quic.Stream, in *[]byte) ([]byte, error) {
	st.SetReadDeadline(time.Now().Add(messageTime))
	b, err := readUpTo(st, *in, 2+maxMessage)
	*in = b
	if err != nil {
		return nil, err
	}
	return streamQuery(b)
}

// streamQuery checks what has come over a stream (RFC 9250 section 4.2).
func streamQuery(b []byte) ([]byte, error) {
	if len(b) < 2+headLen || len(b)-2 != int(binary.BigEndian.Uint16(b)) {
		return nil, errProtocol
	}
	msg := b[2:]
	if msg[0] != 0 || msg[1] != 0 {
		return nil, errProtocol
	}
	var q query
	q.parse(msg)
	if _, ok := q.option(dns.EDNS0TCPKEEPALIVE); ok { // of TCP, section 5.5.2
		return nil, errProtocol
	}
	return msg, nil
}

// errTooLong is about what exceeds any message.
var errTooLong = fmt.Errorf("%w: longer than any message", errProtocol)

// readUpTo appends what r has to b, which grows as it comes.
func readUpTo(r io.Reader, b []byte, limit int) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return b, errTooLong
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		}
	}
}

// answer writes the answers to a query.
func (q *quicServer) answer(st *quic.Stream, query []byte, from *asker, stats *counters) error {
	s := q.run.s
	sc := s.scratches.Get().(*scratch) // not to be given back after a panic
	out := s.getMessage()
	defer s.putMessage(out)
	sent := 0
	send := func() error {
		size := len(*out) - 2
		if size <= 0 || size > maxMessage {
			return errors.New("no response")
		}
		binary.BigEndian.PutUint16(*out, uint16(size))
		st.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := st.Write(*out); err != nil {
			return err
		}
		sent++
		stats.responses.Add(1)
		return nil
	}
	if !mayBeSlow(query) {
		*out = s.responding(sc, append(*out, 0, 0), query, from)
		s.scratches.Put(sc)
		return send()
	}
	err := s.exchanging(st.Context(), sc, query, from, func(msg []byte) error {
		*out = append(append((*out)[:0], 0, 0), msg...)
		return send()
	})
	s.scratches.Put(sc)
	if err == nil && sent == 0 {
		return errors.New("no response")
	}
	return err
}
