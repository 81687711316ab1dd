package mx

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// Bounds of what a domain may make us do: its best hosts count.
const (
	maxHosts    = 10  // looked up, of one domain
	maxAddrs    = 8   // of one host
	maxSiteName = 200 // bytes
)

// SecureResolver is a [lookup.Resolver] that also tells whether an answer was
// validated by DNSSEC. So may the absence of records be, which comes as an error.
// Names are given with a final dot.
type SecureResolver interface {
	LookupMXSecure(ctx context.Context, name string) (records []*net.MX, secure bool, err error)
	LookupAddrsSecure(ctx context.Context, host string) (addrs []netip.Addr, secure bool, err error)
}

// insecure asks a resolver that does not know about DNSSEC.
type insecure struct{ lookup.Resolver }

func (r insecure) LookupMXSecure(ctx context.Context, name string) ([]*net.MX, bool, error) {
	records, err := r.LookupMX(ctx, name)
	return records, false, err
}

func (r insecure) LookupAddrsSecure(ctx context.Context, host string) ([]netip.Addr, bool, error) {
	ips, err := r.LookupIPAddr(ctx, host)
	addrs := make([]netip.Addr, 0, len(ips))
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.IP); ok {
			addrs = append(addrs, a)
		}
	}
	return addrs, false, err
}

// resolve asks DNS. The error is an *Error.
func (r *Resolver) resolve(ctx context.Context, domain string) (Destination, error) {
	records, secure, err := r.dns.LookupMXSecure(ctx, domain+".")
	// A resolver may give records and an error, that others were malformed.
	if err != nil && len(records) == 0 && !lookup.NotFound(err) {
		return Destination{}, noAnswer(domain, err)
	}
	d := Destination{Domain: domain, Secure: secure}
	if len(records) == 0 {
		d.Implicit = true
		records = []*net.MX{{Host: domain}}
	}
	hosts, err := r.candidates(domain, records)
	if err != nil {
		return Destination{}, err
	}
	found, err := r.addresses(ctx, hosts)
	better := r.beforeUs(found)
	d.Hosts = r.withUsable(better)
	switch {
	case len(d.Hosts) > 0: // some may be unknown, but there are others
	case err != nil && !lookup.NotFound(err):
		return Destination{}, noAnswer(domain, err)
	case len(better) > 0:
		return Destination{}, permanent("5.4.4", "none of the mail servers of %s has an address of the internet", domain)
	case len(found) > 0:
		return Destination{}, loop(domain)
	case d.Implicit:
		return Destination{}, permanent("5.1.2", "the domain %s does not exist or takes no mail", domain)
	default:
		return Destination{}, permanent("5.4.4", "none of the mail servers of %s has an address", domain)
	}
	d.Site = siteOf(hosts)
	return d, nil
}

// siteOf names who shares these hosts by all of them, whether or not they have an
// address at the moment: who names a host of his own beside those of another must
// not have its trouble count for theirs.
func siteOf(hosts []Host) string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
	}
	slices.Sort(names)
	site := strings.Join(slices.Compact(names), ",")
	if len(site) > maxSiteName {
		sum := sha256.Sum256([]byte(site))
		site = fmt.Sprintf("%s...%x", site[:maxSiteName-35], sum[:16])
	}
	return site
}

// candidates returns the hosts of MX records, by preference, without those that
// are no better than this host.
func (r *Resolver) candidates(domain string, records []*net.MX) ([]Host, error) {
	var hosts []Host
	null, limit := false, -1
	for _, record := range records {
		if record.Host == "." || record.Host == "" {
			null = true // RFC 7505; beside others it is a mistake that means nothing
			continue
		}
		name, err := lookup.Domain(record.Host)
		if err != nil {
			continue
		}
		if r.names[name] && (limit < 0 || int(record.Pref) < limit) {
			limit = int(record.Pref)
		}
		hosts = append(hosts, Host{Name: name, Preference: record.Pref})
	}
	switch {
	case len(hosts) == 0 && null:
		return nil, permanent("5.1.10", "the domain %s takes no mail", domain)
	case len(hosts) == 0:
		return nil, permanent("5.4.4", "none of the mail servers of %s has a name that could be one", domain)
	}
	if limit >= 0 {
		if hosts = slices.DeleteFunc(hosts, func(h Host) bool { return int(h.Preference) >= limit }); len(hosts) == 0 {
			return nil, loop(domain)
		}
	}
	slices.SortFunc(hosts, func(a, b Host) int {
		return cmp.Or(cmp.Compare(a.Preference, b.Preference), cmp.Compare(a.Name, b.Name))
	})
	hosts = slices.CompactFunc(hosts, func(a, b Host) bool { return a.Name == b.Name && a.Preference == b.Preference })
	return hosts[:min(len(hosts), maxHosts)], nil
}

func loop(domain string) *Error {
	return permanent("5.4.6", "mail for %s would come back to this host", domain)
}

// addresses looks the hosts up, all at once, and returns those that have an
// address, and why others have none, rather a reason that may pass.
func (r *Resolver) addresses(ctx context.Context, hosts []Host) (found []Host, failure error) {
	hosts = slices.Clone(hosts)
	errs := make([]error, len(hosts))
	var group sync.WaitGroup
	for i := range hosts {
		group.Go(func() {
			addrs, secure, err := r.dns.LookupAddrsSecure(ctx, hosts[i].Name+".")
			hosts[i].Addrs, hosts[i].Secure, errs[i] = interleave(addrs), secure, err
		})
	}
	group.Wait()
	for i, h := range hosts {
		if len(h.Addrs) > 0 {
			found = append(found, h)
		} else if errs[i] != nil && (failure == nil || lookup.NotFound(failure)) {
			failure = errs[i]
		}
	}
	return found, failure
}

// beforeUs cuts the list where one of our own addresses comes (RFC 5321 section
// 5.1), whatever name it goes by.
func (r *Resolver) beforeUs(hosts []Host) []Host {
	if r.own == nil {
		return hosts
	}
	for i, h := range hosts {
		if slices.ContainsFunc(h.Addrs, r.own) {
			for i > 0 && hosts[i-1].Preference == h.Preference {
				i--
			}
			return hosts[:i]
		}
	}
	return hosts
}

// withUsable leaves out addresses that mail may not go to, and hosts that have no
// others.
func (r *Resolver) withUsable(hosts []Host) []Host {
	if r.usable == nil {
		return hosts
	}
	var out []Host
	for _, h := range hosts {
		h.Addrs = slices.DeleteFunc(h.Addrs, func(a netip.Addr) bool { return !r.usable(a) })
		if len(h.Addrs) > 0 {
			out = append(out, h)
		}
	}
	return out
}
