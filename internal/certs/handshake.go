package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/idna"
)

// GetCertificate returns the certificate for a handshake, as
// [tls.Config.GetCertificate]. A client that names no server gets that of the
// first name that has one. Where there is none yet it is a self-signed one, or an
// error if the configuration says so. On demand it waits for one to be
// obtained.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return m.get(hello, m.demand)
}

// GetManaged is GetCertificate for servers at which nobody can demand one: it
// neither has a certificate obtained nor waits for one.
func (m *Manager) GetManaged(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return m.get(hello, func(_ context.Context, name string) (*tls.Certificate, error) {
		return nil, errNotFor(name)
	})
}

func errNotFor(name string) error { return fmt.Errorf("no certificate is for %q", name) }

func (m *Manager) get(hello *tls.ClientHelloInfo, demand func(context.Context, string) (*tls.Certificate, error)) (*tls.Certificate, error) {
	name := serverName(hello.ServerName)
	names := *m.names.Load()
	exact, wildcard := names[name], names[wildcardOf(name)]
	var expired *tls.Certificate
	for _, c := range []*managed{exact, wildcard} {
		if c == nil {
			continue
		}
		cert := c.shown.Load()
		if cert == nil {
			continue
		}
		now := time.Now()
		c.used.Store(now.Unix())
		if now.Before(cert.Leaf.NotAfter) {
			return cert, nil
		}
		if expired == nil {
			expired = cert
		}
	}
	if expired != nil {
		return expired, nil
	}
	if name == "" {
		if cert := m.first(); cert != nil {
			return cert, nil
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("no certificate: the client names no server")
		}
	} else if exact == nil && wildcard == nil || exact != nil && exact.isOnDemand() {
		return demand(contextOf(hello), name)
	}
	if m.cfg.CloseWithout {
		return nil, fmt.Errorf("no certificate for %q yet", name)
	}
	return m.standIn.get()
}

// first returns the certificate of the first of the names that has one.
func (m *Manager) first() *tls.Certificate {
	m.mu.Lock()
	order := m.order
	m.mu.Unlock()
	names := *m.names.Load()
	for _, name := range order {
		if c := names[name]; c != nil {
			if cert := c.shown.Load(); cert != nil {
				return cert
			}
		}
	}
	return nil
}

// contextOf is the context of a handshake, which those lack that were put
// together by somebody else than crypto/tls.
func contextOf(hello *tls.ClientHelloInfo) context.Context {
	if ctx := hello.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

// serverName is how a name that came with a connection is looked up.
func serverName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

// CanonicalName returns a name of the configuration, which may be an
// internationalised one, as it comes with connections and is in certificates: in
// lower case and ASCII (RFC 5891), without a dot behind it.
func CanonicalName(s string) string {
	name, wildcard := strings.CutPrefix(serverName(s), "*.")
	if ascii, err := idna.Lookup.ToASCII(name); err == nil {
		name = ascii
	}
	if wildcard {
		return "*." + name
	}
	return name
}

// hostOnly is serverName for a Host field.
func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return serverName(host)
	}
	return serverName(hostport)
}

// isDomain reports whether an authority may know a name: letters, digits and
// hyphens, and "*." in front or not.
func isDomain(name string) bool {
	name = strings.TrimPrefix(name, "*.")
	if len(name) > 253 || net.ParseIP(name) != nil {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }) {
			return false
		}
	}
	return true
}

// standIn is the certificate of those that have none: self-signed and for no
// name, so that nobody takes it for more.
type standIn struct {
	once sync.Once
	cert *tls.Certificate
	err  error
}

func (s *standIn) get() (*tls.Certificate, error) {
	s.once.Do(func() { s.cert, s.err = selfSigned() })
	return s.cert, s.err
}

func selfSigned() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "no certificate yet"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
