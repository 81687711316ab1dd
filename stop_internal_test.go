package dcrouter

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/storage"
)

// hangingBackend deletes nothing before the end of the test.
type hangingBackend struct {
	storage.Backend
	end chan struct{}
}

func (b hangingBackend) Delete(context.Context, string) error {
	<-b.end
	return nil
}

// A storage that hangs, whatever it is told, holds Stop up for a while only, and
// what does not need it stops in order all the same.
func TestStopStorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hangingBackend{storage.Memory(), make(chan struct{})}
		defer synctest.Wait()
		defer close(b.end)
		store, err := storage.Open(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Put(t.Context(), "k", nil, storage.TTL(time.Second)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // now it is being removed
		stopped := 0
		list := []component{
			{name: "sound", stop: func(context.Context) error { stopped++; return nil }},
			{name: "hanging", stop: func(ctx context.Context) error { <-b.end; return nil }},
			{name: "hanging, too", stop: func(ctx context.Context) error { <-b.end; return nil }},
			{name: "sound, too", stop: func(context.Context) error { stopped++; return nil }},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		err = closeStore(ctx, store, stop(ctx, list))
		if took := time.Since(began); !errors.Is(err, grace.ErrHangs) || took > 10*time.Second+timeToAnswer+2*time.Second || stopped != 2 {
			t.Errorf("%d of 2 sound ones stopped, all after %v: %v", stopped, took, err)
		}
	})
}
