package smtpc

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// peer is a server that does what a test says, for one connection.
type peer struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// listen runs a server in which each connection is handed to the next of the
// scripts; what is left is closed. It returns the address.
func listen(t testing.TB, scripts ...func(p *peer)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, script := range scripts {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(time.Minute))
			p := &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
			script(p)
			p.conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String()
}

// say sends lines.
func (p *peer) say(lines ...string) {
	io.WriteString(p.conn, strings.Join(lines, "\r\n")+"\r\n")
}

// hear reads a line, "" at the end.
func (p *peer) hear() string {
	line, err := p.r.ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(line, "\r\n")
}

// want reads a line that must begin so, and answers it.
func (p *peer) want(prefix string, answer ...string) string {
	line := p.hear()
	if !strings.HasPrefix(line, prefix) {
		p.t.Errorf("the client said %q, not %q", line, prefix)
	}
	if len(answer) > 0 {
		p.say(answer...)
	}
	return line
}

// hello says it and offers extensions.
func (p *peer) hello(extensions ...string) {
	p.say("220 peer.test ESMTP")
	p.ehlo(extensions...)
}

func (p *peer) ehlo(extensions ...string) {
	lines := append([]string{"peer.test"}, extensions...)
	for i := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		lines[i] = "250" + sep + lines[i]
	}
	p.want("EHLO client.test", lines...)
}

// content reads up to the final dot, without undoing anything.
func (p *peer) content() string {
	var b strings.Builder
	for {
		line, err := p.r.ReadString('\n')
		if err != nil || line == ".\r\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

// startTLS does the handshake.
func (p *peer) startTLS(cert tls.Certificate) bool {
	conn := tls.Server(p.conn, &tls.Config{Certificates: []tls.Certificate{cert}})
	err := conn.Handshake()
	p.conn, p.r = conn, bufio.NewReader(conn)
	return err == nil
}

// closed waits until the client has closed.
func (p *peer) closed() { io.Copy(io.Discard, p.r) }

func certificate(t testing.TB, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	certPath, keyPath, pool := testenv.SelfSigned(t, names...)
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pool
}

func config(address string) Config {
	return Config{Address: address, Hostname: "client.test", TLS: NoTLS}
}

func dial(t testing.TB, cfg Config) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func to(addrs ...string) []Rcpt {
	var list []Rcpt
	for _, a := range addrs {
		list = append(list, Rcpt{Addr: a})
	}
	return list
}

// wantError checks where a dialogue ended and what that means.
func wantError(t testing.TB, err error, phase Phase, status Status, code int) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("the error is %v, not an *Error", err)
	}
	if e.Phase != phase || e.Status != status || e.Reply.Code != code {
		t.Errorf("ended in %s, %s, code %d, not %s, %s, %d: %v", e.Phase, e.Status, e.Reply.Code, phase, status, code, err)
	}
	return e
}

// outcome writes a result on one line.
func outcome(r Result) string {
	var parts []string
	for _, rcpt := range r.Recipients {
		parts = append(parts, fmt.Sprintf("%s %s %s %d", rcpt.Addr, rcpt.Status, rcpt.Phase, rcpt.Reply.Code))
	}
	return strings.Join(parts, ", ")
}
