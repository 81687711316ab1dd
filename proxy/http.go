package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/internal/nonblock"
	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// newHTTPServer makes the server that all HTTP of a run goes through. Its
// connections come out of the queue, routed as far as that goes without
// reading a request.
func (r *run) newHTTPServer() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(r.serveHTTP),
		ReadHeaderTimeout: max(r.times.RequestHead, 0),
		IdleTimeout:       max(r.times.KeepAlive, 0),
		MaxHeaderBytes:    defaultTo(r.p.cfg.MaxHeaderBytes, 16<<10),
		Protocols:         r.p.cfg.HTTP2.protocols(),
		HTTP2:             r.http2Config(),
		// OPTIONS * is a request like any other, for routes to decide on.
		DisableGeneralOptionsHandler: true,

		ErrorLog:    newNetLog(r.log),
		BaseContext: func(net.Listener) context.Context { return r.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, clientConn(c))
		},
		ConnState: r.connState,
	}
}

type connKey struct{}

var (
	errSilent     = errors.New("closed without a request")
	errBadRequest = errors.New("ended in the middle of a request head, or the head was too long")
	errMalformed  = errors.New("malformed request head")
)

// connState finds connections that end in the middle of a request head: a
// head that is malformed, too large or too slow never reaches the handler.
func (r *run) connState(nc net.Conn, state http.ConnState) {
	c := clientConn(nc)
	switch state {
	case http.StateActive:
		c.fresh.Store(false)
		c.unread.Store(true)
		c.serving.Store(true)
	case http.StateIdle:
		c.serving.Store(false)
		c.kept.Store(true)
		c.unread.Store(false)
	case http.StateHijacked:
		c.kept.Store(false)
		if s, ok := nc.(*strictConn); ok {
			s.hijacked.Store(true)
		}
		r.working.Done() // the handler is still counted
	case http.StateClosed:
		defer r.working.Done()
		switch {
		case c.fresh.Load():
			r.reject(c, &r.p.stats.silent, errSilent)
		case c.unread.Load() && c.whole.Load():
			r.reject(c, &r.p.stats.badRequest, errMalformed)
		case c.unread.Load():
			r.reject(c, &r.p.stats.badRequest, errBadRequest)
		}
		c.Close()
	}
}

// http serves HTTP on a connection without TLS.
func (r *run) http(c *conn) {
	c.clientText = c.client.Addr().String()
	isHTTP2 := false
	if r.p.cfg.HTTP2.enabled() {
		var err error
		if isHTTP2, err = c.greetsInHTTP2(); err != nil {
			r.reject(c, &r.p.stats.silent, err)
			return
		}
	}
	switch {
	case isHTTP2:
		r.queueHTTP2(c, c)
	case r.p.cfg.fastLane():
		r.serveFast(c, c.Conn, c.takeHead())
	default:
		r.queueHTTP(c, r.strict(c, c, c.Conn, c.takeHead()))
	}
}

// httpTLS serves HTTP on terminated TLS, from which head has been read.
func (r *run) httpTLS(c *conn, tc *tls.Conn, head []byte) {
	c.clientText = c.client.Addr().String()
	switch {
	case c.tls.NegotiatedProtocol == "h2":
		r.queueHTTP2(c, tc)
	case r.p.cfg.fastLane():
		r.serveFast(c, tc, head)
	default:
		r.queueHTTP(c, r.strict(c, tc, tc, head))
	}
}

// queueHTTP2 hands a connection in HTTP/2 to net/http. What has agreed on TLS
// 1.2 it gets as it is, because it looks whether the ciphers are good enough.
func (r *run) queueHTTP2(c *conn, stream net.Conn) {
	if r.p.cfg.HTTP2.webSockets() && (c.tls == nil || c.tls.Version > tls.VersionTLS12) {
		stream = newExtendedConnect(stream, c, r.server.MaxHeaderBytes)
	}
	r.queueHTTP(c, stream)
}

// queueHTTP hands a connection to net/http for good.
func (r *run) queueHTTP(c *conn, stream net.Conn) {
	c.direct = nonblock.NewConn(c.Conn)
	stream.SetDeadline(time.Time{})
	r.working.Add(1) // until connState hears of its end
	if !r.queue.push(stream) {
		r.working.Done()
		c.Close()
	}
}

// serveHTTP routes one request.
func (r *run) serveHTTP(w http.ResponseWriter, req *http.Request) {
	if r.ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	r.working.Add(1)
	defer r.working.Done()
	defer r.recoverHandler(req)

	c := req.Context().Value(connKey{}).(*conn)
	c.unread.Store(false)
	if req.TLS == nil {
		req.TLS = c.tls // net/http does not see it below what was read ahead
	}
	protocol := protocolOf(req, c)
	var upgrade *streamUpgrade
	if protocol == "websocket" {
		upgrade = newStreamUpgrade(w, req, c)
		defer upgrade.end()
		w, req = upgrade, upgrade.req
	}
	if req.ProtoMajor == 1 {
		c.writeBy = time.Time{} // net/http has cleared it behind the request before
	}
	body := newRequestBody(c, w, req)
	rec := accessRecord{conn: c, began: r.p.access.now(), id: r.identify(c, req.Header),
		method: req.Method, protocol: req.Proto, host: req.Host, header: req.Header, aborted: true}
	defer func() { r.p.access.write(&rec) }()
	path, rawQuery, hasQuery, pathOK := requestTarget(req)
	rec.path, rec.query = path, rawQuery
	if protocol != "" && upgrade == nil {
		r.refuse(w, body, &rec, refusal{reason: &r.p.stats.badRequest, status: http.StatusNotImplemented, text: "no such protocol on a stream"})
		return
	}
	host, ok := canonicalHost(req.Host)
	if !ok {
		r.refuse(w, body, &rec, badRequest(&r.p.stats, "malformed Host"))
		return
	}
	pathOK = pathOK && h1.IsToken(req.Method) // HTTP/2 lets anything through
	canonical := ""
	if pathOK {
		canonical, pathOK = canonicalPath(path)
	}
	if !pathOK {
		r.refuse(w, body, &rec, badRequest(&r.p.stats, "ambiguous or unsupported request target"))
		return
	}
	if protocol == "" && r.isHTTPChallenge(c, req.Method, canonical) && r.answersChallenge(w, req, c, &rec) {
		return
	}
	routes, rt, no := r.decide(c, &query{client: c.client.Addr(), host: host, http: true,
		method: req.Method, path: canonical, rawQuery: rawQuery, rawHost: req.Host, header: req.Header})
	if no.status != 0 {
		r.refuse(w, body, &rec, no)
		return
	}
	defer rt.release()
	if rec.id != "" {
		r.p.setRequestID(req.Header, rec.id)
	}

	ctx, cancel := body.context(req)
	defer cancel()
	if upgrade != nil {
		stop := context.AfterFunc(ctx, upgrade.reset)
		defer stop()
	}
	x := &exchange{run: r, conn: c, version: routes.version, route: rt, id: rec.id, host: req.Host,
		path: path, matched: canonical, canonical: host, query: rawQuery, hasQuery: hasQuery, trailer: req.Trailer, cancel: cancel}
	x.closable = req.ProtoMajor < 3 && upgrade == nil && req.Method != http.MethodConnect
	x.session = c.begin(rt, func() {
		cancel()
		// It may be waiting for a client that does not read.
		http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
	})
	defer c.end(x.session)
	r.checkDrain(routes.version)
	x.in.route, x.out.route = &rt.state.bytesIn, &rt.state.bytesOut
	x.writer = responseWriter{ResponseWriter: w, idle: r.times.Idle, bytes: &x.out, edit: x.beforeResponse}
	if req.ProtoMajor >= 2 {
		defer r.noteReset(x, req)
	}
	returned := false
	if req.ProtoMajor == 1 {
		x.writer.writeBy = &c.writeBy
		x.writer.before()
		x.writer.body = body
	} else {
		x.writer.stall = newIdleTimer(r.times.Idle, func() { x.writer.setDeadline(time.Unix(1, 0)) })
		x.writer.stall.rest()
		defer x.writer.stall.stop()
	}
	defer func() {
		rt.state.responses[x.writer.class()].Add(1)
		x.fill(&rec)
	}()

	if rt.Action.Handler != nil {
		info := c.info(rt)
		info.RequestID = x.id
		ctx = context.WithValue(ctx, connInfoKey{}, info)
	}
	req = req.WithContext(context.WithValue(ctx, exchangeKey{}, x))
	if body != nil {
		x.body, body.bytes = body, &x.in
		if req.ProtoMajor > 1 {
			x.body.stall = newIdleTimer(r.times.Idle, func() { x.body.setDeadline(time.Unix(1, 0)) })
			x.body.stall.rest()
			defer func() { x.body.finish(x.body.rest()) }()
		} else {
			defer func() { x.writer.leave(returned, c.Conn) }()
		}
		req.Body = x.body
	}
	x.serve(req)
	returned = true
	if x.writer.status == 0 {
		x.writer.WriteHeader(http.StatusOK) // as net/http would, but with the route's edits
	}
	if upgrade != nil {
		upgrade.wait()
	}
	rec.aborted = x.writer.broken
	if x.writer.hijacked {
		return // the connection is the handler's
	}
	x.writer.end()
}

// recoverHandler reports a panic in code of the host, which net/http would do
// where nobody looks, and ends the connection.
func (r *run) recoverHandler(req *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		r.log.Error("handler panicked", "remote", req.RemoteAddr, "panic", v, "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}

// exchange is one HTTP request and its response.
type exchange struct {
	run     *run
	conn    *conn
	route   *route
	host    string // as the client sent it
	path    string // likewise
	matched string // path in canonical form

	canonical string // host in canonical form
	query     string // likewise
	trailer   http.Header
	body      *requestBody // nil if there is none
	version   uint64       // of the table that route is from, which may be gone
	session   *session
	cancel    context.CancelFunc
	writer    responseWriter

	id        string        // "" where requests get none
	in, out   byteCount     // contents from and to the client
	firstByte time.Duration // see accessRecord, as for what follows
	refused   *rejection
	problem   error

	hasQuery bool // also if it is empty
	closable bool // its connection, or that of its stream, can be told to end with it
}

// serve runs the route's handler, through a compressor if the route has one.
func (x *exchange) serve(req *http.Request) {
	if x.route.compress == nil {
		x.route.handler.ServeHTTP(&x.writer, req)
		return
	}
	w := x.route.compress.wrap(&x.writer, req)
	defer w.release()
	x.route.handler.ServeHTTP(w, req)
	if err := w.finish(); err != nil {
		panic(http.ErrAbortHandler)
	}
}

type exchangeKey struct{}

func exchangeFrom(ctx context.Context) *exchange {
	return ctx.Value(exchangeKey{}).(*exchange)
}

// scheme is the scheme that the client used.
func (x *exchange) scheme() string {
	if x.conn.tls != nil {
		return "https"
	}
	return "http"
}

// refuse answers a request that no route takes.
func (r *run) refuse(w http.ResponseWriter, body *requestBody, rec *accessRecord, no refusal) {
	if rec.id != "" {
		w.Header()[r.p.requestIDHeader] = []string{rec.id}
	}
	if !strings.HasPrefix(rec.protocol, "HTTP/3") && !r.keep(rec.conn) {
		w.Header().Set("Connection", "close")
	}
	r.report(rec.conn, no.reason, rec.header, no.route, no.text) // before the client can ask again
	limited := &responseWriter{ResponseWriter: w, idle: r.times.Idle, bytes: new(byteCount), body: body}
	if strings.HasPrefix(rec.protocol, "HTTP/1") {
		limited.writeBy = &rec.conn.writeBy
		limited.before()
	} else if limited.idle > 0 {
		limited.setDeadline(time.Now().Add(limited.idle))
	}
	no.write(w)
	rec.refused, rec.route, rec.status, rec.aborted = no.reason, no.route, no.status, false
	if rec.method != http.MethodHead {
		rec.out = uint64(len(no.message()) + 1) // http.Error ends the line
	}
}
