package testenv

import (
	"strings"
	"testing"
)

func TestTry(t *testing.T) {
	p := Start(t, Opts{}, "sh", "-c", `echo "  echo one of \$((1+1))  # a comment"; echo "10:00 try: pwd; echo one more"; echo "log of echo two"; sleep 60`)
	if out := p.Try(t, "one of", "one of 2\n"); strings.Contains(out, "comment") {
		t.Errorf("got %q", out)
	}
	p.Try(t, "pwd", p.Dir)
	for _, part := range []string{"two", "one"} { // in a line of the log, and in two lines to try
		if line, err := p.toTry(part); err == nil {
			t.Errorf("%q is %q", part, line)
		}
	}
}

func TestAddressIsHere(t *testing.T) {
	a, b := Address(t), Address(t)
	for _, addr := range []string{a, b} {
		Loopback(t, addr)
	}
}
