package tlspolicy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/dnsc"
)

// The numbers of RFC 6698 section 7 that mail knows (RFC 7672 section 3.1).
const (
	usageTA = 2 // DANE-TA: the certificate of an authority in the chain
	usageEE = 3 // DANE-EE: the server's own certificate

	selectorCert = 0
	selectorSPKI = 1

	matchingFull   = 0
	matchingSHA256 = 1
	matchingSHA512 = 2
)

// DNS tells what was validated; [dnsc.Resolver] does.
type DNS interface {
	Addrs(ctx context.Context, host string) (dnsc.Answer[netip.Addr], error)
	CNAME(ctx context.Context, name string) (dnsc.Answer[string], error)
	TLSA(ctx context.Context, name string) (dnsc.Answer[dnsc.TLSA], error)
}

// tlsaSet are the records that hold for a host, and the name that they are at.
type tlsaSet struct {
	base    string
	records []dnsc.TLSA
}

// lookupTLSA looks up the TLSA records of a host of a domain whose MX records are
// secure. Without records, or where they are not secure, the set is empty. An
// error is a failure that must not be taken for that (RFC 7672 section 2.1).
func lookupTLSA(ctx context.Context, dns DNS, host string) (tlsaSet, error) {
	bases, err := baseDomains(ctx, dns, host)
	if err != nil {
		return tlsaSet{}, err
	}
	for _, base := range bases {
		a, err := dns.TLSA(ctx, "_25._tcp."+base)
		switch {
		case err != nil && !lookup.NotFound(err):
			return tlsaSet{base: base}, err
		case err == nil && a.Secure:
			return tlsaSet{base, a.Records}, nil
		}
	}
	return tlsaSet{}, nil
}

// baseDomains are the names at which TLSA records may be: the host's after all
// aliases, if all of them are secure, then its own (RFC 7672 section 2.2.2).
// Where addresses are not secure, TLSA records are not even asked for: servers of
// unsigned zones may well not answer (section 2.2).
func baseDomains(ctx context.Context, dns DNS, host string) ([]string, error) {
	addrs, err := dns.Addrs(ctx, host)
	switch {
	case err != nil && !lookup.NotFound(err):
		return nil, err
	case addrs.Secure:
		return slices.Compact([]string{addrs.Name, host}), nil
	case addrs.Name == host:
		return nil, nil
	}
	alias, err := dns.CNAME(ctx, host)
	switch {
	case err != nil && !lookup.NotFound(err):
		return nil, err
	case err == nil && alias.Secure:
		return []string{host}, nil
	}
	return nil, nil
}

// usable returns the records that a client of mail can work with (RFC 7672
// section 3.1), without digests weaker than another one for the same (RFC 7671
// section 9).
func usable(records []dnsc.TLSA) []dnsc.TLSA {
	list := slices.DeleteFunc(slices.Clone(records), func(r dnsc.TLSA) bool {
		if r.Usage != usageTA && r.Usage != usageEE || r.Selector > selectorSPKI {
			return true
		}
		switch r.MatchingType {
		case matchingFull:
			return len(r.Data) == 0
		case matchingSHA256:
			return len(r.Data) != sha256.Size
		case matchingSHA512:
			return len(r.Data) != sha512.Size
		}
		return true
	})
	return slices.DeleteFunc(slices.Clone(list), func(r dnsc.TLSA) bool {
		return r.MatchingType == matchingSHA256 && slices.ContainsFunc(list, func(o dnsc.TLSA) bool {
			return o.MatchingType == matchingSHA512 && o.Usage == r.Usage && o.Selector == r.Selector
		})
	})
}

func matches(r dnsc.TLSA, cert *x509.Certificate) bool {
	data := cert.Raw
	if r.Selector == selectorSPKI {
		data = cert.RawSubjectPublicKeyInfo
	}
	switch r.MatchingType {
	case matchingSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchingSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return bytes.Equal(data, r.Data)
}

// errNoMatch says that the server is not the one that the records are about.
var errNoMatch = errors.New("no TLSA record matches the server's certificates")

// daneVerifier verifies certificates by TLSA records that are usable.
type daneVerifier struct {
	records []dnsc.TLSA
	// names are those that the certificate below a DANE-TA record may be for,
	// one of them (RFC 7672 section 3.2.2).
	names []string
	now   func() time.Time
}

// verify is for [tls.Config.VerifyConnection].
func (d *daneVerifier) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server has no certificate")
	}
	leaf, above := cs.PeerCertificates[0], cs.PeerCertificates[1:]
	anchors := x509.NewCertPool()
	anchored := false
	for _, r := range d.records {
		if r.Usage == usageEE {
			if matches(r, leaf) { // names and times do not matter (RFC 7672 section 3.1.1)
				return nil
			}
			continue
		}
		for _, cert := range above {
			if matches(r, cert) {
				anchors.AddCert(cert)
				anchored = true
			}
		}
		// A record that is the whole certificate needs no copy in the chain.
		if r.Selector == selectorCert && r.MatchingType == matchingFull {
			if cert, err := x509.ParseCertificate(r.Data); err == nil {
				anchors.AddCert(cert)
				anchored = true
			}
		}
	}
	if !anchored {
		return errNoMatch
	}
	opts := x509.VerifyOptions{Roots: anchors, Intermediates: x509.NewCertPool(), CurrentTime: d.now()}
	for _, cert := range above {
		opts.Intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return err
	}
	var first error
	for _, name := range d.names {
		err := leaf.VerifyHostname(name)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// dnsErrorText says what failed, without the words of strangers.
func dnsErrorText(err error) string {
	var d *net.DNSError
	if errors.As(err, &d) {
		return d.Err
	}
	return err.Error()
}
