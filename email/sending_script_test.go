package email

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
)

// script is an SMTP server in a bubble that answers as a test wants it to, and
// notes what it was told and what it has taken. As in converse, answer is given
// each command; a nil one behaves well.
type script struct {
	ehlo   string // what it offers, as "250-x\r\n250 y"
	answer func(conn int, command string) string
	// conn has a connection served otherwise, if it is not nil.
	conn func(n int, c net.Conn)

	mu    sync.Mutex
	conns int
	said  []string // commands
	taken []string // for each message, its recipients
}

func (s *script) serve(c net.Conn) {
	s.mu.Lock()
	s.conns++
	n := s.conns
	s.mu.Unlock()
	if s.conn != nil {
		s.conn(n, c)
		c.Close()
		return
	}
	var to []string
	converse(c, func(command string) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.said = append(s.said, command)
		reply := ""
		if s.answer != nil {
			reply = s.answer(n, command)
		}
		positive := reply == "" || strings.HasPrefix(reply, "2")
		switch verb, rest, _ := strings.Cut(command, ":"); {
		case verb == "MAIL FROM":
			to = nil
		case verb == "RCPT TO" && positive:
			address, _, _ := strings.Cut(rest, ">")
			to = append(to, strings.TrimPrefix(address, "<"))
		case command == "DATA" && reply == "" && len(to) == 0:
			reply = "554 5.5.1 no recipients"
		case command == "." && positive:
			s.taken = append(s.taken, strings.Join(to, " "))
		case strings.HasPrefix(command, "EHLO") && reply == "" && s.ehlo != "":
			reply = s.ehlo
		}
		return reply
	})
}

// connections is how many there were.
func (s *script) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// commands are those that begin so.
func (s *script) commands(verb string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, c := range s.said {
		if strings.HasPrefix(c, verb) {
			list = append(list, c)
		}
	}
	return list
}

func (s *script) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

// stage is a server for a.example in a bubble, whose mail to b.example goes to a
// script.
type stage struct {
	*server
	t     *testing.T
	n     *network
	inbox *mailboxes
}

// onStage starts one. Its client is in 10.0.0.0/8.
func onStage(t *testing.T, cfg Config, s *script, opts ...Option) *stage {
	t.Helper()
	cfg.Domains[0].DKIM.KeySize = 1024 // quicker
	st := &stage{t: t, n: &network{servers: map[string]*Server{}}, inbox: newMailbox(nil)}
	dial := func(ctx context.Context, source netip.Addr, network, address string) (net.Conn, error) {
		if s == nil || !strings.HasPrefix(address, "192.0.2.2:") {
			return st.n.dial(ctx, source, network, address)
		}
		ours, theirs := net.Pipe()
		go s.serve(theirs)
		return ours, nil
	}
	all := []Option{WithResolver(hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}), WithMailbox(st.inbox.take), WithDialer(dial)}
	st.server = inBubble(t, st.n, cfg, append(all, opts...)...)
	t.Cleanup(st.stop)
	return st
}

// post sends a message as a client that may, with parameters for MAIL and for
// each recipient, as "<b@b.example> NOTIFY=NEVER".
func (st *stage) post(from, content string, to ...string) (id string) {
	st.t.Helper()
	c := dialPipe(st.t, st.server, "10.0.0.1")
	c.say("MAIL FROM:"+from, "250")
	for _, rcpt := range to {
		c.say("RCPT TO:"+rcpt, "250")
	}
	reply := c.data(content)
	if _, err := fmt.Sscanf(reply, "250 2.0.0 Accepted as %s", &id); err != nil {
		st.t.Fatalf("%q: %v", reply, err)
	}
	c.say("QUIT", "221")
	return id
}

// status is that of a message.
func (st *stage) status(id string) EmailStatus {
	st.t.Helper()
	s, err := st.EmailStatus(st.t.Context(), id)
	if err != nil {
		st.t.Fatal(err)
	}
	return s
}

// timeline writes the steps of a message that are of some kind, one a line.
func timeline(s EmailStatus) string {
	var b strings.Builder
	for _, e := range s.Timeline {
		fmt.Fprintf(&b, "%s %s %s %s|%s\n", e.Kind, e.Host, e.TLS, strings.Join(e.Recipients, ","), e.Text)
	}
	return b.String()
}
