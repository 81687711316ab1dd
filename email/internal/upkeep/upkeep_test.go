package upkeep

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestUpkeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		u := New(ctx)
		cancel() // what begins it does not end it
		var log strings.Builder
		times, saves := 0, 0
		u.Every(time.Minute, func(context.Context) { times++ })
		u.Save(time.Hour, slog.New(slog.NewTextHandler(&log, nil)), "the list", func(context.Context) error {
			if saves++; saves == 1 {
				return errors.New("disk on fire")
			}
			return nil
		})
		time.Sleep(2*time.Hour + time.Second)
		u.Close()
		if times != 120 || saves != 2 {
			t.Errorf("%d times and %d saves in two hours", times, saves)
		}
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "the list could not be stored") || !strings.Contains(got, "disk on fire") {
			t.Errorf("the log says %q", got)
		}
		time.Sleep(time.Hour)
		if times != 120 {
			t.Error("it goes on after Close")
		}
		u.Close()
	})
}

// Close waits for what is under way, whose end is not an error to tell of.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := New(t.Context())
		var log strings.Builder
		ended := false
		u.Save(time.Second, slog.New(slog.NewTextHandler(&log, nil)), "it", func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Minute)
			ended = true
			return ctx.Err()
		})
		time.Sleep(2 * time.Second)
		u.Close()
		if !ended || log.Len() > 0 {
			t.Errorf("ended: %v, log: %q", ended, log.String())
		}
		var none *Upkeep
		none.Close()
	})
}
