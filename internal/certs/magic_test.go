package certs

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/dcrouter/dcrouter/storage"
)

// What certmagic's documentation demands of a storage.
func TestMagicStorage(t *testing.T) {
	for name, backend := range map[string]storage.Backend{"memory": storage.Memory(), "folder": storage.Dir(t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			var s certmagic.Storage = &magicStorage{store: openStore(t, backend), root: "certificates/test"}
			ctx := t.Context()
			for _, err := range []error{s.Store(ctx, "a/b/c", []byte("1")), s.Store(ctx, "a/b/d", []byte("2")), s.Store(ctx, "a/e", []byte("3")), s.Store(ctx, "ab", []byte("4"))} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if got, err := s.Load(ctx, "a/b/c"); err != nil || string(got) != "1" {
				t.Errorf("%q, %v", got, err)
			}
			for path, want := range map[string][2][]string{
				"":    {{"a", "ab"}, {"a", "a/b", "a/b/c", "a/b/d", "a/e", "ab"}},
				"a":   {{"a/b", "a/e"}, {"a/b", "a/b/c", "a/b/d", "a/e"}},
				"a/b": {{"a/b/c", "a/b/d"}, {"a/b/c", "a/b/d"}},
			} {
				for i, recursive := range []bool{false, true} {
					if got, err := s.List(ctx, path, recursive); err != nil || !slices.Equal(got, want[i]) {
						t.Errorf("%q %v: %q, %v", path, recursive, got, err)
					}
				}
			}
			for key, terminal := range map[string]bool{"a": false, "a/b": false, "a/b/c": true} {
				if info, err := s.Stat(ctx, key); err != nil || info.IsTerminal != terminal || !s.Exists(ctx, key) {
					t.Errorf("%s: %+v, %v", key, info, err)
				}
			}
			_, load := s.Load(ctx, "a/x")
			_, stat := s.Stat(ctx, "a/x")
			_, list := s.List(ctx, "a/x", true)
			for _, err := range []error{load, stat, list} {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("missing: %v", err)
				}
			}
			if err := errors.Join(s.Delete(ctx, "a/b"), s.Delete(ctx, "a/b"), s.Delete(ctx, "nothing")); err != nil {
				t.Error(err)
			}
			if got, err := s.List(ctx, "", true); err != nil || !slices.Equal(got, []string{"a", "a/e", "ab"}) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestMagicLocks(t *testing.T) {
	store := openStore(t, storage.Memory())
	one, two := &magicStorage{store: store, root: "x"}, &magicStorage{store: store, root: "x"}
	if err := one.Lock(t.Context(), "name"); err != nil {
		t.Fatal(err)
	}
	if ok, err := two.TryLock(t.Context(), "name"); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := two.Lock(ctx, "name"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := one.Unlock(t.Context(), "name"); err != nil {
		t.Error(err)
	}
	if ok, err := two.TryLock(t.Context(), "name"); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if err := two.Unlock(t.Context(), "name"); err != nil {
		t.Error(err)
	}
	if err := two.Unlock(t.Context(), "name"); err == nil {
		t.Error("unlocked twice")
	}
}

// signer is an authority that signs whatever it is asked to, or fails.
type signer struct {
	key  string
	fail error
}

func (s *signer) IssuerKey() string { return s.key }

func (s *signer) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	key, err := generateKey(P256)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), DNSNames: csr.DNSNames}
	der, err := x509.CreateCertificate(rand.Reader, template, template, csr.PublicKey, key)
	return &certmagic.IssuedCertificate{Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, err
}

// fullDisk keeps nothing at keys that end so.
type fullDisk struct {
	storage.Backend
	suffix string
}

func (f *fullDisk) Put(ctx context.Context, key string, value []byte) error {
	if f.suffix != "" && strings.HasSuffix(key, f.suffix) && !strings.Contains(key, "-replaced") {
		return errors.New("the disk is full")
	}
	return f.Backend.Put(ctx, key, value)
}

// However a renewal ends, a certificate is there for the next process.
func TestRenewalKeepsCertificate(t *testing.T) {
	const name = "example.com"
	for what, c := range map[string]struct {
		suffix string
		fail   error
	}{
		"refused":        {fail: errors.New("no")},
		"no key":         {suffix: ".key"},
		"no certificate": {suffix: ".crt"},
		"no metadata":    {suffix: ".json"},
	} {
		t.Run(what, func(t *testing.T) {
			disk := &fullDisk{Backend: storage.Memory()}
			store := openStore(t, struct{ storage.Backend }{disk})
			m := newManager(t, Config{})
			kept := m.shelfTest(t, store)
			authority := &signer{key: kept.issuer.IssuerKey()}
			kept.config.Issuers = []certmagic.Issuer{authority}
			first, err := kept.obtain(t.Context(), name, new(request))
			if err != nil {
				t.Fatal(err)
			}
			authority.fail, disk.suffix = c.fail, c.suffix
			for range 2 {
				if k, err := kept.obtain(t.Context(), name, new(request)); err == nil {
					t.Fatalf("renewed: %v", k.leaf().Subject)
				}
				if k, err := kept.certificate(t.Context(), name); err != nil || k == nil || !k.leaf().Equal(first.leaf()) {
					t.Fatalf("%v, %v", k, err)
				}
			}
			authority.fail, disk.suffix = nil, ""
			second, err := kept.obtain(t.Context(), name, new(request))
			if err != nil || second.leaf().Equal(first.leaf()) {
				t.Fatal(err)
			}
			if k, err := kept.certificate(t.Context(), name); err != nil || !k.leaf().Equal(second.leaf()) {
				t.Error(err)
			}
			if ok := kept.config.Storage.Exists(t.Context(), kept.asideKey(name)); ok {
				t.Error("the old key is still there")
			}
		})
	}
}

// Damage to what goes with a certificate does not keep it from being renewed,
// and a process that was killed between two writes has left one that is good.
func TestRenewalOfDamaged(t *testing.T) {
	m := newManager(t, Config{})
	kept := m.shelfTest(t, openStore(t, storage.Memory()))
	kept.config.Issuers = []certmagic.Issuer{&signer{key: kept.issuer.IssuerKey()}}
	keys, issuer := certmagic.KeyBuilder{}, kept.issuer.IssuerKey()
	chain, key := testPair(t, time.Now(), time.Hour, "a.example.com").split()
	kept.put(t, "a.example.com", chain, key)
	if err := kept.config.Storage.Store(t.Context(), keys.SiteMeta(issuer, "a.example.com"), []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.obtain(t.Context(), "a.example.com", new(request)); err != nil {
		t.Error(err)
	}

	old := testPair(t, time.Now(), time.Hour, "b.example.com")
	chain, _ = old.split()
	kept.put(t, "b.example.com", chain, key)
	if err := kept.config.Storage.Store(t.Context(), kept.asideKey("b.example.com"), old.text); err != nil {
		t.Fatal(err)
	}
	if k, err := kept.certificate(t.Context(), "b.example.com"); err != nil || k == nil || !k.leaf().Equal(old.leaf()) {
		t.Errorf("%v, %v", k, err)
	}
}

// What certmagic says of its storage does not read what others write.
func TestStorageInLogs(t *testing.T) {
	var b strings.Builder
	kept := newManager(t, Config{}).shelfTest(t, openStore(t, storage.Memory()))
	zapLogger(slog.New(slog.NewTextHandler(&b, nil))).Error("x", zap.Any("storage", kept.config.Storage))
	if !strings.Contains(b.String(), "storage=certificates/acme/") {
		t.Error(b.String())
	}
}

// A host program may use certmagic for itself.
func TestHostsDefaults(t *testing.T) {
	before := certmagic.Default
	defer func() { certmagic.Default = before }()
	certmagic.Default.OnEvent = func(context.Context, string, map[string]any) error { return errors.New("no") }
	certmagic.Default.LocalCache = &magicStorage{}
	certmagic.Default.MustStaple = true
	certmagic.Default.OnDemand = new(certmagic.OnDemandConfig)
	kept := newManager(t, Config{}).shelfTest(t, openStore(t, storage.Memory()))
	if c := kept.config; c.OnEvent != nil || c.LocalCache != nil || c.MustStaple || c.OnDemand != nil {
		t.Errorf("%+v", c)
	}
}
