package soak

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

const (
	// patience is for what takes seconds on a machine that is not busy.
	patience = time.Minute
	// stopWithin is the deadline of Stop.
	stopWithin = 20 * time.Second
	secret     = "a secret of the soak"
	zone       = "soak.test"
)

// world is the gateway, what is around it, and the book about both.
type world struct {
	*book
	t      *testing.T
	binary string
	path   string // of the configuration
	node   *testenv.Process
	pebble *testenv.Pebble

	// Ports of the gateway.
	web, secure, stream, fragile, drain, smtp, submission, dns, dot, doq, doh, auth, acct, radSec, ops, control int

	switchCert tls.Certificate // of the client of RadSec

	stable  []*backend
	mortal  []*mortal
	sink    *sink
	home    *homeServer
	second  *secondary
	routes  *routeBook
	records *recordBook
	serials *serialBook

	work sync.WaitGroup // what makes requests

	rootsMu sync.Mutex
	roots   *x509.CertPool // of all starts of pebble
}

// newWorld starts everything but the load.
func newWorld(t *testing.T, b *book, validity time.Duration) *world {
	t.Helper()
	w := &world{book: b, t: t, roots: x509.NewCertPool(), serials: &serialBook{seen: map[string]map[string]bool{}}}
	for _, port := range []*int{&w.web, &w.secure, &w.stream, &w.fragile, &w.drain, &w.smtp, &w.submission, &w.dns, &w.dot, &w.doq, &w.doh, &w.auth, &w.acct, &w.radSec, &w.ops, &w.control} {
		*port = testenv.FreePort(t)
	}
	w.binary = filepath.Join(testenv.Folder(t), "node")
	if out, err := testenv.Command(t, "go", "build", "-o", w.binary, "./node").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i := range 3 {
		w.stable = append(w.stable, newBackend(t, fmt.Sprintf("stable-%d", i)))
	}
	for i := range 2 {
		w.mortal = append(w.mortal, newMortal(w, fmt.Sprintf("web-%d", i)))
	}
	w.sink = newSink(t)
	w.home = newHomeServer(t)
	w.second = newSecondary(t, w.dns)
	w.routes, w.records = newRouteBook(w), newRecordBook(w)
	w.pebble = testenv.StartPebble(t, testenv.PebbleOpts{DNS: address(w.dns), Validity: validity})
	w.trust()

	cert, key, _ := testenv.SelfSigned(t)
	var err error
	if w.switchCert, err = tls.LoadX509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	cfg := w.config(filepath.Join(testenv.Folder(t), "state"))
	cfg.RADIUS.RadSec = &radius.RadSec{Port: &w.radSec, Certificate: radius.Certificate{Auto: true}, ClientCAPath: cert}
	w.path = filepath.Join(testenv.Folder(t), "config.json")
	f, err := os.Create(w.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := dcrouter.WriteConfig(f, cfg); err != nil {
		t.Fatal(err)
	}
	w.startGateway(stopWithin)
	w.second.start(t)
	for _, name := range names {
		testenv.WaitFor(t, patience, func() error { return w.shake(context.Background(), name) })
	}
	testenv.WaitFor(t, patience, func() error { // the name server's certificate is one more
		_, err := w.overTLS(context.Background(), new(dns.Msg).SetQuestion(zone+".", dns.TypeSOA))
		return err
	})
	return w
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// names are those with certificates that are obtained by themselves.
var names = []string{"www." + zone, "api." + zone, "dns." + zone, "mx." + zone}

// config is the gateway with everything on, and its state in a folder.
func (w *world) config(folder string) dcrouter.Config {
	records := []dnsserver.Record{
		{Name: "*." + zone, Type: "A", Value: "127.0.0.1"},
		{Name: "sender.test", Type: "MX", Value: "10 mx.sender.test"}, {Name: "mx.sender.test", Type: "A", Value: "127.0.0.1"},
		{Name: "sender.test", Type: "TXT", Value: "v=spf1 ip4:127.0.0.1 -all"},
	}
	to := func(host string, queue bool) email.Action {
		return email.Action{Type: email.Forward, Forward: &email.ForwardAction{Host: host, Port: w.sink.port, Queue: queue}}
	}
	return dcrouter.Config{
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: w.routes.list(), HTTP3: proxy.HTTP3{Enabled: true},
			Timeouts: proxy.Timeouts{Drain: drainTime, UDPIdle: 5 * time.Second},
			ACME:     &proxy.ACME{CADirectory: w.pebble.Directory, CARootPath: w.pebble.CAPath, RetryInterval: time.Second}},
		DNSDomain: "dns." + zone, DoHPort: &w.secure, DNSNSDomains: []string{nameServer}, PublicIP: []string{"127.0.0.1"},
		DNS: &dnsserver.Config{ListenHost: "127.0.0.1", Port: &w.dns,
			DoT: &dnsserver.EncryptedPort{Port: &w.dot}, DoQ: &dnsserver.EncryptedPort{Port: &w.doq}, DoH: &dnsserver.EncryptedPort{Port: &w.doh}, Records: append(records, w.records.first()...),
			Zones: []dnsserver.Zone{
				{Name: zone, AllowTransfer: []string{"127.0.0.1"}, Notify: []dnsserver.Peer{{Addr: address(w.second.port)}}, DNSSEC: new(dnsserver.DNSSEC)},
				{Name: "sender.test", AllowTransfer: []string{"127.0.0.1"}},
			}},
		Email: &email.Config{ListenHost: "127.0.0.1", Hostname: "mx." + zone, UseSocketHandler: true, Resolvers: []string{address(w.dns)},
			Ports:   []email.Port{{Port: w.smtp, Mode: email.SMTP}, {Port: w.submission, Mode: email.Submission}},
			Domains: []email.Domain{{Domain: zone, DNSMode: email.InternalDNS}},
			Auth:    &email.Auth{Users: []email.User{{Username: "app@" + zone, Password: secret}}},
			Routes: []email.Route{
				{Name: "later", Match: email.Match{Recipients: []string{"later-*@" + zone}}, Action: to("127.0.0.1", true)},
				{Name: "at once", Match: email.Match{Recipients: []string{"now-*@" + zone}}, Action: to("127.0.0.1", false)},
				{Name: "out", Match: email.Match{Recipients: []string{"*"}, Authenticated: new(true)}, Action: email.Action{Type: email.Process}},
			},
			SmartHost: &email.SmartHost{Host: "127.0.0.1", Port: w.sink.port},
			Queue:     email.Queue{RetryDelay: time.Second}},
		RADIUS: &radius.Config{ListenHost: "127.0.0.1", Port: &w.auth, AccountingPort: &w.acct,
			Clients:        []radius.Client{{Name: "switch", IP: "127.0.0.1", Secret: secret}},
			MACAuth:        &radius.MACAuth{AllowedMACs: []string{"aa:bb:cc:*"}, DefaultVLAN: 100, GuestVLAN: 999},
			VLANAssignment: []radius.VLANRule{{Match: radius.VLANMatch{MAC: "aa:bb:cc:00:*"}, VLAN: 7}},
			Realms: []radius.Realm{{Name: "home.test", HomeServers: []radius.HomeServer{
				{Host: "127.0.0.1", Port: w.home.port, Secret: secret, AllowUnsignedReplies: true}}}}},
		Ops:     &opsapi.Config{Port: &w.ops, Admin: opsapi.Admin{Username: "admin", Password: secret}},
		Storage: &dcrouter.StorageConfig{FSPath: folder},
	}
}

// startGateway starts the gateway, with a deadline for its Stop.
func (w *world) startGateway(deadline time.Duration) {
	w.t.Helper()
	w.node = testenv.Start(w.t, testenv.Opts{Ready: address(w.control), Timeout: patience, StopTimeout: deadline + patience},
		w.binary, "gateway", w.path, deadline.String(), address(w.control))
}

// trust has handshakes believe pebble as it is now, too: it has new roots at each
// start.
func (w *world) trust() {
	w.t.Helper()
	pem := w.pebble.Get(w.t, "/roots/0")
	w.rootsMu.Lock()
	defer w.rootsMu.Unlock()
	roots := w.roots.Clone() // somebody may read the old one
	if !roots.AppendCertsFromPEM(pem) {
		w.t.Fatal("pebble's root is no certificate")
	}
	w.roots = roots
}

func (w *world) trusted() *x509.CertPool {
	w.rootsMu.Lock()
	defer w.rootsMu.Unlock()
	return w.roots
}

// controls keeps connections to the gateway's control port.
var controls = &http.Client{Timeout: patience}

// tell asks the gateway's process for something; answer may be nil.
func (w *world) tell(path string, question, answer any) error {
	text, err := json.Marshal(question)
	if err != nil {
		return err
	}
	resp, err := controls.Post("http://"+address(w.control)+path, "application/json", bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	if err != nil || answer == nil {
		return err
	}
	return json.Unmarshal(body, answer)
}
