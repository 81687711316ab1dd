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
		at := strings.LastIndexByte(address, '@')
		if at < 0 {
			return "", ErrNoAuthor
		}
		domain, err := lookup.Domain(address[at+1:])
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

// addresses returns what could be the addresses in a list of mailboxes and
// groups (RFC 5322 section 3.4). It is lenient: for each part between commas what
// is in angle brackets, or the part itself if it has an "@".
func addresses(value string) []string {
	var (
		list         []string
		word         strings.Builder // outside of quotes, comments and brackets
		comment      int
		quoted, open bool
		angle        strings.Builder
		bracketed    bool // there were brackets in this part
	)
	end := func() {
		if !bracketed && strings.Contains(word.String(), "@") {
			list = append(list, strings.TrimSpace(word.String()))
		}
		word.Reset()
		bracketed = false
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
			quoted = !quoted
			out.WriteByte('x') // stands for a local part; a quoted "@" is no address
		case quoted:
		case c == '(':
			comment++
		case c == '<':
			open, bracketed = true, true
			angle.Reset()
		case c == '>' && open:
			open = false
			list = append(list, strings.TrimSpace(angle.String()))
		case (c == ',' || c == ';') && !open:
			end()
		case c == ':' && !open:
			word.Reset() // the name of a group
		default:
			out.WriteByte(c)
		}
	}
	if open {
		list = append(list, strings.TrimSpace(angle.String()))
	}
	end()
	return list
}
