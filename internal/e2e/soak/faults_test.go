package soak

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// faults are what can be broken, each by a func that takes the time it has.
func (w *world) faults(ctx context.Context, random *rand.Rand) []func(time.Duration) {
	mortal := func() *mortal { return w.mortal[random.IntN(len(w.mortal))] }
	sinkIs := func(mode sinkMode, name string) func(time.Duration) {
		return func(d time.Duration) {
			mended := w.breaks(name)
			w.sink.behave(mode)
			pause(ctx, d)
			w.sink.behave(wellBehaved)
			mended()
		}
	}
	frozen := func(name string, process func() *testenv.Process) func(time.Duration) {
		return func(d time.Duration) {
			mended := w.breaks("freeze " + name)
			thaw := freeze(process())
			pause(ctx, d)
			thaw()
			mended()
		}
	}
	return []func(time.Duration){
		func(d time.Duration) {
			m := mortal()
			mended := w.breaks("kill " + m.name)
			m.process.Kill()
			pause(ctx, d)
			m.start()
			mended()
		},
		func(d time.Duration) {
			mended := w.breaks("kill web servers, all of them")
			for _, m := range w.mortal {
				m.process.Kill()
			}
			pause(ctx, d)
			for _, m := range w.mortal {
				m.start()
			}
			mended()
		},
		frozen("a web server", func() *testenv.Process { return mortal().process }),
		func(d time.Duration) {
			mended := w.breaks("sink killed")
			w.sink.kill()
			pause(ctx, d)
			w.sink.start(w.t)
			mended()
		},
		sinkIs(tempFails, "sink puts off"), sinkIs(drops, "sink drops after the dot"), sinkIs(lags, "sink lags"),
		frozen("pebble", func() *testenv.Process { return w.pebble.Process }),
		func(d time.Duration) {
			mended := w.breaks("kill pebble")
			w.pebble.Kill()
			pause(ctx, d)
			w.pebble = testenv.StartPebble(w.t, w.pebble.Opts)
			w.trust()
			mended()
		},
		func(d time.Duration) {
			mended := w.breaks("kill home server")
			w.home.kill()
			pause(ctx, d)
			w.home.start(w.t)
			mended()
		},
		func(d time.Duration) {
			mended := w.breaks("kill secondary")
			w.second.process.Kill()
			pause(ctx, d)
			w.second.start(w.t)
			mended()
		},
		frozen("secondary", func() *testenv.Process { return w.second.process }),
		func(time.Duration) {
			mended := w.breaks("burst of 200 requests")
			w.burst(ctx, 200)
			mended()
		},
		func(d time.Duration) {
			mended := w.breaks("half-open connections")
			for range 10 {
				w.work.Go(func() {
					begin := time.Now()
					w.count("half-open connections", begin, w.halfOpen(ctx), "stop")
				})
			}
			pause(ctx, d)
			mended()
		},
	}
}

// burst makes so many requests at once.
func (w *world) burst(ctx context.Context, n int) {
	client := w.client(w.web, false, false)
	done := make(chan struct{})
	for range n {
		go func() {
			begin := time.Now()
			w.count("HTTP in bursts", begin, fetch(ctx, client, "http://plain.test/", w.stable[0].name), "stop")
			done <- struct{}{}
		}()
	}
	for range n {
		<-done
	}
}

// breakThings breaks one thing after the other until the time is up.
func (w *world) breakThings(ctx context.Context, end time.Time, random *rand.Rand) {
	all := w.faults(ctx, random)
	longest := min(5*time.Second, time.Until(end)/20)
	for {
		for _, i := range random.Perm(len(all)) {
			if time.Now().After(end) || ctx.Err() != nil {
				return
			}
			all[i](longest/5 + time.Duration(random.Int64N(int64(longest*4/5))))
			pause(ctx, time.Duration(random.Int64N(int64(longest/2))))
			select {
			case <-w.node.Done():
				w.t.Fatal("the gateway has ended")
			default:
			}
		}
	}
}
