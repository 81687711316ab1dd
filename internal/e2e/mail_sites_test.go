package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

// mailSite is a Router that is all there is of a domain: its name server, its mail
// server and its policy host, at an address of its own and on the ports where
// strangers look for them.
type mailSite struct {
	*gateway
	domain, addr string
	dir          string // of the mailboxes and the spool
	backend      storage.Backend
	internet     *internet
	edit         func(*email.Config)
	// other, if there is one, is the certificate that the mail server shows in
	// place of its own.
	other atomic.Pointer[tls.Certificate]
}

// internet is what sites have in common.
type internet struct {
	roots string       // PEM file with the authorities of all
	ahead atomic.Int64 // by how much the mail servers' clocks are, in nanoseconds
}

func (in *internet) now() time.Time { return time.Now().Add(time.Duration(in.ahead.Load())) }

// twoAddresses finds two addresses on which ports 25, 53 and 443 are free.
func twoAddresses(t *testing.T) (a, b string) {
	t.Helper()
	var err error
	for i := range 20 {
		subnet := 2 + (os.Getpid()+i)%250
		a, b = fmt.Sprintf("127.0.%d.2", subnet), fmt.Sprintf("127.0.%d.3", subnet)
		if err = errors.Join(portsFree(a), portsFree(b)); err == nil {
			return a, b
		}
	}
	testenv.Lacks(t, "the ports of mail, DNS and HTTPS cannot be had on loopback addresses (that takes root): %v", err)
	return "", ""
}

func portsFree(addr string) error {
	for _, port := range []string{"25", "53", "443"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			return err
		}
		ln.Close()
	}
	pc, err := net.ListenPacket("udp", net.JoinHostPort(addr, "53"))
	if err != nil {
		return err
	}
	return pc.Close()
}

// start starts the site, anew if it has stopped. dns is the name server of the
// other, which it asks beside its own.
func (s *mailSite) start(t *testing.T, dns string) {
	t.Helper()
	mail := email.Config{
		ListenHost: s.addr, Hostname: "mx." + s.domain, Ports: email.Ports(25), DataPath: s.dir,
		Resolvers: []string{dns, s.addr},
		Domains:   []email.Domain{{Domain: s.domain, DNSMode: email.InternalDNS, DNS: email.DomainDNS{Internal: &email.InternalDNSSettings{TTL: 60}}}},
		Defaults:  email.Defaults{DKIM: email.DKIM{KeySize: 1024}}, // made in no time
		Outbound: email.Outbound{PrivateNetworks: true, CAPath: s.internet.roots, TLSReports: true,
			WarmUp: email.WarmUp{Pools: []email.SourcePool{{Name: "own", Addresses: []email.SourceAddress{{Address: s.addr, Warm: true}}}}}},
		Routes: []email.Route{{Name: "mailboxes", Match: email.Match{Recipients: []string{"bob@" + s.domain, "postmaster@" + s.domain}}, Action: email.Action{Type: email.Deliver}}},
	}
	if s.edit != nil {
		s.edit(&mail)
	}
	cfg := dcrouter.Config{
		DNSNSDomains: []string{"ns." + s.domain}, PublicIP: []string{s.addr}, MTASTSPort: new(443),
		DNS:   &dnsserver.Config{ListenHost: s.addr},
		Proxy: &proxy.Config{ListenHost: s.addr, ACME: &proxy.ACME{CARootPath: s.pebble.CAPath, CADirectory: s.pebble.Directory, RetryInterval: time.Second}},
	}
	certificate := func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if cert := s.other.Load(); cert != nil && hello.ServerName == mail.Hostname {
			return cert, nil
		}
		return nil, errors.New("not here")
	}
	r, err := dcrouter.New(dcrouter.WithConfig(cfg), dcrouter.WithEmail(mail, email.WithClock(s.internet.now)), dcrouter.WithStorage(s.backend),
		dcrouter.WithGetCertificate(certificate), dcrouter.WithLogger(slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Router = r
}

// ready waits until keys sign, and certificates are there.
func (s *mailSite) ready(t *testing.T) {
	t.Helper()
	s.waitForKeys(t, "active", "active")
	for _, name := range []string{"mx." + s.domain, "mta-sts." + s.domain} {
		s.waitForState(t, name, func(c dcrouter.CertificateState) bool { return !c.NotAfter.IsZero() && !c.InProgress })
	}
}

// waitForKeys waits until the DKIM keys, in the order in which they were made, are
// in these states.
func (s *mailSite) waitForKeys(t *testing.T, states ...string) []email.DKIMKey {
	t.Helper()
	var keys []email.DKIMKey
	testenv.WaitFor(t, patience, func() error {
		keys = s.Email().Domains()[0].Keys
		var got []string
		for _, k := range keys {
			got = append(got, k.State)
		}
		if strings.Join(got, " ") != strings.Join(states, " ") {
			return fmt.Errorf("the keys of %s are %v", s.domain, got)
		}
		return nil
	})
	return keys
}

// send sends a message to a recipient.
func (s *mailSite) send(t *testing.T, to, subject string) (id string) {
	t.Helper()
	id, err := s.Email().SendEmail(t.Context(), email.Email{
		From: "Ann <ann@" + s.domain + ">", To: []string{to}, Subject: subject, Text: "Grüße", HTML: "<p>Grüße</p>",
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// waitForStatus waits until what became of a message is as wanted.
func (s *mailSite) waitForStatus(t *testing.T, id string, ok func(email.EmailStatus) bool) email.EmailStatus {
	t.Helper()
	var st email.EmailStatus
	testenv.WaitFor(t, patience, func() (err error) {
		if st, err = s.Email().EmailStatus(t.Context(), id); err == nil && !ok(st) {
			err = fmt.Errorf("%v: %+v", st, st.Timeline)
		}
		return err
	})
	return st
}

// waitForMail waits until a message is in a mailbox that has this text in it.
func (s *mailSite) waitForMail(t *testing.T, user, text string) string {
	t.Helper()
	var msg []byte
	testenv.WaitFor(t, patience, func() error {
		for _, m := range s.mailbox(t, user) {
			if bytes.Contains(m, []byte(text)) {
				msg = m
				return nil
			}
		}
		return fmt.Errorf("no mail for %s with %q", user, text)
	})
	return string(msg)
}

func (s *mailSite) mailbox(t *testing.T, user string) (messages [][]byte) {
	t.Helper()
	dir := filepath.Join(s.dir, "mail", s.domain, user, "new")
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range files {
		m, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	return messages
}

// twoSites makes two sites that have each an authority of its own, which both
// trust.
func twoSites(t *testing.T) (a, b *mailSite) {
	t.Helper()
	in := &internet{roots: filepath.Join(t.TempDir(), "roots.pem")}
	addrA, addrB := twoAddresses(t)
	a = &mailSite{domain: "a.example", addr: addrA}
	b = &mailSite{domain: "b.example", addr: addrB}
	var roots []byte
	for _, s := range []*mailSite{a, b} {
		s.internet, s.dir, s.backend = in, t.TempDir(), storage.Memory()
		s.gateway = &gateway{dns: net.JoinHostPort(s.addr, "53"), log: new(syncBuffer)}
		s.pebble = testenv.StartPebble(t, testenv.PebbleOpts{DNS: s.dns})
		roots = append(roots, s.pebble.Get(t, "/roots/0")...)
		t.Cleanup(func() {
			if s.Router != nil {
				s.stop(t)
			}
			if t.Failed() {
				t.Logf("log of %s:\n%s", s.domain, s.log)
			}
		})
	}
	if err := os.WriteFile(in.roots, roots, 0o600); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// trust has all sites that start from now on trust a certificate.
func (in *internet) trust(t *testing.T, certPath string) {
	t.Helper()
	cert, err := os.ReadFile(certPath)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(in.roots, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(cert); err != nil {
		t.Fatal(err)
	}
}

// stored returns the values in the site's storage below a prefix, once it has
// stopped.
func (s *mailSite) stored(t *testing.T, prefix string) (values string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	store, err := storage.Open(ctx, s.backend)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for key, err := range store.List(ctx, prefix) {
		if err != nil {
			t.Fatal(err)
		}
		value, err := store.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		values += string(value) + "\n"
	}
	return values
}
