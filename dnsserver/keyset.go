package dnsserver

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// keySet is the keys of a zone at a time. It is immutable.
type keySet struct {
	keys []*key // by role and age
	ksks []*key
	zsk  *key   // the one that signs
	zsks []*key // that one alone
	// withdrawn asks the zone above to take its DS records out.
	withdrawn bool
}

func newKeySet(keys []*key, withdrawn bool) *keySet {
	ks := &keySet{keys: slices.Clone(keys), withdrawn: withdrawn}
	slices.SortStableFunc(ks.keys, func(a, b *key) int {
		if a.KSK != b.KSK {
			if a.KSK {
				return -1
			}
			return 1
		}
		return a.Created.Compare(b.Created)
	})
	for _, k := range ks.keys {
		switch {
		case k.KSK:
			ks.ksks = append(ks.ksks, k)
		case k.State == keyActive:
			ks.zsk = k // the newest, should there be two
		}
	}
	if ks.zsk != nil {
		ks.zsks = []*key{ks.zsk}
	}
	return ks
}

// signersAt are the keys that sign the set of a type at a node.
func (ks *keySet) signersAt(key string, rtype uint16) []*key {
	if key == "" {
		switch rtype {
		case dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY: // RFC 7344 section 4.1
			return ks.ksks
		}
	}
	return ks.zsks
}

// newestKSK is the one that DS records are asked for: the latest that everybody
// knows. It is nil if there is none yet.
func (ks *keySet) newestKSK() *key {
	var newest *key
	for _, k := range ks.ksks {
		if k.announced() {
			newest = k
		}
	}
	return newest
}

// published are the sets at the top of the zone that are made from the keys. An
// empty one is not to be there.
func (ks *keySet) published(zone string) []rrset {
	var keys []string
	for _, k := range ks.keys {
		keys = append(keys, k.dnskey)
	}
	cds, cdnskey := rrset{rtype: dns.TypeCDS}, rrset{rtype: dns.TypeCDNSKEY}
	if ks.withdrawn { // RFC 8078 section 4
		cds = newSet(dns.TypeCDS, keyTTL, []string{"\x00\x00\x00\x00\x00"})
		cdnskey = newSet(dns.TypeCDNSKEY, keyTTL, []string{"\x00\x00\x03\x00\x00"})
	} else if k := ks.newestKSK(); k != nil {
		cds = newSet(dns.TypeCDS, keyTTL, []string{k.ds(zone)})
		cdnskey = newSet(dns.TypeCDNSKEY, keyTTL, []string{k.dnskey})
	}
	return []rrset{newSet(dns.TypeDNSKEY, keyTTL, keys), cds, cdnskey}
}

// hasKey reports whether a version of the zone has the key.
func (z *zone) hasKey(k *key) bool {
	set := z.top.set(dns.TypeDNSKEY)
	return set != nil && strings.Contains(set.wire, k.dnskey)
}

// hasKeys reports whether a version of the zone has the records that are made
// from the keys.
func (z *zone) hasKeys(ks *keySet) bool {
	for _, want := range ks.published(z.name) {
		if set := z.top.set(want.rtype); set == nil && want.count > 0 || set != nil && set.wire != want.wire {
			return false
		}
	}
	return true
}
