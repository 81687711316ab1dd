package smtpd

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// writes counts what goes out, write by write.
type writes struct {
	net.Conn
	sizes chan string
}

func (w writes) Write(p []byte) (int, error) {
	w.sizes <- string(p)
	return w.Conn.Write(p)
}

// A group of commands is answered in one write, a message in one of its own (RFC
// 2920 section 3.2).
func TestPipeliningInOneWrite(t *testing.T) {
	s := serve(t, &host{}, Mode{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w := writes{there, make(chan string, 100)}
	done := make(chan struct{})
	go func() { defer close(done); s.ServeConn(t.Context(), w, Mode{}) }()
	c := newClient(t, conn)
	c.want("220")
	c.ask("EHLO x", "250-")
	c.send("RSET\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>\r\nRCPT TO:<e@f.org>\r\nDATA\r\n")
	c.want("250", "250", "250", "250", "354")
	c.send("x\r\n.\r\nQUIT\r\n")
	c.want("250", "221")
	c.wantEnd()
	<-done
	close(w.sizes)
	var all []string
	for text := range w.sizes {
		all = append(all, text)
	}
	if len(all) != 5 || strings.Count(all[2], "\n") != 5 || !strings.HasPrefix(all[3], "250 2.0.0 queued") {
		t.Errorf("written: %q", all)
	}
}

func TestShutdown(t *testing.T) {
	h := &host{}
	s := serve(t, h, Mode{})
	idle, within, chunks := dial(t, s), dial(t, s), dial(t, s)
	idle.want("220")
	idle.ask("NOOP", "250")
	within.want("220")
	begin(within)
	within.ask("DATA", "354")
	within.send("begun\r\n")
	chunks.want("220")
	begin(chunks)
	chunks.send("BDAT 7\r\nbegun\r\n")
	chunks.want("250")

	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	idle.want("421 4.3.2")
	idle.wantEnd()
	testenv.WaitFor(t, 20*time.Second, func() error {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
			return errors.New("the port is open")
		}
		return nil
	})
	select {
	case err := <-done:
		t.Fatalf("Shutdown has not waited: %v", err)
	default:
	}
	within.send("ended\r\n.\r\n")
	within.want("250 2.0.0 queued", "421 4.3.2")
	within.wantEnd()
	chunks.send("BDAT 7 LAST\r\nended\r\n")
	chunks.want("250 2.0.0 queued", "421 4.3.2")
	chunks.wantEnd()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := strings.Join(h.accepted(), "|"); got != "begun\r\nended\r\n|begun\r\nended\r\n" {
		t.Errorf("accepted %q", got)
	}

	here, there := net.Pipe()
	go s.ServeConn(t.Context(), there, Mode{})
	c := newClient(t, here)
	c.want("421 4.3.2")
	c.wantEnd()
	if err := s.Serve(t.Context(), nopListener{}, Mode{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Errorf("a second Shutdown: %v", err)
	}
}

// halfPipe is a pipe with the two directions of TCP; its client never hangs up.
type halfPipe struct{ net.Conn }

func (halfPipe) CloseWrite() error { return nil }

// A client that has nothing under way does not hold up Shutdown, though it neither
// answers nor hangs up; after a message there is more patience, so that no reset
// takes its reply away.
func TestShutdownWithAnIdleClient(t *testing.T) {
	for name, want := range map[string]time.Duration{"idle": lingerIdle, "within a message": lingerTime} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := New(Config{Hostname: "mx.example.com"}, &host{}, testLogger(t))
				if err != nil {
					t.Fatal(err)
				}
				here, there := net.Pipe()
				go s.ServeConn(t.Context(), halfPipe{there}, Mode{})
				c := newClient(t, here)
				c.want("220")
				begin(c)
				if name != "idle" {
					c.ask("DATA", "354")
				}
				synctest.Wait()
				start := time.Now()
				done := make(chan error, 1)
				go func() { done <- s.Shutdown(context.Background()) }()
				synctest.Wait()
				if name != "idle" {
					c.send("x\r\n.\r\n")
					c.want("250 2.0.0 queued")
				}
				c.want("421 4.3.2")
				took(t, start, 0)
				if err := <-done; err != nil {
					t.Error(err)
				}
				took(t, start, want)
				here.Close()
				time.Sleep(time.Minute)
			})
		})
	}
}

type nopListener struct{ net.Listener }

func (nopListener) Close() error { return nil }

// At the deadline of Shutdown, what still works is told to end, and connections
// that do nothing are closed (with go-smtp alone they stay).
func TestShutdownDeadline(t *testing.T) {
	working := make(chan struct{})
	h := &host{}
	h.data = func(ctx context.Context, r io.Reader) (*Reply, error) {
		_, _ = io.Copy(io.Discard, r)
		close(working)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s := serve(t, h, Mode{})
	c, stuck := dial(t, s), dial(t, s)
	for _, c := range []*client{c, stuck} {
		c.want("220")
		begin(c)
		c.ask("DATA", "354")
	}
	c.send("x\r\n.\r\n")
	<-working
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	for _, c := range []*client{c, stuck} {
		if rest, _ := io.ReadAll(c.r); strings.Contains(string(rest), "250") {
			t.Errorf("got %q", rest)
		}
	}
	if h.open != 0 {
		t.Errorf("%d sessions are open", h.open)
	}
}

// Shutdown and Close may be called at once, by a host that loses patience.
func TestConcurrentShutdownAndClose(t *testing.T) {
	for range 2000 {
		s, err := New(Config{Hostname: "mx.example.com"}, null{}, testLogger(t))
		if err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		go s.ServeConn(t.Context(), there, Mode{})
		c := newClient(t, here)
		c.want("220")
		var wg sync.WaitGroup
		for _, stop := range []func(context.Context) error{s.Shutdown, s.Shutdown, s.Shutdown, func(context.Context) error { return s.Close() }} {
			wg.Go(func() {
				if err := stop(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		_, _ = io.Copy(io.Discard, c.r)
		wg.Wait()
	}
}

// The end of the context that a connection is served with ends the connection.
func TestContextEndsConnection(t *testing.T) {
	s := serve(t, &host{}, Mode{})
	ctx, cancel := context.WithCancel(context.Background())
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); s.ServeConn(ctx, there, Mode{}) }()
	c := newClient(t, here)
	c.want("220")
	cancel()
	<-done
	c.wantEnd()
}

func TestNew(t *testing.T) {
	if _, err := New(Config{}, &host{}, testLogger(t)); err == nil {
		t.Error("a server without a name")
	}
	s, err := New(Config{Hostname: "x"}, &host{}, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), nopListener{}, Mode{ImplicitTLS: true}); err == nil {
		t.Error("implicit TLS without a certificate")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
