package dsn

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// statusPart writes the fields that machines read (RFC 3464 section 2).
func (r *Report) statusPart() part {
	p := part{mediaType: "message/delivery-status", encoding: "7bit", description: "Delivery report"}
	global := false
	if r.UTF8 {
		for _, rcpt := range r.Recipients {
			global = global || !isASCII(rcpt.Address+rcpt.Original+rcpt.Diagnostic)
		}
	}
	if global {
		p.mediaType, p.encoding = "message/global-delivery-status", "8bit"
	}
	var out bytes.Buffer
	f := fields{utf8: global}
	f.add("Reporting-MTA", "dns; "+r.ReportingMTA)
	f.add("Original-Envelope-Id", r.EnvID)
	f.time("Arrival-Date", r.Arrival)
	f.write(&out)
	for _, rcpt := range r.Recipients {
		f.add("Original-Recipient", typedAddress(rcpt.Original, global))
		f.add("Final-Recipient", typedAddress(finalRecipient(rcpt.Address), global))
		f.add("Action", string(rcpt.Action))
		f.add("Status", rcpt.status())
		if mta := rcpt.RemoteMTA; mta != "" {
			f.add("Remote-MTA", "dns; "+literal(mta))
			if rcpt.Diagnostic != "" {
				f.add("Diagnostic-Code", "smtp; "+rcpt.Diagnostic)
			}
		} else if rcpt.Diagnostic != "" {
			f.add("Diagnostic-Code", "x-local; "+rcpt.Diagnostic)
		}
		f.time("Last-Attempt-Date", rcpt.LastAttempt)
		if rcpt.Action == Delayed {
			f.time("Will-Retry-Until", rcpt.RetryUntil)
		}
		f.write(&out)
	}
	p.content = out.Bytes()
	return p
}

// status is the recipient's status code, with a default by its action.
func (r *Recipient) status() string {
	if code := findStatus(r.Status); code != "" {
		return code
	}
	switch r.Action {
	case Failed:
		return "5.0.0"
	case Delayed:
		return "4.0.0"
	}
	return "2.0.0"
}

func finalRecipient(address string) string {
	if isASCII(address) {
		return "rfc822;" + address
	}
	return "utf-8;" + address
}

// literal puts an IP address in brackets, as names of hosts have it.
func literal(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Is4() {
			return "[" + host + "]"
		}
		return "[IPv6:" + host + "]"
	}
	return host
}

// fields are a group of fields, in order.
type fields struct {
	utf8 bool
	list [][2]string
}

// add adds a field, if it has a value.
func (f *fields) add(name, value string) {
	value = line(value, maxDiagnostic)
	if !f.utf8 {
		value = ascii(value)
	}
	if value != "" {
		f.list = append(f.list, [2]string{name, value})
	}
}

func (f *fields) time(name string, t time.Time) {
	if !t.IsZero() {
		f.add(name, t.Format(time.RFC1123Z))
	}
}

// write writes the group with the empty line that ends it, and empties it.
// go-message would write the names as "Remote-Mta".
func (f *fields) write(out *bytes.Buffer) {
	for _, nameAndValue := range f.list {
		// Folded (RFC 5322 section 2.2.3). Values are short enough for a line each
		// even if they are one word.
		width := 0
		for i, word := range append([]string{nameAndValue[0] + ":"}, strings.Fields(nameAndValue[1])...) {
			switch {
			case i > 1 && width+1+len(word) > 76:
				out.WriteString("\r\n ")
				width = 1
			case i > 0:
				out.WriteByte(' ')
				width++
			}
			out.WriteString(word)
			width += len(word)
		}
		out.WriteString("\r\n")
	}
	out.WriteString("\r\n")
	f.list = nil
}

// typedAddress writes "type;address" for a field. Where only ASCII may be, a
// UTF-8 address gets the form of RFC 6533 section 3, utf-8-addr-xtext.
func typedAddress(s string, global bool) string {
	kind, address, ok := strings.Cut(s, ";")
	if !ok || address == "" {
		return ""
	}
	kind = strings.ToLower(strings.TrimSpace(kind))
	address = line(address, maxDiagnostic)
	if kind == "utf-8" || !isASCII(address) {
		if kind = "utf-8"; !global {
			address = encodeUTF8Address(address)
		}
	}
	return kind + ";" + address
}

func encodeUTF8Address(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c > ' ' && c < 0x7f && c != '+' && c != '=' && c != '\\' {
			b.WriteRune(c)
			continue
		}
		fmt.Fprintf(&b, `\x{%X}`, c)
	}
	return b.String()
}

// decodeUTF8Address undoes the encoding of RFC 6533 section 3, and leaves what is
// none as it is.
func decodeUTF8Address(s string) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		hex, after, closed := strings.Cut(rest, "}")
		c, err := strconv.ParseUint(hex, 16, 21)
		if !closed || err != nil || c <= ' ' || !utf8.ValidRune(rune(c)) {
			b.WriteString(`\x{`)
			s = rest
			continue
		}
		b.WriteRune(rune(c))
		s = after
	}
}
