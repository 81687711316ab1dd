package mx

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
)

// Host is a server that takes mail.
type Host struct {
	// Name is in lower case, in A-labels, without a final dot. That of an address
	// literal is the address.
	Name string
	// Preference is that of the MX record: lower ones come first.
	Preference uint16
	// Addrs are in the order to try: IPv6 and IPv4 by turns. There is one at
	// least.
	Addrs []netip.Addr
	// Secure says that the addresses were validated by DNSSEC.
	Secure bool
}

// Destination is where mail for a domain goes.
type Destination struct {
	// Domain is in lower case and A-labels, or an address literal.
	Domain string
	// Site is the same for all domains that have the same MX hosts.
	Site string
	// Hosts are in the order to try: by preference, shuffled among equals. There
	// is one at least.
	Hosts []Host
	// Secure says that the MX records, or their absence, were validated by
	// DNSSEC.
	Secure bool
	// Implicit says that there are no MX records, so that the domain's own
	// addresses count (RFC 5321 section 5.1).
	Implicit bool
}

// Error says why mail for a domain has nowhere to go.
type Error struct {
	// Permanent says that this will not change by itself.
	Permanent bool
	// Enhanced is a status code of RFC 3463: 5.1.10 for a domain that takes no
	// mail, 5.1.2 for one that does not exist, 5.4.4 for one whose hosts do not
	// exist, 5.4.6 for one whose best host is this one, 4.4.3 if DNS does not
	// answer.
	Enhanced string
	// Text is for people.
	Text string
	// Err is the cause, if there is one.
	Err error
}

// Error describes the error in one line.
func (e *Error) Error() string {
	s := e.Enhanced + " " + e.Text
	if e.Err != nil {
		s += fmt.Sprintf(": %q", e.Err.Error()) // names in it are a stranger's
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

func permanent(enhanced, format string, args ...any) *Error {
	return &Error{Permanent: true, Enhanced: enhanced, Text: fmt.Sprintf(format, args...)}
}

func noAnswer(domain string, err error) *Error {
	return &Error{Enhanced: "4.4.3", Text: fmt.Sprintf("DNS does not tell where mail for %s goes", domain), Err: err}
}

// literal reads an address literal (RFC 5321 section 4.1.3).
func (r *Resolver) literal(domain string) (Destination, error) {
	text := strings.TrimSuffix(domain[1:], "]")
	v6, isV6 := text, false
	if len(text) > 5 && strings.EqualFold(text[:5], "IPv6:") {
		v6, isV6 = text[5:], true
	}
	ip, err := netip.ParseAddr(v6)
	switch {
	case err == nil && !strings.HasSuffix(domain, "]"):
		err = errors.New("no closing bracket")
	case err == nil && (ip.Is6() != isV6 || ip.Zone() != ""):
		err = errors.New("no address literal")
	}
	ip = ip.Unmap()
	switch {
	case err == nil && r.own != nil && r.own(ip):
		return Destination{}, loop(domain)
	case err != nil || !reachable(ip) || r.usable != nil && !r.usable(ip):
		return Destination{}, permanent("5.1.2", "%.100q is no address that mail can go to", domain)
	}
	site := "[" + ip.String() + "]"
	return Destination{Domain: domain, Site: site, Hosts: []Host{{Name: ip.String(), Addrs: []netip.Addr{ip}}}}, nil
}

// reachable reports whether an address is one host's.
func reachable(ip netip.Addr) bool {
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// interleave puts IPv6 and IPv4 addresses by turns, so that two tries get past a
// family that does not work, and leaves out what nobody can connect to.
func interleave(addrs []netip.Addr) []netip.Addr {
	var v6, v4 []netip.Addr
	for _, a := range addrs {
		switch a = a.Unmap().WithZone(""); {
		case !reachable(a):
		case a.Is4():
			v4 = append(v4, a)
		default:
			v6 = append(v6, a)
		}
	}
	out := make([]netip.Addr, 0, len(v6)+len(v4))
	for i := range max(len(v6), len(v4)) {
		if i < len(v6) {
			out = append(out, v6[i])
		}
		if i < len(v4) {
			out = append(out, v4[i])
		}
	}
	return out[:min(len(out), maxAddrs)]
}

// shuffled returns the destination with hosts of equal preference in random order
// (RFC 5321 section 5.1), and nothing shared that the caller could change.
func (d Destination) shuffled() Destination {
	d.Hosts = slices.Clone(d.Hosts)
	for from := 0; from < len(d.Hosts); {
		to := from + 1
		for to < len(d.Hosts) && d.Hosts[to].Preference == d.Hosts[from].Preference {
			to++
		}
		equal := d.Hosts[from:to]
		rand.Shuffle(len(equal), func(i, j int) { equal[i], equal[j] = equal[j], equal[i] })
		from = to
	}
	for i := range d.Hosts {
		d.Hosts[i].Addrs = slices.Clone(d.Hosts[i].Addrs)
	}
	return d
}
