package smtpd

import (
	"net"
	"net/netip"
)

// ipCounts counts connections by who may be behind them.
type ipCounts map[netip.Addr]int

func (c ipCounts) add(ip netip.Addr) { c[ip]++ }

func (c ipCounts) remove(ip netip.Addr) {
	if c[ip]--; c[ip] <= 0 {
		delete(c, ip)
	}
}

// clientIP is an IPv4 address, or the /64 of an IPv6 one: whoever has one
// address there has them all. What is no IP address is all the same.
func clientIP(a net.Addr) netip.Addr {
	var ip netip.Addr
	if tcp, ok := a.(*net.TCPAddr); ok {
		ip = tcp.AddrPort().Addr()
	} else if a != nil {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			ip = ap.Addr()
		}
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}
