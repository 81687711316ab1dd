package greylist

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func newClock() *testenv.Clock { return testenv.NewClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) }

func open(t *testing.T, cfg Config) *List {
	t.Helper()
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
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

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func want(t *testing.T, d Decision, pass bool, reason string) {
	t.Helper()
	if d.Pass != pass || d.Reason != reason || pass == (d.RetryAfter > 0) {
		t.Errorf("%+v, not %v, %s", d, pass, reason)
	}
}

func TestDeliveriesArePutOff(t *testing.T) {
	c := newClock()
	l := open(t, Config{Now: c.Now})
	check := func() Decision { return l.Check(addr("192.0.2.1"), "a@x.test", "b@y.test") }
	want(t, check(), false, "new")
	c.Advance(4 * time.Minute)
	if d := check(); d.Reason != "early" || d.RetryAfter != time.Minute {
		t.Errorf("%+v", d)
	}
	c.Advance(time.Minute)
	want(t, check(), true, "retried")
	want(t, check(), true, "known")
	c.Advance(35 * 24 * time.Hour)
	want(t, check(), true, "known")
	c.Advance(36 * 24 * time.Hour)
	want(t, check(), false, "new")
	c.Advance(48 * time.Hour) // too late to count as the same
	want(t, check(), false, "new")
	if l.Len() != 1 {
		t.Errorf("%d are held", l.Len())
	}
}

func TestWhatIsTheSameDelivery(t *testing.T) {
	c := newClock()
	l := open(t, Config{Now: c.Now})
	l.Check(addr("192.0.2.1"), "list-bounces+a=b@x.test", "b@y.test")
	l.Check(addr("192.0.2.1"), "r20260101-7@x.test", "b@y.test")
	l.Check(addr("2001:db8::1"), "", "b@y.test")
	c.Advance(time.Hour)
	for _, same := range []struct{ addr, from, to string }{
		{"192.0.2.200", "list-bounces+c=d@X.test", "B@Y.TEST"},
		{"::ffff:192.0.2.1", "r1-12345@x.test", "b@y.test"},
		{"2001:db8::ffff:1", "", "b@y.test"},
	} {
		want(t, l.Check(addr(same.addr), same.from, same.to), true, "retried")
	}
	for _, other := range []struct{ addr, from, to string }{
		{"192.0.3.1", "list-bounces+a=b@x.test", "b@y.test"},
		{"192.0.2.1", "lists@x.test", "b@y.test"},
		{"192.0.2.1", "list-bounces+a=b@x1.test", "b@y.test"},
		{"192.0.2.1", "list-bounces+a=b@x.test", "c@y.test"},
		{"2001:db8:0:1::1", "", "b@y.test"},
		{"192.0.2.1", "r-@x.test", "b@y.test"},
		{"192.0.2.1", "+r@x.test", "b@y.test"},
	} {
		want(t, l.Check(addr(other.addr), other.from, other.to), false, "new")
	}
}

func TestNetworksBecomeKnown(t *testing.T) {
	c := newClock()
	for _, test := range []struct {
		auto int
		want string
	}{{3, "network"}, {-1, "new"}} {
		l := open(t, Config{Now: c.Now, AutoAllow: test.auto})
		for i := range 3 {
			to := fmt.Sprintf("user%c@y.test", 'a'+i)
			want(t, l.Check(addr("192.0.2.1"), "a@x.test", to), false, "new")
			c.Advance(time.Hour)
			want(t, l.Check(addr("192.0.2.2"), "a@x.test", to), true, "retried")
		}
		if d := l.Check(addr("192.0.2.3"), "b@x.test", "new@y.test"); d.Reason != test.want {
			t.Errorf("%+v, not %s", d, test.want)
		}
		want(t, l.Check(addr("192.0.9.3"), "b@x.test", "new@y.test"), false, "new")
	}
}

// Strangers fill neither memory nor each other's places.
func TestFlood(t *testing.T) {
	c := newClock()
	l := open(t, Config{Now: c.Now, MaxEntries: 1000, MaxWaiting: 100})
	waits := func() Decision { return l.Check(addr("192.0.2.1"), "a@x.test", "waits@y.test") }
	knows := func() Decision { return l.Check(addr("192.0.3.1"), "a@x.test", "knows@y.test") }
	knows()
	c.Advance(time.Hour)
	want(t, knows(), true, "retried")
	waits()
	for i := range 10_000 {
		l.Check(addr("198.51.100.1"), "a@x.test", strings.Repeat("x", i)+"@y.test")
	}
	if n := l.Len(); n != 1+2+100 { // waits, knows and its network, and the flood
		t.Errorf("%d are held", n)
	}
	c.Advance(time.Hour)
	want(t, waits(), true, "retried")
	other := func() Decision { return l.Check(addr("2001:db8:1::1"), "a@x.test", "b@y.test") }
	other()
	for i := range 10_000 { // from one customer's many networks
		l.Check(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 2, byte(i >> 8), byte(i), 15: 1}), "a@x.test", "b@y.test")
	}
	if n := l.Len(); n != 4+100+1+100 { // of them, and their networks, and both floods
		t.Errorf("%d are held", n)
	}
	c.Advance(time.Hour)
	want(t, other(), true, "retried")
	for i := range 10_000 { // from everywhere
		l.Check(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), "a@x.test", "b@y.test")
	}
	if n := l.Len(); n != 1000 || l.waiting.Len()+l.known.Len() != n || len(l.perNet) != l.waiting.Len() {
		t.Errorf("%d are held, %d wait, %d known, %d networks", n, l.waiting.Len(), l.known.Len(), len(l.perNet))
	}
	want(t, knows(), true, "known") // what came through stays
	c.Advance(100 * 24 * time.Hour)
	l.Check(addr("192.0.2.1"), "a@x.test", "b@y.test")
	if n := l.Len(); n != 1 || len(l.perNet) != 1 {
		t.Errorf("%d are held at last, %d networks", n, len(l.perNet))
	}
}

func TestListIsKept(t *testing.T) {
	testenv.Goroutines(t)
	c, store := newClock(), memory(t)
	cfg := Config{Now: c.Now, Store: store, AutoAllow: 2, MaxWaiting: 60}
	l := open(t, cfg)
	for i := range 50 {
		l.Check(addr("192.0.2.1"), "a@x.test", strings.Repeat("x", i)+"@y.test")
	}
	c.Advance(time.Hour)
	for i := range 2 {
		want(t, l.Check(addr("192.0.2.1"), "a@x.test", strings.Repeat("x", i)+"@y.test"), true, "retried")
	}
	want(t, l.Check(addr("192.0.3.1"), "a@x.test", "b@y.test"), false, "new")
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Advance(time.Hour)

	again := open(t, cfg)
	if again.Len() != l.Len() || again.waiting.Len() != l.waiting.Len() {
		t.Errorf("%d of %d were kept", again.Len(), l.Len())
	}
	want(t, again.Check(addr("192.0.2.1"), "new@x.test", "new@y.test"), true, "network")
	want(t, again.Check(addr("192.0.3.1"), "a@x.test", "b@y.test"), true, "retried")
	if n := again.perNet[networkKey(addr("192.0.2.1"))].Len(); n != 48 {
		t.Errorf("%d wait for the network", n)
	}
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Fewer are allowed now.
	cfg.MaxEntries = 10
	small := open(t, cfg)
	if small.Len() > 10 {
		t.Errorf("%d are held", small.Len())
	}
	if err := small.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What changes is stored after a while, and only that.
func TestListIsSavedInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory(t)
		l := open(t, Config{Store: store})
		keys := func() (list []string) {
			for key, err := range store.List(t.Context(), "email/greylist/") {
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, key)
			}
			return list
		}
		l.Check(addr("192.0.2.1"), "a@x.test", "b@y.test")
		time.Sleep(59 * time.Second)
		if got := keys(); len(got) != 0 {
			t.Errorf("%q are there at once", got)
		}
		time.Sleep(2 * time.Second)
		if got := keys(); len(got) != 1 {
			t.Errorf("%q are there after a minute", got)
		}
		store.DeletePrefix(t.Context(), "email/greylist")
		time.Sleep(2 * time.Minute)
		if got := keys(); len(got) != 0 {
			t.Errorf("%q were written without a change", got)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		store.Close()
	})
}

// While the store fails nothing is lost, and it is tried again.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory(t)
		var log bytes.Buffer
		l := open(t, Config{Store: store, Log: slog.New(slog.NewTextHandler(&log, nil))})
		l.Check(addr("192.0.2.1"), "a@x.test", "b@y.test")
		store.Close()
		time.Sleep(61 * time.Second)
		l.mu.Lock()
		dirty := slices.Contains(l.dirty[:], true)
		l.mu.Unlock()
		if !dirty {
			t.Error("it is not tried again")
		}
		if err := l.Close(t.Context()); err == nil {
			t.Error("Close says nothing")
		}
		if !strings.Contains(log.String(), "could not be stored") {
			t.Errorf("the log is %q", log.String())
		}
	})
	closed := memory(t)
	closed.Close()
	if _, err := Open(t.Context(), Config{Store: closed}); err == nil {
		t.Error("a store that cannot be read is taken to be empty")
	}
}

func TestDamagedPartsAreBegunAnew(t *testing.T) {
	c, store := newClock(), memory(t)
	l := open(t, Config{Store: store, Now: c.Now})
	for i := range 200 {
		l.Check(netip.AddrFrom4([4]byte{192, 0, byte(i), 1}), "a@x.test", "b@y.test")
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), shardKey(3), []byte("\x01damaged")); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), shardKey(4), []byte("\x02")); err != nil {
		t.Fatal(err)
	}
	twice := appendRecord(appendRecord([]byte{version}, &entry{key: key{0: 5}}), &entry{key: key{0: 5}})
	if err := store.Put(t.Context(), shardKey(5), twice); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), shardKey(6), appendRecord([]byte{version}, &entry{key: key{0: 7}})); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	again := open(t, Config{Store: store, Now: c.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer again.Close(t.Context())
	if n := again.Len(); n < 150 || n > 199 {
		t.Errorf("%d of 200 were read", n)
	}
	if s := log.String(); strings.Count(s, "cannot be read") != 4 || !strings.Contains(s, shardKey(3)) {
		t.Errorf("the log is %q", s)
	}
}

func FuzzRecords(f *testing.F) {
	e := &entry{key: key{0: 5}, net: key{1}, first: time.Unix(1, 0), last: time.Unix(2, 0), passes: 3}
	f.Add(append([]byte{version}, appendRecord(nil, e)...))
	f.Add([]byte{version})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := readRecords(b, 5)
		if err != nil {
			return
		}
		again := []byte{version}
		for _, e := range entries {
			again = appendRecord(again, e)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x came back as %x", b, again)
		}
	})
}
