package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// queryName is the name under which a list has an address (RFC 5782 section
// 2.1 and 2.4), with a final dot, so that no search domain is tried.
func queryName(addr netip.Addr, zone string) string {
	var b strings.Builder
	if addr.Is4() {
		ip := addr.As4()
		fmt.Fprintf(&b, "%d.%d.%d.%d.", ip[3], ip[2], ip[1], ip[0])
	} else {
		ip := addr.As16()
		for i := len(ip) - 1; i >= 0; i-- {
			fmt.Fprintf(&b, "%x.%x.", ip[i]&0xf, ip[i]>>4)
		}
	}
	return b.String() + zone + "."
}

// answer is one list's.
type answer struct {
	listing *Listing
	err     error
}

// ask asks one list.
func (c *Checker) ask(ctx context.Context, addr netip.Addr, p Provider) answer {
	name := queryName(addr, p.Zone)
	ips, err := c.cfg.Resolver.LookupIPAddr(ctx, name)
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return answer{}
	}
	if err != nil {
		return answer{err: err}
	}
	codes, err := listed(ips)
	if err != nil || len(codes) == 0 {
		return answer{err: err}
	}
	l := &Listing{Provider: p.Name, Zone: p.Zone, Codes: codes}
	if texts, err := c.cfg.Resolver.LookupTXT(ctx, name); err == nil && len(texts) > 0 {
		l.Text = text(texts)
	}
	return answer{listing: l}
}

// listed picks the codes that say that an address is listed: those of 127/8,
// without 127.0.0.1, which lists use for clients that they do not answer, and
// those of 127.255.255/24, by which Spamhaus and others report an error. An
// answer outside of 127/8 is not a list's: the domain may have been sold, or
// the resolver invents answers.
func listed(ips []net.IPAddr) ([]netip.Addr, error) {
	var codes []netip.Addr
	for _, ip := range ips {
		addr, ok := netip.AddrFromSlice(ip.IP)
		addr = addr.Unmap()
		if !ok || !addr.Is4() {
			continue
		}
		switch b := addr.As4(); {
		case b[0] != 127:
			return nil, fmt.Errorf("%s is no answer of a block list", addr)
		case b == [4]byte{127, 0, 0, 1}:
			return nil, errors.New("the list does not answer this resolver (127.0.0.1)")
		case b[1] == 255 && b[2] == 255:
			return nil, fmt.Errorf("the list reports an error (%s)", addr)
		}
		codes = append(codes, addr)
	}
	slices.SortFunc(codes, netip.Addr.Compare)
	return codes, nil
}

// maxText bounds what a list says for itself.
const maxText = 200

// text makes one printable line of what a list says.
func text(texts []string) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, strings.Join(texts, " "))
	return s[:min(len(s), maxText)]
}
