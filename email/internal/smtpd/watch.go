package smtpd

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"time"
)

// watch notices that a client hangs up while the session works, so that the
// session need not go on. It costs a goroutine only where the work takes long.
type watch struct {
	armed bool // the session works
	since time.Time
	done  chan struct{} // closed when the watching goroutine ends, nil without one
}

const watchAfter = 500 * time.Millisecond

var errHungUp = errors.New("the client has closed the connection")

// beginWatch is called with mu held, now and then while the session may be working.
func (g *guard) beginWatch() {
	w := &g.watch
	if !w.armed || w.done != nil || g.in.err != nil || time.Since(w.since) < watchAfter {
		return
	}
	w.done = make(chan struct{})
	g.reading.put(time.Time{}, g.raw.SetReadDeadline)
	g.writing.begin(time.Now().Add(g.server.cfg.CommandTimeout), g.raw.SetWriteDeadline) // as in wait
	go g.watchClient(w.done)
}

func (g *guard) startWatch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch.armed, g.watch.since = true, time.Now()
}

// watchClient reads ahead, no more than there is room for.
func (g *guard) watchClient(done chan struct{}) {
	defer close(done)
	for {
		room := g.in.room()
		if len(room) == 0 {
			return
		}
		n, err := g.net.Read(room)
		g.in.w += n
		if err != nil && !isTimeout(err) {
			g.in.err = err
			if !errors.Is(err, io.EOF) || !g.saysQuit() {
				g.cancel(errHungUp)
			}
		}
		if err != nil {
			return
		}
	}
}

// saysQuit says whether a client that sends no more has ended as it should, and so
// may still read what is said to it.
func (g *guard) saysQuit() bool {
	pending := g.in.pending()
	last := pending[bytes.LastIndexByte(pending[:max(len(pending)-1, 0)], '\n')+1:]
	return strings.EqualFold(string(last), "QUIT\r\n")
}

func (g *guard) stopWatch() {
	g.mu.Lock()
	done := g.watch.done
	if g.watch.armed = false; done != nil {
		g.reading.put(past(), g.raw.SetReadDeadline)
	}
	g.mu.Unlock()
	if done != nil {
		<-done
		g.mu.Lock()
		g.watch.done = nil
		g.writing.end()
		g.mu.Unlock()
	}
}
