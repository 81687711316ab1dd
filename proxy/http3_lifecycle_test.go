package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// quicOpen makes a QUIC connection for HTTP/3 to addr, and nothing on it.
func quicOpen(t testing.TB, addr string, cfg *tls.Config) (*quic.Conn, error) {
	t.Helper()
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h3"}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return quicDial(t, addr)(ctx, "", cfg, nil)
}

// awaitClose waits until a connection ends and returns why.
func awaitClose(t testing.TB, c *quic.Conn, within time.Duration) error {
	t.Helper()
	select {
	case <-c.Context().Done():
		return context.Cause(c.Context())
	case <-time.After(within):
		t.Errorf("the connection is open after %v", within)
		return nil
	}
}

// closedWith reports whether the server has closed a connection with a code.
func closedWith(err error, code http3.ErrCode) bool {
	var app *quic.ApplicationError
	return errors.As(err, &app) && app.Remote && app.ErrorCode == quic.ApplicationErrorCode(code)
}

// heldBack is a handler that answers when it is told to.
type heldBack struct {
	came, answer chan struct{}
}

func newHeldBack() *heldBack { return &heldBack{make(chan struct{}, 10), make(chan struct{})} }

func (s *heldBack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.came <- struct{}{}
	select {
	case <-s.answer:
		io.WriteString(w, strings.Repeat("answer ", 10_000))
	case <-r.Context().Done():
	}
}

// An update that takes HTTP/3 from a port asks its clients to leave, lets them
// finish, and then gives the socket up; one that wants the port back before
// that gets it.
func TestHTTP3PortComesAndGoes(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	slow := newHeldBack()
	port := testenv.FreePort(t)
	secure := tlsRoute("secure", files, Action{Handler: slow}, "a.test")
	secure.Match.Ports = Ports(port)
	plain := Route{Name: "plain", Match: Match{Ports: Ports(port)}, Action: Action{Handler: says("plain")}}
	p := start(t, with3(plain))
	update := func(routes ...Route) {
		t.Helper()
		if err := p.UpdateRoutes(t.Context(), routes); err != nil {
			t.Fatal(err)
		}
	}
	if a := p.PacketAddr(port); a != nil {
		t.Fatalf("a port without TLS listens at %v", a)
	}
	update(secure, plain)
	at := addr(t, p, port)
	if a := p.PacketAddr(port); a == nil || a.String() != at {
		t.Fatalf("HTTP/3 at %v, want %s", a, at)
	}

	c := client3(t, at, pool)
	type answer struct {
		body string
		err  error
	}
	begin := func(c *http.Client) chan answer {
		done := make(chan answer, 1)
		go func() {
			resp, err := c.Get("https://a.test/")
			if err != nil {
				done <- answer{err: err}
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			done <- answer{string(body), err}
		}()
		return done
	}
	finish := func(done chan answer) {
		t.Helper()
		send(t, slow.answer, struct{}{})
		if got := receive(t, done); len(got.body) != 70_000 || got.err != nil {
			t.Errorf("%d bytes, %v", len(got.body), got.err)
		}
	}
	first := begin(c)
	receive(t, slow.came)
	idle, err := quicOpen(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is there", func() bool { return p.Stats().ActiveConnections == 2 })
	// The route with TLS goes and comes back while a request is under way.
	update(plain)
	if err := awaitClose(t, idle, 5*time.Second); !closedWith(err, http3.ErrCodeNoError) {
		t.Errorf("a connection without a request ended with %v", err)
	}
	if a := p.PacketAddr(port); a != nil {
		t.Errorf("a port that drains is announced as %v", a)
	}
	if c, err := quicOpen(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool, InsecureSkipVerify: true}); err == nil {
		t.Error("a port that drains takes a new connection")
		c.CloseWithError(0, "")
	}
	if pc, err := net.ListenPacket("udp", at); err == nil {
		t.Error("the socket has gone although a request is under way")
		pc.Close()
	}
	update(secure)
	second := begin(client3(t, at, pool))
	receive(t, slow.came)
	finish(first)
	finish(second)

	// It goes for good.
	third := begin(c)
	receive(t, slow.came)
	update()
	finish(third)
	eventually(t, "the socket is free", func() bool {
		pc, err := net.ListenPacket("udp", at)
		if err == nil {
			pc.Close()
		}
		return err == nil
	})
	update(secure)
	again := begin(client3(t, at, pool))
	receive(t, slow.came)
	finish(again)
}

// What has served UDP cannot serve HTTP/3 from one moment to the next.
func TestHTTP3AfterUDP(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	port := testenv.FreePort(t)
	secure := tlsRoute("secure", files, Action{Handler: says("ok")}, "a.test")
	secure.Match.Ports = Ports(port)
	udp := Route{Name: "udp", Match: Match{Ports: Ports(port), Protocol: "udp"}, Action: forwardTo(Target{Host: "127.0.0.1", Port: 9})}
	p := start(t, with3(udp))
	for range 2 {
		if err := p.UpdateRoutes(t.Context(), []Route{secure}); err == nil {
			t.Fatal("HTTP/3 took over a socket")
		}
		if err := p.UpdateRoutes(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := p.UpdateRoutes(t.Context(), []Route{secure}); err != nil {
			t.Fatal(err)
		}
		c := client3(t, addr(t, p, port), pool)
		if status, body := get(t, c, "https://a.test/"); status != 200 || body != "ok" {
			t.Errorf("%d %q", status, body)
		}
		if err := p.UpdateRoutes(t.Context(), []Route{udp}); err == nil {
			t.Fatal("UDP took over a socket")
		}
		c.CloseIdleConnections()
		if err := p.UpdateRoutes(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the socket is free", func() bool { return p.UpdateRoutes(t.Context(), []Route{udp}) == nil })
	}
}

// Nobody but HTTP/3 can have the datagrams of a port that has it.
func TestHTTP3AndUDPExclude(t *testing.T) {
	t.Parallel()
	off := false
	tls := filesTLS(Terminate)
	secure := Route{Name: "secure", Match: Match{Ports: []PortRange{{400, 450}}, Domains: []string{"a.test"}}, Action: Action{Handler: says("ok"), TLS: tls}}
	udp := Route{Name: "udp", Match: Match{Ports: []PortRange{{1, 9}, {440, 500}}, Protocol: "udp"}, Action: forwardTo(Target{Host: "a.test", Port: 53})}
	change := func(r Route, f func(*Route)) Route {
		f(&r)
		return r
	}
	for _, test := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"both", with3(secure, udp), []string{"routes[1].match.ports: the UDP port 440 serves HTTP/3 for routes[0] (\"secure\")"}},
		{"the other way round", with3(udp, secure), []string{"routes[0].match.ports: the UDP port 440 serves HTTP/3 for routes[1]"}},
		{"HTTP/3 is off", Config{Routes: []Route{secure, udp}}, nil},
		{"other ports", with3(secure, change(udp, func(r *Route) { r.Match.Ports = Ports(451) })), nil},
		{"one is disabled", with3(secure, change(udp, func(r *Route) { r.Enabled = &off })), nil},
		{"the other is disabled", with3(change(secure, func(r *Route) { r.Enabled = &off }), udp), nil},
		{"no TLS", with3(change(secure, func(r *Route) { r.Action.TLS = nil }), udp), nil},
		{"no HTTP", with3(change(secure, func(r *Route) {
			r.Match.Protocol = "tcp"
			r.Action = forwardTo(Target{Host: "a.test", Port: 1})
			r.Action.TLS = tls
		}), udp), nil},
	} {
		wantFields(t, test.name, test.cfg.Validate(), test.want...)
		p, err := New(Config{HTTP3: test.cfg.HTTP3})
		if err != nil {
			t.Fatal(err)
		}
		wantFields(t, test.name+" in an update", p.UpdateRoutes(t.Context(), test.cfg.Routes), test.want...)
	}
}

// Updates disturb nobody whom they are not about.
func TestHTTP3UpdatesDropNothing(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	port := testenv.FreePort(t)
	routes := []Route{tlsRoute("r", files, Action{Handler: says("ok")}, "a.test")}
	p := start(t, with3(routes...))
	at := addr(t, p, 0)
	other := tlsRoute("other", files, Action{Handler: says("other")}, "a.test")
	other.Match.Ports = Ports(port)
	stop := make(chan struct{})
	var all sync.WaitGroup
	var done atomic.Int64
	for range 4 {
		c := client3(t, at, pool)
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := c.Post("https://a.test/", "text/plain", strings.NewReader("hello"))
				if err != nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(body) != "ok" || err != nil {
					t.Errorf("request %d: %d %q %v", i, resp.StatusCode, body, err)
					return
				}
				done.Add(1)
			}
		})
	}
	for i := range 100 {
		next := append(slices.Clone(routes), handlerRoute(fmt.Sprint("more", i), Match{Path: "/more"}))
		if i%2 == 0 {
			next = append(next, other)
		}
		if err := p.UpdateRoutes(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 { // one that is in use when it goes
			if c, err := quicOpen(t, addr(t, p, port), &tls.Config{ServerName: "a.test", RootCAs: pool}); err != nil {
				t.Errorf("update %d: %v", i, err)
			} else {
				defer c.CloseWithError(0, "")
			}
		}
	}
	close(stop)
	waitAll(t, &all)
	if done.Load() < 20 { // usually hundreds
		t.Errorf("only %d requests", done.Load())
	}
}

func TestHTTP3Stop(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, test := range []struct {
		name    string
		request bool
		patient bool // Stop waits for long enough
	}{
		{"clients that ask nothing", false, true},
		{"a request under way", true, true},
		{"a request that takes too long", true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			slow := newHeldBack()
			p := start(t, with3(tlsRoute("r", files, Action{Handler: slow}, "a.test")))
			at := addr(t, p, 0)
			fresh, err := quicOpen(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool})
			if err != nil {
				t.Fatal(err)
			}
			// One that has asked before, and does not hear that it should leave.
			quiet, err := quicOpen(t, at, &tls.Config{ServerName: "a.test", RootCAs: pool})
			if err != nil {
				t.Fatal(err)
			}
			str, err := quiet.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			str.SetDeadline(time.Now().Add(20 * time.Second))
			str.Write(headersFrame3(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"))
			str.Close()
			receive(t, slow.came)
			send(t, slow.answer, struct{}{})
			if b, err := io.ReadAll(str); len(b) < 70_000 || err != nil {
				t.Fatalf("%d bytes, %v", len(b), err)
			}

			result := make(chan error, 1)
			if test.request {
				go func() {
					resp, err := client3(t, at, pool).Get("https://a.test/")
					if err == nil {
						_, err = io.ReadAll(resp.Body)
					}
					result <- err
				}()
				receive(t, slow.came)
			}
			limit := 10 * time.Second
			if !test.patient {
				limit = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			stopped := make(chan error, 1)
			begin := time.Now()
			go func() { stopped <- p.Stop(ctx) }()
			if test.request {
				time.Sleep(100 * time.Millisecond) // so that there is something to wait for
				select {
				case err := <-stopped:
					t.Fatalf("stopped with a request under way: %v", err)
				default:
				}
				if test.patient {
					send(t, slow.answer, struct{}{})
				}
			}
			err = receive(t, stopped)
			took := time.Since(begin)
			if (err == nil) != test.patient || took > 5*time.Second {
				t.Errorf("Stop: %v after %v", err, took)
			}
			if test.request {
				if err := receive(t, result); (err == nil) != test.patient {
					t.Errorf("the request: %v", err)
				}
			}
			for name, c := range map[string]*quic.Conn{"fresh": fresh, "quiet": quiet} {
				if err := awaitClose(t, c, time.Second); !closedWith(err, http3.ErrCodeNoError) {
					t.Errorf("%s connection ended with %v", name, err)
				}
			}
			if pc, err := net.ListenPacket("udp", at); err != nil {
				t.Errorf("the socket is still there: %v", err)
			} else {
				pc.Close()
			}
		})
	}
}

// A socket of the host's own serves too, be it one of the system's or not.
func TestHTTP3GivenPacketConn(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, wrapped := range []bool{false, true} {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if wrapped {
			pc = struct{ net.PacketConn }{pc}
		}
		route := tlsRoute("r", files, Action{Handler: says("ok")}, "a.test")
		route.Match.Ports = Ports(443)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p := start(t, with3(route), WithListener("127.0.0.1:443", ln), WithPacketConn("127.0.0.1:443", pc))
		if status, body := get(t, client3(t, pc.LocalAddr().String(), pool), "https://a.test/"); status != 200 || body != "ok" {
			t.Errorf("wrapped %v: %d %q", wrapped, status, body)
		}
		if a := p.PacketAddr(443); a == nil || a.String() != pc.LocalAddr().String() {
			t.Errorf("wrapped %v: at %v", wrapped, a)
		}
		p.Stop(t.Context())
		if _, err := pc.WriteTo([]byte("x"), pc.LocalAddr()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("wrapped %v: after Stop: %v", wrapped, err)
		}
	}
}
