package dnsserver

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Limits of a connection in HTTP/2, beside maxStreams.
const (
	// maxHeaderList is how long the fields of a request may be, each counted
	// with 32 bytes more (RFC 9113 section 6.5.2). Longer messages come by POST.
	maxHeaderList = 16 << 10
	// bodyWindow is what a client may send of one body: so much that it can be
	// seen to be too long. bodiesWindow is what it may send of all that have not
	// come to their ends.
	bodyWindow   = maxMessage + 1<<10
	bodiesWindow = 256 << 10
	// maxUnsent is how much of answers may wait for a client that does not let
	// them be sent, before it gets no more.
	maxUnsent = 256 << 10

	frameSize     = 16 << 10 // of both sides, the least that there is
	initialWindow = 1<<16 - 1
	maxWindow     = math.MaxInt32
)

// http2Conn serves one connection of DNS over HTTPS in HTTP/2 (RFC 8484, RFC
// 9113). net/http would do it with a goroutine for each request and for most
// writes, which costs several times what an answer does. Here one goroutine
// reads requests and answers them in line, as over TLS, and what it writes waits
// until all that has come is answered. Frames and header compression are
// golang.org/x/net/http2's.
type http2Conn struct {
	conn   *clientConn
	in     *bufio.Reader
	framer *http2.Framer
	block  bytes.Buffer // where enc writes
	enc    *hpack.Encoder
	date   string
	dated  int64 // Unix time of date

	sc  *scratch // all three held only while there are requests
	out *[]byte  // frames that are not written yet
	msg *[]byte  // the answer that is being made

	streams map[uint32]*http2Stream // that are open
	last    uint32                  // the highest one so far
	idle    time.Time               // since when there is no request
	busy    bool                    // there has been one since the last Read
	leaving bool                    // goodbye has been said

	window   int64          // what may be sent
	initial  int64          // the same, of a new stream
	unsent   int64          // bytes of answers that wait
	waiting  []*http2Stream // for leave to send the rest of their answer, in order
	takes    int64          // what the client may still send
	released int64          // what it may send beyond that, but has not been told
}

// http2Stream is a request whose body is not complete yet, or whose answer could
// not be sent at once.
type http2Stream struct {
	id     uint32
	until  time.Time // is patience with it
	window int64     // what may be sent
	rest   *[]byte   // of the answer; nil while the body is not complete
	sent   int       // of rest

	req     webRequest
	problem error   // with it, to be told at its end
	body    *[]byte // the message
	got     int64   // bytes of a body
	held    int64   // the same with padding: what the client may not send elsewhere
}

// serveHTTP2 answers requests until the client is through, or breaks the rules.
func serveHTTP2(conn *clientConn) {
	c := &http2Conn{conn: conn, streams: make(map[uint32]*http2Stream), idle: time.Now(),
		window: initialWindow, initial: initialWindow, takes: initialWindow}
	c.in = bufio.NewReader(c)
	c.enc = hpack.NewEncoder(&c.block)
	c.framer = http2.NewFramer(c, c.in)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(frameSize)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = maxHeaderList
	c.part(c.serve())
}

func (c *http2Conn) serve() error {
	if err := c.greet(); err != nil {
		return err
	}
	for first := true; ; first = false {
		f, err := c.framer.ReadFrame()
		if err == nil {
			if _, ok := f.(*http2.SettingsFrame); first && !ok {
				return http2.ConnectionError(http2.ErrCodeProtocol)
			}
			err = c.take(f)
		}
		if err != nil {
			var wrong http2.StreamError
			if !errors.As(err, &wrong) {
				return err
			}
			c.last = max(c.last, wrong.StreamID)
			if err := c.reset(wrong.StreamID, wrong.Code); err != nil {
				return err
			}
		}
	}
}

// greet exchanges what comes before requests.
func (c *http2Conn) greet() error {
	c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: bodyWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderList},
	)
	c.release(bodiesWindow - initialWindow)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// part ends the connection. Where the client has not done that, it is told why,
// and has a moment to take it in: what it has sent meanwhile would have the
// system throw away what it has not read.
func (c *http2Conn) part(err error) {
	defer func() {
		for _, st := range c.streams {
			c.drop(st)
		}
		c.rest()
	}()
	code := http2.ErrCodeNo
	var broken http2.ConnectionError
	switch {
	case errors.As(err, &broken):
		code = http2.ErrCode(broken)
	case errors.Is(err, http2.ErrFrameTooLarge):
		code = http2.ErrCodeFrameSize
	case !errors.Is(err, errStopping) && !errors.Is(err, os.ErrDeadlineExceeded):
		return // it is gone
	}
	if code != http2.ErrCodeNo && c.conn.run.mayLog() {
		c.conn.run.log.Debug("a client broke the rules of HTTP/2", "remote", c.conn.from.addr, "err", err)
	}
	if c.leaving && code == http2.ErrCodeNo || c.goodbye(code) == nil && c.flush() == nil {
		c.conn.linger()
	}
}

// goodbye tells the client that no more requests are taken.
func (c *http2Conn) goodbye(code http2.ErrCode) error {
	c.leaving = true
	return c.framer.WriteGoAway(c.last, code, nil)
}

// Write gathers frames.
func (c *http2Conn) Write(b []byte) (int, error) {
	if c.out == nil {
		c.out = c.conn.run.s.getMessage()
	}
	*c.out = append(*c.out, b...)
	if len(*c.out) >= flushSize {
		return len(b), c.flush()
	}
	return len(b), nil
}

func (c *http2Conn) flush() error {
	if c.out == nil || len(*c.out) == 0 {
		return nil
	}
	if err := c.conn.hasToTake(); err != nil {
		return err
	}
	_, err := c.conn.Conn.Write(*c.out)
	*c.out = (*c.out)[:0]
	return err
}

// Read reads from the client when all that has come is answered.
func (c *http2Conn) Read(b []byte) (int, error) {
	run := c.conn.run
	for {
		if err := c.flush(); err != nil {
			return 0, err
		}
		c.rest()
		if c.leaving && len(c.streams) == 0 {
			return 0, errStopping
		}
		if c.busy {
			c.busy, c.idle = false, time.Now()
		}
		c.conn.waitsSince.Store(c.idle.UnixNano())
		var n int
		err := c.waitUntil(c.patience())
		if err == nil {
			n, err = c.conn.Conn.Read(b)
		}
		c.conn.waitsSince.Store(0)
		switch {
		case n > 0:
			return n, nil // an error will come again
		case !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errStopping):
			return 0, err
		}
		c.conn.patient = time.Time{}
		expired := c.expire()
		switch {
		case run.closing.Load() && !c.leaving:
			c.goodbye(http2.ErrCodeNo)
		case !expired && !c.leaving:
			return 0, err
		}
	}
}

// patience is until when the client may let the connection stand.
func (c *http2Conn) patience() time.Time {
	if len(c.streams) == 0 {
		return c.idle.Add(c.conn.run.s.patience())
	}
	var until time.Time
	for _, st := range c.streams {
		if until.IsZero() || st.until.Before(until) {
			until = st.until
		}
	}
	return until
}

// waitUntil sets the deadline for reading. After the goodbye it is not in a
// hurry any more: what is left comes to its end.
func (c *http2Conn) waitUntil(until time.Time) error {
	if c.leaving {
		return c.conn.Conn.SetReadDeadline(until)
	}
	return c.conn.waitUntil(until)
}

// rest gives back what a connection without requests does not need.
func (c *http2Conn) rest() {
	s := c.conn.run.s
	for _, b := range []**[]byte{&c.out, &c.msg} {
		if *b != nil {
			s.putMessage(*b)
			*b = nil
		}
	}
	if c.sc != nil {
		s.scratches.Put(c.sc)
		c.sc = nil
	}
}

// expire ends the requests that the client has let stand, and reports whether
// there are some.
func (c *http2Conn) expire() bool {
	now, some := time.Now(), false
	for id, st := range c.streams {
		if !now.Before(st.until) {
			some = true
			c.reset(id, http2.ErrCodeCancel)
		}
	}
	return some
}

// take takes a frame in. Those that are for a Framer alone do not come here.
func (c *http2Conn) take(f http2.Frame) error {
	id := f.Header().StreamID
	fresh := id > c.last || id%2 == 0 // no request has come, RFC 9113 section 5.1
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.request(f)
	case *http2.DataFrame:
		if fresh {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return c.data(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.WindowUpdateFrame:
		if id != 0 && fresh {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return c.windowUpdate(id, int64(f.Increment))
	case *http2.RSTStreamFrame:
		if fresh {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if st := c.streams[id]; st != nil {
			c.conn.stats.dropped.Add(1)
			c.drop(st)
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.framer.WritePing(true, f.Data)
		}
	case *http2.PriorityFrame:
		if f.StreamDep == id {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

func (c *http2Conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingHeaderTableSize:
			c.enc.SetMaxDynamicTableSize(min(s.Val, 4096))
		case http2.SettingInitialWindowSize:
			more := int64(s.Val) - c.initial
			c.initial = int64(s.Val)
			for _, st := range c.streams {
				if st.window += more; st.window > maxWindow {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = c.framer.WriteSettingsAck()
	c.resume()
	return err
}

// windowUpdate is leave to send more.
func (c *http2Conn) windowUpdate(id uint32, more int64) error {
	if id == 0 {
		if c.window += more; c.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.resume()
		return nil
	}
	st := c.streams[id]
	if st == nil {
		return nil
	}
	if st.window += more; st.window > maxWindow {
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeFlowControl}
	}
	c.resume()
	return nil
}

// release lets the client send more.
func (c *http2Conn) release(n int64) {
	if c.released += n; c.released >= bodiesWindow/8 {
		c.framer.WriteWindowUpdate(0, uint32(c.released))
		c.takes += c.released
		c.released = 0
	}
}

// request takes the head of a request in, or the fields at its end.
func (c *http2Conn) request(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	malformed := http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
	if st := c.streams[id]; st != nil && st.rest == nil {
		if !f.StreamEnded() || len(f.PseudoFields()) > 0 {
			return malformed
		}
		return c.complete(st)
	}
	switch {
	case id%2 == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case id <= c.last:
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	case f.HasPriority() && f.Priority.StreamDep == id:
		return malformed
	}
	c.last = id
	c.conn.asked.Store(true)
	switch {
	case c.leaving:
		return nil // the client knows that it is not taken
	case len(c.streams) >= maxStreams || c.unsent > maxUnsent:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	}
	c.busy = true
	c.conn.stats.queries.Add(1)
	if f.Truncated {
		return c.refuse(&http2Stream{id: id, window: c.initial}, f.StreamEnded(), &httpError{http.StatusRequestHeaderFieldsTooLarge, "the head of the request is too long: long messages come by POST"})
	}
	st := &http2Stream{id: id, window: c.initial, until: time.Now().Add(messageTime)}
	if !st.req.readHTTP2(f) || f.StreamEnded() && st.req.length > 0 {
		c.conn.stats.dropped.Add(1)
		return malformed
	}
	st.body = c.conn.run.s.getMessage()
	*st.body, st.problem = st.req.read(*st.body)
	switch {
	case f.StreamEnded():
		return c.complete(st)
	case st.problem == errBodyTooLong:
		c.drop(st)
		return c.refuse(st, false, st.problem)
	}
	c.streams[id] = st
	return nil
}

// data takes a part of a body in.
func (c *http2Conn) data(f *http2.DataFrame) error {
	id, size := f.StreamID, int64(f.Length)
	if c.takes -= size; c.takes < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	st := c.streams[id]
	if st == nil || st.rest != nil {
		c.release(size)
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeStreamClosed}
	}
	st.held += size
	st.got += int64(len(f.Data()))
	switch {
	case st.held > bodyWindow:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeFlowControl}
	case st.req.length >= 0 && st.got > st.req.length:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
	case st.got > maxMessage:
		c.drop(st)
		return c.refuse(st, f.StreamEnded(), errBodyTooLong)
	case st.req.hasBody && st.problem == nil:
		*st.body = append(*st.body, f.Data()...)
	}
	if f.StreamEnded() {
		return c.complete(st)
	}
	return nil
}

// complete answers a request that has come to its end.
func (c *http2Conn) complete(st *http2Stream) error {
	if st.req.length >= 0 && st.got != st.req.length {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	body := st.body
	defer c.conn.run.s.putMessage(body)
	st.body = nil
	c.drop(st)
	if st.problem != nil {
		return c.refuse(st, true, st.problem)
	}
	return c.answer(st, *body)
}

// answer answers a message. Its stream is not among those that are open.
func (c *http2Conn) answer(st *http2Stream, query []byte) error {
	s := c.conn.run.s
	if c.sc == nil {
		c.sc = s.scratches.Get().(*scratch)
	}
	if c.msg == nil {
		c.msg = s.getMessage()
	}
	var body []byte
	var err error
	*c.msg, body, err = s.answerHTTP(c.sc, (*c.msg)[:0], query, &c.conn.from, st.req.form)
	if err != nil {
		return c.refuse(st, true, err)
	}
	c.conn.stats.responses.Add(1)
	c.head(http.StatusOK, st.req.form, len(body))
	c.field("cache-control", cacheControl(*c.msg))
	if st.req.form != wireType {
		c.field("vary", "Accept")
	}
	if err := c.sendHead(st.id, false); err != nil {
		return err
	}
	if left := c.send(st, body); len(left) > 0 {
		rest := s.getMessage()
		*rest = append(*rest, left...)
		st.rest, st.until = rest, time.Now().Add(writeTime)
		c.unsent += int64(len(left))
		c.streams[st.id] = st
		c.waiting = append(c.waiting, st)
	}
	return nil
}

// refuse answers a request that is in error, which has ended or not. Where the
// client does not let the explanation be sent it has to do without.
func (c *http2Conn) refuse(st *http2Stream, ended bool, err error) error {
	c.conn.stats.dropped.Add(1)
	problem := &httpError{http.StatusInternalServerError, "internal error"}
	errors.As(err, &problem)
	text := problem.text + "\n"
	if min(st.window, c.window) < int64(len(text)) {
		text = ""
	}
	c.head(problem.status, "text/plain; charset=utf-8", len(text))
	if problem.status == http.StatusMethodNotAllowed {
		c.field("allow", "GET, POST")
	}
	if st.req.method == http.MethodHead {
		text = ""
	}
	err = c.sendHead(st.id, text == "")
	if text != "" {
		c.send(st, []byte(text))
	}
	if !ended {
		return c.framer.WriteRSTStream(st.id, http2.ErrCodeNo) // RFC 9113 section 8.1
	}
	return err
}

// head begins the head of a response.
func (c *http2Conn) head(status int, contentType string, size int) {
	if now := time.Now(); now.Unix() != c.dated {
		c.dated, c.date = now.Unix(), now.UTC().Format(http.TimeFormat)
	}
	c.block.Reset()
	c.field(":status", strconv.Itoa(status))
	c.field("date", c.date)
	c.field("content-type", contentType)
	c.field("content-length", strconv.Itoa(size))
	c.field("x-content-type-options", "nosniff")
}

func (c *http2Conn) field(name, value string) {
	c.enc.WriteField(hpack.HeaderField{Name: name, Value: value})
}

func (c *http2Conn) sendHead(id uint32, last bool) error {
	return c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: last})
}

// send sends as much of the end of a response as the client lets it, and returns
// the rest.
func (c *http2Conn) send(st *http2Stream, body []byte) (rest []byte) {
	for len(body) > 0 {
		n := int(min(int64(len(body)), c.window, st.window, frameSize))
		if n <= 0 {
			break
		}
		c.framer.WriteData(st.id, n == len(body), body[:n]) // errors come again
		c.window -= int64(n)
		st.window -= int64(n)
		body = body[n:]
	}
	return body
}

// resume sends what may be sent now.
func (c *http2Conn) resume() {
	c.waiting = slices.DeleteFunc(c.waiting, func(st *http2Stream) bool {
		left := c.send(st, (*st.rest)[st.sent:])
		sent := len(*st.rest) - len(left)
		c.unsent -= int64(sent - st.sent)
		if st.sent = sent; len(left) > 0 {
			return false
		}
		delete(c.streams, st.id)
		c.conn.run.s.putMessage(st.rest)
		return true
	})
}

// reset breaks a request off.
func (c *http2Conn) reset(id uint32, code http2.ErrCode) error {
	if st := c.streams[id]; st != nil {
		c.conn.stats.dropped.Add(1)
		c.drop(st)
	}
	return c.framer.WriteRSTStream(id, code)
}

// drop forgets a request that has not come to its end.
func (c *http2Conn) drop(st *http2Stream) {
	delete(c.streams, st.id)
	if st.body != nil {
		c.conn.run.s.putMessage(st.body)
		st.body = nil
	}
	if st.rest != nil {
		c.unsent -= int64(len(*st.rest) - st.sent)
		c.waiting = slices.DeleteFunc(c.waiting, func(other *http2Stream) bool { return other == st })
		c.conn.run.s.putMessage(st.rest)
		st.rest = nil
	}
	c.release(st.held)
	st.held = 0
}

// readHTTP2 reads the fields of a request, and reports whether they are as they
// have to be (RFC 9113 section 8.3.1). What is not about one field alone the
// Framer has seen to.
func (r *webRequest) readHTTP2(f *http2.MetaHeadersFrame) bool {
	r.length = -1
	var target, scheme string
	for _, field := range f.Fields {
		switch value := field.Value; field.Name {
		case ":method":
			r.method = value
		case ":path":
			target = value
		case ":scheme":
			scheme = value
		case "content-type":
			r.contentType = cmp.Or(r.contentType, value)
		case "accept":
			r.accept = cmp.Or(r.accept, value)
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil || r.length >= 0 && r.length != int64(n) {
				return false
			}
			r.length = int64(n)
		case "te":
			if value != "trailers" {
				return false
			}
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			return false
		}
	}
	if r.method == http.MethodConnect {
		return target == "" && scheme == ""
	}
	if r.method == "" || scheme == "" || target == "" {
		return false
	}
	r.path, r.query, _ = strings.Cut(target, "?")
	if strings.Contains(r.path, "%") {
		r.path, _ = url.PathUnescape(r.path) // to "" where that cannot be
	}
	return true
}
