package certs

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/caddyserver/certmagic"
)

// magic is certmagic at work: it makes keys and requests, keeps certificates,
// and sees to it that of several Routers on one storage only one at a time
// obtains a certificate. It is told when; it decides nothing by itself.
type magic struct {
	config *certmagic.Config
	cache  *certmagic.Cache
	issuer *issuer
	shelf  *shelf
}

// never is longer than anything lasts: certmagic's own maintenance has nothing to
// do, as this package renews certificates and staples their status.
const never = 100 * 365 * 24 * time.Hour

func newMagic(cfg *Config, s *shelf, a *authority, log *slog.Logger) *magic {
	m := &magic{issuer: &issuer{a}, shelf: s}
	zap := zapLogger(log)
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.config, nil },
		OCSPCheckInterval:  never,
		RenewCheckInterval: never,
		Logger:             zap,
	})
	m.config = certmagic.New(m.cache, certmagic.Config{
		Issuers:            []certmagic.Issuer{m.issuer},
		KeySource:          keySource(cfg.KeyType),
		Storage:            &magicStorage{store: s.store, root: s.root + "/certmagic"},
		OCSP:               certmagic.OCSPConfig{DisableStapling: true},
		RenewalWindowRatio: certmagic.DefaultRenewalWindowRatio,
		Logger:             zap,
	})
	return m
}

func (m *magic) close() { m.cache.Stop() }

// keySource makes keys of a type.
type keySource string

func (k keySource) GenerateKey() (crypto.PrivateKey, error) { return generateKey(string(k)) }

// certificate returns what is kept of a name, or nil if there is nothing.
func (m *magic) certificate(ctx context.Context, name string) (*keyPair, error) {
	keys := certmagic.KeyBuilder{}
	chain, err := m.config.Storage.Load(ctx, keys.SiteCert(m.issuer.IssuerKey(), name))
	var key []byte
	if err == nil {
		key, err = m.config.Storage.Load(ctx, keys.SitePrivateKey(m.issuer.IssuerKey(), name))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k, err := joinKeyPair(chain, key)
	if err != nil {
		return nil, &errUnusable{err}
	}
	if !k.covers(name) {
		return nil, &errUnusable{errors.New("it is for other names")}
	}
	return k, nil
}

// errUnusable is why a certificate in the storage is as good as none.
type errUnusable struct{ err error }

func (e *errUnusable) Error() string {
	return "a certificate in the storage cannot be used: " + e.err.Error()
}

// obtain gets a certificate by one order and keeps it.
func (m *magic) obtain(ctx context.Context, name string, r *request) (*keyPair, error) {
	ctx = context.WithValue(ctx, requestKey{}, r)
	kept, err := m.certificate(ctx, name)
	var unusable *errUnusable
	if errors.As(err, &unusable) {
		// A crash between two writes, perhaps: the certificate of one and the key
		// of another. certmagic would not look closely.
		err = m.forget(ctx, name)
	}
	switch {
	case err != nil:
	case kept != nil:
		err = m.config.RenewCertSync(ctx, name, true)
	default:
		err = m.config.ObtainCertSync(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	kept, err = m.certificate(ctx, name)
	if err == nil && kept == nil {
		err = errors.New("the certificate has vanished from the storage")
	}
	return kept, err
}

// forget removes what is kept of a name.
func (m *magic) forget(ctx context.Context, name string) error {
	return m.config.Storage.Delete(ctx, certmagic.KeyBuilder{}.CertsSitePrefix(m.issuer.IssuerKey(), name))
}

// issuer is the authority as certmagic sees it.
//
// certmagic has an issuer of its own for ACME. It shares challenges, rate limits
// and jobs by name among all of a process, so that two Routers would get in each
// other's way, and does not tell how long an authority wants to be left in peace.
// This one speaks the same protocol through the same library, acmez.
type issuer struct{ authority *authority }

// requestKey is where the context of [magic.obtain] has its request.
type requestKey struct{}

// IssuerKey names the authority in the storage.
func (i *issuer) IssuerKey() string { return plain(i.authority.cfg.Directory) }

// Issue has the authority sign a request.
func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	r, ok := ctx.Value(requestKey{}).(*request)
	if !ok || len(csr.DNSNames) != 1 {
		return nil, fmt.Errorf("certs: a request for %q that nobody has made", csr.DNSNames) // unreachable
	}
	got, err := i.authority.issue(ctx, r, csr)
	if err != nil {
		return nil, err
	}
	r.challenge, r.renewal = got.challenge, got.renewal
	return &certmagic.IssuedCertificate{Certificate: got.chain, Metadata: got.metadata}, nil
}
