package smtpd

import (
	"errors"
	"time"
)

// watch notices that a client hangs up while the session works, so that the
// session need not go on. It costs a goroutine only where the work takes long.
type watch struct {
	armed   bool // the session works
	since   time.Time
	timer   *time.Timer   // begins the watch; it is not stopped for work that is done, but looks again
	running bool          // the timer
	done    chan struct{} // closed when the watching goroutine ends, nil without one
}

const watchAfter = 500 * time.Millisecond

var errHungUp = errors.New("the client has closed the connection")

func (g *guard) startWatch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := &g.watch
	w.armed, w.since = true, time.Now()
	switch {
	case w.timer == nil:
		w.timer = time.AfterFunc(watchAfter, g.watchClient)
	case !w.running:
		w.timer.Reset(watchAfter)
	}
	w.running = true
}

// watchClient reads ahead, no more than there is room for.
func (g *guard) watchClient() {
	g.mu.Lock()
	w := &g.watch
	w.running = false
	if !w.armed || w.done != nil || g.in.err != nil {
		g.mu.Unlock()
		return
	}
	if rest := watchAfter - time.Since(w.since); rest > 0 {
		w.running = true
		w.timer.Reset(rest)
		g.mu.Unlock()
		return
	}
	done := make(chan struct{})
	w.done = done
	g.readBy = time.Time{}
	g.raw.SetReadDeadline(g.readBy)
	g.mu.Unlock()
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
			g.cancel(errHungUp)
		}
		if err != nil {
			return
		}
	}
}

// endWatch is called when there is no more work to come.
func (g *guard) endWatch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.watch.timer != nil {
		g.watch.timer.Stop()
	}
}

func (g *guard) stopWatch() {
	g.mu.Lock()
	done := g.watch.done
	if g.watch.armed = false; done != nil {
		g.breakOff()
	}
	g.mu.Unlock()
	if done != nil {
		<-done
		g.mu.Lock()
		g.watch.done = nil
		g.mu.Unlock()
	}
}
