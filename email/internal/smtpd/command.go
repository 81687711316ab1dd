package smtpd

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// Limits of a command line with its line end: RFC 5321 section 4.5.3.1.4, what
// extensions add to MAIL and RCPT (RFC 1870, 3461, 4954, 6531, 8689), and RFC
// 4954 section 4.
const (
	maxCommand  = 512
	maxEnvelope = 2048
	maxAuth     = 12288
)

func (g *guard) lineLimit(start []byte) int {
	switch {
	case g.dialogue, hasVerb(start, "AUTH"):
		return maxAuth
	case hasVerb(start, "MAIL"), hasVerb(start, "RCPT"):
		return maxEnvelope
	}
	return maxCommand
}

func hasVerb(line []byte, verb string) bool {
	return len(line) > len(verb) && line[len(verb)] == ' ' && strings.EqualFold(string(line[:len(verb)]), verb)
}

// parseCommand takes a line apart.
func parseCommand(line []byte) (verb, arg string, refusal *Reply) {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return "", "", newReply(500, 5, 5, 2, "Lines end with CR LF")
	}
	verb, arg, _ = strings.Cut(string(text), " ")
	verb, arg = strings.ToUpper(verb), strings.Trim(arg, " ")
	mayBeUTF8 := (verb == "MAIL" || verb == "RCPT" || verb == "VRFY" || verb == "EXPN") && isPrintable(text[:4], false)
	if !isPrintable(text, mayBeUTF8) {
		return "", "", newReply(500, 5, 5, 2, "Invalid character in a command")
	}
	return verb, arg, nil
}

// refused makes the reply to a line that was refused end the connection if what
// comes behind it may be a part of a message, which must not be read as commands:
// behind BDAT, however it is spelled, and behind DATA if the client does not wait
// for our consent. start is that of the line.
func (g *guard) refused(start []byte, r *Reply) *Reply {
	if len(start) >= 4 {
		verb := string(start[:4])
		if strings.EqualFold(verb, "BDAT") || strings.EqualFold(verb, "DATA") && len(g.in.pending()) > 0 {
			return r.closing()
		}
	}
	return r
}

// vet looks at a line. It answers it, or returns the command for the machine.
func (g *guard) vet(line []byte) []byte {
	if g.dialogue {
		return g.vetResponse(bytes.CutSuffix(line, []byte("\r\n")))
	}
	verb, arg, refusal := parseCommand(line)
	if refusal != nil {
		g.send(g.refused(line, refusal))
		return nil
	}
	if verb != "BDAT" && verb != "DATA" && verb != "QUIT" {
		if verb != "RCPT" { // which counts if it is refused
			g.commands++
		}
		if g.commands > g.server.cfg.MaxCommands {
			if verb == "RCPT" && g.tx.recipients > 0 && g.commands < 10*(g.server.cfg.MaxCommands+g.server.cfg.MaxRecipients) {
				// The others must not be lost with it, at this try and at each later one.
				g.commands++
				g.send(newReply(452, 4, 5, 3, "Too many recipients, send the rest in another message"))
				return nil
			}
			g.event(TooManyCommands, nil)
			g.send(newReply(421, 4, 7, 0, g.server.cfg.Hostname+" has seen too many commands"))
			return nil
		}
	}
	switch verb {
	case "EHLO", "HELO":
		return g.hello(verb, arg)
	case "MAIL":
		return g.mailFrom(arg)
	case "RCPT":
		return g.rcptTo(arg)
	case "DATA":
		return g.data(line, arg)
	case "BDAT":
		return g.bdat(arg)
	case "AUTH":
		return g.auth(arg)
	case "STARTTLS":
		g.startTLS(arg)
	case "QUIT":
		if arg == "" {
			g.quit = true
			return g.pass("QUIT\r\n", &Reply{Code: 221, Text: g.server.cfg.Hostname + " says goodbye", Close: true})
		}
		g.send(newReply(501, 5, 5, 4, "QUIT has no parameters"))
	case "RSET":
		if arg == "" {
			return g.pass("RSET\r\n", &Reply{Code: 250, Text: "Forgotten"})
		}
		g.send(newReply(501, 5, 5, 4, "RSET has no parameters"))
	default:
		g.send(g.refused(line, g.other(verb, arg)))
	}
	return nil
}

// pass gives a command to the machine and says what its success is to be.
func (g *guard) pass(command string, okay *Reply) []byte {
	g.stage.okay = okay
	return []byte(command)
}

// other answers what changes nothing.
func (g *guard) other(verb, arg string) *Reply {
	switch verb {
	case "NOOP":
		return &Reply{Code: 250, Text: "Done"}
	case "HELP":
		return newReply(214, 2, 0, 0, "See RFC 5321")
	case "VRFY":
		if arg == "" {
			return newReply(501, 5, 5, 4, "VRFY needs an address")
		}
		return newReply(252, 2, 5, 0, "Cannot verify, but will accept mail and try to deliver it")
	case "EXPN", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML":
		return newReply(502, 5, 5, 1, "Command not implemented")
	case "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "PRI":
		// A browser that was made to talk to us, with a body of someone
		// else's commands to come.
		g.event(NoSMTP, nil)
		return newReply(500, 5, 5, 1, "This is an SMTP server").closing()
	}
	if len(verb) > 1 && strings.HasSuffix(verb, ":") {
		g.event(NoSMTP, nil) // a header field: it takes us to be within a message
		return newReply(500, 5, 5, 1, "This is no command").closing()
	}
	return newReply(500, 5, 5, 1, "Unknown command")
}

func isPrintable(line []byte, utf8 bool) bool {
	for _, c := range line {
		if c < ' ' || c == 0x7f || c > 0x7f && !utf8 {
			return false
		}
	}
	return true
}

// hello answers EHLO and HELO.
func (g *guard) hello(verb, name string) []byte {
	if !isHeloName(name) {
		g.send(newReply(501, 5, 5, 4, verb+" needs the name of a host"))
		return nil
	}
	was, wasESMTP := g.conn.helo, g.conn.esmtp
	g.conn.helo, g.conn.esmtp = name, verb == "EHLO"
	if err := g.call("Helo", func() error { return g.session.Helo(g.ctx, name) }); err != nil {
		g.conn.helo, g.conn.esmtp = was, wasESMTP
		g.send(g.localError(err, "Helo"))
		return nil
	}
	okay := &Reply{Code: 250, Text: g.server.cfg.Hostname, plain: true}
	if g.conn.esmtp {
		okay.Text = g.capabilities()
	}
	return g.pass(verb+" client\r\n", okay)
}

// isHeloName is lenient: many clients are wrong about their name, and it proves
// nothing.
func isHeloName(s string) bool {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(".-_:", c) >= 0) {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

func (g *guard) capabilities() string {
	cfg := &g.server.cfg
	b := make([]byte, 0, 256)
	b = append(b, cfg.Hostname...)
	b = append(b, "\nPIPELINING\nSIZE "...)
	b = strconv.AppendInt(b, cfg.MaxMessageSize, 10)
	b = append(b, "\n8BITMIME\nSMTPUTF8\nCHUNKING\nDSN\nENHANCEDSTATUSCODES\nLIMITS RCPTMAX="...)
	b = strconv.AppendInt(b, int64(cfg.MaxRecipients), 10)
	b = append(b, " MAILMAX="...)
	b = strconv.AppendInt(b, int64(cfg.MaxTransactions), 10)
	switch {
	case g.conn.tls != nil:
		b = append(b, "\nREQUIRETLS"...)
		if list := g.mechanisms(); len(list) > 0 {
			b = append(b, "\nAUTH "...)
			b = append(b, strings.Join(list, " ")...)
		}
	case cfg.TLS != nil:
		b = append(b, "\nSTARTTLS"...)
	}
	return string(b)
}

// mailFrom vets MAIL. What go-smtp gets instead of the address is "<>": it would
// hand out local parts unquoted.
func (g *guard) mailFrom(arg string) []byte {
	if g.conn.helo != "" {
		switch {
		case g.tx.begun:
			g.send(newReply(503, 5, 5, 1, "There is a transaction already"))
			return nil
		case g.conn.mode.Submission && !g.conn.authenticated:
			g.send(newReply(530, 5, 7, 0, "Authentication required"))
			return nil
		case g.messages >= g.server.cfg.MaxTransactions:
			g.event(TooManyMessages, nil)
			g.send(newReply(421, 4, 7, 0, g.server.cfg.Hostname+" has seen enough messages on this connection"))
			return nil
		}
	}
	path, ok := cutKeyword(arg, "FROM:")
	if !ok {
		g.send(newReply(501, 5, 5, 4, "Syntax: MAIL FROM:<address>"))
		return nil
	}
	from, params, err := addr.ParseReversePath(path)
	if err != nil {
		g.send(newReply(501, 5, 1, 7, "Invalid sender: "+err.Error()))
		return nil
	}
	g.path = envelopePath{addr: from, utf8: !isPrintable([]byte(path[:len(path)-len(params)]), false)}
	params, refusal := g.vetParams("MAIL", params)
	if refusal != nil {
		g.send(refusal)
		return nil
	}
	return g.pass("MAIL FROM:<>"+params+"\r\n", newReply(250, 2, 1, 0, "Sender accepted"))
}

// rcptTo vets RCPT; see mailFrom.
func (g *guard) rcptTo(arg string) []byte {
	path, ok := cutKeyword(arg, "TO:")
	if !ok {
		g.send(newReply(501, 5, 5, 4, "Syntax: RCPT TO:<address>"))
		return nil
	}
	to, params, err := addr.ParseForwardPath(path)
	if err != nil {
		g.send(newReply(501, 5, 1, 3, "Invalid recipient: "+err.Error()))
		return nil
	}
	if g.tx.recipients >= g.server.cfg.MaxRecipients {
		g.commands++
		g.send(newReply(452, 4, 5, 3, "Too many recipients"))
		return nil
	}
	g.path = envelopePath{addr: to, utf8: !isPrintable([]byte(path), false)} // ORCPT has an address, too
	params, refusal := g.vetParams("RCPT", params)
	if refusal != nil {
		g.send(refusal)
		return nil
	}
	return g.pass("RCPT TO:<a@b>"+params+"\r\n", newReply(250, 2, 1, 5, "Recipient accepted"))
}

// cutKeyword takes "FROM:" or "TO:" away, and the space behind it that many put
// there (RFC 5321 section 4.1.2 does not).
func cutKeyword(arg, keyword string) (string, bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", false
	}
	return strings.TrimLeft(arg[len(keyword):], " "), true
}

// data vets DATA.
func (g *guard) data(line []byte, arg string) []byte {
	switch {
	case arg != "":
		g.send(g.refused(line, newReply(501, 5, 5, 4, "DATA has no parameters")))
	case g.tx.recipients == 0:
		g.send(g.refused(line, newReply(503, 5, 5, 1, "DATA needs recipients")))
	default:
		return g.pass("DATA\r\n", nil)
	}
	return nil
}
