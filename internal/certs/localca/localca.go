// Package localca is a certification authority for development: TLS works
// without a network and without an account anywhere, once a browser or a client
// has been told to trust its root.
//
//	ca, err := localca.Open(ctx, store, log)
//	...
//	config := &tls.Config{GetCertificate: ca.GetCertificate(allow)}
//
// The root is made once and kept in the storage, for ten years. Whoever can
// read the storage can pretend to be any server to those who trust the root, so
// it belongs on developers' machines only. Certificates are for seven days, and
// are made in memory when they are asked for.
package localca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// rootKey is where the root is in the storage: its certificate and its key, in
// one value, because neither is of use without the other.
const rootKey = "certificates/local/root.pem"

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 7 * 24 * time.Hour
	// backdate is for clients whose clocks are behind.
	backdate = time.Hour
)

// CA is a certification authority. Its methods may be called from several
// goroutines.
type CA struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	leaves map[string]*tls.Certificate // that have been issued, by name
}

// Open takes the authority from the storage. If there is none, or its root has
// nearly expired, it makes one; of several Routers on one storage one does, and
// the others take it over. log may be nil. Errors are those of the storage, or
// say that what it holds is no authority.
func Open(ctx context.Context, store *storage.Store, log *slog.Logger) (*CA, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var ca *CA
	var err error
	for range 10 {
		ca, err = open(ctx, store, log)
		if !errors.Is(err, storage.ErrExists) && !errors.Is(err, storage.ErrConflict) {
			break
		} // else another was faster, and there is one now
	}
	return ca, err
}

func open(ctx context.Context, store *storage.Store, log *slog.Logger) (*CA, error) {
	item, err := store.GetItem(ctx, rootKey)
	missing := errors.Is(err, storage.ErrNotFound)
	if err != nil && !missing {
		return nil, err
	}
	if !missing {
		ca, err := parse(item.Value)
		if err != nil {
			return nil, fmt.Errorf("%s in the storage is no certification authority: %w; delete it to have a new one made", rootKey, err)
		}
		if time.Until(ca.root.NotAfter) > 2*leafLife {
			return ca, nil
		}
	}
	ca, text, err := create()
	if err != nil {
		return nil, err
	}
	if missing {
		_, err = store.Create(ctx, rootKey, text)
	} else {
		_, err = store.CompareAndSwap(ctx, rootKey, item.Revision, text)
	}
	if err != nil {
		return nil, err
	}
	log.Info("made a local certification authority; clients need to trust its root", "subject", ca.root.Subject.String(), "not_after", ca.root.NotAfter)
	return ca, nil
}

// create makes an authority, and its form in the storage.
func create() (*CA, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		// A name of its own, because clients find roots by name.
		Subject:               pkix.Name{Organization: []string{"dcrouter development"}, CommonName: fmt.Sprintf("dcrouter local CA %x", serial.Bytes()[:4])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	ca, err := parse(text)
	return ca, text, err
}

// parse reads what create has made.
func parse(text []byte) (*CA, error) {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !root.IsCA {
		return nil, errors.New("not an authority's certificate with an ECDSA key")
	}
	return &CA{root: root, key: key}, nil
}

// Root returns the certificate that clients need to trust.
func (ca *CA) Root() *x509.Certificate { return ca.root }

// RootPEM returns it in PEM form, for files and downloads.
func (ca *CA) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw})
}

// Fingerprint returns the SHA-256 of the root, to compare it by.
func (ca *CA) Fingerprint() [32]byte { return sha256.Sum256(ca.root.Raw) }

// newSerial returns a serial number of 127 random bits (RFC 5280 section
// 4.1.2.2 wants it to be positive and at most 20 octets long).
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 126)
	serial, err := rand.Int(rand.Reader, limit)
	if err != nil {
		return nil, err
	}
	return serial.Add(serial, limit), nil
}
