package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// newForwarder makes the handler of all routes that forward HTTP.
func newForwarder(p *Proxy) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite:      rewrite,
		Transport:    balancedTransport{},
		ErrorHandler: forwardError,
		ErrorLog:     newNetLog(p.log),
		BufferPool:   bufferPool{&p.buffers},
		ModifyResponse: func(resp *http.Response) error {
			x := exchangeFrom(resp.Request.Context())
			switch code := resp.StatusCode; {
			case code < 100 || code > 999:
				return fmt.Errorf("the target answered with status %d", code)
			case code != http.StatusSwitchingProtocols:
				x.writer.flushHead = resp.ContentLength < 0 && resp.Body != http.NoBody
				return nil
			}
			if asked, got := upgradeType(resp.Request.Header), upgradeType(resp.Header); asked == "" || asked != got {
				return fmt.Errorf("the target switched to protocol %q where %q was asked for", got, asked)
			}
			x.editResponse(resp.Header)
			return nil
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		x := exchangeFrom(req.Context())
		if !sendable(x.path) {
			no := badRequest(&p.stats, "ambiguous or unsupported request target")
			x.refused = no.reason
			no.write(w)
			x.run.report(x.conn, no.reason, req.Header, x.route, no.text)
			return
		}
		if x.body != nil && req.ProtoMajor == 1 {
			// A target may answer before it has read the whole body.
			_ = x.writer.EnableFullDuplex()
		}
		x.writer.forwards = true
		proxy.ServeHTTP(w, req)
	})
}

// rewrite makes the request to the target out of the client's.
func rewrite(pr *httputil.ProxyRequest) {
	x := exchangeFrom(pr.In.Context())
	out := pr.Out
	fields := make(h1.Fields, 0, len(pr.In.Header)+8)
	fields = x.outgoing(make(h1.Fields, 0, len(pr.In.Header)).FromHeader(pr.In.Header), fields)
	upgrade := out.Header["Upgrade"] // httputil leaves it where it belongs
	out.Header = fields.Header()
	if upgrade != nil {
		out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, upgrade
		dropUnsafeUpgrade(out.Header)
	}
	out.Trailer = x.outgoingTrailer(pr.In)
	out.Host = x.outgoingHost()
	x.setTarget(out)
}

// setTarget makes path and query go out as they came in: the target must see
// what was matched.
func (x *exchange) setTarget(out *http.Request) {
	u := &url.URL{RawQuery: x.query, ForceQuery: x.hasQuery && x.query == ""}
	if strings.HasPrefix(x.path, "//") {
		// An opaque URL with two slashes would be taken for one with a host.
		// sendable has made sure that this is written as it is, too.
		u.RawPath = x.path
		u.Path, _ = url.PathUnescape(x.path)
	} else {
		u.Opaque = x.path
	}
	out.URL = u
}

// sendable reports whether setTarget can write the path.
func sendable(path string) bool {
	if !strings.HasPrefix(path, "//") {
		return true
	}
	plain, err := url.PathUnescape(path)
	return err == nil && (&url.URL{Path: plain, RawPath: path}).EscapedPath() == path
}

// dropUnsafeUpgrade removes what would let a client speak HTTP/2 with the
// target through an upgraded connection, past all routes.
func dropUnsafeUpgrade(h http.Header) {
	for name := range strings.SplitSeq(strings.Join(h["Upgrade"], ","), ",") {
		name, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(name)), "/")
		if name == "h2c" || name == "h2" || name == "http" || name == "tls" {
			h.Del("Upgrade")
			h.Del("Connection")
			return
		}
	}
}

// balancedTransport sends a request to one of its route's targets.
type balancedTransport struct{}

// RoundTrip tries targets until one answers, as long as nothing can have been
// done twice.
func (balancedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeFrom(req.Context())
	b := x.route.balancer
	info := x.conn.info(x.route)
	body := &onceBody{ReadCloser: req.Body, trailer: req.Trailer, source: x.trailer}
	if req.Body == nil || req.Body == http.NoBody {
		body = nil
	}
	call := newGRPCCall(req.Header)
	ch := choice{client: info.Client.Addr()}
	if b.sticky != nil {
		ch.sticky = b.sticky.read(req.Header)
	}
	var problem error
	for {
		e, err := b.next(req.Context(), &ch)
		if err != nil {
			if problem != nil && req.Context().Err() == nil {
				err = problem
			}
			return nil, err
		}
		port, err := e.port(&info)
		if err != nil {
			return nil, err
		}
		resp, err := x.roundTrip(e, req, body, port, call)
		if err == nil {
			if b.sticky != nil {
				if cookie := b.sticky.setCookie(e, &ch, x.conn.tls != nil); cookie != "" {
					resp.Header.Add("Set-Cookie", cookie)
				}
			}
			return resp, nil
		}
		outcome := brokeOff
		switch {
		case x.body != nil && x.body.failed.Load():
			err, outcome = errClientBody, givenUp
		case req.Context().Err() != nil:
			outcome = givenUp
		case x.route.provoked(e, err), asksUpgrade(e.target, req) && (!isDialError(err) || asTLSError(err) != nil):
			outcome = provoked // one that speaks HTTP/2 need not understand HTTP/1.1
		case isDialError(err):
			outcome = x.route.unreached(err)
		case isTimeout(err) || isNetTimeout(err):
			outcome = timedOut
		case call.over():
			err, outcome = errGRPCDeadline, givenUp
		case x.body.isSlow():
			outcome = provoked
		}
		e.done(outcome, err)
		switch {
		case outcome == givenUp || outcome == timedOut:
			return nil, err
		case outcome == brokeOff && (body != nil || !idempotent(req.Method)):
			// The connection broke before an answer came. A request without
			// side effects and without a body can be sent again.
			return nil, err
		case outcome == provoked && !isDialError(err):
			return nil, err // it would fail at the others, too
		case body != nil && body.read.Load(), !b.mayRetry(&ch, e, outcome):
			return nil, err
		}
		problem = err
	}
}

// roundTrip sends a request to the target of e. If that answers, the place
// there is given back when the answer has been read.
func (x *exchange) roundTrip(e *entry, req *http.Request, body *onceBody, port int, call grpcCall) (*http.Response, error) {
	t := e.target
	out := req.WithContext(req.Context()) // shallow: what follows changes no fields
	if body != nil {
		out.Body = body
		// A target that takes no more of the body. The client's own limit gets
		// to fire first, because it knows whose fault it is.
		idle := x.run.times.Idle
		body.stall = newIdleTimer(idle+idle/4, x.cancel)
		defer body.stall.stop()
	}
	key := t.poolKey(x.conn, port, out.Host)
	x.session.target.Store(t)
	x.run.checkDrain(x.version)
	sent := x.run.p.access.now()
	var resp *http.Response
	var err error
	if t.h2 == nil || asksUpgrade(t, out) {
		resp, err = t.sendHTTP1(x.run, out, key)
	} else {
		resp, err = t.sendHTTP2(x, out, key)
	}
	if err != nil {
		return nil, err
	}
	x.firstByte = x.run.p.access.since(sent)
	e.report(answered(resp.StatusCode), nil)
	// The target is busy with the request until the body has been read.
	expire := x.cancel
	if resp.StatusCode == http.StatusSwitchingProtocols && req.ProtoMajor == 1 {
		// It may be waiting for a client that does not read.
		expire = func() { x.cancel(); x.conn.Close() }
	}
	timer := newIdleTimer(x.run.times.Idle, expire)
	if x.body != nil && timer != nil {
		x.body.share(timer)
	}
	done := sync.OnceFunc(func() {
		timer.stop()
		e.release()
	})
	if rw, ok := resp.Body.(io.ReadWriteCloser); ok {
		resp.Body = &upgradedBody{ReadWriteCloser: rw, timer: timer, done: done, in: &x.in, out: &x.out}
	} else {
		resp.Body = &responseBody{ReadCloser: resp.Body, timer: timer, done: done, ctx: req.Context(), request: x.body, entry: e, resp: resp, call: call}
	}
	return resp, nil
}

// asksUpgrade reports whether a target of HTTP/2 is to be asked in HTTP/1.1, as
// HTTP/2 has no Upgrade.
func asksUpgrade(t *target, req *http.Request) bool {
	return t.h2 != nil && upgradeType(req.Header) != ""
}

// errClientBody ends a request whose body the client did not send as announced.
// That is no fault of the target.
var errClientBody = errors.New("the client broke off the request body, or it was malformed")

// idempotent methods may be repeated, RFC 9110 section 9.2.2. PUT and DELETE
// would qualify, but the effects of a repetition are rarely what one wants.
func idempotent(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

func isNetTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// onceBody keeps a request body open over several attempts and knows whether
// any of it has been used.
type onceBody struct {
	io.ReadCloser
	read  atomic.Bool
	stall *idleTimer // until the response begins or the body ends

	// The target's trailer, which gets its values at the end of the body, and
	// the client's, which net/http fills then.
	trailer, source http.Header
}

// Read marks the body as used.
func (b *onceBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.stall.moved()
	if err != nil {
		b.stall.stop()
	}
	if err == io.EOF {
		for name := range b.trailer {
			b.trailer[name] = b.source[name]
		}
	}
	return n, err
}

// Close does nothing: an attempt that failed must not close the body.
func (b *onceBody) Close() error { return nil }

// responseBody ends the exchange when the target stands still, and reports
// when the response has been read.
type responseBody struct {
	io.ReadCloser
	timer *idleTimer
	done  func()

	ctx     context.Context
	request *requestBody // nil if there is none
	entry   *entry
	resp    *http.Response
	call    grpcCall
	reads   pauses
}

// Read reads a part of the body.
func (b *responseBody) Read(p []byte) (int, error) {
	b.reads.end(time.Now())
	n, err := b.ReadCloser.Read(p)
	b.reads.begin(time.Now())
	b.timer.moved()
	if err != nil && err != io.EOF && b.ctx.Err() == nil && (b.request == nil || !b.request.failed.Load()) {
		switch {
		case !b.call.over():
			if !isOversized(err) && !b.request.isSlow() && !b.reads.areLong() {
				b.entry.report(brokeOff, err)
			}
		case b.call.end(b.resp):
			return n, io.EOF
		}
	}
	return n, err
}

// Close closes the body.
func (b *responseBody) Close() error {
	b.done()
	return b.ReadCloser.Close()
}

// upgradedBody is the connection to a target after 101 Switching Protocols.
type upgradedBody struct {
	io.ReadWriteCloser
	timer   *idleTimer
	done    func()
	in, out *byteCount
}

// Read reads what the target sends to the client.
func (b *upgradedBody) Read(p []byte) (int, error) {
	n, err := b.ReadWriteCloser.Read(p)
	b.timer.moved()
	b.out.Add(uint64(n))
	return n, err
}

// Write writes what the client sends to the target.
func (b *upgradedBody) Write(p []byte) (int, error) {
	b.timer.moved()
	n, err := b.ReadWriteCloser.Write(p)
	b.in.Add(uint64(n))
	return n, err
}

// CloseWrite passes the end of the client's direction on.
func (b *upgradedBody) CloseWrite() error {
	if w, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection.
func (b *upgradedBody) Close() error {
	b.done()
	return b.ReadWriteCloser.Close()
}

// upgradeType is the protocol that a message asks for or agrees to switch to.
func upgradeType(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return strings.ToLower(h.Get("Upgrade"))
}

// forwardError answers a request that no target has answered.
func forwardError(w http.ResponseWriter, req *http.Request, err error) {
	x := exchangeFrom(req.Context())
	x.problem = err
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, context.Canceled) && req.Context().Err() != nil:
		// The client left, or the proxy stops: nobody waits for an answer.
		panic(http.ErrAbortHandler)
	case errors.Is(err, errClientBody):
		if req.ProtoMajor == 1 { // in HTTP/2 it is the stream that is broken
			w.Header().Set("Connection", "close")
		}
		x.run.log.Debug("request could not be forwarded", "route", x.route.Name, "conn_id", x.conn.name(), "remote", x.conn.client, "err", err)
		http.Error(w, http.StatusText(http.StatusBadRequest), http.StatusBadRequest)
		return
	case isOversized(err):
		x.run.log.Debug("request could not be forwarded", "route", x.route.Name, "conn_id", x.conn.name(), "remote", x.conn.client, "err", err)
		http.Error(w, http.StatusText(http.StatusRequestHeaderFieldsTooLarge), http.StatusRequestHeaderFieldsTooLarge)
		return
	case errors.Is(err, errGRPCDeadline):
		answerGRPCDeadline(w, req)
		return
	case errors.Is(err, errNoTarget), errors.Is(err, errBusy):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	case isTimeout(err) || isNetTimeout(err):
		status = http.StatusGatewayTimeout
	}
	x.run.unreachable(x.conn, x.route, err)
	http.Error(w, http.StatusText(status), status)
}

// bufferPool lends the Proxy's buffers to httputil.
type bufferPool struct{ pool *sync.Pool }

// Get returns a buffer.
func (b bufferPool) Get() []byte { return *b.pool.Get().(*[]byte) }

// Put takes it back.
func (b bufferPool) Put(buf []byte) { b.pool.Put(&buf) }
