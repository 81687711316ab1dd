package smtpd

import (
	"errors"
	"time"
)

// watch notices that a client hangs up while the session works, so that the
// session need not go on. It costs a goroutine only where the work takes long.
type watch struct {
	armed bool          // the session works
	done  chan struct{} // closed when the watching goroutine ends, nil without one
}

const watchAfter = 500 * time.Millisecond

var errHungUp = errors.New("the client has closed the connection")

func (g *guard) startWatch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch.armed = true
	if g.timer == nil {
		g.timer = time.AfterFunc(watchAfter, g.watchClient)
	} else {
		g.timer.Reset(watchAfter)
	}
}

// watchClient reads ahead, no more than there is room for.
func (g *guard) watchClient() {
	g.mu.Lock()
	if !g.watch.armed || g.watch.done != nil || g.in.err != nil {
		g.mu.Unlock()
		return
	}
	done := make(chan struct{})
	g.watch.done = done
	g.raw.SetReadDeadline(time.Time{})
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

func (g *guard) stopWatch() {
	g.mu.Lock()
	g.timer.Stop()
	done := g.watch.done
	if g.watch.armed = false; done != nil {
		g.raw.SetReadDeadline(past())
	}
	g.mu.Unlock()
	if done != nil {
		<-done
		g.mu.Lock()
		g.watch.done = nil
		g.mu.Unlock()
	}
}
