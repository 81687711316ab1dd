package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/netconn"
)

// responseWriter counts what is sent, applies the route's edits to the headers
// and gives a client that does not read a limit.
type responseWriter struct {
	http.ResponseWriter
	idle   time.Duration
	bytes  *byteCount
	edit   func(http.Header)
	status int

	// In HTTP/1 the deadline for writing is the connection's: it outlives the
	// request and only matters to a write. In HTTP/2 (nil) it is the stream's,
	// ends it also if nothing is being written, and costs a message to the
	// connection's goroutine each time: stall sets it when it is due.
	writeBy *time.Time
	stall   *idleTimer

	forwards bool // the handler is httputil's
	// flushHead is set for bodies that tell their end themselves: the head does
	// not wait for them, and an empty one stays what it was.
	flushHead bool
	hijacked  bool // the connection is the handler's
	broken    bool // something could not be sent

	// body is what net/http reads before it sends the head, as far as the handler has
	// left it; nil if there is none, and in HTTP/2. In full duplex the response may
	// begin before the request has ended.
	body    *requestBody
	duplex  bool
	flushed bool
	waits   bool // between before and after, for the body
}

// headWaits is how many bytes of a body net/http keeps back, and with them the head.
const headWaits = 2 << 10

// WriteHeader sends the head of the response.
func (w *responseWriter) WriteHeader(status int) {
	if u, ok := w.ResponseWriter.(*streamUpgrade); ok {
		status = u.withoutUpgrade(status)
	}
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
		w.edit(w.Header())
	}
	h := w.Header()
	if w.forwards && status >= 200 && h["Content-Type"] == nil {
		h["Content-Type"] = nil // net/http would guess
	}
	w.before()
	w.ResponseWriter.WriteHeader(status)
	w.after()
	if w.flushHead && status >= 200 {
		w.FlushError()
	}
}

// Write sends a part of the body.
func (w *responseWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	first := 0
	if room := headWaits - int(min(w.bytes.own.Load(), headWaits)); w.mayWait() && len(b) > room+1 {
		// With this the head goes, and the limit for the body is over: a client may
		// take long to read the rest.
		var err error
		if first, err = w.write(b[:room+1]); err != nil {
			return first, err
		}
	}
	n, err := w.write(b[first:])
	return first + n, err
}

func (w *responseWriter) write(b []byte) (int, error) {
	w.before()
	n, err := w.ResponseWriter.Write(b)
	w.after()
	w.bytes.Add(uint64(n))
	w.broken = w.broken || err != nil && err != http.ErrBodyNotAllowed
	return n, err
}

// EnableFullDuplex is for http.ResponseController. It fails once the response has
// begun: the head has to say that the connection ends with it if not all of the
// body is read.
func (w *responseWriter) EnableFullDuplex() error {
	if w.status != 0 && w.body != nil && !w.body.ended.Load() {
		return errors.New("proxy: full duplex has to be enabled before the response begins")
	}
	err := http.NewResponseController(w.ResponseWriter).EnableFullDuplex()
	w.duplex = err == nil
	return err
}

// mayLeaveBody reports whether the client has to be told that the connection ends
// with the response: nobody knows what of the body will have been read when the
// next request should begin.
func (w *responseWriter) mayLeaveBody() bool {
	return w.duplex && w.body != nil && !w.body.ended.Load()
}

// Unwrap gives http.ResponseController the rest of the connection's abilities.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush is for handlers that look for http.Flusher themselves.
func (w *responseWriter) Flush() { w.FlushError() }

// FlushError sends what has been written so far.
func (w *responseWriter) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.before()
	defer w.after()
	err := http.NewResponseController(w.ResponseWriter).Flush()
	w.flushed = w.flushed || w.status != 0
	return err
}

// leave is called before the handler returns, or has panicked. What is left of the
// body is net/http's now.
func (w *responseWriter) leave(returned bool, conn net.Conn) {
	b := w.body
	limit := b.rest()
	switch {
	case w.hijacked, b.failed.Load():
		limit = 0 // the connection is the handler's, or has had its time
	case returned && w.mayWait():
		limit = b.discardTime()
	}
	b.finish(limit)
	if !w.hijacked && !b.ended.Load() && (w.duplex || !returned) {
		// net/http clears the deadline if it has to interrupt somebody's reading, and
		// may even wait for the next request's first byte then. The connection ends
		// with this request.
		limit := b.rest()
		if b.isIn() {
			limit = 50 * time.Millisecond
		}
		time.AfterFunc(limit, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	}
}

// mayWait reports whether net/http may read the body when something is written.
func (w *responseWriter) mayWait() bool {
	return w.body != nil && !w.duplex && !w.flushed && w.bytes.own.Load() <= headWaits &&
		!w.body.ended.Load() && !w.body.failed.Load() && !w.body.isIn()
}

// before and after surround what may wait for the client.
func (w *responseWriter) before() {
	var more time.Duration
	if w.waits = w.mayWait(); w.waits {
		more = w.body.beforeDiscard()
	}
	if w.writeBy != nil && w.idle > 0 {
		*w.writeBy = extend(*w.writeBy, w.idle+more, w.setDeadline)
	}
	w.stall.moved()
}

func (w *responseWriter) after() {
	if w.waits {
		w.body.afterDiscard()
	}
	w.stall.rest()
}

// end gives what net/http has not sent yet a limit. The handler is about to
// return.
func (w *responseWriter) end() {
	if w.writeBy != nil {
		w.before()
	} else if w.idle > 0 && w.bytes.own.Load() > 0 {
		w.setDeadline(time.Now().Add(w.idle))
	}
}

func (w *responseWriter) setDeadline(by time.Time) error {
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(by)
}

// Hijack is for handlers that look for http.Hijacker themselves, and for
// httputil, which forgets about bytes that came with the request.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.hijacked = true
	if w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	if n := rw.Reader.Buffered(); n > 0 && w.forwards {
		head, _ := rw.Reader.Peek(n)
		c = &netconn.Unread{Conn: c, Head: bytes.Clone(head)}
	}
	return c, rw, nil
}

// class is the class of the status sent, 0 if none was.
func (w *responseWriter) class() int {
	if class := w.status / 100; class < 6 {
		return class
	}
	return 0
}

// extend moves a deadline on, but not at every call: setting it costs about as
// much as a small write.
func extend(by time.Time, idle time.Duration, set func(time.Time) error) time.Time {
	if idle <= 0 {
		return by
	}
	next := time.Now().Add(idle)
	if next.Sub(by) < idle/8 {
		return by
	}
	set(next)
	return next
}

// requestBody counts what is received and gives a client that stops sending a
// limit.
type requestBody struct {
	io.ReadCloser
	idle   time.Duration
	bytes  *byteCount
	timer  atomic.Pointer[idleTimer] // of the exchange, once the response has begun
	ended  atomic.Bool               // read to its end
	failed atomic.Bool               // the client broke it off, or sent what is no body
	quit   atomic.Bool               // nobody wants the rest
	began  time.Time
	length int64 // -1 if it tells its end itself
	readBy time.Time
	stall  *idleTimer // instead of that, as in responseWriter

	// In HTTP/1: whether all of it has come; the contexts of the request and, to
	// end, of the exchange; whether net/http reads it for want of a handler that does.
	in         *atomic.Bool
	parent     context.Context
	cancel     context.CancelFunc
	discarding atomic.Bool

	// A transport may go on reading when the handler has returned, and the
	// connection with its deadlines belongs to the next request then.
	mu      sync.Mutex
	writer  http.ResponseWriter // nil once the body is done with
	reading bool                // Read has begun
}

// newRequestBody returns nil for a request without one.
func newRequestBody(c *conn, w http.ResponseWriter, req *http.Request) *requestBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	b := &requestBody{ReadCloser: req.Body, writer: w, idle: c.run.times.Idle, began: time.Now(), length: req.ContentLength}
	if req.ProtoMajor == 1 {
		b.in = &c.bodyIn
	}
	return b
}

// context is that of the exchange, which ends with the request's. In HTTP/1
// net/http ends that when reading fails, also if it is interrupt that makes it
// fail: the answer is still to be passed on then. b is nil without a body.
func (b *requestBody) context(req *http.Request) (context.Context, context.CancelFunc) {
	if b == nil || req.ProtoMajor > 1 {
		return context.WithCancel(req.Context())
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(req.Context()))
	b.parent, b.cancel = req.Context(), cancel
	stop := context.AfterFunc(b.parent, b.follow)
	return ctx, func() {
		stop()
		cancel()
	}
}

// follow ends the exchange if the request has ended.
func (b *requestBody) follow() {
	if b.parent != nil && b.parent.Err() != nil && !b.quit.Load() && !b.discarding.Load() {
		b.cancel()
	}
}

// Read reads a part of the body.
func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	done := b.writer == nil
	b.reading = !done
	b.mu.Unlock()
	if done {
		return 0, http.ErrBodyReadAfterClose
	}
	switch {
	case b.timer.Load() != nil:
	case b.stall != nil:
		if b.stall.moved(); b.timer.Load() != nil {
			b.stall.rest() // share came in between
		}
	default:
		b.readBy = extend(b.readBy, b.idle, b.setDeadline)
	}
	n, err := b.ReadCloser.Read(p)
	b.timer.Load().moved()
	b.stall.rest()
	b.bytes.Add(uint64(n))
	b.hasRead(err)
	if err != nil && err != io.EOF && !b.quit.Load() {
		b.failed.Store(true)
		b.follow() // it follows by itself, but who reads is to know now
	}
	return n, err
}

// hasRead notes how a Read has ended.
func (b *requestBody) hasRead(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	if err != io.EOF || b.quit.Load() || b.writer == nil {
		return // after interrupt the connection is of no use any more, so the body does not count as read
	}
	b.ended.Store(true)
	if b.stall == nil {
		// net/http goes on reading to notice when the client leaves. After an
		// error the deadline stays: net/http would wait for the rest without.
		b.deadline(time.Time{})
	}
}

// isSlow reports whether a target may have lost its patience with the client, who
// has not sent all of the body.
func (b *requestBody) isSlow() bool {
	return b != nil && !b.ended.Load() && (b.length < 0 || b.bytes.own.Load() < uint64(b.length)) && time.Since(b.began) >= servesSlow
}

// share replaces the body's own limit by one for both directions.
func (b *requestBody) share(timer *idleTimer) {
	b.timer.Store(timer)
	if b.stall.rest(); b.stall == nil {
		b.setDeadline(time.Time{})
	}
}

// interrupt ends a Read that waits for the client. Nobody wants the rest. Behind
// the end of the body it is net/http that reads, for the next request.
func (b *requestBody) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer == nil || b.ended.Load() {
		return
	}
	b.quit.Store(true)
	b.deadline(time.Unix(1, 0))
}

// beforeDiscard and afterDiscard surround what may send the head of a response over
// HTTP/1: net/http reads up to 256 KiB of what the handler has left of the body
// before. How long that may take is returned.
func (b *requestBody) beforeDiscard() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer == nil || b.reading {
		return 0
	}
	limit := b.discardTime()
	b.discarding.Store(true)
	b.readBy = time.Time{}
	b.deadline(time.Now().Add(limit))
	return limit
}

func (b *requestBody) afterDiscard() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer != nil && !b.reading {
		b.readBy = time.Time{}
		b.deadline(time.Time{})
	}
	if b.parent == nil || b.parent.Err() == nil { // or it was for the body that nobody wants, not for the answer
		b.discarding.Store(false)
	}
}

// Close ends the use of the body.
func (b *requestBody) Close() error {
	b.mu.Lock()
	w := b.writer
	b.mu.Unlock()
	b.finish(b.rest())
	err := b.ReadCloser.Close()
	if w != nil && b.isIn() { // net/http has read what was left
		http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	return err
}

// isIn reports whether all of the body has come, over HTTP/1.
func (b *requestBody) isIn() bool { return b.in != nil && b.in.Load() }

func (b *requestBody) setDeadline(by time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer == nil {
		return nil
	}
	return b.deadline(by)
}

// deadline is setDeadline for who has locked.
func (b *requestBody) deadline(by time.Time) error {
	switch {
	case b.isIn():
		by = time.Time{} // who reads now is net/http, to see whether the client leaves
	case b.quit.Load():
		by = time.Unix(1, 0) // or a Read that has been woken might go on to wait
	}
	return http.NewResponseController(b.writer).SetReadDeadline(by)
}

// finish is called before the handler returns. net/http reads what is left of
// the body then, for which the client gets that long.
func (b *requestBody) finish(limit time.Duration) {
	b.stall.stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer != nil && !b.ended.Load() && !b.isIn() && limit > 0 {
		http.NewResponseController(b.writer).SetReadDeadline(time.Now().Add(limit))
	}
	b.writer = nil
}

// rest is the time for a client to send the rest of a body that nobody wants and no
// answer waits for.
func (b *requestBody) rest() time.Duration { return restOf(b.idle) }

// discardTime is what it gets where the answer waits: enough for 256 KiB by a slow
// link.
func (b *requestBody) discardTime() time.Duration { return within(b.idle, 30*time.Second) }

func restOf(idle time.Duration) time.Duration { return within(idle, 5*time.Second) }

// within is a time, or the limit for idling if that is shorter. There may be none.
func within(idle, d time.Duration) time.Duration {
	if idle > 0 {
		return min(d, idle)
	}
	return d
}
