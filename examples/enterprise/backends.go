package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/mail"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/proxy"
)

// backends are the servers behind the gateway, and one that stands for the mail servers
// of the world. In production they are other machines.
type backends struct {
	website, api        proxy.Target
	internalMail, world int // ports

	servers []*email.Server
}

func startBackends(ctx context.Context) (*backends, error) {
	b := new(backends)
	var errs [4]error
	b.website, errs[0] = startHTTP("website")
	b.api, errs[1] = startHTTP("api")
	b.internalMail, errs[2] = b.startMail(ctx, "internal-mail.example.com")
	b.world, errs[3] = b.startMail(ctx, "mx.example.net")
	if err := errors.Join(errs[:]...); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

func (b *backends) stop() {
	for _, s := range b.servers {
		s.Stop(context.Background())
	}
}

func startHTTP(name string) (proxy.Target, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return proxy.Target{}, err
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s answers %s for %s\n", name, r.URL, r.Host)
	}))
	return proxy.Target{Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port}, nil
}

// startMail starts a server that takes all mail and says so.
func (b *backends) startMail(ctx context.Context, hostname string) (port int, err error) {
	s, err := email.New(email.Config{
		ListenHost: "127.0.0.1",
		Ports:      []email.Port{{Mode: email.SMTP}},
		Hostname:   hostname,
		Resolvers:  []string{"127.0.0.1:9"}, // it looks nothing up, senders neither
		Defaults:   email.Defaults{DMARC: email.MonitorDMARC},
		Routes:     []email.Route{{Match: email.Match{Recipients: []string{"*@*"}}, Action: email.Action{Type: email.Deliver}}},
	}, email.WithMailbox(func(_ context.Context, d *email.Delivery) error {
		m, err := mail.ReadMessage(d.Content)
		if err == nil {
			fmt.Printf("%s has mail for %s, with %d DKIM signatures\n", hostname, d.Recipient, len(m.Header["Dkim-Signature"]))
		}
		return err
	}))
	if err != nil {
		return 0, err
	}
	if err := s.Start(ctx); err != nil {
		return 0, err
	}
	b.servers = append(b.servers, s)
	return s.Addrs()[0].(*net.TCPAddr).Port, nil
}
