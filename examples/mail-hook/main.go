// Command mail-hook is a program that mail comes to: it takes what is sent to
// tickets@example.com over SMTP, and decides by itself what else it accepts. It
// listens on 127.0.0.1:2525.
//
//	go run ./examples/mail-hook
//	swaks --server 127.0.0.1:2525 --from me@example.net --to tickets+42@example.com
package main

import (
	"context"
	"flag"
	"log"
	"log/slog"
	"net/mail"
	"os"
	"os/signal"
	"strings"

	"github.com/dcrouter/dcrouter/email"
)

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	s, err := email.New(email.Config{
		ListenHost: *listen,
		Ports:      email.Ports(2525),
		Hostname:   "mail.example.com",
		Domains:    []email.Domain{{Domain: "example.com"}},
		Routes: []email.Route{{
			Name:   "tickets",
			Match:  email.Match{Recipients: []string{"tickets+*@example.com", "tickets@example.com"}},
			Action: email.Action{Type: email.Deliver},
		}},
	},
		email.WithLogger(slog.Default()),
		email.WithMailbox(file),
		email.WithHooks(email.Hooks{OnRcpt: ticketExists}),
	)
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer s.Stop(context.Background())

	log.Printf("try: swaks --server %s:2525 --from me@example.net --to tickets+42@example.com", *listen)
	log.Printf("try: swaks --server %s:2525 --from me@example.net --to tickets+0@example.com  # which there is not", *listen)
	<-ctx.Done()
}

// ticketExists refuses mail about tickets that there are not, while the sender
// is still there to be told.
func ticketExists(_ context.Context, _ *email.Envelope, recipient string) error {
	if strings.HasPrefix(recipient, "tickets+0@") {
		return &email.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "There is no ticket 0"}
	}
	return nil
}

// file takes a message. Only when it has returned nil is the sender told that
// the message has arrived.
func file(_ context.Context, d *email.Delivery) error {
	m, err := mail.ReadMessage(d.Content)
	if err != nil {
		return &email.Reply{Code: 554, Enhanced: [3]int{5, 6, 0}, Text: "This message cannot be read"}
	}
	log.Printf("%s: %d bytes from %q for %q about %q; %s",
		d.ID, d.Content.Size(), d.From, d.Recipient, m.Header.Get("Subject"), d.Authentication)
	return nil
}
