package main

import (
	"fmt"
	"net/smtp"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	p := testenv.StartMain(t, testenv.Opts{}, "-port", "0", "-every", "100ms")
	addr := ""
	testenv.WaitFor(t, time.Minute, func() error {
		if _, rest, ok := strings.Cut(p.Output(), "listening on "); ok {
			if line, _, ok := strings.Cut(rest, "\n"); ok {
				addr = line
				return nil
			}
		}
		return fmt.Errorf("it says %q", p.Output())
	})
	send := func(from, to string) {
		t.Helper()
		content := "From: " + from + "\r\nTo: " + to + "\r\nSubject: hi\r\n\r\nHello\r\n"
		if err := smtp.SendMail(addr, nil, from, []string{to}, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	const news = 60
	for i := range news {
		send("list@news.example.com", fmt.Sprintf("reader%d@example.net", i))
	}
	for range 3 {
		send("shop@example.com", "ann@example.org")
	}
	// Each of the new addresses sends half of its 20 to providers that are not known
	// by name, and the rest waits for tomorrow.
	testenv.WaitFor(t, time.Minute, func() error {
		out := p.Output()
		for want, n := range map[string]int{
			"from 127.0.0.2, which says it is out1.example.com": 10, "from 127.0.0.3, which says it is out2.example.com": 10,
			"mail for ann@example.org from 127.0.0.4, which says it is out3.example.com": 3, `webhook {"type":"delivered"`: 23,
		} {
			if got := strings.Count(out, want); got != n {
				return fmt.Errorf("%d times %q, %d wanted", got, want, n)
			}
		}
		if !strings.Contains(out, "source 127.0.0.2 (newsletters): day 1 of 6, sent 10 of 20 today\n") {
			return fmt.Errorf("no figures")
		}
		return nil
	})
	p.Interrupt(t)
}
