package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// testPair is a certificate that an authority could have issued, but
// self-signed.
func testPair(t testing.TB, start time.Time, life time.Duration, names ...string) *keyPair {
	t.Helper()
	key, err := generateKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "test CA"}, NotBefore: start, NotAfter: start.Add(life), DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyText, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := parseKeyPair(append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyText...))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// split returns the chain and the key of a pair.
func (k *keyPair) split() (chain, key []byte) {
	at := bytes.Index(k.text, []byte("-----BEGIN PRIVATE KEY"))
	return k.text[:at], k.text[at:]
}

// asks is a request for a certificate with a pair's key and first name.
func (k *keyPair) asks() *x509.CertificateRequest {
	return &x509.CertificateRequest{PublicKey: k.leaf().PublicKey, DNSNames: k.leaf().DNSNames[:1]}
}

func TestKeyPair(t *testing.T) {
	pair := testPair(t, time.Now(), time.Hour, "example.com", "*.Example.org")
	again, err := parseKeyPair(pair.text)
	if err != nil || !again.leaf().Equal(pair.leaf()) {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"example.com": true, "www.example.com": false, "*.example.org": true, "www.example.org": false} {
		if pair.covers(name) != want {
			t.Errorf("covers %s: %v", name, !want)
		}
	}
	other, err := generateKey(RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	chain, key := pair.split()
	otherKey, err := encodeKey(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseKeyPair(slices.Concat(chain, otherKey)); err == nil || strings.Contains(err.Error(), "BEGIN") {
		t.Errorf("another key: %v", err)
	}
	// An authority that sends a key along does not get to choose it.
	if got, err := checkChain(pair.text, pair.asks()); err != nil || bytes.Contains(got, []byte("KEY")) {
		t.Errorf("a key of the authority's: %q, %v", got, err)
	}
	stranger := testPair(t, time.Now(), time.Hour, "example.com")
	misnamed := *pair.asks()
	misnamed.DNSNames = []string{"www.example.com"}
	for _, csr := range []*x509.CertificateRequest{stranger.asks(), &misnamed} {
		if _, err := checkChain(chain, csr); err == nil {
			t.Error("a certificate that nobody has asked for")
		}
	}
	for _, text := range []string{"", "garbage", string(key)} {
		if _, err := checkChain([]byte(text), pair.asks()); err == nil {
			t.Errorf("taken for a chain: %q", text)
		}
	}
	for _, text := range []string{"", "garbage", string(chain), string(key)} {
		if _, err := parseKeyPair([]byte(text)); err == nil {
			t.Errorf("taken: %q", text)
		}
	}
	for _, kind := range []string{P384, RSA3072, RSA4096, "dsa"} {
		if kind == RSA4096 || kind == RSA3072 {
			continue // it takes seconds
		}
		if key, err := generateKey(kind); (err == nil) != (kind == P384) {
			t.Errorf("%s: %v, %v", kind, key, err)
		}
	}
}

// Whatever an authority sends as a chain, it is a certificate for our key or an
// error.
func FuzzChain(f *testing.F) {
	pair := testPair(f, time.Now(), time.Hour, "example.com")
	_, key := pair.split()
	f.Add(pair.text)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		chain, err := checkChain(text, pair.asks())
		if err != nil {
			return
		}
		got, err := parseKeyPair(slices.Concat(chain, key))
		if err == nil && (got.leaf() == nil || got.tls.PrivateKey == nil) {
			t.Error("neither an error nor a certificate")
		}
		if err == nil {
			_, _ = got.covers("example.com"), got.issuer()
		}
	})
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"example.com": true, "*.example.com": true, "xn--bcher-kva.example": true, "a": true, "1.example": true,
		"": false, "*": false, "*.": false, "a..b": false, "-a.b": false, "a-.b": false, "a_b.c": false, "192.0.2.1": false, "::1": false,
		"a.*.b": false, "**.b": false, "a b": false, strings.Repeat("a", 64) + ".b": false, strings.Repeat("a.", 127) + "b": false,
	} {
		if isDomain(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	for name, want := range map[string]string{"WWW.Example.COM.": "www.example.com", "*.Bücher.example": "*.xn--bcher-kva.example"} {
		if got := CanonicalName(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
	for host, want := range map[string]string{"A.b:80": "a.b", "A.b": "a.b", "a.b.:8080": "a.b", "[::1]:80": "::1"} {
		if got := hostOnly(host); got != want {
			t.Errorf("%q: %q", host, got)
		}
	}
	for name, want := range map[string]string{"_acme-challenge.a.b.example.com": "[a.b.example.com b.example.com example.com]", "example.com": "[]"} {
		if got := strings.Join(parents(name), " "); "["+got+"]" != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
