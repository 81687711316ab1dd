package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

const day = 24 * time.Hour

// world is a clock and the DNS.
type world struct {
	mu      sync.Mutex
	time    time.Time
	records map[string]string // by selector
	down    bool
	asked   int
	log     bytes.Buffer
}

func newWorld() *world {
	return &world{time: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), records: map[string]string{}}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *world) publish(_ context.Context, _ string, keys []Key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return errors.New("DNS is down")
	}
	w.records = map[string]string{}
	for _, k := range keys {
		w.records[k.Selector] = k.Record
	}
	return nil
}

func (w *world) seen(_ context.Context, _ string, k Key) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.down {
		return false, errors.New("DNS is down")
	}
	return w.records[k.Selector] == k.Record, nil
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) options(cfg Config, store *storage.Store) Options {
	if cfg.Selector == "" {
		cfg.Selector = "default"
	}
	if cfg.Bits == 0 {
		cfg.Bits = 1024
	}
	return Options{
		Domains: map[string]Config{"example.com": cfg}, Store: store, Log: slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now: w.now, Publish: w.publish, Seen: w.seen,
	}
}

func inMemory(t testing.TB) *storage.Store {
	t.Helper()
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// manual makes a Manager that does nothing by itself, and keys from a stock.
func manual(t testing.TB, w *world, cfg Config, store *storage.Store) (*Manager, *domain) {
	t.Helper()
	m := newManager(w.options(cfg, store))
	m.generate = stock(t)
	d := m.domains["example.com"]
	if err := m.load(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	d.show(nil)
	return m, d
}

// stock returns a source of keys that costs nothing: a few, again and again.
func stock(t testing.TB) func(int) (*rsa.PrivateKey, error) {
	var keys []*rsa.PrivateKey
	for range 3 {
		k, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	n := 0
	return func(int) (*rsa.PrivateKey, error) { n++; return keys[n%len(keys)], nil }
}

// states lists the keys, as "selector state".
func states(m *Manager) (list []string) {
	keys, _ := m.Keys("example.com")
	for _, k := range keys {
		list = append(list, k.Selector+" "+string(k.State))
	}
	return list
}

func signing(m *Manager) (list []string) {
	for _, s := range m.Signers("example.com") {
		list = append(list, s.Selector)
	}
	return list
}

func expect(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// Two years go by, six hours at a time. At all times there are keys that sign,
// and what signed in the last week can be verified.
func TestTwoYears(t *testing.T) {
	w, store := newWorld(), inMemory(t)
	m, d := manual(t, w, Config{Internal: true, Rotate: true, Interval: 90 * day, TTL: 7200}, store)
	type use struct {
		record string
		last   time.Time
	}
	used, most := map[string]use{}, 0
	for n := range 2 * 365 * 4 {
		m.step(t.Context(), d)
		signers := m.Signers("example.com")
		if len(signers) != 2 {
			t.Fatalf("look %d: %d keys sign; %q", n, len(signers), states(m))
		}
		for _, s := range signers {
			k := key{algorithm: Ed25519, private: s.Key}
			if _, ok := s.Key.(*rsa.PrivateKey); ok {
				k.algorithm = RSA
			}
			used[s.Selector] = use{k.record(), w.now()}
		}
		for selector, u := range used {
			if w.now().Sub(u.last) > grace {
				continue
			}
			if w.records[selector] != u.record {
				t.Fatalf("look %d: %s, last used %v ago, has the record %q", n, selector, w.now().Sub(u.last), w.records[selector])
			}
		}
		most = max(most, len(d.set))
		w.advance(6 * time.Hour)
	}
	// 90 days each, and some hours' wait for each rotation.
	if len(used) != 2*9 || most > 6 {
		t.Errorf("%d keys have signed, up to %d were there at once: %q", len(used), most, states(m))
	}
	expect(t, "in the end", states(m), "default-20280823 revoked", "default-20280823-ed25519 revoked", "default-20281121 active", "default-20281121-ed25519 active")
	if text := w.logged(); strings.Contains(text, "PRIVATE") || strings.Contains(text, "WARN") {
		t.Error(text[:min(len(text), 2000)])
	}
}

func TestFirstKeys(t *testing.T) {
	w, store := newWorld(), inMemory(t)
	m, d := manual(t, w, Config{Internal: true, Selector: "mail2026"}, store)
	m.step(t.Context(), d)
	expect(t, "at once", states(m), "mail2026 active", "mail2026-ed25519 active")
	expect(t, "signers", signing(m), "mail2026", "mail2026-ed25519")
	if s := m.Signers("example.com"); s[0].Domain != "example.com" || m.Signers("example.net") != nil {
		t.Errorf("%+v", s[0].Domain)
	}
	for selector, record := range w.records {
		if !strings.HasPrefix(record, "v=DKIM1; k=") || strings.HasSuffix(record, "p=") {
			t.Errorf("%s: %q", selector, record)
		}
	}
	// A restart finds them, before anything is done.
	again, _ := manual(t, w, Config{Internal: true, Selector: "mail2026"}, store)
	expect(t, "after a restart", signing(again), "mail2026", "mail2026-ed25519")
	if a, b := m.Signers("example.com"), again.Signers("example.com"); !a[0].Key.(*rsa.PrivateKey).Equal(b[0].Key) || !a[1].Key.(ed25519.PrivateKey).Equal(b[1].Key) {
		t.Error("they are others")
	}
}

// Where others publish, signing begins with each key as its record shows up.
func TestWaitsForExternalRecords(t *testing.T) {
	w := newWorld()
	m, d := manual(t, w, Config{Rotate: true, Interval: 90 * day}, inMemory(t))
	for range 10 {
		m.step(t.Context(), d)
		w.advance(20 * time.Minute)
	}
	expect(t, "without records", states(m), "default pending", "default-ed25519 pending")
	if d.wait != maxWait {
		t.Errorf("it waits %v", d.wait)
	}
	keys, _ := m.Keys("example.com")
	w.records["default"] = keys[0].Record
	m.step(t.Context(), d)
	expect(t, "with one", signing(m), "default")
	w.records["default-ed25519"] = "v=DKIM1; k=ed25519; p=AAAA"
	m.step(t.Context(), d)
	expect(t, "with a wrong one", signing(m), "default")
	w.records["default-ed25519"] = keys[1].Record
	m.step(t.Context(), d)
	expect(t, "with both", signing(m), "default", "default-ed25519")

	// Nobody brings the next ones into DNS, for a year.
	for range 365 {
		w.advance(day)
		m.step(t.Context(), d)
	}
	expect(t, "nobody cares", states(m), "default active", "default-ed25519 active", "default-20270228 pending", "default-20270228-ed25519 pending")
	keys, _ = m.Keys("example.com")
	w.records["default-20270228"] = keys[2].Record
	m.step(t.Context(), d)
	expect(t, "the new record waits", signing(m), "default", "default-ed25519")
	w.advance(time.Hour)
	m.step(t.Context(), d)
	expect(t, "then its key signs", signing(m), "default-20270228", "default-ed25519")
	expect(t, "and the old one retires", states(m), "default retiring", "default-ed25519 active", "default-20270228 active", "default-20270228-ed25519 pending")
}

func TestRotate(t *testing.T) {
	w := newWorld()
	m, d := manual(t, w, Config{Internal: true, TTL: 300}, nil)
	if err := m.Rotate(t.Context(), "example.net"); !errors.Is(err, ErrNoDomain) {
		t.Error(err)
	}
	m.step(t.Context(), d)
	if err := m.Rotate(t.Context(), "example.com"); err != nil {
		t.Fatal(err)
	}
	expect(t, "new keys", states(m), "default active", "default-ed25519 active", "default-20261130 pending", "default-20261130-ed25519 pending")
	if err := m.Rotate(t.Context(), "example.com"); !errors.Is(err, ErrRotating) {
		t.Error(err)
	}
	m.step(t.Context(), d)
	expect(t, "old ones sign", signing(m), "default", "default-ed25519")
	w.advance(time.Hour)
	m.step(t.Context(), d)
	expect(t, "new ones sign", signing(m), "default-20261130", "default-20261130-ed25519")
	if err := m.Rotate(t.Context(), "example.com"); err != nil {
		t.Fatal(err)
	}
	w.advance(2 * time.Hour)
	m.step(t.Context(), d)
	w.advance(2 * time.Hour)
	m.step(t.Context(), d)
	expect(t, "twice a day", signing(m), "default-20261130-2", "default-20261130-2-ed25519")
	w.advance(grace)
	m.step(t.Context(), d)
	if w.records["default"] != "v=DKIM1; k=rsa; p=" || w.records["default-ed25519"] != "v=DKIM1; k=ed25519; p=" || len(w.records) != 6 {
		t.Errorf("%q", w.records)
	}
	if d.set[0].private != nil {
		t.Error("the private key is still there")
	}
	w.advance(memory)
	m.step(t.Context(), d)
	expect(t, "forgotten", states(m), "default-20261130-2 active", "default-20261130-2-ed25519 active")
	w.advance(1000 * day)
	m.step(t.Context(), d)
	expect(t, "no rotation", signing(m), "default-20261130-2", "default-20261130-2-ed25519")
}

// Another selector or size in the configuration is a wish for other keys.
func TestConfigurationChanges(t *testing.T) {
	w, store := newWorld(), inMemory(t)
	m, d := manual(t, w, Config{Internal: true}, store)
	m.step(t.Context(), d)
	m, d = manual(t, w, Config{Internal: true, Selector: "other"}, store)
	m.step(t.Context(), d)
	w.advance(time.Hour)
	m.step(t.Context(), d)
	expect(t, "selector", states(m), "default retiring", "default-ed25519 retiring", "other active", "other-ed25519 active")
	m, d = manual(t, w, Config{Internal: true, Selector: "other", Bits: 1536}, store)
	m.step(t.Context(), d)
	w.advance(time.Hour)
	m.step(t.Context(), d)
	expect(t, "size", signing(m), "other-20261130", "other-ed25519")
	m, d = manual(t, w, Config{Internal: true, Bits: 1536}, store)
	m.step(t.Context(), d)
	w.advance(time.Hour)
	m.step(t.Context(), d)
	expect(t, "back again", signing(m), "default-20261130", "default-20261130-ed25519")
}

func TestImport(t *testing.T) {
	old, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(old)})
	w, store := newWorld(), inMemory(t)
	m, d := manual(t, w, Config{}, store)
	m.step(t.Context(), d)
	if err := m.Import(t.Context(), "example.com", "old", pkcs1); err != nil {
		t.Fatal(err)
	}
	expect(t, "it takes the place of what nobody knows", states(m), "default-ed25519 pending", "old pending")
	w.records["old"] = (&key{algorithm: RSA, private: old}).record()
	m.step(t.Context(), d)
	expect(t, "signers", signing(m), "old")
	if !m.Signers("example.com")[0].Key.(*rsa.PrivateKey).Equal(old) {
		t.Error("it is another key")
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	pkcs8, err := encode(ed)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Import(t.Context(), "example.com", "old", []byte(pkcs8)); err == nil {
		t.Error("a selector was given twice")
	}
	for _, bad := range []string{"", "secret", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "-----BEGIN X-----\nc2VjcmV0\n-----END X-----\n"} {
		if err := m.Import(t.Context(), "example.com", "bad", []byte(bad)); err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2V") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := m.Import(t.Context(), "example.com", "new", []byte(pkcs8)); err != nil {
		t.Error(err)
	}
	expect(t, "the other kind", states(m), "old active", "new pending")

	// A key of an earlier system is the first one.
	store = inMemory(t)
	if err := store.Put(t.Context(), "email/dkim/example.com/private.key", pkcs1); err != nil {
		t.Fatal(err)
	}
	m, d = manual(t, w, Config{Internal: true, Selector: "legacy"}, store)
	m.step(t.Context(), d)
	expect(t, "taken over", signing(m), "legacy", "legacy-ed25519")
	if !m.Signers("example.com")[0].Key.(*rsa.PrivateKey).Equal(old) {
		t.Error("it is another key")
	}
}

// Whatever fails, keys that sign go on to, and nothing that is kept gets lost.
func TestFailures(t *testing.T) {
	w, store := newWorld(), inMemory(t)
	m, d := manual(t, w, Config{Internal: true}, store)
	w.down = true
	m.step(t.Context(), d)
	expect(t, "unpublished", states(m), "default pending", "default-ed25519 pending")
	if _, err := m.Keys("example.com"); err == nil || !strings.Contains(err.Error(), "DNS is down") {
		t.Error(err)
	}
	w.down = false
	m.step(t.Context(), d)
	expect(t, "published", signing(m), "default", "default-ed25519")
	if _, err := m.Keys("example.com"); err != nil {
		t.Error(err)
	}

	const at = "email/dkim/example.com/keys.json"
	good, err := store.Get(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	records := len(w.records)
	for _, bad := range []string{"", "{", `{"version":2}`, strings.Replace(string(good), "-----BEGIN", "-----", 1), strings.Replace(string(good), `"active"`, `"x"`, 1), strings.Replace(string(good), `"rsa"`, `"ed25519"`, 1)} {
		if err := store.Put(t.Context(), at, []byte(bad)); err != nil {
			t.Fatal(err)
		}
		m.step(t.Context(), d)
		expect(t, "with unreadable keys", signing(m), "default", "default-ed25519")
		_, err := m.Keys("example.com")
		if err == nil || !strings.Contains(err.Error(), at) || strings.Contains(err.Error(), "PRIVATE") || strings.Contains(w.logged(), "PRIVATE") {
			t.Errorf("%.20q: %v", bad, err)
		}
		if got, err := store.Get(t.Context(), at); err != nil || string(got) != bad {
			t.Errorf("%q was overwritten: %v", bad, err)
		}
		if len(w.records) != records {
			t.Errorf("records are gone: %q", w.records)
		}
	}
	if err := store.Put(t.Context(), at, good); err != nil {
		t.Fatal(err)
	}
	m.step(t.Context(), d)
	if _, err := m.Keys("example.com"); err != nil {
		t.Error(err)
	}
	m.generate = func(int) (*rsa.PrivateKey, error) { return nil, errors.New("no") }
	if err := m.Rotate(t.Context(), "example.com"); err == nil {
		t.Error("no error")
	}
	expect(t, "no new keys", states(m), "default active", "default-ed25519 active")
}

// Several Managers on one storage have the same keys, and rotate once.
func TestShared(t *testing.T) {
	testenv.Goroutines(t)
	w, store := newWorld(), inMemory(t)
	o := w.options(Config{Internal: true, Rotate: true, Interval: 90 * day}, store)
	var all []*Manager
	for range 4 {
		m, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		all = append(all, m)
	}
	same := func(want ...string) {
		t.Helper()
		testenv.WaitFor(t, time.Minute, func() error {
			all[0].look(all[0].domains["example.com"]) // the others are told by the storage
			for i, m := range all {
				if got := signing(m); !slices.Equal(got, want) {
					return fmt.Errorf("manager %d signs with %q of %q", i, got, states(m))
				}
				for j, s := range m.Signers("example.com") {
					if other := all[0].Signers("example.com")[j].Key.Public(); !other.(interface{ Equal(crypto.PublicKey) bool }).Equal(s.Key.Public()) {
						return fmt.Errorf("manager %d has other keys", i)
					}
				}
			}
			return nil
		})
	}
	same("default", "default-ed25519")
	w.advance(90 * day)
	testenv.WaitFor(t, time.Minute, func() error {
		all[0].look(all[0].domains["example.com"])
		for _, m := range all {
			if len(states(m)) != 4 {
				return errors.New("no new keys yet")
			}
		}
		return nil
	})
	w.advance(time.Hour)
	same("default-20270228", "default-20270228-ed25519")
	for _, m := range all {
		expect(t, "all", states(m), "default retiring", "default-ed25519 retiring", "default-20270228 active", "default-20270228-ed25519 active")
	}
}

// Open does not wait for keys, and Close for nothing but one that is being made.
func TestOpenIsFast(t *testing.T) {
	testenv.Goroutines(t)
	w := newWorld()
	o := w.options(Config{Internal: true}, nil)
	for i := range 50 {
		o.Domains[fmt.Sprintf("%d.example", i)] = Config{Selector: "s", Bits: 2048, Internal: true}
	}
	start := time.Now()
	m, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Open took %v", d)
	}
	if allocs := testing.AllocsPerRun(100, func() { m.Signers("example.com") }); allocs != 0 {
		t.Errorf("Signers allocates %v times", allocs)
	}
	m.Close()
}

func TestSelectorsFit(t *testing.T) {
	w := newWorld()
	c := Config{Selector: "x." + strings.Repeat("a", MaxSelector), Bits: 1024}
	var s set
	for range 100 {
		for i := range s {
			s[i].state = Retiring
		}
		if err := s.make(s.lacking(w.now(), &c, true), w.now(), &c, func(int) (*rsa.PrivateKey, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, k := range s {
		_, label, _ := strings.Cut(k.selector, ".")
		if seen[k.selector] || len(label) > 63 {
			t.Errorf("%q: twice, or %d characters", k.selector, len(label))
		}
		seen[k.selector] = true
	}
}

func FuzzParse(f *testing.F) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	good, err := set{{selector: "a", algorithm: Ed25519, state: Active, private: ed}, {selector: "b", algorithm: RSA, state: Revoked}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parse(data)
		if err != nil {
			return
		}
		out, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(out)
		if err != nil || len(again) != len(s) {
			t.Fatal(err)
		}
	})
}
