package quota

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func newClock() *testenv.Clock { return testenv.NewClock(time.Date(2026, 1, 1, 0, 0, 30, 0, time.UTC)) }

func open(t *testing.T, cfg Config) *Quota {
	t.Helper()
	q, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close(context.Background()) })
	return q
}

func memory(t *testing.T) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestHourAndDay(t *testing.T) {
	c := newClock()
	q := open(t, Config{Now: c.Now, Limits: map[string]Limits{"a": {Hour: 3, Day: 5}}})
	start := c.Now()
	take := func(n int, want time.Duration) {
		t.Helper()
		next, ok := q.Take(n, "a")
		if ok != (want == 0) || !ok && next.Sub(start) != want || ok && !next.IsZero() {
			t.Errorf("%v after the start: %v, %v; want %v", c.Now().Sub(start), ok, next.Sub(start), want)
		}
	}
	take(2, 0)
	c.Advance(10 * time.Minute)
	take(1, 0)
	// The clock began 30 s into a minute, which leaves 61 minutes after its start.
	take(1, 61*time.Minute-30*time.Second)
	take(2, 61*time.Minute-30*time.Second)
	take(3, 24*time.Hour+15*time.Minute-30*time.Second) // of the day
	c.Advance(51*time.Minute - 31*time.Second)
	take(1, 61*time.Minute-30*time.Second)
	c.Advance(time.Second)
	take(2, 0)
	c.Advance(2 * time.Hour)
	take(1, 24*time.Hour+15*time.Minute-30*time.Second) // 5 in this day
	take(0, 0)
	take(-1, 0)

	if u := q.Stats()["a"]; u != (Usage{Hour: 0, HourLimit: 3, Day: 5, DayLimit: 5}) {
		t.Errorf("%+v", u)
	}
	c.Advance(48 * time.Hour)
	take(9, 0) // more than ever, but nothing else is there
	take(1, 75*time.Hour+15*time.Minute-30*time.Second)
}

// A limit that is exceeded by nothing else is what the window has, however it is
// placed, and who comes back when told gets in.
func TestLimitHoldsInEveryWindow(t *testing.T) {
	for seed := range uint64(10) {
		c, rnd := newClock(), rand.New(rand.NewPCG(seed, 1))
		q := open(t, Config{Now: c.Now, Limits: map[string]Limits{"a": {Hour: 100, Day: 700}}})
		var passed []time.Time
		for range 5000 {
			next, ok := q.Take(1, "a")
			if !ok && rnd.IntN(50) == 0 {
				c.Advance(next.Sub(c.Now()))
				if again, ok := q.Take(1, "a"); !ok {
					t.Fatalf("at %v, as told, again %v", next, again)
				}
				ok = true
			}
			if ok {
				passed = append(passed, c.Now())
			}
			c.Advance(time.Duration(rnd.Int64N(int64(30 * time.Second))))
		}
		for per, limit := range map[time.Duration]int{time.Hour: 100, 24 * time.Hour: 700} {
			first := 0
			for i := range passed {
				for passed[i].Sub(passed[first]) >= per {
					first++
				}
				if i-first+1 > limit {
					t.Fatalf("%d in %v", i-first+1, per)
				}
			}
		}
	}
}

func TestAllOrNone(t *testing.T) {
	c := newClock()
	q := open(t, Config{Now: c.Now, Limits: map[string]Limits{"": {Hour: 10}, "a": {Hour: 2}, "free": {}}})
	for range 2 {
		if _, ok := q.Take(1, "", "a", "unknown", "free"); !ok {
			t.Fatal("refused")
		}
	}
	if next, ok := q.Take(1, "", "a"); ok || next.IsZero() {
		t.Fatal("more than a may have")
	}
	if n := q.Stats()[""].Hour; n != 2 {
		t.Errorf("what was refused has counted: %d", n)
	}
	q.Return(1, "", "a", "unknown")
	if _, ok := q.Take(1, "", "a"); !ok {
		t.Error("what was returned is gone")
	}
	q.Return(100, "", "a")
	if s := q.Stats(); s[""].Hour != 0 || s["a"].Hour != 0 || len(s) != 2 {
		t.Errorf("%v", s)
	}
}

func TestSetLimits(t *testing.T) {
	q := open(t, Config{Limits: map[string]Limits{"a": {Hour: 2}, "b": {Hour: 1}}})
	q.Take(2, "a")
	q.Take(1, "b")
	q.SetLimits(map[string]Limits{"a": {Hour: 3}, "b": {}})
	if _, ok := q.Take(2, "a"); ok {
		t.Error("what was counted is forgotten")
	}
	if _, ok := q.Take(1, "a"); !ok {
		t.Error("the new limit does not hold")
	}
	if _, ok := q.Take(100, "b"); !ok || len(q.counts) != 1 {
		t.Error("a key without limits is held")
	}
}

func TestClockSetBack(t *testing.T) {
	c := newClock()
	q := open(t, Config{Now: c.Now, Limits: map[string]Limits{"a": {Hour: 1, Day: 1}}})
	q.Take(1, "a")
	c.Advance(-10 * time.Minute)
	if _, ok := q.Take(1, "a"); ok {
		t.Error("a clock set back a little gives more")
	}
	c.Advance(-1000 * time.Hour)
	if _, ok := q.Take(1, "a"); !ok {
		t.Error("a clock set back by weeks closes for weeks")
	}
}

func TestStored(t *testing.T) {
	c, store := newClock(), memory(t)
	limits := map[string]Limits{"": {Day: 10}, "a": {Hour: 2, Day: 5}}
	q := open(t, Config{Now: c.Now, Store: store, Limits: limits})
	q.Take(2, "", "a")
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Advance(30 * time.Minute)
	q = open(t, Config{Now: c.Now, Store: store, Limits: limits})
	if _, ok := q.Take(1, "a"); ok {
		t.Error("a restart gives more")
	}
	c.Advance(31 * time.Minute)
	if _, ok := q.Take(1, "a"); !ok {
		t.Error("what was stored never leaves")
	}
	if u := q.Stats()["a"]; u.Day != 3 {
		t.Errorf("%+v", u)
	}
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	c.Advance(-5 * time.Hour) // the clock was wrong before
	q = open(t, Config{Now: c.Now, Store: store, Limits: limits})
	if u := q.Stats()["a"]; u.Day != 3 {
		t.Errorf("%+v", u)
	}
	if err := store.Put(t.Context(), shardKey(shardOf("a")), []byte("{")); err != nil {
		t.Fatal(err)
	}
	q = open(t, Config{Now: c.Now, Store: store, Limits: limits})
	if u := q.Stats()["a"]; u.Day != 0 {
		t.Errorf("%+v", u)
	}
}

// Between two savings at most what was taken since is lost.
func TestSavedWhileRunning(t *testing.T) {
	testenv.Goroutines(t)
	synctest.Test(t, func(t *testing.T) {
		store := memory(t)
		q := open(t, Config{Store: store, Limits: map[string]Limits{"a": {Hour: 10}}})
		q.Take(3, "a")
		time.Sleep(6 * time.Second)
		q.Take(1, "a")
		crashed := open(t, Config{Store: store, Limits: map[string]Limits{"a": {Hour: 10}}})
		if u := crashed.Stats()["a"]; u.Hour != 3 {
			t.Errorf("%+v", u)
		}
		crashed.Close(t.Context())
		q.Close(t.Context())
	})
}

func TestStoredSize(t *testing.T) {
	c, store := newClock(), memory(t)
	q := open(t, Config{Now: c.Now, Store: store, Limits: map[string]Limits{"a": {Day: 1 << 30}}})
	for range 24 * 60 {
		q.Take(1000, "a")
		c.Advance(time.Minute)
	}
	q.Close(t.Context())
	data, err := store.Get(t.Context(), shardKey(shardOf("a")))
	if err != nil || len(data) > 5000 || !json.Valid(data) {
		t.Errorf("%d bytes for a busy key, %v", len(data), err)
	}
}

func TestConcurrently(t *testing.T) {
	c, store := newClock(), memory(t)
	limits := map[string]Limits{"": {Day: 5000}}
	for i := range 20 {
		limits[fmt.Sprint(i)] = Limits{Hour: 300}
	}
	q := open(t, Config{Now: c.Now, Store: store, SaveEvery: time.Millisecond, Limits: limits})
	var wg sync.WaitGroup
	var mu sync.Mutex
	passed := 0
	for i := range 20 {
		wg.Go(func() {
			n := 0
			for range 1000 {
				if _, ok := q.Take(1, "", fmt.Sprint(i)); ok {
					n++
				}
			}
			mu.Lock()
			passed += n
			mu.Unlock()
		})
	}
	wg.Wait()
	if passed != 5000 {
		t.Errorf("%d of 5000", passed)
	}
}

func BenchmarkTake(b *testing.B) {
	q, err := Open(b.Context(), Config{Limits: map[string]Limits{"": {Hour: 1 << 40}, "a": {Hour: 1 << 40, Day: 1 << 40}}})
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(10)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			q.Take(1, "", "a")
		}
	})
}
