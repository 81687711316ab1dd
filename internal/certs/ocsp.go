package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// staple is a response that says that a certificate is good.
type staple struct {
	raw   []byte
	until time.Time
}

// maxOCSP bounds a response, in bytes.
const maxOCSP = 64 << 10

// refreshStaple asks the responder of a certificate (RFC 6960), if it has one
// and it is time to. A certificate that is revoked is replaced.
func (m *Manager) refreshStaple(ctx context.Context, c *managed) {
	c.mu.Lock()
	pair, due := c.pair, !time.Now().Before(c.stapleAt)
	c.mu.Unlock()
	if !due {
		return
	}
	if len(pair.leaf().OCSPServer) == 0 || len(pair.tls.Certificate) < 2 {
		c.mu.Lock()
		c.stapleAt = time.Now().AddDate(1, 0, 0) // as good as never
		c.mu.Unlock()
		return
	}
	raw, resp, err := m.askResponder(ctx, pair)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != pair || ctx.Err() != nil {
		return
	}
	now := time.Now()
	switch {
	case err != nil:
		m.log.Warn("no OCSP response", "name", c.name, "err", errorText(err))
		c.stapleAt = now.Add(time.Hour)
	case resp.Status == ocsp.Revoked:
		m.log.Error("the certificate is revoked", "name", c.name, "serial", pair.leaf().SerialNumber.String())
		c.revoked, c.staple, c.stapleAt = true, staple{}, now.Add(time.Hour)
	case resp.Status == ocsp.Good && now.Before(resp.NextUpdate):
		c.staple = staple{raw, resp.NextUpdate}
		c.stapleAt = now.Add(max(resp.NextUpdate.Sub(now)/2, time.Minute))
	default: // it does not know it yet, or its clock is wrong
		c.stapleAt = now.Add(time.Hour)
	}
	if !now.Before(c.staple.until) {
		c.staple = staple{}
	} else if c.staple.until.Before(c.stapleAt) {
		c.stapleAt = c.staple.until // not shown any longer
	}
	cert := pair.tls
	cert.OCSPStaple = c.staple.raw
	c.shown.Store(&cert)
}

func (m *Manager) askResponder(ctx context.Context, pair *keyPair) ([]byte, *ocsp.Response, error) {
	issuer, err := x509.ParseCertificate(pair.tls.Certificate[1])
	if err != nil {
		return nil, nil, err
	}
	question, err := ocsp.CreateRequest(pair.leaf(), issuer, nil)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, pair.leaf().OCSPServer[0], bytes.NewReader(question))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := m.plainClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("the responder answers with status %d", resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxOCSP+1))
	if err != nil {
		return nil, nil, err
	}
	if len(raw) > maxOCSP {
		return nil, nil, errors.New("the response is too long")
	}
	parsed, err := parseResponse(raw, pair.leaf(), issuer)
	return raw, parsed, err
}

// parseResponse reads a response that the issuer of a certificate has signed, or
// somebody whom it lets sign responses (RFC 6960 section 4.2.2.2): its other
// customers have certificates, too.
func parseResponse(raw []byte, cert, issuer *x509.Certificate) (*ocsp.Response, error) {
	resp, err := ocsp.ParseResponseForCert(raw, cert, issuer)
	if err != nil {
		// The issuer may have signed it itself and put its own certificate with
		// it, which it has not signed.
		if own, ownErr := ocsp.ParseResponseForCert(raw, cert, nil); ownErr == nil && own.CheckSignatureFrom(issuer) == nil {
			return own, nil
		}
		return nil, err
	}
	if c, now := resp.Certificate, time.Now(); c != nil && !c.Equal(issuer) {
		if !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
			return nil, errors.New("the certificate that signed the response is not for that")
		}
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return nil, errors.New("the certificate that signed the response has expired, or is not valid yet")
		}
	}
	return resp, nil
}
