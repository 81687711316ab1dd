package dmarc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// Errors about the author of a message.
var (
	ErrNoAuthor       = errors.New("the message has no From with a domain")
	ErrSeveralAuthors = errors.New("the message has several From, or one with several domains")
)

// Author returns the domain in From (RFC 9989 section 5.3.1). More than one field
// or domain is an error, also where one of them only looks like an address: what
// a reader is shown must be what was checked.
func Author(h message.Header) (string, error) {
	fields := h.All("From")
	switch len(fields) {
	case 0:
		return "", ErrNoAuthor
	case 1:
	default:
		return "", ErrSeveralAuthors
	}
	var domains []string
	for _, address := range addresses(fields[0].Value()) {
		_, domain, ok := strings.Cut(withoutRoute(address), "@")
		if !ok {
			return "", ErrNoAuthor
		}
		if strings.Contains(domain, "@") {
			return "", ErrSeveralAuthors
		}
		domain, err := lookup.Domain(domain)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrNoAuthor, err)
		}
		if !slices.Contains(domains, domain) {
			domains = append(domains, domain)
		}
		if len(domains) > 1 {
			return "", ErrSeveralAuthors
		}
	}
	if len(domains) == 0 {
		return "", ErrNoAuthor
	}
	return domains[0], nil
}

// withoutRoute leaves out the domains in front of an address in angle brackets,
// "@a.example,@b.example:" (RFC 5322 section 4.4).
func withoutRoute(address string) string {
	route, rest, ok := strings.Cut(address, ":")
	if !ok || !strings.HasPrefix(route, "@") {
		return address
	}
	for hop := range strings.SplitSeq(route, ",") {
		if at := strings.LastIndexByte(strings.TrimSpace(hop), '@'); at > 0 {
			return address // an address, too
		}
	}
	return rest
}

// addresses returns what could be the addresses in a list of mailboxes and
// groups (RFC 5322 section 3.4). It is lenient: it takes what is in angle
// brackets, and all else that has an "@" but the words in front of brackets,
// which are a name. A quoted "@" is no address, nor is one in a comment, unless
// the quote or comment never ends.
func addresses(value string) []string {
	var (
		list         []string
		word         strings.Builder // outside of quotes, comments and brackets
		comment      int
		quoted, open bool
		start        int // of the quote or comment
		angle        strings.Builder
		bracketed    bool // there were brackets in this part
	)
	end := func() {
		if strings.Contains(word.String(), "@") {
			list = append(list, strings.TrimSpace(word.String()))
		}
		word.Reset()
	}
	endAngle := func() {
		list = append(list, strings.TrimSpace(angle.String()))
		angle.Reset()
	}
	for i := 0; i < len(value); i++ {
		c := value[i]
		out := &word
		if open {
			out = &angle
		}
		switch {
		case c == '\\' && (quoted || comment > 0):
			i++
			if quoted {
				out.WriteByte('x')
			}
		case comment > 0:
			if c == '(' {
				comment++
			} else if c == ')' {
				comment--
			}
		case c == '"':
			quoted, start = !quoted, i
			out.WriteByte('x') // stands for a local part; a quoted "@" is no address
		case quoted:
		case c == '(':
			comment, start = 1, i
		case c == '<' && open:
			endAngle()
		case c == '<':
			if bracketed {
				end()
			}
			word.Reset()
			open, bracketed = true, true
		case c == '>' && open:
			open = false
			endAngle()
		case (c == ',' || c == ';' || c == ':') && !open:
			end()
			bracketed = false
		default:
			out.WriteByte(c)
		}
	}
	if open {
		endAngle()
	}
	end()
	if (quoted || comment > 0) && strings.Contains(value[start:], "@") {
		list = append(list, value[start:])
	}
	return list
}
