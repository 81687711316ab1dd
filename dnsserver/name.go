package dnsserver

import (
	"errors"
	"strings"
)

// Names are kept in two forms. A wire name is that of RFC 1035 section 3.1 in
// lower case, without compression. A key is made for the trie: the labels from
// the top down, so that the key of a name begins with the keys of the names
// above it, in an alphabet whose order is that of RFC 4034 section 6.1.

const (
	maxName   = 255 // octets of a wire name, RFC 1035 section 2.3.4
	maxLabels = 128 // with that of the root
	// maxKey is the length of the longest key: that of a name in which each
	// octet takes two symbols.
	maxKey = 2 * maxName
)

// The alphabet of keys. Letters, digits, hyphen and underscore, of which names
// are made, take one symbol each. Any other octet takes two: one for the range
// it is in, then its place there.
const (
	symEnd      = iota            // of a label; smaller than all that can be in one
	symLow                        // 0x00 to 0x2c
	symHyphen                     // 0x2d
	symDot                        // 0x2e, 0x2f
	symDigit                      // 0x30 to 0x39, ten symbols
	symColon    = symDigit + 10   // 0x3a to 0x5e; capitals do not occur
	symScore    = symColon + 1    // 0x5f
	symBacktick = symScore + 1    // 0x60
	symLetter   = symBacktick + 1 // 0x61 to 0x7a, 26 symbols
	symHigh     = symLetter + 26  // 0x7b to 0xff, in three ranges
	symbols     = symHigh + 3

	highRange = 48 // octets in one of them
)

// appendSymbols appends the symbols of an octet of a label, in lower case.
func appendSymbols(key []byte, c byte) []byte {
	switch {
	case c >= 'a' && c <= 'z':
		return append(key, symLetter+c-'a')
	case c >= '0' && c <= '9':
		return append(key, symDigit+c-'0')
	case c >= 'A' && c <= 'Z':
		return append(key, symLetter+c-'A')
	case c == '-':
		return append(key, symHyphen)
	case c == '_':
		return append(key, symScore)
	case c < '-':
		return append(key, symLow, c)
	case c < '0':
		return append(key, symDot, c-'.')
	case c < '_':
		return append(key, symColon, c-':')
	case c == '`':
		return append(key, symBacktick, 0)
	}
	c -= '{'
	return append(key, symHigh+c/highRange, c%highRange)
}

// octetOf is the reverse of appendSymbols; it returns how many symbols it took.
func octetOf(key string) (byte, int) {
	switch s := key[0]; {
	case s >= symHigh:
		return '{' + (s-symHigh)*highRange + key[1], 2
	case s >= symLetter:
		return 'a' + s - symLetter, 1
	case s == symBacktick:
		return '`', 2
	case s == symScore:
		return '_', 1
	case s == symColon:
		return ':' + key[1], 2
	case s >= symDigit:
		return '0' + s - symDigit, 1
	case s == symDot:
		return '.' + key[1], 2
	case s == symHyphen:
		return '-', 1
	}
	return key[1], 2
}

// labelEnds is where the labels of a key end, from the top of the tree down.
type labelEnds struct {
	at [maxLabels]uint16
	n  int
}

// appendKey appends the key of a well-formed wire name and says where the
// labels in it end, counted from the beginning of the key.
func appendKey[T string | []byte](key []byte, name T, ends *labelEnds) []byte {
	var starts [maxLabels]uint8
	n := 0
	for i := 0; name[i] != 0; i += int(name[i]) + 1 {
		starts[n] = uint8(i)
		n++
	}
	ends.n = n
	before := len(key)
	for i := range n {
		at := int(starts[n-1-i])
		for j := at + 1; j <= at+int(name[at]); j++ {
			key = appendSymbols(key, name[j])
		}
		key = append(key, symEnd)
		ends.at[i] = uint16(len(key) - before)
	}
	return key
}

// keyOf returns the key of a wire name.
func keyOf(name string) string {
	var ends labelEnds
	return string(appendKey(make([]byte, 0, maxKey), name, &ends))
}

// appendLabels appends the labels of a key in the form of the wire, the lowest
// first and without that of the root.
func appendLabels(dst []byte, key string) []byte {
	for end := len(key); end > 0; {
		start := labelStart(key, end)
		at := len(dst)
		dst = append(dst, 0)
		for i := start; i < end-1; {
			c, n := octetOf(key[i:])
			dst = append(dst, c)
			i += n
		}
		dst[at] = byte(len(dst) - at - 1)
		end = start
	}
	return dst
}

// labelStart returns where the label of a key that ends at end begins. symEnd
// may be the second symbol of an octet too, so the way is from the front.
func labelStart(key string, end int) int {
	start := 0
	for i := 0; i < end-1; {
		if key[i] == symEnd {
			i++
			start = i
			continue
		}
		_, n := octetOf(key[i:])
		i += n
	}
	return start
}

// parentKey returns the key of the name above; that of the root has none.
func parentKey(key string) string { return key[:labelStart(key, len(key))] }

// starKey is the label of a wildcard, as a key (RFC 4592 section 2.1.1).
const starKey = string(rune(symLow)) + "*" + string(rune(symEnd))

var (
	errName     = errors.New("not a domain name")
	errLongName = errors.New("a domain name has at most 255 octets, and its labels 63 each")
)

// wireName returns the wire form of a name written as in a zone file, with or
// without final dot; what is not a letter may be escaped (RFC 1035 section 5.1).
func wireName(s string) (string, error) {
	if s == "." {
		return "\x00", nil
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "", errName
	}
	wire := make([]byte, 1, len(s)+2)
	label := 0 // where the length of the current one is
	end := func() error {
		n := len(wire) - label - 1
		if n == 0 {
			return errName
		}
		if n > 63 {
			return errLongName
		}
		wire[label] = byte(n)
		return nil
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '.':
			if err := end(); err != nil {
				return "", err
			}
			label = len(wire)
			wire = append(wire, 0)
			continue
		case c == '\\':
			if i++; i == len(s) {
				return "", errName
			}
			if c = s[i]; c >= '0' && c <= '9' {
				if i+2 >= len(s) || !isDigit(s[i+1]) || !isDigit(s[i+2]) {
					return "", errName
				}
				n := int(c-'0')*100 + int(s[i+1]-'0')*10 + int(s[i+2]-'0')
				if n > 255 {
					return "", errName
				}
				c = byte(n)
				i += 2
			}
		}
		wire = append(wire, lower(c))
	}
	if err := end(); err != nil {
		return "", err
	}
	if wire = append(wire, 0); len(wire) > maxName {
		return "", errLongName
	}
	return string(wire), nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// foldedEqual reports whether b begins with a wire name, in any case.
func foldedEqual(b, name []byte) bool {
	if len(b) < len(name) {
		return false
	}
	for i, c := range name {
		if lower(b[i]) != lower(c) {
			return false
		}
	}
	return true
}

// nameText returns a wire name as in a zone file, with final dot.
func nameText(wire string) string {
	if wire == "\x00" {
		return "."
	}
	var b strings.Builder
	for i := 0; wire[i] != 0; i += int(wire[i]) + 1 {
		for _, c := range []byte(wire[i+1 : i+1+int(wire[i])]) {
			switch {
			case c <= ' ' || c >= 0x7f:
				b.WriteByte('\\')
				b.WriteByte('0' + c/100)
				b.WriteByte('0' + c/10%10)
				b.WriteByte('0' + c%10)
			case strings.IndexByte(`.\"();@$`, c) >= 0:
				b.WriteByte('\\')
				b.WriteByte(c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('.')
	}
	return b.String()
}

// nameLen returns the length of the wire name that b begins with, or 0 if it
// begins with none; compressed ones do not count.
func nameLen[T string | []byte](b T) int {
	for i := 0; i < len(b) && i < maxName; {
		n := int(b[i])
		if n == 0 {
			return i + 1
		}
		if n > 63 {
			return 0
		}
		i += n + 1
	}
	return 0
}

// isBelow reports whether a wire name is zone or a name below it.
func isBelow(name, zone string) bool {
	for {
		if len(name) < len(zone) {
			return false
		}
		if len(name) == len(zone) {
			return name == zone
		}
		name = name[int(name[0])+1:]
	}
}
