package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	for tool, from := range map[string]string{"curl": "curl", "dig": "bind9-dnsutils", "swaks": "swaks", "radclient": "freeradius-utils"} {
		testenv.Need(t, tool, "apt-get install "+from)
	}
	testenv.Loopback(t, "127.0.0.9") // the office
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	has := func(what string) {
		t.Helper()
		testenv.WaitFor(t, time.Minute, func() error {
			if !strings.Contains(p.Output(), what) {
				return fmt.Errorf("it does not say %q", what)
			}
			return nil
		})
	}
	p.Try(t, "/readyz", `"ready":true`)
	p.Try(t, "http://www", "website answers / for www.example.com:8443")
	p.Try(t, "/v1/orders", "api answers /v1/orders for api.example.com:8443")
	p.Try(t, "/resolve", `"data":"192.0.2.1"`)
	p.Try(t, " MX ", "10 mail.example.com.")
	p.Try(t, "_domainkey", "v=DKIM1; k=rsa; p=")
	p.Try(t, "127.0.0.9", "250 2.0.0 ")
	has("internal-mail.example.com has mail for ann@example.net, with 0 DKIM signatures")
	p.Try(t, "notifications", "250 2.0.0 ")
	has("mx.example.net has mail for news@notifications.example.com, with 0 DKIM signatures")
	has("a DKIM key has changed its state component=email domain=example.com selector=mail-ed25519 state=active")
	p.Try(t, ":2587", "250 2.0.0 ")
	has("mx.example.net has mail for ann@example.net, with 2 DKIM signatures")
	p.Try(t, "bob@example.org", "550 5.7.1 Relay denied")
	p.Try(t, "001122334455", "Received Access-Accept", `Tunnel-Private-Group-Id:0 = "100"`)
	p.Try(t, "alice", "Received Access-Accept", `Tunnel-Private-Group-Id:0 = "30"`)
	p.Interrupt(t)
}
