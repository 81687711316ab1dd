package limit

import "net/netip"

// Host is what counts as one client: an IPv4 address, or the /64 of an IPv6
// address, of which any host has as many as it wants (RFC 4291 section 2.5.1).
func Host(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil { // the zero Addr, which is a client like any other
		return netip.Prefix{}
	}
	return p
}

// HostKey is [Host] as a key of a [Limiter] or a [Gate].
func HostKey(addr netip.Addr) string { return Host(addr).String() }
