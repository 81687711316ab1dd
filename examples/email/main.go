// Command email is the mail gateway of an office: by the recipient, the sender and
// who has signed in, mail is handed to the server inside, sent to the world,
// delivered here or refused. The proxy owns the ports, so that its limits and lists
// hold for mail too (useSocketHandler), and hands connections over.
//
//	go run ./examples/email
//
// needs nothing else: the server inside and the one of the world are in this program
// and print what they get. It prints what to try. Ports 2525, 2587 and 2465 stand for
// 25, 587 and 465.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/mail"
	"os"
	"os/signal"
	"strings"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/proxy"
)

const help = `Try, in another shell here:

  swaks --server %[1]s:2525 --from ann@example.net --to bob@example.com       # forward: the server inside gets it
  swaks --server %[1]s:2525 --from ann@example.net --to nobody@example.com    # forward: and it is that one which says no
  swaks --server %[1]s:2525 --from ann@example.net --to press@marketing.example.com # deliver
  cat email.data/mail/marketing.example.com/press/new/*                        # the mailbox
  swaks --server %[1]s:2525 --from ann@spam.example --to bob@example.com      # reject
  swaks --server %[1]s:2525 --from ann@example.net --to carol@example.org     # reject: this is no open relay
  swaks --server %[1]s:2587 --tls --auth PLAIN --auth-user bob --auth-password secret --from bob@example.com --to carol@example.org # process: the world gets it
  swaks --server %[1]s:2465 --tls-on-connect --auth PLAIN --auth-user bob --auth-password secret --from bob@example.com --to carol@example.org --attach-name a.exe --attach text # process: refused by a scanner
`

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *listen); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen string) error {
	inside, err := startOther(ctx, "inside", "example.com")
	if err != nil {
		return err
	}
	defer inside.Stop(context.Background())
	world, err := startOther(ctx, "world", "example.org")
	if err != nil {
		return err
	}
	defer world.Stop(context.Background())

	r, err := dcrouter.New(
		dcrouter.WithConfig(dcrouter.Config{
			Proxy: &proxy.Config{
				ListenHost:          listen,
				MaxConnectionsPerIP: 20,
				ACME:                &proxy.ACME{LocalCA: true}, // in production Email and UseProduction
			},
			Storage: &dcrouter.StorageConfig{FSPath: "email.data"}, // the spool and mailboxes too
		}),
		dcrouter.WithEmail(config(port(inside), port(world)), email.WithResolver(nobody{})), // without this one in production
		dcrouter.WithLogger(slog.Default()),
	)
	if err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	defer r.Stop(context.Background())
	fmt.Printf(help, listen)
	<-ctx.Done()
	return nil
}

// config could as well be JSON, as the section emailConfig. Its routes change while
// it runs, by Router.UpdateDomainRules.
func config(inside, world int) email.Config {
	return email.Config{
		UseSocketHandler: true,
		Ports:            []email.Port{{Port: 2525, Mode: email.SMTP}, {Port: 2587, Mode: email.Submission}, {Port: 2465, Mode: email.SMTPS}},
		Hostname:         "mail.example.com", // it has a certificate, as the names of routes do
		Domains:          []email.Domain{{Domain: "example.com"}, {Domain: "marketing.example.com"}},
		Auth:             &email.Auth{Users: []email.User{{Username: "bob", Password: "secret"}}}, // or WithAuthenticator
		Scanners:         []email.Scanner{{Type: email.AttachmentScanner, BlockedExtensions: []string{".exe"}}},
		Routes: []email.Route{{
			Name:     "spam",
			Priority: 100,
			Match:    email.Match{Senders: []string{"*@spam.example"}},
			Action:   email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "Rejected due to policy"}},
		}, {
			Name:     "users",
			Priority: 50,
			Match:    email.Match{Authenticated: new(true)},
			Action:   email.Action{Type: email.Process, Process: &email.ProcessAction{Scan: true, Queue: email.PriorityQueue}},
		}, {
			Name:   "office",
			Match:  email.Match{Recipients: []string{"*@example.com"}},
			Action: email.Action{Type: email.Forward, Forward: &email.ForwardAction{Host: "127.0.0.1", Port: inside, AddHeaders: map[string]string{"X-Forwarded-By": "dcrouter"}}},
		}, {
			Name:   "marketing",
			Match:  email.Match{Recipients: []string{"press@marketing.example.com", "events@marketing.example.com"}},
			Action: email.Action{Type: email.Deliver},
		}, {
			Name:     "rest",
			Priority: -1,
			Match:    email.Match{Recipients: []string{"*"}},
			Action:   email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "Relay denied"}},
		}},
		SmartHost: &email.SmartHost{Host: "127.0.0.1", Port: world}, // without it mail goes to the MX hosts of its recipients
	}
}

// startOther starts a mail server that stands for one elsewhere. It takes mail for
// everybody in the domain but nobody, and prints it.
func startOther(ctx context.Context, name, domain string) (*email.Server, error) {
	s, err := email.New(email.Config{
		ListenHost: "127.0.0.1",
		Ports:      []email.Port{{Mode: email.SMTP}}, // any port
		Hostname:   name + ".example",
		Domains:    []email.Domain{{Domain: domain}},
		Routes:     []email.Route{{Match: email.Match{Recipients: []string{"*@" + domain}}, Action: email.Action{Type: email.Deliver}}},
	}, email.WithResolver(nobody{}), email.WithMailbox(func(_ context.Context, d *email.Delivery) error {
		m, err := mail.ReadMessage(d.Content)
		if err == nil {
			fmt.Printf("%s: %s gets %q\n", name, d.Recipient, m.Header.Get("Subject"))
		}
		return err
	}), email.WithHooks(email.Hooks{OnRcpt: func(_ context.Context, _ *email.Envelope, recipient string) error {
		if strings.HasPrefix(recipient, "nobody@") {
			return &email.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "There is nobody of that name"}
		}
		return nil
	}}))
	if err != nil {
		return nil, err
	}
	return s, s.Start(ctx)
}

func port(s *email.Server) int { return s.Addrs()[0].(*net.TCPAddr).Port }

// nobody is a DNS without names.
type nobody struct{}

func (nobody) LookupTXT(_ context.Context, name string) ([]string, error) { return nil, missing(name) }
func (nobody) LookupMX(_ context.Context, name string) ([]*net.MX, error) { return nil, missing(name) }
func (nobody) LookupAddr(_ context.Context, ip string) ([]string, error)  { return nil, missing(ip) }
func (nobody) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	return nil, missing(name)
}

func missing(name string) error {
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}
