package email_test

import (
	"context"
	"fmt"
	"io"
	"net"
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

// Mail goes out, and a hook is told what becomes of it. A second server stands for
// that of the recipient; without SmartHost the message would go to the MX hosts of
// its domain.
func ExampleServer_SendEmail() {
	ctx := context.Background()
	recipient, err := email.New(email.Config{
		ListenHost: "127.0.0.1",
		Ports:      email.Ports(0),
		Hostname:   "mx.example.net",
		Domains:    []email.Domain{{Domain: "example.net", DMARC: email.MonitorDMARC}},
		Routes:     []email.Route{{Match: email.Match{Recipients: []string{"ann@example.net"}}, Action: email.Action{Type: email.Deliver}}},
	}, email.WithMailbox(func(_ context.Context, d *email.Delivery) error {
		_, err := io.Copy(io.Discard, d.Content)
		return err
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := recipient.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer recipient.Stop(ctx)

	events := make(chan email.Event, 10)
	s, err := email.New(email.Config{
		ListenHost: "127.0.0.1",
		Ports:      email.Ports(0), // where bounces would come back
		Hostname:   "mail.example.com",
		Domains:    []email.Domain{{Domain: "example.com"}},
		SmartHost:  &email.SmartHost{Host: "127.0.0.1", Port: recipient.Addrs()[0].(*net.TCPAddr).Port},
	}, email.WithHooks(email.Hooks{OnEvent: func(e email.Event) { events <- e }}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := s.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer s.Stop(ctx)

	_, err = s.SendEmail(ctx, email.Email{ // the id is for EmailStatus, and in each event
		From: "Shop <shop@example.com>", To: []string{"ann@example.net"},
		Subject: "Your order", HTML: "<p>It is on its way.</p>",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for e := range events {
		fmt.Println(e.Kind, e.Recipients)
		if e.Kind == email.EventDelivered || e.Kind == email.EventFailed {
			break
		}
	}
	// Output:
	// received [ann@example.net]
	// delivered [ann@example.net]
}
