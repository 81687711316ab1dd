package email

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// safeLog is a log that is read while it is written.
type safeLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *safeLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func inMemory(t testing.TB) *storage.Store {
	t.Helper()
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func status(t testing.TB, s *server, domain string) DomainStatus {
	t.Helper()
	st, err := s.CheckDomain(t.Context(), domain)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// states lists the records, as "name type state".
func recordStates(st DomainStatus) (list []string) {
	for _, r := range st.Records {
		list = append(list, strings.TrimSpace(r.Name+" "+r.Type+" "+r.State))
	}
	return list
}

func keyStates(st DomainStatus) (list []string) {
	for _, k := range st.Keys {
		list = append(list, k.Selector+" "+k.State)
	}
	return list
}

func equalLists(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A domain whose DNS is elsewhere: what is missing is in the log, and once it has
// been pasted all is well.
func TestExternalDomain(t *testing.T) {
	var log safeLog
	zone := dnstest.New(t, dnstest.Zone{})
	clk := newClock()
	s := start(t, Config{PublicIP: []string{"192.0.2.1"}, Domains: []Domain{{Domain: "Example.com."}}, Hostname: "mx.example.net"},
		WithResolver(zone.Resolver()), WithLogger(log.logger()), WithStorage(inMemory(t)), WithClock(clk.Now))
	if st, err := s.CheckDomain(t.Context(), "example.org"); err == nil {
		t.Errorf("%+v", st)
	}
	waitFor(t, func() bool {
		return strings.Count(log.String(), "is missing: this is the line") >= 5 // MX, SPF, DMARC and two keys
	})
	st := status(t, s, "example.com")
	equalLists(t, "nothing is there", recordStates(st), "example.com MX missing", "example.com TXT missing",
		"default._domainkey.example.com TXT missing", "default-ed25519._domainkey.example.com TXT missing", "_dmarc.example.com TXT missing")
	equalLists(t, "keys", keyStates(st), "default pending", "default-ed25519 pending")
	if st.OK || st.Domain != "example.com" || st.Mode != ExternalDNS || st.Checked.IsZero() || st.Error != "" {
		t.Errorf("%+v", st)
	}
	if signers := s.latest().signers("example.com"); signers != nil {
		t.Errorf("%d keys sign already", len(signers))
	}
	text := log.String()
	for _, r := range st.Records {
		if !strings.Contains(text, fmt.Sprintf("%q", r.String())) && !strings.Contains(text, "record="+r.String()) {
			t.Errorf("the log lacks %s", r)
		}
		if r.Required != (r.Name != "default-ed25519._domainkey.example.com") {
			t.Errorf("%s: %v", r.Name, r.Required)
		}
	}

	// The lines are pasted into the zone.
	for _, r := range st.Records {
		rr, err := dns.NewRR(r.String())
		if err != nil {
			t.Fatal(err)
		}
		if txt, ok := rr.(*dns.TXT); ok {
			zone.Set(r.Name, "TXT "+strings.Join(txt.Txt, ""))
		}
	}
	zone.Set("example.com", "MX 10 mx.example.net", "TXT v=spf1 ip4:192.0.2.0/24 -all")
	if st = status(t, s, "EXAMPLE.com"); !st.OK {
		t.Errorf("%+v", st)
	}
	clk.Advance(time.Hour) // the next look at keys
	s.latest().domains.changed("example.com")
	if err := s.RotateDKIM(t.Context(), "example.com"); err == nil {
		t.Error("keys that wait were rotated")
	}
	waitFor(t, func() bool { return strings.Count(log.String(), "is there now") >= 5 })
	s.Stop(t.Context())
	if _, err := s.CheckDomain(t.Context(), "example.com"); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	if err := s.Start(t.Context()); err != nil { // which looks at once
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(s.latest().signers("example.com")) == 2 })
	equalLists(t, "keys", keyStates(status(t, s, "example.com")), "default active", "default-ed25519 active")

	// Something goes wrong: it is told of once a day.
	before := strings.Count(log.String(), "is wrong: this is the line")
	zone.Set("example.com", "MX 10 mx.example.org", "TXT v=spf1 ip4:192.0.2.0/24 -all")
	for range 30 {
		status(t, s, "example.com")
		clk.Advance(time.Hour)
	}
	if n := strings.Count(log.String(), "is wrong: this is the line") - before; n < 1 || n > 3 { // one more where two looks meet
		t.Errorf("told %d times in 30 hours", n)
	}
	if st := status(t, s, "example.com"); st.OK || !strings.Contains(st.Records[0].Note, "mx.example.org") {
		t.Errorf("%+v", st.Records[0])
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("a key is in the log")
	}
}

// zoneServer is our DNS server, with a zone for example.com, as a DNSPublisher.
type zoneServer struct {
	*dnsserver.Server
	mu   sync.Mutex
	mine map[string][]dnsserver.Record
	down bool
}

func newZoneServer(t *testing.T) *zoneServer {
	t.Helper()
	s, err := dnsserver.New(dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.com"}}, NameServers: []string{"ns.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.WithoutCancel(t.Context())) })
	return &zoneServer{Server: s, mine: map[string][]dnsserver.Record{}}
}

func (z *zoneServer) Publish(ctx context.Context, domain string, list []DNSRecord) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.down {
		return errors.New("DNS is down")
	}
	var records []dnsserver.Record
	for _, r := range list {
		records = append(records, dnsserver.Record{Name: r.Name, Type: r.Type, Value: r.Value, TTL: r.TTL})
	}
	tx := new(dnsserver.Tx)
	tx.Remove(z.mine[domain]...)
	tx.Add(records...)
	z.mine[domain] = records
	return z.Update(ctx, tx)
}

// dig returns the texts of a name's TXT records, as dig has them from our server.
func (z *zoneServer) dig(t testing.TB, name string) string {
	t.Helper()
	tool := testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	host, port, _ := strings.Cut(strings.TrimSuffix(z.Addrs()[0], "/udp"), ":")
	out, err := exec.Command(tool, "@"+host, "-p", port, "+short", "+time=10", name, "TXT").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.ReplaceAll(strings.Trim(strings.TrimSpace(string(out)), `"`), `" "`, "")
}

// Mail that was signed before a rotation still verifies at others after it, with
// the keys that our DNS server has; and what is signed then does too.
func TestInternalDomain(t *testing.T) {
	zone, clk, store := newZoneServer(t), newClock(), inMemory(t)
	zone.down = true
	cfg := Config{
		PublicIP: []string{"127.0.0.1"}, Hostname: "mx.example.com",
		Domains: []Domain{{Domain: "example.com", DNSMode: InternalDNS, DNS: DomainDNS{Internal: &InternalDNSSettings{MXPriority: new(5), TTL: 600}},
			DKIM: DKIM{Selector: "mail", RotateKeys: new(true)}, Policies: Policies{MTASTS: EnforceMTASTS, DMARC: "v=DMARC1; p=reject"}}},
	}
	s := start(t, cfg, WithStorage(store), WithClock(clk.Now), WithDNSPublisher(zone), WithResolver(udpResolver(strings.TrimSuffix(zone.Addrs()[0], "/udp"))))
	waitFor(t, func() bool { return strings.Contains(s.Domains()[0].Error, "DNS is down") })
	if s.latest().signers("example.com") != nil {
		t.Error("keys sign that nobody knows")
	}
	zone.mu.Lock()
	zone.down = false
	zone.mu.Unlock()
	step := func(d time.Duration, want ...string) {
		t.Helper()
		clk.Advance(d)
		s.Stop(t.Context())
		if err := s.Start(t.Context()); err != nil { // which looks after keys at once
			t.Fatal(err)
		}
		waitFor(t, func() bool { return slices.Equal(keyStates(s.Domains()[0]), want) })
	}
	step(0, "mail active", "mail-ed25519 active")
	st := status(t, s, "example.com")
	for _, r := range st.Records {
		if r.State != RecordOK || r.Note != "" || r.TTL != 600 || !r.Required && r.Name != "mx.example.com" && r.Name != "mail-ed25519._domainkey.example.com" {
			t.Errorf("%+v", r)
		}
	}
	if !st.OK || len(st.Records) != 10 {
		t.Errorf("%d records: %+v", len(st.Records), st)
	}
	if got := zone.dig(t, "_dmarc.example.com"); got != "v=DMARC1; p=reject" {
		t.Error(got)
	}
	if text, ok := s.MTASTSPolicy("example.com"); !ok || text != "version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 604800\r\n" {
		t.Errorf("%q", text)
	}

	first := signed(t, s)
	step(90*24*time.Hour, "mail active", "mail-ed25519 active", "mail-20270131 published", "mail-20270131-ed25519 published")
	waiting := signed(t, s)
	step(time.Hour, "mail retiring", "mail-ed25519 retiring", "mail-20270131 active", "mail-20270131-ed25519 active")
	second := signed(t, s)
	for i, msg := range []string{first, waiting, second} {
		want := "s=mail;"
		if i == 2 {
			want = "s=mail-20270131;"
		}
		if !strings.Contains(msg, want) || strings.Count(msg, "DKIM-Signature") != 2 {
			t.Errorf("message %d lacks %s: %s", i, want, msg)
		}
	}
	peersVerify(t, zone, "pass", first, waiting, second)
	step(7*24*time.Hour, "mail revoked", "mail-ed25519 revoked", "mail-20270131 active", "mail-20270131-ed25519 active")
	if got := zone.dig(t, "mail._domainkey.example.com"); got != "v=DKIM1; k=rsa; p=" {
		t.Error(got)
	}
	peersVerify(t, zone, "pass", second)
	peersVerify(t, zone, "key", first) // it is revoked
}

// signed signs a message with what signs now.
func signed(t testing.TB, s *server) string {
	t.Helper()
	const text = "From: Joe <joe@example.com>\r\nTo: a@example.net\r\nSubject: hi\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700\r\nMessage-ID: <1@example.com>\r\n"
	var h message.Header
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, ":")
		h = append(h, message.Field{Name: name, Raw: []byte(line)})
	}
	fields, err := dkim.Sign(t.Context(), h, strings.NewReader("Hello.\r\n"), s.latest().signers("example.com")...)
	if err != nil {
		t.Fatal(err)
	}
	return string(fields) + text + "\r\nHello.\r\n"
}

// peersVerify has dkimpy and OpenDKIM verify messages with the keys that are in the
// zone. Debian's OpenDKIM knows RSA alone.
func peersVerify(t testing.TB, zone *zoneServer, want string, messages ...string) {
	t.Helper()
	const packages = "apt-get install python3-dkim python3-nacl libopendkim11"
	python := testenv.Need(t, "/usr/bin/python3", packages)
	type job struct {
		Do       string            `json:"do"`
		Messages [][]byte          `json:"messages"`
		Records  map[string]string `json:"records"`
	}
	for _, msg := range messages {
		found := map[string]string{}
		for part := range strings.SplitSeq(msg, " s=") {
			if selector, _, ok := strings.Cut(part, ";"); ok && strings.HasPrefix(selector, "mail") {
				name := selector + "._domainkey.example.com"
				found[name] = zone.dig(t, name)
			}
		}
		if len(found) != 2 {
			t.Fatalf("%q: %q", msg, found)
		}
		_, rsaOnly, _ := strings.Cut(msg, "\r\nDKIM-Signature:") // the second one is Ed25519
		rsaOnly = strings.TrimSuffix(msg, "\r\nDKIM-Signature:"+rsaOnly) + rsaOnly[strings.Index(rsaOnly, "\r\nFrom:"):]
		in, err := json.Marshal([]job{{"verify", [][]byte{[]byte(msg)}, found}, {"opendkim", [][]byte{[]byte(rsaOnly)}, found}})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(python, "internal/auth/dkim/testdata/peer.py")
		cmd.Stdin = bytes.NewReader(in)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil && strings.Contains(stderr.String(), "ModuleNotFoundError") || strings.Contains(stderr.String(), "cannot open shared object") {
			testenv.Lacks(t, "dkimpy or OpenDKIM is missing; get it with: %s", packages)
		}
		var answers []any
		if err == nil {
			err = json.Unmarshal(out, &answers)
		}
		if err != nil {
			t.Fatalf("%v: %s%s", err, out, stderr.String())
		}
		for i, peer := range []string{"dkimpy", "OpenDKIM"} {
			got := fmt.Sprint(answers[i])
			if ok := got == "[[pass pass]]" || got == "[pass]"; ok != (want == "pass") {
				t.Errorf("%s says %s, want %s", peer, got, want)
			}
		}
	}
}

// Of a domain that is only forwarded the MX record is looked at, or nothing.
func TestForwardedDomain(t *testing.T) {
	var log safeLog
	zone := dnstest.New(t, dnstest.Zone{})
	s := start(t, Config{Defaults: Defaults{DNSMode: ForwardDNS}, Domains: []Domain{
		{Domain: "a.example"}, {Domain: "b.example", DNS: DomainDNS{Forward: &ForwardDNSSettings{SkipDNSValidation: true}}},
	}}, WithResolver(zone.Resolver()), WithLogger(log.logger()))
	waitFor(t, func() bool {
		return strings.Contains(log.String(), `record="a.example. 3600 IN MX 10 mx.example.com."`)
	})
	waitFor(t, func() bool { return len(s.Domains()[1].Keys) == 2 })
	if st := status(t, s, "a.example"); st.OK || !st.Records[0].Required {
		t.Errorf("%+v", st)
	}
	if st := status(t, s, "b.example"); !st.OK || len(st.Records) != 2 || st.Records[0].Kind != "DKIM" || st.Records[0].Required {
		t.Errorf("%+v", st)
	}
	if strings.Contains(log.String(), "b.example. ") || strings.Contains(log.String(), "_domainkey") || strings.Contains(log.String(), "TXT") {
		t.Error(log.String())
	}
}

func TestPolicies(t *testing.T) {
	external := func(required ...string) DomainDNS {
		return DomainDNS{External: &ExternalDNSSettings{RequiredRecords: required}}
	}
	for _, test := range []struct {
		name     string
		domain   Domain
		defaults Policies
		want     []string // "kind value" of DMARC, MTA-STS and TLSRPT
		sts      string
	}{
		{"external", Domain{}, Policies{}, []string{"DMARC v=DMARC1; p=none; rua=mailto:postmaster@example.com"}, ""},
		{"internal", Domain{DNSMode: InternalDNS}, Policies{}, []string{"DMARC v=DMARC1; p=none; rua=mailto:postmaster@example.com", "TLSRPT v=TLSRPTv1; rua=mailto:postmaster@example.com"}, ""},
		{"off", Domain{DNSMode: InternalDNS, Policies: Policies{DMARC: NoPolicy, MTASTS: NoPolicy, TLSRPT: NoPolicy}}, Policies{"v=DMARC1; p=reject", EnforceMTASTS, nil, "mailto:x@example.net"}, nil, ""},
		{"defaults", Domain{}, Policies{"v=DMARC1; p=reject", EndMTASTS, []string{"*.example.net"}, "mailto:x@example.net"},
			[]string{"DMARC v=DMARC1; p=reject", "MTA-STS v=STSv1; id=", "MTA-STS mx.example.com.", "TLSRPT v=TLSRPTv1; rua=mailto:x@example.net"},
			"version: STSv1\r\nmode: none\r\nmx: mx.example.com\r\nmx: *.example.net\r\nmax_age: 86400\r\n"},
		{"required", Domain{DNS: external("MTA-STS", "TLSRPT")}, Policies{},
			[]string{"DMARC v=DMARC1; p=none", "MTA-STS v=STSv1; id=", "MTA-STS mx.example.com.", "TLSRPT v=TLSRPTv1; rua=mailto:postmaster@example.com"},
			"version: STSv1\r\nmode: testing\r\nmx: mx.example.com\r\nmax_age: 86400\r\n"},
	} {
		test.domain.Domain = "example.com"
		s, err := New(Config{Ports: Ports(25), Hostname: "mx.example.com", Domains: []Domain{test.domain}, Defaults: Defaults{Policies: test.defaults}})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		for _, r := range s.Domains()[0].Records {
			if r.State != RecordUnknown {
				t.Errorf("%+v", r)
			}
			if r.Kind == "DMARC" || r.Kind == "MTA-STS" || r.Kind == "TLSRPT" {
				got = append(got, r.Kind+" "+r.Value)
			}
		}
		if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
		if sts, ok := s.MTASTSPolicy("Example.com"); sts != test.sts || ok != (test.sts != "") {
			t.Errorf("%s: %q", test.name, sts)
		}
	}
}

func TestImportDKIM(t *testing.T) {
	key, err := x509.MarshalPKCS8PrivateKey(newEd25519())
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	s := start(t, Config{})
	waitFor(t, func() bool { return len(s.Domains()[0].Keys) == 2 })
	if err := s.ImportDKIM(t.Context(), "example.com", "old", text); err != nil {
		t.Fatal(err)
	}
	equalLists(t, "keys", keyStates(s.Domains()[0]), "default pending", "old pending")
	for _, bad := range []string{"", "a b", strings.Repeat("a", 64)} {
		if err := s.ImportDKIM(t.Context(), "example.com", bad, text); err == nil {
			t.Errorf("selector %q", bad)
		}
	}
}

// Without anybody to publish them, there is no use in internal-dns.
func TestInternalNeedsPublisher(t *testing.T) {
	s, err := New(Config{Ports: Ports(0), ListenHost: "127.0.0.1", Hostname: "mx.example.com", Domains: []Domain{{Domain: "a.example"}, {Domain: "b.example", DNSMode: InternalDNS}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "domains[1].dnsMode: internal-dns needs") {
		t.Error(err)
	}
}

func newEd25519() ed25519.PrivateKey {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	return key
}

// udpResolver asks one name server.
func udpResolver(addr string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
}
