// Command enterprise is a datacenter's gateway with everything at once: web sites and
// APIs over HTTPS, mail, DNS, network access by RADIUS, certificates, the dashboard.
//
//	go run ./examples/enterprise
//
// runs on any machine without root: on ports of loopback that stand for the real ones,
// with back ends of its own, with certificates of an authority of its own, and without
// the internet. It prints what to try. Comments with "production" say what to change.
//
// Secrets come from the environment: ADMIN_PASSWORD, MAIL_PASSWORD and RADIUS_SECRET,
// which have values for demonstrations here, and CLOUDFLARE_API_KEY, with which
// certificates come from Let's Encrypt.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, *listen); err != nil {
		for _, e := range dcrouter.FieldErrors(err) { // one a line, each with the path of its field
			log.Print(e)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, listen string) error {
	b, err := startBackends(ctx)
	if err != nil {
		return err
	}
	defer b.stop()
	cfg := config(listen, b)
	r, err := dcrouter.New(
		dcrouter.WithConfig(cfg),
		// What cannot be JSON is an option: here code that decides about users.
		dcrouter.WithRADIUSOptions(radius.WithAuthorizer(staff)),
		dcrouter.WithLogger(slog.Default()),
	)
	if err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	if root := r.LocalCARoot(); root != nil {
		err = os.WriteFile("enterprise.data/ca.pem", root, 0o644)
	}
	help(listen)

	failed := make(chan error, 1)
	go func() { failed <- r.Wait() }()
	for minute := time.Tick(time.Minute); err == nil && ctx.Err() == nil; {
		select {
		case <-minute:
			s := r.Stats()
			log.Printf("%d connections are open, %d messages were accepted", s.Proxy.ActiveConnections, s.Email.Messages.Accepted)
		case err = <-failed: // a subsystem cannot go on
		case <-ctx.Done():
		}
	}
	patience, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return errors.Join(err, r.Stop(patience))
}

// config could as well be a file, for LoadConfig. In production, leave out the ports
// and ListenHost where there is a comment: the defaults are the real
// ports, on all addresses.
func config(listen string, b *backends) dcrouter.Config {
	auto := &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}}
	cfg := dcrouter.Config{
		ListenHost: listen, // production: leave it out
		Ops: &opsapi.Config{
			ListenHost: listen, // production: leave it out, and reach 127.0.0.1 through SSH
			Port:       new(3000),
			Admin:      opsapi.Admin{Username: "admin", Password: secret("ADMIN_PASSWORD")},
		},
		Proxy: &proxy.Config{
			Routes: []proxy.Route{{
				Name:     "website",
				Priority: 100,
				Match:    proxy.Match{Ports: proxy.Ports(8443), Domains: []string{"example.com", "www.example.com"}}, // production: 443
				Action:   proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{b.website}, TLS: auto},
			}, {
				Name:     "api",
				Priority: 110,
				Match:    proxy.Match{Ports: proxy.Ports(8443), Domains: []string{"api.example.com"}}, // production: 443
				Action:   proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{b.api}, TLS: auto},
			}, {
				Name:   "to-https",
				Match:  proxy.Match{Ports: proxy.Ports(8080)}, // production: 80
				Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://{host}:8443{uri}"}},
			}},
			ACME: &proxy.ACME{LocalCA: true},
		},
		Email: &email.Config{
			// production: email.Ports(25, 587, 465)
			Ports:    []email.Port{{Port: 2525, Mode: email.SMTP}, {Port: 2587, Mode: email.Submission}, {Port: 2465, Mode: email.SMTPS}},
			Hostname: "mail.example.com",
			Auth:     &email.Auth{Users: []email.User{{Username: "bob", Password: secret("MAIL_PASSWORD")}}},
			Domains: []email.Domain{{
				Domain:  "example.com",
				DNSMode: email.InternalDNS, // the records are in our DNS server; with ExternalDNS the log says what is missing elsewhere
				DKIM:    email.DKIM{Selector: "mail", RotateKeys: new(true)},
			}},
			Routes: []email.Route{{
				Name:     "office-relay",
				Priority: 100,
				Match:    email.Match{ClientIP: []string{"127.0.0.9"}}, // production: 192.168.0.0/16
				Action:   email.Action{Type: email.Forward, Forward: &email.ForwardAction{Host: "127.0.0.1", Port: b.internalMail}},
			}, {
				Name:     "users",
				Priority: 90,
				Match:    email.Match{Authenticated: new(true)},
				Action:   email.Action{Type: email.Process},
			}, {
				Name:     "notifications",
				Priority: 50,
				Match:    email.Match{Recipients: []string{"*@notifications.example.com"}},
				Action:   email.Action{Type: email.Process, Process: &email.ProcessAction{Scan: true, DKIM: new(true), Queue: email.PriorityQueue}},
			}, {
				Name:   "default-reject",
				Match:  email.Match{Recipients: []string{"*"}},
				Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "Relay denied"}},
			}},
			Scanners:  []email.Scanner{{Type: email.SpamScanner}},
			SmartHost: &email.SmartHost{Host: "127.0.0.1", Port: b.world}, // production: leave it out, and mail goes to the MX hosts
			Resolvers: []string{listen + ":5300"},                         // production: leave it out, or name one that validates DNSSEC
			Defaults:  email.Defaults{DMARC: email.MonitorDMARC},          // production: leave it out, as that resolver does not know of senders
		},
		RADIUS: &radius.Config{
			Port:           new(18120), // production: leave it out
			AccountingPort: new(18130), // production: leave it out
			Secret:         secret("RADIUS_SECRET"),
			MACAuth:        &radius.MACAuth{AllowedMACs: []string{"00:11:22:*"}, DefaultVLAN: 100, GuestVLAN: 999},
		},
		DNS: &dnsserver.Config{
			Port: new(5300), // production: leave it out
			Records: []dnsserver.Record{
				{Name: "example.com", Type: "A", Value: "192.0.2.1"},
				{Name: "www.example.com", Type: "CNAME", Value: "example.com"},
				{Name: "api.example.com", Type: "A", Value: "192.0.2.1"},
			},
		},
		DNSNSDomains: []string{"ns1.example.com", "ns2.example.com"},
		DNSDomain:    "dns.example.com", // DNS over HTTPS
		DoHPort:      new(8443),         // production: leave it out
		MTASTSPort:   new(8443),         // production: leave it out
		PublicIP:     []string{"192.0.2.1"},
		Storage:      &dcrouter.StorageConfig{FSPath: "enterprise.data"}, // production: /var/lib/dcrouter
	}
	if key := os.Getenv("CLOUDFLARE_API_KEY"); key != "" {
		cfg.Proxy.ACME = &proxy.ACME{Email: "ssl@example.com", UseProduction: true}
		cfg.DNSChallenge = &dcrouter.DNSChallenge{CloudflareAPIKey: dcrouter.Secret(key)}
	}
	return cfg
}

// secret is one from the environment, or else one that everybody knows.
func secret(name string) dcrouter.Secret {
	return dcrouter.Secret(cmp.Or(os.Getenv(name), "only for demonstrations"))
}

// staff is asked about users who sign in to the network. A real one asks a directory.
func staff(_ context.Context, r *radius.Request) (radius.Decision, error) {
	return radius.Decision{Accept: r.UserName == "alice" && r.CheckPassword("wonderland"), VLAN: 30}, nil
}

func help(listen string) {
	fmt.Printf(`Everything runs. The dashboard is at http://%[1]s:3000. Try, in another shell here:

  curl -sL --connect-to ::%[1]s: --cacert enterprise.data/ca.pem http://www.example.com:8080/  # the web site
  curl -s --connect-to ::%[1]s: --cacert enterprise.data/ca.pem https://api.example.com:8443/v1/orders  # the API
  curl -s --connect-to ::%[1]s: --cacert enterprise.data/ca.pem "https://dns.example.com:8443/resolve?name=api.example.com&type=A"  # DNS over HTTPS
  dig @%[1]s -p 5300 example.com MX +short  # by UDP, a record that the mail system has made
  dig @%[1]s -p 5300 mail._domainkey.example.com TXT +short  # the key with which mail is signed
  swaks --server %[1]s:2525 --local-interface 127.0.0.9 --from bob@example.com --to ann@example.net  # from the office: relayed
  swaks --server %[1]s:2525 --from ann@example.net --to news@notifications.example.com  # scanned and sent on
  swaks --server %[1]s:2587 --tls --auth PLAIN --auth-user bob --auth-password "${MAIL_PASSWORD:-only for demonstrations}" --from bob@example.com --to ann@example.net  # signed in, so signed and sent
  swaks --server %[1]s:2525 --from ann@example.net --to bob@example.org  # refused: this is no open relay
  echo 'User-Name="001122334455", User-Password="001122334455", Calling-Station-Id="00-11-22-33-44-55", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "${RADIUS_SECRET:-only for demonstrations}"  # a device
  echo 'User-Name="alice", User-Password="wonderland", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "${RADIUS_SECRET:-only for demonstrations}"  # a user
  curl -s http://%[1]s:3000/readyz  # is all well?

`, listen)
}
