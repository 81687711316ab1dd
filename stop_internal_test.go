package dcrouter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
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

// stuckBackend is one whose Close hangs, and which has no keys of a prefix to tell.
type stuckBackend struct {
	storage.Backend
	prefix string
	end    chan struct{}
}

func (stuckBackend) Open(context.Context) error { return nil }

func (b stuckBackend) Close() error {
	<-b.end
	return nil
}

func (b stuckBackend) Get(ctx context.Context, key string) ([]byte, error) {
	if strings.HasPrefix(key, b.prefix) {
		return nil, errors.New("no answer")
	}
	return b.Backend.Get(ctx, key)
}

// A Start that fails does not wait for ever for such a storage either.
func TestStartFailsStorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := stuckBackend{storage.Memory(), "ops/", make(chan struct{})}
		defer synctest.Wait()
		defer close(b.end)
		r, err := New(WithStorage(b), WithOps(opsapi.Config{Port: new(int), Admin: opsapi.Admin{Username: "admin", Password: "hunter2hunter2"}}))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := r.Start(t.Context()); !errors.Is(err, grace.ErrHangs) || time.Since(began) > timeToTakeBack+timeToAnswer {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// deafBackend hangs with keys of a prefix, whatever its context says, once it has
// told so and until the end.
type deafBackend struct {
	storage.Backend
	prefix string
	hangs  chan struct{}
	end    chan struct{}
}

func (b deafBackend) wait(key string) {
	if !strings.HasPrefix(key, b.prefix) {
		return
	}
	select {
	case b.hangs <- struct{}{}:
	default:
	}
	<-b.end
}

func (b deafBackend) Get(_ context.Context, key string) ([]byte, error) {
	b.wait(key)
	return b.Backend.Get(context.Background(), key)
}

func (b deafBackend) List(_ context.Context, prefix string) iter.Seq2[string, error] {
	b.wait(prefix)
	return b.Backend.List(context.Background(), prefix)
}

func newDeafBackend(prefix string) deafBackend {
	return deafBackend{storage.Memory(), prefix, make(chan struct{}, 1), make(chan struct{})}
}

// A Start whose storage does not answer holds Stop up for as long as that has time.
func TestStopDuringStartThatHangs(t *testing.T) {
	for name, c := range map[string]struct{ patience, want time.Duration }{
		"with a deadline": {10 * time.Second, 10*time.Second + momentToStop},
		"without one":     {0, timeToAnswer + momentToStop},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newDeafBackend("")
				r, err := New(WithStorage(b))
				if err != nil {
					t.Fatal(err)
				}
				started := make(chan error, 1)
				go func() { started <- r.Start(t.Context()) }()
				<-b.hangs
				ctx, cancel := context.WithCancel(t.Context())
				if c.patience > 0 {
					ctx, cancel = context.WithTimeout(ctx, c.patience)
				}
				defer cancel()
				for range 2 {
					began := time.Now()
					err := r.Stop(ctx)
					if took := time.Since(began); !errors.Is(err, grace.ErrHangs) || !strings.Contains(err.Error(), "opening the storage") || took > c.want {
						t.Errorf("stopped after %v: %v", took, err)
					}
				}
				// Others wait no longer than they want to.
				hasty, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := r.Start(hasty); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("another Start: %v", err)
				}
				close(b.end)
				if err := <-started; !errors.Is(err, errStopCalled) {
					t.Errorf("Start: %v", err)
				}
				if r.Store() != nil || r.Wait() != nil {
					t.Error("the Router runs")
				}
			})
		})
	}
}

// A Start that fails takes back in peace what has started: that its context ends
// meanwhile is nothing to report, then or at the next Stop.
func TestTakeBackInPeace(t *testing.T) {
	testenv.Goroutines(t)
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	port := taken.LocalAddr().(*net.UDPAddr).Port
	r, err := New(WithDNS(dnsserver.Config{}, dnsserver.WithListener(closing{ln, cancel})),
		WithRADIUS(radius.Config{ListenHost: "127.0.0.1", Port: &port, AccountingPort: new(0), Secret: "a secret of the tests"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(ctx); !errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "dns") || ctx.Err() == nil {
		t.Errorf("Start: %v", err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// A Start for which Stop has not waited takes everything back when it goes on, and
// closes what the host has given, as Stop would have.
func TestLateStartTakesEverythingBack(t *testing.T) {
	testenv.Goroutines(t)
	given, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := testenv.FreePort(t)
	b := newDeafBackend("radius/sessions")
	r, err := New(WithStorage(b), WithDNS(dnsserver.Config{ListenHost: "127.0.0.1", Port: &port}),
		WithRADIUS(radius.Config{ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0), Secret: "a secret of the tests"}),
		WithProxy(proxy.Config{}, proxy.WithListener("127.0.0.1:1", given)))
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- r.Start(t.Context()) }()
	testenv.Receive(t, b.hangs)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Stop(ctx); !errors.Is(err, grace.ErrHangs) {
		t.Errorf("Stop: %v", err)
	}
	if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		ln.Close()
		t.Fatal("nothing had started yet")
	}
	close(b.end)
	if err := testenv.Receive(t, started); !errors.Is(err, errStopCalled) {
		t.Errorf("Start: %v", err)
	}
	if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		t.Error(err)
	} else {
		ln.Close()
	}
	if _, err := given.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener that was given: %v", err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
