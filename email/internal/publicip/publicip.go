// Package publicip tells addresses of the internet from those that strangers must
// not have this server talk to.
package publicip

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// Is reports whether an address is one of the internet: not of this machine, this
// network or its provider's (RFC 6598), in whatever form it is written (RFC 6052,
// RFC 3056).
func Is(ip netip.Addr) bool {
	ip = ip.Unmap()
	b := ip.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(ip):
		return Is(netip.AddrFrom4([4]byte(b[12:])))
	case netip.MustParsePrefix("2002::/16").Contains(ip):
		return Is(netip.AddrFrom4([4]byte(b[2:6])))
	}
	if ip.Is6() {
		return netip.MustParsePrefix("2000::/3").Contains(ip) // all that is assigned
	}
	return ip.IsGlobalUnicast() && !ip.IsPrivate() &&
		!slices.ContainsFunc([]string{"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4"},
			func(p string) bool { return netip.MustParsePrefix(p).Contains(ip) })
}

// Control is for a [net.Dialer] that connects to such addresses only. It looks at
// each connection, as names may change where they lead.
func Control(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := a.Addr(); !Is(ip) {
		return fmt.Errorf("%v is not an address of the internet", ip)
	}
	return nil
}
