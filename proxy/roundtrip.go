package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/dcrouter/dcrouter/internal/netconn"
	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// maxResponseHead bounds the head of a response, maxInformational the number
// of 1xx responses before it.
const (
	maxResponseHead  = 256 << 10
	maxInformational = 16
)

// sendHTTP1 sends a request that net/http has read to the target, over
// HTTP/1.1. Work that goes on when it returns ends with ctx or with the body of
// the response.
func (t *target) sendHTTP1(r *run, req *http.Request, key poolKey) (*http.Response, error) {
	hasBody := req.Body != nil && req.Body != http.NoBody
	fields := requestFields(req)
	if !fields.Valid() {
		return nil, errors.New("a header field cannot be written to HTTP/1.1")
	}
	for fresh := false; ; fresh = true {
		c, err := t.connection(req.Context(), key, fresh)
		if err != nil {
			return nil, err
		}
		resp, sent, err := c.roundTrip(r, req, fields, hasBody)
		if err == nil {
			return resp, nil
		}
		// The target may have closed the connection while it was idle. What was
		// sent has not been looked at then, but nobody knows.
		if fresh || !c.isStale(err) || sent && (hasBody || !idempotent(req.Method)) || req.Context().Err() != nil {
			return nil, err
		}
	}
}

// roundTrip sends a request and reads the head of the response. sent tells
// whether the target may have got any of it.
func (c *upstreamConn) roundTrip(r *run, req *http.Request, fields h1.Fields, hasBody bool) (resp *http.Response, sent bool, err error) {
	ctx := req.Context()
	// The connection is closed under whoever waits for it.
	stop := context.AfterFunc(ctx, func() { c.Conn.Close() })
	defer func() {
		if err != nil {
			stop()
			c.release(false)
		}
	}()
	buffer := c.target.proxy.buffers.Get().(*[]byte)
	head := appendHTTPRequest((*buffer)[:0], req, fields, hasBody)
	c.writeDeadline(time.Time{})
	n, err := c.out.Write(head)
	c.target.proxy.buffers.Put(buffer)
	if err != nil {
		return nil, n > 0, ctxError(ctx, err)
	}

	limit := c.target.proxy.times.ResponseHead
	var body *bodySender
	if hasBody {
		body = &bodySender{conn: c, req: req, limit: limit, proceed: make(chan struct{})}
		if !strings.EqualFold(req.Header.Get("Expect"), "100-continue") {
			close(body.proceed)
		}
		c.readDeadline(time.Time{}) // the sender sets one when it is through
		r.working.Add(1)
		go func() {
			defer r.working.Done()
			body.run()
		}()
	} else {
		c.readDeadline(deadline(limit))
	}
	parsed, err := c.readHead(func(status int, fields h1.Fields) error {
		if status == http.StatusContinue && body != nil {
			body.goOn()
		}
		if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.Got1xxResponse != nil {
			return trace.Got1xxResponse(status, textproto.MIMEHeader(fields.Header()))
		}
		return nil
	})
	if err != nil {
		body.giveUp()
		return nil, true, ctxError(ctx, err)
	}
	if body != nil {
		body.answered()
	}
	c.readDeadline(time.Time{}) // the exchange has a timer of its own
	return c.response(req, parsed, body, stop), true, nil
}

// ctxError puts the reason why a connection was closed in place of what came
// of it.
func ctxError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// readHead reads the head of the response. It hands informational ones to
// inform.
func (c *upstreamConn) readHead(inform func(status int, fields h1.Fields) error) (*h1.Response, error) {
	resp := new(h1.Response)
	for range maxInformational {
		if err := c.readResponse(resp); err != nil {
			return nil, err
		}
		if resp.Status >= 200 || resp.Status == http.StatusSwitchingProtocols {
			return resp, nil
		}
		if err := inform(resp.Status, resp.Fields); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the target sends informational responses without end")
}

// readResponse reads one head.
func (c *upstreamConn) readResponse(resp *h1.Response) error {
	for {
		head, ok, err := c.in.Head(maxResponseHead)
		if err != nil {
			return err
		}
		if ok {
			return h1.ParseResponse(head, resp)
		}
		if err := c.in.Fill(); err != nil {
			if err == io.EOF {
				err = errNoAnswer
			}
			return err
		}
	}
}

var errNoAnswer = errors.New("the target closed the connection without an answer")

// requestFields returns the header of a request that net/http has, in order.
func requestFields(req *http.Request) h1.Fields {
	fields := make(h1.Fields, 0, len(req.Header)+2).FromHeader(req.Header)
	return slices.DeleteFunc(fields, func(f h1.Field) bool {
		switch f.Name {
		case "Content-Length", "Transfer-Encoding", "Trailer", "Host":
			return true
		}
		return f.Name == "User-Agent" && f.Value == "" // see httputil.ReverseProxy
	})
}

// appendHTTPRequest writes the head of a request that net/http has.
func appendHTTPRequest(b []byte, req *http.Request, fields h1.Fields, hasBody bool) []byte {
	b = appendRequestLine(b, req.Method, req.URL.RequestURI(), req.Host)
	b = fields.Append(b)
	switch {
	case hasBody && req.ContentLength < 0:
		if len(req.Trailer) > 0 {
			names := make([]string, 0, len(req.Trailer))
			for name := range req.Trailer {
				names = append(names, name)
			}
			slices.Sort(names)
			b = h1.AppendField(b, "Trailer", strings.Join(names, ", "))
		}
		b = appendFraming(b, req.Method, h1.Chunked)
	case hasBody:
		b = appendFraming(b, req.Method, req.ContentLength)
	default:
		b = appendFraming(b, req.Method, 0)
	}
	return append(b, "\r\n"...)
}

func appendRequestLine(b []byte, method, uri, host string) []byte {
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, uri...)
	b = append(b, " HTTP/1.1\r\n"...)
	return h1.AppendField(b, "Host", host)
}

// appendFraming writes the field that tells the length of a request's body.
// Methods that are expected to have one say so also if it is empty, RFC 9110
// section 8.6.
func appendFraming(b []byte, method string, length int64) []byte {
	switch {
	case length == h1.Chunked:
		return h1.AppendField(b, "Transfer-Encoding", "chunked")
	case length > 0 || method == "POST" || method == "PUT" || method == "PATCH":
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		return append(b, "\r\n"...)
	}
	return b
}

// bodySender sends the body of a request while the response may be on its way
// already.
type bodySender struct {
	conn    *upstreamConn
	req     *http.Request
	limit   time.Duration // for the target to answer after the body
	proceed chan struct{} // closed when the target wants the body
	once    sync.Once
	quit    atomic.Bool // nobody wants the body any more

	mu    sync.Mutex
	over  bool // the wait for the answer, and with it the deadline of it
	state atomic.Int32
}

// States of a bodySender.
const (
	sending = iota
	sentAll
	sendFailed
)

// goOn ends waiting for the target to want the body.
func (s *bodySender) goOn() {
	if s != nil && s.waits() {
		s.once.Do(func() { close(s.proceed) })
	}
}

func (s *bodySender) waits() bool {
	select {
	case <-s.proceed:
		return false
	default:
		return true
	}
}

// answered is called with the final response. A body that has been held back
// until then is not sent.
func (s *bodySender) answered() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	if s.waits() {
		s.quit.Store(true)
		s.goOn()
	}
}

// answerBy limits the wait for the answer, if that is still to come.
func (s *bodySender) answerBy(by time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over && !s.quit.Load() && !by.IsZero() {
		s.conn.Conn.SetReadDeadline(by)
	}
}

// giveUp is called when there will be no response.
func (s *bodySender) giveUp() {
	if s != nil {
		s.quit.Store(true)
		s.goOn()
	}
}

func (s *bodySender) run() {
	if s.waits() {
		// RFC 9110 section 10.1.1: do not wait for ever.
		timer := time.AfterFunc(time.Second, s.goOn)
		<-s.proceed
		timer.Stop()
	}
	if s.quit.Load() {
		s.state.Store(sendFailed)
		return
	}
	if err := s.send(); err != nil {
		s.state.Store(sendFailed)
		// Whoever waits for the answer need not do so for long: a target that
		// does not take the body may still have said why.
		s.answerBy(time.Now().Add(250 * time.Millisecond))
		return
	}
	s.state.Store(sentAll)
	s.answerBy(deadline(s.limit))
}

func (s *bodySender) send() error {
	pool := &s.conn.target.proxy.buffers
	buffer := pool.Get().(*[]byte)
	defer pool.Put(buffer)
	if s.req.ContentLength >= 0 {
		n, err := io.CopyBuffer(struct{ io.Writer }{s.conn.out}, struct{ io.Reader }{io.LimitReader(s.req.Body, s.req.ContentLength)}, *buffer)
		if err == nil && n < s.req.ContentLength {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := copyChunked(s.conn.out, s.req.Body, *buffer); err != nil {
		return err
	}
	end := []byte("0\r\n")
	end = h1.Fields(nil).FromHeader(s.req.Trailer).Append(end)
	_, err := s.conn.out.Write(append(end, "\r\n"...))
	return err
}

// copyChunked writes what comes from src as chunks, without the last one.
func copyChunked(dst io.Writer, src io.Reader, buf []byte) error {
	for {
		n, err := src.Read(buf[h1.ChunkHead : len(buf)-2])
		if n > 0 {
			if _, err := dst.Write(frameChunk(buf, n)); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// frameChunk makes a chunk of the n bytes that begin at h1.ChunkHead in buf.
func frameChunk(buf []byte, n int) []byte {
	var head [h1.ChunkHead]byte
	line := h1.AppendChunkHead(head[:0], n)
	start := h1.ChunkHead - len(line)
	copy(buf[start:], line)
	end := h1.ChunkHead + n
	buf[end], buf[end+1] = '\r', '\n'
	return buf[start : end+2]
}

// response makes net/http's response of ours.
func (c *upstreamConn) response(req *http.Request, parsed *h1.Response, sender *bodySender, stop func() bool) *http.Response {
	resp := &http.Response{
		Status:     strconv.Itoa(parsed.Status) + " " + parsed.Reason,
		StatusCode: parsed.Status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        parsed.Fields.Header(),
		ContentLength: -1,
		Close:         parsed.Close,
		Request:       req,
	}
	if parsed.Status == http.StatusSwitchingProtocols {
		resp.Body = &switchedConn{upstreamConn: c, stop: stop}
		return resp
	}
	if parsed.ContentLength >= 0 {
		resp.ContentLength = parsed.ContentLength
		resp.Header["Content-Length"] = []string{strconv.FormatInt(parsed.ContentLength, 10)}
	}
	length := parsed.ContentLength
	if !parsed.HasBody(req.Method) {
		length = 0
	}
	if length == h1.UntilClose {
		resp.Close = true // its end is that of the connection
	}
	if length == h1.Chunked {
		if names := resp.Header["Trailer"]; len(names) > 0 {
			delete(resp.Header, "Trailer")
			resp.Trailer = make(http.Header)
			for name := range strings.SplitSeq(strings.Join(names, ","), ",") {
				if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); isTrailer(name) {
					resp.Trailer[name] = nil
				}
			}
		}
	}
	b := &upstreamBody{conn: c, body: h1.NewBody(c.in, length), resp: resp, sender: sender, stop: stop}
	resp.Body = b
	if length == 0 {
		b.finish(true)
		resp.Body = http.NoBody
	}
	return resp
}

// isTrailer knows fields that may come after a body, RFC 9110 section 6.5.1.
func isTrailer(name string) bool {
	return h1.IsToken(name) && httpguts.ValidTrailerHeader(name) && !isHopByHop(name)
}

// upstreamBody is the body of a response, which the connection belongs to
// until it has been read.
type upstreamBody struct {
	conn   *upstreamConn
	body   h1.Body
	resp   *http.Response
	sender *bodySender
	stop   func() bool
	ended  bool
}

// Read reads a part of the body.
func (b *upstreamBody) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	n, err := b.body.Read(p)
	switch {
	case err == io.EOF:
		for _, f := range b.body.Trailer {
			if isTrailer(f.Name) {
				if b.resp.Trailer == nil {
					b.resp.Trailer = make(http.Header)
				}
				b.resp.Trailer.Add(f.Name, f.Value)
			}
		}
		b.finish(true)
	case err != nil:
		err = fmt.Errorf("the target broke off: %w", ctxError(b.resp.Request.Context(), err))
		b.finish(false)
	}
	return n, err
}

// Close ends the use of the connection.
func (b *upstreamBody) Close() error {
	b.finish(false)
	return nil
}

// finish gives the connection back, once.
func (b *upstreamBody) finish(whole bool) {
	if b.ended {
		return
	}
	b.ended = true
	// Whether stop came in time or not: a closed connection must not be kept.
	whole = b.stop() && whole && !b.resp.Close && (b.sender == nil || b.sender.state.Load() == sentAll)
	b.conn.release(whole)
}

// switchedConn is the connection after 101 Switching Protocols.
type switchedConn struct {
	*upstreamConn
	stop func() bool
}

// Read reads what came with the head first.
func (s *switchedConn) Read(p []byte) (int, error) { return s.in.Read(p) }

// CloseWrite passes the end of the client's direction on.
func (s *switchedConn) CloseWrite() error { return netconn.CloseWrite(s.Conn) }

// Close closes the connection. Somebody may be reading, so what has been read
// ahead is not touched.
func (s *switchedConn) Close() error {
	s.stop()
	return s.Conn.Close()
}
