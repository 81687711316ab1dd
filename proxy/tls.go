package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/certfile"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// tlsPolicy is one way to terminate TLS: a certificate and what is asked of
// clients. Routes with equal settings share a policy, and it survives updates,
// because its session ticket keys do: new ones would make every client do a
// full handshake, and sharing keys between policies would let a session of one
// be resumed under another.
type tlsPolicy struct {
	key tlsPolicyKey
	// files are read anew by each update. Nil for "auto".
	files atomic.Pointer[certfile.Pair]
	// http offers HTTP in ALPN, stream offers nothing, http3 is for QUIC.
	http, stream, http3 *tls.Config
	tickets             ticketRing
}

func (p *tlsPolicy) configs() []*tls.Config { return []*tls.Config{p.http, p.stream, p.http3} }

type tlsPolicyKey struct {
	certPath, keyPath string // "" for "auto"
	clientCA          string // the PEM text itself: other authorities, other policy
}

// loadPolicy returns the policy for t, the one in known where there is one,
// and the files to put into it once the update that asks for it is
// certain to take place.
func (p *Proxy) loadPolicy(t *TLS, known map[tlsPolicyKey]*tlsPolicy) (*tlsPolicy, *certfile.Pair, error) {
	key := tlsPolicyKey{certPath: t.Certificate.CertPath, keyPath: t.Certificate.KeyPath}
	var clientCAs *x509.CertPool
	if t.ClientAuth != nil {
		pem, pool, err := loadCAs(t.ClientAuth.CAPath)
		if err != nil {
			return nil, nil, &FieldError{Path: "clientAuth.caPath", Msg: err.Error(), Err: err}
		}
		key.clientCA, clientCAs = pem, pool
	}

	var files *certfile.Pair
	if !t.Certificate.Auto {
		var err error
		if files, err = certfile.Open(key.certPath, key.keyPath, p.log); err != nil {
			return nil, nil, conf.Prefix("certificate", err)
		}
	}
	if policy := known[key]; policy != nil {
		return policy, files, nil
	}

	policy := &tlsPolicy{key: key}
	getCertificate := p.opts.getCertificate
	if files != nil {
		policy.files.Store(files)
		getCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return policy.files.Load().GetCertificate(hello)
		}
	}
	config := func(protocols ...string) *tls.Config {
		c := &tls.Config{
			MinVersion:             tls.VersionTLS12,
			CipherSuites:           cipherSuites(),
			GetCertificate:         getCertificate,
			NextProtos:             protocols,
			SessionTicketsDisabled: p.cfg.AllowSessionTicket != nil && !*p.cfg.AllowSessionTicket,
		}
		if p.opts.echKeys != nil {
			c.GetEncryptedClientHelloKeys = p.echKeys // for the client to try again with
		}
		if clientCAs != nil {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, clientCAs
		}
		return c
	}
	policy.http, policy.stream, policy.http3 = config(p.cfg.HTTP2.alpn()...), config(), config("h3")
	policy.http3.GetCertificate = p.recovered(getCertificate)
	policy.rotateTickets(time.Now())
	known[key] = policy
	return policy, files, nil
}

// recovered calls code of the host where nobody else would recover from its
// panics.
func (p *Proxy) recovered(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (cert *tls.Certificate, err error) {
		defer func() {
			if v := recover(); v != nil {
				p.log.Error("panic while choosing a certificate", "server_name", hello.ServerName, "panic", v, "stack", string(debug.Stack()))
				err = errors.New("no certificate")
			}
		}()
		return get(hello)
	}
}

// cipherSuites is what TLS 1.2 may use, in TLS 1.3 there is no choice: forward
// secrecy and authenticated encryption, and no CBC, which was broken too often.
// All clients of the last ten years have one of these. The key exchanges are
// crypto/tls's, X25519MLKEM768 first.
func cipherSuites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// termination is how TLS for a name is terminated. The route says by which
// policy; what comes out may belong to another route with the same name.
type termination struct {
	route         *route
	http, streams bool // what may come out
}

// termination reports false if no route terminates TLS for the name.
func (p *portRoutes) termination(q *query) (termination, bool) {
	rt := p.hello.find(q, anyTraffic)
	if rt == nil || !rt.terminatesTLS() {
		return termination{}, false
	}
	return termination{rt, p.terminated.find(q, httpTraffic) != nil, p.terminated.find(q, streamTraffic) != nil}, true
}

// config returns the configuration for a client that offers some protocols.
func (t termination) config(protocols []string) *tls.Config {
	offersHTTP := slices.Contains(protocols, "h2") || slices.Contains(protocols, "http/1.1")
	if t.http && (offersHTTP || !t.streams) {
		return t.route.policy.http
	}
	return t.route.policy.stream
}

// loadCAs reads a PEM file of certification authorities.
func loadCAs(path string) (string, *x509.CertPool, error) {
	pem, err := readFile(path)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read the authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return "", nil, fmt.Errorf("%s has no certificate in PEM form", path)
	}
	return string(pem), pool, nil
}

// maxPEM is more than the authorities of any system take.
const maxPEM = 4 << 20

// readFile reads a file of certificates or a key. A pipe or device that
// somebody named by mistake must not hold an update up.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	case info.Size() > maxPEM:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxPEM)
	}
	return io.ReadAll(io.LimitReader(f, maxPEM))
}

// upstreamTLS makes the client side for targets of TerminateAndReencrypt.
// It returns the text of CAPath as well, because a target that is checked
// against other authorities is another target.
func (u UpstreamTLS) config() (c *tls.Config, caPEM string, err error) {
	c = &tls.Config{
		ServerName:         u.ServerName,
		InsecureSkipVerify: u.InsecureSkipVerify,
		ClientSessionCache: tls.NewLRUClientSessionCache(32),
	}
	if u.CAPath != "" {
		if caPEM, c.RootCAs, err = loadCAs(u.CAPath); err != nil {
			return nil, "", &FieldError{Path: "upstream.caPath", Msg: err.Error(), Err: err}
		}
	}
	return c, caPEM, nil
}

// unrecognizedName is the fatal alert for a server name that no route has
// (RFC 6066 section 3), in a record that any version understands.
func unrecognizedName() []byte { return []byte{21, 3, 1, 0, 2, 2, alertUnrecognizedName} }

const alertUnrecognizedName = 112

var errUnknownName = errors.New("no route has this server name")
