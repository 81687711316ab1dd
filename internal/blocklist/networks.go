package blocklist

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// words are the 128 bits of an address, one of IPv4 in its IPv6 form.
type words struct {
	hi, lo uint64
	four   bool
}

func wordsOf(addr netip.Addr) words {
	b := addr.As16()
	return words{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), addr.Is4() || addr.Is4In6()}
}

// host is the key of a single address: IPv4 whole, of IPv6 the first half. Both
// fit, as nobody has an IPv6 address in 0:ffff::/32 (RFC 4291 section 2.4).
func (w words) host() uint64 {
	if w.four {
		return w.lo // 0:ffff and the address
	}
	return w.hi
}

// netKey is a prefix. All of its fields are of one size, which is fast to hash.
type netKey struct{ hi, lo, bits uint64 }

func (w words) masked(bits int) netKey {
	k := netKey{bits: uint64(bits)}
	if bits <= 64 {
		k.hi = w.hi &^ (^uint64(0) >> bits)
	} else {
		k.hi, k.lo = w.hi, w.lo&^(^uint64(0)>>(bits-64))
	}
	return k
}

func keyOf(p netip.Prefix) netKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return wordsOf(p.Addr()).masked(bits)
}

// networks finds prefixes by address: a probe for each length that there is, so
// the cost does not grow with their number.
type networks struct {
	byKey              map[netKey]*Block
	lengths4, lengths6 []int // longest first
}

func newNetworks() *networks { return &networks{byKey: map[netKey]*Block{}} }

func (n *networks) empty() bool { return len(n.byKey) == 0 }

func (n *networks) clone() *networks {
	return &networks{byKey: maps.Clone(n.byKey), lengths4: slices.Clone(n.lengths4), lengths6: slices.Clone(n.lengths6)}
}

func (n *networks) add(b *Block) {
	key := keyOf(b.Prefix)
	n.byKey[key] = b
	lengths := &n.lengths6
	if b.Prefix.Addr().Is4() {
		lengths = &n.lengths4
	}
	if bits := int(key.bits); !slices.Contains(*lengths, bits) {
		*lengths = append(*lengths, bits)
		slices.SortFunc(*lengths, func(a, b int) int { return b - a })
	}
}

func (n *networks) get(p netip.Prefix) *Block { return n.byKey[keyOf(p)] }

func (n *networks) remove(p netip.Prefix) bool {
	known := n.get(p) != nil
	delete(n.byKey, keyOf(p))
	return known
}

func (n *networks) removeIf(over func(*Block) bool) {
	maps.DeleteFunc(n.byKey, func(_ netKey, b *Block) bool { return over(b) })
}

// find returns the narrowest network around an address that holds now. The zero
// time is for networks without an end.
func (n *networks) find(w words, now time.Time) *Block {
	lengths := n.lengths6
	if w.four {
		lengths = n.lengths4
	}
	for _, bits := range lengths {
		if b := n.byKey[w.masked(bits)]; b != nil && b.Active(now) {
			return b
		}
	}
	return nil
}

// covers reports whether all of p is in one of the networks.
func (n *networks) covers(p netip.Prefix) bool {
	for _, b := range n.byKey {
		if b.Prefix.Bits() <= p.Bits() && b.Prefix.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

func (n *networks) list(now time.Time) []Block {
	var list []Block
	for _, b := range n.byKey {
		if b.Active(now) {
			list = append(list, *b)
		}
	}
	return list
}
