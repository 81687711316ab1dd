package proxy

import (
	"io"
	"net"
	"time"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// relay passes the response on whose head has been read, and ends the use of
// the connection to the target.
func (l *fastLane) relay(e *entry, up *upstreamConn) verdict {
	resp := &l.resp
	hasBody := resp.HasBody(l.req.Method)
	// The client may not be through with its body. Nobody knows what of it will
	// have been read when the next request should begin.
	early := !l.bodyRead.Load()
	close := l.closes() || early
	pool := &l.run.p.buffers
	buffer := pool.Get().(*[]byte)
	l.broke, l.reads = nil, pauses{}
	b := l.appendResponse((*buffer)[:0], l.stickyCookie(e), hasBody, close, early)
	var err error
	if len(b) > len(*buffer)/2 {
		err = l.write(b) // it may have outgrown the buffer
		b = (*buffer)[:0]
	}

	length := resp.ContentLength
	if !hasBody {
		length = 0
	}
	body := h1.NewBody(up.in, length)
	up.settled = hasBody && l.req.ContentLength == 0
	switch {
	case err != nil:
	case length >= 0:
		err = l.relayCounted(b, *buffer, &body, up)
	default:
		err = l.relayChunked(b, *buffer, &body, up)
	}
	pool.Put(buffer)

	l.watch.end(l)
	whole := l.upload.end(l, up) && err == nil
	l.conn.use(nil)
	up.release(whole && !resp.Close && length != h1.UntilClose)
	if l.broke != nil && !l.watch.gone.Load() && !l.upload.clientErr.Load() && !l.conn.closed.Load() && !l.upload.isSlow(l) && !l.reads.areLong() {
		e.report(brokeOff, l.broke)
	}
	l.aborted = err != nil
	l.count(resp.Status, goOn)
	switch {
	case err != nil:
		// The client must not take what it got for all there is.
		l.conn.Close()
		return hangUp
	case early:
		l.linger()
		return hangUp
	case close:
		return hangUp
	}
	return goOn
}

// relayCounted passes on a body of known length, after the head in b.
func (l *fastLane) relayCounted(b, buffer []byte, body *h1.Body, up *upstreamConn) error {
	head := len(b)
	for {
		// What has arrived goes out in one piece.
		for !body.Done() && body.Ready() && len(b) < len(buffer) {
			n, err := body.Read(buffer[len(b):])
			b = b[:len(b)+n]
			if err != nil && err != io.EOF {
				return err
			}
		}
		if len(b) > 0 {
			if err := l.write(b); err != nil {
				return err
			}
			l.exchange.out.Add(uint64(len(b) - head))
		}
		if body.Done() {
			return nil
		}
		b, head = buffer[:0], 0
		if body.Ready() {
			continue
		}
		if body.Length() >= spliceFrom && !l.upload.sending() && bare(l.client) != nil && bare(up.Conn) != nil {
			return l.splice(up, body)
		}
		n, err := l.readBody(up, body, buffer)
		if err != nil && err != io.EOF {
			return err
		}
		b = buffer[:n]
	}
}

// relayChunked passes on a body that tells its end itself, after the head in
// b. What has arrived is not kept waiting for more.
func (l *fastLane) relayChunked(b, buffer []byte, body *h1.Body, up *upstreamConn) error {
	const most = h1.ChunkHead + 2 // around the data of a chunk
	total := 0
	for !body.Done() {
		if len(buffer)-len(b) < most+512 || len(b) > 0 && !body.Ready() {
			if err := l.write(b); err != nil {
				return err
			}
			b = buffer[:0]
		}
		room := buffer[len(b):]
		n, err := l.readBody(up, body, room[h1.ChunkHead:len(room)-2])
		if n > 0 {
			total += n
			chunk := frameChunk(room, n)
			b = b[:len(b)+copy(room, chunk)]
		}
		if err != nil && err != io.EOF {
			l.write(b)
			return err
		}
	}
	l.exchange.out.Add(uint64(total))
	b = append(b, "0\r\n"...)
	for _, f := range body.Trailer {
		if isTrailer(f.Name) {
			b = h1.AppendField(b, f.Name, f.Value)
		}
	}
	return l.write(append(b, "\r\n"...))
}

// readBody reads a part of the response's body. While the target lets it wait
// it looks whether the client is still there.
func (l *fastLane) readBody(up *upstreamConn, body *h1.Body, p []byte) (int, error) {
	idle := l.run.times.Idle
	step := within(idle, time.Second)
	still := time.Now() // since when nothing moves
	l.reads.end(still)
	defer func() { l.reads.begin(time.Now()) }()
	for now := still; ; now = time.Now() {
		switch {
		case l.watch.on():
			keep(&up.readBy, idle, up.Conn.SetReadDeadline)
		case l.upload.sending():
			// It may be through in a moment, and the client wants to be watched then.
			keep(&up.readBy, step, up.Conn.SetReadDeadline)
		default:
			up.keepPatience(now)
		}
		sent := l.upload.moved.Load() + int64(l.session.moved.Load())
		n, err := body.Read(p)
		if n > 0 {
			l.relayed.Add(int64(n))
		}
		switch {
		case n > 0 || err == nil || err == io.EOF:
			l.session.moved.Add(1) // for the sweeper, if it watches a spliced upload
			return n, err
		case !isTimeout(err):
			l.broke = err
			return n, err
		case l.upload.moved.Load()+int64(l.session.moved.Load()) != sent:
			still = time.Now() // the exchange moves in the other direction
		case l.watch.on(), idle > 0 && time.Since(still) >= idle-idle/8:
			l.broke = err
			return n, err
		case !l.upload.sending():
			l.watch.start(l, func() { up.Conn.Close() })
		}
	}
}

// spliceFrom is how much must be left of a body for the kernel to move it
// alone.
const spliceFrom = 256 << 10

// splice moves the rest of the response's body past us. How long it may stand
// still is the sweeper's business then: a deadline would not know whether
// anything has moved.
func (l *fastLane) splice(up *upstreamConn, body *h1.Body) error {
	if !l.watch.on() {
		l.watch.start(l, func() { up.Conn.Close() })
	}
	up.settled = false // nobody sees what comes behind the body
	up.readDeadline(time.Time{})
	l.writeBy = time.Time{}
	l.client.SetWriteDeadline(l.writeBy)
	l.reads.begin(time.Now())
	err := l.moveRest(l.client, up.Conn, body, body.Length(), &l.exchange.out)
	l.reads.end(time.Now()) // who was slow is not known
	if err != nil && !isWriteError(err) {
		l.broke = err
	}
	return err
}

// moveRest moves n bytes of what is left of a body of known length between
// connections.
func (l *fastLane) moveRest(dst, src net.Conn, body *h1.Body, n int64, count *byteCount) error {
	l.conn.watch(&l.session, l.session.cancel, nil)
	defer l.conn.unwatch(&l.session)
	n, err := l.run.moveN(dst, src, n, count, &l.session.moved)
	body.Took(n)
	return err
}

// stickyCookie returns what to send in a Set-Cookie field, or "".
func (l *fastLane) stickyCookie(e *entry) string {
	if s := e.balancer.sticky; s != nil {
		return s.setCookie(e, &l.choice, l.conn.tls != nil)
	}
	return ""
}
