package dnsserver

import (
	"context"
	"sync"
	"time"
)

// turns bound how much goes on with other servers at once: in all, and with each
// of them, so that those that are slow or do not answer hold up nobody else. What
// takes longer than slowTurn makes room in all for others, as long as there is
// some in slow.
type turns struct {
	all, slow chan struct{}
	each      int

	mu    sync.Mutex
	peers map[string]chan struct{} // by address; no more than are configured
}

const (
	slowTurn = 10 * time.Second
	slowMore = 4 // so many times as many may be slow
)

func newTurns(all, each int) *turns {
	return &turns{all: make(chan struct{}, all), slow: make(chan struct{}, slowMore*all), each: each, peers: make(map[string]chan struct{})}
}

// take waits for a turn with a server until ctx ends, and returns what ends the
// turn. The error is the cause of the end of ctx.
func (t *turns) take(ctx context.Context, p *peer) (give func(), err error) {
	t.mu.Lock()
	own := t.peers[p.addr]
	if own == nil {
		own = make(chan struct{}, t.each)
		t.peers[p.addr] = own
	}
	t.mu.Unlock()
	select {
	case own <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case t.all <- struct{}{}:
	case <-ctx.Done():
		<-own
		return nil, context.Cause(ctx)
	}
	place, over, moved := t.all, make(chan struct{}), make(chan struct{})
	move := time.AfterFunc(slowTurn, func() {
		defer close(moved)
		select {
		case t.slow <- struct{}{}:
			place = t.slow
			<-t.all
		case <-over:
		}
	})
	return func() {
		if !move.Stop() {
			close(over)
			<-moved
		}
		<-place
		<-own
	}, nil
}
