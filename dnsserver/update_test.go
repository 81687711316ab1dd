package dnsserver

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func updateConfig(t testing.TB) Config {
	return Config{
		TSIGKeys: testKeys(),
		Zones: []Zone{{
			Name: "example.com", File: zoneFile(t, exampleZone),
			AllowUpdate: []UpdateRule{
				{Key: "test.key"},
				{Key: "test.key", Names: []string{"*.dyn.example.com"}, Types: []string{"A", "TXT"}},
				{Key: "test.key", Names: []string{"fixed.dyn.example.com"}, Types: []string{"MX"}},
				{Key: "other.key", Names: []string{"_acme-challenge.example.com"}, Types: []string{"TXT"}},
			},
		}},
	}
}

// nsupdate runs it with a script, signed with the key test.key unless args say
// otherwise.
func (s *testServer) nsupdate(t testing.TB, script string, args ...string) string {
	t.Helper()
	nsupdate := testenv.Need(t, "nsupdate", "apt-get install dnsutils")
	if len(args) == 0 {
		args = []string{"-y", "hmac-sha256:test.key:" + testSecret}
	}
	return tool(t, fmt.Sprintf("server 127.0.0.1 %d\nzone example.com\n%s\nsend\n", s.port, script), nsupdate, append([]string{"-t", "10"}, args...)...)
}

func TestDynamicUpdates(t *testing.T) {
	store := memory(t)
	cfg := updateConfig(t)
	s := testServerOf(t, store, cfg, 0)
	other := []string{"-y", "hmac-sha512:other.key:" + otherSecret}
	// Each step is refused, with a code, or leaves records at a name.
	for i, test := range []struct {
		script string
		args   []string
		code   string
		name   string
		rtype  uint16
		want   []string
	}{
		{script: "add a.example.com 60 A 192.0.2.1\nadd a.example.com 60 A 192.0.2.2", name: "a.example.com.", rtype: dns.TypeA,
			want: []string{"a.example.com. 60 in a 192.0.2.1", "a.example.com. 60 in a 192.0.2.2"}},
		{script: "add a.example.com 61 A 192.0.2.2", args: []string{"-v", "-y", "hmac-sha256:test.key:" + testSecret}, name: "a.example.com.", rtype: dns.TypeA,
			want: []string{"a.example.com. 61 in a 192.0.2.1", "a.example.com. 61 in a 192.0.2.2"}},
		{script: "del a.example.com A 192.0.2.1", name: "a.example.com.", rtype: dns.TypeA, want: []string{"a.example.com. 61 in a 192.0.2.2"}},
		{script: "del a.example.com A", name: "a.example.com.", rtype: dns.TypeA, want: []string{"NXDOMAIN"}},
		// Prerequisites.
		{script: "prereq nxdomain web.example.com\nadd b.example.com 60 A 192.0.2.1", code: "YXDOMAIN"},
		{script: "prereq yxdomain b.example.com\nadd b.example.com 60 A 192.0.2.1", code: "NXDOMAIN"},
		{script: "prereq nxrrset web.example.com A\nadd b.example.com 60 A 192.0.2.1", code: "YXRRSET"},
		{script: "prereq yxrrset web.example.com TXT\nadd b.example.com 60 A 192.0.2.1", code: "NXRRSET"},
		{script: "prereq yxrrset web.example.com A 192.0.2.81\nadd b.example.com 60 A 192.0.2.1", code: "NXRRSET"},
		{script: "prereq yxrrset example.com NS ns1.example.com\nadd b.example.com 60 A 192.0.2.1", code: "NXRRSET"},
		{script: "prereq yxrrset example.com NS NS1.example.com\nprereq yxrrset example.com NS ns2.example.net.\nprereq yxdomain web.example.com\nprereq nxdomain b.example.com\nadd b.example.com 60 A 192.0.2.1",
			name: "b.example.com.", rtype: dns.TypeA, want: []string{"b.example.com. 60 in a 192.0.2.1"}},
		// All or nothing.
		{script: "add c.example.com 60 A 192.0.2.1\nadd x.dyn.example.com 60 MX 1 a.example.com", code: "REFUSED"},
		{name: "c.example.com.", rtype: dns.TypeA, want: []string{"NXDOMAIN"}},
		// Policy: the longest match decides.
		{script: "add x.dyn.example.com 60 TXT one\nadd fixed.dyn.example.com 60 MX 1 a.example.com", name: "x.dyn.example.com.", rtype: dns.TypeTXT, want: []string{`x.dyn.example.com. 60 in txt "one"`}},
		{script: "add fixed.dyn.example.com 60 TXT one", code: "REFUSED"},
		{script: "add _acme-challenge.example.com 60 TXT one\nadd _acme-challenge.example.com 60 TXT two", args: other, name: "_acme-challenge.example.com.", rtype: dns.TypeTXT,
			want: []string{`_acme-challenge.example.com. 60 in txt "one"`, `_acme-challenge.example.com. 60 in txt "two"`}},
		{script: "add _acme-challenge.example.com 60 HINFO a b", args: other, code: "REFUSED"},
		{script: "add sub._acme-challenge.example.com 60 TXT x", args: other, code: "REFUSED"},
		{script: "del fixed.dyn.example.com", args: other, code: "REFUSED"},
		{script: "add c.example.com 60 A 192.0.2.1", args: []string{"-v"}, code: "REFUSED"},
		{script: "add c.example.com 60 A 192.0.2.1", args: []string{"-y", "hmac-sha256:test.key:" + otherSecret}, code: "BADSIG"},
		{script: "add c.example.com 60 NSEC d.example.com A", code: "REFUSED"},
		// What RFC 2136 section 3.4.2 lets pass without effect.
		{script: "add www.example.com 60 A 192.0.2.1", name: "www.example.com.", rtype: dns.TypeCNAME, want: []string{"www.example.com. 300 in cname web.example.com."}},
		{script: "add web.example.com 60 CNAME a.example.com", name: "web.example.com.", rtype: dns.TypeA, want: []string{"web.example.com. 300 in a 192.0.2.80"}},
		{script: "del example.com SOA\ndel example.com NS\ndel example.com", name: "example.com.", rtype: dns.TypeNS,
			want: []string{"example.com. 300 in ns ns1.example.com.", "example.com. 300 in ns ns2.example.net."}},
		{script: "del example.com NS ns1.example.com\ndel example.com NS ns2.example.net", name: "example.com.", rtype: dns.TypeNS, want: []string{"example.com. 300 in ns ns2.example.net."}},
		{script: "add example.com 60 SOA a. b. 5 1 1 1 1", name: "example.com.", rtype: dns.TypeMX, want: nil},
		{script: "add www.example.com 60 CNAME b.example.com", name: "www.example.com.", rtype: dns.TypeCNAME, want: []string{"www.example.com. 60 in cname b.example.com."}},
		// What would break the zone.
		{script: "add deep.example.com 60 DNAME a.example.com\nadd deep.example.com 60 NS b.example.com", code: "REFUSED"},
	} {
		out := ""
		if test.script != "" {
			out = s.nsupdate(t, test.script, test.args...)
		}
		if test.code == "" && out != "" || test.code != "" && !strings.Contains(out, test.code) {
			t.Errorf("step %d: %s\n%s", i, test.script, out)
		}
		if test.name != "" {
			wantLookup(t, s.responder, test.name, test.rtype, test.want...)
		}
	}
	serial := s.serial("example.com")
	if out := s.nsupdate(t, fmt.Sprintf("add example.com 300 SOA ns1.example.com. new.example.com. %d 1 1 1 1", serial+100)); out != "" || s.serial("example.com") != serial+100 {
		t.Errorf("serial %d, want %d: %s", s.serial("example.com"), serial+100, out)
	}
	before := s.dump("example.com")
	s.stop()
	if after := testServerOf(t, store, cfg, 0).dump("example.com"); !slices.Equal(before, after) {
		t.Errorf("after a restart:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// updateMessage is a signed update.
func updateMessage(t testing.TB, change func(m *dns.Msg)) []byte {
	m := new(dns.Msg).SetUpdate("example.com.")
	change(m)
	m.SetTsig("test.key.", dns.HmacSHA256, 300, time.Now().Unix())
	wire, _, err := dns.TsigGenerate(m, testSecret, "", false)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func (s *testServer) send(wire []byte) int {
	out := s.responder.respond(s.responder.newScratch(), nil, wire, &asker{transport: overTCP})
	if len(out) < headLen {
		return -1
	}
	return int(out[3] & 15)
}

// Strangers cannot fill the log.
func TestStrangersFillNoLog(t *testing.T) {
	s := testServerOf(t, nil, updateConfig(t), 0)
	var log bytes.Buffer
	s.transfers.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	update, _ := new(dns.Msg).SetUpdate("example.com.").Pack()
	notify, _ := new(dns.Msg).SetNotify("example.com.").Pack()
	const each = 200
	for range each {
		for _, wire := range [][]byte{update, notify} {
			if rcode := s.send(wire); rcode != dns.RcodeRefused {
				t.Fatal(rcode)
			}
		}
	}
	if n := bytes.Count(log.Bytes(), []byte("\n")); n == 0 || n > each {
		t.Errorf("%d lines", n)
	}
}

func TestUpdateSentAgain(t *testing.T) {
	s := testServerOf(t, nil, updateConfig(t), 0)
	rr, _ := dns.NewRR("a.example.com. 60 A 192.0.2.1")
	add := updateMessage(t, func(m *dns.Msg) { m.Insert([]dns.RR{rr}) })
	remove := updateMessage(t, func(m *dns.Msg) { m.Remove([]dns.RR{rr}) })
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			if rcode := s.send(add); rcode != 0 {
				t.Error(rcode)
			}
		})
	}
	work.Wait()
	s.send(remove)
	if rcode := s.send(add); rcode != 0 {
		t.Error(rcode)
	}
	wantLookup(t, s.responder, "a.example.com.", dns.TypeA, "NXDOMAIN")
	if got := s.serial("example.com"); got != 12 {
		t.Errorf("serial %d", got)
	}
}

func TestUpdateForms(t *testing.T) {
	s := testServerOf(t, nil, updateConfig(t), 0)
	for i, test := range []struct {
		change func(m *dns.Msg)
		want   int
	}{
		{func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA }, dns.RcodeFormatError},
		{func(m *dns.Msg) { m.Question[0].Name = "www.example.com." }, dns.RcodeNotAuth},
		{func(m *dns.Msg) { m.Question[0].Name = "example.org." }, dns.RcodeNotAuth},
		{func(m *dns.Msg) { m.Ns = rrs("a.example.org. 1 A 192.0.2.1") }, dns.RcodeNotZone},
		{func(m *dns.Msg) { m.Answer = rrs("a.example.org. 0 A 192.0.2.1") }, dns.RcodeNotZone},
		{func(m *dns.Msg) { m.Answer = rrs("web.example.com. 1 A 192.0.2.80") }, dns.RcodeFormatError},
		{func(m *dns.Msg) { m.Ns = rrs("web.example.com. 1 CH TXT x") }, dns.RcodeFormatError},
		{func(m *dns.Msg) {
			m.Ns = []dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: "web.example.com.", Rrtype: dns.TypeAXFR, Class: dns.ClassANY}}}
		}, dns.RcodeFormatError},
		{func(m *dns.Msg) {
			m.Ns = []dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: "web.example.com.", Rrtype: dns.TypeANY, Class: dns.ClassNONE}}}
		}, dns.RcodeFormatError},
		{func(m *dns.Msg) {
			m.Ns = []dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: "web.example.com.", Rrtype: dns.TypeANY, Class: dns.ClassANY, Ttl: 1}}}
		}, dns.RcodeFormatError},
		{func(m *dns.Msg) {
			m.Ns = []dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: "x.example.com.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}}}
		}, dns.RcodeFormatError},
		{func(m *dns.Msg) {
			m.Ns = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "x.example.com.", Rrtype: dns.TypeMX, Class: dns.ClassINET, Ttl: 1}, Rdata: "000a"}}
		}, dns.RcodeFormatError},
		{func(m *dns.Msg) {
			m.Ns = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "x.example.com.", Rrtype: typeALIAS, Class: dns.ClassINET, Ttl: 1}, Rdata: "00"}}
		}, dns.RcodeFormatError},
		{func(m *dns.Msg) {}, dns.RcodeSuccess},
	} {
		if got := s.send(updateMessage(t, test.change)); got != test.want {
			t.Errorf("%d: %s, want %s", i, rcodeText(got), rcodeText(test.want))
		}
	}
	if got := s.serial("example.com"); got != 10 {
		t.Errorf("serial %d", got)
	}
}

func rrs(text string) []dns.RR {
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return []dns.RR{rr}
}

// Whatever an update holds, the zone can be read again from what was kept.
func FuzzUpdate(f *testing.F) {
	rr := rrs("a.example.com. 60 A 192.0.2.1")
	for _, change := range []func(*dns.Msg){
		func(m *dns.Msg) { m.Insert(rr) }, func(m *dns.Msg) { m.Remove(rr) }, func(m *dns.Msg) { m.RemoveName(rr) },
		func(m *dns.Msg) { m.NameUsed(rr); m.RRsetNotUsed(rr); m.RemoveRRset(rr) },
		func(m *dns.Msg) { m.Insert(rrs(`x.example.com. 1 CAA 0 issue "a"`)) },
		func(m *dns.Msg) { m.Insert(rrs(`x.example.com. 1 NAPTR 1 1 "u" "a" "b" c.example.com.`)) },
	} {
		m := new(dns.Msg).SetUpdate("example.com.")
		change(m)
		wire, _ := m.Pack()
		f.Add(wire)
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "zone")
	os.WriteFile(path, []byte(exampleZone), 0o600)
	f.Fuzz(func(t *testing.T, wire []byte) {
		var q query
		if rcode, silent := q.parse(wire); rcode != 0 || silent {
			return
		}
		u, err := readUpdate(&q, "\x07example\x03com\x00")
		if err != nil {
			return
		}
		store := memory(t)
		cfg := Config{Zones: []Zone{{Name: "example.com", File: path}}}
		zs, _ := openZones(t, store, cfg)
		z, err := zs.sorted()[0].update(t.Context(), func(e *zoneEdit) error {
			if err := u.check(e); err != nil {
				return err
			}
			u.apply(e)
			return nil
		})
		if err != nil {
			return
		}
		again, _ := openZones(t, store, cfg)
		count := func(z *zone) (n int) {
			for range z.records() {
				n++
			}
			return n
		}
		if a, b := count(z), count(again.sorted()[0].ref.current.Load()); a != b {
			t.Errorf("%d records, %d after a restart", a, b)
		}
	})
}

// slowBackend keeps nothing before it may.
type slowBackend struct {
	storage.Backend
	wait func()
}

func (b slowBackend) Put(ctx context.Context, key string, value []byte) error {
	if strings.Contains(key, "/journal/") {
		b.wait()
	}
	return b.Backend.Put(ctx, key, value)
}

// While the storage takes its time with an update, the socket that it came over
// goes on answering.
func TestUpdateDelaysNobody(t *testing.T) {
	testenv.Goroutines(t)
	for _, host := range []string{"127.0.0.1", "0.0.0.0"} {
		began, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		store, err := storage.Open(t.Context(), slowBackend{storage.Memory(), func() {
			once.Do(func() { close(began) })
			<-goOn
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		cfg := updateConfig(t)
		cfg.ListenHost = host
		s := testServerOf(t, store, cfg, 0)
		release := sync.OnceFunc(func() { close(goOn) })
		t.Cleanup(release)
		// One socket of ours, and so one of the server's.
		c := dial(t, "udp", fmt.Sprintf("127.0.0.1:%d", s.port))
		update := updateMessage(t, func(m *dns.Msg) { m.Insert(rrs("a.example.com. 60 A 192.0.2.1")) })
		for range 3 * maxUpdatesUDP { // no number of them is too many
			if _, err := c.Write(update); err != nil {
				t.Fatal(err)
			}
		}
		<-began
		if resp := ask(t, c, makeQuery(4711, "example.com", dns.TypeSOA)); resp[3]&15 != 0 {
			t.Errorf("rcode %d", resp[3]&15)
		}
		release()
		buf := make([]byte, maxMessage)
		n, err := c.Read(buf)
		if err != nil || n < headLen || buf[2] != 0x80|dns.OpcodeUpdate<<3 || buf[3] != 0 {
			t.Errorf("%s: % x, %v", host, buf[:min(n, headLen)], err)
		}
		s.stop()
	}
}

// The keys of a zone that is signed here are not to be changed from outside:
// signing would take that back.
func TestUpdateOfKeys(t *testing.T) {
	cfg := updateConfig(t)
	cfg.Zones[0].DNSSEC = &DNSSEC{}
	s := testServerOf(t, nil, cfg, 0)
	before := lookup(t, s.responder, "example.com.", dns.TypeDNSKEY)
	foreign := rrs("example.com. 60 DNSKEY 256 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=")
	if rcode := s.send(updateMessage(t, func(m *dns.Msg) { m.Insert(foreign) })); rcode != dns.RcodeRefused {
		t.Errorf("a foreign key: %d", rcode)
	}
	if rcode := s.send(updateMessage(t, func(m *dns.Msg) { m.RemoveRRset(foreign) })); rcode != dns.RcodeRefused {
		t.Errorf("no keys: %d", rcode)
	}
	if rcode := s.send(updateMessage(t, func(m *dns.Msg) { m.RemoveName(foreign) })); rcode != 0 {
		t.Errorf("all of the name: %d", rcode)
	}
	tx := new(Tx)
	tx.Add(Record{Name: "example.com", Type: "CDS", Value: "0 0 0 00"})
	if err := s.zones.update(t.Context(), tx); err == nil {
		t.Error("a foreign CDS record")
	}
	if after := lookup(t, s.responder, "example.com.", dns.TypeDNSKEY); len(before) != 2 || !slices.Equal(before, after) {
		t.Errorf("%q, then %q", before, after)
	}
}
