// Package records knows which DNS records a mail domain needs, writes them as one
// pastes them into a zone, and compares them with what DNS says.
//
// They are MX and its addresses (RFC 5321 section 5.1), SPF (RFC 7208), DKIM (RFC
// 6376), DMARC (RFC 9989), MTA-STS (RFC 8461) with the policy that belongs to it,
// and TLSRPT (RFC 8460).
package records

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// Kind says what a record is for.
type Kind string

// The kinds, as configurations name them. Addresses are of the kind that needs
// them.
const (
	MX     Kind = "MX"
	SPF    Kind = "SPF"
	DKIM   Kind = "DKIM"
	DMARC  Kind = "DMARC"
	MTASTS Kind = "MTA-STS"
	TLSRPT Kind = "TLSRPT"
)

// Record is a DNS record.
type Record struct {
	Kind Kind
	// Name is where it is, without final dot.
	Name string
	// Type is MX, TXT, A, AAAA or CNAME.
	Type string
	// Value is the data as in a zone file; that of a TXT record is its text,
	// without quotes.
	Value string
	// TTL in seconds.
	TTL int
	// Optional is set if mail gets through without it as well.
	Optional bool
}

// String returns the record as a line of a zone file.
func (r Record) String() string {
	value := r.Value
	if r.Type == "TXT" {
		value = quote(value)
	}
	return fmt.Sprintf("%s. %d IN %s %s", r.Name, r.TTL, r.Type, value)
}

// quote writes a text as the strings of at most 255 octets that TXT records are
// made of (RFC 1035 section 3.3.14).
func quote(text string) string {
	var b strings.Builder
	for i := 0; i < len(text) || i == 0; i += 255 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteByte('"')
		for _, c := range []byte(text[i:min(i+255, len(text))]) {
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
	}
	return b.String()
}

// Settings are what the records of a domain follow from. Names are as
// [lookup.Domain] returns them.
type Settings struct {
	Domain string
	// Hostname is the server that receives its mail.
	Hostname string
	// Addrs are the server's addresses, to which others connect and from which
	// it sends. Empty means that they are not known.
	Addrs []netip.Addr
	// Preference is that of the MX record.
	Preference uint16
	// TTL of all records, in seconds.
	TTL int
	// Keys are those that sign, are going to, or did not long ago.
	Keys []DKIMKey
	// DMARC is the text of the policy record, "" for none.
	DMARC string
	// STS is the MTA-STS policy, nil for none.
	STS *Policy
	// TLSRPT is the text of the record, "" for none.
	TLSRPT string
}

// DKIMKey is a DKIM key.
type DKIMKey struct {
	Selector string
	// Text is that of its record.
	Text string
	// Optional is set for one that does not sign, or beside which another does.
	Optional bool
}

// Wanted lists the records that a domain needs.
func Wanted(s *Settings) []Record {
	var list []Record
	add := func(kind Kind, name, rtype, value string, optional bool) {
		list = append(list, Record{kind, name, rtype, value, s.TTL, optional})
	}
	add(MX, s.Domain, "MX", strconv.Itoa(int(s.Preference))+" "+s.Hostname+".", false)
	if lookup.Within(s.Hostname, s.Domain) {
		s.addresses(MX, s.Hostname, add)
	}
	add(SPF, s.Domain, "TXT", s.spf("mx", "a:"+s.Hostname), false)
	if s.Hostname != s.Domain && lookup.Within(s.Hostname, s.Domain) {
		// Mail without a sender is judged by the name in HELO (RFC 7208 section 2.4).
		add(SPF, s.Hostname, "TXT", s.spf("", "a"), true)
	}
	for _, k := range s.Keys {
		add(DKIM, k.Selector+"._domainkey."+s.Domain, "TXT", k.Text, k.Optional)
	}
	if s.DMARC != "" {
		add(DMARC, "_dmarc."+s.Domain, "TXT", s.DMARC, false)
	}
	if s.STS != nil {
		add(MTASTS, "_mta-sts."+s.Domain, "TXT", "v=STSv1; id="+s.STS.ID()+";", false)
		if len(s.Addrs) == 0 {
			add(MTASTS, PolicyHost(s.Domain), "CNAME", s.Hostname+".", false)
		}
		s.addresses(MTASTS, PolicyHost(s.Domain), add)
	}
	if s.TLSRPT != "" {
		add(TLSRPT, "_smtp._tls."+s.Domain, "TXT", s.TLSRPT, false)
	}
	return list
}

// addresses adds the records that lead to the server.
func (s *Settings) addresses(kind Kind, name string, add func(kind Kind, name, rtype, value string, optional bool)) {
	for _, a := range s.Addrs {
		rtype := "A"
		if a.Is6() {
			rtype = "AAAA"
		}
		add(kind, name, rtype, a.String(), false)
	}
}

// spf is a policy for the server. Others get a "softfail": where a message is
// forwarded only its signature can tell who it is from, and a "fail" would keep
// it from being looked at (RFC 9989 section 7.1).
func (s *Settings) spf(always, unknown string) string {
	terms := []string{"v=spf1"}
	if always != "" {
		terms = append(terms, always)
	}
	if len(s.Addrs) == 0 {
		terms = append(terms, unknown)
	}
	for _, a := range s.Addrs {
		if a.Is4() {
			terms = append(terms, "ip4:"+a.String())
		} else {
			terms = append(terms, "ip6:"+a.String())
		}
	}
	return strings.Join(append(terms, "~all"), " ")
}
