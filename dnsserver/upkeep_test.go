package dnsserver

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// What the clock says counts, also after a step of it or a pause of the machine,
// of which Go's monotonic readings know nothing.
func TestClockIsTheWallClock(t *testing.T) {
	s := newServer(t, Config{})
	if now := s.contents.now(); now != now.Round(0) {
		t.Errorf("%v has a monotonic reading", now)
	}
}

// When a clock that was wrong is set right all is signed anew, be it that the
// signatures have ended or that they have not begun.
func TestClockIsSetRight(t *testing.T) {
	for name, wrong := range map[string]time.Duration{"behind": -20 * day, "ahead": 20 * day} {
		t.Run(name, func(t *testing.T) {
			testenv.Goroutines(t)
			var off atomic.Int64
			off.Store(int64(wrong))
			now := func() time.Time { return wallClock().Add(time.Duration(off.Load())) }
			zs := &zones{responder: &responder{}, now: now, wake: make(chan struct{}, 1), store: memory(t)}
			zs.responder.zones.Store(newZoneSet(nil))
			if err := zs.loadAll(t.Context(), &Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone), DNSSEC: &DNSSEC{}}}}); err != nil {
				t.Fatal(err)
			}
			z := zs.sorted()[0]
			done := make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				defer close(done)
				zs.upkeep(ctx)
			}()
			defer func() {
				cancel()
				<-done
			}()
			testenv.WaitFor(t, 10*time.Second, func() error { // all has been looked at
				if z.nextLook.Load() < now().Add(time.Minute).UnixNano() {
					return fmt.Errorf("the next look is at %v", time.Unix(0, z.nextLook.Load()))
				}
				return nil
			})
			off.Store(0)
			zs.wake <- struct{}{} // as the timer does after some time
			testenv.WaitFor(t, 10*time.Second, func() error {
				for r := range z.ref.current.Load().records() {
					if r.rtype != dns.TypeRRSIG {
						continue
					}
					at := uint32(now().Unix())
					if serialAfter(sigInception(r.data), at) || serialAfter(at, sigExpiration(r.data)) {
						return fmt.Errorf("%s: it is %v", r.text(), now())
					}
				}
				return nil
			})
		})
	}
}
