package proxy

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// errBusy means that all targets that could be chosen are at their limit, and
// waiting for one did not help.
var errBusy = errors.New("all targets are at their limit")

// choice says for whom a target is chosen, and what has been tried for it.
type choice struct {
	client netip.Addr
	sticky string // value of the sticky cookie, "" if there is none
	tried  []*target
}

// outcome is how a target did with what it was sent: the status of its answer,
// or one of these.
type outcome int

const (
	connected   outcome = iota // it took a stream
	unreachable                // there is no connection; nothing can have been sent
	brokeOff                   // the connection broke before all of the answer was there
	timedOut                   // there was no answer in time
	givenUp                    // that it ended is not the target's doing
	provoked                   // it failed, perhaps for what the client wants: that is not held against it
	doubtful                   // as unreachable, but what the client wants may be why: others go first
)

// servesSlow is the shortest limit that a target may have for how long a client
// takes to send or to read. Where that takes less, it is not why one breaks off.
const servesSlow = time.Second

// pauses are the times between reads of a response, in which the client gets what
// has been read.
type pauses struct {
	began time.Time
	sum   time.Duration
}

func (p *pauses) begin(now time.Time) { p.began = now }

func (p *pauses) end(now time.Time) {
	if !p.began.IsZero() {
		p.sum += now.Sub(p.began)
	}
}

// areLong reports whether a target may have lost its patience with the client.
func (p *pauses) areLong() bool { return p.sum >= servesSlow }

// answered is the outcome of an HTTP exchange.
func answered(status int) outcome { return outcome(status) }

// next chooses a target and takes a place at it. Where all that could be
// chosen are at their limit it waits for one, in the order of arrival. Whoever
// gets an entry calls its done, or report and release, once each.
func (b *balancer) next(ctx context.Context, ch *choice) (*entry, error) {
	if b.limit > 0 {
		return b.state.queue.next(ctx, b, ch)
	}
	if e, _ := b.take(ch); e != nil {
		return e, nil
	}
	return nil, errNoTarget
}

// take is next without waiting. If there is no entry, full tells whether one
// can be waited for.
func (b *balancer) take(ch *choice) (e *entry, full bool) {
	k := pick{balancer: b, ch: ch}
	for {
		e := k.choose()
		if e == nil {
			return nil, k.full
		}
		if k.claim(e) {
			return e, false
		}
		// Somebody else was faster. Others may be free.
		k.last, k.full = false, false
	}
}

// claim takes a place at the target of an entry that was usable a moment ago.
func (k *pick) claim(e *entry) bool {
	t, c := e.target, e.circuit
	if c != nil && !c.gate.enter(k, c.settings.ejectionTime) {
		return false
	}
	entered := k.last || t.pause.enter(k, failPause)
	if entered && t.enter(k.limit) {
		t.total.Add(1)
		return true
	}
	if c != nil {
		c.gate.abandon()
	}
	if entered && !k.last {
		t.pause.abandon()
	}
	return false
}

// abandon gives up the right to try a target that was out. It may be that of
// another request, which is no harm: then two try it.
func (e *entry) abandon() {
	e.target.pause.abandon()
	if e.circuit != nil {
		e.circuit.gate.abandon()
	}
}

// done reports how it went and gives the place back. err is the reason, where
// it did not go well.
func (e *entry) done(o outcome, err error) {
	e.report(o, err)
	e.release()
}

// report says how it goes, as soon as that is known: answers may take hours.
// It may be called again when an answer that has begun breaks off.
func (e *entry) report(o outcome, err error) {
	t := e.target
	switch o {
	case provoked:
		t.noteError(err)
		e.abandon()
		return
	case givenUp:
		e.abandon()
		return
	case doubtful:
		if e.circuit != nil {
			e.circuit.gate.abandon()
		}
		t.doubted(err)
		return
	case unreachable:
		t.failed(err)
	case brokeOff, timedOut:
		t.failures.Add(1)
		t.noteError(err)
	default:
		t.reached()
	}
	if e.circuit != nil {
		e.circuit.report(e, o, err)
	}
}

// release gives the place back.
func (e *entry) release() { e.target.leave() }
