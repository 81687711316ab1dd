package certs

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// answers are what to say to an authority that comes for HTTP-01 or TLS-ALPN-01.
// They are in the storage as well, because the authority may come to another
// Router than the one that has ordered. Nothing of them is secret.
type answers struct {
	mu    sync.Mutex
	mine  map[string]acme.Challenge
	shelf *shelf // nil before Load
}

// answerTTL is longer than an attempt may take.
const answerTTL = time.Hour

func (a *answers) put(ctx context.Context, id string, c acme.Challenge) error {
	a.mu.Lock()
	if a.mine == nil {
		a.mine = make(map[string]acme.Challenge)
	}
	a.mine[id] = c
	shelf := a.shelf
	a.mu.Unlock()
	return shelf.save(ctx, shelf.answerKey(id), c, answerTTL)
}

func (a *answers) remove(ctx context.Context, id string) error {
	a.mu.Lock()
	delete(a.mine, id)
	shelf := a.shelf
	a.mu.Unlock()
	return shelf.store.Delete(ctx, shelf.answerKey(id))
}

func (a *answers) find(ctx context.Context, id string) (acme.Challenge, bool) {
	a.mu.Lock()
	c, ok := a.mine[id]
	shelf := a.shelf
	a.mu.Unlock()
	if ok || shelf == nil {
		return c, ok
	}
	found, err := shelf.load(ctx, shelf.answerKey(id), &c)
	return c, found && err == nil
}

// httpSolver answers HTTP-01.
type httpSolver struct{ answers *answers }

func (*httpSolver) kind() string { return HTTP01 }

func (s *httpSolver) present(ctx context.Context, c acme.Challenge) error {
	return s.answers.put(ctx, "http-"+c.Token, c)
}

func (s *httpSolver) cleanUp(ctx context.Context, c acme.Challenge) error {
	return s.answers.remove(ctx, "http-"+c.Token)
}

// alpnSolver answers TLS-ALPN-01.
type alpnSolver struct{ answers *answers }

func (*alpnSolver) kind() string { return TLSALPN01 }

func alpnID(name string) string { return "alpn-" + strings.ToLower(name) }

func (s *alpnSolver) present(ctx context.Context, c acme.Challenge) error {
	return s.answers.put(ctx, alpnID(c.Identifier.Value), c)
}

func (s *alpnSolver) cleanUp(ctx context.Context, c acme.Challenge) error {
	return s.answers.remove(ctx, alpnID(c.Identifier.Value))
}

const challengePath = "/.well-known/acme-challenge/"

// HTTPChallenge answers requests for the proofs of HTTP-01 (RFC 8555 section
// 8.3), whoever asks, also for names that only another Router knows yet. It
// reports whether it has: what is not ours is not touched.
func (m *Manager) HTTPChallenge(w http.ResponseWriter, r *http.Request) bool {
	token, ok := strings.CutPrefix(r.URL.Path, challengePath)
	if !ok || !isToken(token) || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	ctx, cancel := context.WithTimeout(r.Context(), lookupTimeout)
	defer cancel()
	c, ok := m.answers.find(ctx, "http-"+token)
	if !ok || !strings.EqualFold(c.Identifier.Value, hostOnly(r.Host)) {
		return false
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, c.KeyAuthorization)
	return true
}

// lookupTimeout is how long a stranger may have the storage asked.
const lookupTimeout = 5 * time.Second

// isToken reports whether a text has the form of a token (RFC 8555 section
// 8.1): base64url of at least 128 bits.
func isToken(s string) bool {
	if len(s) < 22 || len(s) > 128 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// TLSALPNChallenge returns the certificate that proves a name by TLS-ALPN-01
// (RFC 8737 section 3). Without error and certificate the handshake is none of
// an authority that we wait for.
func (m *Manager) TLSALPNChallenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(hello.SupportedProtos) != 1 || !slices.Contains(hello.SupportedProtos, acmez.ACMETLS1Protocol) {
		return nil, nil
	}
	name := serverName(hello.ServerName)
	if !isDomain(name) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(contextOf(hello), lookupTimeout)
	defer cancel()
	c, ok := m.answers.find(ctx, alpnID(name))
	if !ok {
		return nil, nil
	}
	return acmez.TLSALPN01ChallengeCert(c)
}
