package storage

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// undeletable is a backend whose Delete takes as long as it may.
type undeletable struct{ Backend }

func (undeletable) Delete(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestSweepHangs: where an expired value cannot be removed, List waits no longer
// than it is told, and not for ever.
func TestSweepHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, undeletable{Memory()})
		mustPut(t, s, "gone", "", TTL(time.Second))
		mustPut(t, s, "there", "")
		for len(s.lists.closed) == 0 { // until it is being removed
			time.Sleep(100 * time.Millisecond)
		}
		list := func(within time.Duration) (keys []string, err error) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			for key, err := range s.List(ctx, "") {
				if err != nil {
					return keys, err
				}
				keys = append(keys, key)
			}
			return keys, nil
		}
		began := time.Now()
		if _, err := list(time.Second); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("with a second: %v after %v", err, time.Since(began))
		}
		if keys, err := list(time.Minute); err != nil || len(keys) != 1 || keys[0] != "there" {
			t.Errorf("with a minute: %q, %v", keys, err)
		}
	})
}
