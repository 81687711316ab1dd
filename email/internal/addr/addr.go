package addr

import (
	"errors"
	"strings"

	"golang.org/x/net/idna"
)

// Limits of RFC 5321 section 4.5.3.1, in octets. The 64 for a local part is not
// among them: senders of newsletters and forwarders (VERP, SRS) write longer
// ones all the time, and that section asks to take what one can.
const (
	maxDomain = 253 // what the DNS can hold; section 4.5.3.1.2 says 255
	maxLength = 254 // a path of 256 without its angle brackets
)

// Address is a mailbox. The zero value is the null reverse-path "<>" of
// bounces.
type Address struct {
	// Local is the local part without quotes and backslashes. It may hold any
	// printable character, "@" and spaces too: write addresses with String.
	Local string
	// Domain is in lower case and A-labels, or an address literal in brackets.
	// It is empty in the null reverse-path, and in "<postmaster>".
	Domain string
}

// IsNull says whether this is the null reverse-path.
func (a Address) IsNull() bool { return a.Local == "" && a.Domain == "" }

// IsPostmaster says whether mail to the address has to be accepted wherever its
// domain is served (RFC 5321 section 4.5.1). Case does not matter, and the
// domain may be missing.
func (a Address) IsPostmaster() bool { return strings.EqualFold(a.Local, "postmaster") }

// Equal compares addresses: local parts exactly (RFC 5321 section 2.4), but for
// that of the postmaster.
func (a Address) Equal(b Address) bool {
	return a.Domain == b.Domain && (a.Local == b.Local || a.IsPostmaster() && b.IsPostmaster())
}

// IsASCII says whether the address can be sent to a server without SMTPUTF8:
// domains always can.
func (a Address) IsASCII() bool { return isASCII(a.Local) }

// IsLiteral says whether the domain is an address literal.
func (a Address) IsLiteral() bool { return strings.HasPrefix(a.Domain, "[") }

// Reroutes says whether the local part asks some server to send the mail on to
// yet another one: "user%other@relay", "other!user@relay", "user@other"@relay.
// These are valid local parts, but whoever relays them to a server that heeds
// them makes an open relay of it.
func (a Address) Reroutes() bool { return strings.ContainsAny(a.Local, "%!@") }

// UnicodeDomain is the domain in U-labels, for people to read.
func (a Address) UnicodeDomain() string {
	if !strings.Contains(a.Domain, "xn--") {
		return a.Domain
	}
	if u, err := idna.Lookup.ToUnicode(a.Domain); err == nil {
		return u
	}
	return a.Domain
}

// String writes the address as SMTP and header fields want it, without angle
// brackets and with the local part quoted if it must be. The null reverse-path
// is "".
func (a Address) String() string {
	local := a.Local
	if !isDotString(local) && !a.IsNull() {
		local = quote(local)
	}
	if a.Domain == "" {
		return local
	}
	return local + "@" + a.Domain
}

// quote writes a quoted string with as few backslashes as possible (RFC 5321
// section 4.1.2).
func quote(s string) string {
	b := make([]byte, 0, len(s)+2)
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return string(append(b, '"'))
}

// Parse reads "local@domain". Without a domain, or with anything around it, it
// is an error.
func Parse(s string) (Address, error) {
	local, rest, err := parseLocal(s)
	if err != nil {
		return Address{}, err
	}
	if rest == "" {
		return Address{}, errors.New("an address needs a domain")
	}
	if rest[0] != '@' {
		return Address{}, errors.New("something stands between local part and domain")
	}
	domain, err := ParseDomain(rest[1:])
	if err != nil {
		return Address{}, err
	}
	a := Address{Local: local, Domain: domain}
	if len(domain)+1+len(local) > maxLength {
		return Address{}, errors.New("the address is too long")
	}
	return a, nil
}

// ParseReversePath reads the path at the start of s, as MAIL has it: "<>" or
// "<local@domain>". Rest is what comes behind it.
func ParseReversePath(s string) (a Address, rest string, err error) {
	inside, rest, err := cutPath(s)
	if err != nil || inside == "" {
		return Address{}, rest, err
	}
	a, err = Parse(inside)
	return a, rest, err
}

// ParseForwardPath reads the path at the start of s, as RCPT has it:
// "<local@domain>" or "<postmaster>". Rest is what comes behind it.
func ParseForwardPath(s string) (a Address, rest string, err error) {
	inside, rest, err := cutPath(s)
	if err != nil {
		return Address{}, rest, err
	}
	if strings.EqualFold(inside, "postmaster") {
		return Address{Local: inside}, rest, nil
	}
	a, err = Parse(inside)
	return a, rest, err
}

// cutPath takes the angle brackets away, minding those within quotes.
func cutPath(s string) (inside, rest string, err error) {
	if s == "" || s[0] != '<' {
		return "", "", errors.New("an address must stand in angle brackets")
	}
	if strings.HasPrefix(s, "<@") {
		return "", "", errors.New("source routes are not supported")
	}
	quoted := false
	for i := 1; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && s[i] == '>':
			return s[1:i], s[i+1:], nil
		}
	}
	return "", "", errors.New("an angle bracket is not closed")
}
