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
	log    *slog.Logger
}

// never is longer than anything lasts: certmagic's own maintenance has nothing to
// do, as this package renews certificates and staples their status.
const never = 100 * 365 * 24 * time.Hour

func newMagic(cfg *Config, s *shelf, a *authority, log *slog.Logger) *magic {
	m := &magic{issuer: &issuer{a}, shelf: s, log: log}
	logger := zapLogger(log)
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.config, nil },
		OCSPCheckInterval:  never,
		RenewCheckInterval: never,
		Logger:             logger,
	})
	m.config = certmagic.New(m.cache, certmagic.Config{
		Issuers:            []certmagic.Issuer{m.issuer},
		KeySource:          keySource(cfg.KeyType),
		Storage:            &magicStorage{store: s.store, root: s.root + "/certmagic"},
		OCSP:               certmagic.OCSPConfig{DisableStapling: true},
		RenewalWindowRatio: certmagic.DefaultRenewalWindowRatio,
		Logger:             logger,
	})
	// What New has taken from the host's certmagic.Default is not for us.
	m.config.OnDemand, m.config.MustStaple, m.config.LocalCache = nil, false, nil
	m.config.OnEvent, m.config.ShouldEmitFunc = nil, nil
	return m
}

func (m *magic) close() { m.cache.Stop() }

// keySource makes keys of a type.
type keySource string

func (k keySource) GenerateKey() (crypto.PrivateKey, error) { return generateKey(string(k)) }

// certificate returns what is kept of a name, or nil if there is nothing.
func (m *magic) certificate(ctx context.Context, name string) (*keyPair, error) {
	keys, key := certmagic.KeyBuilder{}, m.issuer.IssuerKey()
	k, err := m.read(ctx, name, keys.SiteCert(key, name), keys.SitePrivateKey(key, name))
	var unusable *errUnusable
	if k != nil || err != nil && !errors.As(err, &unusable) {
		return k, err
	}
	if old, oldErr := m.read(ctx, name, m.asideKey(name)); old != nil {
		return old, nil
	} else if oldErr != nil && !errors.As(oldErr, &unusable) {
		return nil, oldErr
	}
	return nil, err
}

// read puts the values at some keys together, which should be a certificate of
// a name and its key. It returns nil if one is missing.
func (m *magic) read(ctx context.Context, name string, keys ...string) (*keyPair, error) {
	var text []byte
	for _, key := range keys {
		value, err := m.config.Storage.Load(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		text = append(append(text, value...), '\n')
	}
	k, err := parseKeyPair(text)
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
//
// certmagic writes a certificate and its key one after the other, and takes both
// away if that fails. So the one that is to be replaced is set aside whole, for
// the time that it takes: it may be good for another month.
func (m *magic) obtain(ctx context.Context, name string, r *request) (*keyPair, error) {
	ctx = context.WithValue(ctx, requestKey{}, r)
	old, err := m.certificate(ctx, name)
	var unusable *errUnusable
	if err != nil && !errors.As(err, &unusable) {
		return nil, err
	}
	if old != nil {
		if err := m.config.Storage.Store(ctx, m.asideKey(name), old.text); err != nil {
			return nil, fmt.Errorf("setting the old certificate aside: %w", err)
		}
	}
	if err := m.config.Storage.Delete(ctx, certmagic.KeyBuilder{}.CertsSitePrefix(m.issuer.IssuerKey(), name)); err != nil {
		return nil, err
	}
	if err := m.config.ObtainCertSync(ctx, name); err != nil {
		if r.err != nil {
			return nil, r.err // without what certmagic puts around it
		}
		return nil, err
	}
	made, err := m.certificate(ctx, name)
	if err != nil {
		return nil, err
	}
	if made == nil {
		return nil, errors.New("the certificate has vanished from the storage")
	}
	if err := m.config.Storage.Delete(ctx, m.asideKey(name)); err != nil {
		m.log.Warn("cannot remove the old certificate", "name", name, "err", errorText(err))
	}
	return made, nil
}

// asideKey is where a certificate is, followed by its key, while it is being
// replaced. certmagic's CleanStorage looks there as well.
func (m *magic) asideKey(name string) string {
	return certmagic.KeyBuilder{}.SiteCert(m.issuer.IssuerKey()+"-replaced", name)
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
		r.err = err
		return nil, err
	}
	r.challenge, r.renewal = got.challenge, got.renewal
	return &certmagic.IssuedCertificate{Certificate: got.chain, Metadata: got.metadata}, nil
}
