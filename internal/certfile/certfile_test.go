package certfile

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// testPair is a pair of files whose certificate the test replaces.
type testPair struct {
	*Pair
	t                 *testing.T
	certPath, keyPath string
	log               bytes.Buffer
}

func openPair(t *testing.T, certPath, keyPath string) *testPair {
	t.Helper()
	p := &testPair{t: t, certPath: certPath, keyPath: keyPath}
	var err error
	if p.Pair, err = Open(certPath, keyPath, slog.New(slog.NewTextHandler(&p.log, nil))); err != nil {
		t.Fatal(err)
	}
	return p
}

// name is whose certificate is in use.
func (p *testPair) name() string {
	cert, err := p.GetCertificate(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return cert.Leaf.DNSNames[0]
}

// want looks when the files are to be looked at again.
func (p *testPair) want(what, name string) {
	p.t.Helper()
	time.Sleep(interval)
	if got := p.name(); got != name {
		p.t.Errorf("%s: the certificate of %s is in use, want %s", what, got, name)
	}
}

// copyFile writes as cp does: over what is there. The file is a second younger
// than what was there, because tests are faster than file systems' clocks.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	do(t, err)
	written := time.Unix(1e9, 0)
	if info, err := os.Stat(to); err == nil {
		written = info.ModTime().Add(time.Second)
	}
	do(t, os.WriteFile(to, text, 0o600))
	do(t, os.Chtimes(to, written, written))
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreReadWhenTheyHaveChanged(t *testing.T) {
	certA, keyA, _ := testenv.SelfSigned(t, "a.test")
	certB, keyB, _ := testenv.SelfSigned(t, "b.test")
	for name, replace := range map[string]func(cert, key string){
		"renamed": func(cert, key string) {
			copyFile(t, certB, cert+".new")
			copyFile(t, keyB, key+".new")
			do(t, os.Rename(cert+".new", cert))
			do(t, os.Rename(key+".new", key))
		},
		"written in place": func(cert, key string) {
			copyFile(t, certB, cert)
			copyFile(t, keyB, key)
		},
		"renamed, of the same age and size": func(cert, key string) {
			for from, to := range map[string]string{certB: cert, keyB: key} {
				old, err := os.Stat(to)
				do(t, err)
				copyFile(t, from, to+".new")
				do(t, os.Truncate(to+".new", old.Size()))
				do(t, os.Chtimes(to+".new", old.ModTime(), old.ModTime()))
				do(t, os.Rename(to+".new", to))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testenv.Folder(t)
			cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
			for from, to := range map[string]string{certA: cert, keyA: key} {
				copyFile(t, from, to)
				do(t, os.Truncate(to, 4096)) // zeros behind it do no harm
			}
			synctest.Test(t, func(t *testing.T) {
				p := openPair(t, cert, key)
				p.want("nothing has changed", "a.test")
				if p.log.Len() > 0 {
					t.Errorf("read for nothing: %s", p.log.String())
				}
				replace(cert, key)
				if got := p.name(); got != "a.test" {
					t.Errorf("the files were looked at again at once")
				}
				p.want("replaced", "b.test")
				if !strings.Contains(p.log.String(), "not_after=") || strings.Contains(p.log.String(), "level=ERROR") {
					t.Errorf("log: %s", p.log.String())
				}
			})
		})
	}
}

// certbot's live/ has a link for each file, a volume of Kubernetes one for the
// folder.
func TestSymbolicLinksAreFollowed(t *testing.T) {
	dir := testenv.Folder(t)
	for _, name := range []string{"a.test", "b.test"} {
		cert, key, _ := testenv.SelfSigned(t, name)
		do(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		copyFile(t, cert, filepath.Join(dir, name, "tls.crt"))
		copyFile(t, key, filepath.Join(dir, name, "tls.key"))
	}
	link := func(to, at string) {
		do(t, os.Symlink(to, filepath.Join(dir, "new")))
		do(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, at)))
	}
	link("a.test", "..data")
	link("..data/tls.crt", "tls.crt")
	link("..data/tls.key", "tls.key")
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
		p.want("before", "a.test")
		link("b.test", "..data")
		p.want("folder swapped", "b.test")
		link("a.test/tls.crt", "tls.crt")
		p.want("one of two links swapped", "b.test")
		link("a.test/tls.key", "tls.key")
		p.want("both links swapped", "a.test")
	})
}

func TestBadFilesLeaveThePreviousCertificateInUse(t *testing.T) {
	cert, key, _ := testenv.SelfSigned(t, "a.test")
	certB, keyB, _ := testenv.SelfSigned(t, "b.test")
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, cert, key)
		step := func(what string, errors int, name string) {
			t.Helper()
			for range 3 {
				p.want(what, name)
			}
			if n := strings.Count(p.log.String(), "level=ERROR"); n != errors {
				t.Errorf("%s: %d errors logged, want %d:\n%s", what, n, errors, p.log.String())
			}
			p.log.Reset()
		}
		copyFile(t, certB, cert)
		step("a new certificate, and not yet its key", 1, "a.test")
		copyFile(t, keyB, key)
		step("its key", 0, "b.test")
		do(t, os.Truncate(cert, 40))
		step("half a file", 1, "b.test")
		do(t, os.Remove(cert))
		step("no file", 1, "b.test")
		do(t, os.Mkdir(cert, 0o700))
		step("a folder", 1, "b.test")
		do(t, os.Remove(cert))
		copyFile(t, certB, cert)
		step("as it was", 0, "b.test")
		for range 2 {
			do(t, os.Rename(key, key+".old"))
			step("the key is away", 1, "b.test")
			do(t, os.Rename(key+".old", key))
			step("the key is back, unchanged", 0, "b.test")
		}
		if strings.Contains(p.log.String(), "PRIVATE") {
			t.Error("a key in the log")
		}
	})
}

func TestOpenNamesTheFileAtFault(t *testing.T) {
	cert, key, _ := testenv.SelfSigned(t, "a.test")
	_, keyB, _ := testenv.SelfSigned(t, "b.test")
	for _, test := range []struct{ cert, key, path, says string }{
		{cert + ".none", key, "certPath", cert + ".none"},
		{cert, key + ".none", "keyPath", key + ".none"},
		{filepath.Dir(cert), key, "certPath", "is not a file"},
		{cert, "/dev/null", "keyPath", "is not a file"},
		{cert, keyB, "", cert + " and " + keyB + " are not a certificate and its key"},
		{key, cert, "", "are not a certificate and its key"},
	} {
		_, err := Open(test.cert, test.key, nil)
		var field *conf.FieldError
		if !errors.As(err, &field) || field.Path != test.path || !strings.Contains(field.Msg, test.says) {
			t.Errorf("%s, %s: %v, want it to say %q of %q", test.cert, test.key, err, test.says, test.path)
		}
	}
}

// Many handshakes while the files change all the time: none fails, and each is
// made with a certificate and its own key.
func TestHandshakesGoOnWhileFilesChange(t *testing.T) {
	testenv.Goroutines(t)
	cert, key, _ := testenv.SelfSigned(t, "a.test")
	pool := x509.NewCertPool()
	var files [2][2]string
	for i, name := range []string{"a.test", "b.test"} {
		c, k, _ := testenv.SelfSigned(t, name)
		text, err := os.ReadFile(c)
		do(t, err)
		pool.AppendCertsFromPEM(text)
		files[i] = [2]string{c, k}
	}
	copyFile(t, files[0][0], cert)
	copyFile(t, files[0][1], key)
	p, err := Open(cert, key, nil)
	do(t, err)
	server := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		p.look.Store(0) // always
		return p.GetCertificate(hello)
	}}
	var seen atomic.Value // the name in the last handshake
	var clients sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer clients.Wait()
	defer stop()
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				ours, theirs := net.Pipe()
				clients.Go(func() { tls.Server(theirs, server).Handshake() })
				c := tls.Client(ours, &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
					seen.Store(s.PeerCertificates[0].DNSNames[0])
					_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
					return err
				}})
				if err := c.Handshake(); err != nil {
					t.Error(err)
				}
				ours.Close()
				theirs.Close()
			}
		})
	}
	for i := 1; i <= 10; i++ {
		copyFile(t, files[i%2][0], cert)
		copyFile(t, files[i%2][1], key)
		name := []string{"a.test", "b.test"}[i%2]
		testenv.WaitFor(t, 30*time.Second, func() error {
			if seen.Load() != name {
				return fmt.Errorf("%v in use, want %s", seen.Load(), name)
			}
			return nil
		})
	}
}
