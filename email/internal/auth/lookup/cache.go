package lookup

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// cacheTime is how long answers are collected before the next generation of
	// them begins. One is used for twice that at most.
	cacheTime = 5 * time.Second
	// cacheBytes bounds a generation.
	cacheBytes = 4 << 20
)

// Cache is a [Resolver] that remembers the answers of another one for 5 to 10
// seconds. Mail comes in bursts: the next message is likely from the same domain,
// and a question to Go's resolver costs more than all the rest of a check. A
// Resolver does not tell how long an answer holds, so it is not remembered for
// longer than what lies within the delays of DNS anyway. That there is no such
// name is an answer; what may be gone at the next try is none. It may be used
// by several goroutines.
type Cache struct {
	resolver Resolver
	*answers
}

// answers are what is remembered.
type answers struct {
	now func() time.Time

	mu         sync.Mutex
	young, old map[question]answer
	size       int       // of young, in bytes
	since      time.Time // when young has begun
}

// NewCache makes a Cache. now is the clock.
func NewCache(r Resolver, now func() time.Time) *Cache { return &Cache{r, &answers{now: now}} }

// Known returns a Cache for one goroutine that knows the same answers and asks
// nobody: it fails where it would have to, and missed reports whether it has.
func (c *Cache) Known() (known *Cache, missed func() bool) {
	nobody := new(nobody)
	return &Cache{nobody, c.answers}, func() bool { return nobody.asked }
}

// nobody is a resolver that does not know.
type nobody struct{ asked bool }

func (n *nobody) fail(name string) error {
	n.asked = true
	return &net.DNSError{Err: "not remembered", Name: name, IsTemporary: true}
}

func (n *nobody) LookupTXT(_ context.Context, name string) ([]string, error) {
	return nil, n.fail(name)
}
func (n *nobody) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	return nil, n.fail(name)
}
func (n *nobody) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	return nil, n.fail(name)
}
func (n *nobody) LookupAddr(_ context.Context, addr string) ([]string, error) {
	return nil, n.fail(addr)
}

type question struct {
	kind rune
	name string
}

type answer struct {
	list any // a slice
	err  error
}

// LookupTXT is [net.Resolver.LookupTXT].
func (c *Cache) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return ask(ctx, c, 't', name, c.resolver.LookupTXT, func(s string) int { return len(s) })
}

// LookupMX is [net.Resolver.LookupMX].
func (c *Cache) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return ask(ctx, c, 'm', name, c.resolver.LookupMX, func(mx *net.MX) int { return len(mx.Host) })
}

// LookupIPAddr is [net.Resolver.LookupIPAddr].
func (c *Cache) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	return ask(ctx, c, 'a', host, c.resolver.LookupIPAddr, func(net.IPAddr) int { return net.IPv6len })
}

// LookupAddr is [net.Resolver.LookupAddr].
func (c *Cache) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	return ask(ctx, c, 'p', addr, c.resolver.LookupAddr, func(s string) int { return len(s) })
}

// ask answers from what is remembered, or asks and remembers.
func ask[T any](ctx context.Context, c *Cache, kind rune, name string, resolve func(context.Context, string) ([]T, error), size func(T) int) ([]T, error) {
	q := question{kind, name}
	if a, ok := c.get(q); ok {
		return slices.Clone(a.list.([]T)), a.err
	}
	list, err := resolve(ctx, name)
	if err == nil || len(list) == 0 && NotFound(err) {
		sum := len(name) + 256 // what maps and errors take
		for _, v := range list {
			sum += size(v) + 64
		}
		c.put(q, answer{slices.Clone(list), err}, sum)
	}
	return list, err
}

func (c *answers) get(q question) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch age := c.now().Sub(c.since); {
	case age < 0 || age >= 2*cacheTime:
		c.young, c.old = nil, nil
	case age >= cacheTime:
		c.young, c.old = nil, c.young
	default:
		a, ok := c.young[q]
		if !ok {
			a, ok = c.old[q]
		}
		return a, ok
	}
	c.size, c.since = 0, c.now()
	a, ok := c.old[q]
	return a, ok
}

func (c *answers) put(q question, a answer, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+size > cacheBytes {
		return // soon there is room again
	}
	if c.young == nil {
		c.young = make(map[question]answer)
	}
	if _, again := c.young[q]; !again {
		c.size += size
	}
	c.young[q] = a
}
