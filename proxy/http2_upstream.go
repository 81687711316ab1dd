package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// upstreamHTTP2 is H2 or H2C if one of them is spoken with the targets.
func (a *Action) upstreamHTTP2() string {
	if a.UpstreamProtocol == HTTP1 {
		return ""
	}
	return a.UpstreamProtocol
}

// newHTTP2Transport makes the client side of a target that speaks HTTP/2. gate
// hears of its connections; it is nil for health checks.
func newHTTP2Transport(t *target, gate *dialGate) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(t.key.protocol == H2)
	protocols.SetUnencryptedHTTP2(t.key.protocol == H2C)
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) { return t.dialHTTP2(ctx, addr, gate) }
	times := &t.proxy.times
	return &http.Transport{
		Protocols:              protocols,
		DialContext:            dial,
		DialTLSContext:         dial,
		ResponseHeaderTimeout:  max(times.ResponseHead, 0),
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        maxIdleTime,
		MaxResponseHeaderBytes: maxResponseHead,
		DisableCompression:     true,
		HTTP2: &http.HTTP2Config{
			// What is held of one response for a client that does not read. All
			// share the connection, so its own window is left wide.
			MaxReceiveBufferPerStream: 1 << 20,
			// A target that has gone without a word would be found out by each
			// request anew. gRPC servers take more than a ping in five minutes
			// for an attack.
			SendPingTimeout: 6 * time.Minute,
			PingTimeout:     15 * time.Second,
			// One that takes nothing more holds everybody up.
			WriteByteTimeout: max(times.ResponseHead, 0),
		},
	}
}

// dialHTTP2 opens a connection for HTTP/2.
func (t *target) dialHTTP2(ctx context.Context, addr string, gate *dialGate) (net.Conn, error) {
	name, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if gate == nil && name == t.key.host {
		name = t.ownName()
	}
	if limit := t.proxy.times.Connect; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if gate.isCrowded() {
		// Clients that make up names have opened them, one for each.
		t.h2.CloseIdleConnections()
	}
	raw, err := t.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := &runConn{Conn: raw}
	conn.stop = context.AfterFunc(t.proxy.latest().ctx, func() { raw.Close() })
	if t.key.protocol == H2C {
		conn.count(gate)
		return conn, nil
	}
	secure, err := t.handshake(ctx, conn, name, "h2")
	if err != nil {
		return nil, err
	}
	if secure.ConnectionState().NegotiatedProtocol != "h2" {
		secure.Close()
		return nil, t.tlsError(name, fmt.Errorf("%s does not speak HTTP/2 over TLS", t.name))
	}
	conn.count(gate)
	return secure, nil
}

// runConn is a connection that ends with the run, at the latest: http.Transport
// closes only connections that are idle at the moment it is asked to.
type runConn struct {
	net.Conn
	stop func() bool
	gate atomic.Pointer[dialGate] // that counts it
}

func (c *runConn) count(gate *dialGate) {
	if gate != nil {
		c.gate.Store(gate)
		gate.add(1)
	}
}

// Close closes the connection.
func (c *runConn) Close() error {
	c.stop()
	if gate := c.gate.Swap(nil); gate != nil {
		gate.add(-1)
	}
	return c.Conn.Close()
}

// dialGate lets one request open a target's first connection. http.Transport
// would open one for each that comes while there is none.
type dialGate struct {
	mu   sync.Mutex
	open int           // connections
	wait chan struct{} // closed when the one that dials is through
}

func (g *dialGate) add(n int) {
	g.mu.Lock()
	g.open += n
	g.mu.Unlock()
}

// isCrowded reports whether there are more connections than HTTP/1.1 would keep.
func (g *dialGate) isCrowded() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open >= maxIdlePerTarget
}

// pass waits if another request is opening the first connection. The caller
// calls through when it has one, or has none for good.
func (g *dialGate) pass(ctx context.Context) (through func()) {
	g.mu.Lock()
	switch wait := g.wait; {
	case wait != nil: // it is open a little before others can have it
		g.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
		}
		return func() {}
	case g.open > 0:
		g.mu.Unlock()
		return func() {}
	}
	wait := make(chan struct{})
	g.wait = wait
	g.mu.Unlock()
	return sync.OnceFunc(func() {
		g.mu.Lock()
		g.wait = nil
		g.mu.Unlock()
		close(wait)
	})
}

// sendHTTP2 is sendHTTP1 for a target that speaks HTTP/2.
func (t *target) sendHTTP2(x *exchange, req *http.Request, key poolKey) (*http.Response, error) {
	host := key.serverName
	to := *req.URL // which all attempts share
	to.Scheme = "https"
	if t.key.protocol == H2C {
		to.Scheme, host = "http", t.key.host
	}
	to.Host = net.JoinHostPort(host, strconv.Itoa(key.port))
	req.URL = &to
	if req.Body != nil && req.Body != http.NoBody {
		body := &replayBody{src: req.Body, interrupt: x.body.interrupt}
		// http.Transport does not look at the context while it reads.
		body.stop = context.AfterFunc(req.Context(), body.quit)
		req.GetBody = body.again
		req.Body, _ = body.again()
	}
	for fresh := false; ; fresh = true {
		resp, reused, err := t.roundTripHTTP2(req)
		if err == nil {
			return resp, nil
		}
		// As in sendHTTP1: the connection may have been closed while it was idle.
		if fresh || !reused || isDialError(err) || req.Body != nil || !idempotent(req.Method) || isTimeout(err) || isNetTimeout(err) || req.Context().Err() != nil {
			return nil, err
		}
	}
}

// isOversized knows the error of http.Transport, which has no value, where the
// header or the trailer of a request is longer than the target takes
// (SETTINGS_MAX_HEADER_LIST_SIZE). It is not sent then.
func isOversized(err error) bool {
	return err != nil && strings.Contains(err.Error(), "request header list larger than peer's advertised limit")
}

var errRefused = errors.New("the target refuses requests")

// roundTripHTTP2 sends a request. http.Transport repeats those that the target
// has not looked at: it reset the stream with REFUSED_STREAM, or said goodbye
// before it. It would be patient for a minute.
func (t *target) roundTripHTTP2(req *http.Request) (resp *http.Response, reused bool, err error) {
	const maxTries = 3
	tries := 0
	through := t.h2gate.pass(req.Context())
	defer through()
	ctx, cancel := context.WithCancelCause(req.Context()) // ends with the exchange
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			reused = info.Reused
			if tries++; tries > maxTries {
				cancel(&dialError{errRefused}) // nothing has been done
			}
		},
		WroteHeaders: through, // a little after GotConn, when all can have the connection
	})
	resp, err = t.h2.RoundTrip(req.WithContext(ctx))
	if err != nil && tries > maxTries {
		err = context.Cause(ctx)
	}
	return resp, reused, err
}

// replayBody lets a request body be read again, from its beginning, as long as
// little of it has been read.
type replayBody struct {
	src       io.Reader
	interrupt func() // ends a Read of src that waits
	stop      func() bool

	mu      sync.Mutex
	kept    []byte // what has been read so far
	end     error  // what came after it
	lost    bool   // more has been read than is kept
	reading bool
}

// maxReplay is more than most calls in gRPC have for a body.
const maxReplay = 64 << 10

var errBodySent = errors.New("the target refused the request, and its body cannot be sent again")

// again begins anew. What read the body before has been closed by then.
func (b *replayBody) again() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost || b.reading || b.end != nil && b.end != io.EOF {
		return nil, errBodySent
	}
	return &replayReader{body: b}, nil
}

// replayReader is one reading of a body.
type replayReader struct {
	body   *replayBody
	at     int
	closed bool
}

// Read reads a part of the body.
func (r *replayReader) Read(p []byte) (int, error) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.closed || b.reading:
		return 0, http.ErrBodyReadAfterClose
	case !b.lost && r.at < len(b.kept):
		n := copy(p, b.kept[r.at:])
		r.at += n
		return n, nil
	case b.end != nil:
		return 0, b.end
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.src.Read(p)
	b.mu.Lock()
	if b.reading, b.end = false, err; err != nil {
		b.stop()
	}
	if b.lost = b.lost || len(b.kept)+n > maxReplay; b.lost {
		b.kept = nil
	} else {
		b.kept = append(b.kept, p[:n]...)
		r.at = len(b.kept)
	}
	return n, err
}

// Close ends the reading.
func (r *replayReader) Close() error {
	r.body.mu.Lock()
	r.closed = true
	r.body.mu.Unlock()
	r.body.quit()
	return nil
}

// quit ends a Read that waits: http.Transport goes on only when nobody reads.
// What would have come is not wanted any more.
func (b *replayBody) quit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reading {
		b.interrupt()
	}
}
