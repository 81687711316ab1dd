package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestIdleStreamEnds(t *testing.T) {
	t.Parallel()
	const idle = time.Second // with room for a busy machine between the messages
	for _, l := range lanes(t, Timeouts{Idle: idle}, func(c halfConn) { io.Copy(c, c) }) {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			c := l.dial(t)
			mustBounce(t, c, question)
			for range 6 { // not while anything moves
				time.Sleep(idle / 4)
				mustBounce(t, c, "again")
			}
			begin := time.Now()
			if !isClosed(c, 10*idle) {
				t.Fatal("still open")
			}
			if d := time.Since(begin); d < idle*8/10 || d > idle*3 {
				t.Errorf("ended after %v, want %v", d, idle)
			}
		})
	}
}

func TestOneWayStreamIsNotIdle(t *testing.T) {
	t.Parallel()
	const idle, ticks = 700 * time.Millisecond, 30
	tick := func(c net.Conn) error {
		for range ticks {
			time.Sleep(idle / 6)
			if _, err := io.WriteString(c, "\x00"); err != nil {
				return err
			}
		}
		return nil
	}
	t.Run("to the client", func(t *testing.T) {
		for _, l := range lanes(t, Timeouts{Idle: idle}, func(c halfConn) { tick(c) }) {
			if l.look {
				continue
			}
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				if got, err := io.ReadAll(l.dial(t)); err != nil || len(got) != ticks {
					t.Errorf("%d of %d, %v", len(got), ticks, err)
				}
			})
		}
	})
	t.Run("to the target", func(t *testing.T) {
		got := make(chan int, 10)
		for _, l := range lanes(t, Timeouts{Idle: idle}, func(c halfConn) {
			all, _ := io.ReadAll(c)
			got <- len(all)
		}) {
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				c := l.dial(t)
				if err := tick(c); err != nil {
					t.Error(err)
				}
				c.CloseWrite()
				if n := receive(t, got); n != ticks {
					t.Errorf("%d of %d", n, ticks)
				}
			})
		}
	})
	// The target takes nothing, so that the client's direction is stuck in a
	// write; what it says must get through all the same.
	t.Run("while the other is stuck", func(t *testing.T) {
		const stuck = 16 << 20 // more than socket buffers take
		for _, l := range lanes(t, Timeouts{Idle: idle}, func(c halfConn) {
			tick(c)
			if n, err := io.Copy(io.Discard, c); n != stuck || err != nil { // now it does
				t.Errorf("the target got %d of %d, %v", n, stuck, err)
			}
		}) {
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				c := l.dial(t)
				sent := make(chan error, 1)
				go func() {
					_, err := sendAll(c, 3, stuck)
					sent <- err
				}()
				if got, err := io.ReadAll(c); err != nil || len(got) != ticks {
					t.Errorf("%d of %d, %v", len(got), ticks, err)
				}
				if err := receive(t, sent); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

func TestUpgradedConnectionIdle(t *testing.T) {
	t.Parallel()
	const idle = 700 * time.Millisecond
	_, upgrades := backend(t, upgradeEcho)
	p := startBare(t, Config{Timeouts: Timeouts{Idle: idle}, Routes: []Route{httpRoute("ws", 0, "ws.test", upgrades)}})
	c := dialUpgrade(t, addr(t, p, 0), "ws.test")
	for range 10 {
		mustBounce(t, c, "still here")
		time.Sleep(idle / 3)
	}
	begin := time.Now()
	if n, err := io.Copy(io.Discard, c); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if d := time.Since(begin); d > idle*3 {
		t.Errorf("ended after %v, want %v", d, idle)
	}
	eventually(t, "the target is free", func() bool { return targetStats(p, upgrades).Active == 0 })
}

// A target that stands still in the middle of an answer does not hold its
// client for ever.
func TestStalledResponseBody(t *testing.T) {
	t.Parallel()
	const idle = 700 * time.Millisecond
	_, stalls := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	_, slow := backend(t, func(w http.ResponseWriter, r *http.Request) {
		for range 20 {
			io.WriteString(w, ".")
			http.NewResponseController(w).Flush()
			time.Sleep(idle / 5)
		}
	})
	p := startBare(t, Config{Timeouts: Timeouts{Idle: idle}, Routes: []Route{httpRoute("stalls", 0, "stalls.test", stalls), httpRoute("slow", 0, "slow.test", slow)}})
	c := client(t, addr(t, p, 0), nil)
	c.Timeout = 5 * time.Second
	if _, body := get(t, c, "http://slow.test/"); len(body) != 20 {
		t.Errorf("slow body: %q", body)
	}
	resp, err := c.Get("http://stalls.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	begin := time.Now()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a clean end of half a body")
	}
	if d := time.Since(begin); d > idle*5 {
		t.Errorf("held for %v, want %v", d, idle)
	}
}

// A request and its response are one: as long as either moves, neither is idle.
func TestEitherDirectionKeepsAnExchange(t *testing.T) {
	t.Parallel()
	const idle, ticks = 700 * time.Millisecond, 24
	cert, key, pool := testenv.SelfSigned(t, "a.test")
	_, web := backend(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush() // the response begins at once
		if r.URL.Path == "/upload" {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		for range ticks {
			time.Sleep(idle / 6)
			io.WriteString(w, ".")
			rc.Flush()
		}
	})
	r := httpRoute("web", 0, "a.test", web)
	r.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	p := startBare(t, Config{Timeouts: Timeouts{Idle: idle}, Routes: []Route{r}})
	for _, path := range []string{"/upload", "/download"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			body, w := io.Pipe()
			defer w.Close()
			req, err := http.NewRequest("POST", "https://a.test"+path, body)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Repeat(".", ticks)
			if path == "/upload" {
				want = fmt.Sprintf("%d <nil>", ticks)
				go func() {
					for range ticks {
						time.Sleep(idle / 6)
						w.Write([]byte{0})
					}
					w.Close()
				}()
			}
			resp, err := client(t, addr(t, p, 0), pool).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
				t.Errorf("%s over HTTP/%d: %q, %v, want %q", path, resp.ProtoMajor, got, err, want)
			}
		})
	}
}
