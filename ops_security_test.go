package dcrouter_test

import (
	"fmt"
	"net/smtp"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Whoever tries to relay mail all the time does not push the events of others out
// of the operator's list: each cause is shown once a minute for an address.
func TestMailEventsAreBounded(t *testing.T) {
	testenv.Goroutines(t)
	r := startRouter(t, loadConfig(t, fmt.Sprintf(`{"storage": {"fsPath": %q},
		"opsServerConfig": {"port": 0, "admin": {"username": "admin", "password": "hunter2hunter2"}},
		"emailConfig": {"listenHost": "127.0.0.1", "ports": [0], "hostname": "mx.example.com", "domains": [{"domain": "example.com"}],
			"routes": [{"name": "local", "match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}}]}}`, t.TempDir())))
	const attempts = 40
	for i := range attempts {
		c, err := smtp.Dial(r.Addrs()["email"][0])
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Mail("a@example.net"); err != nil {
			t.Fatal(err)
		}
		if err := c.Rcpt(fmt.Sprintf("u%d@elsewhere.example", i)); err == nil || !strings.Contains(err.Error(), "Relaying denied") {
			t.Fatal(err)
		}
		c.Quit()
	}
	if n := r.Stats().Email.Refused["relay"]; n != attempts {
		t.Errorf("%d refusals are counted", n)
	}
	events := signIn(t, r).call("getSecurityEvents", map[string]any{"limit": 1000}, nil)
	if n := strings.Count(events, `"kind":"mail_refused"`); n < 1 || n > 2 { // the minute may end between
		t.Errorf("%d events are shown:\n%s", n, events)
	}
}
