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
	testenv.Need(t, "curl", "apt-get install curl")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	p.Try(t, "curl -L", " answers / for www.example.com:8443")
	if out := p.Try(t, "/hello", " answers /hello ") + p.Try(t, "/hello"); !strings.Contains(out, "blue") || !strings.Contains(out, "green") {
		t.Errorf("the two did not take turns:\n%s", out)
	}
	for range 2 {
		p.Try(t, "/api/", "green answers /api/ ")
	}
	p.Try(t, "cdn.example.com", "<h1>a file</h1>")
	p.Try(t, "websocket", " says 0\n", " says 2\n")

	p.Try(t, "/sick", "is blue sick? true")
	inARow := 0
	testenv.WaitFor(t, time.Minute, func() error {
		if inARow++; strings.Contains(p.Try(t, "/hello", " answers "), "blue") {
			inARow = 0
		}
		if inARow < 5 {
			return fmt.Errorf("green has answered %d times in a row", inARow)
		}
		return nil
	})
	p.Try(t, "/sick", "is blue sick? false")
	testenv.WaitFor(t, time.Minute, func() error {
		if !strings.Contains(p.Try(t, "/hello", " answers "), "blue") {
			return fmt.Errorf("blue does not come back")
		}
		return nil
	})
	p.Interrupt(t)
}
