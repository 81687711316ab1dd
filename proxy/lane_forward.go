package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// forward takes the request to a target and the response back. It tries
// targets until one answers, as long as nothing can have been done twice.
func (l *fastLane) forward() verdict {
	x, b := &l.exchange, l.exchange.route.balancer
	l.bodyRead.Store(l.req.ContentLength == 0)
	l.choice = choice{client: l.conn.client.Addr(), tried: l.choice.tried[:0]}
	if b.sticky != nil {
		l.choice.sticky = b.sticky.read(&l.req.Fields)
	}
	var problem error
	for {
		e, err := l.place(b)
		if errors.Is(err, errClientGone) {
			return l.count(0, hangUp)
		}
		if err != nil {
			if problem != nil {
				err = problem
			}
			return l.fail(err)
		}
		port := e.target.key.port
		if e.portFunc != nil || port == PreservePort {
			info := l.conn.info(x.route)
			if port, err = e.port(&info); err != nil {
				return l.fail(err)
			}
		}
		l.session.target.Store(e.target)
		x.run.checkDrain(x.version)
		v, err := l.try(e, e.target.poolKey(l.conn, port, x.outgoingHost()))
		if err == nil {
			return v
		}
		outcome := brokeOff
		switch {
		case errors.Is(err, errClientBody), errors.Is(err, errClientGone), l.conn.closed.Load(), x.run.ctx.Err() != nil:
			outcome = givenUp
		case x.route.provoked(e, err):
			outcome = provoked
		case isDialError(err):
			outcome = x.route.unreached(err)
		case isTimeout(err) || isNetTimeout(err):
			outcome = timedOut
		case l.upload.isSlow(l):
			outcome = provoked
		}
		e.done(outcome, err)
		switch {
		case outcome == givenUp && !errors.Is(err, errClientBody):
			return l.count(0, hangUp) // nobody waits for an answer
		case outcome == givenUp, outcome == timedOut,
			// The connection broke before an answer came. A request without
			// side effects and without a body can be sent again.
			outcome == brokeOff && (l.req.ContentLength != 0 || !idempotent(l.req.Method)),
			outcome == provoked && !isDialError(err), // it would fail at the others, too
			!b.mayRetry(&l.choice, e, outcome):
			return l.fail(err)
		}
		problem = err
	}
}

// place chooses a target and takes a place there. Whoever has to wait for one
// for a while is watched meanwhile.
func (l *fastLane) place(b *balancer) (*entry, error) {
	if b.limit == 0 {
		return b.next(l.run.ctx, &l.choice)
	}
	ctx, cancel := context.WithCancel(l.run.ctx)
	defer cancel()
	var (
		mu      sync.Mutex
		over    bool
		waiting watch
	)
	timer := time.AfterFunc(patience, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			waiting.start(l, cancel)
		}
	})
	e, err := b.next(ctx, &l.choice)
	timer.Stop()
	mu.Lock()
	over = true
	mu.Unlock()
	waiting.end(l)
	if waiting.gone.Load() {
		if e != nil {
			e.done(givenUp, nil)
		}
		return nil, errClientGone
	}
	return e, err
}

var errClientGone = errors.New("the client has gone")

// try takes the request to one target. An error means that the client has got
// nothing yet, and that the place at the target has not been given back.
func (l *fastLane) try(e *entry, key poolKey) (verdict, error) {
	for fresh := false; ; fresh = true {
		up, err := e.target.connection(l.run.ctx, key, fresh)
		if err != nil {
			return hangUp, err
		}
		if !l.conn.use(up) {
			up.Conn.Close()
		}
		l.upload, l.watch = upload{}, watch{}
		began := l.run.p.access.now()
		sent, err := l.send(up)
		if err == nil {
			err = l.readResponse(up)
		}
		l.exchange.firstByte = l.run.p.access.since(began)
		if err == nil {
			defer e.release()
			e.report(answered(l.resp.Status), nil)
			return l.relay(e, up), nil
		}
		l.upload.end(l, up)
		l.watch.end(l)
		if l.upload.clientErr.Load() {
			err = errClientBody
		}
		l.conn.use(nil)
		up.release(false)
		// As in sendHTTP1.
		if fresh || !up.isStale(err) || sent && (l.req.ContentLength != 0 || !idempotent(l.req.Method)) || l.conn.closed.Load() ||
			err == errClientBody || err == errClientGone {
			return hangUp, err
		}
	}
}

// send writes the request: its head, and its body if that has arrived already.
// Another goroutine sends it otherwise, because the target may answer before
// it has read all of it. sent tells whether the target may have got anything.
func (l *fastLane) send(up *upstreamConn) (sent bool, err error) {
	buffer := l.run.p.buffers.Get().(*[]byte)
	defer l.run.p.buffers.Put(buffer)
	b := l.appendRequest((*buffer)[:0])
	length, whole := l.req.ContentLength, false
	if buffered := l.in.Buffered(); length > 0 && int64(len(buffered)) >= length && len(b)+int(length) <= len(*buffer) {
		b = append(b, buffered[:length]...)
		whole = true
	}
	keep(&up.writeBy, l.run.times.Idle, up.Conn.SetWriteDeadline)
	n, err := up.out.Write(b)
	if err != nil {
		return n > 0, err
	}
	switch {
	case whole:
		l.in.Discard(int(length))
		l.bodyRead.Store(true)
		l.exchange.in.Add(uint64(length))
	case length != 0:
		l.upload.start(l, up)
	}
	return true, nil
}

// readResponse reads the head of the final response and passes informational
// ones on.
func (l *fastLane) readResponse(up *upstreamConn) error {
	since := time.Now() // the whole request has been sent
	for range maxInformational {
		for {
			head, ok, err := up.in.Head(maxResponseHead)
			if err != nil {
				return err
			}
			if ok {
				if err := h1.ParseResponse(head, &l.resp); err != nil {
					return err
				}
				break
			}
			if err := l.awaitResponse(up, &since); err != nil {
				return err
			}
		}
		switch status := l.resp.Status; {
		case status == http.StatusSwitchingProtocols:
			return errors.New("the target switched protocols without being asked")
		case status >= 200:
			return nil
		}
		if err := l.inform(); err != nil {
			return errClientGone
		}
	}
	return errors.New("the target sends informational responses without end")
}

// awaitResponse reads once from the target.
func (l *fastLane) awaitResponse(up *upstreamConn, since *time.Time) error {
	limit := l.run.times.ResponseHead
	for {
		switch {
		case l.upload.sending():
			*since = time.Now()
			up.readDeadline(since.Add(time.Second))
		case l.watch.on():
			up.readDeadline(deadlineFrom(*since, limit))
		default:
			up.keepPatience(*since)
		}
		if l.upload.clientErr.Load() {
			return errClientBody
		}
		wasSending := l.upload.sending()
		err := up.in.Fill()
		switch {
		case err == nil:
			return nil
		case wasSending && isTimeout(err) && !l.upload.sending() && !l.upload.clientErr.Load():
			*since = time.Now() // the wait for the answer begins
			continue
		case l.watch.gone.Load():
			return errClientGone
		case err == io.EOF:
			return errNoAnswer
		case !isTimeout(err) || limit > 0 && time.Since(*since) >= limit && !l.upload.sending():
			return err
		}
		if !l.watch.on() && !l.upload.sending() {
			l.watch.start(l, func() { up.Conn.Close() })
		}
	}
}

// inform passes an informational response on.
func (l *fastLane) inform() error {
	l.fields = incoming(l.resp.Fields, l.fields[:0])
	l.fields.Sort()
	b := l.run.appendStatus(nil, l.resp.Status)
	return l.write(append(l.fields.Append(b), "\r\n"...))
}

func deadlineFrom(since time.Time, limit time.Duration) time.Time {
	if limit <= 0 {
		return time.Time{}
	}
	return since.Add(limit)
}

// fail answers a request that no target has answered, as forwardError does.
func (l *fastLane) fail(err error) verdict {
	x := &l.exchange
	status, close := http.StatusBadGateway, l.closes()
	fields := l.fields[:0]
	switch {
	case errors.Is(err, context.Canceled):
		return l.count(0, hangUp)
	case errors.Is(err, errClientBody):
		status = http.StatusBadRequest
	case errors.Is(err, errNoTarget), errors.Is(err, errBusy):
		status = http.StatusServiceUnavailable
		fields = fields.Add("Retry-After", "1")
	case isTimeout(err) || isNetTimeout(err):
		status = http.StatusGatewayTimeout
	}
	if status != http.StatusBadRequest {
		x.run.unreachable(l.conn, x.route, err)
	}
	x.problem = err
	if x.id != "" {
		fields = fields.Set(x.run.p.requestIDHeader, x.id)
	}
	if x.conn.altSvc != "" {
		fields = fields.Set("Alt-Svc", x.conn.altSvc)
	}
	fields = x.route.responseEdits.applyTo(fields, x)
	if !l.bodyRead.Load() {
		close = true // as with an early response
		fields = fields.Set("Connection", "close")
	}
	x.out.Add(uint64(len(http.StatusText(status)) + 1))
	if !l.answer(status, fields, http.StatusText(status), close) || close {
		return l.count(status, hangUp)
	}
	return l.count(status, goOn)
}

// count puts the status of a response into the route's statistics.
func (l *fastLane) count(status int, v verdict) verdict {
	l.status, l.aborted = status, l.aborted || status == 0
	l.exchange.route.state.responses[min(status/100, 5)].Add(1)
	return v
}

// trailerNames lists the trailers that a response announces.
func trailerNames(fields h1.Fields) string {
	announced := fields.Join("Trailer")
	if announced == "" {
		return ""
	}
	var names []string
	for name := range strings.SplitSeq(announced, ",") {
		if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); isTrailer(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
