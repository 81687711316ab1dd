package main

import (
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	p := testenv.StartMain(t, testenv.Opts{})
	testenv.Await(t, "the end of the program", func() {
		if code := p.ExitCode(); code != 0 {
			t.Errorf("it ended with %d", code)
		}
	})
	out := p.Output()
	for _, want := range []string{
		"\nann@example.net gets:\nReturn-Path: <bounce+", "multipart/alternative", "text/html", "filename=invoice.csv", "\nList-Unsubscribe: <https://example.com/",
		"\nevent delivered ann@example.net 250 2.0.0 ", ": sent, 1 recipients, tried 1 times\n", " delivered 127.0.0.1:",
	} {
		if !strings.Contains(strings.ReplaceAll(out, "\r\n", "\n"), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}
