package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// enterprise is the reference's complete setup with clients of all its protocols.
type enterprise struct {
	*place
	*dcrouter.Router
	log                  *syncBuffer
	mx, internal         sink
	http, dns            atomic.Int64 // requests and queries that clients made
	taken, relayed, kept atomic.Int64 // messages: for MX hosts, from the office, refused
	accepted             atomic.Int64 // devices
	updates              int
}

// All of the reference's complete setup at once: clients of every protocol are
// served without a failure while routes change, the statistics say what they have
// counted themselves, no mail is lost, and it stops in time.
func TestEnterprise(t *testing.T) {
	testenv.Goroutines(t)
	for program, how := range map[string]string{"curl": "curl", "swaks": "swaks libnet-ssleay-perl", "smtp-source": "postfix", "dig": "bind9-dnsutils", "radclient": "freeradius-utils"} {
		testenv.Need(t, program, "apt-get install "+how)
	}
	e := newEnterprise(t)
	e.publishDKIM(t)
	for _, name := range []string{"example.com", "www.example.com", "api.example.com"} {
		e.wantCurl(t, "200", "-o", "/dev/null", "-w", "%{http_code}", "https://"+name+"/")
		e.http.Add(1)
	}
	e.mailCertificateIsThere(t)
	e.crowd(t, 8*time.Second)
	e.lossless(t)
	e.agrees(t)
	e.stops(t)
}

func newEnterprise(t *testing.T) *enterprise {
	t.Helper()
	e := &enterprise{place: newPlace(t), log: new(syncBuffer)}
	e.serveAt(t, "website", 10, 80)
	e.serveAt(t, "api", 20, 8080)
	e.serveAt(t, "api, moved", 21, 8080)
	e.mx, e.internal = e.sinkAt(t, atMX, 25), e.sinkAt(t, atMail, 25)
	cfg := e.load(t, "enterprise", func(c *dcrouter.Config) {
		a := e.authority(t, atWorld)
		c.Proxy.ACME.CADirectory, c.Proxy.ACME.CARootPath, c.Proxy.ACME.RetryInterval = a.CADirectory, a.CARootPath, a.RetryInterval
		c.DNSChallenge.PropagationTimeout = 1
		c.DNS.Records = []dnsserver.Record{{Name: "www.enterprise.net", Type: "A", Value: "192.0.2.7", TTL: 300}}
		// The configuration leaves open who its users are.
		c.Email.Auth = &email.Auth{Users: []email.User{{Username: "app@example.com", Password: "wonderland"}}}
	})
	hoster := &cloudflare{zone: dcrouter.DNSProvider{Server: e.world}, token: cfg.DNSChallenge.CloudflareAPIKey.Reveal(), records: map[string]dnsserver.Record{}}
	server := httptest.NewServer(hoster)
	t.Cleanup(server.Close)
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	r, err := dcrouter.New(dcrouter.WithConfig(cfg), dcrouter.WithLogger(slog.New(slog.NewTextHandler(e.log, nil))),
		dcrouter.WithCloudflareClient(&http.Client{Transport: &elsewhere{to: to, client: http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}}))
	if err != nil {
		t.Fatal(err)
	}
	e.Router = r
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
		if t.Failed() {
			log := e.log.String()
			t.Logf("log:\n%s", log[max(0, len(log)-64<<10):])
		}
	})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// publishDKIM does what an operator does for mode external-dns: writes the records
// that the gateway asks for into the zone. It looks at once when it starts again.
func (e *enterprise) publishDKIM(t *testing.T) {
	t.Helper()
	keys := func(state string) error {
		list := e.Email().Domains()[0].Keys
		if len(list) != 2 || list[0].State != state || list[1].State != state {
			return fmt.Errorf("the keys are %+v", list)
		}
		return nil
	}
	testenv.WaitFor(t, patience, func() error { return keys("pending") })
	status, err := e.Email().CheckDomain(t.Context(), "example.com")
	if err != nil {
		t.Fatal(err)
	}
	tx := new(dnsserver.Tx)
	for _, r := range status.Records {
		if strings.Contains(r.Name, "mail._domainkey.") || strings.Contains(r.Name, "mail-ed25519._domainkey.") {
			tx.Add(dnsserver.Record{Name: r.Name, Type: "TXT", Value: dnsserver.QuoteText(r.Value), TTL: 60})
		}
	}
	if err := errors.Join(e.world.Update(t.Context(), tx), e.Stop(t.Context()), e.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, patience, func() error { return keys("active") })
}

// mailCertificateIsThere waits for what STARTTLS and port 465 show.
func (e *enterprise) mailCertificateIsThere(t *testing.T) {
	t.Helper()
	testenv.WaitFor(t, patience, func() error {
		for _, s := range e.Stats().Certificates {
			if s.Name == "mail.example.com" && !s.NotAfter.IsZero() && s.Challenge == "dns-01" {
				return nil
			}
		}
		return errors.New("no certificate for mail.example.com")
	})
}

// crowd has clients of all protocols at work for a time, while routes change.
func (e *enterprise) crowd(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	names := filepath.Join(testenv.Folder(t), "names")
	if err := os.WriteFile(names, []byte(strings.Repeat("www.enterprise.net A\n", 50)), 0o644); err != nil {
		t.Fatal(err)
	}
	user := []string{"--from", "app@example.com", "--auth", "PLAIN", "--auth-user", "app@example.com", "--auth-password", "wonderland", "--to", "x@notifications.example.com",
		"--tls-verify", "--tls-ca-path", e.roots, "--tls-sni", "mail.example.com", "--header", "Subject: from the app"}
	var group sync.WaitGroup
	for name, once := range map[string]func() error{
		"website":    func() error { return e.requests(t, "https://www.example.com/[1-50]", "website") },
		"api":        func() error { return e.requests(t, "https://api.example.com/[1-50]", "api") },
		"submission": func() error { return e.taking(t, &e.taken, atStranger, 587, append(user, "--tls")...) },
		"smtps":      func() error { return e.taking(t, &e.taken, atStranger, 465, append(user, "--tls-on-connect")...) },
		"office": func() error {
			return e.taking(t, &e.relayed, atOffice, 25, "--to", "x@anywhere.com", "--header", "Subject: from the office")
		},
		"stranger": func() error {
			e.kept.Add(1)
			if out, err := e.send(t, atStranger, 25, "--to", "x@anywhere.com"); err == nil || !strings.Contains(out, "550 5.7.1 Relay denied") {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		},
		"many": func() error {
			out, err := try(t, "smtp-source", "apt-get install postfix", "", "-c", "-s", "4", "-m", "20", "-l", "2048", "-f", "someone@elsewhere.com", "-t", "x@notifications.example.com", e.port(25))
			e.taken.Add(20)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		},
		"DNS":    func() error { return e.queries(t, names) },
		"RADIUS": func() error { return e.devices(t) },
		"routes": func() error { return e.changeRoutes(t.Context(), ctx.Done()) },
	} {
		group.Go(func() {
			for ctx.Err() == nil {
				if err := once(); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	testenv.Await(t, "the clients", group.Wait)
	t.Logf("in %v: %d HTTP requests, %d messages sent on, %d from the office, %d refused, %d DNS queries, %d devices, %d changes of routes",
		d, e.http.Load(), e.taken.Load(), e.relayed.Load(), e.kept.Load(), e.dns.Load(), e.accepted.Load(), e.updates)
}

// requests makes fifty requests on a connection.
func (e *enterprise) requests(t *testing.T, url, backend string) error {
	out, err := e.curl(t, "-o", "/dev/null", "-w", "%{http_code} %header{x-backend}\n", url)
	good := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "200 "+backend) {
			good++
		}
	}
	e.http.Add(50)
	if err != nil || good != 50 {
		return fmt.Errorf("%d of 50, %v: %.500s", good, err, out)
	}
	return nil
}

// taking sends a message, and counts it.
func (e *enterprise) taking(t *testing.T, counter *atomic.Int64, host, port int, args ...string) error {
	out, err := e.send(t, host, port, args...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	counter.Add(1)
	return nil
}

// queries asks fifty times by UDP and by TCP.
func (e *enterprise) queries(t *testing.T, names string) error {
	for _, transport := range []string{"+notcp", "+tcp"} {
		out, err := try(t, "dig", "apt-get install bind9-dnsutils", "", "@"+e.at(atGateway), "+time=20", "+tries=1", "+keepopen", "+short", transport, "-f", names)
		e.dns.Add(50)
		if n := strings.Count(out, "192.0.2.7\n"); err != nil || n != 50 {
			return fmt.Errorf("%s: %d of 50, %v: %.500s", transport, n, err, out)
		}
	}
	return nil
}

// devices lets twenty guests in.
func (e *enterprise) devices(t *testing.T) error {
	var list []string
	for i := range 20 {
		mac := fmt.Sprintf("00:11:22:33:44:%02x", i)
		list = append(list, fmt.Sprintf("User-Name = %q\nCalling-Station-Id = %q\nUser-Password = %q\nMessage-Authenticator = 0x00\n", mac, mac, mac))
	}
	out, err := try(t, "radclient", "apt-get install freeradius-utils", strings.Join(list, "\n"), "-x", "-t", "10", "-r", "3", "-p", "5", e.port(1812), "auth", "enterprise-radius-secret")
	e.accepted.Add(20)
	if n := strings.Count(out, `Tunnel-Private-Group-Id:0 = "999"`); err != nil || n != 20 {
		return fmt.Errorf("%d of 20, %v: %.1000s", n, err, out)
	}
	return nil
}

// changeRoutes moves the API to another server, adds a route, and takes all back.
func (e *enterprise) changeRoutes(ctx context.Context, enough <-chan struct{}) error {
	before := e.Routes()
	after := slices.Clone(before)
	after[1].Action.Targets = slices.Clone(after[1].Action.Targets)
	after[1].Action.Targets[0].Host = e.at(21)
	more := before[0]
	more.Name, more.Match.Domains = "more", []string{"dns.example.com"}
	for _, routes := range append([][]proxy.Route{append(after, more)}, before) {
		if err := e.UpdateRoutes(ctx, routes); err != nil {
			return err
		}
		e.updates++
		select {
		case <-enough:
			return e.UpdateRoutes(ctx, before)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// lossless waits until all mail has gone where it belongs, once each.
func (e *enterprise) lossless(t *testing.T) {
	t.Helper()
	testenv.WaitFor(t, patience, func() error {
		if s := e.Stats().Email.Spool; s.Messages > 0 {
			return fmt.Errorf("in the spool: %+v", s)
		}
		return nil
	})
	for _, test := range []struct {
		sink sink
		want int64
	}{{e.mx, e.taken.Load()}, {e.internal, e.relayed.Load()}} {
		files, err := filepath.Glob(filepath.Join(test.sink.folder, "mail.*"))
		if err != nil || int64(len(files)) != test.want {
			t.Errorf("%d messages have come of %d, %v", len(files), test.want, err)
		}
	}
	signed := regexp.MustCompile(`DKIM-Signature: [^\n]* d=example\.com;[^\n]* s=mail;`)
	if m := e.mx.wait(t, "Subject: from the app"); !signed.MatchString(strings.ReplaceAll(m, "\n ", " ")) {
		t.Errorf("not signed:\n%.3000s", m)
	}
	if m := e.internal.wait(t, "Subject: from the office"); strings.Contains(m, "DKIM-Signature") {
		t.Errorf("signed:\n%.3000s", m)
	}
}

// agrees compares what the operations API says with what clients have counted.
func (e *enterprise) agrees(t *testing.T) {
	t.Helper()
	var answer struct{ Stats dcrouter.Stats }
	if err := signIn(t, "http://"+e.port(3000), "correct-horse-battery-staple").call(t, "getServerStatistics", nil, &answer); err != nil {
		t.Fatal(err)
	}
	s := &answer.Stats
	var requests, good uint64
	for _, r := range s.Proxy.Routes {
		requests, good = requests+r.Requests, good+r.Responses[2]
	}
	for _, test := range []struct {
		what      string
		got, want uint64
	}{
		{"requests", requests, uint64(e.http.Load())},
		{"good responses", good, uint64(e.http.Load())},
		{"messages", s.Email.Messages.Accepted, uint64(e.taken.Load() + e.relayed.Load())},
		{"notifications", s.Email.Routes["notifications"], uint64(e.taken.Load())},
		{"mail of the office", s.Email.Routes["office-relay"], uint64(e.relayed.Load())},
		{"refused mail", s.Email.Refused["route"], uint64(e.kept.Load())},
		{"mail sent on", s.Email.Deliveries.Forwarded, uint64(e.taken.Load() + e.relayed.Load())},
		{"DNS queries", s.DNS.Transports.UDP.Queries + s.DNS.Transports.TCP.Queries, uint64(e.dns.Load())},
		{"DNS answers", s.DNS.Rcodes["NOERROR"], uint64(e.dns.Load())},
		{"accepted devices", s.RADIUS.Accepts, uint64(e.accepted.Load())},
		{"rejected devices", s.RADIUS.Rejects, 0},
	} {
		if test.got != test.want {
			t.Errorf("%s: the API says %s, the clients %s", test.what, strconv.FormatUint(test.got, 10), strconv.FormatUint(test.want, 10))
		}
	}
	if len(s.Certificates) < 4 {
		t.Errorf("%d certificates", len(s.Certificates))
	}
}

// stops stops the gateway while clients are connected that say nothing.
func (e *enterprise) stops(t *testing.T) {
	t.Helper()
	for _, port := range []int{25, 443, 465, 53, 3000} {
		c, err := e.dialFrom(atStranger, e.port(port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := e.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	t.Logf("stopped in %v", time.Since(begin))
}
