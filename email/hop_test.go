package email

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
)

// moody is an SMTP server that answers as a test wants it to: answer is given
// each command, "." for the end of a message and "" for the beginning, and which
// connection it is; an answer with a "!" behind it ends the connection, and "" is
// what a well-behaved server says.
func moody(t testing.TB, answer func(conn int, command string) string) *net.TCPAddr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { ln.Close(); serving.Wait() })
	serving.Go(func() {
		for n := 1; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { converse(conn, func(command string) string { return answer(n, command) }) })
		}
	})
	return ln.Addr().(*net.TCPAddr)
}

func converse(conn net.Conn, answer func(command string) string) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	inData := false
	command := ""
	for {
		verb, _, _ := strings.Cut(command, " ")
		reply := answer(command)
		if reply == "" {
			reply = map[string]string{"": "220 next.example.com", "EHLO": "250-next.example.com\r\n250-SMTPUTF8\r\n250 8BITMIME", "DATA": "354 Go on", "QUIT": "221 Bye!"}[verb]
		}
		if reply == "" {
			reply = "250 2.0.0 Fine"
		}
		text, last := strings.CutSuffix(reply, "!")
		fmt.Fprintf(conn, "%s\r\n", text)
		if last {
			return
		}
		inData = strings.HasPrefix(reply, "354")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if command = strings.TrimRight(line, "\r\n"); !inData || command == "." {
				break
			}
		}
	}
}

func forwardToAddr(t testing.TB, a *net.TCPAddr) []Route {
	return routes(t, fmt.Sprintf(`[{"name":"next","match":{"recipients":"*@example.com"},"action":{"type":"forward","forward":{"host":"127.0.0.1","port":%d}}}]`, a.Port))
}

// Whatever the next server does, the client is never told that a message was
// taken that was not, and a server that has had enough of one connection gets
// another one.
func TestMoodyNextServer(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func(conn int, command string) string
		// replies are those to two messages: the first of RCPT or the content that
		// is no success, or else that to the content.
		replies [2]string
		conns   int
	}{
		{"well-behaved", func(int, string) string { return "" }, [2]string{"250 2.0.0 Fine", "250 2.0.0 Fine"}, 1},
		{"one message a connection", func(conn int, command string) string {
			if command == "RSET" || command == "MAIL FROM:<2@example.net> BODY=8BITMIME" && conn == 1 {
				return "421 4.7.0 Too many messages!"
			}
			return ""
		}, [2]string{"250 2.0.0 Fine", "250 2.0.0 Fine"}, 2},
		{"away at MAIL", func(conn int, command string) string {
			if strings.HasPrefix(command, "MAIL") && conn == 1 {
				return "421 4.3.2 Going down!"
			}
			return ""
		}, [2]string{"451 4.3.2 Going down", "250 2.0.0 Fine"}, 2},
		{"busy before the greeting", func(conn int, command string) string {
			if command == "" && conn == 1 {
				return "554 5.7.1 Not you!"
			}
			return ""
		}, [2]string{"451 4.4.1", "250 2.0.0 Fine"}, 2},
		{"refuses the content", func(conn int, command string) string {
			if command == "." {
				return "554 5.6.0 I do not like it"
			}
			return ""
		}, [2]string{"554 5.6.0 I do not like it", "554 5.6.0 I do not like it"}, 1},
		{"away at the end", func(conn int, command string) string {
			if command == "." && conn == 1 {
				return "421 4.3.2 Going down!"
			}
			return ""
		}, [2]string{"451 4.3.2 Going down", "250 2.0.0 Fine"}, 2},
		{"takes too much", func(conn int, command string) string {
			if command == "." {
				return "250-2.0.0 First\r\n550 5.0.0 Second"
			}
			return ""
		}, [2]string{"451", "451"}, 2},
		{"takes DATA for the message", func(conn int, command string) string {
			if command == "DATA" {
				return "250 2.0.0 Queued"
			}
			return ""
		}, [2]string{"451", "451"}, 2},
		{"hangs up without a word", func(conn int, command string) string {
			if command == "." && conn == 1 {
				return "!"
			}
			return ""
		}, [2]string{"451 4.4.1", "250 2.0.0 Fine"}, 2},
		{"says more than fits", func(conn int, command string) string {
			if strings.HasPrefix(command, "RCPT") {
				return "550-5.1.1 Nobody\x1b[31m\r\n550 5.1.1 of \xff that name"
			}
			return ""
		}, [2]string{"550 5.1.1 Nobody?[31m of ? that name", "550 5.1.1 Nobody?[31m of ? that name"}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var mu sync.Mutex
			conns := 0
			addr := moody(t, func(conn int, command string) string {
				mu.Lock()
				conns = max(conns, conn)
				mu.Unlock()
				return test.answer(conn, command)
			})
			s := start(t, Config{Routes: forwardToAddr(t, addr)})
			c := s.dial().hello()
			for i, want := range test.replies {
				c.say(fmt.Sprintf("MAIL FROM:<%d@example.net>", i+1), "250")
				fmt.Fprint(c, "RCPT TO:<b@example.com>\r\n")
				got := c.reply()
				if got[0] == '2' {
					got = c.data(hi)
				} else {
					c.say("RSET", "250")
				}
				if !strings.HasPrefix(got, want) {
					t.Errorf("message %d: %q, want %q", i+1, got, want)
				}
			}
			c.say("QUIT", "221")
			if mu.Lock(); conns != test.conns {
				t.Errorf("%d connections, want %d", conns, test.conns)
			}
			mu.Unlock()
		})
	}
}

// A message is internationalized if any of its addresses is, whichever.
func TestForwardInternationalized(t *testing.T) {
	var mu sync.Mutex
	var mails []string
	addr := moody(t, func(_ int, command string) string {
		if strings.HasPrefix(command, "MAIL") {
			mu.Lock()
			mails = append(mails, command)
			mu.Unlock()
		}
		return ""
	})
	list := forwardToAddr(t, addr)
	list[0].Action.Forward.Queue = true
	s := start(t, Config{Routes: list})
	c := s.dial().hello()
	for _, rcpts := range [][]string{{"b", "ü"}, {"ü", "b"}, {"b", "c"}} {
		c.say("MAIL FROM:<a@example.net> SMTPUTF8", "250")
		for _, r := range rcpts {
			c.say("RCPT TO:<"+r+"@example.com>", "250")
		}
		if got := c.data(hi); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		waitFor(t, func() bool { return s.Stats().Spool.Messages == 0 })
	}
	mu.Lock()
	defer mu.Unlock()
	if len(mails) != 3 || !strings.Contains(mails[0], "SMTPUTF8") || !strings.Contains(mails[1], "SMTPUTF8") || strings.Contains(mails[2], "SMTPUTF8") {
		t.Errorf("%q", mails)
	}
}

// Clients that say SMTPUTF8 of everything can use a next server without it, as long
// as their mail does without.
func TestForwardToServerWithoutUTF8(t *testing.T) {
	addr := moody(t, func(_ int, command string) string {
		switch {
		case strings.HasPrefix(command, "EHLO"):
			return "250-next.example.com\r\n250 8BITMIME"
		case strings.Contains(command, "SMTPUTF8"), strings.Contains(command, "ü"):
			return "501 5.5.4 What is that?"
		}
		return ""
	})
	s := start(t, Config{Routes: forwardToAddr(t, addr)})
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net> SMTPUTF8", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
	c.say("MAIL FROM:<a@example.net> SMTPUTF8", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	if got := c.data(strings.Replace(hi, "Subject: hi", "Subject: Grüße", 1)); !strings.HasPrefix(got, "554 5.6.9 The next server takes no internationalised mail") {
		t.Error(got)
	}
	c.say("MAIL FROM:<a@example.net> SMTPUTF8", "250")
	c.say("RCPT TO:<ü@example.com>", "553 5.6.7")
	c.say("RSET", "250")
	c.say("MAIL FROM:<ü@example.net> SMTPUTF8", "250")
	c.say("RCPT TO:<b@example.com>", "553 5.6.7")
}
