package transport

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// takes notes what is answered with success at the end.
func takes(p *peer, phase smtpc.Phase) bool {
	if phase == smtpc.PhaseEnd {
		p.take()
	}
	return true
}

// fault is a way to misbehave.
type fault struct {
	name   string
	do     func(p *peer) bool
	code   int // of the answer that it is, to be respected; 0: it is none
	status smtpc.Status
	slow   bool
}

func faults() []fault {
	say := func(goOn bool, lines ...string) func(p *peer) bool {
		return func(p *peer) bool { p.say(lines...); return goOn }
	}
	return []fault{
		{"closes", func(p *peer) bool { return false }, 0, 0, false},
		{"resets", func(p *peer) bool { p.Conn.(*net.TCPConn).SetLinger(0); return false }, 0, 0, false},
		{"is silent", func(p *peer) bool { io.Copy(io.Discard, p.r); return false }, 0, 0, true},
		{"is too slow", drip, 0, 0, true},
		{"garbage", say(false, "HTTP/1.1 400 Bad Request"), 0, 0, false},
		{"NUL", say(false, "\x00\x00\x00"), 0, 0, false},
		{"endless line", func(p *peer) bool { return flood(p, "250 x", "x") }, 0, 0, false},
		{"endless lines", func(p *peer) bool { return flood(p, "", "250-more\r\n") }, 0, 0, false},
		{"two codes", say(false, "250-a", "251 b"), 0, 0, false},
		{"421", say(false, "421 4.3.2 shutting down"), 421, smtpc.Temporary, false},
		{"450", say(true, "450 4.7.1 greylisted"), 450, smtpc.Temporary, false},
		{"550", say(true, "550 5.7.1 no"), 550, smtpc.Permanent, false},
		{"5xx with 2.x", say(true, "550 2.0.0 no"), 550, smtpc.Permanent, false},
		{"4xx with 5.x", say(true, "451 5.0.0 no"), 451, smtpc.Temporary, false},
		{"control bytes", say(true, "550-5.7.1 \x00\x1b[2J\r", "550 5.7.1 \x07\xff"), 550, smtpc.Permanent, false},
	}
}

// A host misbehaves in one phase, in one way; the next one is fine. Nothing is
// lost, and nothing is taken twice where RFC 5321 can prevent it.
func TestMisbehaviour(t *testing.T) {
	testenv.Goroutines(t)
	var slow sync.WaitGroup // all at once, as they only wait
	for _, phase := range []smtpc.Phase{smtpc.PhaseGreeting, smtpc.PhaseHello, smtpc.PhaseMail, smtpc.PhaseRcpt, smtpc.PhaseData, smtpc.PhaseContent, smtpc.PhaseEnd} {
		for _, w := range faults() {
			if phase == smtpc.PhaseContent && (w.code != 0 || w.slow || w.name == "NUL" || w.name == "garbage" || w.name == "two codes") {
				continue // replies before the end: TestEarlyReply
			}
			for _, extension := range []string{"PIPELINING", "SIZE"} {
				if w.slow || phase == smtpc.PhaseContent {
					slow.Go(func() { misbehave(t, phase, w, extension) })
				} else {
					misbehave(t, phase, w, extension)
				}
			}
		}
	}
	slow.Wait()
}

func misbehave(t *testing.T, phase smtpc.Phase, w fault, extension string) {
	label := fmt.Sprintf("%s, %s, %s", phase, w.name, extension)
	a := start(t, &server{extensions: []string{extension}, on: func(p *peer, at smtpc.Phase) bool {
		if at != phase {
			return takes(p, at)
		}
		return w.do(p)
	}})
	b := start(t, &server{on: takes})
	cfg := Config{Dial: network(a, b)}
	if w.slow {
		short := 2 * time.Second
		cfg.Timeouts = smtpc.Timeouts{Greeting: short, Command: short, Mail: short, Rcpt: short, Data: short, End: short}
	}
	r := request(2, "b@y.test")
	if phase == smtpc.PhaseContent {
		cfg.Timeouts.Block = time.Second
		r.Content = strings.NewReader("Subject: big\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 200_000))
	}
	result := client(t, cfg).Send(t.Context(), r)

	want, taken, attempts, first := "b@y.test delivered end 250", "B: b@y.test", 2, "mx1.y.test "+string(phase)
	if w.code != 0 {
		first += fmt.Sprintf(" %d", w.code)
	}
	switch {
	case phase == smtpc.PhaseHello && w.status == smtpc.Permanent: // HELO will do
		taken, attempts, first = "A: b@y.test", 1, "mx1.y.test end 250"
	case phase == smtpc.PhaseGreeting || phase == smtpc.PhaseHello:
	case w.code != 0:
		want, taken, attempts = fmt.Sprintf("b@y.test %s %s %d", w.status, phase, w.code), "", 1
		if w.code == 421 {
			want += "; trouble"
		}
	case phase == smtpc.PhaseContent:
		want, taken, attempts = "b@y.test temporary content 0; trouble", "", 1
	case phase == smtpc.PhaseEnd:
		want, taken, attempts = "b@y.test unknown end 0; trouble", "", 1
	}
	if got := outcome(result); got != want {
		t.Errorf("%s: %s, not %s", label, got, want)
	}
	if got := got(a, b); got != taken {
		t.Errorf("%s: taken: %s, not %s", label, got, taken)
	}
	line := timeline(result)
	if phase == smtpc.PhaseGreeting { // a reset may come as early as that
		line = strings.Replace(line, "connect", "greeting", 1)
	}
	if len(result.Attempts) != attempts || !strings.HasPrefix(line+",", first+",") {
		t.Errorf("%s: %d attempts, not %d: %s, not %s", label, len(result.Attempts), attempts, line, first)
	}
	for _, at := range result.Attempts {
		if at.Time.IsZero() || at.Addr.Port() != 25 || at.Recipients != 1 || strings.ContainsAny(at.Reply+at.Err, "\x00\x07\x1b\r\n") || at.Reply+at.Err == "" {
			t.Errorf("%s: %+v", label, at)
		}
	}
}

// drip sends a byte now and then, which does not give more time.
func drip(p *peer) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := p.Write([]byte("2")); err != nil {
			return false
		}
	}
	return false
}

func flood(p *peer, begin, more string) bool {
	more = strings.Repeat(more, 1000)
	for _, err := io.WriteString(p, begin); err == nil; {
		_, err = io.WriteString(p, more)
	}
	return false
}
