package proxy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// ipSet is a set of addresses and CIDR blocks. Nil is the empty set.
type ipSet struct {
	trie bart.Lite
}

// newIPSet returns nil for an empty list.
func newIPSet(list []string) (*ipSet, error) {
	if len(list) == 0 {
		return nil, nil
	}
	set := new(ipSet)
	for _, s := range list {
		prefix, err := parsePrefix(s)
		if err != nil {
			return nil, err
		}
		set.trie.Insert(prefix)
	}
	return set, nil
}

func (s *ipSet) contains(addr netip.Addr) bool {
	return s != nil && s.trie.Contains(addr)
}

// parsePrefix reads an address or a CIDR block. Addresses of the form
// ::ffff:192.0.2.1 become IPv4, as client addresses do.
func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not an IP address or CIDR block", s)
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an IP address or CIDR block", s)
	}
	if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}
