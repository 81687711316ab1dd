package proxy

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestHTTPHandler(t *testing.T) {
	type seen struct {
		info ConnInfo
		ok   bool
	}
	got := make(chan seen, 10)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := ConnInfoFrom(r.Context())
		got <- seen{info, ok}
		switch r.URL.Path {
		case "/panic":
			panic(http.ErrAbortHandler)
		case "/silent":
			w.Header().Set("X-Own", "1")
		case "/body":
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		}
	})
	a := Action{Handler: h}
	a.Headers.Response.Set = map[string]string{"X-Edit": "{route}"}
	p := start(t, oneRoute(a))
	c := client(t, addr(t, p, 0), nil)

	// A handler that returns without a word has answered 200.
	resp, err := c.Get("http://a/silent")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("X-Own") != "1" || resp.Header.Get("X-Edit") != "r" {
		t.Errorf("%d %v, want X-Own and X-Edit", resp.StatusCode, resp.Header)
	}
	s := receive(t, got)
	if !s.ok || s.info.Route != "r" || !s.info.Client.Addr().IsLoopback() || s.info.Client.Port() == 0 || s.info.Local.String() != addr(t, p, 0) || s.info.TLS != nil || s.info.ID == "" {
		t.Errorf("ConnInfo %+v, %v", s.info, s.ok)
	}
	if r := p.Stats().Routes[0]; r.Responses[2] != 1 || r.Responses[0] != 0 {
		t.Errorf("responses %v, want one 2xx", r.Responses)
	}
	resp, err = c.Post("http://a/body", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != "hello" {
		t.Errorf("body %q", b)
	}
	resp.Body.Close()
	receive(t, got)
	if got := wireTalk(t, addr(t, p, 0), "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n"); got != "" {
		t.Errorf("a handler that gave up gave the answer %q", got)
	}
	eventually(t, "nothing in flight", func() bool { return p.Stats().Routes[0].Active == 0 })
	if r := p.Stats().Routes[0]; r.BytesIn != 5 || r.BytesOut != 5 {
		t.Errorf("counters %+v", r)
	}
}

// fakeDeadlines is a response writer that remembers deadlines.
type fakeDeadlines struct {
	http.ResponseWriter
	reads atomic.Int32
}

func (f *fakeDeadlines) SetReadDeadline(time.Time) error { f.reads.Add(1); return nil }

// The transport may read a request's body a moment longer than the handler
// runs. Then the connection belongs to the next request, and so do its
// deadlines.
func TestRequestBodyAfterClose(t *testing.T) {
	f := new(fakeDeadlines)
	b := &requestBody{ReadCloser: io.NopCloser(strings.NewReader("body")), writer: f, idle: time.Hour, bytes: &byteCount{route: new(atomic.Uint64)}}
	b.Read(make([]byte, 2))
	b.Close()
	before := f.reads.Load()
	b.Read(make([]byte, 2))
	b.Read(make([]byte, 2))
	if n := f.reads.Load(); n != before {
		t.Errorf("%d deadlines set after Close", n-before)
	}
}

func TestHTTPSecurityLists(t *testing.T) {
	secured := func(name string, s Security) Route {
		r := handlerRoute(name, Match{Domains: []string{name}})
		r.Action.Security = s
		return r
	}
	p := start(t, Config{Routes: []Route{
		secured("allowed.test", Security{IPAllowList: []string{"127.0.0.0/8"}}),
		secured("not-allowed.test", Security{IPAllowList: []string{"192.0.2.0/24"}}),
		secured("blocked.test", Security{IPBlockList: []string{"127.0.0.1"}}),
		secured("both.test", Security{IPAllowList: []string{"127.0.0.0/8"}, IPBlockList: []string{"::ffff:127.0.0.1"}}),
	}})
	c := client(t, addr(t, p, 0), nil)
	for host, want := range map[string]int{"allowed.test": 200, "not-allowed.test": 403, "blocked.test": 403, "both.test": 403} {
		if status, body := get(t, c, "http://"+host+"/"); status != want || status == 403 && strings.Contains(body, host) {
			t.Errorf("%s: %d %q, want %d", host, status, body, want)
		}
	}
	if s := p.Stats(); s.Refused["blocked"] != 3 || s.Routes[1].Blocked != 1 || s.Requests != 1 {
		t.Errorf("counters %+v", s)
	}
}

func TestHTTPRouteLimit(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	a := Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { enter <- struct{}{}; <-leave })}
	a.Security.MaxConnections = 2
	p := start(t, oneRoute(a))
	c := client(t, addr(t, p, 0), nil)
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			if status, _ := get(t, c, "http://a/"); status != 200 {
				t.Errorf("status %d", status)
			}
		})
		receive(t, enter)
	}
	resp, err := c.Get("http://a/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("third request: %d %v", resp.StatusCode, resp.Header)
	}
	close(leave)
	waitAll(t, &running)
	go func() { <-enter }()
	if status, _ := get(t, c, "http://a/"); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
	if n := p.Stats().Refused["routeFull"]; n != 1 {
		t.Errorf("routeFull %d", n)
	}
}

// A second client implementation.
func TestHTTPCurl(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Length", strconv.FormatInt(r.ContentLength, 10))
		io.Copy(w, r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, r.Host)
	})
	p := start(t, oneRoute(forwardTo(target)))
	folder := testenv.Folder(t)
	file := filepath.Join(folder, "upload")
	content := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{3}).Read(content)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	url := "http://" + addr(t, p, 0) + "/"
	run := func(args ...string) []byte {
		t.Helper()
		out, err := testenv.Command(t, curl, append([]string{"-sS", "--noproxy", "*", "--max-time", "20"}, args...)...).Output()
		if err != nil {
			t.Fatalf("curl %v: %v", args, err)
		}
		return out
	}
	host := addr(t, p, 0)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{url}, "GET " + host},
		{[]string{"-0", url}, "GET " + host},
		{[]string{"-H", "Host: other.test", url}, "GET other.test"},
		{[]string{"-d", "form=1", url}, "form=1POST " + host},
		{[]string{"-T", file, url}, string(content) + "PUT " + host},
		{[]string{"-T", file, "-H", "Transfer-Encoding: chunked", url}, string(content) + "PUT " + host},
		{[]string{"-T", file, "-H", "Expect: 100-continue", url}, string(content) + "PUT " + host},
		{[]string{url, url}, "GET " + host + "GET " + host},
	} {
		if got := run(test.args...); string(got) != test.want {
			t.Errorf("curl %v: got %d bytes %.60q, want %d bytes %.60q", test.args, len(got), got, len(test.want), test.want)
		}
	}
	if out := run("-I", url); wireStatus(string(out)) != 200 {
		t.Errorf("curl -I: %q", out)
	}
}
