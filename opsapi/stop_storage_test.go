package opsapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// hanging is a storage in memory whose writes hang at times.
type hanging struct {
	storage.Backend
	testenv.Hang
}

func (b *hanging) Put(ctx context.Context, key string, value []byte) error {
	b.Wait()
	return b.Backend.Put(ctx, key, value)
}

// openHanging opens one. Both end with the test.
func openHanging(t *testing.T) (*hanging, *storage.Store) {
	t.Helper()
	b := &hanging{Backend: storage.Memory()}
	store, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Free()
		store.Close()
	})
	return b, store
}

// Stop comes to an end though the storage does not answer, and says what may be
// missing.
func TestStopWithAHangingStorage(t *testing.T) {
	for name, c := range map[string]struct {
		deadline bool
		begin    func(h *host, change func())
		want     string
	}{
		"a change":                     {true, func(_ *host, change func()) { go change() }, "updateConfiguration"},
		"a change, without a deadline": {false, func(_ *host, change func()) { go change() }, "updateConfiguration"},
		"of the host": {true, func(h *host, _ func()) {
			h.set(func(c *hostConfig) { c.Greeting = "the host's" })
		}, "what the host has changed"},
	} {
		t.Run(name, func(t *testing.T) {
			backend, store := openHanging(t)
			h := newHost()
			s, err := New(testConfig(), WithStorage(store), WithConfiguration(h))
			if err != nil {
				t.Fatal(err)
			}
			s.hangTime = 100 * time.Millisecond
			if !c.deadline {
				s.stopTime = 100 * time.Millisecond
			}
			if err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			post := func(token, method, body string) string {
				r := httptest.NewRequest(http.MethodPost, "/api/v1/"+method, strings.NewReader(body))
				r.Header.Set("Authorization", "Bearer "+token)
				w := httptest.NewRecorder()
				s.Handler().ServeHTTP(w, r)
				return w.Body.String()
			}
			_, in, _ := strings.Cut(post("", "adminLoginWithUsernameAndPassword", `{"username":"admin","password":"`+adminPassword+`"}`), `"jwt":"`)
			token, _, _ := strings.Cut(in, `"`)
			if text := post(token, "updateConfiguration", `{"configuration":{"greeting":"hello"}}`); !strings.Contains(text, `"version":2`) {
				t.Fatal(text)
			}
			backend.Stick()
			ended := make(chan struct{})
			c.begin(h, func() {
				defer close(ended)
				post(token, "updateConfiguration", `{"configuration":{"greeting":"lost"}}`)
			})
			if c.want == "updateConfiguration" {
				testenv.Receive(t, backend.Hung())
			} else {
				close(ended)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			want := context.DeadlineExceeded
			if c.deadline {
				cancel()
				want = context.Canceled
			}
			stopped := make(chan error, 1)
			go func() { stopped <- s.Stop(ctx) }()
			if err := testenv.Receive(t, stopped); !errors.Is(err, grace.ErrHangs) || !errors.Is(err, want) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Stop: %v", err)
			}
			backend.Free()
			testenv.Receive(t, ended)
		})
	}
}
