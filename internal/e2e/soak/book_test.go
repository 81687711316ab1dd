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
func (b *book) breaks(name string) (mended func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := len(b.faults)
	b.faults = append(b.faults, fault{name: name, begin: time.Now()})
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		f := &b.faults[i]
		f.end = time.Now()
		b.logf("%8.3fs to %8.3fs  %s", f.begin.Sub(b.start).Seconds(), f.end.Sub(b.start).Seconds(), name)
	}
}

// explained reports whether a fault was there while the request was under way.
func (b *book) explained(f *failure) bool {
	return slices.ContainsFunc(b.faults, func(x fault) bool {
		return slices.ContainsFunc(f.explains, func(name string) bool { return strings.HasPrefix(x.name, name) }) &&
			x.begin.Before(f.end) && (x.end.IsZero() || x.end.Add(grace).After(f.begin))
	})
}

// table is what has come of each kind of request, and the failures that no fault
// explains, up to five of a kind.
func (b *book) table() (text string, unexplained []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	failed, explained, faults, shown := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	for i := range b.failures {
		f := &b.failures[i]
		failed[f.kind]++
		if b.explained(f) {
			explained[f.kind]++
			continue
		}
		if shown[f.kind]++; shown[f.kind] > 5 {
			continue
		}
		unexplained = append(unexplained, fmt.Sprintf("%s at %.3fs, %.3fs long: %v", f.kind, f.begin.Sub(b.start).Seconds(), f.end.Sub(f.begin).Seconds(), f.err))
	}
	var w strings.Builder
	fmt.Fprintf(&w, "%-34s %9s %7s %10s\n", "requests", "done", "failed", "explained")
	for _, kind := range slices.Sorted(maps.Keys(b.done)) {
		fmt.Fprintf(&w, "%-34s %9d %7d %10d\n", kind, b.done[kind], failed[kind], explained[kind])
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
