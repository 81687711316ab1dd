package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// server is an SMTP server over TCP that does what a test says, and notes which
// messages it has taken.
type server struct {
	t          testing.TB
	addr       string
	extensions []string
	cert       *tls.Certificate
	// on is asked at each phase what to do. What it says itself is the reply; if
	// it returns false the connection ends. With nil, or if it says nothing, the
	// server goes on as it should.
	on func(p *peer, phase smtpc.Phase) bool

	mu    sync.Mutex
	taken []string // their recipients
	conns int
	quits int
	open  map[net.Conn]bool
}

// peer is one connection.
type peer struct {
	*server
	net.Conn
	n    int // which one, from 1
	r    *bufio.Reader
	said string   // the last line of what the test said
	line string   // the command
	to   []string // recipients so far
	mail int      // transactions so far
	// content is that of the last message.
	content string
}

func start(t testing.TB, s *server) *server {
	t.Helper()
	s.t = t
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	var group sync.WaitGroup
	s.open = map[net.Conn]bool{}
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(time.Minute))
			s.mu.Lock()
			s.conns++
			p := &peer{server: s, Conn: c, n: s.conns, r: bufio.NewReader(c)}
			s.open[c] = true
			s.mu.Unlock()
			group.Go(func() {
				defer c.Close()
				p.serve()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.hangUp()
		group.Wait()
	})
	return s
}

// connections is how many there were.
func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// messages lists the recipients of what was taken.
func (s *server) messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

// hangUp closes all connections.
func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		c.Close()
	}
}

// say sends lines.
func (p *peer) say(lines ...string) {
	p.said = lines[len(lines)-1]
	io.WriteString(p, strings.Join(lines, "\r\n")+"\r\n")
}

// hear reads a line.
func (p *peer) hear() bool {
	line, err := p.r.ReadString('\n')
	p.line = strings.TrimSuffix(line, "\r\n")
	return err == nil
}

// answer lets the test speak, or says what is due.
func (p *peer) answer(phase smtpc.Phase, due ...string) bool {
	p.said = ""
	if p.on != nil && !p.on(p, phase) {
		return false
	}
	if p.said == "" {
		p.say(due...)
	}
	return true
}

// refused says whether the test has refused what was asked.
func (p *peer) refused() bool { return p.said[0] == '4' || p.said[0] == '5' }

func (p *peer) serve() {
	if !p.answer(smtpc.PhaseGreeting, "220 peer.test ESMTP") {
		return
	}
	began := false
	for p.hear() {
		verb := strings.ToUpper(strings.SplitN(strings.SplitN(p.line, " ", 2)[0], ":", 2)[0])
		ok := true
		switch verb {
		case "EHLO", "LHLO":
			lines := append([]string{"peer.test"}, p.extensions...)
			for i := range lines {
				lines[i] = "250" + map[bool]string{true: " ", false: "-"}[i == len(lines)-1] + lines[i]
			}
			ok = p.answer(smtpc.PhaseHello, lines...)
		case "STARTTLS":
			if ok = p.answer(smtpc.PhaseTLS, "220 go on"); ok && p.said[0] == '2' {
				c := tls.Server(p.Conn, &tls.Config{Certificates: []tls.Certificate{*p.cert}})
				if c.Handshake() != nil {
					return
				}
				p.Conn, p.r = c, bufio.NewReader(c)
			}
		case "MAIL":
			p.to, p.mail = nil, p.mail+1
			ok = p.answer(smtpc.PhaseMail, "250 2.1.0 ok")
			began = ok && !p.refused()
		case "RCPT":
			if !began {
				p.say("503 5.5.1 MAIL first")
				continue
			}
			if ok = p.answer(smtpc.PhaseRcpt, "250 2.1.5 ok"); ok && !p.refused() {
				p.to = append(p.to, p.rcpt())
			}
		case "DATA":
			if len(p.to) == 0 {
				p.say("503 5.5.1 RCPT first")
				continue
			}
			if ok = p.answer(smtpc.PhaseData, "354 go on"); ok && !p.refused() {
				ok = p.data()
			}
			began, p.to = false, nil
		case "QUIT":
			p.mu.Lock()
			p.quits++
			p.mu.Unlock()
			p.say("221 2.0.0 bye")
			return
		default: // RSET, NOOP
			ok = p.answer(smtpc.PhaseOther, "250 2.0.0 ok")
		}
		if !ok {
			return
		}
	}
}

// data reads the content and takes the message, unless the test says otherwise.
func (p *peer) data() bool {
	if p.on != nil && !p.on(p, smtpc.PhaseContent) {
		return false
	}
	var content strings.Builder
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		content.WriteString(strings.TrimPrefix(line, "."))
	}
	p.content = content.String()
	return p.answer(smtpc.PhaseEnd, "250 2.0.0 queued")
}

// take notes a message that the server answers for.
func (p *peer) take() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = append(p.taken, strings.Join(p.to, " "))
}

// rcpt is the recipient that RCPT is about.
func (p *peer) rcpt() string { return strings.TrimSuffix(strings.TrimPrefix(p.line, "RCPT TO:<"), ">") }

// got lists what the servers have taken.
func got(servers ...*server) string {
	var list []string
	for i, s := range servers {
		s.mu.Lock()
		for _, m := range s.taken {
			list = append(list, fmt.Sprintf("%c: %s", 'A'+i, m))
		}
		s.mu.Unlock()
	}
	return strings.Join(list, "; ")
}

// network leads addresses 192.0.2.1 and so on to the servers; what is nil, or
// beyond, refuses connections.
func network(servers ...*server) func(ctx context.Context, source netip.Addr, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _ netip.Addr, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		for i, s := range servers {
			if s != nil && host == hostAddrs(i + 1)[0].String() {
				return (&net.Dialer{}).DialContext(ctx, network, s.addr)
			}
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s refuses", host)}
	}
}

func hostAddrs(n int) []netip.Addr { return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})} }

// destination has as many hosts, mx1 first.
func destination(hosts int) mx.Destination {
	d := mx.Destination{Domain: "y.test", Site: "mx1.y.test"}
	for i := range hosts {
		d.Hosts = append(d.Hosts, mx.Host{Name: fmt.Sprintf("mx%d.y.test", i+1), Preference: uint16(i), Addrs: hostAddrs(i + 1)})
	}
	return d
}

const letter = "Subject: hello\r\n\r\n.dot\r\n"

func request(hosts int, to ...string) *Request {
	r := &Request{Destination: destination(hosts), Envelope: smtpc.Envelope{From: "a@x.test"}, Content: strings.NewReader(letter)}
	for _, addr := range to {
		r.Envelope.To = append(r.Envelope.To, smtpc.Rcpt{Addr: addr})
	}
	return r
}

func client(t testing.TB, cfg Config) *Client {
	cfg.Hostname = "client.test"
	c := New(cfg)
	t.Cleanup(c.Close)
	return c
}

// outcome writes a result on one line.
func outcome(r Result) string {
	var parts []string
	for _, rcpt := range r.Recipients {
		parts = append(parts, fmt.Sprintf("%s %s %s %d", rcpt.Addr, rcpt.Status, rcpt.Phase, rcpt.Reply.Code))
	}
	s := strings.Join(parts, ", ")
	if r.Trouble {
		s += "; trouble"
	}
	return s
}

// timeline writes the attempts on one line.
func timeline(r Result) string {
	var parts []string
	for _, a := range r.Attempts {
		s := fmt.Sprintf("%s %s", a.Host, a.Phase)
		if a.Reply != "" {
			s += " " + a.Reply[:3]
		}
		if a.Reused {
			s += " reused"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}
