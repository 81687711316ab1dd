package dnsc

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// TLSA is a TLSA record (RFC 6698 section 2.1).
type TLSA struct {
	Usage, Selector, MatchingType uint8
	Data                          []byte
}

// String returns it as in a zone file.
func (t TLSA) String() string {
	return fmt.Sprintf("%d %d %d %x", t.Usage, t.Selector, t.MatchingType, t.Data)
}

// ask is the whole of a lookup.
func ask[R dns.RR, T any](ctx context.Context, r *Resolver, name string, rrtype uint16, get func(R) (T, bool)) (Answer[T], error) {
	res, err := r.ask(ctx, name, rrtype)
	if err != nil {
		return Answer[T]{Name: plainName(name)}, err
	}
	return read(res, name, get)
}

// TXT returns the TXT records of a name, the strings of each joined.
func (r *Resolver) TXT(ctx context.Context, name string) (Answer[string], error) {
	return ask(ctx, r, name, dns.TypeTXT, func(rr *dns.TXT) (string, bool) {
		return unescape(strings.Join(rr.Txt, "")), true
	})
}

// MX returns the MX records of a name by preference. Hosts end in a dot, as
// those of [net.Resolver] do; a null MX (RFC 7505) is the host ".".
func (r *Resolver) MX(ctx context.Context, name string) (Answer[*net.MX], error) {
	a, err := ask(ctx, r, name, dns.TypeMX, func(rr *dns.MX) (*net.MX, bool) {
		return &net.MX{Host: rr.Mx, Pref: rr.Preference}, true
	})
	slices.SortStableFunc(a.Records, func(a, b *net.MX) int { return cmp.Compare(a.Pref, b.Pref) })
	return a, err
}

// PTR returns the names of an address, each with a final dot.
func (r *Resolver) PTR(ctx context.Context, addr netip.Addr) (Answer[string], error) {
	name, err := dns.ReverseAddr(addr.Unmap().WithZone("").String())
	if err != nil {
		return Answer[string]{}, &net.DNSError{Err: "this is no IP address", Name: addr.String(), IsNotFound: true}
	}
	return ask(ctx, r, name, dns.TypePTR, func(rr *dns.PTR) (string, bool) { return rr.Ptr, true })
}

// CNAME returns the name that a name is an alias of, without going further.
func (r *Resolver) CNAME(ctx context.Context, name string) (Answer[string], error) {
	return ask(ctx, r, name, dns.TypeCNAME, func(rr *dns.CNAME) (string, bool) { return plainName(rr.Target), true })
}

// TLSA returns the TLSA records of a name such as "_25._tcp.mx.example.net" (RFC
// 6698 section 3).
func (r *Resolver) TLSA(ctx context.Context, name string) (Answer[TLSA], error) {
	return ask(ctx, r, name, dns.TypeTLSA, func(rr *dns.TLSA) (TLSA, bool) {
		data, err := hex.DecodeString(rr.Certificate)
		return TLSA{rr.Usage, rr.Selector, rr.MatchingType, data}, err == nil
	})
}

// Addrs returns the addresses of a host, those of IPv6 first. If only one of the
// two families can be looked up, it has that one, and Secure is about that: a
// lookup that somebody makes fail does not make the rest insecure.
func (r *Resolver) Addrs(ctx context.Context, host string) (Answer[netip.Addr], error) {
	type result struct {
		Answer[netip.Addr]
		err error
	}
	v6 := make(chan result, 1)
	go func() {
		a, err := ask(ctx, r, host, dns.TypeAAAA, func(rr *dns.AAAA) (netip.Addr, bool) { return ipAddr(rr.AAAA) })
		v6 <- result{a, err}
	}()
	a, err := ask(ctx, r, host, dns.TypeA, func(rr *dns.A) (netip.Addr, bool) { return ipAddr(rr.A) })
	four, six := result{a, err}, <-v6

	switch {
	case four.err == nil && six.err == nil:
		six.Records = append(six.Records, four.Records...)
		six.TTL = min(six.TTL, four.TTL)
		six.Secure = six.Secure && four.Secure
		return six.Answer, nil
	case four.err == nil:
		four.Secure = four.Secure && (six.Secure || !isNotFound(six.err))
		return four.Answer, nil
	case six.err == nil:
		six.Secure = six.Secure && (four.Secure || !isNotFound(four.err))
		return six.Answer, nil
	case !isNotFound(six.err):
		return six.Answer, six.err
	case !isNotFound(four.err):
		return four.Answer, four.err
	}
	four.TTL = min(four.TTL, six.TTL)
	four.Secure = four.Secure && six.Secure
	return four.Answer, four.err
}

func ipAddr(ip net.IP) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

func isNotFound(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}
