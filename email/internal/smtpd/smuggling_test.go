package smtpd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

const smuggled = "MAIL FROM:<evil@b.org>\r\nRCPT TO:<c@d.org>\r\nDATA\r\nsmuggled\r\n.\r\n"

// Whatever some other server might take for the end of a message is none here,
// and there is no further command on that connection (CVE-2023-51764, 51765,
// 51766).
func TestSmuggling(t *testing.T) {
	for _, end := range []string{
		"\n.\n", "\n.\r\n", "\r.\r", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\n.\r", "\r.\n", "\r\n.\r\r\n", "\r\n\x00.\r\n", "\r\n.\x00\r\n",
		"\r\r\n.\n\r\n", "\n\n.\n\n", "x\rx", "x\nx", "\r", "\n", "\r\n.\r.\r\n", "\r\n..\n", "\x00",
	} {
		t.Run(fmt.Sprintf("%q", end), func(t *testing.T) {
			for _, slow := range []bool{false, true} {
				h := &host{}
				c := dial(t, serve(t, h, Mode{}))
				c.want("220")
				begin(c)
				c.ask("DATA", "354")
				all := "Subject: x\r\n\r\nbody" + end + smuggled + "NOOP\r\n"
				if slow { // every byte a packet of its own
					for _, b := range []byte(all) {
						if _, err := c.conn.Write([]byte{b}); err != nil {
							break // the server has seen enough
						}
					}
				} else {
					c.send("%s", all)
				}
				switch {
				case strings.ContainsAny(strings.ReplaceAll(end, "\r\n", ""), "\r\n"):
					c.want("550 5.6.11")
					c.wantEnd()
					if !h.saw(BareNewline) {
						t.Error("there is no event")
					}
				default: // a NUL
					c.want("550 5.6.0", "250 2.0.0 Done")
				}
				if got := h.accepted(); len(got) > 0 {
					t.Errorf("accepted %q", got)
				}
				if strings.Contains(h.log(), "evil") {
					t.Errorf("the body was taken for commands:\n%s", h.log())
				}
			}
		})
	}
}

// In chunks, the length says where a message ends; a bare CR or LF would be the
// next server's problem.
func TestSmugglingInChunks(t *testing.T) {
	for _, body := range []string{"a\nb", "a\rb", "a\r", "\n", "a\n.\nb\r\n", "a\r\n\r"} {
		t.Run(fmt.Sprintf("%q", body), func(t *testing.T) {
			h := &host{}
			c := dial(t, serve(t, h, Mode{}))
			c.want("220")
			begin(c)
			c.send("BDAT %d LAST\r\n%sNOOP\r\n", len(body), body)
			c.want("550 5.6.11")
			c.wantEnd()
			if got := h.accepted(); len(got) > 0 {
				t.Errorf("accepted %q", got)
			}
		})
	}
}

// Messages as they are sent, and as they are meant.
func TestBodies(t *testing.T) {
	tests := []struct{ sent, want string }{
		{".\r\n", ""},
		{"\r\n.\r\n", "\r\n"},
		{"a\r\n.\r\n", "a\r\n"},
		{"..\r\n.\r\n", ".\r\n"},
		{"..a\r\n.\r\n", ".a\r\n"},
		{".a\r\n.\r\n", "a\r\n"},
		{"a.\r\n.\r\n", "a.\r\n"},
		{"a\r\n...\r\n.\r\n", "a\r\n..\r\n"},
		{"QUIT\r\n.\r\n", "QUIT\r\n"},
		{"\xff\xfe8-bit \xc3\xbc\r\n.\r\n", "\xff\xfe8-bit \xc3\xbc\r\n"},
		{strings.Repeat("x", 2500) + "\r\n.\r\n", strings.Repeat("x", 2500) + "\r\n"},
		{strings.Repeat("y", 100_000) + "\r\n.\r\n", strings.Repeat("y", 100_000) + "\r\n"},
		{strings.Repeat("..line\r\n", 50_000) + ".\r\n", strings.Repeat(".line\r\n", 50_000)},
	}
	h := &host{}
	s := serve(t, h, Mode{})
	for i, test := range tests {
		for _, how := range []string{"at once", "in pieces"} {
			c := dial(t, s)
			c.want("220")
			begin(c)
			c.ask("DATA", "354")
			piece := len(test.sent)
			if how == "in pieces" {
				piece = max(1, len(test.sent)/50)
			}
			for rest := test.sent; rest != ""; {
				n := min(piece, len(rest))
				c.send("%s", rest[:n])
				rest = rest[n:]
			}
			c.want("250 2.0.0 queued as 1")
			c.ask("QUIT", "221")
			c.wantEnd()
			got := h.accepted()
			if got[len(got)-1] != test.want {
				t.Errorf("message %d %s: got %.100q, want %.100q", i, how, got[len(got)-1], test.want)
			}
		}
	}
}

// The reader of bodies gives the same whatever the sizes in which it is read
// and filled.
func TestBodyReaderSizes(t *testing.T) {
	sent := "a\r\n..b\r\n\r\n...\r\n" + strings.Repeat("z", 70) + "\r\n.\r\nrest"
	const want = "a\r\n.b\r\n\r\n..\r\n"
	for size := 1; size < 20; size++ {
		for fill := 1; fill < 20; fill++ {
			g := testGuard(t, sent, fill)
			b := &dotBody{intake: intake{g: g}, lineStart: true}
			var got bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{b}, make([]byte, size)); err != nil {
				t.Fatalf("reading %d, filling %d: %v", size, fill, err)
			}
			g.stopWatch()
			if got.String() != want+strings.Repeat("z", 70)+"\r\n" {
				t.Fatalf("reading %d, filling %d: %q", size, fill, got.String())
			}
		}
	}
}

// testGuard is a guard over a connection that gives fill bytes at a time.
func testGuard(t testing.TB, sent string, fill int) *guard {
	s, err := New(Config{Hostname: "mx.example.com"}, &host{}, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	g := newGuard(t.Context(), s, &fixedConn{rest: []byte(sent), piece: fill}, Mode{})
	t.Cleanup(func() { g.unwatch(); g.cancel(nil) })
	return g
}

// fixedConn is a client that has said all that it will.
type fixedConn struct {
	rest  []byte
	piece int
	out   bytes.Buffer
}

func (c *fixedConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.piece)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
func (c *fixedConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *fixedConn) Close() error                { return nil }
func (c *fixedConn) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25} }
func (c *fixedConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4321}
}
func (c *fixedConn) SetDeadline(time.Time) error      { return nil }
func (c *fixedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *fixedConn) SetWriteDeadline(time.Time) error { return nil }

// A client that goes on without waiting for 354 is served if we want the
// message; its body must not become commands if we do not.
func TestBodyBehindRefusedDATA(t *testing.T) {
	h := &host{}
	s := serve(t, h, Mode{})
	c := dial(t, s)
	c.want("220")
	c.send("EHLO x\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n")
	c.want("250-", "250", "250", "354", "250 2.0.0 queued", "221")
	c.wantEnd()

	c = dial(t, s)
	c.want("220")
	c.send("EHLO x\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<>\r\nDATA\r\n" + smuggled)
	c.want("250-", "250", "501", "503")
	c.wantEnd()
	if strings.Contains(h.log(), "evil") {
		t.Errorf("the body was taken for commands:\n%s", h.log())
	}
}

// Bytes that a malformed line announces, or that a client sends behind DATA though
// it was refused, are no commands.
func TestBodyBehindRefusedLine(t *testing.T) {
	long := strings.Repeat("0", 510)
	for _, line := range []string{
		"BDAT 28 LAST\n", "bdat\t28 LAST\r\n", "BDAT 28\tLAST\r\n", "BDAT 28 LAST\x00\r\n", "BDAT 28 LASTX\r\n", "BDAT28 LAST\r\n",
		"BDAT " + long + "28 LAST\r\n", "BDAT " + long + long + "28 LAST\r\n", "BDAT " + strings.Repeat(long, 6) + "28 LAST\r\n",
		"DATA x\r\n", "data\n", "DATA\t\r\n", "DATA" + strings.Repeat(" ", 600) + "\r\n", "DATA\r\n",
	} {
		for _, between := range []bool{false, true} { // chunks
			t.Run(fmt.Sprintf("%.20q %v", line, between), func(t *testing.T) {
				h := &host{}
				c := dial(t, serve(t, h, Mode{}))
				c.want("220")
				c.ask("EHLO x", "250-")
				if between {
					c.ask("MAIL FROM:<a@b.org>", "250")
					c.ask("RCPT TO:<c@d.org>", "250")
					c.send("BDAT 4\r\nab\r\n")
					c.want("250")
				}
				c.send("%sRSET\r\nMAIL FROM:<evil@b.org>\r\n", line)
				c.want("50")
				c.wantEnd()
				if strings.Contains(h.log(), "evil") || len(h.accepted()) > 0 {
					t.Errorf("accepted %q, calls\n%s", h.accepted(), h.log())
				}
			})
		}
	}
}

// A connection that ends within a message ends the message, not the wait for
// it (with go-smtp alone BDAT n LAST is accepted with half of its bytes).
func TestTruncatedMessages(t *testing.T) {
	for _, body := range []string{
		"DATA\r\nhalf", "DATA\r\nhalf\r\n", "DATA\r\nhalf\r\n.", "DATA\r\nhalf\r\n.\r",
		"BDAT 10 LAST\r\nhalf", "BDAT 10\r\nhalf", "BDAT 4\r\nhalf", "BDAT 4\r\nhalfBDAT 10 LAST\r\nmore",
	} {
		t.Run(fmt.Sprintf("%q", body), func(t *testing.T) {
			h := &host{}
			s := serve(t, h, Mode{})
			c := dial(t, s)
			c.want("220")
			begin(c)
			c.send("%s", body)
			if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			rest, _ := io.ReadAll(c.r)
			if strings.Contains(string(rest), "queued") || len(h.accepted()) > 0 {
				t.Errorf("accepted %q: %q", h.accepted(), rest)
			}
			testenv.WaitFor(t, 20*time.Second, func() error {
				if !strings.Contains(h.log(), "data failed: unexpected EOF") {
					return fmt.Errorf("the session was not told:\n%s", h.log())
				}
				return nil
			})
		})
	}
}
