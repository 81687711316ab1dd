package selfsigned

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func openStore(t *testing.T, b storage.Backend) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func open(t *testing.T, s *storage.Store, name string) *Certificate {
	t.Helper()
	c, err := Open(t.Context(), s, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestItIsTheSameAfterARestart(t *testing.T) {
	folder := testenv.Folder(t)
	var leaves []*x509.Certificate
	for _, name := range []string{"mail.example.com", "mail.example.com", "other.example.com"} {
		s := openStore(t, storage.Dir(folder))
		leaves = append(leaves, open(t, s, name).Leaf())
		s.Close()
	}
	if !leaves[0].Equal(leaves[1]) || leaves[0].Equal(leaves[2]) {
		t.Error("another certificate after a restart, or the same for another name")
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaves[0])
	if _, err := leaves[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: "mail.example.com"}); err != nil {
		t.Error(err) // it is good for who trusts it
	}
}

func TestSeveralAtOnceHaveOne(t *testing.T) {
	s := openStore(t, storage.Memory())
	leaves := make([]*x509.Certificate, 8)
	var wg sync.WaitGroup
	for i := range leaves {
		wg.Go(func() {
			c, err := Open(t.Context(), s, "mail.example.com", nil)
			if err != nil {
				t.Error(err)
				return
			}
			leaves[i] = c.Leaf()
		})
	}
	wg.Wait()
	for _, leaf := range leaves {
		if leaf == nil || !leaf.Equal(leaves[0]) {
			t.Error("each has its own")
		}
	}
}

func TestItIsReplacedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := storage.Open(t.Context(), storage.Memory())
		if err != nil {
			t.Fatal(err)
		}
		c := open(t, s, "mail.example.com")
		first := c.Leaf()
		get := func() *x509.Certificate {
			pair, err := c.GetCertificate(&tls.ClientHelloInfo{ServerName: "whatever.example"})
			if err != nil {
				t.Fatal(err)
			}
			return pair.Leaf
		}
		time.Sleep(700 * 24 * time.Hour)
		if !get().Equal(first) {
			t.Error("replaced too early")
		}
		time.Sleep(20 * 24 * time.Hour)
		second := get()
		if second.Equal(first) || !open(t, s, "mail.example.com").Leaf().Equal(second) {
			t.Error("not replaced, or not in the storage")
		}
		s.Close()
		time.Sleep(790 * 24 * time.Hour)
		if !get().Equal(second) {
			t.Error("without a storage the old one is still better than none")
		}
	})
}

func TestWhatIsNoCertificateIsRefused(t *testing.T) {
	s := openStore(t, storage.Memory())
	for _, value := range []string{"", "hello", "-----BEGIN PRIVATE KEY-----\n"} {
		if err := s.Put(t.Context(), prefix+"a.test", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), s, "a.test", nil); err == nil || errors.Is(err, storage.ErrNotFound) || !strings.Contains(err.Error(), prefix+"a.test") {
			t.Errorf("%q: %v", value, err)
		}
	}
}
