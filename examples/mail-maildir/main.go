// Command mail-maildir receives mail for example.com into Maildirs below
// mail-maildir.data/mail. It listens on 127.0.0.1:2525.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"

	"github.com/dcrouter/dcrouter/email"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	s, err := email.New(email.Config{
		ListenHost: "127.0.0.1",
		Ports:      email.Ports(2525),
		Hostname:   "mail.example.com",
		Domains:    []email.Domain{{Domain: "example.com"}},
		DataPath:   "mail-maildir.data",
		Routes: []email.Route{{
			Name:     "no-programs",
			Priority: 10,
			Match:    email.Match{Subject: "/free money/i"},
			Action:   email.Action{Type: email.Reject, Reject: &email.RejectAction{Message: "We have enough"}},
		}, {
			Name:   "local",
			Match:  email.Match{Recipients: []string{"alice@example.com", "bob@example.com", "postmaster@example.com"}},
			Action: email.Action{Type: email.Deliver},
		}},
	}, email.WithLogger(slog.Default()))
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer s.Stop(context.Background())

	log.Print("try: swaks --server 127.0.0.1:2525 --from me@example.net --to alice@example.com; " +
		"the message is then in mail-maildir.data/mail/example.com/alice/new")
	<-ctx.Done()
}
