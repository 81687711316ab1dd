package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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

// A response that began before a pause has not said that it is the last one of its
// connection: the request after it is served, though Stop has begun.
func TestResponseOverPause(t *testing.T) {
	sameGoroutines(t)
	goOn := make(chan struct{})
	slow := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begin")
		http.NewResponseController(w).Flush()
		if r.URL.Path == "/slow" {
			<-goOn
		}
	}
	_, web := backend(t, slow)
	p := newProxy(t, Config{Routes: []Route{httpRoute("fast", 0, "fast.test", web), httpRoute("offers", 0, "offers.test", web),
		{Name: "nethttp", Match: Match{Ports: Ports(0), Domains: []string{"nethttp.test"}}, Action: Action{Handler: http.HandlerFunc(slow)}}}})
	mustStart(t, p)
	clients := map[string]*bufio.ReadWriter{"fast.test": nil, "offers.test": nil, "nethttp.test": nil, "nowhere.test": nil}
	ask := func(host, path string) *http.Response {
		t.Helper()
		c := clients[host]
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n", path, host)
		if host == "offers.test" { // as curl does; nobody takes it up
			io.WriteString(c, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n")
		}
		io.WriteString(c, "\r\n")
		c.Flush()
		resp, err := http.ReadResponse(c.Reader, nil)
		if err != nil {
			t.Fatal(host, err)
		}
		return resp
	}
	read := func(resp *http.Response) {
		t.Helper()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
	}
	var begun []*http.Response
	for host := range clients {
		c := dialTCP(t, addr(t, p, 0))
		c.SetDeadline(time.Now().Add(30 * time.Second))
		clients[host] = bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
		resp := ask(host, "/slow")
		if resp.Close {
			t.Errorf("%s: the first response is the last one", host)
		}
		begun = append(begun, resp)
	}
	p.Pause(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- stopWithin(p, 30*time.Second) }()
	eventually(t, "Stop has begun", func() bool { return p.current() == nil })
	close(goOn)
	for _, resp := range begun {
		read(resp)
	}
	for host := range clients {
		resp := ask(host, "/")
		if read(resp); !resp.Close {
			t.Errorf("%s: the connection does not end at Stop", host)
		}
	}
	if err := receive(t, stopped); err != nil {
		t.Error(err)
	}
}
