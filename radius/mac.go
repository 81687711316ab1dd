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
