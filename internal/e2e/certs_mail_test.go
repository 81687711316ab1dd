package e2e

import (
	"crypto/tls"
	"net/smtp"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Mail has the automatic certificate of its host name, for STARTTLS and for
// implicit TLS.
func TestCertificateOfMail(t *testing.T) {
	testenv.Goroutines(t)
	g := newGateway(t, setup{config: func(c *dcrouter.Config) {
		c.Email = &email.Config{
			ListenHost: "127.0.0.1", Hostname: "mail.example.com", Ports: []email.Port{{}, {Mode: email.SMTPS}},
			Routes: []email.Route{{Match: email.Match{Recipients: []string{"*@example.com"}}, Action: email.Action{Type: email.Process}}},
		}
	}})
	g.waitForState(t, "mail.example.com", func(s dcrouter.CertificateState) bool { return !s.NotAfter.IsZero() && !s.InProgress })
	settings := &tls.Config{ServerName: "mail.example.com", RootCAs: g.pebble.Root(t)}
	addrs := g.Addrs()["email"]
	c, err := smtp.Dial(addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.StartTLS(settings); err != nil {
		t.Error(err)
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
	conn, err := tls.Dial("tcp", addrs[1], settings)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
