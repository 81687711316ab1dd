package main

import (
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "curl", "apt-get install curl")
	testenv.Need(t, "openssl", "apt-get install openssl")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t), "-targets", testenv.Address(t))
	p.Try(t, ":15432", "database at port 15432\n", `database got "hello\n"`)
	p.Try(t, ":15435", "database at port 15435\n", `database got "hello\n"`)
	if out := p.Try(t, ":15440"); strings.Contains(out, "database") {
		t.Errorf("whoever is not on the list gets through:\n%s", out)
	}
	p.Try(t, "secure.example.com", "CN = secure.example.com", `secure got "hello\n"`)
	if out := p.Try(t, "app.example.com", `app got "hello\n"`); strings.Contains(out, "CN = secure.example.com") {
		t.Errorf("shown the certificate of the other service:\n%s", out)
	}
	p.Interrupt(t)
}
