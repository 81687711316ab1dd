package suppress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func open(t testing.TB, store *storage.Store) *List {
	t.Helper()
	l, err := Open(t.Context(), Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	return l
}

func openStore(t testing.TB, b storage.Backend) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func add(t testing.TB, l *List, e Entry) {
	t.Helper()
	if err := l.Add(e); err != nil {
		t.Fatal(err)
	}
}

func addresses(l *List, q Query) (list []string) {
	for e := range l.All(q) {
		list = append(list, e.Address)
	}
	return list
}

func TestCheck(t *testing.T) {
	l := open(t, nil)
	add(t, l, Entry{Address: "Ann@Bücher.example", Reason: Bounce, Detail: "550 gone\r\n" + strings.Repeat("é", 200)})
	add(t, l, Entry{Address: "@Spam.example", Reason: Manual})
	for address, want := range map[string]bool{
		"ann@bücher.example": true, "ANN@xn--bcher-kva.example": true, "bob@bücher.example": false, "anyone@SPAM.example": true,
		"x@sub.spam.example": false, `"ann"@bücher.example`: true, "nonsense": false, "": false, "@bücher.example": false, "@spam.example": true,
	} {
		if _, got := l.Check(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
	e, _ := l.Check("ann@bücher.example")
	if e.Reason != Bounce || e.Expires.Sub(e.Added) != BounceTime || len(e.Detail) > MaxDetail || !strings.HasPrefix(e.Detail, "550 gone  éé") || strings.Contains(e.Detail, "\ufffd") {
		t.Errorf("%+v", e)
	}
	for _, bad := range []Entry{{Address: "x", Reason: Bounce}, {Address: "a@example.com"}, {Address: "a@example.com", Reason: "x"}, {Address: "@", Reason: Bounce}} {
		if err := l.Add(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if there, err := l.Remove("ANN@bücher.example"); !there || err != nil {
		t.Error(there, err)
	}
	if there, err := l.Remove("ann@bücher.example"); there || err != nil || l.Len() != 1 {
		t.Error(there, err, l.Len())
	}
}

// TestLonger: a complaint, which is for ever, is not forgotten because of a bounce.
func TestLonger(t *testing.T) {
	l := open(t, openStore(t, storage.Memory()))
	reason := func() Reason { e, _ := l.Check("a@example.com"); return e.Reason }
	add(t, l, Entry{Address: "a@example.com", Reason: Bounce})
	add(t, l, Entry{Address: "a@example.com", Reason: Complaint})
	if reason() != Complaint {
		t.Error(reason())
	}
	add(t, l, Entry{Address: "a@example.com", Reason: Bounce})
	if reason() != Complaint {
		t.Error(reason())
	}
	if _, err := l.Remove("a@example.com"); err != nil || reason() != "" || l.Len() != 0 {
		t.Error(reason(), err, l.Len())
	}
	add(t, l, Entry{Address: "a@example.com", Reason: Bounce})
	if reason() != Bounce || l.Len() != 1 {
		t.Error(reason(), l.Len())
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, nil)
		add(t, l, Entry{Address: "a@example.com", Reason: Bounce})
		add(t, l, Entry{Address: "b@example.com", Reason: Unsubscribe})
		add(t, l, Entry{Address: "c@example.com", Reason: Manual, Expires: time.Now().Add(time.Hour)})
		time.Sleep(89 * 24 * time.Hour)
		if got := addresses(l, Query{}); !slices.Equal(got, []string{"a@example.com", "b@example.com"}) {
			t.Error(got)
		}
		time.Sleep(24 * time.Hour)
		if _, there := l.Check("a@example.com"); there {
			t.Error("it has not expired")
		}
	})
}

func TestQuery(t *testing.T) {
	l := open(t, nil)
	for i := range 2000 {
		add(t, l, Entry{Address: fmt.Sprintf("a%04d@example.com", i), Reason: []Reason{Bounce, Complaint}[i%2]})
	}
	add(t, l, Entry{Address: "b@example.com", Reason: Bounce})
	if n := len(addresses(l, Query{})); n != 2001 {
		t.Error(n)
	}
	if n := len(addresses(l, Query{Prefix: "A1", Reason: Complaint})); n != 500 {
		t.Error(n)
	}
	got := []string{}
	for after := ""; ; {
		page := 0
		for e := range l.All(Query{Prefix: "a", After: after}) {
			got = append(got, e.Address)
			after = e.Address
			if page++; page == 300 {
				break
			}
		}
		if page < 300 {
			break
		}
	}
	if len(got) != 2000 || !slices.IsSorted(got) || got[1999] != "a1999@example.com" {
		t.Errorf("%d by pages", len(got))
	}
}

// TestTable holds the table against a map.
func TestTable(t *testing.T) {
	var table table
	model := map[string]record{}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20_000 {
		address := fmt.Sprintf("%d@example.com", r.IntN(3000))
		if r.IntN(3) == 0 {
			table.delete(address)
			delete(model, address)
			continue
		}
		rec := newRecord(address, 'b', int64(r.IntN(100)), int64(i), 0, "")
		if old, ok := model[address]; !ok || rec.newer(old) {
			model[address] = rec
		}
		table.put(rec)
	}
	if table.len != len(model) || len(table.from("", 1e6)) != len(model) {
		t.Fatalf("%d, %d and %d", table.len, len(table.from("", 1e6)), len(model))
	}
	for address, want := range model {
		if got, ok := table.get(address); !ok || got != want {
			t.Errorf("%s: %q, not %q", address, got, want)
		}
	}
	if !slices.IsSortedFunc(table.from("", 1e6), func(a, b record) int { return strings.Compare(a.address(), b.address()) }) {
		t.Error("not sorted")
	}
}

func TestRestart(t *testing.T) {
	testenv.Goroutines(t)
	store := openStore(t, storage.Dir(testenv.Folder(t)))
	l := open(t, store)
	add(t, l, Entry{Address: "a@example.com", Reason: Bounce, Detail: "550 no"})
	add(t, l, Entry{Address: "b@example.com", Reason: Complaint})
	want, _ := l.Check("a@example.com")
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Add(Entry{Address: "c@example.com", Reason: Bounce}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	l = open(t, store)
	if got, _ := l.Check("a@example.com"); got.Reason != Bounce || got.Detail != "550 no" || !got.Expires.Equal(want.Expires.Truncate(time.Millisecond)) {
		t.Errorf("%+v, not %+v", got, want)
	}
	l.Remove("b@example.com")
	l.Close(t.Context())
	l = open(t, store)
	if got := addresses(l, Query{}); !slices.Equal(got, []string{"a@example.com"}) || l.Len() != 1 {
		t.Error(got, l.Len())
	}
}

// TestProcesses: two lists on one storage see each other's changes.
func TestProcesses(t *testing.T) {
	for _, watched := range []bool{true, false} {
		t.Run(fmt.Sprint("watched ", watched), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := storage.Memory()
				var stores [2]*storage.Store
				for i := range stores {
					b := backend
					if !watched {
						b = plain{backend}
					}
					stores[i] = openStore(t, b)
				}
				one, two := open(t, stores[0]), open(t, stores[1])
				add(t, one, Entry{Address: "a@example.com", Reason: Bounce})
				add(t, two, Entry{Address: "b@example.com", Reason: Bounce})
				wait := 10 * time.Second
				if !watched {
					wait = time.Minute
				}
				time.Sleep(wait)
				for _, l := range []*List{one, two} {
					if got := addresses(l, Query{}); len(got) != 2 {
						t.Errorf("%q", got)
					}
				}
				if _, err := two.Remove("a@example.com"); err != nil {
					t.Error(err)
				}
				time.Sleep(wait)
				if _, there := one.Check("a@example.com"); there || one.Len() != 1 {
					t.Error("the removal was not seen")
				}
			})
		})
	}
}

// plain is a backend that can do the least.
type plain struct{ storage.Backend }

// TestMerge: many changes leave few segments and the right list, in all processes.
func TestMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := storage.Memory()
		var later time.Duration // the clock is ahead by this
		open := func() *List {
			l, err := Open(t.Context(), Config{Store: openStore(t, backend), FlushEvery: time.Minute, PollEvery: 10 * time.Minute,
				Now: func() time.Time { return time.Now().Add(later) }})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close(context.Background()) })
			return l
		}
		lists := []*List{open(), open()}
		model := map[string]bool{}
		r := rand.New(rand.NewPCG(3, 4))
		for range 100 {
			l := lists[r.IntN(2)]
			for range 100 {
				address := fmt.Sprintf("%d@example.com", r.IntN(1000))
				if model[address] = r.IntN(2) == 0; model[address] {
					add(t, l, Entry{Address: address, Reason: Complaint})
				} else if _, err := l.Remove(address); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(3 * time.Minute) // the other one is to see it
		}
		time.Sleep(time.Hour)
		check := func(l *List) {
			t.Helper()
			for address, want := range model {
				if _, got := l.Check(address); got != want {
					t.Fatalf("%s is %v", address, got)
				}
			}
		}
		for _, l := range append(lists, open()) {
			check(l)
			l.mu.RLock()
			n, records := len(l.segments.known), 0
			for _, s := range l.segments.known {
				records += s.records
			}
			l.mu.RUnlock()
			if n > maxSmall+2 || records > 2*minOutdated {
				t.Errorf("there are %d segments with %d records", n, records)
			}
		}
		// Later, what was removed is forgotten altogether.
		synctest.Wait()
		later = 2 * tombstoneAge
		l := lists[0]
		if err := l.rewrite(t.Context(), slices.Collect(maps.Keys(l.segments.known))); err != nil {
			t.Fatal(err)
		}
		check(l)
		check(open())
		if l.segments.gone != 0 || l.table.len != l.Len() {
			t.Errorf("%d removals are left", l.segments.gone)
		}
	})
}

// TestCleaning: what has expired goes, from memory and storage. What could not be
// read stays.
func TestCleaning(t *testing.T) {
	store, now := openStore(t, storage.Memory()), time.Now()
	newer := prefix + "of-a-newer-version"
	if err := store.Put(t.Context(), newer, []byte{99, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), Config{Store: store, FlushEvery: time.Hour, PollEvery: time.Hour, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(context.Background())
	for i := range minOutdated + 1000 {
		add(t, l, Entry{Address: fmt.Sprintf("%d@example.com", i), Reason: Manual, Expires: now.Add(time.Hour)})
	}
	add(t, l, Entry{Address: "stays@example.com", Reason: Manual})
	now = now.Add(2 * time.Hour)
	if err := errors.Join(l.Flush(t.Context()), l.clean(t.Context())); err != nil {
		t.Fatal(err)
	}
	if again := open(t, store); l.Len() != 1 || again.Len() != 1 {
		t.Errorf("%d and %d entries", l.Len(), again.Len())
	}
	if _, err := store.Get(t.Context(), newer); err != nil {
		t.Error(err)
	}
}

// failing is a backend that takes nothing for a while.
type failing struct {
	storage.Backend
	mu  sync.Mutex
	err error
}

func (f *failing) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *failing) Put(ctx context.Context, key string, value []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	return f.Backend.Put(ctx, key, value)
}

func TestStorageFails(t *testing.T) {
	backend := &failing{Backend: storage.Memory()}
	store := openStore(t, backend)
	l := open(t, store)
	backend.fail(errors.New("disk full"))
	add(t, l, Entry{Address: "a@example.com", Reason: Bounce})
	if err := l.Flush(t.Context()); err == nil {
		t.Error("it did not fail")
	}
	backend.fail(nil)
	add(t, l, Entry{Address: "b@example.com", Reason: Bounce})
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := addresses(open(t, store), Query{}); len(got) != 2 {
		t.Error(got)
	}
}

func TestDamage(t *testing.T) {
	store := openStore(t, storage.Memory())
	segment := encodeSegment([]record{newRecord("a@example.com", 'b', 1, 1, 0, ""), newRecord("b@example.com", 'b', 1, 1, 0, "")})
	if err := store.Put(t.Context(), prefix+"0", segment[:len(segment)-1]); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), prefix+"1", nil); err != nil {
		t.Fatal(err)
	}
	if got := addresses(open(t, store), Query{}); !slices.Equal(got, []string{"a@example.com"}) {
		t.Error(got)
	}
}

func TestCSV(t *testing.T) {
	l := open(t, nil)
	add(t, l, Entry{Address: "a@example.com", Reason: Bounce, Detail: `=cmd|"x", y`})
	add(t, l, Entry{Address: "@example.net", Reason: Manual})
	add(t, l, Entry{Address: "=b@example.com", Reason: Complaint, Detail: "'-x"})
	var b bytes.Buffer
	if err := l.ExportCSV(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.ContainsAny(line[:1], "=+-@") || strings.Contains(line, ",=") || strings.Contains(line, `,"=`) {
			t.Errorf("a formula in %s", line)
		}
	}
	again := open(t, nil)
	if n, err := again.ImportCSV(t.Context(), &b); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	for e := range l.All(Query{}) {
		got, _ := again.Check(e.Address)
		e.Added, e.Expires = e.Added.Truncate(time.Second), e.Expires.Truncate(time.Second)
		if got != e {
			t.Errorf("%+v became %+v", e, got)
		}
	}
	n, err := again.ImportCSV(t.Context(), strings.NewReader("\ufeffReason,x,Email\nbounce,1,c@example.com\nnonsense,1,d@example.com\ncomplaint,2,nobody\n,,e@example.com\n"))
	if n != 2 || err == nil || !strings.Contains(err.Error(), "line 3: ") || !strings.Contains(err.Error(), "line 4: ") {
		t.Error(n, err)
	}
	if n, err := again.ImportCSV(t.Context(), strings.NewReader("f@example.com\ng@example.com")); n != 2 || err != nil {
		t.Error(n, err)
	}
	if n, err := again.ImportCSV(t.Context(), strings.NewReader("h@example.com\n\""+strings.Repeat("x\n", 1<<16))); n != 1 || !errors.Is(err, errRow) {
		t.Error(n, err)
	}
	if n, err := again.ImportCSV(t.Context(), strings.NewReader(strings.Repeat("x\n", 10_000))); n != 0 || len(err.Error()) > 10_000 || !strings.Contains(err.Error(), "and 9980 more") {
		t.Error(n, err)
	}
}

// TestImportIsStored: an import makes room for itself, and what it added is in the
// storage when it returns.
func TestImportIsStored(t *testing.T) {
	backend := &failing{Backend: storage.Memory()}
	store := openStore(t, backend)
	l, err := Open(t.Context(), Config{Store: store, FlushEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	add(t, l, Entry{Address: "a@example.com", Reason: Manual})
	l.mu.Lock()
	l.pending = slices.Repeat(l.pending, maxPending-1) // as after so many changes
	l.mu.Unlock()
	if n, err := l.ImportCSV(t.Context(), strings.NewReader("b@example.com\nc@example.com\nnonsense\nd@example.com\n")); n != 3 || err == nil || errors.Is(err, ErrFull) {
		t.Error(n, err)
	}
	if again := open(t, store); again.Len() != 4 {
		t.Errorf("%d entries are stored", again.Len())
	}
	backend.fail(errors.New("disk full"))
	if n, err := l.ImportCSV(t.Context(), strings.NewReader("e@example.com\n")); n != 1 || err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Error(n, err)
	}
	backend.fail(nil)
}

// TestMemoryOfMillion measures a large list (20,000 under the race detector).
func TestMemoryOfMillion(t *testing.T) {
	n := 1_000_000
	if testenv.Race {
		n = 20_000
	}
	store := openStore(t, storage.Dir(testenv.Folder(t)))
	now := time.Now()
	order := rand.New(rand.NewPCG(5, 6)).Perm(n)
	address := func(i int) string { return fmt.Sprintf("user.name%07d@customer%d.example.com", i, i%1000) }
	l := open(t, store)
	for i, k := range order {
		add(t, l, Entry{Address: address(k), Reason: Bounce, Detail: "550 5.1.1 user unknown"})
		if i%50_000 == 0 {
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	added := time.Since(now)
	l = nil
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, now := heap(), time.Now()
	l = open(t, store)
	opened := time.Since(now)
	used := heap() - before
	now = time.Now()
	for range 10_000 {
		if _, there := l.Check(address(rand.IntN(n))); !there {
			t.Fatal("one is missing")
		}
	}
	checked := time.Since(now) / 10_000
	t.Logf("%d entries: added in %v, opened in %v, %d MB (%d bytes each), a check takes %v", n, added, opened, used>>20, used/uint64(n), checked)
	if l.Len() != n || used/uint64(n) > 300 || opened > time.Minute {
		t.Errorf("%d entries with %d bytes each, opened in %v", l.Len(), used/uint64(n), opened)
	}
}

// What was removed does not come back from a damaged segment, which stays.
func TestRemovedFromDamaged(t *testing.T) {
	store, now := openStore(t, storage.Memory()), time.Now()
	damaged := encodeSegment([]record{newRecord("x@example.com", 'b', now.UnixMilli(), 1, 0, ""), newRecord("y@example.com", 'b', now.UnixMilli(), 1, 0, "")})
	if err := store.Put(t.Context(), prefix+"0", damaged[:len(damaged)-1]); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Store: store, FlushEvery: time.Hour, PollEvery: time.Hour, Now: func() time.Time { return now }}
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if was, err := l.Remove("x@example.com"); !was || err != nil {
		t.Fatal(was, err)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * tombstoneAge)
	keys := slices.Sorted(maps.Keys(l.segments.known))
	keys = slices.DeleteFunc(keys, func(k string) bool { return l.segments.known[k].damaged })
	if err := errors.Join(l.rewrite(t.Context(), keys), l.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(t.Context())
	if _, on := again.Check("x@example.com"); on {
		t.Error("it is on the list again")
	}
}
