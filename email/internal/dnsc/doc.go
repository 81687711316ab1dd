// Package dnsc is a stub resolver that tells whether an answer was validated by
// DNSSEC, which net.Resolver does not, and knows TLSA records.
//
//	r, err := dnsc.New(dnsc.Config{}) // the servers of /etc/resolv.conf
//	if err != nil {
//		return err
//	}
//	mx, err := r.MX(ctx, "example.net")
//	if err == nil && mx.Secure {
//		tlsa, err := r.TLSA(ctx, "_25._tcp.mx.example.net")
//		...
//	}
//
// It validates nothing itself: it asks a resolver that does, and believes its AD
// bit if the way to that resolver cannot be tampered with (RFC 4035 section
// 4.9.3): it is on this host, or the configuration says so. It does not cache:
// that resolver does.
//
// A [Resolver] is also the resolver that the checks of senders want. Errors are
// *net.DNSError: IsNotFound where there is no such name or record, else
// IsTemporary or IsTimeout.
//
// # Standards
//
// RFC 1035, 2308 (negative answers), 4035 and 6840 (the AD bit), 5452 (forged
// answers), 6698 (TLSA), 6891 (EDNS), 7766 (TCP).
package dnsc
