package dcrouter

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/dcrouter/dcrouter/internal/certs"
	"github.com/dcrouter/dcrouter/internal/certs/selfsigned"
	"github.com/dcrouter/dcrouter/storage"
)

// mailCertificate is what mail encrypts with so long as it has no certificate
// that others trust. Most servers that send to us do not look at it, and mail that
// they would send in the clear otherwise is hidden at least from those who only
// listen.
type mailCertificate struct {
	pair atomic.Pointer[selfsigned.Certificate] // nil before Start
}

// useBetter says what to do about a self-signed certificate.
const useBetter = "set emailConfig.tls or smartProxyConfig.acme"

func (m *mailCertificate) open(ctx context.Context, store *storage.Store, hostname string, log *slog.Logger) error {
	name := certs.CanonicalName(hostname)
	log = log.With("component", "email")
	pair, err := selfsigned.Open(ctx, store, name, log)
	if err != nil {
		return err
	}
	m.pair.Store(pair)
	log.Warn("there is no certificate for mail: a self-signed one is used, which users' programs do not trust; "+useBetter, "hostname", name)
	return nil
}

func (m *mailCertificate) getCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair := m.pair.Load()
	if pair == nil {
		return nil, errors.New("no certificate before Start")
	}
	return pair.GetCertificate(hello)
}
