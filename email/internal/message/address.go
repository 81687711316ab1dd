package message

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

var (
	// ErrNoFrom is returned for a message without From or an empty one.
	ErrNoFrom = errors.New("the message has no From")
	// ErrManyFrom is returned for a message with more than one From field.
	ErrManyFrom = errors.New("the message has more than one From field")
	// ErrAddress is returned for a field that two readers may understand
	// differently.
	ErrAddress = errors.New("the addresses cannot be told for sure")
)

// Address is a mailbox (RFC 5322 section 3.4).
type Address struct {
	// Name is the decoded display name, or "".
	Name string
	// Local is what is before the @, without quotes.
	Local string
	// Domain is what is behind it, as it was written: a domain, perhaps with
	// UTF-8 (RFC 6532), or an address in brackets.
	Domain string
}

// maxAddresses bounds the addresses of one field.
const maxAddresses = 1000

// From returns the addresses of the From field, at least one. It is strict: what
// a policy is applied to (DMARC, the right to use an address) must be what people
// are shown later. So a field that is there twice, or from which two programs
// might read different addresses, is an error: [ErrNoFrom], [ErrManyFrom] or one
// that wraps [ErrAddress].
func From(h Header) ([]Address, error) {
	fields := h.All("From")
	if len(fields) > 1 {
		return nil, ErrManyFrom
	}
	if len(fields) == 0 || fields[0].Value() == "" {
		return nil, ErrNoFrom
	}
	return Addresses(fields[0].Value())
}

// Addresses reads a list of mailboxes (RFC 5322 section 3.4), without groups,
// source routes, and white space or comments within addresses. Display names may
// hold what they should not, as long as there is only one address that could be
// meant.
func Addresses(value string) ([]Address, error) {
	list, err := (&addressReader{rest: value}).list()
	if err == nil {
		return list, nil
	}
	if a, ok := onlyAddress(value); ok {
		return []Address{a}, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrAddress, err)
}

// onlyAddress takes the address out of a value such as "Smith, Inc. <a@b>", which
// is against the grammar but has one @, and one pair of brackets around it.
func onlyAddress(s string) (Address, bool) {
	if strings.Count(s, "@") != 1 || strings.Count(s, "<") != 1 || strings.Count(s, ">") != 1 || strings.ContainsAny(s, "\"\\()\x00") {
		return Address{}, false
	}
	name, rest, _ := strings.Cut(s, "<")
	addr, tail, ok := strings.Cut(rest, ">")
	if !ok || strings.TrimSpace(tail) != "" {
		return Address{}, false
	}
	r := &addressReader{rest: addr}
	a, err := r.addrSpec()
	a.Name = DecodeHeader(strings.TrimSpace(name))
	return a, err == nil && r.rest == ""
}

type addressReader struct{ rest string }

func (r *addressReader) list() ([]Address, error) {
	var list []Address
	for {
		a, err := r.mailbox()
		if err != nil {
			return nil, err
		}
		if list = append(list, a); len(list) > maxAddresses {
			return nil, errors.New("too many addresses")
		}
		if r.rest == "" {
			return list, nil
		}
		if r.rest[0] != ',' {
			return nil, fmt.Errorf("unexpected %q", r.rest[:1])
		}
		r.rest = r.rest[1:]
	}
}

func (r *addressReader) mailbox() (Address, error) {
	if err := r.space(); err != nil {
		return Address{}, err
	}
	// An address alone, or words up to the bracket. The reader that wants the
	// one is tried first, from the same place.
	start := r.rest
	if a, err := r.addrSpec(); err == nil {
		if err := r.space(); err != nil {
			return a, err
		}
		if r.rest == "" || r.rest[0] == ',' {
			return a, nil
		}
		return a, errors.New("text behind an address")
	}
	r.rest = start
	name, err := r.phrase()
	if err != nil {
		return Address{}, err
	}
	if !strings.HasPrefix(r.rest, "<") {
		return Address{}, errors.New("no address where one should be")
	}
	r.rest = r.rest[1:]
	a, err := r.addrSpec()
	if err != nil {
		return a, err
	}
	a.Name = name
	if !strings.HasPrefix(r.rest, ">") {
		return a, errors.New("no > behind an address")
	}
	r.rest = r.rest[1:]
	return a, r.space()
}

// addrSpec reads an address without any white space in it.
func (r *addressReader) addrSpec() (a Address, err error) {
	if strings.HasPrefix(r.rest, `"`) {
		if a.Local, err = r.quoted(); err != nil {
			return a, err
		}
	} else if a.Local = r.atoms("."); !isDotAtom(a.Local) {
		return a, errors.New("bad local part")
	}
	if !utf8.ValidString(a.Local) {
		return a, errors.New("local part is no UTF-8")
	}
	if !strings.HasPrefix(r.rest, "@") {
		return a, errors.New("no @ in an address")
	}
	r.rest = r.rest[1:]
	if strings.HasPrefix(r.rest, "[") {
		end := strings.IndexByte(r.rest, ']')
		if end < 0 || strings.ContainsFunc(r.rest[1:end], notInLiteral) {
			return a, errors.New("bad address literal")
		}
		a.Domain, r.rest = r.rest[:end+1], r.rest[end+1:]
		return a, nil
	}
	a.Domain = r.atoms(".")
	if !isDotAtom(a.Domain) || !utf8.ValidString(a.Domain) {
		return a, errors.New("bad domain")
	}
	return a, nil
}

// notInLiteral knows what no address literal has (RFC 5321 section 4.1.3).
func notInLiteral(r rune) bool {
	return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '.' || r == ':' || r == '-')
}

// phrase reads a display name: words, quoted strings, and full stops, which RFC
// 5322 section 4.1 forbids and everyone writes.
func (r *addressReader) phrase() (string, error) {
	var words []string
	for {
		if err := r.space(); err != nil {
			return "", err
		}
		if r.rest == "" || r.rest[0] == '<' || r.rest[0] == ',' {
			return DecodeHeader(strings.Join(words, " ")), nil
		}
		if r.rest[0] == '"' {
			s, err := r.quoted()
			if err != nil {
				return "", err
			}
			words = append(words, s)
			continue
		}
		word := r.atoms(".")
		if word == "" {
			return "", fmt.Errorf("unexpected %q in a name", r.rest[:1])
		}
		words = append(words, word)
	}
}

// quoted reads a quoted string (RFC 5322 section 3.2.4).
func (r *addressReader) quoted() (string, error) {
	var b strings.Builder
	for i := 1; i < len(r.rest); i++ {
		switch c := r.rest[i]; {
		case c == '"':
			r.rest = r.rest[i+1:]
			return b.String(), nil
		case c == '\\':
			if i++; i == len(r.rest) || r.rest[i] < ' ' {
				return "", errors.New("bad escape")
			}
			b.WriteByte(r.rest[i])
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", errors.New("control character in quotes")
		default:
			b.WriteByte(c)
		}
	}
	return "", errors.New("quotes are not closed")
}

// atoms reads characters of atoms and those of extra.
func (r *addressReader) atoms(extra string) string {
	i := 0
	for i < len(r.rest) && (isAtom(r.rest[i]) || strings.IndexByte(extra, r.rest[i]) >= 0) {
		i++
	}
	s := r.rest[:i]
	r.rest = r.rest[i:]
	return s
}

// space passes over white space and comments (RFC 5322 section 3.2.2).
func (r *addressReader) space() error {
	depth := 0
	for i := 0; i < len(r.rest); i++ {
		switch c := r.rest[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			i++
		case depth == 0 && c != ' ' && c != '\t':
			r.rest = r.rest[i:]
			return nil
		}
	}
	r.rest = ""
	if depth > 0 {
		return errors.New("a comment is not closed")
	}
	return nil
}

// isAtom knows atext of RFC 5322 section 3.2.3 and RFC 6532 section 3.2.
func isAtom(b byte) bool {
	return b > ' ' && b != 0x7f && strings.IndexByte(`()<>[]:;@\,."`, b) < 0
}

func isDotAtom(s string) bool {
	return s != "" && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
}
