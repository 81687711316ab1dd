package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// receiver is a transport that is the other end too, so that time can be made to
// pass.
type receiver struct {
	mu     sync.Mutex
	answer func(n int, r *http.Request) *http.Response // n counts from 1
	got    []received
}

type received struct {
	at       time.Time
	id, host string
	body     string
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.got = append(r.got, received{time.Now(), req.Header.Get("webhook-id"), req.URL.Host, string(body)})
	n := len(r.got)
	r.mu.Unlock()
	if r.answer == nil {
		return status(204), nil
	}
	if resp := r.answer(n, req); resp != nil {
		return resp, nil
	}
	return nil, errors.New("connection refused")
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}

func status(code int, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: code, Status: fmt.Sprintf("%d %s", code, http.StatusText(code)), Header: h, Body: http.NoBody}
}

const testSecret = conf.Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

func start(t testing.TB, cfg Config) *Sender {
	t.Helper()
	if cfg.Endpoints == nil {
		cfg.Endpoints = []Endpoint{{URL: "https://hook.example/path", Secret: testSecret}}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func send(t testing.TB, s *Sender, id, kind string) {
	t.Helper()
	if err := s.Send(Event{ID: id, Type: kind, Data: json.RawMessage(`{"n":1}`)}); err != nil {
		t.Fatal(err)
	}
}

func openStore(t testing.TB) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func stored(t testing.TB, s *storage.Store) (n int) {
	t.Helper()
	for _, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// TestSignature takes the example of standardwebhooks.com.
func TestSignature(t *testing.T) {
	key, err := ParseSecret(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	got := sign([][]byte{key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Error(got)
	}
}

func TestMistakes(t *testing.T) {
	_, err := New(Config{Endpoints: []Endpoint{
		{URL: "ftp://user:pass@x", Secret: "hunter2"}, {Secret: testSecret, PreviousSecret: "whsec_x"},
		{URL: "https://a.example/", Secret: testSecret}, {URL: "https://a.example/", Secret: testSecret},
	}})
	var paths []string
	for _, f := range conf.Fields(err) {
		paths = append(paths, f.Path)
	}
	if got := strings.Join(paths, " "); got != "[0].url [0].secret [1].url [1].previousSecret [3].url" || strings.Contains(err.Error(), "pass@") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%s: %v", got, err)
	}
	s := start(t, Config{Transport: &receiver{}})
	for name, ev := range map[string]Event{"id": {ID: "a b"}, "json": {Data: json.RawMessage("{")}, "size": {Data: json.RawMessage(`"` + strings.Repeat("x", maxPayload) + `"`)}} {
		if err := s.Send(ev); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := ParseSecret(NewSecret()); err != nil {
		t.Error(err)
	}
}

// TestDay: an endpoint that is down for long is tried again for a day, less and less
// often, and then the event is given up.
func TestDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(int, *http.Request) *http.Response { return nil }}
		s := start(t, Config{Transport: r})
		begin := time.Now()
		send(t, s, "one", "delivered")
		time.Sleep(30 * time.Hour)
		got := r.all()
		if len(got) < 10 || len(got) > 16 || got[len(got)-1].at.Sub(begin) > 24*time.Hour || got[len(got)-1].at.Sub(begin) < 18*time.Hour {
			t.Errorf("%d tries, the last after %v", len(got), got[len(got)-1].at.Sub(begin))
		}
		for i := 1; i < len(got); i++ {
			if got[i].id != "one" || got[i].body != got[0].body {
				t.Error("a later try is another event")
			}
			if i > 1 && i < 8 && got[i].at.Sub(got[i-1].at) < got[i-1].at.Sub(got[i-2].at) {
				t.Errorf("try %d came sooner than the one before", i+1)
			}
		}
		if st := s.Stats()[0]; st.Failed != 1 || st.Queued != 0 || st.LastError == "" {
			t.Errorf("%+v", st)
		}
	})
}

// TestRecovery: while an endpoint is down it is not flooded, and when it is back it
// gets everything.
func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		down := 3 * time.Hour
		r := &receiver{answer: func(int, *http.Request) *http.Response {
			if time.Since(begin) < down {
				return status(500)
			}
			return status(200)
		}}
		s := start(t, Config{Transport: r})
		for i := range 1000 {
			send(t, s, fmt.Sprint(i), "delivered")
		}
		time.Sleep(down)
		tries := len(r.all())
		if tries > 60 {
			t.Errorf("%d tries in three hours", tries)
		}
		time.Sleep(5 * time.Hour)
		ids := map[string]bool{}
		for _, g := range r.all()[tries:] {
			ids[g.id] = true
		}
		if st := s.Stats()[0]; len(ids) != 1000 || st.Sent != 1000 || st.Queued != 0 || st.Failures != 0 || st.LastError != "" {
			t.Errorf("%d events, %+v", len(ids), st)
		}
	})
}

// TestBadEvent: an event that the endpoint cannot take does not hold up others.
func TestBadEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		r.answer = func(_ int, req *http.Request) *http.Response {
			if req.Header.Get("webhook-id") == "bad" {
				return status(400)
			}
			return status(200)
		}
		s := start(t, Config{Transport: r})
		send(t, s, "bad", "delivered")
		for i := range 100 {
			send(t, s, fmt.Sprint(i), "delivered")
		}
		time.Sleep(time.Second)
		if st := s.Stats()[0]; st.Sent != 100 || st.Queued != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(int, *http.Request) *http.Response { return status(410) }}
		s := start(t, Config{Transport: r, Store: openStore(t)})
		for i := range 10 {
			send(t, s, fmt.Sprint(i), "delivered")
		}
		time.Sleep(48 * time.Hour)
		send(t, s, "x", "delivered")
		if st := s.Stats()[0]; !st.Disabled || len(r.all()) > 4 || st.Dropped != 11 || st.Queued != 0 {
			t.Errorf("%d requests, %+v", len(r.all()), st)
		}
	})
}

// Requests that were under way as the endpoint ended are not made again.
func TestGoneMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(n int, _ *http.Request) *http.Response {
			time.Sleep(time.Duration(n) * time.Second)
			if n == 1 {
				return status(410)
			}
			return status(500)
		}}
		s := start(t, Config{Transport: r, Store: openStore(t)})
		for i := range 4 {
			send(t, s, fmt.Sprint(i), "delivered")
		}
		time.Sleep(48 * time.Hour)
		if st := s.Stats()[0]; !st.Disabled || len(r.all()) != 4 || st.Dropped != 4 || st.Queued != 0 {
			t.Errorf("%d requests, %+v", len(r.all()), st)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(n int, _ *http.Request) *http.Response {
			if n == 1 {
				return status(429, "Retry-After", "600")
			}
			return status(200)
		}}
		s := start(t, Config{Transport: r, Concurrency: 1})
		send(t, s, "a", "delivered")
		send(t, s, "b", "delivered")
		time.Sleep(time.Hour)
		if got := r.all(); len(got) != 3 || got[1].at.Sub(got[0].at) < 10*time.Minute {
			t.Errorf("%+v", got)
		}
	})
}

func TestFilterAndFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(int, *http.Request) *http.Response { return nil }}
		s, err := New(Config{Transport: r, MaxQueue: 3, Endpoints: []Endpoint{
			{URL: "https://a.example", Secret: testSecret, Events: []string{"failed"}}, {URL: "https://b.example", Secret: testSecret}}})
		if err != nil {
			t.Fatal(err)
		}
		send(t, s, "other", "delivered")
		for i := range 5 {
			send(t, s, fmt.Sprint(i), "failed")
		}
		a, b := s.Stats()[0], s.Stats()[1]
		if a.Queued != 3 || a.Dropped != 2 || b.Queued != 3 || b.Dropped != 3 {
			t.Errorf("%+v, %+v", a, b)
		}
		r.answer = nil
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, g := range r.all() {
			if g.id == "other" && g.host == "a.example" || g.id == "0" || g.id == "1" {
				t.Errorf("%+v was posted", g)
			}
		}
		if len(r.all()) != 6 {
			t.Errorf("%d requests", len(r.all()))
		}
		s.Close(t.Context())
		if s.Send(Event{Type: "failed"}) == nil {
			t.Error("it takes events after its end")
		}
	})
}

// TestRestart: what waits is stored, by the end and in case of a crash, and what was
// sent is not sent again after an orderly end.
func TestRestart(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprint("crash ", crash), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, begin := openStore(t), time.Now()
				bad := &receiver{answer: func(_ int, req *http.Request) *http.Response {
					if time.Since(begin) > 15*time.Second && strings.HasPrefix(req.Header.Get("webhook-id"), "ok") {
						return status(200)
					}
					return status(500)
				}}
				s := start(t, Config{Transport: bad, Store: store})
				for i := range 50 {
					send(t, s, fmt.Sprintf("ok%d", i), "delivered")
					send(t, s, fmt.Sprintf("bad%d", i), "delivered")
				}
				time.Sleep(10 * time.Minute)
				if n := stored(t, store); n != 1 {
					t.Errorf("%d values", n)
				}
				if !crash {
					if err := s.Close(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				good := &receiver{}
				again := start(t, Config{Transport: good, Store: store})
				time.Sleep(10 * time.Second)
				ids := map[string]bool{}
				for _, g := range good.all() {
					ids[g.id] = true
				}
				for i := range 50 {
					if !ids[fmt.Sprintf("bad%d", i)] {
						t.Errorf("event %d is lost", i)
					}
				}
				for _, g := range bad.all() {
					if !crash && g.at.Sub(begin) > 15*time.Second && strings.HasPrefix(g.id, "ok") && ids[g.id] {
						t.Errorf("%s was sent again", g.id)
					}
				}
				if st := again.Stats()[0]; st.Queued != 0 {
					t.Errorf("%+v", st)
				}
				if crash {
					return // both have the same storage
				}
				if n := stored(t, store); n != 0 {
					t.Errorf("%d values are left", n)
				}
			})
		})
	}
}

// TestManySegments: events that trickle in for long leave few values.
func TestManySegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := openStore(t)
		s := start(t, Config{Transport: &receiver{answer: func(int, *http.Request) *http.Response { return nil }}, Store: store, MaxAge: 3 * time.Hour})
		for i := range 500 {
			send(t, s, fmt.Sprint(i), "delivered")
			time.Sleep(6 * time.Second)
		}
		if n := stored(t, store); n > maxSegments+2 || n == 0 {
			t.Errorf("%d values", n)
		}
		removed, err := New(Config{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := removed.Start(t.Context()); err != nil || stored(t, store) == 0 {
			t.Errorf("events of an endpoint that may come back: %v", err)
		}
		removed.Close(t.Context())
	})
}

// TestSlowEndpoint holds up no other, and Close does not wait for it for ever. The
// receivers are real servers.
func TestSlowEndpoint(t *testing.T) {
	testenv.Goroutines(t)
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(release)
	var mu sync.Mutex
	ids := map[string]int{}
	fast := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		ids[r.Header.Get("webhook-id")]++
	}))
	defer fast.Close()
	s := start(t, Config{Endpoints: []Endpoint{{URL: slow.URL, Secret: testSecret}, {URL: fast.URL, Secret: testSecret}}})
	for i := range 50 {
		send(t, s, fmt.Sprint(i), "delivered")
	}
	testenv.WaitFor(t, 30*time.Second, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(ids) != 50 {
			return fmt.Errorf("%d events", len(ids))
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestNoRedirectsNoSecrets: a redirection is an error and is not followed, and logs
// and figures do not show what the URL has beyond its host.
func TestNoRedirectsNoSecrets(t *testing.T) {
	followed := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hidden" {
			followed = true
		}
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter2" {
			w.WriteHeader(401)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	var logs syncBuffer
	base := strings.Replace(server.URL, "http://", "http://me:hunter2@", 1)
	s := start(t, Config{Log: slog.New(slog.NewTextHandler(&logs, nil)), Endpoints: []Endpoint{
		{URL: base + "/hidden?token=hunter3", Secret: testSecret}, {URL: "http://127.0.0.1:1/hidden?token=hunter3", Secret: testSecret}}})
	send(t, s, "x", "delivered")
	testenv.WaitFor(t, 30*time.Second, func() error {
		for _, st := range s.Stats() {
			if st.LastError == "" {
				return errors.New("nothing yet")
			}
		}
		return nil
	})
	stats := fmt.Sprintf("%+v", s.Stats())
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(stats, "307") || followed {
		t.Error(stats)
	}
	if err := withoutURL(fmt.Errorf("x: %w", &url.Error{Op: "Post", URL: "https://x/hidden", Err: io.EOF})); strings.Contains(err.Error(), "hidden") {
		t.Error(err)
	}
	for _, secret := range []string{"hunter", "hidden", string(testSecret)} {
		if strings.Contains(stats+logs.String(), secret) {
			t.Errorf("%q is shown in %s%s", secret, stats, logs.String())
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
