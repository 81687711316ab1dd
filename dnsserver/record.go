package dnsserver

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// defaultTTL is that of records that have none of their own, in seconds.
const defaultTTL = 3600

// pack returns the record in the form that zones have.
func (r Record) pack() (record, error) {
	name, err := wireName(r.Name)
	if err != nil {
		return record{}, fmt.Errorf("%.60q is %w", r.Name, err)
	}
	ttl := uint32(r.TTL)
	if r.TTL == 0 {
		ttl = defaultTTL
	}
	rtype := strings.ToUpper(r.Type)
	value := r.Value
	switch rtype {
	case "ALIAS":
		target, err := wireName(value)
		if err != nil {
			return record{}, fmt.Errorf("%.60q is %w", value, err)
		}
		return record{name: name, rtype: typeALIAS, ttl: ttl, data: target}, nil
	case "TXT", "SPF":
		if !strings.HasPrefix(value, `"`) {
			value = QuoteText(value)
		}
	}
	number, known := typeOf(rtype)
	if !known {
		return record{}, fmt.Errorf("%.20q is not a known record type", r.Type)
	}
	rr, err := dns.NewRR(fmt.Sprintf("%s %d IN %s %s", nameText(name), ttl, rtype, value))
	if err != nil || rr == nil || rr.Header().Rrtype != number {
		return record{}, fmt.Errorf("%.60q is not the value of a record of type %s", r.Value, rtype)
	}
	return packRecord(rr)
}

// QuoteText returns a text as the strings of at most 255 octets that a TXT
// record is made of (RFC 1035 section 3.3.14).
func QuoteText(text string) string {
	var b strings.Builder
	for {
		part := text[:min(len(text), 255)]
		b.WriteByte('"')
		for _, c := range []byte(part) {
			switch {
			case c == '"' || c == '\\':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c < ' ' || c >= 0x7f:
				fmt.Fprintf(&b, `\%03d`, c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('"')
		if text = text[len(part):]; text == "" {
			return b.String()
		}
		b.WriteByte(' ')
	}
}

// UnquoteText is the reverse of [QuoteText]: the text of a TXT record's value,
// its strings put together. A value without quotes is the text already.
func UnquoteText(value string) (string, error) {
	if !strings.HasPrefix(value, `"`) {
		return value, nil
	}
	r, err := Record{Name: ".", Type: "TXT", Value: value}.pack()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for data := r.data; data != ""; {
		n := int(data[0])
		text.WriteString(data[1 : 1+n])
		data = data[1+n:]
	}
	return text.String(), nil
}

// public returns the record as people write it.
func (r *record) public() Record {
	out := Record{Name: strings.TrimSuffix(nameText(r.name), "."), Type: typeText(r.rtype), TTL: int(r.ttl)}
	if r.name == "\x00" {
		out.Name = "."
	}
	if r.rtype == typeALIAS {
		out.Value = nameText(r.data)
	} else if rr, err := r.unpack(); err != nil || r.generic() {
		out.Value = r.genericText()
	} else {
		out.Value = strings.TrimPrefix(rr.String(), rr.Header().String())
	}
	return out
}

// text returns the record as a line of a zone file.
func (r *record) text() string {
	rr, err := r.unpack()
	if err != nil || r.generic() {
		return fmt.Sprintf("%s\t%d\tIN\tTYPE%d\t%s", nameText(r.name), r.ttl, r.rtype, r.genericText())
	}
	return rr.String()
}

// generic reports whether the type has no form of its own in zone files.
func (r *record) generic() bool {
	_, known := dns.TypeToRR[r.rtype]
	return !known || r.rtype == dns.TypeNULL
}

// genericText returns the data in the form that any type has (RFC 3597 section 5).
func (r *record) genericText() string { return fmt.Sprintf(`\# %d %x`, len(r.data), r.data) }

// parseText is the reverse of text.
func parseText(line string) (record, error) {
	rr, err := dns.NewRR(line)
	if err != nil {
		return record{}, err
	}
	if rr == nil {
		return record{}, fmt.Errorf("%.60q is no record", line)
	}
	return packRecord(rr)
}
