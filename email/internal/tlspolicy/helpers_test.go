package tlspolicy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// chain is a certificate with its key and those above it.
type chain struct {
	key   *ecdsa.PrivateKey
	certs []*x509.Certificate // the own one first
}

// issue makes a certificate, below that of parent if there is one. edit changes
// what it will be.
func issue(t testing.TB, parent *chain, name string, edit func(*x509.Certificate)) *chain {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(400 * 24 * time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if edit != nil {
		edit(template)
	}
	c := &chain{key: key}
	signer, above := key, template
	if parent != nil {
		signer, above = parent.key, parent.certs[0]
	}
	der, err := x509.CreateCertificate(rand.Reader, template, above, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c.certs = []*x509.Certificate{cert}
	if parent != nil {
		c.certs = append(c.certs, parent.certs...)
	}
	return c
}

func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
}

func forNames(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

func expired(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = names, time.Now().Add(-24*time.Hour)
	}
}

func (c *chain) tls() tls.Certificate {
	out := tls.Certificate{PrivateKey: c.key}
	for _, cert := range c.certs {
		out.Certificate = append(out.Certificate, cert.Raw)
	}
	return out
}

// files writes the chain and its key.
func (c *chain) files(t testing.TB) (cert, key string) {
	t.Helper()
	dir := testenv.Folder(t)
	var text []byte
	for _, c := range c.certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string][]byte{cert: text, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func pool(c *chain) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.certs[len(c.certs)-1])
	return p
}

// startPostfix starts a Postfix that has a port for each chain, with that for
// STARTTLS, or without TLS for nil, and returns the addresses.
func startPostfix(t testing.TB, chains ...*chain) (addrs []string) {
	t.Helper()
	if os.Getuid() != 0 {
		testenv.Lacks(t, "Postfix has to be started by root")
	}
	testenv.Need(t, "postfix", "apt-get install postfix")
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	dir := testenv.Folder(t)
	for _, sub := range []string{"queue", "data", "conf"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "data"), uid, gid); err != nil {
		t.Fatal(err)
	}
	var services strings.Builder
	for _, c := range chains {
		port := testenv.FreePort(t)
		addrs = append(addrs, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		fmt.Fprintf(&services, "127.0.0.1:%d inet n - n - - smtpd", port)
		if c != nil {
			cert, key := c.files(t)
			fmt.Fprintf(&services, " -o smtpd_tls_security_level=may -o smtpd_tls_cert_file=%s -o smtpd_tls_key_file=%s", cert, key)
		}
		services.WriteByte('\n')
	}
	for name, text := range map[string]string{
		"main.cf": fmt.Sprintf(`
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = /dev/stdout
myhostname = peer.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
mynetworks =
`, dir),
		"master.cf": services.String() + `
rewrite unix - - n - - trivial-rewrite
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "conf", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testenv.StartPostfix(t, dir, addrs[0])
	return addrs
}

// sessions collects what is reported.
type sessions struct {
	mu   sync.Mutex
	list []tlsrpt.Session
}

func (s *sessions) add(session tlsrpt.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, session)
}

// take returns what came since the last call.
func (s *sessions) take() []tlsrpt.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list
	s.list = nil
	return list
}
