package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// hostile is a primary that sends what a test says to each query.
func hostile(t *testing.T, answer func(q *dns.Msg, send func(*dns.Msg) error)) Peer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			dc := &dns.Conn{Conn: conn}
			if q, err := dc.ReadMsg(); err == nil {
				answer(q, dc.WriteMsg)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return Peer{Addr: ln.Addr().String()}
}

func zoneRecords(text ...string) []dns.RR {
	var list []dns.RR
	for _, line := range text {
		rr, err := dns.NewRR(line)
		if err != nil {
			panic(err)
		}
		list = append(list, rr)
	}
	return list
}

func soaLine(serial int) string {
	return fmt.Sprintf("example.com. 300 IN SOA ns1.example.com. hostmaster.example.com. %d 7200 3600 1209600 60", serial)
}

// What a primary sends wrong changes nothing, costs a bounded amount, and is
// told with the reason.
func TestHostilePrimaries(t *testing.T) {
	testenv.Goroutines(t)
	good := zoneRecords(soaLine(5), "example.com. 300 IN NS ns1.example.com.", "www.example.com. 300 IN A 192.0.2.1", soaLine(5))
	reply := func(q *dns.Msg, rrs []dns.RR) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = rrs
		return m
	}
	once := func(rrs ...dns.RR) func(*dns.Msg, func(*dns.Msg) error) {
		return func(q *dns.Msg, send func(*dns.Msg) error) { send(reply(q, rrs)) }
	}
	with := func(extra ...string) []dns.RR {
		list := append([]dns.RR(nil), good[:3]...)
		return append(append(list, zoneRecords(extra...)...), good[3])
	}
	cases := map[string]struct {
		answer func(*dns.Msg, func(*dns.Msg) error)
		want   string
	}{
		"other zone":         {once(zoneRecords("example.org. 1 IN SOA a. b. 1 1 1 1 1", "example.org. 1 IN NS a.")...), "another zone"},
		"out of zone":        {once(with("www.example.org. 1 IN A 192.0.2.1")...), "not in the zone"},
		"no SOA first":       {once(good[1:]...), "no zone transfer"},
		"SOA below":          {once(with("sub.example.com. 300 IN SOA a. b. 1 1 1 1 1")...), "another zone"},
		"other SOA last":     {once(append(append([]dns.RR(nil), good[:3]...), zoneRecords(soaLine(6))...)...), "no zone transfer"},
		"more after the end": {once(append(append([]dns.RR(nil), good...), good[1])...), "no zone transfer"},
		"broken zone":        {once(with("www.example.com. 300 IN CNAME a.")...), "CNAME"},
		"meta type":          {once(append(append([]dns.RR(nil), good[:2]...), &dns.ANY{Hdr: dns.RR_Header{Name: "x.example.com.", Rrtype: dns.TypeANY, Class: 1}})...), "no zone transfer"},
		"nothing":            {once(), "no zone transfer"},
		"ends early":         {once(good[:3]...), "before the transfer is complete"},
		"other id": {func(q *dns.Msg, send func(*dns.Msg) error) {
			m := reply(q, good)
			m.Id++
			send(m)
		}, "another question"},
		"other question": {func(q *dns.Msg, send func(*dns.Msg) error) {
			m := reply(q, good)
			m.Question[0].Name = "example.org."
			send(m)
		}, "another question"},
		"refused": {func(q *dns.Msg, send func(*dns.Msg) error) { send(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) }, "REFUSED"},
		"without end": {func(q *dns.Msg, send func(*dns.Msg) error) {
			send(reply(q, good[:2]))
			for i := 0; send(reply(q, zoneRecords(fmt.Sprintf("n%d.example.com. 1 IN TXT %q", i, strings.Repeat("x", 200))))) == nil; i++ {
			}
		}, "too large"},
		"a large set": {func(q *dns.Msg, send func(*dns.Msg) error) {
			send(reply(q, good[:2]))
			for i := range 6 {
				var list []dns.RR
				for j := range 1000 {
					list = append(list, zoneRecords(fmt.Sprintf("n.example.com. 1 IN A 10.0.%d.%d", i*4+j/250, j%250))...)
				}
				send(reply(q, list))
			}
			send(reply(q, good[3:]))
		}, "than fit into a message"},
		"many iterations": {once(with("example.com. 0 IN NSEC3PARAM 1 0 5000 -", "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example.com. 60 IN NSEC3 1 0 5000 - 0p9mhaveqvm6t7vbl5lop2u3t2rp3too NS SOA")...), "iterations"},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			p := hostile(t, test.answer)
			zs := &zones{now: time.Now, responder: &responder{}, list: map[string]*servedZone{}}
			zs.responder.zones.Store(newZoneSet(nil))
			tr := newTransfers(zs)
			tr.maxCopy = 8 << 20
			cfg := Zone{Name: "example.com", Primaries: []Peer{p}}
			z, err := zs.openCopy(t.Context(), &cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := tr.refresh(t.Context(), z); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if z.ref.current.Load() != nil {
				t.Error("it is served")
			}
		})
	}

	// The same to somebody who has a version: changes that make no sense have all
	// of it fetched instead.
	for name, changes := range map[string][]dns.RR{
		"takes out what is not there": zoneRecords(soaLine(9), soaLine(5), "no.example.com. 300 IN A 192.0.2.1", soaLine(9), soaLine(9)),
		"adds what is there":          zoneRecords(soaLine(9), soaLine(5), soaLine(9), "www.example.com. 300 IN A 192.0.2.1", soaLine(9)),
		"a gap":                       zoneRecords(soaLine(9), soaLine(5), soaLine(6), soaLine(7), soaLine(9), soaLine(9)),
		"backwards":                   zoneRecords(soaLine(9), soaLine(5), soaLine(4), soaLine(4), soaLine(9), soaLine(9)),
		"not implemented":             nil,
	} {
		t.Run(name, func(t *testing.T) {
			all := append(zoneRecords(soaLine(9)), zoneRecords("example.com. 300 IN NS ns1.example.com.", "new.example.com. 300 IN A 192.0.2.9", soaLine(9))...)
			known := false
			p := hostile(t, func(q *dns.Msg, send func(*dns.Msg) error) {
				switch {
				case !known:
					known = true
					send(reply(q, good))
				case q.Question[0].Qtype == dns.TypeAXFR:
					send(reply(q, all))
				case changes == nil:
					send(new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented))
				default:
					send(reply(q, changes))
				}
			})
			zs := &zones{now: time.Now, responder: &responder{}, list: map[string]*servedZone{}}
			zs.responder.zones.Store(newZoneSet(nil))
			tr := newTransfers(zs)
			z, _ := zs.openCopy(t.Context(), &Zone{Name: "example.com", Primaries: []Peer{p}})
			for range 2 {
				if err := tr.refresh(t.Context(), z); err != nil {
					t.Fatal(err)
				}
			}
			if now := z.ref.current.Load(); now.serial() != 9 || now.nodes.get(now.nodeKey("\x03new\x07example\x03com\x00")) == nil {
				t.Errorf("serial %d", now.serial())
			}
		})
	}
}

// The limit of a transfer is one of memory: what it counts is no less than what
// is there in the end.
func TestTransferCountsMemory(t *testing.T) {
	inUse := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	for _, value := range []string{"A 192.0.2.1", "TXT " + strings.Repeat("x", 200)} {
		in := &transferIn{zone: "\x07example\x03com\x00", limit: 1 << 30}
		before := inUse()
		for i := 0; i < 5000; i += 100 {
			m := new(dns.Msg)
			m.Response = true
			if i == 0 {
				m.Answer = zoneRecords(soaLine(1))
			}
			for j := range 100 {
				m.Answer = append(m.Answer, zoneRecords(fmt.Sprintf("n%d.example.com. 300 IN %s", i+j, value))...)
			}
			wire, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			a, err := readAnswer(wire)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := in.message(&a); err != nil {
				t.Fatal(err)
			}
		}
		z, err := newCopy(in.zone, in.whole, nil)
		if err != nil {
			t.Fatal(err)
		}
		if used := inUse() - before; used > in.size {
			t.Errorf("%.5s: %d octets in use, %d counted", value, used, in.size)
		}
		runtime.KeepAlive(z)
		runtime.KeepAlive(in)
	}
}

// A primary that sends slowly is cut, and Stop does not wait for it.
func TestSlowPrimary(t *testing.T) {
	testenv.Goroutines(t)
	begun := make(chan struct{})
	gone := make(chan struct{})
	p := hostile(t, func(q *dns.Msg, send func(*dns.Msg) error) {
		close(begun)
		<-gone
	})
	defer close(gone)
	s := testServerOf(t, nil, follower(p), 0)
	<-begun
	began := time.Now()
	s.stop()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("Stop took %v", d)
	}
}

// Notifications count from primaries only, and with their keys.
func TestForgedNotifications(t *testing.T) {
	s := testServerOf(t, nil, follower(Peer{Addr: "127.0.0.1:9", Key: "test.key"}, Peer{Addr: "127.0.0.2:9"}), 0)
	notify := func(zone, from string, sign bool) string {
		m := new(dns.Msg).SetNotify(zone)
		wire, _ := m.Pack()
		if sign {
			m.SetTsig("test.key.", dns.HmacSHA256, 300, time.Now().Unix())
			wire, _, _ = dns.TsigGenerate(m, testSecret, "", false)
		}
		out := s.responder.respond(s.responder.newScratch(), nil, wire, &asker{addr: netip.AddrPortFrom(netip.MustParseAddr(from), 5353)})
		return rcodeText(int(out[3] & 15))
	}
	for _, test := range []struct {
		zone, from string
		sign       bool
		want       string
	}{
		{"example.com.", "127.0.0.1", true, "NOERROR"},
		{"example.com.", "127.0.0.1", false, "REFUSED"},
		{"example.com.", "127.0.0.2", false, "NOERROR"},
		{"example.com.", "::ffff:127.0.0.2", false, "NOERROR"},
		{"example.com.", "127.0.0.3", true, "REFUSED"},
		{"www.example.com.", "127.0.0.2", false, "NOTAUTH"},
	} {
		if got := notify(test.zone, test.from, test.sign); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

// A transfer whose messages are signed now and then (RFC 8945 section 5.3.1)
// counts as signed, one whose last message is not does not.
func TestTSIGOfStreams(t *testing.T) {
	key := newKeyring(testKeys()).named("test.key")
	mac := []byte("the MAC of the request, 32 octets")
	message := func(n int) []byte {
		m := new(dns.Msg)
		m.Response, m.Id = true, uint16(n)
		wire, _ := m.Pack()
		return wire
	}
	for name, test := range map[string]struct {
		signed string // of each message: yes, no, or forged
		want   error
	}{
		"all": {"yyy", nil}, "some": {"ynnynny", nil}, "first not": {"ny", errUnsigned}, "forged": {"yfy", errTSIG},
		"99 without": {"y" + strings.Repeat("n", 99) + "y", nil}, "100 without": {"y" + strings.Repeat("n", 100) + "y", errUnsigned},
	} {
		v := newTSIGVerifier(key, mac)
		sum, prior, following := key.begin(mac), mac, false
		var err error
		for i, c := range test.signed {
			wire, at := message(i), 0
			if c != 'n' {
				rec := tsigRecord{name: key.name, algorithm: key.algorithm, time: uint64(time.Now().Unix()), fudge: 300, id: uint16(i)}
				sum.Write(wire)
				if following {
					sum.Write(rec.appendTimers(nil))
				} else {
					sum.Write(rec.variables())
				}
				rec.mac = sum.Sum(nil)
				prior, following = rec.mac, true
				sum = key.begin(prior)
				at = len(wire)
				if c == 'f' {
					wire[3] ^= 1
				}
				wire = rec.appendTo(wire, 0)
			} else {
				sum.Write(wire)
			}
			if err = v.message(wire, at, time.Now()); err != nil {
				break
			}
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// Whatever a primary sends, there is a zone or an error, and a zone can be kept
// and read again.
func FuzzTransferIn(f *testing.F) {
	for _, list := range [][]dns.RR{
		zoneRecords(soaLine(5), "example.com. 300 IN NS ns1.example.com.", "www.example.com. 300 IN A 192.0.2.1", soaLine(5)),
		zoneRecords(soaLine(9), soaLine(1), "a.example.com. 300 IN A 192.0.2.1", soaLine(9), "b.example.com. 300 IN MX 1 a.example.com.", soaLine(9)),
		zoneRecords(soaLine(5), "example.com. 60 IN NSEC a.example.com. NS SOA", "example.com. 60 IN RRSIG NSEC 13 2 60 20261209020623 20261125003623 994 example.com. 8cSl9g==", soaLine(5)),
		zoneRecords(soaLine(5), "example.com. 0 IN NSEC3PARAM 1 0 5 aa", "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example.com. 60 IN NSEC3 1 0 5 aa 0p9mhaveqvm6t7vbl5lop2u3t2rp3too NS SOA", soaLine(5)),
	} {
		for _, compress := range []bool{false, true} {
			m := new(dns.Msg)
			m.Response, m.Compress, m.Answer = true, compress, list
			wire, _ := m.Pack()
			f.Add(wire, false)
			f.Add(wire, true)
		}
	}
	old, err := newCopy("\x07example\x03com\x00", []record{mustRecord(soaLine(1)), mustRecord("a.example.com. 300 IN A 192.0.2.1")}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, wire []byte, known bool) {
		a, err := readAnswer(wire)
		if err != nil {
			return
		}
		in := &transferIn{zone: old.name, limit: 1 << 20, known: known, have: 1}
		end, err := in.message(&a)
		if err != nil || !end || in.whole == nil && in.deltas == nil {
			return
		}
		var z *zone
		if in.deltas != nil {
			z, err = old.changed(in.deltas)
		} else {
			z, err = newCopy(old.name, in.whole, nil)
		}
		if err != nil {
			return
		}
		r := testResponder(z)
		for _, name := range []string{"example.com.", "a.example.com.", "x.a.example.com.", "0.example.com."} {
			for _, rtype := range []uint16{dns.TypeA, dns.TypeMX, dns.TypeANY, dns.TypeDS, dns.TypeRRSIG} {
				q := new(dns.Msg).SetQuestion(name, rtype)
				q.SetEdns0(4096, true)
				packed, _ := q.Pack()
				got := r.respond(r.newScratch(), nil, packed, &asker{transport: overTCP})
				if m := new(dns.Msg); m.Unpack(got) == nil {
					if err := orderly(m); err != nil {
						t.Fatalf("%v in\n%v", err, m)
					}
				}
			}
		}
		s := newCopyStore(memory(t), z.name)
		if err := s.keep(t.Context(), z); err != nil {
			t.Fatal(err)
		}
		again, _, err := s.load(t.Context(), z.name)
		if err != nil {
			t.Fatal(err)
		}
		var first, second []record
		for r := range z.records() {
			first = append(first, r)
		}
		for r := range again.records() {
			second = append(second, r)
		}
		if fmt.Sprint(first) != fmt.Sprint(second) {
			t.Errorf("kept %v, read %v", first, second)
		}
	})
}

func mustRecord(line string) record {
	r, err := parseText(line)
	if err != nil {
		panic(err)
	}
	return r
}

// A receiver that reads nothing holds no lock, and its transfer ends with its
// connection.
func TestSlowReceiver(t *testing.T) {
	testenv.Goroutines(t)
	var records []Record
	for i := range 20_000 {
		records = append(records, Record{Name: fmt.Sprintf("host-%d.example.com", i), Type: "TXT", Value: strings.Repeat("x", 200)})
	}
	s := testServerOf(t, nil, Config{Records: records, Zones: []Zone{{Name: "example.com", AllowTransfer: []string{"127.0.0.1"}}}}, 0)
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wire, _ := new(dns.Msg).SetAxfr("example.com.").Pack()
	conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...))
	testenv.WaitFor(t, 10*time.Second, func() error {
		if len(s.transfers.slots) == 0 {
			return errors.New("no transfer under way")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tx := new(Tx)
	tx.Add(Record{Name: "x.example.com", Type: "A", Value: "192.0.2.1"})
	if err := s.zones.update(ctx, tx); err != nil {
		t.Error(err)
	}
	conn.Close()
	testenv.WaitFor(t, 20*time.Second, func() error {
		if n := len(s.transfers.slots); n > 0 {
			return fmt.Errorf("%d transfers under way", n)
		}
		return nil
	})
}
