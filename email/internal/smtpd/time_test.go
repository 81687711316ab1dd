package smtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// inBubble runs a client and a server in a time of their own.
func inBubble(t *testing.T, h *host, mode Mode, change func(*Config), f func(t *testing.T, s *Server, c *client)) {
	t.Helper()
	inBubbleOver(t, func(c net.Conn) net.Conn { return c }, h, mode, change, f)
}

// inBubbleOver does so with a connection that the server's end is made of.
func inBubbleOver(t *testing.T, over func(net.Conn) net.Conn, h *host, mode Mode, change func(*Config), f func(t *testing.T, s *Server, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Hostname: "mx.example.com", OnEvent: func(_ *Conn, e Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, e)
		}}
		if change != nil {
			change(&cfg)
		}
		s, err := New(cfg, h, testLogger(t))
		if err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		go s.ServeConn(t.Context(), over(there), mode)
		c := &client{t, here, bufio.NewReader(here)}
		f(t, s, c)
		here.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // for what f has left to notice the end
	})
}

// took checks how long something has taken in the bubble.
func took(t *testing.T, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got != want {
		t.Errorf("took %v, want %v", got, want)
	}
}

func TestCommandTimeout(t *testing.T) {
	h := &host{}
	inBubble(t, h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		start := time.Now()
		c.want("421 4.4.2")
		c.wantEnd()
		took(t, start, 5*time.Minute)
		if !h.saw(TimedOut) {
			t.Error("there is no event")
		}
	})
}

// One byte now and then does not prolong the time for a command.
func TestSlowCommand(t *testing.T) {
	inBubble(t, &host{}, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		start := time.Now()
		go func() {
			for {
				if _, err := c.conn.Write([]byte("N")); err != nil {
					return
				}
				time.Sleep(time.Minute)
			}
		}()
		c.want("421 4.4.2")
		c.wantEnd()
		took(t, start, 5*time.Minute)
		c.conn.Close()
	})
}

func TestSessionTimeout(t *testing.T) {
	h := &host{}
	inBubble(t, h, Mode{}, func(c *Config) { c.MaxCommands = 1000 }, func(t *testing.T, s *Server, c *client) {
		start := time.Now()
		c.want("220")
		for range 59 {
			time.Sleep(time.Minute)
			c.ask("NOOP", "250")
		}
		c.want("421 4.4.2")
		c.wantEnd()
		took(t, start, time.Hour)
	})
}

// A client that takes in no replies.
func TestWriteTimeout(t *testing.T) {
	inBubble(t, &host{}, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		time.Sleep(6 * time.Minute) // and the greeting is not read
		if rest, err := io.ReadAll(c.r); len(rest) > 0 {
			t.Errorf("got %q, %v", rest, err)
		}
	})
}

// A client that does not go on with a handshake, for longer than the server looks
// ahead.
func TestLongHandshakeTimeout(t *testing.T) {
	h := &host{}
	inBubble(t, h, Mode{ImplicitTLS: true}, func(c *Config) {
		c.TLS, c.HandshakeTimeout = &tls.Config{}, time.Minute
	}, func(t *testing.T, s *Server, c *client) {
		start := time.Now()
		io.ReadAll(c.r)
		took(t, start, time.Minute)
	})
	if !h.saw(TimedOut) {
		t.Error("there is no event")
	}
}

// answeringConn writes while it reads, as TLS does to answer a change of keys, and
// the client takes in none of it.
type answeringConn struct {
	net.Conn
	greeted bool
}

func (c *answeringConn) Write(p []byte) (int, error) {
	if !c.greeted {
		c.greeted = true
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *answeringConn) Read([]byte) (int, error) {
	_, err := c.Conn.Write([]byte("my new keys"))
	return 0, err
}

func TestWriteTimeoutWhileReading(t *testing.T) {
	over := func(c net.Conn) net.Conn { return &answeringConn{Conn: c} }
	inBubbleOver(t, over, &host{}, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		time.Sleep(11 * time.Minute) // until the farewell cannot be written either
		if rest, err := io.ReadAll(c.r); len(rest) > 0 {
			t.Errorf("got %q, %v", rest, err)
		}
	})
}

// A client that has taken too long and takes in nothing does not hold the
// connection as long again.
func TestFarewellTimeout(t *testing.T) {
	inBubble(t, &host{}, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		start := time.Now()
		time.Sleep(6 * time.Minute)
		if _, err := c.conn.Write([]byte("NOOP\r\n")); err == nil {
			t.Error("the connection is open")
		}
		took(t, start, 6*time.Minute)
	})
}

// A handshake that waits for a client to take in what it is told is ended by
// Shutdown, as one that waits for it to speak.
func TestShutdownWithinHandshake(t *testing.T) {
	for _, sent := range []string{"", noCipherHello} {
		change := func(c *Config) { c.TLS = &tls.Config{} }
		inBubble(t, &host{}, Mode{ImplicitTLS: true}, change, func(t *testing.T, s *Server, c *client) {
			c.send("%s", sent)
			synctest.Wait()
			start := time.Now()
			if err := s.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			took(t, start, 0)
		})
	}
}

// noCipherHello is a ClientHello that is answered with an alert.
const noCipherHello = "\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x0301234567890123456789012345678901\x00\x00\x02\x13\x01\x01\x00\x00\x00"

// shakingConn reads before it writes, as TLS does for a handshake.
type shakingConn struct{ net.Conn }

func (c shakingConn) Write(p []byte) (int, error) {
	if _, err := c.Conn.Read(make([]byte, 1)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// To refuse a connection does not wait for its client.
func TestRefusalDoesNotWait(t *testing.T) {
	change := func(c *Config) { c.MaxConnections = 1 }
	inBubble(t, &host{}, Mode{}, change, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		here, there := net.Pipe()
		defer here.Close()
		start := time.Now()
		s.ServeConn(t.Context(), shakingConn{there}, Mode{})
		took(t, start, time.Second)
	})
}

// Who has set a deadline to look at the connection first need not take it back.
func TestDeadlineOfTheHost(t *testing.T) {
	over := func(c net.Conn) net.Conn {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	inBubbleOver(t, over, &host{}, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		time.Sleep(time.Minute)
		c.ask("NOOP", "250")
	})
}

func TestGreetDelay(t *testing.T) {
	delay := func(c *Config) { c.GreetDelay = 10 * time.Second }
	h := &host{}
	inBubble(t, h, Mode{}, delay, func(t *testing.T, s *Server, c *client) {
		start := time.Now()
		c.want("220")
		took(t, start, 10*time.Second)
		c.ask("NOOP", "250")
	})
	if h.saw(EarlyTalker) {
		t.Error("who waits is taken for an early talker")
	}
	inBubble(t, h, Mode{}, delay, func(t *testing.T, s *Server, c *client) {
		start := time.Now()
		c.ask("EHLO x", "554 5.5.1")
		c.wantEnd()
		took(t, start, 0)
	})
	if !h.saw(EarlyTalker) {
		t.Error("there is no event")
	}
	// While the session is being made.
	h = &host{connect: func(context.Context, *Conn) error { time.Sleep(3 * time.Second); return nil }}
	inBubble(t, h, Mode{}, delay, func(t *testing.T, s *Server, c *client) {
		c.ask("EHLO x", "554 5.5.1")
		c.wantEnd()
	})
}

func TestRefusedBeforeGreeting(t *testing.T) {
	h := &host{connect: func(context.Context, *Conn) error { return newReply(554, 5, 7, 1, "listed") }}
	inBubble(t, h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("554 5.7.1 listed")
		c.wantEnd()
	})
	h = &host{connect: func(context.Context, *Conn) error { return errors.New("secret") }}
	inBubble(t, h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("421 4.3.0 mx.example.com has a local error")
		c.wantEnd()
	})
}

// A client that hangs up ends the work on what it has sent.
func TestHangUpEndsWork(t *testing.T) {
	for _, when := range []string{"NewSession", "Mail", "Data", "BDAT"} {
		ended := make(chan error, 1)
		work := func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				ended <- context.Cause(ctx)
			case <-time.After(time.Hour):
				ended <- errors.New("nobody has ended it")
			}
			return ctx.Err()
		}
		h := &host{}
		switch when {
		case "NewSession":
			h.connect = func(ctx context.Context, _ *Conn) error { return work(ctx) }
		case "Mail":
			h.mail = func(ctx context.Context, _ addr.Address) error { return work(ctx) }
		default:
			h.data = func(ctx context.Context, r io.Reader) (*Reply, error) {
				if _, err := io.Copy(io.Discard, r); err != nil {
					return nil, err
				}
				return nil, work(ctx)
			}
		}
		inBubble(t, h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
			switch when {
			case "Mail":
				c.want("220")
				c.ask("EHLO x", "250-")
				c.send("MAIL FROM:<a@b.org>\r\n")
			case "Data":
				c.want("220")
				begin(c)
				c.ask("DATA", "354")
				c.send("x\r\n.\r\n")
			case "BDAT":
				c.want("220")
				begin(c)
				c.send("BDAT 3 LAST\r\nx\r\n")
			}
			time.Sleep(time.Second)
			start := time.Now()
			c.conn.Close()
			if err := <-ended; !errors.Is(err, errHungUp) {
				t.Errorf("%s: ended by %v", when, err)
			}
			took(t, start, 0)
		})
	}
}

// halfClosing is the server's end of a connection whose client only says that it
// will send no more, by closing its end of another pipe.
type halfClosing struct {
	net.Conn
	in net.Conn
}

func (c halfClosing) Read(p []byte) (int, error)        { return c.in.Read(p) }
func (c halfClosing) SetReadDeadline(t time.Time) error { return c.in.SetReadDeadline(t) }

// A client that has said QUIT may end its side: it waits for the replies, and gets
// them however long the session takes.
func TestHalfCloseBehindQuit(t *testing.T) {
	for _, quit := range []bool{true, false} {
		h := &host{data: func(ctx context.Context, r io.Reader) (*Reply, error) {
			_, _ = io.Copy(io.Discard, r)
			select {
			case <-time.After(10 * time.Second):
				return nil, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		var send net.Conn
		over := func(c net.Conn) net.Conn {
			in, out := net.Pipe()
			send = out
			return halfClosing{c, in}
		}
		inBubbleOver(t, over, h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
			go func() {
				_, _ = io.WriteString(send, "EHLO x\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>\r\nDATA\r\nx\r\n.\r\n")
				if quit {
					_, _ = io.WriteString(send, "NOOP\r\nquit\r\n")
				}
				send.Close()
			}()
			c.want("220")
			if quit {
				c.want("250-", "250", "250", "354", "250 2.0.0 Accepted", "250 2.0.0 Done", "221")
			}
			if rest, _ := io.ReadAll(c.r); quit && len(rest) > 0 || strings.Contains(string(rest), "Accepted") {
				t.Errorf("quit %v: got %q", quit, rest)
			}
		})
	}
}

// What a client sends ahead while the session works is not lost.
func TestSentAheadOfSlowSession(t *testing.T) {
	h := &host{rcpt: func(addr.Address) error { time.Sleep(5 * time.Second); return nil }}
	inBubble(t, h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		c.ask("EHLO x", "250-")
		c.ask("MAIL FROM:<a@b.org>", "250")
		c.send("RCPT TO:<c@d.org>\r\n")
		time.Sleep(time.Second)
		c.send("RCPT TO:<e@f.org>\r\n")
		c.want("250", "250")
		c.send("DATA\r\n")
		c.want("354")
		c.send("x\r\n.\r\n")
		c.want("250")
		if got := h.accepted(); len(got) != 1 || got[0] != "x\r\n" {
			t.Errorf("got %q", got)
		}
	})
}

// What became of a message is told at once, however long the session takes to
// forget it and for the commands that the client has sent behind it.
func TestReplyToMessageDoesNotWait(t *testing.T) {
	for _, end := range []string{"DATA\r\nx\r\n.\r\n", "BDAT 3 LAST\r\nx\r\n"} {
		var h host
		h.reset = func() { time.Sleep(10 * time.Second) }
		h.mail = func(context.Context, addr.Address) error {
			if len(h.accepted()) > 0 {
				time.Sleep(30 * time.Second)
			}
			return nil
		}
		inBubble(t, &h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
			c.want("220")
			begin(c)
			start := time.Now()
			c.send("%sMAIL FROM:<a@b.org>\r\nNOOP\r\n", end)
			if strings.HasPrefix(end, "DATA") {
				c.want("354")
			}
			c.want("250 2.0.0 queued")
			took(t, start, 0)
			c.want("250 2.1.0", "250 2.0.0 Done")
			took(t, start, 40*time.Second)
		})
	}
}

// Under TLS, reading ahead and being stopped leaves the records whole.
func TestSentAheadUnderTLS(t *testing.T) {
	certPath, keyPath, _ := testenv.SelfSigned(t)
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{rcpt: func(addr.Address) error { time.Sleep(5 * time.Second); return nil }}
	change := func(c *Config) { c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}} }
	inBubble(t, h, Mode{ImplicitTLS: true}, change, func(t *testing.T, s *Server, c *client) {
		conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true}) // it is the year 2000 here
		c = &client{t, conn, bufio.NewReader(conn)}
		c.want("220")
		c.ask("EHLO x", "250-")
		c.ask("MAIL FROM:<a@b.org>", "250")
		for range 3 {
			c.send("RCPT TO:<c@d.org>\r\n")
			c.want("250")
			c.send("RCPT TO:<c@d.org>\r\n")
			time.Sleep(time.Second)
			c.send("RCPT TO:<e@f.org>\r\n")
			c.want("250", "250")
		}
		c.ask("DATA", "354")
		c.send("x\r\n.\r\n")
		c.want("250")
	})
}
