package localca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// maxLeaves bounds how many certificates are kept in memory, a few kilobytes
// each.
const maxLeaves = 1024

// renewBefore is how long before its end a certificate is replaced.
const renewBefore = leafLife / 3

// GetCertificate returns a function for [tls.Config]. It issues a certificate
// for the server name that a client asks for, or where it asks for none the
// address that it has connected to, if allow says yes to that. Names come in
// lower case and without a dot at the end, addresses as [netip.Addr] writes
// them. allow may be called by several goroutines at once.
func (ca *CA) GetCertificate(allow func(name string) bool) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
		if name == "" {
			addr, err := netip.ParseAddrPort(hello.Conn.LocalAddr().String())
			if err != nil {
				return nil, fmt.Errorf("the client names no server, and connected to no IP address: %w", err)
			}
			name = addr.Addr().Unmap().WithZone("").String()
		}
		if !allow(name) {
			return nil, fmt.Errorf("no certificate is to be issued for %q", name)
		}
		return ca.Certificate(name)
	}
}

// Certificate returns a certificate for a DNS name, which may begin with "*.",
// or an IP address. It is valid for two more days at least.
func (ca *CA) Certificate(name string) (*tls.Certificate, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if cert := ca.leaves[name]; cert != nil && time.Until(cert.Leaf.NotAfter) > renewBefore {
		return cert, nil
	}
	// Under the lock: it takes less time than the handshake that it is for, and
	// who else comes for the name waits for the same.
	cert, err := ca.issue(name)
	if err != nil {
		return nil, err
	}
	if ca.leaves == nil {
		ca.leaves = make(map[string]*tls.Certificate)
	}
	if ca.leaves[name] == nil && len(ca.leaves) >= maxLeaves {
		for other := range ca.leaves { // any: it is made again when it is needed
			delete(ca.leaves, other)
			break
		}
	}
	ca.leaves[name] = cert
	return cert, nil
}

// Issued returns the certificates that are kept and good, by name.
func (ca *CA) Issued() map[string]*x509.Certificate {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	list := make(map[string]*x509.Certificate, len(ca.leaves))
	for name, cert := range ca.leaves {
		if time.Until(cert.Leaf.NotAfter) > renewBefore {
			list[name] = cert.Leaf
		}
	}
	return list
}

// issue makes a certificate with a key of its own.
func (ca *CA) issue(name string) (*tls.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"dcrouter development"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(leafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if template.NotAfter.After(ca.root.NotAfter) {
		template.NotAfter = ca.root.NotAfter
	}
	if addr, err := netip.ParseAddr(name); err == nil && addr.Zone() == "" {
		template.IPAddresses = []net.IP{addr.Unmap().AsSlice()}
	} else if isDNSName(name) {
		template.DNSNames = []string{name}
	} else {
		return nil, fmt.Errorf("%q is no DNS name and no IP address", name)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.root, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// isDNSName knows names as they are in certificates: lower case, in labels of
// letters, digits, hyphens and underscores, the first of which may be "*".
func isDNSName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for i, label := range strings.Split(name, ".") {
		if i == 0 && label == "*" && name != label {
			continue
		}
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
