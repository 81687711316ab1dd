package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/proxy"
)

const (
	// drainTime is what connections of a removed route have left.
	drainTime = 3 * time.Second
	// updatePause has a hundred updates a minute.
	updatePause = time.Minute / 100
	churning    = 20 // routes that come, go and move
)

// routeBook knows which routes there are. Some stay; each of the others leads to
// one of the back ends, or is not there.
type routeBook struct {
	w  *world
	mu sync.Mutex // held during an update
	// churn is where the routes lead: the name of a back end, or "".
	churn   [churning]timeline[string]
	current [churning]string
	drained bool // the route of the drain port is not there
}

func newRouteBook(w *world) *routeBook {
	b := &routeBook{w: w}
	for i := range b.churn {
		_ = b.churn[i].next("", func() error { return nil })
	}
	return b
}

// list is all routes.
func (b *routeBook) list() []proxy.Route {
	w := b.w
	auto := &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}}
	http := func(name string, port int, domain string, tls *proxy.TLS, targets ...proxy.Target) proxy.Route {
		return proxy.Route{Name: name, Match: proxy.Match{Ports: proxy.Ports(port), Domains: []string{domain}, Protocol: "http"},
			Action: proxy.Action{Type: proxy.Forward, TLS: tls, Targets: targets}}
	}
	tcp := func(name string, port int, targets ...proxy.Target) proxy.Route {
		return proxy.Route{Name: name, Match: proxy.Match{Ports: proxy.Ports(port), Protocol: "tcp"}, Action: proxy.Action{Type: proxy.Forward, Targets: targets}}
	}
	stable := target(w.stable[0].web)
	mortals := http("mortal", w.web, "mortal.test", nil, mortalTargets(w.mortal, func(m *mortal) int { return m.web })...)
	mortals.Action.LoadBalancing = proxy.LoadBalancing{
		HealthCheck: &proxy.HealthCheck{Path: "/", Interval: 500 * time.Millisecond}, CircuitBreaker: &proxy.CircuitBreaker{EjectionTime: time.Second}}
	udp := tcp("datagrams", w.stream, target(w.stable[0].echo))
	udp.Match.Protocol = "udp"
	list := []proxy.Route{
		udp, {Name: "passed", Match: proxy.Match{Ports: proxy.Ports(w.secure), Domains: []string{passed}},
			Action: proxy.Action{Type: proxy.Forward, TLS: &proxy.TLS{Mode: proxy.Passthrough}, Targets: []proxy.Target{target(w.stable[0].secure)}}},
		http("plain", w.web, "plain.test", nil, stable), mortals,
		http("www", w.secure, "www."+zone, auto, stable), http("api", w.secure, "api."+zone, auto, stable),
		tcp("stream", w.stream, target(w.stable[0].echo)),
		tcp("mortal stream", w.fragile, mortalTargets(w.mortal, func(m *mortal) int { return m.echo })...),
	}
	if !b.drained {
		list = append(list, tcp("drain", w.drain, target(w.stable[0].echo)))
	}
	for i, name := range b.current {
		for _, s := range w.stable {
			if s.name == name {
				list = append(list, http(fmt.Sprintf("churn-%d", i), w.web, fmt.Sprintf("churn-%d.test", i), nil, target(s.web)))
			}
		}
	}
	return list
}

// update makes some of the churning routes come, go or move.
func (b *routeBook) update() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	apply := func() error { return b.w.tell("/routes", b.list(), nil) }
	for _, i := range rand.Perm(churning)[:1+rand.IntN(3)] {
		name := ""
		if n := rand.IntN(len(b.w.stable) + 1); n > 0 {
			name = b.w.stable[n-1].name
		}
		if name == b.current[i] {
			continue
		}
		b.current[i] = name
		inner := apply
		apply = func() error { return b.churn[i].next(name, inner) }
	}
	return apply()
}

// visit asks a churning route, which has to lead where it does at that time.
func (b *routeBook) visit(ctx context.Context, client *http.Client) error {
	i, begin := rand.IntN(churning), time.Now()
	status, body, err := get(ctx, client, fmt.Sprintf("http://churn-%d.test/", i))
	if err != nil {
		return err
	}
	if status == http.StatusNotFound {
		body = ""
	} else if status != http.StatusOK {
		return fmt.Errorf("%d: %s", status, body)
	}
	return b.churn[i].check(body, begin)
}

// drain removes a route under a stream, which has its time then and no more.
func (b *routeBook) drain(ctx context.Context) error {
	c, err := dial(ctx, b.w.drain)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	out, in := new(pattern), new(pattern)
	echo := func() error {
		if _, err := io.CopyN(c, out, 1000); err != nil {
			return err
		}
		return in.check(c, 1000)
	}
	if err := echo(); err != nil {
		return fmt.Errorf("before the route goes: %w", err)
	}
	remove := func(yes bool) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drained = yes
		return b.w.tell("/routes", b.list(), nil)
	}
	begin := time.Now()
	if err := errors.Join(remove(true), drains(ctx, c, begin, echo)); err != nil {
		return errors.Join(err, remove(false))
	}
	return remove(false)
}

// drains checks what becomes of a stream whose route went at begin.
func drains(ctx context.Context, c net.Conn, begin time.Time, echo func() error) error {
	for time.Since(begin) < drainTime/3 {
		if err := echo(); err != nil && time.Since(begin) < drainTime {
			return fmt.Errorf("%v after the route went: %w", time.Since(begin), err)
		}
		if !pause(ctx, 100*time.Millisecond) {
			break
		}
	}
	_ = c.SetDeadline(time.Now().Add(drainTime + patience/2))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the stream of a removed route has not been closed")
	}
	return nil
}

// pause waits for some time and reports whether ctx is still on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func dial(ctx context.Context, port int) (net.Conn, error) {
	d := net.Dialer{Timeout: 20 * time.Second}
	return d.DialContext(ctx, "tcp", address(port))
}
