package grace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestWait(t *testing.T) {
	failed := errors.New("failed")
	for what, c := range map[string]struct {
		takes, wantAfter time.Duration
		want             error
	}{
		"in time":       {time.Second, time.Second, failed},
		"somewhat late": {12 * time.Second, 12 * time.Second, failed},
		"it hangs":      {time.Hour, 15 * time.Second, ErrHangs},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			err := Wait(ctx, 5*time.Second, func() error {
				time.Sleep(c.takes)
				return failed
			})
			if took := time.Since(began); !errors.Is(err, c.want) || took != c.wantAfter {
				t.Errorf("%s: %v after %v", what, err, took)
			}
			time.Sleep(c.takes) // no goroutine may be left
		})
	}
}
