package proxy

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

func (h *HTTP2) enabled() bool { return h.Enabled == nil || *h.Enabled }

func (h *HTTP2) webSockets() bool { return h.WebSockets == nil || *h.WebSockets }

// protocols are what is spoken with clients. HTTP/2 without TLS comes by prior
// knowledge alone: a request to upgrade to it ("Upgrade: h2c") is answered as if
// it had not asked, and is not passed on.
func (h *HTTP2) protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(h.enabled())
	p.SetUnencryptedHTTP2(h.enabled())
	return p
}

// alpn is what is offered in TLS, the preferred one first.
func (h *HTTP2) alpn() []string {
	if !h.enabled() {
		return []string{"http/1.1"}
	}
	return []string{"h2", "http/1.1"}
}

// http2Preface is what a client begins a connection in HTTP/2 with.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// greetsInHTTP2 reads on until it is clear whether the connection begins with
// the preface of HTTP/2.
func (c *conn) greetsInHTTP2() (bool, error) {
	for {
		n := min(len(c.head), len(http2Preface))
		if string(c.head[:n]) != http2Preface[:n] {
			return false, nil
		}
		if n == len(http2Preface) {
			return true, nil
		}
		if err := c.fill(maxSniff); err != nil {
			return false, err
		}
	}
}

// http2Config bounds what one connection can cost. net/http itself sees to the
// rest: a header list longer than MaxHeaderBytes gets 431, and its sender is cut
// off if it goes on; at most MaxConcurrentStreams handlers run, however fast
// their streams are reset, and the connection ends when four times as many wait;
// it also ends when 10,000 answers to PING and the like have not been read.
func (r *run) http2Config() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: defaultTo(r.p.cfg.HTTP2.MaxConcurrentStreams, 250),
		// net/http makes room for a frame when it has read its length, and would
		// allow 1 MiB for 9 bytes received.
		MaxReadFrameSize: 16 << 10,
		// What is held for handlers that do not read.
		MaxReceiveBufferPerConnection: 1 << 20,
		MaxReceiveBufferPerStream:     1 << 20,
		// The deadline of a stream cannot fire while the connection is stuck.
		WriteByteTimeout: max(r.times.Idle, 0),
		CountError:       func(string) { r.p.stats.badHTTP2.count.Add(1) },
	}
}

var errResets = errors.New("too many requests reset")

// noteReset keeps account of a connection's requests in HTTP/2 and 3, where a reset
// costs the client nothing, and us as much as the request has had done; with a
// target that speaks HTTP/1.1 that is a connection (CVE-2023-44487). It is
// called when the handler of req, as net/http gave it, has returned.
func (r *run) noteReset(x *exchange, req *http.Request) {
	wasReset := req.Context().Err() != nil
	if req.Method == http.MethodHead && x.writer.status != 0 {
		wasReset = false // the head was all, so net/http has closed the stream
	}
	// When a connection breaks, all its requests look as if they were reset.
	limit := max(500, 2*r.server.HTTP2.MaxConcurrentStreams)
	if x.conn.resets.note(wasReset, time.Now()) > limit && !x.conn.closed.Load() {
		r.reject(x.conn, &r.p.stats.resets, errResets)
	}
}

// resetMeter tells clients that change their mind from those that attack.
// Browsers reset what a user has scrolled past, also in great numbers, but not
// for long, and most of what they ask for they want to have.
type resetMeter struct {
	mu    sync.Mutex
	level int // resets that nothing makes up for yet
	since time.Time
}

// resetsPerSecond are always fine.
const resetsPerSecond = 20

// note notes the end of a request and returns the level.
func (m *resetMeter) note(reset bool, now time.Time) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !reset {
		m.level = max(m.level-1, 0)
		return m.level
	}
	if m.level == 0 {
		m.since = now
	}
	if fine := int(now.Sub(m.since) * resetsPerSecond / time.Second); fine > 0 {
		m.level, m.since = max(m.level-fine, 0), now
	}
	m.level++
	return m.level
}
