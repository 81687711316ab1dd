package transport

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// quitTime is how long a host has to answer our leave.
const quitTime = 2 * time.Second

// key says what must be equal for messages to share a connection.
type key struct {
	hop    *smtpc.Config
	host   string
	addr   netip.AddrPort
	source netip.Addr
	helo   string
	mode   smtpc.TLSMode
	policy string // source and key of the TLS requirement
	name   string // that the certificate must be for
}

// conn is a connection that may be used for more than one message.
type conn struct {
	*smtpc.Conn
	// served is how many transactions were begun on it.
	served int
	// limit is how many there may be.
	limit int
}

// pool keeps connections that nobody uses at the moment. Each has a goroutine,
// which sees when the host closes it, and ends it when its time is over.
type pool struct {
	idleTime time.Duration
	maxIdle  int

	mu     sync.Mutex
	idle   map[key][]*idle
	count  int
	closed bool
	group  sync.WaitGroup
}

// idle is a connection in the pool.
type idle struct {
	conn *conn
	wake context.CancelFunc
	done chan struct{} // closed when its goroutine leaves it alone

	// Guarded by the pool's mu.
	taken bool
	// Written before done is closed.
	err error
}

// take returns a connection that was alive a moment ago, or nil.
func (p *pool) take(k key) *conn {
	for {
		p.mu.Lock()
		list := p.idle[k]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		e := list[len(list)-1] // the one that was used last
		e.taken = true
		p.remove(k, e)
		p.mu.Unlock()
		e.wake()
		<-e.done
		if e.err == nil {
			return e.conn
		}
	}
}

// put keeps a connection, or ends it if it is not worth that.
func (p *pool) put(k key, c *conn) {
	if !c.Usable() {
		c.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		c.Close()
	case p.idleTime < 0 || p.count >= p.maxIdle || c.served >= c.limit:
		p.group.Go(func() { quit(c) })
	default:
		ctx, cancel := context.WithTimeout(context.Background(), p.idleTime)
		e := &idle{conn: c, wake: cancel, done: make(chan struct{})}
		p.idle[k] = append(p.idle[k], e)
		p.count++
		p.group.Go(func() { p.watch(ctx, k, e) })
	}
}

// watch waits until a connection is taken, is lost, or has been idle for too long.
func (p *pool) watch(ctx context.Context, k key, e *idle) {
	defer e.wake()
	err := e.conn.Idle(ctx)
	p.mu.Lock()
	taken := e.taken
	if !taken {
		p.remove(k, e)
	}
	p.mu.Unlock()
	e.err = err
	close(e.done)
	switch {
	case err != nil:
		e.conn.Close()
	case !taken:
		quit(e.conn)
	}
}

// remove is called with mu held.
func (p *pool) remove(k key, e *idle) {
	list := p.idle[k]
	i := slices.Index(list, e)
	if i < 0 {
		return
	}
	p.count--
	if p.idle[k] = slices.Delete(list, i, i+1); len(p.idle[k]) == 0 {
		delete(p.idle, k)
	}
}

// close ends what is idle, and what is put from now on.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	for _, list := range p.idle {
		for _, e := range list {
			e.wake()
		}
	}
	p.mu.Unlock()
	p.group.Wait()
}

// quit takes leave of a host (RFC 5321 section 4.1.1.10).
func quit(c *conn) {
	ctx, cancel := context.WithTimeout(context.Background(), quitTime)
	defer cancel()
	c.Quit(ctx) // how it answers is of no consequence
}
