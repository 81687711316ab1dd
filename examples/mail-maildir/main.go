// Command mail-maildir receives mail for example.com into Maildirs below
// mail-maildir.data/mail. It listens on 127.0.0.1:2525.
//
//	go run ./examples/mail-maildir
//	swaks --server 127.0.0.1:2525 --from me@example.net --to alice@example.com
//	cat mail-maildir.data/mail/example.com/alice/new/*
package main

import (
	"context"
	"flag"
	"log"
	"log/slog"
	"os"
	"os/signal"

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

	log.Printf("try: swaks --server %s:2525 --from me@example.net --to alice@example.com", *listen)
	log.Print("try: cat mail-maildir.data/mail/example.com/alice/new/*  # where the message is then")
	log.Printf("try: swaks --server %s:2525 --from me@example.net --to bob@example.com --header 'Subject: Free money'  # refused", *listen)
	<-ctx.Done()
}
