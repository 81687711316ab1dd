package main_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestDemonstration(t *testing.T) {
	program := filepath.Join(t.TempDir(), "mail-send")
	if out, err := testenv.Command(t, "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := testenv.Command(t, program).CombinedOutput()
	out := string(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"\nann@example.net gets:\nReturn-Path: <bounce+", "multipart/alternative", "text/html", "filename=invoice.csv", "\nList-Unsubscribe: <https://example.com/",
		"\nevent delivered ann@example.net 250 2.0.0 ", ": sent, 1 recipients, tried 1 times\n", " delivered 127.0.0.1:",
	} {
		if !strings.Contains(strings.ReplaceAll(out, "\r\n", "\n"), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}
