package opsapi

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// halfway is a host that stops half way when it applies something, so many times.
type halfway struct {
	*host
	times atomic.Int32
}

func newHalfway(h *host, times int32) *halfway {
	half := &halfway{host: h}
	half.times.Store(times)
	return half
}

func (h *halfway) Apply(ctx context.Context, doc json.RawMessage) error {
	if h.times.Add(-1) < 0 {
		return h.host.Apply(ctx, doc)
	}
	h.set(func(c *hostConfig) { c.Greeting = "half" })
	return errors.New("no space left on device")
}

// wantOwed wants that nothing counts as the host's, and that nothing can be changed.
func wantOwed(t *testing.T, x *history, versions int) {
	t.Helper()
	if _, err := x.get(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if err := x.note(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := x.apply(t.Context(), greetChange(newHost(), "other", 0)); err == nil || clientError(err).Code != CodePending {
		t.Errorf("a change meanwhile: %v", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.v.list) != versions {
		t.Errorf("versions %+v", x.v.list)
	}
}

// What was not confirmed, and cannot be taken back at a start, is taken back when
// that is possible, be it after another start.
func TestUnconfirmedChangeIsTakenBackAfterAStart(t *testing.T) {
	for _, given := range []string{"", "edited"} {
		synctest.Test(t, func(t *testing.T) {
			store, h := openStore(t), newHost()
			x := openHistory(t, h, store)
			pending, err := x.apply(t.Context(), greetChange(h, "pending", time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			x.close()
			other := newHost()
			other.config.Greeting = given
			other.begin()
			h.given = other.given
			full := newHalfway(h, 1000)
			for range 2 {
				x.close()
				x = openHistory(t, full, store)
				time.Sleep(time.Minute)
				synctest.Wait()
				wantOwed(t, x, 2)
				if _, err := x.confirm(t.Context(), pending.Version); clientError(err).Code != CodePending {
					t.Errorf("confirmed: %v", err)
				}
			}
			full.times.Store(0)
			time.Sleep(revertAgain)
			synctest.Wait()
			undone, _ := x.v.find(pending.Version)
			if h.greeting() != given || x.v.head.pending() || !undone.Reverted {
				t.Errorf("the host says %q, %+v", h.greeting(), x.v)
			}
			if _, err := x.apply(t.Context(), greetChange(h, "next", 0)); err != nil {
				t.Error(err)
			}
			x.close()
		})
	}
}

// Nor does it stay where taking it back stops half way.
func TestRevertThatStopsHalfWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		source := newHalfway(h, 0)
		x := openHistory(t, source, openStore(t))
		for _, within := range []time.Duration{time.Minute, time.Hour} {
			pending, err := x.apply(t.Context(), greetChange(h, "pending", within))
			if err != nil {
				t.Fatal(err)
			}
			source.times.Store(2)
			if within == time.Minute {
				time.Sleep(within)
			} else if _, err := x.revert(t.Context(), pending.Version); err == nil {
				t.Error("it was taken back")
			}
			synctest.Wait()
			if h.greeting() != "half" {
				t.Errorf("the host says %q", h.greeting())
			}
			wantOwed(t, x, pending.Version)
			time.Sleep(2 * revertAgain)
			synctest.Wait()
			undone, _ := x.v.find(pending.Version)
			if h.greeting() != "" || x.v.head.pending() || !undone.Reverted || len(x.v.list) != pending.Version {
				t.Errorf("the host says %q, %+v", h.greeting(), x.v)
			}
		}
		x.close()
	})
}

// Nor does a change that was refused half way, also not after a restart.
func TestRefusedChangeThatStopsHalfWay(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store, h := openStore(t), newHost()
			source := newHalfway(h, 2)
			x := openHistory(t, source, store)
			if _, err := x.apply(t.Context(), greetChange(h, "refused", 0)); err == nil {
				t.Error("it was applied")
			}
			wantOwed(t, x, 2)
			if restart {
				x.close()
				x = openHistory(t, source, store)
			}
			time.Sleep(revertAgain)
			synctest.Wait()
			if h.greeting() != "" || x.v.head.Current != 1 || len(x.v.list) == 2 && !x.v.list[1].Reverted {
				t.Errorf("the host says %q, %+v", h.greeting(), x.v)
			}
			x.close()
		})
	}
}

// A change that is taken back but cannot be noted is noted later.
func TestRevertThatCannotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, store := openDisk(t)
		h := newHost()
		x := openHistory(t, h, store)
		pending, err := x.apply(t.Context(), greetChange(h, "pending", time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		full.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		wantOwed(t, x, 2)
		// What the host does then is its own.
		h.set(func(c *hostConfig) { c.Greeting = "the host's" })
		full.Store(false)
		time.Sleep(revertAgain)
		synctest.Wait()
		if _, err := x.get(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		undone, _ := x.v.find(pending.Version)
		if h.greeting() != "the host's" || x.v.head.Current != 3 || x.v.head.pending() || !undone.Reverted {
			t.Errorf("the host says %q, %+v", h.greeting(), x.v)
		}
		x.close()
	})
}
