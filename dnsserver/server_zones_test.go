package dnsserver

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// dig returns what dig prints, its lines sorted by nothing.
func dig(t testing.TB, s *Server, args ...string) string {
	t.Helper()
	testenv.Need(t, "dig", "bind9-dnsutils")
	host, port, _ := strings.Cut(addr(t, s, "udp"), ":")
	out, err := exec.Command("dig", append([]string{"@" + host, "-p", port, "+tries=2", "+time=5"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("dig %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestDig(t *testing.T) {
	zone := exampleZone + `
*.wild TXT "from the star"
sub NS ns.sub
ns.sub A 192.0.2.54
a.b.ent A 192.0.2.1
dept DNAME web
loop1 CNAME loop2
loop2 CNAME loop1
big TXT ` + strings.Repeat(`"`+strings.Repeat("x", 200)+`" `, 10) + "\n"
	s := start(t, Config{NSID: "node-7", Zones: []Zone{{Name: "example.com", File: zoneFile(t, zone)}}})
	for _, test := range []struct {
		args string
		want []string
	}{
		{"web.example.com A", []string{"status: NOERROR", "flags: qr aa rd;", "web.example.com.\t300\tIN\tA\t192.0.2.80", "udp: 1232", "COOKIE: ", "(good)"}},
		{"wWw.ExAmPlE.com A", []string{"wWw.ExAmPlE.com.\t300\tIN\tCNAME\tweb.example.com.", "web.example.com.\t300\tIN\tA\t192.0.2.80"}},
		{"nobody.example.com A", []string{"status: NXDOMAIN", "flags: qr aa rd;", "example.com.\t\t60\tIN\tSOA"}},
		{"web.example.com MX", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1", "flags: qr aa"}},
		{"b.ent.example.com A", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1"}},
		{"x.y.wild.example.com TXT", []string{`x.y.wild.example.com.	300	IN	TXT	"from the star"`}},
		{"host.sub.example.com A", []string{"flags: qr rd;", "ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 2", "sub.example.com.\t300\tIN\tNS\tns.sub.example.com.", "ns.sub.example.com.\t300\tIN\tA\t192.0.2.54"}},
		{"loop1.example.com A", []string{"status: NOERROR", "ANSWER: 2,"}},
		{"web.example.com ANY", []string{"ANSWER: 2,"}}, // dig asks over TCP
		{"web.example.com ANY +notcp", []string{"ANSWER: 1,"}},
		{"big.example.com TXT", []string{"Truncated, retrying in TCP mode", "ANSWER: 1,"}},
		{"big.example.com TXT +ignore", []string{"flags: qr aa tc rd;", "ANSWER: 0,"}},
		{"web.example.com +edns=5 +noednsneg", []string{"status: BADVERS"}},
		{"web.example.com +noedns", []string{"ANSWER: 1,", "ADDITIONAL: 0"}},
		{"web.example.com +nsid", []string{`NSID: 6e 6f 64 65 2d 37 ("node-7")`}},
		{"example.org A", []string{"status: REFUSED", "flags: qr rd;"}},
		{"example.com SOA +tcp", []string{"ns1.example.com. hostmaster.example.com. 10 7200 3600 1209600 60", "(TCP)"}},
		{"web.example.com +opcode=status", []string{"status: NOTIMP"}},
		{"web.example.com A +dnssec", []string{"flags: do; udp: 1232"}},
	} {
		got := dig(t, s, strings.Fields(test.args)...)
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("dig %s: no %q in\n%s", test.args, want, got)
			}
		}
	}
	if got := dig(t, s, "x.dept.example.com", "A"); !strings.Contains(got, "x.dept.example.com.\t300\tIN\tCNAME\tx.web.example.com.") || !strings.Contains(got, "NXDOMAIN") {
		t.Error(got)
	}
}

// A record that is changed is visible to the next query, and after a restart.
func TestServerUpdates(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Dir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
	s := start(t, cfg, WithStorage(store))
	tx := new(Tx)
	tx.Set(Record{Name: "web.example.com", Type: "A", Value: "192.0.2.99"})
	if err := s.Update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if got := dig(t, s, "web.example.com", "A", "+short"); got != "192.0.2.99\n" {
		t.Error(got)
	}
	stop(t, s)
	mustStart(t, s)
	if got := dig(t, s, "web.example.com", "A", "+short"); got != "192.0.2.99\n" {
		t.Error(got)
	}
	// The file changes, in a set that was changed and in one that was not.
	text := strings.ReplaceAll(exampleZone, "192.0.2.80", "192.0.2.81") + "new A 192.0.2.7\n"
	text = strings.ReplaceAll(text, "mail 600", "post 600")
	if err := os.WriteFile(cfg.Zones[0].File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := func() {
		t.Helper()
		if got := dig(t, s, "web.example.com", "A", "+short", "new.example.com", "A", "+short", "post.example.com", "A", "+short", "mail.example.com", "A", "+short"); got != "192.0.2.99\n192.0.2.7\n192.0.2.25\n" {
			t.Error(got)
		}
	}
	want()
	before := s.Zones()[0]
	if before.Serial != 12 || before.Name != "example.com." || !before.Loaded {
		t.Errorf("%+v", before)
	}
	stop(t, s)
	mustStart(t, s)
	want()
	if after := s.Zones()[0]; after.Serial < before.Serial || after.Names != before.Names {
		t.Errorf("%+v", after)
	}

	var out strings.Builder
	if err := s.Export(&out, "EXAMPLE.com"); err != nil {
		t.Fatal(err)
	}
	again := newZone("\x07example\x03com\x00")
	if err := readZone(strings.NewReader(out.String()), "", again.name, func(r record) error { again.add(&r); return again.err }); err != nil {
		t.Fatal(err)
	}
	if z, _ := s.version("example.com"); again.hash() != z.change().hash() {
		t.Errorf("exported\n%s", out.String())
	}
	records, err := s.Records("example.com.")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for r := range records {
		if n++; r.Name == "web.example.com" && r.Type == "A" && r.Value != "192.0.2.99" {
			t.Errorf("%+v", r)
		}
	}
	if n != 10 {
		t.Errorf("%d records", n)
	}
	if err := s.Export(&out, "example.org"); !errors.Is(err, ErrNoZone) {
		t.Error(err)
	}
	if dns.TypeToString[typeALIAS] != "" {
		t.Error("the number of ALIAS has got another meaning")
	}
}

// What a host has put into a zone it finds there again.
func TestRecordsHaveAliases(t *testing.T) {
	alias := Record{Name: "example.com", Type: "ALIAS", Value: "web.example.net.", TTL: 60}
	s := start(t, Config{Resolvers: []string{"127.0.0.1:1"}, Records: []Record{alias}})
	var found []Record
	records, err := s.Records("example.com")
	if err != nil {
		t.Fatal(err)
	}
	for r := range records {
		if r.Type == "ALIAS" {
			found = append(found, r)
		}
	}
	if len(found) != 1 || found[0] != alias {
		t.Errorf("%+v", found)
	}
	var out strings.Builder
	if err := s.Export(&out, "example.com"); err != nil || !strings.Contains(out.String(), "TYPE65401") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// A zone in another one of ours is to be delegated there, or the log tells.
func TestWarnOfGaps(t *testing.T) {
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	zones := []Zone{{Name: "example.com"}, {Name: "sub.example.com"}, {Name: "good.example.com"}}
	s := start(t, Config{NameServers: []string{"ns.example.net"}, Zones: zones,
		Records: []Record{{Name: "good.example.com", Type: "A", Value: "192.0.2.1"}}}, WithLogger(logger))
	tx := new(Tx)
	tx.Add(Record{Name: "www.example.com", Type: "A", Value: "192.0.2.1"})
	if err := s.Update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	if n := strings.Count(log.String(), "has no NS records for it"); n != 2 {
		t.Errorf("%d warnings:\n%s", n, log.String())
	}
}

// Bad files keep the server from starting, and do not matter to one that runs.
func TestServerBadZone(t *testing.T) {
	path := zoneFile(t, exampleZone)
	s := start(t, Config{Zones: []Zone{{Name: "example.com", File: path}}})
	if err := os.WriteFile(path, []byte("@ IN SOA a b 1 2 3 4 5\nwww A nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "zones[0]: zone example.com.: " + path + ":2: bad A A"
	if err := s.Reload(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if got := dig(t, s, "web.example.com", "A", "+short"); got != "192.0.2.80\n" {
		t.Error(got)
	}
	stop(t, s)
	if err := s.Start(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if len(s.Addrs()) > 0 {
		t.Errorf("it listens on %v", s.Addrs())
	}
}
