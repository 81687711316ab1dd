package conf

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The checks that several subsystems need. Each adds a problem to c if the
// value is wrong, and says what would be right.

// Required wants a value.
func (c *Checker) Required(s string) {
	if s == "" {
		c.Errorf("missing")
	}
}

// OneOf wants s to be one of allowed.
func (c *Checker) OneOf(s string, allowed ...string) {
	if slices.Contains(allowed, s) {
		return
	}
	if s == "" {
		c.Errorf("missing: use %s", choices(allowed))
		return
	}
	c.Errorf("%s is not known; use %s", shortQuote(s), choices(allowed))
}

func choices(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}

// Range wants n between low and high, both included.
func (c *Checker) Range(n, low, high int) {
	if n < low || n > high {
		c.Errorf("%d is not between %d and %d", n, low, high)
	}
}

// NotNegative wants a number of 0 or more.
func (c *Checker) NotNegative(n int) {
	if n < 0 {
		c.Errorf("%d is negative", n)
	}
}

// Wait wants a duration of 0 or more.
func (c *Checker) Wait(d time.Duration) {
	if d < 0 {
		c.Errorf("%v is negative", d)
	}
}

// Port wants a port to connect to.
func (c *Checker) Port(n int) {
	if n < 1 || n > 65535 {
		c.Errorf("%d is not a port (1-65535)", n)
	}
}

// ListenPort wants a port to listen on.
func (c *Checker) ListenPort(n int) {
	if n < 0 || n > 65535 {
		c.Errorf("%d is not a port (1-65535, or 0 for any free one)", n)
	}
}

// ListenHost wants an address to listen on, or none.
func (c *Checker) ListenHost(s string) {
	if s == "" || s == "localhost" {
		return
	}
	if _, err := netip.ParseAddr(s); err != nil {
		c.Errorf("%s is not an IP address", shortQuote(s))
	}
}

// Addr wants an IP address.
func (c *Checker) Addr(s string) {
	if addr, err := netip.ParseAddr(s); err != nil || addr.Zone() != "" {
		c.Errorf("%s is not an IP address", shortQuote(s))
	}
}

// CIDR wants an IP address or a CIDR block.
func (c *Checker) CIDR(s string) {
	if _, ok := ParseCIDR(s); !ok {
		c.Errorf("%s is not an IP address or CIDR block", shortQuote(s))
	}
}

// CIDRs wants a list of them.
func (c *Checker) CIDRs(list []string) {
	for i, s := range list {
		c.Index(i).CIDR(s)
	}
}

// ParseCIDR reads an IP address or a CIDR block. IPv4 addresses in IPv6 form
// become IPv4, and bits behind the mask are cleared.
func ParseCIDR(s string) (netip.Prefix, bool) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), err == nil && addr.Zone() == ""
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 { // would match no IPv4 client, whatever was meant
			return netip.Prefix{}, false
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), true
}

// ParseCIDRs reads a list that [Checker.CIDRs] has found nothing wrong with.
func ParseCIDRs(list []string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, s := range list {
		if p, ok := ParseCIDR(s); ok {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

// Domain wants a host name.
func (c *Checker) Domain(s string) {
	switch {
	case s == "":
		c.Errorf("missing: give a host name")
	case !ValidDomain(s):
		c.Errorf("%s is not a host name", shortQuote(s))
	}
}

// Host wants a host name or an IP address.
func (c *Checker) Host(s string) {
	if _, err := netip.ParseAddr(s); err == nil {
		return
	}
	switch {
	case s == "":
		c.Errorf("missing: give a host name or an address")
	case !ValidDomain(s):
		c.Errorf("%s is not a host name or an address", shortQuote(s))
	}
}

// HostPort wants a host and a port, as in "127.0.0.1:24".
func (c *Checker) HostPort(s string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		c.Errorf("%s is not host:port", shortQuote(s))
		return
	}
	c.Host(host)
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		c.Errorf("%s is not a port (1-65535)", shortQuote(port))
	}
}

// ValidDomain reports whether s is a host name (RFC 1035 section 2.3.4, RFC
// 1123 section 2.1), be it of one label, with a final dot, with underscores or
// internationalised. What ends in a number is meant as an address.
func ValidDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 || !utf8.ValidString(s) {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if !validLabel(label) {
			return false
		}
		last = label
	}
	return strings.ContainsFunc(last, func(r rune) bool { return r < '0' || r > '9' })
}

func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		ascii := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
		beyond := r >= utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r))
		if !ascii && !beyond {
			return false
		}
	}
	return true
}

// Mailbox wants an e-mail address.
func (c *Checker) Mailbox(s string) {
	at := strings.LastIndexByte(s, '@')
	bad := func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("<>,;", r)
	}
	if at < 1 || at > 64 || strings.ContainsFunc(s[:at], bad) || !ValidDomain(s[at+1:]) {
		c.Errorf("%s is not an e-mail address", shortQuote(s))
	}
}

// Header wants the name and value of a header: a name by RFC 5322 section
// 2.2, a value without line breaks and other control characters.
func (c *Checker) Header(name, value string) {
	c.HeaderName(name)
	c.Line(value)
}

// HeaderName wants the name of a header.
func (c *Checker) HeaderName(s string) {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) {
		c.Errorf("%s is not the name of a header", shortQuote(s))
	}
}

// Line wants text without line breaks and other control characters.
func (c *Checker) Line(s string) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		c.Errorf("%s has a line break or another control character in it", shortQuote(s))
	}
}

// Secret refuses what is shown in place of a secret.
func (c *Checker) Secret(s Secret) {
	if s == Redacted {
		c.Errorf("%s is what is shown in place of a secret: give its value", Redacted)
	}
	if !utf8.ValidString(string(s)) {
		c.Errorf("not valid UTF-8, so it could not be written to a file")
	}
}

// RequiredSecret is Secret, and refuses none at all.
func (c *Checker) RequiredSecret(s Secret) {
	if s == "" {
		c.Errorf("missing")
	}
	c.Secret(s)
}

// Unique wants s, of element i of list, not to be in first, where it puts it.
// Empty text may be given often.
func (c *Checker) Unique(first map[string]int, s, list string, i int) {
	if s == "" {
		return
	}
	if before, taken := first[s]; taken {
		c.Errorf("%s is that of %s[%d] already", shortQuote(s), list, before)
		return
	}
	first[s] = i
}
