package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// keyPair is a certificate with its key. It is never changed.
type keyPair struct {
	tls  tls.Certificate // with Leaf
	text []byte          // the chain, leaf first, and then the key, in PEM
}

func (k *keyPair) leaf() *x509.Certificate { return k.tls.Leaf }

// checkChain returns the certificates of what an authority has sent for a
// request, and nothing else.
func checkChain(chain []byte, csr *x509.CertificateRequest) ([]byte, error) {
	var b bytes.Buffer
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if b.Len() == 0 {
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("what the authority has sent: %w", err)
			}
			key, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
			if !ok || !key.Equal(csr.PublicKey) {
				return nil, errors.New("what the authority has sent is for another key")
			}
			if !(&keyPair{tls: tls.Certificate{Leaf: leaf}}).covers(csr.DNSNames[0]) {
				return nil, errors.New("what the authority has sent is not for this name")
			}
		}
		b.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	if b.Len() == 0 {
		return nil, errors.New("what the authority has sent has no certificate in it")
	}
	return b.Bytes(), nil
}

// parseKeyPair reads a certificate as it is kept. What is wrong with it is said
// without showing it.
func parseKeyPair(text []byte) (*keyPair, error) {
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("not a certificate and its key: %w", err)
	}
	return &keyPair{cert, text}, nil
}

// covers reports whether the certificate is for a name, or a name with "*." in
// front, in just that form.
func (k *keyPair) covers(name string) bool {
	return slices.ContainsFunc(k.leaf().DNSNames, func(n string) bool { return strings.EqualFold(n, name) })
}

// issuer is the authority's name for people.
func (k *keyPair) issuer() string {
	i := k.leaf().Issuer
	if len(i.Organization) > 0 && i.CommonName != "" {
		return i.Organization[0] + " " + i.CommonName
	}
	return i.String()
}

func generateKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "", P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("key type %q is not known", kind)
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func decodeKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("no key in PKCS #8 form") // err could show parts of it
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("not a key to sign with")
	}
	return signer, nil
}
