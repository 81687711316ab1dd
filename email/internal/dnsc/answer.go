package dnsc

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Answer has the records of a name. Secure, TTL, Name and NoName also hold with
// an error that says that there are none (IsNotFound).
type Answer[T any] struct {
	Records []T
	// Name is where the records are after all CNAMEs, in lower case and without
	// a final dot.
	Name string
	// Secure says that the answer, or that there is none, was validated.
	Secure bool
	// TTL is for how long this holds; 0 if that is unknown.
	TTL time.Duration
	// NoName says that not even the name exists (NXDOMAIN).
	NoName bool
}

// maxChain bounds the CNAMEs that are followed.
const maxChain = 16

// read takes the records of a type out of a response, at the end of the CNAMEs.
// get returns false for a record that cannot be used.
func read[R dns.RR, T any](res response, name string, get func(R) (T, bool)) (Answer[T], error) {
	a := Answer[T]{
		Name:   plainName(name),
		Secure: res.AuthenticatedData && res.server.trusted,
		NoName: res.Rcode == dns.RcodeNameError,
	}
	ttl := int64(-1)
	lower := func(seconds uint32) {
		if ttl < 0 || int64(seconds) < ttl {
			ttl = int64(seconds)
		}
	}
	for range maxChain {
		found := false
		var next string
		for _, rr := range res.Answer {
			if plainName(rr.Header().Name) != a.Name || rr.Header().Class != dns.ClassINET {
				continue
			}
			if r, ok := rr.(R); ok {
				found = true
				lower(rr.Header().Ttl)
				if v, ok := get(r); ok {
					a.Records = append(a.Records, v)
				}
			} else if c, ok := rr.(*dns.CNAME); ok {
				lower(rr.Header().Ttl)
				next = plainName(c.Target)
			}
		}
		if found || next == "" {
			break
		}
		a.Name = next
	}
	if len(a.Records) > 0 {
		a.TTL = time.Duration(max(ttl, 0)) * time.Second
		return a, nil
	}
	a.TTL = negativeTTL(res.Msg)
	return a, &net.DNSError{Err: "no such name or record", Name: name, Server: res.server.addr, IsNotFound: true}
}

// negativeTTL is RFC 2308 section 5.
func negativeTTL(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
		}
	}
	return 0
}

func plainName(name string) string {
	if name == "." {
		return name
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// unescape gives the bytes of a TXT string, which the dns package has in the
// form of zone files.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 10, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String()
}
