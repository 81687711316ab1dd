package dnsserver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"slices"
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
	// seen to be too long. maxBodies is how much is kept of the messages of requests
	// that have not come to their ends; a client that sends more of them at once has to send some
	// again.
	bodyWindow = maxMessage + 1<<10
	maxBodies  = 256 << 10
	// maxUnsent is how much of answers may wait for a client that does not let
	// them be sent, before it gets no more.
	maxUnsent = 256 << 10

	frameSize     = 16 << 10 // of both sides, the least that there is
	initialWindow = 1<<16 - 1
	receiveWindow = 256 << 10 // of the connection
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
	cut     []uint32                // that we ended before the client did, the last of them
	last    uint32                  // the highest one that was taken
	idle    time.Time               // since when there is no request
	busy    bool                    // there has been one since the last Read
	leaving bool                    // goodbye has been said

	answering bool // an answer is being made

	window  int64          // what may be sent
	initial int64          // the same, of a new stream
	unsent  int64          // bytes of answers that wait
	waiting []*http2Stream // for leave to send the rest of their answer, in order
	takes   int64          // what the client may send, as it knows
	taken   int64          // what it may send again, but has not been told
	bodies  int64          // bytes of messages that are kept until their requests end
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
	defer c.end()
	c.part(c.serve())
}

// end gives everything back, also after a panic, when what made the answer stays
// out of use.
func (c *http2Conn) end() {
	for _, st := range c.streams {
		c.abandon(st)
	}
	if c.answering {
		c.conn.stats.dropped.Add(1)
		return
	}
	c.rest()
}

func (c *http2Conn) serve() error {
	if err := c.greet(); err != nil {
		return err
	}
	for first := true; ; first = false {
		f, err := c.next()
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
			if !c.leaving {
				c.last = max(c.last, wrong.StreamID)
			}
			if err := c.reset(wrong.StreamID, wrong.Code); err != nil {
				return err
			}
		}
	}
}

// next reads a frame.
func (c *http2Conn) next() (http2.Frame, error) {
	head, err := c.framer.ReadFrameHeader()
	if err != nil {
		return nil, err
	}
	f, err := c.framer.ReadFrameForHeader(head)
	if wrong, ok := err.(http2.StreamError); ok && head.Type == http2.FrameHeaders && wrong.Cause == nil {
		// More padding than there is. The decoder has not seen the fields, so that it
		// would not understand those that follow (RFC 9113 section 4.3).
		return nil, http2.ConnectionError(wrong.Code)
	}
	return f, err
}

// greet exchanges what comes before requests.
func (c *http2Conn) greet() error {
	c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: bodyWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderList},
	)
	c.give(receiveWindow - initialWindow)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// part ends the connection, and tells a client that has not done so itself why.
func (c *http2Conn) part(err error) {
	code := http2.ErrCodeNo
	var broken http2.ConnectionError
	switch {
	case errors.As(err, &broken):
		code = http2.ErrCode(broken)
	case errors.Is(err, http2.ErrFrameTooLarge), errors.Is(err, io.ErrUnexpectedEOF): // too short for what it says
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
	err := c.conn.send(*c.out)
	*c.out = (*c.out)[:0]
	return err
}

// Read reads from the client when all that has come is answered.
func (c *http2Conn) Read(b []byte) (int, error) {
	for {
		if err := c.flush(); err != nil {
			return 0, err
		}
		c.rest()
		if c.leaving && len(c.streams) == 0 {
			return 0, errStopping
		}
		n, err := c.readUntil(b, c.patience())
		if n > 0 {
			return n, nil // an error will come again
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errStopping) {
			return 0, err
		}
		isIdle := len(c.streams) == 0
		c.expire()
		switch {
		case c.conn.run.closing.Load() && !c.leaving:
			c.goodbye(http2.ErrCodeNo)
		case isIdle:
			return 0, err
		}
	}
}

// readUntil reads, until a deadline. After the goodbye that need not be in a hurry
// any more: what is left comes to its end.
func (c *http2Conn) readUntil(b []byte, until time.Time) (n int, err error) {
	if c.leaving {
		err = c.conn.Conn.SetReadDeadline(until)
	} else {
		err = c.conn.waitUntil(until)
	}
	c.conn.waitsSince.Store(c.idle.UnixNano())
	if err == nil {
		n, err = c.conn.Conn.Read(b)
	}
	c.conn.waitsSince.Store(0)
	if n == 0 {
		c.conn.patient = time.Time{}
	}
	return n, err
}

// patience is until when the client may let the connection stand.
func (c *http2Conn) patience() time.Time {
	if c.busy {
		c.busy, c.idle = false, time.Now()
	}
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

// expire ends the requests that the client has let stand.
func (c *http2Conn) expire() {
	now := time.Now()
	for id, st := range c.streams {
		if !now.Before(st.until) {
			c.reset(id, http2.ErrCodeCancel)
		}
	}
}

// take takes a frame in.
func (c *http2Conn) take(f http2.Frame) error {
	id := f.Header().StreamID
	// fresh: no request has come (RFC 9113 section 5.1). late: we were through with
	// it before the client could know.
	fresh := id > c.last || id%2 == 0
	late := fresh && id%2 == 1 && c.leaving || slices.Contains(c.cut, id)
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		if late {
			return nil // it has had an effect on compression, which is enough
		}
		return c.request(f)
	case *http2.DataFrame:
		if fresh && !late {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if c.takes -= int64(f.Length); c.takes < 0 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.give(int64(f.Length))
		if late {
			return nil
		}
		return c.data(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.WindowUpdateFrame:
		if id != 0 && fresh && !late {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return c.windowUpdate(id, int64(f.Increment))
	case *http2.RSTStreamFrame:
		if fresh && !late {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if st := c.streams[id]; st != nil {
			c.abandon(st)
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.framer.WritePing(true, f.Data)
		}
	case *http2.PriorityFrame:
		if f.StreamDep == id {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
	case *http2.PushPromiseFrame, *http2.ContinuationFrame: // the latter after a frame that was in error
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}
