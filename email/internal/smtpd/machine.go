package smtpd

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// newMachine makes the state machine for the commands that guards let through.
// What it would announce and limit is of no matter: guards write that reply, and
// have looked at lines and sizes before.
func newMachine(s *Server) *smtp.Server {
	m := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		st, ok := c.Conn().(*stage)
		if !ok {
			return nil, errors.New("not a connection of ours") // unreachable
		}
		return &machineSession{g: st.guard}, nil
	}))
	m.Domain = s.cfg.Hostname
	m.MaxLineLength = 0
	m.AllowInsecureAuth = true // the guard insists on TLS, which it hides
	m.EnableSMTPUTF8 = true
	m.EnableREQUIRETLS = true
	m.EnableDSN = true
	m.ErrorLog = machineLog{s.log}
	return m
}

// machineLog takes what go-smtp has to say.
type machineLog struct{ log *slog.Logger }

func (l machineLog) Printf(format string, v ...any) {
	l.log.Error("SMTP engine", "message", fmt.Sprintf(format, v...))
}
func (l machineLog) Println(v ...any) { l.log.Error("SMTP engine", "message", fmt.Sprint(v...)) }

// stage is what go-smtp has for a connection: the one before or the one after
// STARTTLS.
type stage struct {
	guard *guard
	feed  []byte // of the next command, what was not read yet
	line  []byte // of the reply, what was written so far
	mute  bool   // the next reply is not for the client
	reply *Reply // what to say instead of the next reply
	okay  *Reply // what to say instead if it is a positive one
	gone  bool   // the next stage has the connection
	close sync.Once
}

func newStage(g *guard) *stage {
	return &stage{guard: g, mute: true} // the greeting is the guard's
}

// Read gives go-smtp a command, or the end of the connection.
func (s *stage) Read(p []byte) (int, error) {
	if s.gone {
		return 0, io.EOF
	}
	if len(s.feed) == 0 {
		s.feed = s.guard.next(s)
	}
	if len(s.feed) == 0 {
		if next := s.guard.stage; next != s {
			s.gone = true
			s.guard.server.hand(next) // from here on the guard is not ours
		}
		return 0, io.EOF
	}
	n := copy(p, s.feed)
	s.feed = s.feed[n:]
	return n, nil
}

// Write takes a line of a reply from go-smtp, which writes them one by one.
func (s *stage) Write(p []byte) (int, error) {
	if s.mute { // the greeting, or a reply after which it changes nothing
		growStack()
	}
	s.line = append(s.line, p...)
	line := s.line
	if len(line) < 2 || line[len(line)-1] != '\n' {
		return len(p), nil
	}
	s.line = s.line[:0]
	if len(line) > 3 && line[3] == '-' {
		return len(p), nil // the guard's replies are its own
	}
	if s.mute {
		s.mute, s.reply, s.okay = false, nil, nil
		return len(p), nil
	}
	reply := s.translate(line)
	s.reply, s.okay = nil, nil
	s.guard.dialogue = reply.Code == 334
	s.guard.send(reply)
	return len(p), nil
}

// growStack is called when go-smtp's goroutine begins. A session needs more of the
// stack than Go gives at first; to grow it later, from deep within and several
// times, costs more than all that the session does for a command.
//
//go:noinline
func growStack() {
	var room [12 << 10]byte
	runtime.KeepAlive(&room)
}

// translate says what the client is told for the last line of a reply of
// go-smtp's.
func (s *stage) translate(line []byte) *Reply {
	code := 451
	if len(line) > 4 {
		if n, err := strconv.Atoi(string(line[:3])); err == nil {
			code = n
		}
	}
	switch {
	case s.reply != nil:
		return s.reply
	case s.okay != nil && code/100 == 2:
		return s.okay
	}
	reply := &Reply{Code: code, Text: string(line[min(4, len(line)):])}
	reply.Text = reply.Text[:max(len(reply.Text)-2, 0)] // CRLF
	if code == 334 {
		return reply
	}
	reply.cutEnhanced()
	switch {
	case code == 502 && reply.Enhanced == [3]int{5, 5, 1}: // RFC 5321 section 4.2.3
		reply.Code = 503
	case code == 500 && reply.Enhanced == [3]int{5, 5, 4}: // section 4.1.1.11
		reply.Code = 555
	}
	return reply
}

// cutEnhanced moves the enhanced status code out of the text.
func (r *Reply) cutEnhanced() {
	code, text, ok := strings.Cut(r.Text, " ")
	parts := strings.Split(code, ".")
	if !ok || len(parts) != 3 {
		return
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return
		}
		r.Enhanced[i] = n
	}
	r.Text = text
}

// Close ends the connection, unless it goes on with the next stage.
func (s *stage) Close() error {
	if !s.gone {
		s.close.Do(s.guard.end)
	}
	return nil
}

func (s *stage) LocalAddr() net.Addr              { return s.guard.conn.local }
func (s *stage) RemoteAddr() net.Addr             { return s.guard.conn.remote }
func (s *stage) SetDeadline(time.Time) error      { return nil } // the guard sets them
func (s *stage) SetReadDeadline(time.Time) error  { return nil }
func (s *stage) SetWriteDeadline(time.Time) error { return nil }

// machineSession is the session as go-smtp sees it. Addresses and bodies come
// from the guard and not from go-smtp; replies go to it.
type machineSession struct{ g *guard }

// refuse makes a reply the one that the client gets.
func (s *machineSession) refuse(r *Reply) error {
	s.g.stage.reply = r
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: smtp.EnhancedCode(r.enhanced()), Message: "refused"}
}

// AuthMechanisms has none to announce: the guard does.
func (s *machineSession) AuthMechanisms() []string { return nil }

func (s *machineSession) Auth(mechanism string) (sasl.Server, error) {
	server, refusal := s.g.authenticate(mechanism)
	if refusal != nil {
		return nil, s.refuse(refusal)
	}
	return &exchange{session: s, server: server}, nil
}

func (s *machineSession) Mail(_ string, o *smtp.MailOptions) error {
	g := s.g
	from := g.path
	switch {
	case from.size > g.server.cfg.MaxMessageSize:
		return s.refuse(newReply(552, 5, 3, 4, "Message too large"))
	case from.utf8 && !o.UTF8:
		return s.refuse(newReply(550, 5, 6, 7, "This address needs SMTPUTF8"))
	case o.RequireTLS && g.conn.tls == nil:
		return s.refuse(newReply(530, 5, 7, 10, "REQUIRETLS needs TLS"))
	}
	opts := &MailOptions{
		Size: from.size, Body: string(o.Body), UTF8: o.UTF8, RequireTLS: o.RequireTLS,
		Return: string(o.Return), EnvelopeID: o.EnvelopeID,
	}
	err := g.call("Mail", func() error { return g.session.Mail(g.ctx, from.addr, opts) })
	if err != nil {
		return s.refuse(g.localError(err, "Mail"))
	}
	g.messages++
	g.tx = transaction{begun: true, utf8: o.UTF8}
	return nil
}

func (s *machineSession) Rcpt(_ string, o *smtp.RcptOptions) error {
	g := s.g
	to := g.path
	if to.utf8 && !g.tx.utf8 {
		return s.refuse(newReply(553, 5, 6, 7, "This address needs SMTPUTF8"))
	}
	if strings.ContainsFunc(o.OriginalRecipient, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) }) {
		return s.refuse(newReply(501, 5, 5, 4, "Invalid character in ORCPT"))
	}
	opts := &RcptOptions{OriginalType: string(o.OriginalRecipientType), Original: o.OriginalRecipient}
	for _, n := range o.Notify {
		opts.Notify = append(opts.Notify, string(n))
	}
	err := g.call("Rcpt", func() error { return g.session.Rcpt(g.ctx, to.addr, opts) })
	if err != nil {
		g.commands++
		return s.refuse(g.localError(err, "Rcpt"))
	}
	g.tx.recipients++
	return nil
}

// Data has the guard receive the message, and go-smtp see an empty one.
func (s *machineSession) Data(io.Reader) error {
	s.g.stage.feed = []byte(".\r\n")
	return s.refuse(s.g.receive())
}

func (s *machineSession) Reset() {
	if s.g.tx.begun {
		_ = s.g.flush() // the reply to a message waits for nothing (RFC 2920 section 3.2)
		_ = s.g.call("Reset", func() error { s.g.session.Reset(); return nil })
	}
	s.g.tx = transaction{}
}

// Logout is not the end of our session, which lives on after STARTTLS.
func (s *machineSession) Logout() error { return nil }

// envelopePath is the address of the MAIL or RCPT that the machine deals with.
type envelopePath struct {
	addr addr.Address
	utf8 bool  // it, or the one in ORCPT, was not written in ASCII
	size int64 // declared
}
