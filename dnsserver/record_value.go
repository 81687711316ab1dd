package dnsserver

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// shape is what the value of a record type looks like. It is meant to catch
// mistakes with a clear message, not to parse: the server does that.
type shape struct {
	want string // for people
	ok   func(value string) bool
}

// shapeOf returns the shape of a record type, in capitals.
func shapeOf(recordType string) (shape, bool) {
	switch recordType {
	case "A":
		return shape{"an IPv4 address", isIPv4}, true
	case "AAAA":
		return shape{"an IPv6 address", isIPv6}, true
	case "CNAME", "NS", "PTR", "DNAME", "ALIAS":
		return shape{"a name", isName}, true
	case "TXT", "SPF":
		return shape{"text", isText}, true
	case "MX":
		return fieldShape("a preference and a name, as 10 mail.example.com", uint16Field, nameField), true
	case "SRV":
		return fieldShape("priority, weight, port and target, as 10 5 5060 sip.example.com", uint16Field, uint16Field, uint16Field, nameField), true
	case "CAA":
		return shape{`flags, a tag and a value, as 0 issue "letsencrypt.org"`, isCAA}, true
	case "SOA":
		return fieldShape("name server, mailbox, serial, refresh, retry, expire and minimum",
			nameField, nameField, uint32Field, uint32Field, uint32Field, uint32Field, uint32Field), true
	case "DS", "CDS":
		return hexShape("key tag, algorithm, digest type and digest in hexadecimal", uint16Field, uint8Field, uint8Field), true
	case "TLSA", "SMIMEA":
		return hexShape("usage, selector, matching type and data in hexadecimal", uint8Field, uint8Field, uint8Field), true
	case "SSHFP":
		return hexShape("algorithm, fingerprint type and fingerprint in hexadecimal", uint8Field, uint8Field), true
	case "SVCB", "HTTPS":
		return shape{"a priority, a target and parameters, as 1 . alpn=h2", isService}, true
	case "URI":
		return shape{`priority, weight and a quoted URI, as 10 1 "https://example.com/"`, isURI}, true
	case "NAPTR", "HINFO", "LOC", "RP", "DNSKEY", "CDNSKEY", "OPENPGPKEY", "CERT", "CSYNC":
		return shape{"its fields as in a zone file", isText}, true
	}
	return shape{}, false
}

func recordTypes() []string {
	return []string{
		"A", "AAAA", "CNAME", "NS", "PTR", "DNAME", "ALIAS", "TXT", "SPF", "MX", "SRV", "CAA", "SOA", "DS", "CDS", "TLSA", "SMIMEA",
		"SSHFP", "SVCB", "HTTPS", "URI", "NAPTR", "HINFO", "LOC", "RP", "DNSKEY", "CDNSKEY", "OPENPGPKEY", "CERT", "CSYNC",
	}
}

func isIPv4(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Is4()
}

func isIPv6(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Is6() && addr.Zone() == ""
}

// isName takes "." too, which MX, SRV and SVCB give a meaning (RFC 7505).
func isName(s string) bool { return s == "." || validName(s) }

// validName takes host names, and those with slashes that delegate parts of a
// reverse zone (RFC 2317 section 4).
func validName(s string) bool {
	return conf.ValidDomain(strings.ReplaceAll(s, "/", "-"))
}

// isText takes what fits into one record.
func isText(s string) bool {
	return len(s) <= 60000 && utf8.ValidString(s) && !strings.ContainsAny(s, "\r\n\x00")
}

func isCAA(s string) bool {
	fields := strings.Fields(s)
	return len(fields) >= 3 && uint8Field(fields[0]) && isAlphanumeric(fields[1]) && isText(s)
}

func isAlphanumeric(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	})
}

func isService(s string) bool {
	fields := strings.Fields(s)
	return len(fields) >= 2 && uint16Field(fields[0]) && nameField(fields[1]) && isText(s)
}

func isURI(s string) bool {
	fields := strings.Fields(s)
	if len(fields) < 3 || !uint16Field(fields[0]) || !uint16Field(fields[1]) {
		return false
	}
	return len(fields[2]) > 2 && fields[2][0] == '"' && strings.HasSuffix(fields[len(fields)-1], `"`) && isText(s)
}

// fieldShape is a value of just these fields.
func fieldShape(want string, fields ...func(string) bool) shape {
	return shape{want, func(s string) bool {
		given := strings.Fields(s)
		return len(given) == len(fields) && startWith(given, fields)
	}}
}

// hexShape is a value of these fields and then hexadecimal data, which may be
// broken up by spaces.
func hexShape(want string, fields ...func(string) bool) shape {
	return shape{want, func(s string) bool {
		given := strings.Fields(s)
		if len(given) <= len(fields) || !startWith(given, fields) {
			return false
		}
		_, err := hex.DecodeString(strings.Join(given[len(fields):], ""))
		return err == nil
	}}
}

func startWith(given []string, fields []func(string) bool) bool {
	for i, ok := range fields {
		if !ok(given[i]) {
			return false
		}
	}
	return true
}

func nameField(s string) bool   { return isName(s) }
func uint8Field(s string) bool  { return isUint(s, 8) }
func uint16Field(s string) bool { return isUint(s, 16) }
func uint32Field(s string) bool { return isUint(s, 32) }

func isUint(s string, bits int) bool {
	_, err := strconv.ParseUint(s, 10, bits)
	return err == nil
}
