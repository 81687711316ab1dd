// Package mx finds the hosts that take mail for a domain.
//
//	r := mx.New(net.DefaultResolver, mx.Options{Names: []string{"mail.example.com"}})
//	d, err := r.Lookup(ctx, "example.net")
//	for _, host := range d.Hosts {
//		for _, addr := range host.Addrs {
//			// connect to addr; a certificate should be for host.Name
//		}
//	}
//
// Domains that have the same hosts share a [Destination.Site], so that who
// sends to many domains of a provider can treat them as the one place that they
// are.
//
// # Standards
//
// RFC 5321 section 5.1 (which hosts, in which order, and not this one), 7505 (null
// MX), 5321 section 4.1.3 (address literals), 5891 (IDNA).
package mx
