package radius

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/storage"
)

// silentConn is a socket that nothing comes to.
type silentConn struct {
	net.PacketConn
	port   int
	end    sync.Once
	ended  chan struct{}
	closed atomic.Bool
}

func newSilentConn(port int) *silentConn { return &silentConn{port: port, ended: make(chan struct{})} }

func (c *silentConn) ReadFrom([]byte) (int, net.Addr, error) {
	<-c.ended
	return 0, nil, net.ErrClosed
}

func (c *silentConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		c.end.Do(func() { close(c.ended) })
	}
	return nil
}

func (c *silentConn) Close() error {
	c.closed.Store(true)
	return c.SetReadDeadline(time.Unix(1, 0))
}

func (c *silentConn) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: c.port}
}

// startSilent starts a Server on such sockets, in a bubble, which gets two records. Its
// storage puts by put, if it does not end that with an error.
func startSilent(t *testing.T, put func(ctx context.Context, key string) error, sink AccountingSink) (*Server, []*silentConn) {
	t.Helper()
	memory := storage.Memory()
	store, err := storage.Open(t.Context(), &putBackend{memory, func(ctx context.Context, key string, value []byte) error {
		if err := put(ctx, key); err != nil {
			return err
		}
		return memory.Put(context.WithoutCancel(ctx), key, value)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	conns := []*silentConn{newSilentConn(1812), newSilentConn(1813)}
	s, err := New(Config{ListenHost: "127.0.0.1", Secret: testSecret}, WithStorage(store), WithAccountingSink(sink),
		WithPacketConn("127.0.0.1:1812", conns[0]), WithPacketConn("127.0.0.1:1813", conns[1]))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"1", "2"} {
		in := &arrival{from: netip.AddrPortFrom(loopbackAddr(), 1), client: s.clients.find(loopbackAddr()), secret: []byte(testSecret), service: acctService, at: time.Now(), out: &record{}}
		s.latest().take(in, acct(StatusStart, id).encode(t))
	}
	synctest.Wait()
	return s, conns
}

// What hangs, whatever it is told, holds Stop up for a while only, also where Stop
// is given all the time there is.
func TestStopHangs(t *testing.T) {
	for _, test := range []struct {
		name     string
		where    string // a prefix of keys, "" for the sink
		patience time.Duration
		want     string
	}{
		{"journal", journalPrefix, time.Second, "given up: 0 logins, and 2 accounting records"},
		{"journal, no deadline", journalPrefix, 0, "given up: 0 logins, and 2 accounting records"},
		{"state", statePrefix, 0, "it hangs"},
		{"sink", "", time.Second, "given up: 0 logins, and 2 accounting records"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end := make(chan struct{})
				s, conns := startSilent(t, func(_ context.Context, key string) error {
					if test.where != "" && strings.HasPrefix(key, test.where) {
						<-end
					}
					return nil
				}, func(context.Context, *Record) error {
					if test.where == "" {
						<-end
					}
					return nil
				})
				before := s.Stats().Sessions
				s.latest().journal.compact <- struct{}{}
				synctest.Wait()
				ctx, most := t.Context(), 2*stopPatience
				if test.patience != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.patience)
					defer cancel()
					most = test.patience + stopPatience
				}
				began := time.Now()
				err := s.Stop(ctx)
				if took := time.Since(began); !errors.Is(err, grace.ErrHangs) || !strings.Contains(err.Error(), test.want) || took > most+time.Second {
					t.Errorf("after %v: %v", took, err)
				}
				for _, conn := range conns {
					if !conn.closed.Load() {
						t.Error("a socket is open")
					}
				}
				// When it does not hang any more all goroutines end, and what nobody
				// waited for changes nothing that the next Start may have read.
				close(end)
				synctest.Wait()
				if n := s.Stats().Sessions; n != before {
					t.Errorf("%d sessions are open, there were %d", n, before)
				}
			})
		})
	}
}

// Stop does not wait for a compaction, which can begin anew.
func TestStopWhileCompacting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		defer close(end)
		s, _ := startSilent(t, func(ctx context.Context, key string) error {
			if strings.HasPrefix(key, statePrefix) {
				select {
				case <-ctx.Done():
				case <-end:
				}
			}
			return ctx.Err()
		}, nil)
		s.latest().journal.compact <- struct{}{}
		synctest.Wait()
		began := time.Now()
		if err := s.Stop(t.Context()); err != nil || time.Since(began) > time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}
