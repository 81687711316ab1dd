package proxy

import (
	"bufio"
	"io"
	"net/http"
	"testing"
	"time"
)

// endings is a back end whose responses do not come to an end by themselves:
// that of /events goes on until the client leaves, that of /dies breaks off.
type endings struct{ next, gone chan struct{} }

func newEndings() endings { return endings{make(chan struct{}), make(chan struct{})} }

// serve answers both paths, and reports false for others.
func (e endings) serve(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case "/events":
		for {
			w.(http.Flusher).Flush()
			select {
			case <-e.next:
				io.WriteString(w, "event\n")
			case <-r.Context().Done():
				close(e.gone)
				return true
			}
		}
	case "/dies":
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return false
}

// check wants the client to see each event when it happens, the back end to hear
// that the client has left, and the client that the back end broke off. It can
// be called once.
func (e endings) check(t *testing.T, c *http.Client, site string) {
	t.Helper()
	resp, err := c.Get(site + "/events")
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	for range 3 {
		send(t, e.next, struct{}{})
		if line, err := r.ReadString('\n'); line != "event\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	resp.Body.Close() // resets the stream, not the connection
	select {
	case <-e.gone:
	case <-time.After(5 * time.Second):
		t.Error("the target does not hear that the client has left")
	}
	if resp, err = c.Get(site + "/dies"); err == nil {
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("clean end after %q", body)
		}
		resp.Body.Close()
	}
}
