package proxy

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

var soakTime = flag.Duration("soak", 4*time.Second, "how long TestSoak goes on")

// usage is what must not grow with time.
type usage struct {
	heap               uint64
	goroutines, opened int
}

func measureUsage() usage {
	runtime.GC()
	runtime.GC() // pools are emptied in two steps
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, _ := os.ReadDir("/proc/self/fd")
	return usage{m.HeapAlloc, runtime.NumGoroutine(), len(files)}
}

// Clients, back ends and routes come and go, for as long as -soak says, and in
// the end no more is in use than at the beginning.
func TestSoak(t *testing.T) {
	testenv.Goroutines(t)
	files, pool := tlsFiles(t, "s.test")
	echo := tcpEcho(t)
	stable, stableTarget := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/big" {
			w.Write(make([]byte, 300<<10))
			return
		}
		fmt.Fprint(w, n)
	})
	defer stable.CloseClientConnections()
	raw := testenv.FreePort(t)
	// The back end that comes and goes has a fixed place.
	fragile := testenv.FreePort(t)
	fragileTarget := Target{Host: "127.0.0.1", Port: fragile}
	routes := func(round int) []Route {
		list := []Route{
			httpRoute("web", 0, "a.test", stableTarget),
			httpRoute("fragile", 0, "f.test", fragileTarget, stableTarget),
			{Name: "secure", Match: Match{Ports: Ports(0), Domains: []string{"s.test"}}, Action: Action{Type: Forward, Targets: []Target{stableTarget}, TLS: files}},
			streamRoute("raw", raw, echo.target()),
		}
		for i := range 20 {
			list = append(list, httpRoute(fmt.Sprintf("r%d-%d", round%7, i), 0, fmt.Sprintf("r%d-%d.test", round, i), stableTarget))
		}
		return list
	}
	p := startBare(t, Config{Routes: routes(0), Timeouts: Timeouts{Drain: time.Second}}, WithLogger(nil))
	web, stream := addr(t, p, 0), addr(t, p, raw)

	var work sync.WaitGroup
	var done, failed atomic.Uint64
	stop := make(chan struct{})
	loop := func(do func() error, mayFail bool) {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				done.Add(1)
				if err := do(); err != nil && !mayFail {
					if failed.Add(1) < 10 {
						t.Error(err)
					}
				}
			}
		})
	}
	var closers []func()
	fetch := func(scheme, host, path, method string, keep bool) func() error {
		var c *http.Client
		closers = append(closers, func() { c.CloseIdleConnections() })
		return func() error {
			if c == nil || rand.IntN(50) == 0 {
				if c != nil {
					c.CloseIdleConnections()
				}
				c = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
					DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						var d net.Dialer
						return d.DialContext(ctx, "tcp", web)
					},
					TLSClientConfig:   &tls.Config{RootCAs: pool},
					ForceAttemptHTTP2: rand.IntN(2) == 0,
					DisableKeepAlives: !keep,
				}}
			}
			var body io.Reader
			if method == "POST" {
				body = io.LimitReader(zeros{}, int64(rand.IntN(100<<10))+1)
			}
			req, _ := http.NewRequest(method, scheme+"://"+host+path, body)
			resp, err := c.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return err
			}
			if resp.StatusCode != 200 {
				return fmt.Errorf("%s: %s", host, resp.Status)
			}
			return nil
		}
	}
	loop(fetch("http", "a.test", "/", "GET", true), false)
	loop(fetch("http", "a.test", "/big", "GET", true), false)
	loop(fetch("http", "a.test", "/", "POST", true), false)
	loop(fetch("http", "a.test", "/", "GET", false), false)
	loop(fetch("https", "s.test", "/", "GET", true), false)
	loop(fetch("https", "s.test", "/", "POST", false), false)
	loop(fetch("http", "f.test", "/", "GET", true), false)
	loop(fetch("http", "f.test", "/", "POST", true), true) // what is under way when the back end dies is lost
	loop(func() error {                                    // a client that leaves in the middle
		c, err := net.Dial("tcp", web)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, "GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n")
		_, err = io.CopyN(io.Discard, c, int64(rand.IntN(200<<10)))
		return err
	}, false)
	loop(func() error {
		c, err := net.Dial("tcp", stream)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		for range rand.IntN(20) {
			if err := bounce(c, "over and over"); err != nil {
				return err
			}
		}
		return nil
	}, false)
	loop(func() error { // a back end that dies and comes back
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", fragile))
		if err != nil {
			return err
		}
		s := &http.Server{Handler: says("x")}
		go func() { time.Sleep(50 * time.Millisecond); s.Close() }()
		s.Serve(ln)
		return nil
	}, true)
	round := 0
	loop(func() error {
		round++
		return p.UpdateRoutes(t.Context(), routes(round))
	}, false)

	time.Sleep(*soakTime / 4)
	first := measureUsage()
	worst := first
	for end := time.Now().Add(*soakTime * 3 / 4); time.Now().Before(end); {
		time.Sleep(*soakTime / 16)
		u := measureUsage()
		t.Logf("heap %d KiB, %d goroutines, %d descriptors; %d rounds of work, %d failed", u.heap>>10, u.goroutines, u.opened, done.Load(), failed.Load())
		worst = usage{max(worst.heap, u.heap), max(worst.goroutines, u.goroutines), max(worst.opened, u.opened)}
	}
	close(stop)
	waitAll(t, &work)
	for _, closeIdle := range closers {
		closeIdle()
	}
	if worst.heap > first.heap+first.heap/2+8<<20 || worst.goroutines > first.goroutines+150 || worst.opened > first.opened+150 {
		t.Errorf("after a quarter of the time %+v, at worst %+v", first, worst)
	}
	if f := failed.Load(); f > 0 {
		t.Errorf("%d of %d rounds of work failed", f, done.Load())
	}
}

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
