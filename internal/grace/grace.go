// Package grace puts an end to waiting for what hangs.
package grace

import (
	"context"
	"errors"
	"time"
)

// ErrHangs is returned for what was not waited for any longer.
var ErrHangs = errors.New("it hangs, and is not waited for any longer")

// Wait calls f and returns what f does. If it has not returned d after the end of
// ctx, Wait returns [ErrHangs]. f goes on then, until what it waits for answers: a
// disk, or code of the host, which may heed no context.
func Wait(ctx context.Context, d time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return ErrHangs
	}
}
