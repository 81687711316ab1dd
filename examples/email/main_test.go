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
	testenv.Need(t, "swaks", "apt-get install swaks")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	gets := func(who string) {
		t.Helper()
		testenv.WaitFor(t, time.Minute, func() error {
			if !strings.Contains(p.Output(), who+` gets "test `) {
				return fmt.Errorf("%s has not got the message", who)
			}
			return nil
		})
	}
	p.Try(t, "ann@example.net --to bob@", "250 2.0.0 ")
	gets("inside: bob@example.com")
	p.Try(t, "--to nobody@", "There is nobody of that name")
	p.Try(t, "--to press@", "250 2.0.0 ")
	p.Try(t, "cat email.data/", "Delivered-To: press@marketing.example.com", "This is a test mailing")
	p.Try(t, "ann@spam.example", "550 5.7.1 Rejected due to policy")
	p.Try(t, "ann@example.net --to carol@", "550 5.7.1 Relay denied")
	p.Try(t, ":2587", "~> AUTH PLAIN", "250 2.0.0 ")
	gets("world: carol@example.org")
	p.Try(t, ":2465", "TLS started", "~> .", "<~* 55")
	p.Interrupt(t)
}
