package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := &peer{addr: "a"}, &peer{addr: "b"}, &peer{addr: "c"}
		turns := newTurns(4, 2)
		take := func(p *peer) (func(), error) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errBusy)
			defer cancel()
			return turns.take(ctx, p)
		}
		var gives []func()
		for _, test := range []struct {
			p    *peer
			want error
		}{{a, nil}, {a, nil}, {a, errBusy}, {b, nil}, {c, nil}, {b, errBusy}} { // two each, four in all
			give, err := take(test.p)
			if !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", test.p.addr, err, test.want)
			}
			if err == nil {
				gives = append(gives, give)
			}
		}
		waited := make(chan error)
		go func() {
			_, err := take(a)
			waited <- err
		}()
		synctest.Wait()
		gives[0]()
		if err := <-waited; err != nil {
			t.Error(err)
		}
		for _, give := range gives[1:] {
			give()
		}
		if len(turns.all) != 1 || len(turns.peers["a"]) != 1 || len(turns.peers["b"])+len(turns.peers["c"]) != 0 {
			t.Errorf("%d turns are taken, of a %d", len(turns.all), len(turns.peers["a"]))
		}
	})
}

// Servers that are slow, however many, keep nobody else waiting for long.
func TestSlowTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(2, 1)
		var gives []func()
		for _, slow := range []string{"a", "b"} {
			give, err := turns.take(t.Context(), &peer{addr: slow})
			if err != nil {
				t.Fatal(err)
			}
			gives = append(gives, give)
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*slowTurn)
		defer cancel()
		give, err := turns.take(ctx, &peer{addr: "c"})
		if err != nil || time.Since(began) != slowTurn {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		if _, err := turns.take(ctx, &peer{addr: "a"}); err == nil { // which has its share
			t.Error("a slow server has more than its share")
		}
		give()
		for _, give := range gives {
			give()
		}
		if len(turns.all)+len(turns.slow) != 0 || len(turns.peers["a"]) != 0 {
			t.Errorf("%d and %d turns are taken, of a %d", len(turns.all), len(turns.slow), len(turns.peers["a"]))
		}
	})
}

// However many servers are slow, what goes on at once has a bound in all.
func TestSlowTurnsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(2, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var gives []func()
		for i := range 100 {
			give, err := turns.take(ctx, &peer{addr: fmt.Sprint(i)})
			if err != nil {
				break
			}
			gives = append(gives, give)
		}
		if want := 2 + slowMore*2; len(gives) != want {
			t.Fatalf("%d at once, want %d", len(gives), want)
		}
		gives[0]() // a slow one ends, and a place becomes free for others
		began := time.Now()
		give, err := turns.take(t.Context(), &peer{addr: "quick"})
		if err != nil || time.Since(began) > slowTurn {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		for _, give := range append(gives[1:], give) {
			give()
		}
		if len(turns.all)+len(turns.slow) != 0 {
			t.Errorf("%d and %d turns are taken", len(turns.all), len(turns.slow))
		}
	})
}

// silent is a server that takes connections and datagrams, and says nothing.
func silent(t *testing.T) Peer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return Peer{Addr: ln.Addr().String()}
}

// The zones of a primary that does not answer do not hold up those of another.
func TestSilentPrimary(t *testing.T) {
	testenv.Goroutines(t)
	good := testServerOf(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone), AllowTransfer: []string{"127.0.0.1"}}}}, 0)
	quiet := silent(t)
	var cfg Config
	for i := range 4 * maxTransfersIn {
		cfg.Zones = append(cfg.Zones, Zone{Name: fmt.Sprintf("a%d.test", i), Primaries: []Peer{quiet}})
	}
	s := testServerOf(t, nil, cfg, 0)
	waitUntil(t, "transfers are under way", func() bool { return len(s.transfers.inward.all) >= maxInPerPeer })
	// One more, as of a catalog.
	z, err := s.zones.openCopy(t.Context(), &Zone{Name: "example.com", Primaries: []Peer{{Addr: good.addr()}}})
	if err != nil {
		t.Fatal(err)
	}
	s.zones.put([]*servedZone{z})
	s.transfers.begin(z)
	testenv.WaitFor(t, transferPause/2, func() error {
		if got := lookup(t, s.responder, "mail.example.com.", dns.TypeA); !strings.Contains(got[0], "192.0.2.25") {
			return errors.New(got[0])
		}
		return nil
	})
}

// A copy is not served for longer because its primary is busy with other zones.
func TestBusyUntilCopyExpires(t *testing.T) {
	zs := &zones{now: time.Now, responder: &responder{}, list: map[string]*servedZone{}}
	zs.responder.zones.Store(newZoneSet(nil))
	tr := newTransfers(zs)
	z, err := zs.openCopy(t.Context(), &Zone{Name: "example.com", Primaries: []Peer{{Addr: "127.0.0.1:9"}}})
	if err != nil {
		t.Fatal(err)
	}
	for range maxInPerPeer {
		if _, err := tr.inward.take(t.Context(), z.copy.primaries[0]); err != nil {
			t.Fatal(err)
		}
	}
	z.copy.expires = time.Now().Add(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := tr.refresh(ctx, z); !errors.Is(err, errBusy) {
		t.Error(err)
	}
}

// Nor does a secondary that does not answer keep another from being notified.
func TestSilentSecondary(t *testing.T) {
	testenv.Goroutines(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	quiet := silent(t)
	cfg := Config{NameServers: []string{"ns1.example.com"}, Zones: []Zone{{Name: "example.com", Notify: []Peer{{Addr: pc.LocalAddr().String()}}}}}
	for i := range 2 * maxTelling {
		cfg.Zones = append(cfg.Zones, Zone{Name: fmt.Sprintf("a%d.test", i), Notify: []Peer{quiet}})
	}
	s := testServerOf(t, nil, cfg, 0)
	buf := make([]byte, 512)
	told := func() {
		t.Helper()
		pc.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			t.Fatal("not notified: ", err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		out, _ := new(dns.Msg).SetReply(m).Pack()
		pc.WriteTo(out, from)
	}
	told()
	waitUntil(t, "the other is being notified", func() bool { return len(s.transfers.telling.all) >= maxTellPerPeer })
	tx := new(Tx)
	tx.Add(Record{Name: "x.example.com", Type: "A", Value: "192.0.2.1"})
	if err := s.zones.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	told()
}
