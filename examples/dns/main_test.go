package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	zone, err := os.ReadFile("example.com.zone")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "example.com.zone")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(string(zone))
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t), "-file", file)
	p.Try(t, "dig", "NOERROR", " aa ", "192.0.2.80")

	write(strings.ReplaceAll(string(zone), "192.0.2.80", "192.0.2.81"))
	p.Signal(syscall.SIGHUP)
	testenv.WaitFor(t, time.Minute, func() error {
		if out := p.Try(t, "dig", "NOERROR"); !strings.Contains(out, "192.0.2.81") {
			return fmt.Errorf("not read again:\n%s", out)
		}
		return nil
	})
	p.Interrupt(t)
}
