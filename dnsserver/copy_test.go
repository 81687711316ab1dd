package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// follower serves a copy of example.com, and lets it be transferred on.
func follower(primaries ...Peer) Config {
	return Config{
		TSIGKeys: testKeys(),
		Zones:    []Zone{{Name: "example.com", Primaries: primaries, AllowTransfer: []string{"key:test.key"}}},
	}
}

// Knot is the primary, and changed by nsupdate; we follow, and another of ours
// follows us.
func TestFollowKnot(t *testing.T) {
	testenv.Goroutines(t)
	nsupdate := testenv.Need(t, "nsupdate", "apt-get install dnsutils")
	knot := newProgram(t)
	ourPort, lastPort := testenv.FreePort(t), testenv.FreePort(t)
	if err := os.WriteFile(filepath.Join(knot.dir, "example.com.zone"), []byte(strings.ReplaceAll(exampleZone, "@ IN SOA", "$ORIGIN example.com.\n@ IN SOA")), 0o600); err != nil {
		t.Fatal(err)
	}
	startKnot(t, knot, ourPort, "zone:\n  - domain: example.com\n    notify: us\n    acl: us\n    zonefile-sync: -1\n    zonefile-load: difference\n    journal-content: all\n    journal-max-depth: 2000\n")
	store := memory(t)
	cfg := follower(Peer{Addr: knot.addr(), Key: "test.key"})
	cfg.Zones[0].Notify = []Peer{{Addr: fmt.Sprintf("127.0.0.1:%d", lastPort), Key: "test.key"}}
	s := testServerOf(t, store, cfg, ourPort)
	last := testServerOf(t, nil, follower(Peer{Addr: s.addr(), Key: "test.key"}), lastPort)
	sameZone(t, knot.addr(), s.addr(), "example.com.")
	var work sync.WaitGroup
	for i := range 4 {
		var script strings.Builder
		fmt.Fprintf(&script, "server 127.0.0.1 %d\nzone example.com\n", knot.port)
		for j := range 250 {
			switch n := i*250 + j; n % 5 {
			case 4:
				fmt.Fprintf(&script, "del n%d.example.com\nsend\n", (n-7)%100)
			case 3:
				fmt.Fprintf(&script, "del n%d.example.com TXT\nadd n%[1]d.example.com %d MX 10 mail.example.com\nsend\n", n%100, n)
			default:
				fmt.Fprintf(&script, "add n%d.example.com %d TXT %d\nsend\n", n%100, 60+n%3, n)
			}
		}
		work.Go(func() {
			if out := tool(t, script.String(), nsupdate, "-y", "hmac-sha256:test.key:"+testSecret); out != "" {
				t.Error(out)
			}
		})
	}
	work.Wait()
	sameZone(t, knot.addr(), s.addr(), "example.com.")
	sameZone(t, knot.addr(), last.addr(), "example.com.")
	if got := s.serial("example.com"); got < 100 {
		t.Errorf("serial %d after 1000 updates", got)
	}
	if n := len(s.zones.sorted()[0].history.deltas); n < 100 {
		t.Errorf("only %d changes came as such", n)
	}

	// Changes belong to the primary.
	tx := new(Tx)
	tx.Add(Record{Name: "x.example.com", Type: "A", Value: "192.0.2.1"})
	if err := s.zones.update(t.Context(), tx); err == nil || !strings.Contains(err.Error(), errSecondary.Error()) {
		t.Errorf("a change of a copy: %v", err)
	}

	// Without its primary it is served on, also after a restart.
	before := s.dump("example.com")
	knot.proc.Stop()
	s.stop()
	s = testServerOf(t, store, cfg, ourPort)
	if after := s.dump("example.com"); !slices.Equal(before, after) {
		t.Errorf("after a restart %d records, before %d", len(after), len(before))
	}
}

// NSD is the primary, with another file now and then.
func TestFollowNSD(t *testing.T) {
	testenv.Goroutines(t)
	nsd := newProgram(t)
	ourPort := testenv.FreePort(t)
	file := filepath.Join(nsd.dir, "example.com.zone")
	write := func(serial int, more string) {
		text := strings.Replace(exampleZone, "hostmaster 10", fmt.Sprintf("hostmaster %d", serial), 1) + more
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(10, "")
	startNSD(t, nsd, fmt.Sprintf(`zone:
  name: example.com
  zonefile: %q
  notify: 127.0.0.1@%d test.key
  provide-xfr: 127.0.0.1 test.key
  store-ixfr: yes
  create-ixfr: yes
`, file, ourPort))
	s := testServerOf(t, nil, follower(Peer{Addr: nsd.addr(), Key: "test.key"}), ourPort)
	sameZone(t, nsd.addr(), s.addr(), "example.com.")
	for i := range 5 {
		write(11+i, fmt.Sprintf("n%d A 192.0.2.%d\n", i, i))
		nsd.proc.Signal(syscall.SIGHUP)
		testenv.WaitFor(t, 20*time.Second, func() error {
			if got := s.serial("example.com"); got != uint32(11+i) {
				return fmt.Errorf("serial %d, want %d", got, 11+i)
			}
			return nil
		})
		sameZone(t, nsd.addr(), s.addr(), "example.com.")
	}
}

// A copy that nobody has confirmed for too long is not served, and served again
// when somebody does.
func TestCopyExpires(t *testing.T) {
	testenv.Goroutines(t)
	text := strings.Replace(exampleZone, "10 7200 3600 1209600 60", "10 1 1 3 60", 1)
	primary := Config{TSIGKeys: testKeys(), Zones: []Zone{{Name: "example.com", File: zoneFile(t, text), AllowTransfer: []string{"127.0.0.1"}}}}
	p := testServerOf(t, nil, primary, 0)
	store := memory(t)
	cfg := follower(Peer{Addr: "127.0.0.1:9"}, Peer{Addr: p.addr()})
	s := testServerOf(t, store, cfg, 0)
	served := func(s *testServer, want string) {
		t.Helper()
		testenv.WaitFor(t, 20*time.Second, func() error {
			if got := lookup(t, s.responder, "mail.example.com.", dns.TypeA); !strings.Contains(got[0], want) {
				return fmt.Errorf("%q, want %s", got, want)
			}
			return nil
		})
	}
	served(s, "192.0.2.25")
	p.stop()
	served(s, "SERVFAIL")
	s.stop()
	s = testServerOf(t, store, cfg, 0) // kept, but as old as before
	if got := lookup(t, s.responder, "mail.example.com.", dns.TypeA); got[0] != "SERVFAIL" {
		t.Errorf("an expired copy is served after a restart: %q", got)
	}
	testServerOf(t, nil, primary, p.port)
	served(s, "192.0.2.25")
}

// A transfer that takes long does not have the copy of before served past its
// end.
func TestCopyExpiresDuringTransfer(t *testing.T) {
	testenv.Goroutines(t)
	const soa = "example.com. 300 IN SOA ns1.example.com. hostmaster.example.com. 1 1 1 1 60"
	slowly := make(chan struct{})
	p := hostile(t, func(q *dns.Msg, send func(*dns.Msg) error) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = zoneRecords(soa)
		if q.Question[0].Qtype == dns.TypeAXFR {
			m.Answer = append(m.Answer, zoneRecords("mail.example.com. 300 IN A 192.0.2.25", soa)...)
		} else {
			select {
			case <-slowly:
			case <-t.Context().Done():
			}
		}
		send(m)
	})
	s := testServerOf(t, nil, follower(p), 0)
	for _, want := range []string{"192.0.2.25", "SERVFAIL", "192.0.2.25"} {
		testenv.WaitFor(t, transferPause/2, func() error {
			if got := lookup(t, s.responder, "mail.example.com.", dns.TypeA); !strings.Contains(got[0], want) {
				return fmt.Errorf("%q, want %s", got, want)
			}
			return nil
		})
		if want == "SERVFAIL" {
			close(slowly) // the primary has nothing new
		}
	}
}

// A copy that expires just after a primary was asked in vain is not served until
// the next time.
func TestCopyExpiresBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, z := loneCopy(t, nil)
		tr.heard(t.Context(), z, newestCopy(t, z), nil, true)
		z.copy.expires = time.Now().Add(wakePause / 2)
		z.copy.hurry()
		ctx, cancel := context.WithCancel(t.Context())
		tr.running = ctx
		tr.work.Go(func() { tr.follow(ctx, z) })
		time.Sleep(2 * wakePause)
		synctest.Wait()
		if z.ref.current.Load() != nil {
			t.Error("an expired copy is served")
		}
		cancel()
		tr.work.Wait()
	})
}

// Nor is one that expires while the storage takes it.
func TestCopyExpiresBeingKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, st := openStuck(t)
		tr, z := loneCopy(t, st)
		next := newestCopy(t, z)
		b.Stick()
		var work sync.WaitGroup
		work.Go(func() { tr.heard(t.Context(), z, next, nil, true) })
		time.Sleep(next.soaTimer(soaExpireField) + time.Second)
		b.Free()
		work.Wait()
		if z.ref.current.Load() != nil {
			t.Error("an expired copy is served")
		}
	})
}

// loneCopy is a copy of example.com, of which there is nothing yet and that nobody
// follows. Its primary refuses.
func loneCopy(t *testing.T, store *storage.Store) (*transfers, *servedZone) {
	t.Helper()
	zs := &zones{now: time.Now, store: store, responder: &responder{}, list: map[string]*servedZone{}}
	zs.responder.zones.Store(newZoneSet(nil))
	z, err := zs.openCopy(t.Context(), &Zone{Name: "example.com", Primaries: []Peer{{Addr: "127.0.0.1:9"}}})
	if err != nil {
		t.Fatal(err)
	}
	return newTransfers(zs), z
}

// newestCopy is what a primary may have of example.com.
func newestCopy(t *testing.T, z *servedZone) *zone {
	t.Helper()
	next, err := newCopy(z.name, []record{mustRecord(soaLine(1)), mustRecord("example.com. 300 IN NS ns1.example.com.")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// An expired copy does not stand in the way of what a primary has now, even
// under a lower serial number; one that has not does.
func TestExpiredCopyGivesWay(t *testing.T) {
	testenv.Goroutines(t)
	serial := 2000000000
	p := hostile(t, func(q *dns.Msg, send func(*dns.Msg) error) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = zoneRecords(soaLine(serial))
		if q.Question[0].Qtype == dns.TypeAXFR {
			m.Answer = append(m.Answer, zoneRecords("example.com. 300 IN NS ns1.example.com.", soaLine(serial))...)
		}
		send(m)
	})
	now := time.Now()
	store := memory(t)
	open := func() (*transfers, *servedZone) {
		t.Helper()
		zs := &zones{now: func() time.Time { return now }, store: store, responder: &responder{}, list: map[string]*servedZone{}}
		zs.responder.zones.Store(newZoneSet(nil))
		z, err := zs.openCopy(t.Context(), &Zone{Name: "example.com", Primaries: []Peer{p}})
		if err != nil {
			t.Fatal(err)
		}
		return newTransfers(zs), z
	}
	tr, z := open()
	if err := tr.refresh(t.Context(), z); err != nil {
		t.Fatal(err)
	}
	serial = 10
	if err := tr.refresh(t.Context(), z); !errors.Is(err, errOlder) {
		t.Errorf("an older version: %v", err)
	}
	now = now.Add(z.copy.held.soaTimer(soaExpireField) + time.Second)
	again, kept := open() // as after a restart
	for _, test := range []struct {
		t *transfers
		z *servedZone
	}{{tr, z}, {again, kept}} {
		if err := test.t.refresh(t.Context(), test.z); err != nil {
			t.Error(err)
		}
		if got := test.z.ref.current.Load(); got == nil || got.serial() != 10 {
			t.Errorf("what the primary has is not served: %v", got != nil)
		}
	}
}

// Changes do not make a copy larger than a transfer of all of it may be, one by
// one, nor after a restart.
func TestCopyGrows(t *testing.T) {
	testenv.Goroutines(t)
	const first = 5
	serial := first
	filler := func(serial int) string {
		return fmt.Sprintf("n%d.example.com. 300 IN TXT %q", serial, strings.Repeat("x", 200))
	}
	p := hostile(t, func(q *dns.Msg, send func(*dns.Msg) error) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = zoneRecords(soaLine(serial), "example.com. 300 IN NS ns1.example.com.", soaLine(serial))
		if q.Question[0].Qtype == dns.TypeIXFR {
			have := int(q.Ns[0].(*dns.SOA).Serial)
			m.Answer = zoneRecords(soaLine(serial))
			for at := have; at < serial; at++ {
				m.Answer = append(m.Answer, zoneRecords(soaLine(at), soaLine(at+1), filler(at+1))...)
			}
			m.Answer = append(m.Answer, zoneRecords(soaLine(serial))...)
		}
		send(m)
	})
	store := memory(t)
	open := func() (*transfers, *servedZone) {
		t.Helper()
		zs := &zones{now: time.Now, store: store, responder: &responder{}, list: map[string]*servedZone{}}
		zs.responder.zones.Store(newZoneSet(nil))
		z, err := zs.openCopy(t.Context(), &Zone{Name: "example.com", Primaries: []Peer{p}})
		if err != nil {
			t.Fatal(err)
		}
		tr := newTransfers(zs)
		tr.maxCopy = 16 << 10
		return tr, z
	}
	tr, z := open()
	var err error
	for ; err == nil && serial < first+30; serial++ {
		err = tr.refresh(t.Context(), z)
	}
	if !errors.Is(err, errTransferSize) || serial < first+5 || serial > first+15 { // 1.4 KB each
		t.Errorf("%v at serial %d", err, serial)
	}
	last := z.copy.held.serial()
	tr, z = open()
	tr.maxCopy = z.copy.size - 1 // as if it had grown under another version of this program
	var log strings.Builder
	tr.log = slog.New(slog.NewTextHandler(&log, nil))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tr.follow(ended, z)
	if n := strings.Count(log.String(), "no change will be taken"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, log.String())
	}
	if err := tr.refresh(t.Context(), z); !errors.Is(err, errTransferSize) {
		t.Errorf("after a restart: %v", err)
	}
	if now := z.ref.current.Load(); now == nil || now.serial() != last {
		t.Errorf("what there was is not served on: %v", now != nil)
	}
}
