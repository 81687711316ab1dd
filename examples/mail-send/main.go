// Command mail-send sends a message with text, HTML and an attachment, and prints
// what becomes of it.
//
//	go run ./examples/mail-send
//
// needs no internet: a second server in the same program stands for that of the
// recipient. With -to the message goes to the MX hosts of a real recipient:
//
//	go run ./examples/mail-send -from you@your-domain.example -to somebody@example.net
//
// For that to arrive anywhere, the domain needs the DNS records that are logged at
// the start, and port 25 has to be open in both directions.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/storage"
)

func main() {
	from := flag.String("from", "shop@example.com", "the author")
	to := flag.String("to", "", "the recipient; without one nothing leaves this program")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *from, *to); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, from, to string) error {
	_, domain, _ := strings.Cut(from, "@")
	cfg := email.Config{
		Ports:    email.Ports(25), // where bounces come back
		Hostname: "mail." + domain,
		Domains:  []email.Domain{{Domain: domain}},
	}
	opts := []email.Option{email.WithHooks(email.Hooks{OnEvent: func(e email.Event) {
		fmt.Printf("event %-9s %s %s\n", e.Kind, strings.Join(e.Recipients, ", "), e.Reason)
	}})}
	if to == "" {
		to = "ann@example.net"
		other, err := startRecipient(ctx)
		if err != nil {
			return err
		}
		defer other.Stop(context.Background())
		port := other.Addrs()[0].(*net.TCPAddr).Port
		cfg.ListenHost, cfg.Ports = "127.0.0.1", email.Ports(0)
		cfg.SmartHost = &email.SmartHost{Host: "127.0.0.1", Port: port}
		opts = append(opts, email.WithResolver(nobody{}))
	} else {
		// What has to outlast the program: keys, what waits, whom not to write to.
		store, err := storage.Open(ctx, storage.Dir("mail-send.data"))
		if err != nil {
			return err
		}
		defer store.Close()
		opts = append(opts, email.WithStorage(store), email.WithLogger(slog.Default()))
	}

	s, err := email.New(cfg, opts...)
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	defer s.Stop(context.Background())

	id, err := s.SendEmail(ctx, email.Email{
		From:    "Shop <" + from + ">",
		To:      []string{to},
		Subject: "Your order 17 is on its way – größer als gedacht",
		Text:    "Hello,\n\nyour order 17 is on its way. The invoice is attached.\n",
		HTML:    `<p>Hello,</p><p>your order <b>17</b> is on its way. The invoice is attached.</p><p><img src="cid:logo" alt="Shop"></p>`,
		Attachments: []email.Attachment{
			{Filename: "invoice.csv", Content: []byte("article,price\r\nrouter,42\r\n")},
			{Filename: "logo.svg", ContentID: "logo", Content: []byte(`<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle cx="4" cy="4" r="4"/></svg>`)},
		},
		Headers:  map[string]string{"List-Unsubscribe": "<https://" + domain + "/unsubscribe?17>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
		Queue:    email.PriorityQueue,
		Metadata: map[string]string{"order": "17"}, // comes back with every event
	})
	if err != nil {
		return err
	}
	st, err := wait(ctx, s, id)
	fmt.Printf("%s: %s, %d recipients, tried %d times\n", st.ID, st.Status, len(st.Recipients), st.Tries)
	for _, e := range st.Timeline {
		fmt.Printf("  %s %-9s %s %s %s\n", e.Time.Format(time.TimeOnly), e.Kind, e.Host, e.TLS, e.Text)
	}
	return err
}

// wait waits until a message is no longer pending. A program that sends much would
// rather be told, by the hook or a webhook.
func wait(ctx context.Context, s *email.Server, id string) (email.EmailStatus, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.EmailStatus(ctx, id)
		if err != nil || st.Status != email.StatusPending {
			return st, err
		}
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-tick.C:
		}
	}
}

// startRecipient starts a server that takes mail for example.net and prints it.
func startRecipient(ctx context.Context) (*email.Server, error) {
	s, err := email.New(email.Config{
		ListenHost: "127.0.0.1",
		Ports:      email.Ports(0),
		Hostname:   "mx.example.net",
		Domains:    []email.Domain{{Domain: "example.net"}},
		Routes:     []email.Route{{Match: email.Match{Recipients: []string{"*@example.net"}}, Action: email.Action{Type: email.Deliver}}},
	}, email.WithMailbox(func(_ context.Context, d *email.Delivery) error {
		content, err := io.ReadAll(d.Content)
		fmt.Printf("%s gets:\n%s\n", d.Recipient, content)
		return err
	}), email.WithResolver(nobody{}))
	if err != nil {
		return nil, err
	}
	return s, s.Start(ctx)
}

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
