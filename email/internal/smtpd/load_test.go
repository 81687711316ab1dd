package smtpd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/emersion/go-sasl"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// null is a backend that takes everything and keeps nothing.
type null struct{}

func (null) NewSession(context.Context, *Conn) (Session, error) { return null{}, nil }
func (null) Helo(context.Context, string) error                 { return nil }
func (null) AuthMechanisms() []string                           { return nil }
func (null) Authenticate(context.Context, string) (sasl.Server, error) {
	return nil, errors.New("nobody signs in")
}
func (null) Mail(context.Context, addr.Address, *MailOptions) error { return nil }
func (null) Rcpt(context.Context, addr.Address, *RcptOptions) error { return nil }
func (null) Data(_ context.Context, r io.Reader) (*Reply, error) {
	_, err := io.Copy(io.Discard, r)
	return nil, err
}
func (null) Reset() {}
func (null) Close() {}

// 2,000 connections that do nothing must not cost much, neither in memory nor
// to those that do something.
func TestIdleConnections(t *testing.T) {
	s := serve(t, &host{}, Mode{}, func(c *Config) { c.TLS = nil })
	const n = 2000
	var before, after runtime.MemStats
	warm := dial(t, s)
	warm.want("220")
	runtime.GC()
	runtime.ReadMemStats(&before)
	conns := make([]net.Conn, n)
	greeting := make([]byte, len("220 mx.example.com ESMTP\r\n"))
	for i := range conns {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.ReadFull(conn, greeting); err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (after.HeapInuse + after.StackInuse - before.HeapInuse - before.StackInuse) / n
	t.Logf("an idle connection costs %d bytes (heap %d, stack %d), the test's own end included", each,
		(after.HeapInuse-before.HeapInuse)/n, (after.StackInuse-before.StackInuse)/n)
	if each > 32<<10 && !testenv.Race { // which has a memory of its own
		t.Errorf("an idle connection costs %d bytes", each)
	}
	c := dial(t, s)
	c.want("220")
	begin(c)
	c.ask("DATA", "354")
	c.send("x\r\n.\r\n")
	c.want("250")
}

func BenchmarkMessage(b *testing.B) {
	body := strings.Repeat(strings.Repeat("x", 70)+"\r\n", 4096/72) + ".\r\n"
	for _, how := range []string{"a connection each", "one connection", "one connection, pipelined"} {
		b.Run(how, func(b *testing.B) {
			s, err := New(Config{Hostname: "mx.example.com", MaxTransactions: 1 << 30}, null{}, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = s.Serve(b.Context(), l, Mode{}) }()
			r := &running{Server: s, addr: l.Addr().String()}
			var c *client
			b.ReportAllocs()
			for i := range b.N {
				if i == 0 || how == "a connection each" {
					c = dial(b, r)
					c.want("220")
					c.ask("EHLO x", "250-")
				}
				if strings.HasSuffix(how, "pipelined") {
					c.send("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
					c.want("250", "250", "354")
				} else {
					c.ask("MAIL FROM:<a@example.org>", "250")
					c.ask("RCPT TO:<b@example.com>", "250")
					c.ask("DATA", "354")
				}
				_, _ = io.WriteString(c.conn, body)
				c.want("250")
				if how == "a connection each" {
					c.ask("QUIT", "221")
					c.conn.Close()
				}
			}
		})
	}
}

// BenchmarkSMTPSource has Postfix' load generator send messages of 4 KiB, and
// reports what they cost this process.
func BenchmarkSMTPSource(b *testing.B) {
	source := testenv.Need(b, "smtp-source", "apt-get install postfix")
	for _, conns := range []string{"1", "40"} {
		for _, reuse := range []string{"", "-d"} { // of connections
			b.Run(conns+" connections "+reuse, func(b *testing.B) {
				s, err := New(Config{Hostname: "mx.example.com", MaxTransactions: 1 << 30}, null{}, slog.New(slog.DiscardHandler))
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				go func() { _ = s.Serve(b.Context(), l, Mode{}) }()
				args := []string{"-s", conns, "-m", strconv.Itoa(max(b.N, 40)), "-l", "4096", "-f", "a@example.org", "-t", "b@example.com", "-M", "client.example.org"}
				if reuse != "" {
					args = append(args, reuse)
				}
				var before, after syscall.Rusage
				b.ReportAllocs()
				b.ResetTimer()
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
				if out, err := exec.Command(source, append(args, "inet:"+l.Addr().String())...).CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
				cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
				b.ReportMetric(float64(cpu)/1000/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// BenchmarkBody is the reading of bodies alone.
func BenchmarkBody(b *testing.B) {
	sent := strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20_000) + ".\r\n"
	b.SetBytes(int64(len(sent)))
	buf := make([]byte, 32<<10)
	for range b.N {
		g := testGuard(b, sent, 1<<20)
		g.in.enlarge(g.server)
		body := &dotBody{intake: intake{g: g}, lineStart: true}
		for {
			if _, err := body.Read(buf); err != nil {
				if err != io.EOF {
					b.Fatal(err)
				}
				break
			}
		}
		g.stopWatch()
	}
}
