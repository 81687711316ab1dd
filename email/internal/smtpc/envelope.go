package smtpc

import (
	"fmt"
	"strconv"
	"strings"
)

// Envelope is what goes along with a message.
type Envelope struct {
	// From is the sender's address as it is written on the wire, without angle
	// brackets; a local part that needs quotes has them. "" is the null sender.
	From string
	// To are the recipients, one at least. [Conn.Mail] ignores them.
	To []Rcpt
	// Size is the content's length in bytes; 0 means unknown (RFC 1870).
	Size int64
	// EightBit says that the content has bytes beyond ASCII (RFC 6152).
	EightBit bool
	// UTF8 says that addresses or header fields have (RFC 6531).
	UTF8 bool
	// Ret is "FULL", "HDRS" or "" (RFC 3461 section 4.3).
	Ret string
	// EnvID is the sender's name for the envelope, not encoded (RFC 3461
	// section 4.4).
	EnvID string
	// RequireTLS asks for TLS with a valid certificate all the way (RFC 8689).
	RequireTLS bool
}

// Rcpt is a recipient.
type Rcpt struct {
	// Addr is an address as [Envelope.From].
	Addr string
	// Notify lists "NEVER", or some of "SUCCESS", "FAILURE" and "DELAY" (RFC
	// 3461 section 4.1).
	Notify []string
	// ORcpt is the original recipient as type;address, not encoded, as
	// "rfc822;bob@example.com" (RFC 3461 section 4.2).
	ORcpt string
}

// maxAddress is well above what RFC 5321 section 4.5.3.1.3 allows, 256 bytes.
const maxAddress = 1024

// mailCommand writes the MAIL command, or says why the server must not get this
// message. DSN parameters are left out where the server does not know them, as
// RFC 3461 section 5.2.2 has it.
func (c *Conn) mailCommand(env Envelope) (string, *Error) {
	if err := checkAddress(env.From, env.UTF8); err != nil {
		return "", &Error{Phase: PhaseMail, Status: Permanent, Reply: Reply{Code: 553, Enhanced: "5.1.7"}, Err: err}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "MAIL FROM:<%s>", env.From)
	if limits, ok := c.Extension("SIZE"); ok && env.Size > 0 {
		if limit, err := strconv.ParseInt(limits, 10, 64); err == nil && limit > 0 && env.Size > limit {
			return "", lacking(PhaseMail, 552, "5.3.4", "the next server takes no messages of this size")
		}
		fmt.Fprintf(&b, " SIZE=%d", env.Size)
	}
	if env.EightBit {
		if _, ok := c.Extension("8BITMIME"); !ok {
			return "", lacking(PhaseMail, 554, "5.6.3", "the next server takes no 8-bit content (8BITMIME)")
		}
		b.WriteString(" BODY=8BITMIME")
	}
	if env.UTF8 {
		if _, ok := c.Extension("SMTPUTF8"); !ok {
			return "", c.lacksUTF8(env)
		}
		b.WriteString(" SMTPUTF8")
	}
	if env.RequireTLS {
		if !c.tls.authentic() {
			return "", lacking(PhaseMail, 550, "5.7.10", "the next server has no TLS with a valid certificate, which the message requires")
		}
		if _, ok := c.Extension("REQUIRETLS"); !ok {
			return "", lacking(PhaseMail, 550, "5.7.30", "the next server does not know REQUIRETLS, which the message requires")
		}
		b.WriteString(" REQUIRETLS")
	}
	if _, ok := c.Extension("DSN"); ok {
		switch env.Ret {
		case "":
		case "FULL", "HDRS":
			b.WriteString(" RET=" + env.Ret)
		default:
			return "", &Error{Phase: PhaseMail, Status: Permanent, Err: fmt.Errorf("%.20q is no value of RET", env.Ret)}
		}
		if env.EnvID != "" {
			b.WriteString(" ENVID=" + xtext(env.EnvID))
		}
	}
	return b.String(), nil
}

const noUTF8 = "the next server takes no internationalised mail (SMTPUTF8)"

// lacksUTF8 tells a message with such addresses, which the sender may change,
// from one with such a header (RFC 6531 section 3.5, RFC 3463's registry).
func (c *Conn) lacksUTF8(env Envelope) *Error {
	if !isASCII(env.From) {
		return lacking(PhaseMail, 553, "5.6.7", noUTF8)
	}
	for _, to := range env.To {
		if !isASCII(to.Addr) {
			return lacking(PhaseMail, 553, "5.6.7", noUTF8)
		}
	}
	return lacking(PhaseMail, 554, "5.6.9", noUTF8)
}

func (c *Conn) rcptCommand(to Rcpt, utf8 bool) (string, *Error) {
	bad := func(err error) *Error {
		return &Error{Phase: PhaseRcpt, Status: Permanent, Reply: Reply{Code: 553, Enhanced: "5.1.3"}, Err: err}
	}
	if to.Addr == "" {
		return "", bad(fmt.Errorf("the recipient is empty"))
	}
	if err := checkAddress(to.Addr, utf8); err != nil {
		return "", bad(err)
	}
	if _, ok := c.Extension("SMTPUTF8"); !ok && !isASCII(to.Addr) {
		return "", lacking(PhaseRcpt, 553, "5.6.7", noUTF8)
	}
	line := "RCPT TO:<" + to.Addr + ">"
	if _, ok := c.Extension("DSN"); !ok {
		return line, nil
	}
	for _, n := range to.Notify {
		switch n {
		case "NEVER", "SUCCESS", "FAILURE", "DELAY":
		default:
			return "", bad(fmt.Errorf("%.20q is no value of NOTIFY", n))
		}
	}
	if len(to.Notify) > 0 {
		line += " NOTIFY=" + strings.Join(to.Notify, ",")
	}
	if kind, addr, ok := strings.Cut(to.ORcpt, ";"); ok && kind != "" && !strings.ContainsFunc(kind, func(r rune) bool { return r <= ' ' || r > '~' }) {
		line += " ORCPT=" + kind + ";" + orcptText(kind, addr)
	}
	return line, nil
}

// checkAddress makes sure that an address is one argument of a command and no
// more, whatever was made of it elsewhere.
func checkAddress(addr string, utf8 bool) error {
	if len(addr) > maxAddress {
		return fmt.Errorf("an address of %d bytes is too long", len(addr))
	}
	quoted := false
	for i := 0; i < len(addr); i++ {
		b := addr[i]
		switch {
		case b < ' ' || b == 0x7f:
			return fmt.Errorf("the address %q has a control character", addr)
		case b >= 0x80 && !utf8:
			return fmt.Errorf("the address %q is not ASCII, in a message without SMTPUTF8", addr)
		case b == '"':
			quoted = !quoted
		case quoted && b == '\\':
			i++
			if i == len(addr) || addr[i] < ' ' || addr[i] >= 0x7f {
				return fmt.Errorf("the address %q has a backslash before nothing that it could quote", addr)
			}
		case !quoted && (b == ' ' || b == '<' || b == '>'):
			return fmt.Errorf("the address %q has %q outside of quotes", addr, b)
		}
	}
	if quoted {
		return fmt.Errorf("the address %q has a quote that does not end", addr)
	}
	return nil
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// xtext encodes a parameter (RFC 3461 section 4).
func xtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c > ' ' && c <= '~' && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "+%02X", c)
		}
	}
	return b.String()
}

// orcptText encodes an original recipient: those of type utf-8 as
// utf-8-addr-xtext (RFC 6533 section 3), which servers without SMTPUTF8 take too.
func orcptText(kind, addr string) string {
	if !strings.EqualFold(kind, "utf-8") {
		return xtext(addr)
	}
	var b strings.Builder
	for _, r := range addr {
		if r > ' ' && r <= '~' && r != '+' && r != '=' && r != '\\' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%02X}`, r)
		}
	}
	return b.String()
}
