package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/caddyserver/certmagic"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

const patience = time.Minute

// zones is a DNS server with example.com.
type zones struct{ server *dnsserver.Server }

func (z zones) Authoritative(name string) bool {
	_, err := z.server.Source(name)
	return err == nil
}

func (z zones) Owner(name string) string { return name }

func (z zones) change(ctx context.Context, r Record, do func(*dnsserver.Tx, ...dnsserver.Record)) error {
	tx := new(dnsserver.Tx)
	do(tx, dnsserver.Record{Name: r.Name, Type: r.Type, Value: r.Value, TTL: 60})
	return z.server.Update(ctx, tx)
}

func (z zones) Add(ctx context.Context, r Record) error {
	return z.change(ctx, r, (*dnsserver.Tx).Add)
}

func (z zones) Remove(ctx context.Context, r Record) error {
	return z.change(ctx, r, (*dnsserver.Tx).Remove)
}

func (z zones) CAA(name string) (string, []string, error) {
	list, err := z.server.Lookup(name, "CAA")
	var values []string
	for _, r := range list {
		values = append(values, r.Value)
	}
	return name, values, err
}

func newZones(t *testing.T) zones {
	t.Helper()
	s, err := dnsserver.New(dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.com"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.Background()) })
	return zones{s}
}

func (z zones) pebble(t *testing.T) *testenv.Pebble {
	t.Helper()
	return testenv.StartPebble(t, testenv.PebbleOpts{DNS: strings.TrimSuffix(z.server.Addrs()[0], "/udp")})
}

func openStore(t *testing.T, b storage.Backend) *storage.Store {
	t.Helper()
	store, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func newManager(t *testing.T, cfg Config, opts ...Option) *Manager {
	t.Helper()
	if cfg.Directory == "" {
		cfg.Directory = "https://127.0.0.1:1/dir"
	}
	if cfg.RetryInterval == 0 {
		cfg.RetryInterval = time.Second
	}
	m, err := New(cfg, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *Manager) begin(t *testing.T, store *storage.Store, names ...string) {
	t.Helper()
	m.SetNames(names)
	if err := m.Load(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	m.Start()
	t.Cleanup(func() { m.Stop(context.Background()) })
}

func (m *Manager) state(name string) State {
	for _, s := range m.States() {
		if s.Name == name {
			return s
		}
	}
	return State{}
}

func (m *Manager) wait(t *testing.T, name string, ok func(State) bool) State {
	t.Helper()
	var s State
	testenv.WaitFor(t, patience, func() error {
		if s = m.state(name); !ok(s) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return s
}

func has(s State) bool { return !s.NotAfter.IsZero() && !s.InProgress && s.LastError == "" }

// Of several on one storage one orders, and the others take over what it has.
func TestManagersOnOneStorage(t *testing.T) {
	testenv.Goroutines(t)
	z := newZones(t)
	p := z.pebble(t)
	store := openStore(t, storage.Memory())
	var all []*Manager
	for range 3 {
		m := newManager(t, Config{Directory: p.Directory, CARootPath: p.CAPath}, WithDNS(z))
		all = append(all, m)
		m.begin(t, store, "example.com", "www.example.com")
	}
	serials := map[string]bool{}
	for _, m := range all {
		for _, name := range []string{"example.com", "www.example.com"} {
			m.wait(t, name, has)
			cert, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
			if err != nil {
				t.Fatal(err)
			}
			serials[cert.Leaf.SerialNumber.String()] = true
		}
	}
	if n := strings.Count(p.Output(), "Added order"); n != 2 || len(serials) != 2 {
		t.Errorf("%d orders, certificates %v", n, serials)
	}
	if !strings.Contains(p.Output(), "There are now 1 accounts") || strings.Contains(p.Output(), "There are now 2 accounts") {
		t.Error("not one account")
	}
}

// A certificate is renewed when somebody asks for it, unless it is new.
func TestRenew(t *testing.T) {
	testenv.Goroutines(t)
	z := newZones(t)
	p := z.pebble(t)
	m := newManager(t, Config{Directory: p.Directory, CARootPath: p.CAPath}, WithDNS(z))
	m.begin(t, openStore(t, storage.Memory()), "example.com")
	first := m.wait(t, "example.com", has)
	if err := m.Renew("example.com"); !errors.Is(err, ErrTooEarly) {
		t.Errorf("a new one: %v", err)
	}
	if err := m.Renew("other.example"); !errors.Is(err, ErrUnknownName) {
		t.Errorf("an unknown name: %v", err)
	}
	c := (*m.names.Load())["example.com"]
	old := c.current()
	c.mu.Lock()
	c.restUntil = time.Time{} // it is some days old
	c.mu.Unlock()
	if err := m.Renew("Example.COM"); err != nil {
		t.Fatal(err)
	}
	if err := m.Renew("example.com"); !errors.Is(err, ErrTooEarly) {
		t.Errorf("twice: %v", err)
	}
	testenv.WaitFor(t, patience, func() error {
		if c.current() == old {
			return errors.New("it is the old one")
		}
		return nil
	})
	if s := m.wait(t, "example.com", has); s.Failures != 0 || s.NotAfter.Before(first.NotAfter) {
		t.Errorf("then %+v", s)
	}
	if n := strings.Count(p.Output(), "Added order"); n != 2 {
		t.Errorf("%d orders", n)
	}
}

// faulty is a storage that fails to keep some things.
type faulty struct {
	storage.Backend
	broken atomic.Bool
}

func (f *faulty) Put(ctx context.Context, key string, value []byte) error {
	if f.broken.Load() && strings.Contains(key, "/certmagic/") {
		return errors.New("the disk is full")
	}
	return f.Backend.Put(ctx, key, value)
}

// A storage that cannot keep a certificate is found out before one is ordered.
func TestStorageFails(t *testing.T) {
	testenv.Goroutines(t)
	z := newZones(t)
	p := z.pebble(t)
	backend := &faulty{Backend: storage.Memory()}
	backend.broken.Store(true)
	store := openStore(t, struct{ storage.Backend }{backend})
	m := newManager(t, Config{Directory: p.Directory, CARootPath: p.CAPath}, WithDNS(z))
	m.begin(t, store, "example.com")
	s := m.wait(t, "example.com", func(s State) bool { return s.Failures >= 2 && !s.InProgress })
	if !s.NotAfter.IsZero() || !strings.Contains(s.LastError, "the disk is full") || strings.Contains(p.Output(), "Added order") {
		t.Errorf("%+v", s)
	}
	backend.broken.Store(false)
	m.wait(t, "example.com", has)
	if n := strings.Count(p.Output(), "Added order"); n != 1 {
		t.Errorf("%d orders", n)
	}
	// What was kept is what a new process finds.
	other := newManager(t, Config{Directory: p.Directory, CARootPath: p.CAPath}, WithDNS(z))
	other.SetNames([]string{"example.com"})
	if err := other.Load(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	defer other.Stop(t.Context())
	if s := other.state("example.com"); s.NotAfter.IsZero() {
		t.Errorf("%+v", s)
	}
}

// shelfTest is a Manager's place in the storage before it has one.
func (m *Manager) shelfTest(t *testing.T, store *storage.Store) *magic {
	t.Helper()
	s := newShelf(store, m.cfg.Directory)
	kept := newMagic(&m.cfg, s, newAuthority(&m.cfg, s, nil), m.log)
	t.Cleanup(kept.close)
	return kept
}

// put keeps a certificate as certmagic does.
func (m *magic) put(t *testing.T, name string, chain, key []byte) {
	t.Helper()
	keys, issuer := certmagic.KeyBuilder{}, m.issuer.IssuerKey()
	for at, value := range map[string][]byte{keys.SiteCert(issuer, name): chain, keys.SitePrivateKey(issuer, name): key, keys.SiteMeta(issuer, name): []byte("{}")} {
		if err := m.config.Storage.Store(t.Context(), at, value); err != nil {
			t.Fatal(err)
		}
	}
}

// What the storage has may be damaged, or be for another name: then it is
// obtained anew. An account that the authority does not have is made again.
func TestDamagedStorage(t *testing.T) {
	testenv.Goroutines(t)
	z := newZones(t)
	p := z.pebble(t)
	store := openStore(t, storage.Memory())
	m := newManager(t, Config{Directory: p.Directory, CARootPath: p.CAPath, Email: "ops@example.com"}, WithDNS(z))
	shelf := newShelf(store, p.Directory)
	other := testPair(t, time.Now(), 90*24*time.Hour, "other.example.com")
	key, err := generateKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	keyText, _ := encodeKey(key)
	base := strings.TrimSuffix(p.Directory, "/dir")
	kept := m.shelfTest(t, store)
	kept.put(t, "a.example.com", []byte("garbage"), []byte("garbage"))
	otherChain, otherKey := other.split()
	kept.put(t, "b.example.com", otherChain, otherKey)
	mine, _ := testPair(t, time.Now(), 90*24*time.Hour, "c.example.com").split()
	kept.put(t, "c.example.com", mine, otherKey) // a crash between two writes
	if err := shelf.save(t.Context(), shelf.accountKey(), savedAccount{base + "/my-account/gone", []string{"mailto:ops@example.com"}, string(keyText)}, 0); err != nil {
		t.Fatal(err)
	}
	names := []string{"a.example.com", "b.example.com", "c.example.com"}
	m.begin(t, store, names...)
	for _, name := range names {
		m.wait(t, name, has)
		if k, err := kept.certificate(t.Context(), name); err != nil || !k.covers(name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fakeDNS records what it is told.
type fakeDNS struct {
	mu   sync.Mutex
	caa  map[string][]string
	fail error
}

func (d *fakeDNS) Authoritative(name string) bool { return strings.HasSuffix(name, "example.com") }

func (d *fakeDNS) Owner(name string) string { return name }

func (d *fakeDNS) Add(_ context.Context, r Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.caa[r.Name] = append(d.caa[r.Name], r.Value)
	return d.fail
}

func (d *fakeDNS) Remove(_ context.Context, r Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.caa[r.Name] = slices.DeleteFunc(d.caa[r.Name], func(v string) bool { return v == r.Value })
	return d.fail
}

func (d *fakeDNS) CAA(name string) (string, []string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := name
	for {
		if list := d.caa[name]; len(list) > 0 {
			return name, slices.Clone(list), nil
		}
		_, above, ok := strings.Cut(name, ".")
		if !ok {
			break
		}
		name = above
	}
	if strings.HasPrefix(asked, "wildcard.") {
		return "", nil, nil
	}
	return asked, nil, nil
}

// Nothing that somebody else has written is touched.
func TestCAA(t *testing.T) {
	const theirs = `0 issue "other.example"`
	ours := func(account string) string { return `0 issue "ca.example; accounturi=` + account + `"` }
	d := &fakeDNS{caa: map[string][]string{"theirs.example.com": {theirs}}}
	m := newManager(t, Config{PublishCAA: true}, WithDNS(d))
	s := newShelf(openStore(t, storage.Memory()), m.cfg.Directory)
	publish := func(name, account string) { m.publishCAA(t.Context(), s, name, account, []string{"ca.example"}) }
	want := func(name string, values ...string) {
		t.Helper()
		if got := d.caa[name]; !slices.Equal(got, values) {
			t.Errorf("%s: %q, want %q", name, got, values)
		}
	}
	publish("*.a.example.com", "https://ca/1")
	want("a.example.com", ours("https://ca/1"))
	publish("a.example.com", "https://ca/1")
	want("a.example.com", ours("https://ca/1"))
	publish("www.a.example.com", "https://ca/1") // the record above holds for it
	want("www.a.example.com")
	publish("a.example.com", "https://ca/2") // another account
	want("a.example.com", ours("https://ca/2"))
	publish("www.theirs.example.com", "https://ca/2")
	publish("theirs.example.com", "https://ca/2")
	want("theirs.example.com", theirs)
	want("www.theirs.example.com")
	publish("wildcard.b.example.com", "https://ca/2") // has no records of its own
	want("wildcard.b.example.com")
	publish("example.org", "https://ca/2") // not our zone
	want("example.org")
	publish("b.example.com", `https://ca/" "evil`)
	want("b.example.com")

	// The operator adds one to ours.
	d.caa["a.example.com"] = append(d.caa["a.example.com"], theirs)
	publish("a.example.com", "https://ca/3")
	want("a.example.com", ours("https://ca/2"), theirs)
	// Ours goes when the names go, and not before.
	m.SetNames([]string{"*.a.example.com"})
	m.withdrawCAA(t.Context(), s, "a.example.com")
	want("a.example.com", ours("https://ca/2"), theirs)
	m.SetNames(nil)
	m.withdrawCAA(t.Context(), s, "a.example.com")
	want("a.example.com", theirs)

	// A record for another authority, such as one for trials, gives way.
	publish("d.example.com", "https://ca/1")
	production := newShelf(s.store, "https://production.example/dir")
	m.publishCAA(t.Context(), production, "d.example.com", "https://production/1", []string{"ca.example"})
	want("d.example.com", ours("https://production/1"))

	off := newManager(t, Config{}, WithDNS(d))
	off.publishCAA(t.Context(), s, "c.example.com", "https://ca/1", []string{"ca.example"})
	want("c.example.com")
}

// A new process takes away what the one before has published for names that are
// gone, and all of it if no records are wanted any more.
func TestOldCAA(t *testing.T) {
	d := &fakeDNS{caa: map[string][]string{"theirs.example.com": {"theirs"}}}
	store := openStore(t, storage.Memory())
	first := newManager(t, Config{PublishCAA: true}, WithDNS(d))
	s := newShelf(store, first.cfg.Directory)
	for _, name := range []string{"a.example.com", "b.example.com"} {
		first.publishCAA(t.Context(), s, name, "https://ca/1", []string{"ca.example"})
	}
	left := func(want ...string) {
		t.Helper()
		testenv.WaitFor(t, patience, func() error {
			d.mu.Lock()
			defer d.mu.Unlock()
			var got []string
			for name, values := range d.caa {
				if len(values) > 0 {
					got = append(got, name)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				return fmt.Errorf("records at %q, want them at %q", got, want)
			}
			return nil
		})
	}
	left("a.example.com", "b.example.com", "theirs.example.com")
	second := newManager(t, Config{PublishCAA: true}, WithDNS(d))
	second.begin(t, store, "*.a.example.com")
	left("a.example.com", "theirs.example.com")
	third := newManager(t, Config{}, WithDNS(d))
	third.begin(t, store, "a.example.com")
	left("theirs.example.com")
}

func TestChoice(t *testing.T) {
	none := func(string) bool { return false }
	all := func(string) bool { return true }
	for _, test := range []struct {
		name      string
		opts      []Option
		allowed   []string
		failures  int
		want, err string
	}{
		{"example.com", []Option{WithDNS(&fakeDNS{}), WithReachable(all)}, nil, 0, DNS01, ""},
		{"example.com", []Option{WithDNS(&fakeDNS{}), WithReachable(all)}, nil, 1, TLSALPN01, ""},
		{"example.com", []Option{WithDNS(&fakeDNS{}), WithReachable(all)}, nil, 3, DNS01, ""},
		{"example.com", []Option{WithDNS(&fakeDNS{}), WithReachable(all)}, []string{HTTP01, DNS01}, 0, HTTP01, ""},
		{"example.org", []Option{WithDNS(&fakeDNS{}), WithCloudflare("t", nil)}, nil, 0, DNS01, ""},
		{"example.org", []Option{WithDNS(&fakeDNS{}), WithReachable(all)}, nil, 0, TLSALPN01, ""},
		{"*.example.com", []Option{WithDNS(&fakeDNS{}), WithReachable(all)}, nil, 5, DNS01, ""},
		{"*.example.org", []Option{WithDNS(&fakeDNS{}), WithReachable(all)}, nil, 0, "", "*.example.org needs dns-01: dns-01: the DNS server here is not the source"},
		{"*.example.org", []Option{WithReachable(all)}, []string{HTTP01}, 0, "", "needs dns-01: the configuration allows only http-01"},
		{"example.org", []Option{WithReachable(none)}, nil, 0, "", "tls-alpn-01: no route listens"},
		{"example.org", nil, []string{HTTP01}, 0, "", "http-01: no route listens"},
	} {
		m := newManager(t, Config{Challenges: test.allowed}, test.opts...)
		s, err := m.choose(test.name, test.failures)
		if test.want != "" && (err != nil || s.kind() != test.want) || test.want == "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s %v: %v, %v", test.name, test.allowed, s, err)
		}
	}
}

// There are answers for what we have ordered only, and only in the form that
// authorities ask in. Any Manager on the storage has them, also one that does not
// know the name: of several Routers, one may be the first to be asked for it, or to
// have new routes.
func TestAnswers(t *testing.T) {
	store := openStore(t, storage.Memory())
	asked, other := newManager(t, Config{}), newManager(t, Config{})
	asked.SetNames([]string{"example.com", "two.example.com"})
	for _, m := range []*Manager{asked, other} {
		if err := m.Load(t.Context(), store); err != nil {
			t.Fatal(err)
		}
		defer m.Stop(t.Context())
	}
	token := strings.Repeat("t", 43)
	c := acme.Challenge{Type: HTTP01, Token: token, KeyAuthorization: token + ".thumb", Identifier: acme.Identifier{Type: "dns", Value: "example.com"}}
	web, alpn := &httpSolver{asked.answers}, &alpnSolver{asked.answers}
	if err := errors.Join(web.present(t.Context(), c), alpn.present(t.Context(), c)); err != nil {
		t.Fatal(err)
	}
	answer := func(m *Manager, method, url string) string {
		w := httptest.NewRecorder()
		if !m.HTTPChallenge(w, httptest.NewRequest(method, url, nil)) {
			if w.Body.Len() > 0 || len(w.Header()) > 0 {
				t.Error("touched a request that is not ours")
			}
			return "no"
		}
		return w.Body.String()
	}
	handshake := func(m *Manager, name string, protocols ...string) *tls.Certificate {
		cert, err := m.TLSALPNChallenge(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: protocols})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return cert
	}
	for _, m := range []*Manager{asked, other} {
		for url, want := range map[string]string{
			"http://example.com" + challengePath + token: token + ".thumb", "http://EXAMPLE.com:80" + challengePath + token: token + ".thumb",
			"http://two.example.com" + challengePath + token: "no", "http://three.example.com" + challengePath + token: "no",
			"http://example.com" + challengePath + "short": "no", "http://example.com" + challengePath + token + "/x": "no",
			"http://example.com" + challengePath + strings.Repeat("t", 22) + "%2e%2e": "no", "http://example.com/": "no",
		} {
			if got := answer(m, http.MethodGet, url); got != want {
				t.Errorf("%s: %q, want %q", url, got, want)
			}
		}
		if got := answer(m, http.MethodPost, "http://example.com"+challengePath+token); got != "no" {
			t.Errorf("POST: %q", got)
		}
		if cert := handshake(m, "example.com", "acme-tls/1"); cert == nil {
			t.Error("no certificate for the challenge")
		}
		for _, protocols := range [][]string{{"h2"}, {"acme-tls/1", "h2"}, nil} {
			if handshake(m, "example.com", protocols...) != nil {
				t.Errorf("answered to %v", protocols)
			}
		}
		if handshake(m, "two.example.com", "acme-tls/1") != nil || handshake(m, "", "acme-tls/1") != nil {
			t.Error("answered for another name")
		}
	}
	if err := errors.Join(web.cleanUp(t.Context(), c), alpn.cleanUp(t.Context(), c)); err != nil {
		t.Fatal(err)
	}
	if answer(other, http.MethodGet, "http://example.com"+challengePath+token) != "no" || handshake(asked, "example.com", "acme-tls/1") != nil {
		t.Error("answers after the end")
	}
}

func TestGetCertificate(t *testing.T) {
	store := openStore(t, storage.Memory())
	m := newManager(t, Config{})
	kept := m.shelfTest(t, store)
	now := time.Now()
	for name, pair := range map[string]*keyPair{
		"*.example.com": testPair(t, now, time.Hour, "*.example.com"), "old.example.com": testPair(t, now.Add(-2*time.Hour), time.Hour, "old.example.com"),
		"old.example.org": testPair(t, now.Add(-2*time.Hour), time.Hour, "old.example.org"), "first.example.org": testPair(t, now, time.Hour, "first.example.org"),
	} {
		chain, key := pair.split()
		kept.put(t, name, chain, key)
	}
	m.SetNames([]string{"none.example.org", "first.example.org", "*.example.com", "old.example.com", "old.example.org"})
	if err := m.Load(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	if err := m.Load(t.Context(), store); !errors.Is(err, ErrRunning) {
		t.Errorf("loaded twice: %v", err)
	}
	m.Stop(t.Context())
	for name, want := range map[string]string{
		"www.example.com": "*.example.com", "WWW.Example.com.": "*.example.com",
		"old.example.com": "*.example.com", // which is not expired
		"old.example.org": "old.example.org", "none.example.org": "stand-in", "": "first.example.org",
		"a.b.example.com": "error", "example.com": "error", "other.example.org": "error",
	} {
		cert, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		got := "error"
		if err == nil {
			if got = "stand-in"; cert.Leaf != nil && len(cert.Leaf.DNSNames) > 0 {
				got = cert.Leaf.DNSNames[0]
			}
		}
		if got != want {
			t.Errorf("%q: %s, want %s (%v)", name, got, want, err)
		}
	}
	m.cfg.CloseWithout = true
	if cert, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "none.example.org"}); err == nil {
		t.Errorf("%v instead of an error", cert)
	}
}

// Certificates go a month after they have expired.
func TestTidy(t *testing.T) {
	store := openStore(t, storage.Memory())
	m := newManager(t, Config{})
	kept := m.shelfTest(t, store)
	now := time.Now()
	for name, expired := range map[string]time.Duration{"lately.example.com": 29 * 24 * time.Hour, "long.example.com": 31 * 24 * time.Hour} {
		chain, key := testPair(t, now.Add(-expired-time.Hour), time.Hour, name).split()
		kept.put(t, name, chain, key)
	}
	if err := m.tidyOnce(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"lately.example.com": true, "long.example.com": false} {
		if k, err := kept.certificate(t.Context(), name); err != nil || (k != nil) != want {
			t.Errorf("%s: %v, %v", name, k != nil, err)
		}
	}
}
