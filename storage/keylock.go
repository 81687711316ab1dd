package storage

import (
	"context"
	"sync"
)

// keyLocks gives every key a lock of its own for as long as somebody wants
// it. Unlike a mutex, waiting for one ends with the context: behind the lock
// is a backend that may hang.
type keyLocks struct {
	mu    sync.Mutex
	locks map[string]*keyLock
}

type keyLock struct {
	sem  chan struct{}
	refs int // holders and waiters; guarded by keyLocks.mu
}

func newKeyLocks() *keyLocks { return &keyLocks{locks: make(map[string]*keyLock)} }

// lock waits for the key and returns what gives it back.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	l := k.locks[key]
	if l == nil {
		l = &keyLock{sem: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.refs++
	k.mu.Unlock()

	select {
	case l.sem <- struct{}{}:
		return func() { <-l.sem; k.drop(key, l) }, nil
	case <-ctx.Done():
		k.drop(key, l)
		return nil, ctx.Err()
	}
}

func (k *keyLocks) drop(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.refs--; l.refs == 0 {
		delete(k.locks, key)
	}
}

// listGate is a lock that any number of Lists have, or the one who removes an
// expired value. The latter waits for nobody, and waiting for it ends with the
// context.
type listGate struct {
	closed chan struct{} // full while a value is removed, or a List enters or leaves
	lists  int           // those under way; guarded by closed
}

func newListGate() *listGate { return &listGate{closed: make(chan struct{}, 1)} }

func (g *listGate) enter(ctx context.Context) error {
	select {
	case g.closed <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	g.lists++
	<-g.closed
	return nil
}

func (g *listGate) leave() {
	g.closed <- struct{}{} // not closed while a List is under way
	g.lists--
	<-g.closed
}

// close keeps Lists out until open. It fails if one is under way. One may close it
// at a time.
func (g *listGate) close() bool {
	g.closed <- struct{}{}
	if g.lists > 0 {
		<-g.closed
		return false
	}
	return true
}

func (g *listGate) open() { <-g.closed }
