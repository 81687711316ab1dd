package spf

import (
	"net"
	"net/netip"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// match reports whether a mechanism matches (RFC 7208 section 5). A code ends
// the evaluation.
func (e *evaluation) match(m mechanism, domain string) (match bool, code Code, err error) {
	switch m.kind {
	case "all":
		return true, "", nil
	case "ip4", "ip6":
		return m.network.Contains(e.IP), "", nil
	}
	if err := e.countTerm(); err != nil {
		return false, PermError, err
	}
	target := domain
	if m.domain != nil {
		target = e.target(m.domain, domain)
	}
	switch m.kind {
	case "include":
		return e.include(target)
	case "a":
		return e.address(m, target)
	case "mx":
		return e.exchanger(m, target)
	case "ptr":
		return e.pointer(target)
	default: // exists
		return e.exists(target)
	}
}

func (e *evaluation) include(target string) (bool, Code, error) {
	code, _, err := e.check(target)
	switch code {
	case Pass:
		return true, "", nil
	case TempError:
		return false, TempError, err
	case PermError, None:
		return false, PermError, err
	}
	return false, "", nil
}

func (e *evaluation) address(m mechanism, target string) (bool, Code, error) {
	list, err := e.lookupIP(target)
	if err != nil {
		return false, TempError, err
	}
	n := 0
	for _, ip := range list {
		if ip.Is4() == e.IP.Is4() {
			n++
		}
	}
	if err := e.countVoid(n, nil); err != nil {
		return false, PermError, err
	}
	return m.contains(e.IP, list), "", nil
}

func (e *evaluation) exchanger(m mechanism, target string) (bool, Code, error) {
	if checkName(target) != nil {
		return false, "", nil
	}
	list, err := e.resolver.LookupMX(e.ctx, target+".")
	if err := e.countVoid(len(list), err); err != nil {
		return false, PermError, err
	}
	// *net.Resolver gives an error besides the records if one of them is
	// malformed; the others count.
	if err != nil && len(list) == 0 && !lookup.NotFound(err) {
		return false, TempError, err
	}
	if len(list) > maxNames {
		return false, PermError, ErrTooManyMX
	}
	for _, mx := range list {
		ips, err := e.lookupIP(strings.TrimSuffix(mx.Host, "."))
		if err != nil {
			return false, TempError, err
		}
		if m.contains(e.IP, ips) {
			return true, "", nil
		}
	}
	return false, "", nil
}

func (e *evaluation) exists(target string) (bool, Code, error) {
	list, err := e.lookupIP(target)
	if err != nil {
		return false, TempError, err
	}
	n := 0
	for _, ip := range list {
		if ip.Is4() { // also if the client has an IPv6 address (section 5.7)
			n++
		}
	}
	if err := e.countVoid(n, nil); err != nil {
		return false, PermError, err
	}
	return n > 0, "", nil
}

func (e *evaluation) pointer(target string) (bool, Code, error) {
	names, err := e.clientNames()
	if err != nil {
		return false, PermError, err
	}
	target = strings.ToLower(strings.TrimSuffix(target, "."))
	for _, name := range names {
		if lookup.Within(name, target) {
			return true, "", nil
		}
	}
	return false, "", nil
}

// clientNames returns the names of the client that lead back to it (RFC 7208
// section 5.5). An error of DNS gives none; the only error is that of a limit.
func (e *evaluation) clientNames() ([]string, error) {
	if e.namesKnown {
		return e.names, nil
	}
	e.namesKnown = true
	list, err := e.resolver.LookupAddr(e.ctx, e.IP.String())
	if err := e.countVoid(len(list), err); err != nil {
		return nil, err
	}
	for _, name := range list[:min(len(list), maxNames)] {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		ips, err := e.lookupIP(name)
		if err != nil {
			continue
		}
		for _, ip := range ips {
			if ip == e.IP {
				e.names = append(e.names, name)
				break
			}
		}
	}
	return e.names, nil
}

// lookupIP returns the addresses of a name: none without an error if there are
// none or it is no name.
func (e *evaluation) lookupIP(name string) ([]netip.Addr, error) {
	if checkName(name) != nil {
		return nil, nil
	}
	list, err := e.resolver.LookupIPAddr(e.ctx, name+".")
	if err != nil && !lookup.NotFound(err) {
		return nil, err
	}
	return addresses(list), nil
}

func addresses(list []net.IPAddr) []netip.Addr {
	var ips []netip.Addr
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			ips = append(ips, ip.Unmap())
		}
	}
	return ips
}

// contains reports whether one of the networks that addresses stand for has
// the client.
func (m mechanism) contains(client netip.Addr, list []netip.Addr) bool {
	for _, ip := range list {
		if ip.Is4() != client.Is4() {
			continue
		}
		bits := m.bits6
		if ip.Is4() {
			bits = m.bits4
		}
		if netip.PrefixFrom(ip, bits).Contains(client) {
			return true
		}
	}
	return false
}
