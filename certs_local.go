package dcrouter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/dcrouter/dcrouter/internal/certs/localca"
	"github.com/dcrouter/dcrouter/storage"
)

// localCertificates come from an authority of our own, for development.
type localCertificates struct {
	ca    atomic.Pointer[localca.CA]          // nil before Start
	get   atomic.Pointer[getCertificateFunc]  // of ca
	names atomic.Pointer[map[string]struct{}] // with certificates; "*" for any
}

type getCertificateFunc func(*tls.ClientHelloInfo) (*tls.Certificate, error)

func (l *localCertificates) open(ctx context.Context, store *storage.Store, log *slog.Logger) error {
	ca, err := localca.Open(ctx, store, log)
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	get := getCertificateFunc(ca.GetCertificate(l.allows))
	l.ca.Store(ca)
	l.get.Store(&get)
	log.Info("certificates are made here, for development", "component", "certificates", "root_sha256", fmt.Sprintf("%x", ca.Fingerprint()))
	return nil
}

func (l *localCertificates) setNames(list []string) {
	names := make(map[string]struct{}, len(list))
	for _, name := range list {
		if !isCertificateName(name) {
			name = "*"
		}
		names[name] = struct{}{}
	}
	l.names.Store(&names)
}

// allows reports whether a name is a configured one. Addresses are those at
// which clients have come in.
func (l *localCertificates) allows(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	names := *l.names.Load()
	_, above, _ := strings.Cut(name, ".")
	for _, candidate := range []string{name, "*." + above, "*"} {
		if _, ok := names[candidate]; ok {
			return true
		}
	}
	return false
}

// certificates are those that there are for the configured names, and those that
// clients have come for under a pattern. There are none before Start.
func (l *localCertificates) certificates() (map[string]*x509.Certificate, error) {
	ca := l.ca.Load()
	if ca == nil {
		return nil, nil
	}
	leaves := ca.Issued()
	for name := range *l.names.Load() {
		if name == "*" || leaves[name] != nil {
			continue
		}
		cert, err := ca.Certificate(name)
		if err != nil {
			return nil, err
		}
		leaves[name] = cert.Leaf
	}
	return leaves, nil
}

func (l *localCertificates) getCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	get := l.get.Load()
	if get == nil {
		return nil, errors.New("no certificate before Start")
	}
	return (*get)(hello)
}

// LocalCARoot returns the root, in PEM form, of the authority that makes
// certificates where the configuration asks for a local one (localCa), for
// clients to trust. It is nil otherwise and before Start.
func (r *Router) LocalCARoot() []byte {
	if r.local == nil || r.local.ca.Load() == nil {
		return nil
	}
	return r.local.ca.Load().RootPEM()
}
