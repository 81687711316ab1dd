//go:build unix

package dcrouter_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// A Router leaves its ports and its storage to another one, which serves what has
// come in between, and has both back if that one fails.
func TestHandover(t *testing.T) {
	testenv.Goroutines(t)
	cfg := dcrouter.Config{Storage: &dcrouter.StorageConfig{FSPath: t.TempDir()}}
	opts := []dcrouter.Option{dcrouter.WithConfig(cfg), onLoopback(forward("web", 0, backend(t, "x")))}
	old := start(t, opts...)
	addr := old.Addrs()["proxy"][0]
	try := func() {
		t.Helper()
		if body, err := fetch(addr); body != "x" || err != nil {
			t.Errorf("got %q, %v", body, err)
		}
	}
	try()
	list, err := old.Sockets()
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	next, err := dcrouter.New(append(opts, dcrouter.WithSockets(list...))...)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Handover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := old.Handover(t.Context()); !errors.Is(err, dcrouter.ErrNotRunning) {
		t.Errorf("handed over twice: %v", err)
	}
	if old.Store() != nil {
		t.Error("the storage is still to be had")
	}
	if err := old.Wait(); err != nil {
		t.Error(err)
	}
	came := make(chan error, 1)
	go func() {
		_, err := fetch(addr)
		came <- err
	}()
	if err := next.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := testenv.Receive(t, came); err != nil {
		t.Errorf("a request that came in between: %v", err)
	}
	stop(t, next)

	// As if it had failed.
	if err := old.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	try()
	if err := old.Start(t.Context()); !errors.Is(err, dcrouter.ErrRunning) {
		t.Errorf("started twice: %v", err)
	}
	if err := old.Handover(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop(t, old)
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("the port is open after Stop")
	}
}

// A Router that was handed over and is being stopped does not start again meanwhile.
func TestStartWhileStoppingAfterHandover(t *testing.T) {
	testenv.Goroutines(t)
	ln, route := streamTo(t)
	r := start(t, onLoopback(route))
	addr := r.Addrs()["proxy"][0]
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := ln.Accept() // so the stream is there
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if err := r.Handover(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 2)
	for range cap(stopped) {
		go func() { stopped <- r.Stop(ctx) }()
	}
	testenv.WaitFor(t, 20*time.Second, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return errors.New("the port is open")
		}
		return nil
	})
	if err := r.Start(t.Context()); err != dcrouter.ErrRunning {
		t.Errorf("started meanwhile: %v", err)
	}
	cancel()
	for range cap(stopped) {
		if err := testenv.Receive(t, stopped); err == nil {
			t.Error("no error, though a stream was cut off")
		}
	}
	if err := r.Wait(); err != nil {
		t.Error(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

// Sockets reach whatever wants them; one that nothing wants is a mistake.
func TestSocketsOfTheHost(t *testing.T) {
	testenv.Goroutines(t)
	auth, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port, free := auth.LocalAddr().(*net.UDPAddr).Port, 0
	opts := []dcrouter.Option{
		dcrouter.WithRADIUS(radius.Config{ListenHost: "127.0.0.1", Port: &port, AccountingPort: &free, Secret: "0123456789abcdef"}),
		dcrouter.WithPacketConn("", auth),
	}
	r := start(t, opts...)
	if got := r.Addrs()["radius"][0]; got != auth.LocalAddr().String()+"/udp" {
		t.Errorf("listens on %s, not on %v", got, auth.LocalAddr())
	}
	stop(t, r)

	r, err = dcrouter.New(dcrouter.WithListener("127.0.0.1:1", ln))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1/tcp") {
		t.Errorf("a listener that nothing wants: %v", err)
	}
	stop(t, r)
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("it is not closed: %v", err)
	}
}

// What cannot be bound in a new configuration is found before the old process gives
// anything up; ports that one part leaves to another, or keeps for another kind of
// traffic, can.
func TestCheckFindsTakenPorts(t *testing.T) {
	testenv.Goroutines(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	takenUDP, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer takenUDP.Close()
	tcp, udp := taken.Addr().(*net.TCPAddr).Port, takenUDP.LocalAddr().(*net.UDPAddr).Port
	a, b := testenv.FreePort(t), testenv.FreePort(t)
	to := backend(t, "x")
	datagrams := func(port int) proxy.Route {
		r := forward("datagrams", port, to)
		r.Match.Protocol = "udp"
		return r
	}
	mail := email.Config{Hostname: "mx.example.com", ListenHost: "127.0.0.1"}
	dir := t.TempDir()
	config := func(at int, routes ...proxy.Route) dcrouter.Option {
		c := dcrouter.Config{Storage: &dcrouter.StorageConfig{FSPath: dir}, Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: routes}}
		m := mail
		m.Ports = []email.Port{{Port: at}}
		c.Email = &m
		return dcrouter.WithConfig(c)
	}
	old := start(t, config(b, forward("web", a, to)))
	// next is a Router as in another process.
	next := func(o dcrouter.Option) *dcrouter.Router {
		t.Helper()
		list, err := old.Sockets()
		if err != nil {
			t.Fatal(err)
		}
		r, err := dcrouter.New(o, dcrouter.WithSockets(list...))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stop(t, r) })
		return r
	}
	for name, c := range map[string]struct {
		config dcrouter.Option
		want   string
	}{
		"another port":   {config(b, forward("web", a, to), forward("more", tcp, to)), "smartProxyConfig.routes[1].match.ports[0]"},
		"another kind":   {config(b, forward("web", a, to), datagrams(udp)), "smartProxyConfig.routes[1].match.ports[0]"},
		"mail":           {config(tcp, forward("web", a, to)), "emailConfig.ports[0]"},
		"the same":       {config(b, forward("web", a, to)), ""},
		"kinds by turns": {config(b, forward("web", a, to), datagrams(b)), ""},
	} {
		err := next(c.config).Check()
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if body, err := fetch(fmt.Sprintf("127.0.0.1:%d", a)); body != "x" || err != nil {
			t.Errorf("%s: the old one answers %q, %v", name, body, err)
		}
	}

	// What counts are the routes that were given last.
	later := next(config(b, forward("web", a, to)))
	if err := later.UpdateRoutes(t.Context(), []proxy.Route{forward("web", a, to), forward("more", tcp, to)}); err != nil {
		t.Fatal(err)
	}
	if err := later.Check(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("routes that came later: %v", err)
	}
	later = next(config(b, forward("web", tcp, to)))
	if err := errors.Join(later.UpdateRoutes(t.Context(), []proxy.Route{forward("web", a, to)}), later.Check()); err != nil {
		t.Errorf("routes that went: %v", err)
	}

	// HTTP and mail change places.
	swapped := next(config(a, forward("web", b, to)))
	if err := swapped.Check(); err != nil {
		t.Fatal(err)
	}
	if err := old.Handover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := swapped.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop(t, old)
	if err := swapped.Check(); err != nil {
		t.Errorf("of what serves: %v", err)
	}
	if body, err := fetch(fmt.Sprintf("127.0.0.1:%d", b)); body != "x" || err != nil {
		t.Errorf("HTTP at the port of mail: %q, %v", body, err)
	}
	c, err := smtp.Dial(fmt.Sprintf("127.0.0.1:%d", a))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
