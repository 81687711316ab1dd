package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "swaks", "apt-get install swaks")
	listen := testenv.Address(t)
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", listen)
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

	// The proxy has the ports: its limit of 20 connections holds.
	for n := range 21 {
		conn, err := net.DialTimeout("tcp", listen+":2525", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		if line, err := bufio.NewReader(conn).ReadString('\n'); (err == nil) != (n < 20) {
			t.Fatalf("connection %d gets %q, %v", n+1, line, err)
		}
	}
	p.Interrupt(t)
}
