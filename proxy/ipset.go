package proxy

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"

	"github.com/dcrouter/dcrouter/internal/conf"
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
		prefix, ok := conf.ParseCIDR(s)
		if !ok {
			return nil, fmt.Errorf("%q is not an IP address or CIDR block", s)
		}
		set.trie.Insert(prefix)
	}
	return set, nil
}

// with adds addresses that have been validated and returns the set, a new one
// if s is nil and there are any.
func (s *ipSet) with(list []string) *ipSet {
	for _, text := range list {
		if prefix, ok := conf.ParseCIDR(text); ok {
			if s == nil {
				s = new(ipSet)
			}
			s.trie.Insert(prefix)
		}
	}
	return s
}

func (s *ipSet) contains(addr netip.Addr) bool {
	return s != nil && s.trie.Contains(addr)
}
