package smtpd

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"
)

// Silence within a body ends the connection, and what comes then is no command
// (emersion/go-smtp#196).
func TestDataTimeout(t *testing.T) {
	for _, data := range []string{"DATA", "BDAT 100", "BDAT 100 LAST"} {
		h := &host{}
		inBubble(t, h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
			c.want("220")
			begin(c)
			if data == "DATA" {
				c.ask(data, "354")
			} else {
				c.send("%s\r\n", data)
			}
			c.send("some\r\n")
			time.Sleep(2 * time.Minute)
			c.send("more\r\n")
			start := time.Now()
			c.want("421 4.4.2")
			c.wantEnd()
			// Of the 3 minutes 1 is left, and what the last 6 bytes are worth.
			took(t, start, time.Minute+6*time.Second/512)
			if len(h.accepted()) > 0 || !strings.Contains(h.log(), "data failed") || !h.saw(TimedOut) {
				t.Errorf("%s: accepted %q, events %v, calls\n%s", data, h.accepted(), h.events, h.log())
			}
		})
	}
}

// Where the end of a body that was refused does not come, the connection ends:
// what might come later is no command.
func TestTimeoutBehindRefusal(t *testing.T) {
	tests := []struct{ name, sent string }{
		{"too large", "DATA\r\n" + strings.Repeat("x", 1500)},
		{"NUL", "DATA\r\n\x00"},
		{"bare LF", "DATA\r\n\n"},
		{"refused by the session", "DATA\r\nrefuse"},
		{"chunk too large", "BDAT 1500\r\n" + strings.Repeat("x", 1400)},
		{"chunk without recipients", "RSET\r\nBDAT 100\r\nx"},
		{"chunk refused by the session", "BDAT 100\r\nrefuse"},
	}
	for _, test := range tests {
		h := &host{data: func(_ context.Context, r io.Reader) (*Reply, error) {
			start := make([]byte, 6)
			if _, err := io.ReadFull(r, start); err == nil && string(start) == "refuse" {
				return nil, newReply(554, 5, 7, 1, "no")
			}
			_, err := io.Copy(io.Discard, r)
			return nil, err
		}}
		inBubble(t, h, Mode{}, func(c *Config) { c.MaxMessageSize = 1000 }, func(t *testing.T, s *Server, c *client) {
			c.want("220")
			begin(c)
			go func() {
				_, _ = io.WriteString(c.conn, test.sent)
				time.Sleep(10 * time.Minute)
				_, _ = io.WriteString(c.conn, "\r\n.\r\nMAIL FROM:<evil@b.org>\r\n")
			}()
			rest, _ := io.ReadAll(c.r)
			lines := strings.Split(strings.TrimSpace(string(rest)), "\r\n")
			if last := lines[len(lines)-1]; last[0] != '4' && last[0] != '5' || strings.Contains(h.log(), "evil") {
				t.Errorf("%s: got %q, calls\n%s", test.name, lines, h.log())
			}
			time.Sleep(20 * time.Minute)
		})
	}
}

// Whoever sends a byte each minute does not hold a connection for long; whoever
// sends at the lowest rate may go on.
func TestDataRate(t *testing.T) {
	h := &host{}
	inBubble(t, h, Mode{}, func(c *Config) { c.MinDataRate = 100 }, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		begin(c)
		c.ask("DATA", "354")
		line := strings.Repeat("x", 98) + "\r\n"
		for range 2 * 60 * 60 { // longer than SessionTimeout
			time.Sleep(time.Second)
			c.send("%s", line)
		}
		c.send(".\r\n")
		c.want("250", "421 4.4.2")
		c.wantEnd()
	})
	inBubble(t, &host{}, Mode{}, func(c *Config) { c.MinDataRate = 100 }, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		begin(c)
		c.ask("DATA", "354")
		start := time.Now()
		go func() {
			for {
				if _, err := c.conn.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(time.Minute)
			}
		}()
		c.want("421 4.4.2")
		if d := time.Since(start); d < 3*time.Minute || d > 4*time.Minute {
			t.Errorf("took %v", d)
		}
		c.conn.Close()
	})
}

// Who has sent much at once has saved up no time by that.
func TestNoCreditForData(t *testing.T) {
	inBubble(t, &host{}, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		begin(c)
		c.ask("DATA", "354")
		c.send("%s", strings.Repeat(strings.Repeat("x", 998)+"\r\n", 1000)) // half an hour's worth
		start := time.Now()
		go func() {
			for {
				time.Sleep(time.Minute)
				if _, err := c.conn.Write([]byte("x")); err != nil {
					return
				}
			}
		}()
		c.want("421 4.4.2")
		if d := time.Since(start); d > 4*time.Minute {
			t.Errorf("took %v", d)
		}
		c.conn.Close()
	})
}

// A body that is refused is read at the same rate as another, and who falls behind
// is told why it was refused.
func TestRateOfRefusedBody(t *testing.T) {
	h := &host{data: func(context.Context, io.Reader) (*Reply, error) { return nil, newReply(550, 5, 7, 1, "spam") }}
	const lines = 240 // one a second, for longer than DataTimeout
	line := strings.Repeat("x", 998) + "\r\n"
	for command, want := range map[string]string{"DATA": "550 5.7.1", "BDAT 240000 LAST": "550 5.7.1", "RSET\r\nBDAT 240000 LAST": "503 5.5.1"} {
		for _, slow := range []bool{false, true} {
			inBubble(t, h, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
				c.want("220")
				begin(c)
				go func() {
					_, _ = io.WriteString(c.conn, command+"\r\n")
					for range lines {
						time.Sleep(time.Second)
						if _, err := io.WriteString(c.conn, line); err != nil || slow {
							return
						}
					}
					if command == "DATA" {
						_, _ = io.WriteString(c.conn, ".\r\n")
					}
					_, _ = io.WriteString(c.conn, "NOOP\r\n")
				}()
				if command == "DATA" {
					c.want("354")
				} else if want == "503 5.5.1" {
					c.want("250")
				}
				c.want(want)
				if slow {
					c.wantEnd()
				} else {
					c.want("250 2.0.0 Done")
				}
			})
			if h.saw(TimedOut) != slow {
				t.Errorf("%s: slow %v, events %v", command, slow, h.events)
			}
			h.events = nil
		}
	}
}

// The same within the chunks of BDAT, between which there are commands.
func TestChunkRate(t *testing.T) {
	inBubble(t, &host{}, Mode{}, nil, func(t *testing.T, s *Server, c *client) {
		c.want("220")
		begin(c)
		start := time.Now()
		go func() {
			for {
				if _, err := c.conn.Write([]byte("BDAT 1\r\nx")); err != nil {
					return
				}
				time.Sleep(time.Minute)
			}
		}()
		for {
			reply, err := c.reply()
			if err != nil || strings.HasPrefix(reply, "421 4.4.2") {
				break
			}
			if !strings.HasPrefix(reply, "250") {
				t.Fatal(reply)
			}
		}
		if d := time.Since(start); d < 3*time.Minute || d > 4*time.Minute {
			t.Errorf("took %v", d)
		}
		c.conn.Close()
	})
}
