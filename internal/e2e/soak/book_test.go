package soak

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// grace is how long after its end a fault still explains failures: connections of
// before are found broken, and addresses that were down are tried again.
const grace = 3 * time.Second

// fault is something that was broken on purpose.
type fault struct {
	name       string
	begin, end time.Time // end is zero while it lasts
	// late faults explain only what began when they did, or half a second before:
	// the rest was under way and has to go well.
	late bool
}

// failure is a request that failed.
type failure struct {
	kind       string
	begin, end time.Time
	err        error
	explains   []string // faults that may be to blame
}

// book has what was asked, what failed and what was broken meanwhile.
type book struct {
	start time.Time
	logf  func(string, ...any)

	mu       sync.Mutex
	done     map[string]int
	failures []failure
	faults   []fault
}

// count notes the outcome of a request that began at begin. Faults that explain a
// failure are named by how their names begin.
func (b *book) count(kind string, begin time.Time, err error, explains ...string) {
	end := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done[kind]++
	if err != nil {
		b.failures = append(b.failures, failure{kind, begin, end, err, explains})
	}
}

// breaks notes that something is broken, until the func that is returned is called.
func (b *book) breaks(name string) (mended func()) { return b.fault(fault{name: name}) }

func (b *book) fault(f fault) (mended func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := len(b.faults)
	f.begin = time.Now()
	b.faults = append(b.faults, f)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		f := &b.faults[i]
		f.end = time.Now()
		b.logf("%8.3fs to %8.3fs  %s", f.begin.Sub(b.start).Seconds(), f.end.Sub(b.start).Seconds(), f.name)
	}
}

// explained returns the first fault that explains a failure, -1 if there is none.
func (b *book) explained(f *failure) int {
	return slices.IndexFunc(b.faults, func(x fault) bool {
		return slices.ContainsFunc(f.explains, func(name string) bool { return strings.HasPrefix(x.name, name) }) &&
			x.begin.Before(f.end) && (!x.late || f.begin.After(x.begin.Add(-time.Second/2))) && (x.end.IsZero() || x.end.Add(grace).After(f.begin))
	})
}

// table is what has come of each kind of request, and the failures that no fault
// explains, up to five of a kind.
func (b *book) table() (text string, unexplained []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	failed, explained, atStop, faults, shown := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	for i := range b.failures {
		f := &b.failures[i]
		failed[f.kind]++
		if i := b.explained(f); i >= 0 {
			explained[f.kind]++
			if name := b.faults[i].name; name == "stop" || name == stopAlways {
				atStop[f.kind]++
			}
			continue
		}
		if shown[f.kind]++; shown[f.kind] > 5 {
			continue
		}
		unexplained = append(unexplained, fmt.Sprintf("%s at %.3fs, %.3fs long: %v", f.kind, f.begin.Sub(b.start).Seconds(), f.end.Sub(f.begin).Seconds(), f.err))
	}
	var w strings.Builder
	fmt.Fprintf(&w, "%-34s %9s %7s %10s %12s\n", "requests", "done", "failed", "explained", "by the stop")
	for _, kind := range slices.Sorted(maps.Keys(b.done)) {
		fmt.Fprintf(&w, "%-34s %9d %7d %10d %12d\n", kind, b.done[kind], failed[kind], explained[kind], atStop[kind])
	}
	for _, f := range b.faults {
		faults[f.name]++
	}
	fmt.Fprintf(&w, "\n%-34s %9s\n", "faults", "times")
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		fmt.Fprintf(&w, "%-34s %9d\n", name, faults[name])
	}
	return w.String(), unexplained
}

// timeline is what a value was and will be: of two threads that see it, neither
// knows exactly when it changes, only that it does during a call.
type timeline[T comparable] struct {
	mu       sync.Mutex
	versions []version[T]
}

type version[T comparable] struct {
	value       T
	from, until time.Time
}

// next says that the value changes during the call of change. If that fails, both
// values are possible from then on.
func (l *timeline[T]) next(value T, change func() error) error {
	l.mu.Lock()
	last := len(l.versions) - 1
	l.versions = append(l.versions, version[T]{value: value, from: time.Now()})
	l.mu.Unlock()
	err := change()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && last >= 0 {
		l.versions[last].until = time.Now()
	}
	return err
}

// check returns an error if the value was at no time between begin and now.
func (l *timeline[T]) check(value T, begin time.Time) error {
	end := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	var possible []T
	for _, v := range slices.Backward(l.versions) {
		if v.from.Before(end) && (v.until.IsZero() || v.until.After(begin)) {
			if possible = append(possible, v.value); v.value == value {
				return nil
			}
		}
		if !v.until.IsZero() && v.until.Before(begin.Add(-time.Minute)) {
			break // of all before it, too
		}
	}
	return fmt.Errorf("wrong: %v, while it was one of %v", value, possible)
}
