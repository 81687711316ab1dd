package proxy

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// Each name is a connection to the target of its own where clients say what to
// expect there.

func TestMadeUpNamesFillNoPool(t *testing.T) {
	target := &target{}
	pool := &target.conns
	idle := func(name string) *upstreamConn {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		return &upstreamConn{Conn: near, target: target, key: poolKey{serverName: name}}
	}
	for i := range maxIdlePerTarget {
		if !pool.put(idle(fmt.Sprint(i, ".test"))) {
			t.Fatalf("no place for connection %d", i)
		}
	}
	c := idle("a.test")
	if !pool.put(c) {
		t.Error("no place for a connection where those to other names have taken all")
	}
	if pool.count != maxIdlePerTarget {
		t.Errorf("%d connections", pool.count)
	}
	if got := pool.take(c.key); got != c {
		t.Errorf("got %v", got)
	}
	left := 0
	for _, list := range pool.idle {
		for _, c := range list {
			left++
			if err := c.Conn.SetDeadline(time.Now()); err != nil {
				t.Error("a connection that is kept is closed")
			}
		}
	}
	if left != pool.count || left != maxIdlePerTarget-1 {
		t.Errorf("%d connections are left and %d counted, want %d", left, pool.count, maxIdlePerTarget-1)
	}
	for range left {
		pool.evict()
	}
	if pool.evict() != nil || pool.count != 0 {
		t.Error("a pool without connections gives one away")
	}
}

func TestMadeUpNamesOverHTTP2(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	a := h2Backend(t, H2, files, says("ok"))
	settings := *files
	settings.Mode, settings.Upstream = TerminateAndReencrypt, UpstreamTLS{InsecureSkipVerify: true}
	a.TLS = &settings
	p := start(t, oneRoute(a))
	var to *target
	for _, to = range p.targets {
	}
	open := func() int {
		to.h2gate.mu.Lock()
		defer to.h2gate.mu.Unlock()
		return to.h2gate.open
	}
	c := client(t, addr(t, p, 0), pool)
	ask := func(name string) {
		t.Helper()
		if status := statusOf(t, c, "https://a.test/", func(r *http.Request) { r.Host = name }); status != 200 {
			t.Errorf("%d for %s", status, name)
		}
	}
	const few = 20
	for i := range few {
		ask(fmt.Sprint(i, ".test"))
	}
	if n := open(); n != few {
		t.Fatalf("%d connections, want one for each name", n)
	}
	to.h2gate.add(maxIdlePerTarget) // as if there had been as many more
	ask("one.more.test")
	eventually(t, "those that are idle end", func() bool { return open()-maxIdlePerTarget < few })
	to.h2gate.add(-maxIdlePerTarget)
	for i := range few {
		ask(fmt.Sprint(i, ".test"))
	}
}
