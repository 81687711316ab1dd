package dnsc

import (
	"context"
	"net"
	"net/netip"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

var _ lookup.Resolver = (*Resolver)(nil)

// LookupTXT is as that of [net.Resolver].
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	a, err := r.TXT(ctx, name)
	return a.Records, err
}

// LookupMX is as that of [net.Resolver].
func (r *Resolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	a, err := r.MX(ctx, name)
	return a.Records, err
}

// LookupMXSecure is LookupMX that also tells whether the answer, or that there is
// none (IsNotFound), was validated.
func (r *Resolver) LookupMXSecure(ctx context.Context, name string) ([]*net.MX, bool, error) {
	a, err := r.MX(ctx, name)
	return a.Records, a.Secure, err
}

// LookupIPAddr is as that of [net.Resolver].
func (r *Resolver) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	a, err := r.Addrs(ctx, host)
	var list []net.IPAddr
	for _, addr := range a.Records {
		list = append(list, net.IPAddr{IP: addr.AsSlice()})
	}
	return list, err
}

// LookupAddrsSecure returns the addresses of a host, and whether they, or that
// there are none (IsNotFound), were validated.
func (r *Resolver) LookupAddrsSecure(ctx context.Context, host string) ([]netip.Addr, bool, error) {
	a, err := r.Addrs(ctx, host)
	return a.Records, a.Secure, err
}

// LookupAddr is as that of [net.Resolver].
func (r *Resolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, &net.DNSError{Err: "this is no IP address", Name: addr, IsNotFound: true}
	}
	a, err := r.PTR(ctx, ip)
	return a.Records, err
}
