package tlspolicy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
)

const (
	// fetchTime bounds the fetch of a policy (RFC 8461 section 3.3).
	fetchTime = time.Minute
	// maxPolicy bounds its size, as the same section suggests.
	maxPolicy = 64 << 10
)

// Dialer opens connections; [net.Dialer] is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// stsFailure is why there is no policy although the domain has a record, or may
// have one.
type stsFailure struct {
	kind tlsrpt.Failure // "" if it is not the domain's fault
	err  error
}

func (f *stsFailure) Error() string { return f.err.Error() }
func (f *stsFailure) Unwrap() error { return f.err }

// newFetcher makes the client that policies are fetched with: without redirects,
// proxies, cookies, or connections that stay.
func newFetcher(roots *x509.CertPool, dialer Dialer, now func() time.Time) *http.Client {
	if dialer == nil {
		dialer = &net.Dialer{Timeout: fetchTime / 2}
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Time: now},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch fetches the policy of a domain. The error is an *stsFailure.
func fetch(ctx context.Context, client *http.Client, domain string) (*stsPolicy, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	failed := func(kind tlsrpt.Failure, err error) (*stsPolicy, error) { return nil, &stsFailure{kind, err} }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mta-sts."+domain+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return failed(tlsrpt.STSPolicyFetchError, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			return failed(tlsrpt.STSWebPKIInvalid, err)
		}
		return failed(tlsrpt.STSPolicyFetchError, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return failed(tlsrpt.STSPolicyFetchError, fmt.Errorf("the policy host answers with status %d", resp.StatusCode))
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return failed(tlsrpt.STSPolicyFetchError, fmt.Errorf("the policy is of type %.50q, not text/plain", resp.Header.Get("Content-Type")))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPolicy+1))
	if err != nil {
		return failed(tlsrpt.STSPolicyFetchError, err)
	}
	if len(body) > maxPolicy {
		return failed(tlsrpt.STSPolicyInvalid, fmt.Errorf("the policy has more than %d bytes", maxPolicy))
	}
	policy, err := parseSTS(string(body))
	if err != nil {
		return failed(tlsrpt.STSPolicyInvalid, err)
	}
	return policy, nil
}
