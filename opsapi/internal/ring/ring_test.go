package ring

import (
	"slices"
	"testing"
)

func TestRing(t *testing.T) {
	r := New[uint64](4)
	put := func(times int) {
		for range times {
			r.Put(func(n uint64) uint64 { return n })
		}
	}
	check := func(after uint64, limit int, want []uint64, wantLost, wantLast uint64) {
		t.Helper()
		items, lost, last := r.After(after, limit)
		if !slices.Equal(items, want) || lost != wantLost || last != wantLast {
			t.Errorf("after %d: %v, lost %d, last %d; want %v, %d, %d", after, items, lost, last, want, wantLost, wantLast)
		}
	}
	check(0, 10, nil, 0, 0)
	check(7, 10, nil, 0, 0)
	put(3)
	check(0, 10, []uint64{1, 2, 3}, 0, 3)
	check(1, 1, []uint64{2}, 0, 2)
	check(3, 10, nil, 0, 3)
	check(9, 10, []uint64{1, 2, 3}, 0, 3) // given by another ring
	put(3)
	check(0, 10, []uint64{3, 4, 5, 6}, 2, 6)
	check(2, 10, []uint64{3, 4, 5, 6}, 0, 6)
	check(1, 2, []uint64{3, 4}, 1, 4)

	var got []uint64
	r.Newest(0, func(n uint64) bool { got = append(got, n); return len(got) < 3 })
	if !slices.Equal(got, []uint64{6, 5, 4}) {
		t.Error(got)
	}
	got = nil
	r.Newest(5, func(n uint64) bool { got = append(got, n); return true })
	if !slices.Equal(got, []uint64{4, 3}) {
		t.Error(got)
	}

	wake := make(chan struct{}, 1)
	stop := r.Watch(wake)
	if !r.Watched() {
		t.Error("not watched")
	}
	put(3)
	<-wake
	stop()
	put(1)
	if len(wake) != 0 || r.Watched() || r.Last() != 10 {
		t.Error("still watched")
	}
}
