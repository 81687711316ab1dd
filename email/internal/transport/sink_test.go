package transport

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// startSink runs Postfix's smtp-sink.
func startSink(t testing.TB, args ...string) netip.AddrPort {
	sink := testenv.Need(t, "smtp-sink", "apt-get install postfix")
	addr := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	if os.Geteuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	testenv.Start(t, testenv.Opts{Ready: addr}, sink, append(args, addr, "100")...)
	return netip.MustParseAddrPort(addr)
}

func sinkRequest(addr netip.AddrPort, size int) *Request {
	return &Request{
		Destination: mx.Destination{Domain: "y.test", Hosts: []mx.Host{{Name: "sink.test", Addrs: []netip.Addr{addr.Addr()}}}},
		Envelope:    smtpc.Envelope{From: "a@x.test", To: []smtpc.Rcpt{{Addr: "b@y.test"}}},
		Content:     bytes.NewReader([]byte("Subject: hello\r\n\r\n" + strings.Repeat(strings.Repeat("x", 62)+"\r\n", size/64))),
	}
}

// A real server that misbehaves: each message is told the truth about.
func TestSink(t *testing.T) {
	testenv.Goroutines(t)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"well":            {nil, "b@y.test delivered end 250"},
		"no pipelining":   {[]string{"-p"}, "b@y.test delivered end 250"},
		"HELO only":       {[]string{"-e"}, "b@y.test delivered end 250"},
		"closes at MAIL":  {[]string{"-q", "MAIL"}, "b@y.test temporary mail 0; trouble"},
		"closes at RCPT":  {[]string{"-q", "RCPT"}, "b@y.test temporary rcpt 0; trouble"},
		"closes at end":   {[]string{"-q", "."}, "b@y.test unknown end 0; trouble"},
		"421 in greeting": {[]string{"-Q", "CONNECT"}, "b@y.test temporary greeting 421; trouble"},
		"421 at DATA":     {[]string{"-Q", "DATA"}, "b@y.test temporary data 421; trouble"},
		"4xx at RCPT":     {[]string{"-r", "RCPT"}, "b@y.test temporary rcpt 450"},
		"5xx at end":      {[]string{"-f", "."}, "b@y.test permanent end 500"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := startSink(t, test.args...)
			c := client(t, Config{Port: addr.Port()})
			for range 3 {
				if result := c.Send(t.Context(), sinkRequest(addr, 1024)); outcome(result) != test.want {
					t.Errorf("%s by %+v", outcome(result), result.Attempts)
				}
			}
		})
	}
}

// BenchmarkSend is of whole messages, to smtp-sink.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		for _, senders := range []int{1, 20} {
			b.Run(fmt.Sprintf("%dKiB/%d", size>>10, senders), func(b *testing.B) {
				addr := startSink(b)
				c := client(b, Config{Port: addr.Port()})
				r := sinkRequest(addr, size)
				next := make(chan struct{})
				var group sync.WaitGroup
				for range senders {
					group.Go(func() {
						for range next {
							if result := c.Send(b.Context(), r); result.Recipients[0].Status != smtpc.Delivered {
								b.Error(outcome(result))
							}
						}
					})
				}
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					next <- struct{}{}
				}
				close(next)
				group.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
			})
		}
	}
}
