package dnsserver

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Stream is a request whose body is not complete yet, or whose answer could
// not be sent at once.
type http2Stream struct {
	id     uint32
	until  time.Time // is patience with it
	window int64     // what may be sent
	answer *[]byte   // what of it had to wait; nil while the body is not complete
	sent   int       // of answer

	req     webRequest
	problem error   // with it, to be told at its end
	body    *[]byte // the message; nil while nothing of it has come
	kept    int64   // bytes of it that are in bodies of the connection
	got     int64   // bytes of a body
	used    int64   // of its window: got, and padding
}

// request takes the head of a request in, or the fields at its end.
func (c *http2Conn) request(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	malformed := http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
	st := c.streams[id]
	switch {
	case st != nil && st.answer != nil:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeStreamClosed}
	case st != nil && (!f.StreamEnded() || len(f.PseudoFields()) > 0):
		return malformed
	case st != nil:
		return c.complete(st)
	case id%2 == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case id <= c.last:
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	}
	c.last = id
	c.conn.asked.Store(true)
	switch {
	case f.HasPriority() && f.Priority.StreamDep == id:
		return malformed
	case len(c.streams) >= maxStreams || c.unsent > maxUnsent:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	}
	c.busy = true
	c.conn.stats.queries.Add(1)
	st = &http2Stream{id: id, window: c.initial, until: time.Now().Add(messageTime)}
	if f.Truncated {
		return c.refuse(st, f.StreamEnded(), &httpError{http.StatusRequestHeaderFieldsTooLarge, "the head of the request is too long: long messages come by POST"})
	}
	if !st.req.readHTTP2(f) || f.StreamEnded() && st.req.length > 0 {
		c.conn.stats.dropped.Add(1)
		return malformed
	}
	if st.req.method == http.MethodGet {
		st.body = c.conn.run.s.getMessage()
		*st.body, st.problem = st.req.read(*st.body)
	} else {
		_, st.problem = st.req.read(nil) // the message comes with the body
	}
	switch {
	case f.StreamEnded():
		return c.complete(st)
	case st.problem == errBodyTooLong:
		c.remove(st)
		return c.refuse(st, false, st.problem)
	}
	st.req.drop()
	c.streams[id] = st
	if st.body != nil {
		return c.keep(st, len(*st.body))
	}
	return nil
}

// keep counts bytes of a message that has to wait for the end of its request.
func (c *http2Conn) keep(st *http2Stream, n int) error {
	if c.bodies+int64(n) > maxBodies {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeRefusedStream}
	}
	c.bodies += int64(n)
	st.kept += int64(n)
	return nil
}

// data takes a part of a body in.
func (c *http2Conn) data(f *http2.DataFrame) error {
	st, part := c.streams[f.StreamID], f.Data()
	if st == nil || st.answer != nil {
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	st.used += int64(f.Length)
	st.got += int64(len(part))
	switch {
	case st.used > bodyWindow:
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeFlowControl}
	case st.req.length >= 0 && st.got > st.req.length:
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	case st.got > maxMessage:
		c.remove(st)
		return c.refuse(st, f.StreamEnded(), errBodyTooLong)
	case st.req.hasBody:
		if err := c.keep(st, len(part)); err != nil {
			return err
		}
		if st.body == nil {
			st.body = c.conn.run.s.getMessage()
		}
		*st.body = append(*st.body, part...)
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
	if c.unsent > maxUnsent { // which it was not when the request began
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeRefusedStream}
	}
	delete(c.streams, st.id)
	c.busy = true
	defer c.dropBody(st)
	if st.problem != nil {
		return c.refuse(st, true, st.problem)
	}
	return c.respond(st)
}

// respond answers a message. If not all of that can be sent the stream stays.
func (c *http2Conn) respond(st *http2Stream) error {
	s := c.conn.run.s
	if c.sc == nil {
		c.sc = s.scratches.Get().(*scratch)
	}
	if c.msg == nil {
		c.msg = s.getMessage()
	}
	var in, body []byte
	if st.body != nil {
		in = *st.body
	}
	var err error
	c.answering = true
	*c.msg, body, err = s.answerHTTP(c.sc, (*c.msg)[:0], in, &c.conn.from, st.req.form)
	c.answering = false
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
	if left := c.sendBody(st, body); len(left) > 0 {
		st.answer, st.until = s.getMessage(), time.Now().Add(writeTime)
		*st.answer = append(*st.answer, left...)
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
	problem := httpProblem(err)
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
		c.sendBody(st, []byte(text))
	}
	if !ended {
		return c.reset(st.id, http2.ErrCodeNo) // RFC 9113 section 8.1
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

// sendBody sends as much of a body as the client lets it, and returns what is left.
func (c *http2Conn) sendBody(st *http2Stream, body []byte) (left []byte) {
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
	for _, st := range c.waiting {
		left := c.sendBody(st, (*st.answer)[st.sent:])
		sent := len(*st.answer) - len(left)
		c.unsent -= int64(sent - st.sent)
		st.sent = sent
	}
	c.waiting = slices.DeleteFunc(c.waiting, func(st *http2Stream) bool {
		if st.sent < len(*st.answer) {
			return false
		}
		c.remove(st)
		return true
	})
}

// reset ends a stream before the client does, and a request on it.
func (c *http2Conn) reset(id uint32, code http2.ErrCode) error {
	if st := c.streams[id]; st != nil {
		c.abandon(st)
	}
	if len(c.cut) == maxStreams {
		c.cut = append(c.cut[:0], c.cut[1:]...)
	}
	c.cut = append(c.cut, id)
	return c.framer.WriteRSTStream(id, code)
}

// abandon ends a request that does not get its answer, or not all of it.
func (c *http2Conn) abandon(st *http2Stream) {
	if st.answer == nil {
		c.conn.stats.dropped.Add(1)
	} else {
		c.unsent -= int64(len(*st.answer) - st.sent)
		c.waiting = slices.DeleteFunc(c.waiting, func(other *http2Stream) bool { return other == st })
	}
	c.remove(st)
}

// remove forgets a stream.
func (c *http2Conn) remove(st *http2Stream) {
	delete(c.streams, st.id)
	c.busy = true // until now
	c.dropBody(st)
	if st.answer != nil {
		c.conn.run.s.putMessage(st.answer)
		st.answer = nil
	}
}

func (c *http2Conn) dropBody(st *http2Stream) {
	c.bodies -= st.kept
	st.kept = 0
	if st.body != nil {
		c.conn.run.s.putMessage(st.body)
		st.body = nil
	}
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
