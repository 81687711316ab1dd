// Package selfsigned makes a certificate that nobody has signed but itself, and
// keeps it in the storage: what mail servers use so long as they have no other,
// since most of those who send to them encrypt without looking at it.
//
//	pair, err := selfsigned.Open(ctx, store, "mail.example.com", log)
//	...
//	config := &tls.Config{GetCertificate: pair.GetCertificate}
package selfsigned

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

// prefix is where certificates are in the storage, by name: each with its key, in
// one value, because neither is of use without the other.
const prefix = "certificates/self-signed/"

const (
	// life is the most that Apple's devices take of a certificate that their user
	// has let through himself: 825 days.
	life = 800 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced.
	renewBefore = 90 * 24 * time.Hour
	// backdate is for clients whose clocks are behind.
	backdate = time.Hour
	// retry is when a certificate that could not be replaced is tried again.
	retry = time.Hour
	// patience is how long a handshake waits for the storage then.
	patience = 10 * time.Second
)

// Certificate is a certificate for one name. Its methods may be called from
// several goroutines.
type Certificate struct {
	store *storage.Store
	name  string
	log   *slog.Logger

	mu   sync.Mutex
	pair *tls.Certificate
	next time.Time // when to replace it
}

// Open takes the certificate for a DNS name from the storage. If there is none,
// or it ends soon, it makes one; of several processes on one storage one does, and
// the others take it over. log may be nil. Errors are those of the storage, or
// say that what it holds is no certificate.
func Open(ctx context.Context, store *storage.Store, name string, log *slog.Logger) (*Certificate, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Certificate{store: store, name: name, log: log}
	return c, c.load(ctx)
}

// load brings the certificate up to date. The caller holds c.mu, or has it alone.
func (c *Certificate) load(ctx context.Context) error {
	var err error
	for range 10 {
		c.pair, err = c.fromStorage(ctx)
		if !errors.Is(err, storage.ErrExists) && !errors.Is(err, storage.ErrConflict) {
			break
		} // else another was faster, and there is one now
	}
	if err == nil {
		c.next = c.pair.Leaf.NotAfter.Add(-renewBefore)
	}
	return err
}

func (c *Certificate) fromStorage(ctx context.Context) (*tls.Certificate, error) {
	key := prefix + c.name
	item, err := c.store.GetItem(ctx, key)
	missing := errors.Is(err, storage.ErrNotFound)
	if err != nil && !missing {
		return nil, err
	}
	if !missing {
		pair, err := parse(item.Value)
		if err != nil {
			return nil, fmt.Errorf("%s in the storage is no certificate with its key: %w; delete it to have a new one made", key, err)
		}
		if time.Until(pair.Leaf.NotAfter) > renewBefore {
			return pair, nil
		}
	}
	text, err := create(c.name)
	if err != nil {
		return nil, err
	}
	if missing {
		_, err = c.store.Create(ctx, key, text)
	} else {
		_, err = c.store.CompareAndSwap(ctx, key, item.Revision, text)
	}
	if err != nil {
		return nil, err
	}
	return parse(text)
}

func parse(text []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(text, text)
	return &pair, err
}

// create makes a certificate and its key, in PEM form.
func create(name string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)), // RFC 5280 section 4.1.2.2: positive
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if len(name) > 64 { // the most that a common name has room for
		template.Subject = pkix.Name{}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...), nil
}

// GetCertificate is for [tls.Config]: it returns the certificate whatever name a
// client asks for. In a process that runs for years it replaces it in time.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.next) {
		return c.pair, nil
	}
	old := c.pair
	ctx, cancel := context.WithTimeout(context.Background(), patience) // not the client's, who may go away: it is for all
	defer cancel()
	if err := c.load(ctx); err != nil {
		c.pair, c.next = old, time.Now().Add(retry) // who encrypts to it does not look at its end either
		c.log.Warn("cannot replace a self-signed certificate", "name", c.name, "not_after", old.Leaf.NotAfter, "err", err)
	}
	return c.pair, nil
}

// Leaf returns the certificate in use.
func (c *Certificate) Leaf() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pair.Leaf
}
