package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/sockets"
)

// What is connected is served through a pause, a later Start and the Stop after a
// pause; what connects meanwhile waits.
func TestPause(t *testing.T) {
	sameGoroutines(t)
	_, web := backend(t, says("web"))
	var set sockets.Set
	t.Cleanup(set.Close)
	p := newProxy(t, Config{Routes: []Route{httpRoute("web", 0, "web.test", web)}}, WithSockets(&set))
	mustStart(t, p)
	at := addr(t, p, 0)
	ask := func(c *bufio.ReadWriter) *http.Response {
		t.Helper()
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
		c.Flush()
		resp, err := http.ReadResponse(c.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(resp.Body).ReadString(0); resp.StatusCode != http.StatusOK || resp.ContentLength != 3 {
			t.Fatalf("status %d, %d bytes, %v", resp.StatusCode, resp.ContentLength, err)
		}
		return resp
	}
	dial := func() *bufio.ReadWriter {
		c := dialTCP(t, at)
		c.SetDeadline(time.Now().Add(30 * time.Second))
		return bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
	}
	old, older := dial(), dial()
	if ask(old).Close || ask(older).Close {
		t.Fatal("connections end with their first request")
	}
	if err := set.Hold(); err != nil {
		t.Fatal(err)
	}
	p.Pause(t.Context())
	if p.Addr(0) != nil {
		t.Error("the port is still there")
	}
	waits := dial()
	if !ask(older).Close {
		t.Error("a request in the pause is not the last one of its connection")
	}
	mustStart(t, p)
	if got := addr(t, p, 0); got != at {
		t.Errorf("listens on %s, not on %s", got, at)
	}
	set.Release()
	if ask(waits).Close || ask(old).Close {
		t.Error("connections still end after the pause")
	}
	if err := p.Start(t.Context()); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}

	p.Pause(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- stopWithin(p, 30*time.Second) }()
	eventually(t, "Stop has begun", func() bool { return p.current() == nil })
	for _, c := range []*bufio.ReadWriter{old, waits} {
		if !ask(c).Close {
			t.Error("a connection does not end at Stop")
		}
	}
	if err := receive(t, stopped); err != nil {
		t.Error(err)
	}
}
