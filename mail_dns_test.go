package dcrouter_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// mailGateway is a Router that is the source of its mail domains.
type mailGateway struct {
	*dcrouter.Router
	t testing.TB
}

// startMail starts a Router with mail for domains in mode internal-dns. Its mail
// system asks its own DNS server.
func startMail(t testing.TB, backend storage.Backend, edit func(*dcrouter.Config), opts ...dcrouter.Option) *mailGateway {
	t.Helper()
	cfg := dcrouter.Config{
		DNSNSDomains: []string{"ns.b.example"}, PublicIP: []string{"127.0.0.1"},
		DNS: &dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int)},
		Email: &email.Config{
			ListenHost: "127.0.0.1", Ports: email.Ports(0), Hostname: "mx.b.example",
			Domains:  []email.Domain{{Domain: "b.example", DNSMode: email.InternalDNS}},
			Defaults: email.Defaults{DKIM: email.DKIM{KeySize: 1024}},
		},
	}
	if edit != nil {
		edit(&cfg)
	}
	m := &mailGateway{t: t}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, m.dnsAddr())
	}}
	all := append([]dcrouter.Option{dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend), dcrouter.WithEmail(*cfg.Email, email.WithResolver(resolver))}, opts...)
	r, err := dcrouter.New(all...)
	if err != nil {
		t.Fatal(err)
	}
	m.Router = r
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.stop)
	return m
}

func (m *mailGateway) dnsAddr() string { return strings.TrimSuffix(m.Addrs()["dns"][0], "/udp") }

func (m *mailGateway) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		m.t.Errorf("Stop: %v", err)
	}
}

func (m *mailGateway) dig(args ...string) []string {
	m.t.Helper()
	testenv.Need(m.t, "dig", "apt-get install bind9-dnsutils")
	host, port, _ := net.SplitHostPort(m.dnsAddr())
	out := strings.TrimSpace(run(m.t, "dig", append([]string{"@" + host, "-p", port, "+time=10", "+short"}, args...)...))
	if out == "" {
		return nil
	}
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	return lines
}

// waitFor waits until what dig shows is so.
func (m *mailGateway) waitFor(name, rtype string, so func([]string) bool) {
	m.t.Helper()
	testenv.WaitFor(m.t, time.Minute, func() error {
		if got := m.dig(name, rtype); !so(got) {
			return fmt.Errorf("%s %s is %q", name, rtype, got)
		}
		return nil
	})
}

func (m *mailGateway) wait(name, rtype string, want ...string) {
	m.t.Helper()
	m.waitFor(name, rtype, func(got []string) bool { return slices.Equal(got, want) })
}

// signs waits until keys sign.
func (m *mailGateway) signs() {
	m.t.Helper()
	testenv.WaitFor(m.t, time.Minute, func() error {
		st := m.Email().Domains()[0]
		if len(st.Keys) != 2 || st.Keys[0].State != "active" || st.Keys[1].State != "active" {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

func (m *mailGateway) update(change func(*dnsserver.Tx)) {
	m.t.Helper()
	tx := new(dnsserver.Tx)
	change(tx)
	if err := m.UpdateDNS(m.t.Context(), tx); err != nil {
		m.t.Fatal(err)
	}
}

const (
	ourSPF    = `"v=spf1 mx ip4:127.0.0.1 ~all"`
	ourDMARC  = `"v=DMARC1; p=none; rua=mailto:postmaster@b.example"`
	ourTLSRPT = `"v=TLSRPTv1; rua=mailto:postmaster@b.example"`
)

func TestMailRecords(t *testing.T) {
	testenv.Goroutines(t)
	dir := storage.Dir(t.TempDir())
	m := startMail(t, dir, nil)
	m.signs()
	check := func() {
		t.Helper()
		m.wait("b.example", "MX", "10 mx.b.example.")
		m.wait("mx.b.example", "A", "127.0.0.1")
		m.wait("b.example", "TXT", ourSPF)
		m.wait("_dmarc.b.example", "TXT", ourDMARC)
		m.wait("_smtp._tls.b.example", "TXT", ourTLSRPT)
		m.wait("_mta-sts.b.example", "TXT") // there is no HTTPS
		if got := m.dig("default._domainkey.b.example", "TXT"); len(got) != 1 || !strings.HasPrefix(got[0], `"v=DKIM1; k=rsa; p=MI`) {
			t.Errorf("%q", got)
		}
		if got := m.dig("default-ed25519._domainkey.b.example", "TXT"); len(got) != 1 || !strings.HasPrefix(got[0], `"v=DKIM1; k=ed25519; p=`) {
			t.Errorf("%q", got)
		}
		st, err := m.Email().CheckDomain(t.Context(), "b.example")
		if err != nil || !st.OK || len(st.Records) != 8 {
			t.Errorf("%v: %d records, %+v", err, len(st.Records), st)
		}
	}
	check()
	key := m.dig("default._domainkey.b.example", "TXT")
	m.stop()
	m = startMail(t, dir, nil)
	m.signs()
	check()
	if got := m.dig("default._domainkey.b.example", "TXT"); !slices.Equal(got, key) {
		t.Errorf("after a restart the key is %q, it was %q", got, key)
	}
	if err := m.Email().RotateDKIM(t.Context(), "b.example"); err != nil {
		t.Fatal(err)
	}
	next := m.Email().Domains()[0].Keys[2].Selector
	m.waitFor(next+"._domainkey.b.example", "TXT", func(got []string) bool { return len(got) == 1 })
}

// What the operator says in configuration, files and at run time stays, and ours
// fills in what is left.
func TestOperatorsRecordsWin(t *testing.T) {
	testenv.Goroutines(t)
	zone := filepath.Join(t.TempDir(), "b.example.zone")
	write := func(records string) {
		t.Helper()
		text := "$ORIGIN b.example.\n@ 3600 SOA ns hostmaster 1 7200 3600 1209600 300\n@ NS ns\n" + records
		if err := os.WriteFile(zone, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("@ TXT \"site-verification=1\"\n_dmarc TXT \"v=DMARC1; p=reject\"\n")
	backend := storage.Memory()
	files := func(c *dcrouter.Config) {
		c.DNS.Zones = []dnsserver.Zone{{Name: "b.example", File: zone}}
		c.DNS.Records = []dnsserver.Record{{Name: "b.example", Type: "MX", Value: "5 other.example.net"}}
	}
	m := startMail(t, backend, files)
	m.signs()
	m.wait("b.example", "MX", "5 other.example.net.")
	m.wait("_dmarc.b.example", "TXT", `"v=DMARC1; p=reject"`)
	m.wait("b.example", "TXT", `"site-verification=1"`, ourSPF)
	if st, err := m.Email().CheckDomain(t.Context(), "b.example"); err != nil || st.OK || st.Records[0].State != email.RecordWrong {
		t.Errorf("%v, %+v", err, st)
	}

	// The file is edited and read again.
	write("@ TXT \"site-verification=2\"\n@ TXT \"v=spf1 -all\"\nmx CNAME elsewhere.example.net.\n")
	if err := m.DNS().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.wait("_dmarc.b.example", "TXT", ourDMARC)
	m.wait("b.example", "TXT", `"site-verification=2"`, `"v=spf1 -all"`)
	m.wait("mx.b.example", "CNAME", "elsewhere.example.net.")
	m.waitFor("default._domainkey.b.example", "TXT", func(got []string) bool { return len(got) == 1 })
	write("")
	if err := m.DNS().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.wait("b.example", "TXT", ourSPF)
	m.wait("mx.b.example", "A", "127.0.0.1")

	// Changes at run time: an SPF policy comes and goes, and another text is kept
	// together with ours.
	spf := dnsserver.Record{Name: "b.example", Type: "TXT", Value: "v=spf1 ip4:192.0.2.1 -all"}
	m.update(func(tx *dnsserver.Tx) { tx.Add(spf) })
	m.wait("b.example", "TXT", `"v=spf1 ip4:192.0.2.1 -all"`)
	m.update(func(tx *dnsserver.Tx) { tx.Remove(spf) })
	m.wait("b.example", "TXT", ourSPF)
	m.update(func(tx *dnsserver.Tx) { tx.Add(dnsserver.Record{Name: "b.example", Type: "TXT", Value: "kept"}) })
	m.wait("b.example", "TXT", `"kept"`, ourSPF)
	m.stop()
	// Another address: ours is another policy, and the old one is known as ours.
	m = startMail(t, backend, func(c *dcrouter.Config) {
		files(c)
		c.PublicIP = []string{"127.0.0.9"}
	})
	m.wait("b.example", "TXT", `"kept"`, `"v=spf1 mx ip4:127.0.0.9 ~all"`)
}

// A key whose name has another record does not sign: nobody could verify it.
func TestOperatorsKey(t *testing.T) {
	testenv.Goroutines(t)
	other := dnsserver.Record{Name: "default._domainkey.b.example", Type: "TXT", Value: "v=DKIM1; p="}
	m := startMail(t, storage.Memory(), func(c *dcrouter.Config) { c.DNS.Records = []dnsserver.Record{other} })
	testenv.WaitFor(t, time.Minute, func() error {
		if st := m.Email().Domains()[0]; !strings.Contains(st.Error, "default._domainkey.b.example has a record of yours") || len(st.Keys) != 2 || st.Keys[0].State != "pending" {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	m.wait("b.example", "MX", "10 mx.b.example.") // the rest is there
	m.wait("default._domainkey.b.example", "TXT", `"v=DKIM1; p="`)
}

// The policy of MTA-STS is served where the proxy speaks HTTPS, and only there.
func TestMTASTSPolicy(t *testing.T) {
	testenv.Goroutines(t)
	testenv.Need(t, "curl", "apt-get install curl")
	hook, ca := certificates(t, "mta-sts.b.example", "mta-sts.c.example")
	m := startMail(t, storage.Memory(), func(c *dcrouter.Config) {
		c.MTASTSPort = new(int)
		c.Email.Domains = append(c.Email.Domains, email.Domain{Domain: "c.example", Policies: email.Policies{MTASTS: email.EnforceMTASTS}}, email.Domain{Domain: "d.example"})
	}, hook)
	m.signs()
	curl := func(url string, args ...string) string {
		t.Helper()
		_, port, _ := net.SplitHostPort(m.Addrs()["proxy"][0])
		host := strings.Split(url, "/")[2]
		return run(t, "curl", append([]string{"-sS", "--cacert", ca, "--connect-to", host + ":443:127.0.0.1:" + port, "-w", "%{http_code} %{content_type}", url}, args...)...)
	}
	policy := "version: STSv1\r\nmode: testing\r\nmx: mx.b.example\r\nmax_age: 86400\r\n"
	if got := curl("https://mta-sts.b.example/.well-known/mta-sts.txt"); got != policy+"200 text/plain; charset=utf-8" {
		t.Errorf("%q", got)
	}
	if got := curl("https://mta-sts.c.example/.well-known/mta-sts.txt"); !strings.HasPrefix(got, "version: STSv1\r\nmode: enforce\r\nmx: mx.b.example\r\nmax_age: 604800\r\n200") {
		t.Errorf("%q", got)
	}
	for _, wrong := range []string{curl("https://mta-sts.b.example/"), curl("https://mta-sts.b.example/.well-known/mta-sts.txt", "-X", "POST")} {
		if !strings.Contains(wrong, "404") && !strings.Contains(wrong, "405") {
			t.Errorf("%q", wrong)
		}
	}
	id := m.dig("_mta-sts.b.example", "TXT")
	if len(id) != 1 || !strings.HasPrefix(id[0], `"v=STSv1; id=`) {
		t.Errorf("%q", id)
	}
	m.wait("mta-sts.b.example", "A", "127.0.0.1")
	if st, err := m.Email().CheckDomain(t.Context(), "b.example"); err != nil || !st.OK || len(st.Records) != 10 {
		t.Errorf("%v, %d records: %+v", err, len(st.Records), st)
	}
	if err := m.UpdateRoutes(t.Context(), nil); err != nil { // it stays
		t.Fatal(err)
	}
	if got := curl("https://mta-sts.b.example/.well-known/mta-sts.txt"); !strings.HasPrefix(got, policy) {
		t.Errorf("%q", got)
	}
}
