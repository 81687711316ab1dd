package limit

import "sync"

// Gate bounds how much is under way at once, by key. It holds only keys that
// have something under way.
type Gate struct {
	mu     sync.Mutex
	active map[string]int
	total  int
}

// Enter lets one more in for key, if fewer than limit are in; a limit of 0 or
// less is none. Call leave when it is done; further calls do nothing. It is nil
// if ok is false.
func (g *Gate) Enter(key string, limit int) (leave func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if limit > 0 && g.active[key] >= limit {
		return nil, false
	}
	if g.active == nil {
		g.active = map[string]int{}
	}
	g.active[key]++
	g.total++
	return sync.OnceFunc(func() { g.leave(key) }), true
}

func (g *Gate) leave(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.active[key]--; g.active[key] == 0 {
		delete(g.active, key)
	}
}

// Active returns how many are in, of all keys.
func (g *Gate) Active() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}
