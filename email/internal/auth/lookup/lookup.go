// Package lookup is what the checks of senders share of DNS: the resolver that
// they need, its errors, and names in the form in which they are looked up.
package lookup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/net/idna"
)

// Resolver asks DNS. *net.Resolver is one. Names are given with a final dot, so
// that no search list applies to them. Errors are *net.DNSError, with
// IsNotFound where the name or its records do not exist.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

// NotFound reports whether DNS said that there is no such name or record. All
// other errors may be gone later.
func NotFound(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound && !d.IsTemporary && !d.IsTimeout
}

// TXT returns the TXT records of a name, each of its strings joined, and none
// without an error where there are none.
func TXT(ctx context.Context, r Resolver, name string) ([]string, error) {
	list, err := r.LookupTXT(ctx, name+".")
	if err != nil && NotFound(err) {
		return nil, nil
	}
	return list, err
}

// maxName and maxLabel are RFC 1035 section 2.3.4 in characters.
const maxName, maxLabel = 253, 63

// Domain returns a domain name as it is looked up and compared: A-labels (RFC
// 5890 section 2.3.2.1) in lower case, without a final dot. It is an error if
// the name is none: empty, too long, an address literal, with an empty label or
// with other characters than letters, digits, "-" and "_".
func Domain(name string) (string, error) {
	ascii := strings.TrimSuffix(name, ".")
	if !isASCII(ascii) {
		if len(name) > 4*maxName {
			return "", errors.New("the domain name is too long")
		}
		var err error
		if ascii, err = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false)).ToASCII(ascii); err != nil {
			return "", fmt.Errorf("%q is no domain name", name)
		}
	}
	if len(ascii) > maxName {
		return "", errors.New("the domain name is too long")
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if label == "" || len(label) > maxLabel {
			return "", fmt.Errorf("%q is no domain name", name)
		}
		for i := range len(label) {
			switch c := label[i]; {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			default:
				return "", fmt.Errorf("%q is no domain name", name)
			}
		}
	}
	return strings.ToLower(ascii), nil
}

// Within reports whether a name is the domain or below it. Both are as Domain
// returns them.
func Within(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
