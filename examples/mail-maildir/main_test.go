package main

import (
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "swaks", "apt-get install swaks")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	p.Try(t, "alice@example.com", "250 2.0.0 Accepted as ")
	p.Try(t, "cat mail-maildir.data/", "Delivered-To: alice@example.com", "This is a test mailing")
	p.Try(t, "bob@example.com", "We have enough")
	p.Interrupt(t)
}
