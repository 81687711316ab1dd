package email_test

import (
	"context"
	"fmt"
	"io"
	"net/smtp"
	"strings"

	"github.com/dcrouter/dcrouter/email"
)

// Mail comes to code of the host.
func Example() {
	got := make(chan string, 1)
	s, err := email.New(email.Config{
		ListenHost: "127.0.0.1",
		Ports:      email.Ports(0),
		Hostname:   "mx.example.com",
		Domains:    []email.Domain{{Domain: "example.com"}},
		Routes: []email.Route{{
			Match:  email.Match{Recipients: []string{"tickets@example.com"}},
			Action: email.Action{Type: email.Deliver},
		}},
	}, email.WithMailbox(func(_ context.Context, d *email.Delivery) error {
		content, err := io.ReadAll(d.Content)
		_, body, _ := strings.Cut(string(content), "\r\n\r\n")
		got <- d.From + " to " + d.Recipient + ": " + body
		return err
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := s.Start(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	defer s.Stop(context.Background())

	err = smtp.SendMail(s.Addrs()[0].String(), nil, "me@example.net", []string{"tickets@example.com"},
		[]byte("From: me@example.net\r\nSubject: printer\r\n\r\nIt is on fire.\r\n"))
	fmt.Println(err)
	fmt.Print(<-got)
	// Output:
	// <nil>
	// me@example.net to tickets@example.com: It is on fire.
}
