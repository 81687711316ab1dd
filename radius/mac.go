package radius

import "strings"

// macPattern is a MAC address, or the beginning of one.
type macPattern struct {
	digits string // lower-case hexadecimal: 12 of them, or fewer for a prefix
	prefix bool
}

// parseMACPattern reads a MAC address in any notation (aa:bb:cc:dd:ee:ff,
// AA-BB-CC-DD-EE-FF, aabb.ccdd.eeff, aabbcc-ddeeff, aabbccddeeff), or as much of
// the beginning of one as goes before a *.
func parseMACPattern(s string) (macPattern, bool) {
	address, stars, prefix := strings.Cut(s, "*")
	// aa:bb:cc:*:*:* says the same as aa:bb:cc:*.
	if strings.Trim(stars, "*:-.") != "" {
		return macPattern{}, false
	}
	var digits strings.Builder
	for i := range len(address) {
		switch c := address[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
			digits.WriteByte(c)
		case c >= 'A' && c <= 'F':
			digits.WriteByte(c + 'a' - 'A')
		case c != ':' && c != '-' && c != '.':
			return macPattern{}, false
		}
	}
	p := macPattern{digits.String(), prefix}
	if prefix {
		return p, len(p.digits) < 12
	}
	return p, len(p.digits) == 12
}

// macSet knows which patterns came first, to find those that never get a turn.
type macSet map[macPattern]int

// first returns the earliest pattern that matches everything that p does.
func (s macSet) first(p macPattern) (index int, found bool) {
	consider := func(other macPattern) {
		if i, ok := s[other]; ok && (!found || i < index) {
			index, found = i, true
		}
	}
	consider(p)
	for n := range len(p.digits) {
		consider(macPattern{p.digits[:n], true})
	}
	return index, found
}

// macAddress is a whole address, in its lower 48 bits.
type macAddress uint64

// hexDigit returns the value of a digit, or more than 15.
func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// parseMAC reads an address in any notation: 12 hexadecimal digits, with
// colons, hyphens or dots between them or without. With more, what follows the
// address after another separator does not count, as in Called-Station-Id,
// which has the name of the wireless network there (RFC 3580 section 3.20).
func parseMAC(s string, more bool) (macAddress, bool) {
	var mac macAddress
	digits := 0
	for i := range len(s) {
		c := s[i]
		if d := hexDigit(c); d <= 15 && digits < 12 {
			mac = mac<<4 | macAddress(d)
			digits++
		} else if c != ':' && c != '-' && c != '.' || digits == 0 {
			return 0, false
		} else if digits == 12 {
			return mac, more
		}
	}
	return mac, digits == 12
}

// format writes the address in groups of so many digits.
func (m macAddress) format(separator string, group int) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 17)
	for i := range 12 {
		if i > 0 && i%group == 0 {
			b = append(b, separator...)
		}
		b = append(b, digits[m>>(44-4*i)&15])
	}
	return string(b)
}

// String writes it as in "aa:bb:cc:dd:ee:ff".
func (m macAddress) String() string { return m.format(":", 2) }
