package opsapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// stuck is a host that applies nothing until it is told to end.
type stuck struct {
	*host
	entered chan struct{}
}

func (s stuck) Apply(ctx context.Context, _ json.RawMessage) error {
	close(s.entered)
	<-ctx.Done()
	return ctx.Err()
}

// A change that does not come to an end holds Stop up no longer than its context,
// and is nothing that has been.
func TestStopEndsAChange(t *testing.T) {
	testenv.Goroutines(t)
	h := newHost()
	slow := stuck{h, make(chan struct{})}
	d := openDesk(t, h, openStore(t), WithConfiguration(slow))
	token := d.admin()
	answered := make(chan error, 1)
	go func() {
		body := strings.NewReader(`{"configuration":{"greeting":"lost"},"confirmWithinSeconds":3600}`)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.base+"/api/v1/updateConfiguration", body)
		if err == nil {
			r.Header.Set("Authorization", "Bearer "+token)
			var resp *http.Response
			if resp, err = d.client.Do(r); err == nil {
				resp.Body.Close()
			}
		}
		answered <- err
	}()
	testenv.Receive(t, slow.entered)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- d.server.Stop(ctx) }()
	cancel()
	// Where the change ends at once there is nothing left that Stop gives up.
	if err := testenv.Receive(t, stopped); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Stop: %v", err)
	}
	testenv.Receive(t, answered)
	if err := d.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.base = "http://" + d.server.Addr().String()
	var list historyResponse
	d.post(token, "getConfigurationHistory", object{}).into(&list)
	if len(list.Versions) != 1 || list.Versions[0].State != "current" {
		t.Errorf("the history has %+v", list)
	}
}

// Nor does the confirmation of one hold Stop up.
func TestStopEndsAConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend, store := openStalled(t)
		h := newHost()
		x := openHistory(t, h, store)
		over, giveUp := context.WithCancel(t.Context())
		x.over = over
		pending, err := x.apply(t.Context(), greetChange(h, "pending", time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		backend.key = headKey
		begun := time.Now()
		time.AfterFunc(time.Second, giveUp)
		if _, err := x.confirm(t.Context(), pending.Version); err == nil {
			t.Error("it was stored")
		}
		x.close()
		if d := time.Since(begun); d != time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}
