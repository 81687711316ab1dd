package dsn

import (
	"bytes"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// A field of a report for machines.
type field struct {
	name  string // in lower case
	value string // unfolded and clean
	gap   bool   // an empty line stands before it
}

// readFields reads fields (RFC 3464 section 2.1), with what servers do to them:
// lines that are broken without white space at the start of the next, empty lines
// in the wrong places or none.
func readFields(content []byte) []field {
	var list []field
	gap := true
	for raw := range bytes.Lines(content) {
		l := strings.ToValidUTF8(string(bytes.TrimRight(raw, "\r\n")), "?")
		if strings.TrimSpace(l) == "" {
			gap = true
			continue
		}
		if len(list) >= 20*maxRecipients {
			break
		}
		name, value, ok := strings.Cut(l, ":")
		if ok && isFieldName(strings.TrimRight(name, " ")) {
			list = append(list, field{name: strings.ToLower(strings.TrimRight(name, " ")), value: line(value, maxDiagnostic), gap: gap})
			gap = false
			continue
		}
		if len(list) > 0 && !gap {
			last := &list[len(list)-1]
			// What is there is clean already, and is not read again for each line.
			if more := line(l, max(0, maxDiagnostic-len(last.value)-1)); more != "" {
				last.value = strings.TrimSpace(last.value + " " + more)
			}
		}
	}
	return list
}

// isFieldName is narrow enough not to take a reply's second line for a field.
func isFieldName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' && i > 0 || c == '-' && i > 0) {
			return false
		}
	}
	return len(s) > 1 && len(s) < 60
}

// readStatus reads message/delivery-status. It reports whether there is anything
// of one.
func (n *Notification) readStatus(content []byte) bool {
	var r *Recipient
	has := map[string]bool{} // the fields that r has
	known := false
	for _, f := range readFields(content) {
		switch f.name {
		case "reporting-mta":
			_, n.ReportingMTA = typed(f.value)
		case "original-envelope-id":
			n.EnvID = f.value
		case "arrival-date":
			n.Arrival = parseDate(f.value)
		case "original-recipient", "final-recipient", "x-actual-recipient", "action", "status", "remote-mta", "diagnostic-code", "last-attempt-date", "will-retry-until":
			if r == nil || f.gap && (has["final-recipient"] || has["action"]) || has[f.name] && f.name == "final-recipient" {
				if len(n.Recipients) == maxRecipients {
					return true
				}
				n.Recipients = append(n.Recipients, Recipient{})
				r = &n.Recipients[len(n.Recipients)-1]
				clear(has)
			}
			if !has[f.name] {
				has[f.name] = true
				r.readField(f)
			}
		default:
			continue
		}
		known = true
	}
	for i := range n.Recipients {
		n.Recipients[i].settle()
	}
	return known && len(n.Recipients) > 0
}

func (r *Recipient) readField(f field) {
	switch f.name {
	case "original-recipient":
		if kind, address := typed(f.value); address != "" {
			if kind == "" {
				kind = "rfc822"
			}
			r.Original = kind + ";" + cleanAddress(kind, address)
		}
	case "final-recipient":
		kind, address := typed(f.value)
		r.Address = cleanAddress(kind, address)
	case "x-actual-recipient":
		if kind, address := typed(f.value); !strings.Contains(r.Address, "@") {
			r.Address = cleanAddress(kind, address)
		}
	case "action":
		r.Action = parseAction(f.value)
	case "status":
		r.Status = findStatus(f.value)
		if _, comment, ok := strings.Cut(f.value, "("); ok && r.Diagnostic == "" {
			r.Diagnostic = strings.TrimSuffix(comment, ")") // all that some servers say
		}
	case "remote-mta":
		if _, host := typed(f.value); host != "" {
			r.RemoteMTA = strings.TrimRight(strings.Fields(host)[0], ".;,")
		}
	case "diagnostic-code":
		if _, said := typed(f.value); said != "" {
			r.Diagnostic = said
		}
	case "last-attempt-date":
		r.LastAttempt = parseDate(f.value)
	case "will-retry-until":
		r.RetryUntil = parseDate(f.value)
	}
}

// settle fills in what follows from the rest.
func (r *Recipient) settle() {
	if !strings.Contains(r.Address, "@") {
		if _, first, _ := strings.Cut(r.Original, ";"); strings.Contains(first, "@") {
			r.Address = first
		}
	}
	if r.Status == "" {
		r.Status = findStatus(r.Diagnostic)
	}
	if r.Action != "" {
		return
	}
	switch clip(r.Status, 1) {
	case "2":
		r.Action = Delivered
	case "4":
		r.Action = Delayed
	default:
		r.Action = Failed
	}
}

func parseAction(s string) Action {
	word := strings.ToLower(strings.TrimLeft(s, " "))
	switch {
	case strings.HasPrefix(word, "fail"), strings.HasPrefix(word, "expired"), strings.HasPrefix(word, "bounced"), strings.HasPrefix(word, "reject"):
		return Failed
	case strings.HasPrefix(word, "delay"), strings.HasPrefix(word, "defer"):
		return Delayed
	case strings.HasPrefix(word, "deliver"):
		return Delivered
	case strings.HasPrefix(word, "relay"):
		return Relayed
	case strings.HasPrefix(word, "expand"):
		return Expanded
	}
	return ""
}

// typed takes "type; value" apart; the type is in lower case, and "" where there
// is none.
func typed(s string) (kind, value string) {
	kind, value, ok := strings.Cut(s, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if !ok || !isFieldName(kind) {
		return "", strings.TrimSpace(s)
	}
	return kind, strings.TrimSpace(value)
}

// cleanAddress gives an address without what servers put around it. One that is
// none after all, as a user's name alone, stays.
func cleanAddress(kind, s string) string {
	if kind == "utf-8" {
		s = decodeUTF8Address(s)
	}
	s = strings.TrimSpace(s)
	if start := strings.LastIndexByte(s, '<'); start >= 0 {
		inside, _, _ := strings.Cut(s[start+1:], ">")
		s = inside
	}
	s = strings.TrimPrefix(strings.TrimSpace(s), "mailto:")
	if a, err := addr.Parse(s); err == nil {
		return a.String()
	}
	if found := findAddress(s); found != "" {
		return found
	}
	return line(s, 300)
}

// findAddress returns the first address in a line.
func findAddress(s string) string {
	for at := 0; ; {
		i := strings.IndexByte(s[at:], '@')
		if i < 0 {
			return ""
		}
		at += i
		start, end := at, at+1
		for start > 0 {
			c, size := utf8.DecodeLastRuneInString(s[:start])
			if !isDomainRune(c) && !strings.ContainsRune("!#$%&'*+/=?^`{|}~", c) {
				break
			}
			start -= size
		}
		for end < len(s) {
			c, size := utf8.DecodeRuneInString(s[end:])
			if !isDomainRune(c) {
				break
			}
			end += size
		}
		if a, err := addr.Parse(strings.TrimRight(strings.TrimLeft(s[start:end], "."), ".-")); err == nil && strings.Contains(a.Domain, ".") {
			return a.String()
		}
		at++
	}
}

func isDomainRune(c rune) bool {
	return c == '-' || c == '.' || c == '_' || c != utf8.RuneError && (unicode.IsLetter(c) || unicode.IsDigit(c) || unicode.IsMark(c))
}

// findStatus returns the first enhanced status code in a text (RFC 3463 section
// 2), or "". An IP address has none in it.
func findStatus(s string) string {
	isDigit := func(i int) bool { return i >= 0 && i < len(s) && s[i] >= '0' && s[i] <= '9' }
	for i := 0; i+4 < len(s); i++ {
		if s[i] != '2' && s[i] != '4' && s[i] != '5' || s[i+1] != '.' || isDigit(i-1) || i > 0 && s[i-1] == '.' {
			continue
		}
		end, dots := i+1, 0
		for ; end < len(s) && s[end] == '.' && isDigit(end+1) && dots < 3; dots++ {
			start := end + 1
			for end++; isDigit(end); end++ {
			}
			if end-start > 3 {
				dots = 3
			}
		}
		if dots == 2 && !(end < len(s) && (s[end] == '.' && isDigit(end+1) || isLetter(s[end]))) {
			return s[i:end]
		}
	}
	return ""
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// parseDate reads a date in any of the forms of RFC 5322; the zero time for what
// is none.
func parseDate(s string) time.Time {
	t, err := mail.ParseDate(clip(s, 100))
	if err != nil {
		return time.Time{}
	}
	return t
}
