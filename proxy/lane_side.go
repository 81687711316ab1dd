package proxy

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// upload sends the body of a request while the lane waits for the response.
type upload struct {
	began     time.Time
	done      chan struct{} // nil: there is nothing to send
	whole     bool          // all of it has been sent; valid when done
	clientErr atomic.Bool   // the client broke it off, or sent what is no body
	moved     atomic.Int64  // bytes
	stopped   atomic.Bool   // nobody waits for it
}

func (u *upload) start(l *fastLane, up *upstreamConn) {
	u.began, u.done = time.Now(), make(chan struct{})
	l.run.working.Add(1)
	go func() {
		defer l.run.working.Done()
		defer close(u.done)
		u.whole = u.send(l, up) == nil
	}()
}

func (u *upload) send(l *fastLane, up *upstreamConn) error {
	pool := &l.run.p.buffers
	buffer := pool.Get().(*[]byte)
	defer pool.Put(buffer)
	idle := l.run.times.Idle
	body := h1.NewBody(l.in, l.req.ContentLength)
	for {
		if body.Length() >= spliceFrom && !body.Ready() && bare(l.client) != nil && bare(up.Conn) != nil {
			if err := u.splice(l, up, &body); err != nil {
				return err
			}
		}
		l.keepRead(idle)
		if u.stopped.Load() {
			return errClientBody // end may have come before the deadline
		}
		returned := l.relayed.Load()
		n, err := body.Read((*buffer)[h1.ChunkHead : len(*buffer)-2])
		if n == 0 && err != nil && isTimeout(err) && l.relayed.Load() != returned && !u.stopped.Load() {
			continue // the exchange moves in the other direction
		}
		if err != nil && err != io.EOF {
			u.blameClient(up)
			return err
		}
		if body.Done() {
			// Before the target gets the end: it may answer at once, and the
			// connection to the client is as good for the next request as any.
			l.bodyRead.Store(true)
		}
		if n > 0 {
			l.exchange.in.Add(uint64(n))
			u.moved.Add(int64(n))
			b := (*buffer)[h1.ChunkHead : h1.ChunkHead+n]
			if l.req.ContentLength == h1.Chunked {
				b = frameChunk(*buffer, n)
			}
			// The client's own limit gets to fire first: it knows whose fault it is.
			keep(&up.writeBy, idle+idle/4, up.Conn.SetWriteDeadline)
			if u.stopped.Load() {
				return errClientBody
			}
			if _, err := up.out.Write(b); err != nil {
				return err
			}
		}
		if body.Done() {
			break
		}
	}
	if l.req.ContentLength == h1.Chunked {
		_, err := up.out.Write([]byte("0\r\n\r\n"))
		return err
	}
	return nil
}

// splice moves the rest of the body past us, as the lane does with responses,
// but for its last byte: see bodyRead.
func (u *upload) splice(l *fastLane, up *upstreamConn, body *h1.Body) error {
	l.setRead(time.Time{})
	up.writeDeadline(time.Time{})
	if u.stopped.Load() {
		return errClientBody // end may have come before the deadlines were lifted
	}
	err := l.moveRest(up.Conn, l.client, body, body.Length()-1, &l.exchange.in)
	if err != nil && !isWriteError(err) {
		u.blameClient(up)
	}
	return err
}

// blameClient notes that the client broke the body off, unless it was end that
// interrupted it. There is no answer to wait for then.
func (u *upload) blameClient(up *upstreamConn) {
	if !u.stopped.Load() {
		u.clientErr.Store(true)
		up.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// sending reports whether the body is still on its way.
func (u *upload) sending() bool {
	if u.done == nil {
		return false
	}
	select {
	case <-u.done:
		return false
	default:
		return true
	}
}

// isSlow is as with a requestBody.
func (u *upload) isSlow(l *fastLane) bool {
	return u.done != nil && !l.bodyRead.Load() && time.Since(u.began) >= servesSlow
}

// end makes the upload stop. It reports whether the body was sent whole.
func (u *upload) end(l *fastLane, up *upstreamConn) bool {
	if u.done == nil {
		return true
	}
	if u.sending() {
		u.stopped.Store(true)
		l.client.SetReadDeadline(time.Unix(1, 0))
		up.Conn.SetWriteDeadline(time.Unix(1, 0))
		<-u.done
		l.setRead(time.Time{})
		up.Conn.SetWriteDeadline(up.writeBy) // if all was sent, it may be used again
	}
	return u.whole
}

// patience is how long a target may think before it is worth the trouble to
// find out whether the client still waits.
const patience = 50 * time.Millisecond

// keepPatience sets the deadline for reading that ends patience. It is set anew
// only now and then: patience is no exact time.
func (c *upstreamConn) keepPatience(now time.Time) {
	if left := c.readBy.Sub(now); left < patience || left > 2*patience {
		c.readDeadline(now.Add(2 * patience))
	}
}

// watch reads from the client while the target lets it wait: the end of the
// connection, or the beginning of what it asks for next.
type watch struct {
	done chan struct{} // nil: not watching
	gone atomic.Bool
}

func (w *watch) on() bool { return w.done != nil }

// start begins to watch; gone is called if the client has left.
func (w *watch) start(l *fastLane, gone func()) {
	w.done = make(chan struct{})
	if len(l.in.Buffered()) > 0 {
		close(w.done) // it has more to ask
		return
	}
	l.setRead(time.Time{})
	l.run.working.Add(1)
	go func() {
		defer l.run.working.Done()
		defer close(w.done)
		if err := l.in.Fill(); err != nil && !isTimeout(err) {
			w.gone.Store(true)
			gone()
		}
	}()
}

func (w *watch) end(l *fastLane) {
	if w.done == nil {
		return
	}
	l.client.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	l.setRead(time.Time{})
	w.done = nil
}
