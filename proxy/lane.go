package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/netconn"
	"github.com/dcrouter/dcrouter/internal/nonblock"
	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// fastLane is the fast way through the proxy: HTTP/1.1 requests that are forwarded
// to targets over HTTP/1.1, read and written by the connection's own goroutine.
// It does what serveHTTP does, to the byte. Whatever it does not know goes to
// net/http, with the connection and for good.
type fastLane struct {
	run    *run
	conn   *conn
	client net.Conn // the connection, or the TLS on top of it
	in     *h1.Reader
	out    io.Writer // to client

	// Of the request being served; kept from one to the next for their memory.
	head     string
	req      h1.Request
	resp     h1.Response
	query    query
	exchange exchange
	session  session
	fields   h1.Fields
	choice   choice
	broke    error // why the target did not send all of its response
	reads    pauses
	upload   upload
	bodyRead atomic.Bool // the request's body has been taken from the client, or there is none
	watch    watch
	relayed  atomic.Int64 // bytes of responses read

	// What the access log will say about it.
	began   time.Time
	id      string // see requestID
	status  int
	aborted bool

	// The host of the last request, which is the next one's too most often.
	host, canonical string

	readBy, writeBy time.Time   // deadlines as set on client
	waiting         atomic.Bool // for a request
}

// What a step of the lane leads to.
type verdict int

const (
	goOn     verdict = iota
	hangUp           // close the connection
	handOver         // net/http goes on with the request just read
)

// serveFast serves a connection until it ends or net/http takes it over. head
// has been read from it already.
func (r *run) serveFast(c *conn, client net.Conn, head []byte) {
	l := &fastLane{run: r, conn: c, client: client, in: h1.NewReader(client, &r.p.buffers, head), out: nonblock.NewWriter(client)}
	l.session.cancel = func() { c.Close() }
	c.lane.Store(l)
	defer c.lane.Store(nil)
	client.SetDeadline(time.Time{})
	for first := true; ; first = false {
		v := l.next(first)
		if v == goOn {
			v = l.serve()
		}
		switch v {
		case handOver:
			l.giveAway()
			return
		case hangUp:
			l.in.Close()
			client.Close() // TLS says goodbye
			c.Close()
			return
		}
	}
}

// giveAway lets net/http go on, beginning with the request just read.
func (l *fastLane) giveAway() {
	rest := append([]byte(l.head), l.in.Buffered()...)
	l.in.Close()
	l.conn.lane.Store(nil)
	stream := net.Conn(l.conn)
	if tc, ok := l.client.(*tls.Conn); ok {
		stream = tc
	}
	l.run.queueHTTP(l.conn, l.run.strict(l.conn, stream, l.client, rest))
}

// next waits for a request and reads its head.
func (l *fastLane) next(first bool) verdict {
	c, r, times := l.conn, l.run, &l.run.times
	begun := first // the first head has its time from the start
	if first {
		l.setRead(deadline(times.RequestHead))
	}
	for {
		head, ok, err := l.in.Head(r.server.MaxHeaderBytes)
		if err != nil {
			l.head = "" // net/http will say that it is too long
			return handOver
		}
		if ok {
			l.head = head
			break
		}
		some := len(l.in.Buffered()) > 0
		switch {
		case some:
			c.fresh.Store(false)
			if !begun {
				begun = true
				l.setRead(deadline(times.RequestHead))
			}
		case !begun:
			l.keepRead(times.KeepAlive)
			l.waiting.Store(true)
			if r.waking.Load() {
				return hangUp
			}
		}
		err = l.in.Fill()
		l.waiting.Store(false)
		if err != nil {
			switch {
			case len(l.in.Buffered()) > 0:
				r.count(c, &r.p.stats.badRequest, errBadRequest)
			case c.fresh.Load():
				r.count(c, &r.p.stats.silent, errSilent)
			}
			return hangUp
		}
	}
	c.fresh.Store(false)
	switch err := h1.ParseRequest(l.head, &l.req); {
	case err == h1.ErrUnusual:
		return handOver
	case err != nil:
		r.count(c, &r.p.stats.badRequest, err)
		l.write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"))
		l.linger()
		return hangUp
	}
	return goOn
}

// serve answers one request.
func (l *fastLane) serve() verdict {
	c, r, req := l.conn, l.run, &l.req
	l.began, l.status, l.aborted = r.p.access.now(), 0, false
	l.id = r.identify(c, &req.Fields)
	if req.Host != l.host || l.canonical == "" {
		canonical, ok := canonicalHost(req.Host)
		if !ok {
			no := badRequest(&r.p.stats, "malformed Host")
			return l.refuse(&no)
		}
		l.host, l.canonical = req.Host, canonical
	}
	path, rawQuery, hasQuery := strings.Cut(req.Target, "?")
	canonical, ok := canonicalPath(path)
	if !ok || !sendable(path) {
		return handOver // to be refused
	}
	if r.isHTTPChallenge(c, req.Method, canonical) {
		return handOver
	}
	q := &l.query
	*q = query{client: c.client.Addr(), host: l.canonical, http: true,
		method: req.Method, path: canonical, rawQuery: rawQuery, rawHost: req.Host, header: &req.Fields}
	routes, rt, no := r.lookup(c, q)
	if no.status == 0 && !rt.fast {
		return handOver
	}
	if no.status == 0 {
		no = r.letIn(rt, q)
	}
	if no.status != 0 {
		return l.refuse(&no)
	}
	defer rt.release()

	if l.id != "" {
		req.Fields = r.p.addRequestID(req.Fields, l.id)
	}
	x := &l.exchange
	*x = exchange{run: r, conn: c, version: routes.version, route: rt, id: l.id, host: req.Host, path: path, matched: canonical,
		canonical: l.canonical, query: rawQuery, hasQuery: hasQuery, session: &l.session}
	x.in.route, x.out.route = &rt.state.bytesIn, &rt.state.bytesOut
	l.session.route, l.session.orphaned = rt, time.Time{}
	l.session.target.Store(nil)
	c.book(&l.session)
	defer c.end(&l.session)
	r.checkDrain(routes.version)
	v := l.forward()
	if r.p.access != nil {
		rec := l.record()
		x.fill(&rec)
		rec.status = l.status
		r.p.access.write(&rec)
	}
	return v
}

// record is what is known of the request from the beginning.
func (l *fastLane) record() accessRecord {
	path, query, _ := strings.Cut(l.req.Target, "?")
	return accessRecord{conn: l.conn, began: l.began, id: l.id, method: l.req.Method, protocol: "HTTP/1.1",
		host: l.req.Host, path: path, query: query, header: &l.req.Fields, aborted: l.aborted}
}

// refuse answers a request that goes nowhere.
func (l *fastLane) refuse(no *refusal) verdict {
	no.reason.count.Add(1)
	l.run.report(l.conn, no.reason, &l.req.Fields, no.route, no.text)
	close := no.last || l.closes() || !l.skipBody()
	fields := l.fields[:0]
	if no.retryAfter > 0 {
		fields = fields.Add("Retry-After", no.after())
	}
	if l.id != "" {
		fields = fields.Set(l.run.p.requestIDHeader, l.id)
	}
	ok := l.answer(no.status, fields, no.message(), close)
	if l.run.p.access != nil {
		rec := l.record()
		rec.refused, rec.route, rec.status = no.reason, no.route, no.status
		if l.req.Method != http.MethodHead {
			rec.out = uint64(len(no.message()) + 1)
		}
		l.run.p.access.write(&rec)
	}
	if !ok || close {
		return hangUp
	}
	return goOn
}

// closes reports whether the connection ends with this request.
func (l *fastLane) closes() bool {
	if l.run.keep(l.conn) && !l.req.Close && !l.run.closing.Load() {
		return false
	}
	l.conn.kept.Store(false)
	return true
}

// maxSkip is how much of an unwanted body is read to keep a connection; it is
// net/http's limit.
const maxSkip = 256 << 10

// skipBody reads the body of a request that nobody wants, or reports that it is
// not worth it.
func (l *fastLane) skipBody() bool {
	if l.req.ContentLength == 0 {
		return true
	}
	if l.req.ContentLength > maxSkip {
		return false
	}
	body := h1.NewBody(l.in, l.req.ContentLength)
	buffer := l.run.p.buffers.Get().(*[]byte)
	defer l.run.p.buffers.Put(buffer)
	l.setRead(time.Now().Add(restOf(l.run.times.Idle)))
	for n := 0; n <= maxSkip; {
		m, err := body.Read(*buffer)
		if n += m; body.Done() {
			return true
		}
		if err != nil {
			return false
		}
	}
	return false
}

// answer sends a text of our own, as http.Error does. It reports whether that
// went well.
func (l *fastLane) answer(status int, fields h1.Fields, text string, close bool) bool {
	fields = fields.Set("Content-Type", "text/plain; charset=utf-8").Set("X-Content-Type-Options", "nosniff")
	fields.Sort()
	b := l.run.p.buffers.Get().(*[]byte)
	defer l.run.p.buffers.Put(b)
	out := l.run.appendStatus((*b)[:0], status)
	out = fields.Append(out)
	out = append(out, "Date: "...)
	out = append(out, l.run.date()...)
	out = append(out, "\r\n"...)
	out = appendLength(out, len(text)+1)
	if close && !fields.Has("Connection") {
		out = h1.AppendField(out, "Connection", "close")
	}
	out = append(out, "\r\n"...)
	if l.req.Method != http.MethodHead {
		out = append(out, text...)
		out = append(out, '\n')
	}
	l.fields = fields[:0]
	if l.write(out) != nil {
		return false
	}
	if close {
		l.linger()
	}
	return true
}

// write sends bytes to the client.
func (l *fastLane) write(b []byte) error {
	l.keepWrite(l.run.times.Idle)
	_, err := l.out.Write(b)
	return err
}

// linger ends our direction and takes for a moment what the client still
// sends: it would be told that the connection is broken, and might never see
// the answer.
func (l *fastLane) linger() {
	if l.req.ContentLength == 0 && len(l.in.Buffered()) == 0 || netconn.CloseWrite(l.client) != nil {
		return
	}
	l.setRead(time.Now().Add(restOf(l.run.times.Idle)))
	l.in.Close()
	buffer := l.run.p.buffers.Get().(*[]byte)
	defer l.run.p.buffers.Put(buffer)
	for n := 0; n < maxSkip; {
		m, err := l.client.Read(*buffer)
		if n += m; err != nil {
			return
		}
	}
}

// wake ends waiting for a request that has not begun; Stop calls it.
func (l *fastLane) wake() {
	if l.waiting.Load() {
		l.client.SetReadDeadline(time.Unix(1, 0))
	}
}

func (l *fastLane) setRead(by time.Time) {
	l.readBy = by
	l.client.SetReadDeadline(by)
}

// keepRead and keepWrite set a deadline some time from now, but not at every
// call: setting one costs about as much as a small write.
func (l *fastLane) keepRead(d time.Duration) { keep(&l.readBy, d, l.client.SetReadDeadline) }

func (l *fastLane) keepWrite(d time.Duration) { keep(&l.writeBy, d, l.client.SetWriteDeadline) }

// keep sets a deadline to d from now, give or take an eighth.
func keep(by *time.Time, d time.Duration, set func(time.Time) error) {
	if d <= 0 {
		if !by.IsZero() {
			*by = time.Time{}
			set(*by)
		}
		return
	}
	want := time.Now().Add(d)
	if ahead := want.Sub(*by); ahead < 0 || ahead > d/8 {
		*by = want
		set(want)
	}
}
