package smtpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ErrHandshake says that a TLS handshake failed; the cause comes along with it.
// Opportunistic TLS gets over that by doing without.
var ErrHandshake = errors.New("the TLS handshake failed")

// ErrNoStartTLS says that the server does not offer STARTTLS, which the
// configuration insists on.
var ErrNoStartTLS = errors.New("the server does not offer STARTTLS")

// vetoError is the host's own check of a connection saying no. Opportunistic TLS
// does not get over that.
type vetoError struct{ err error }

func (e *vetoError) Error() string { return "the connection's TLS was turned down: " + e.err.Error() }
func (e *vetoError) Unwrap() error { return e.err }

var errNoCertificate = errors.New("the server has no certificate")

// TLSState describes the TLS of a connection.
type TLSState struct {
	// Version and CipherSuite are as [tls.VersionName] and
	// [tls.CipherSuiteName] give them.
	Version, CipherSuite string
	// ServerName is what the certificate was compared to.
	ServerName string
	// Verified says that the certificate is valid for ServerName.
	Verified bool
	// VerifyError is why not.
	VerifyError error
	// Approved says that the VerifyConnection of [Config.TLSConfig] was asked and
	// had nothing against it, as is so of a certificate that DANE vouches for.
	Approved bool
}

// authentic says whether it is known who the server is.
func (s *TLSState) authentic() bool { return s != nil && (s.Verified || s.Approved) }

// startTLS does STARTTLS (RFC 3207), if it is offered.
func (c *Conn) startTLS(ctx context.Context) error {
	if _, ok := c.Extension("STARTTLS"); !ok {
		if c.cfg.TLS == StartTLS {
			return c.lose(temporary(PhaseTLS, ErrNoStartTLS))
		}
		return nil
	}
	reply, err := c.command(ctx, PhaseTLS, c.cfg.Timeouts.Command, "STARTTLS")
	if err != nil {
		return err
	}
	if reply.Code != 220 {
		if c.cfg.TLS == StartTLS || c.lost {
			return c.lose(&Error{Phase: PhaseTLS, Status: Temporary, Reply: reply})
		}
		return nil
	}
	// What comes before the handshake may be from somebody in between, and
	// would be taken for the server's word after it.
	if c.r.Buffered() > 0 {
		return c.lose(temporary(PhaseTLS, errors.New("there is plaintext after the reply to STARTTLS")))
	}
	if err := c.handshake(ctx, PhaseTLS); err != nil {
		return err
	}
	return c.hello(ctx) // RFC 3207 section 4.2: what was said before counts no more
}

func (c *Conn) handshake(ctx context.Context, phase Phase) error {
	state := &TLSState{ServerName: c.cfg.ServerName}
	conn := tls.Client(c.raw, c.tlsConfig(state))
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeouts.TLS)
	defer cancel()
	c.setDeadline(ctx, c.cfg.Timeouts.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		if veto := (*vetoError)(nil); errors.As(err, &veto) {
			return c.lose(temporary(phase, veto))
		}
		return c.lose(temporary(phase, fmt.Errorf("%w: %w", ErrHandshake, err)))
	}
	negotiated := conn.ConnectionState()
	state.Version = tls.VersionName(negotiated.Version)
	state.CipherSuite = tls.CipherSuiteName(negotiated.CipherSuite)
	c.tls = state
	c.use(conn)
	return nil
}

// tlsConfig makes a configuration that verifies the certificate into state in
// every mode, and insists on it where the mode does.
func (c *Conn) tlsConfig(state *TLSState) *tls.Config {
	cfg := &tls.Config{}
	if c.cfg.TLSConfig != nil {
		cfg = c.cfg.TLSConfig.Clone()
	}
	insist := !cfg.InsecureSkipVerify && c.cfg.TLS != Opportunistic
	also, now := cfg.VerifyConnection, cfg.Time
	cfg.ServerName = state.ServerName
	cfg.InsecureSkipVerify = true // VerifyConnection does it
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		state.VerifyError = verify(cs, state.ServerName, cfg.RootCAs, now)
		state.Verified = state.VerifyError == nil
		if insist && !state.Verified {
			return state.VerifyError
		}
		if also != nil {
			if err := also(cs); err != nil {
				return &vetoError{err}
			}
			state.Approved = true
		}
		return nil
	}
	return cfg
}

func verify(cs tls.ConnectionState, name string, roots *x509.CertPool, now func() time.Time) error {
	if len(cs.PeerCertificates) == 0 {
		return errNoCertificate
	}
	if name == "" {
		return errors.New("no server name is known to verify the certificate for")
	}
	opts := x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: x509.NewCertPool()}
	if now != nil {
		opts.CurrentTime = now()
	}
	for _, cert := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := cs.PeerCertificates[0].Verify(opts)
	return err
}
