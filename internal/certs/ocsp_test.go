package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// What a certificate's status is, its issuer says, and whom it has made a signer of
// responses, but no other of its customers.
func TestSignerOfResponses(t *testing.T) {
	now, serial := time.Now(), int64(0)
	issue := func(from time.Time, issuer *x509.Certificate, by crypto.Signer, use ...x509.ExtKeyUsage) (*x509.Certificate, crypto.Signer) {
		t.Helper()
		key, err := generateKey(P256)
		if err != nil {
			t.Fatal(err)
		}
		serial++
		template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotBefore: from, NotAfter: from.Add(2 * time.Hour), ExtKeyUsage: use}
		if issuer == nil {
			template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
			issuer, by = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	from := now.Add(-time.Hour)
	ca, caKey := issue(from, nil, nil)
	cert, _ := issue(from, ca, caKey, x509.ExtKeyUsageServerAuth)
	for what, c := range map[string]struct {
		from time.Time
		use  x509.ExtKeyUsage
		ok   bool
	}{
		"a signer":              {from, x509.ExtKeyUsageOCSPSigning, true},
		"another customer":      {from, x509.ExtKeyUsageServerAuth, false},
		"one that has expired":  {now.Add(-3 * time.Hour), x509.ExtKeyUsageOCSPSigning, false},
		"one of some time soon": {now.Add(time.Hour), x509.ExtKeyUsageOCSPSigning, false},
		"the issuer":            {ok: true},
		"the issuer, named":     {ok: true},
	} {
		signer, key := ca, caKey
		says := ocsp.Response{Status: ocsp.Revoked, SerialNumber: cert.SerialNumber, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour), RevokedAt: now.Add(-time.Minute)}
		if !c.from.IsZero() {
			signer, key = issue(c.from, ca, caKey, c.use)
		}
		if what != "the issuer" {
			says.Certificate = signer
		}
		raw, err := ocsp.CreateResponse(ca, signer, says, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseResponse(raw, cert, ca); (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
}
