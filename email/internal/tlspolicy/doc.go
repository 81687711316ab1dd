// Package tlspolicy decides how mail to a domain has to be protected on its way:
// by rules of the configuration, REQUIRETLS, DANE, MTA-STS, and else as well as
// it goes.
//
//	policies, err := tlspolicy.Open(ctx, tlspolicy.Config{Resolver: dns, DNS: dns, Store: store})
//	...
//	defer policies.Close()
//
//	policy, err := policies.For(ctx, tlspolicy.Destination{Domain: "example.net", Secure: mx.Secure}, tlspolicy.Default)
//	if err != nil {
//		return err // temporary
//	}
//	r := policy.Host(ctx, "mx.example.net")
//	if r.Refuse != nil {
//		... // another host, or later
//	}
//	conn, err := smtpc.Dial(ctx, smtpc.Config{TLS: r.Mode, TLSConfig: r.Config, ServerName: r.ServerName, ...})
//	policy.Result(tlspolicy.Outcome{Host: "mx.example.net", TLS: conn.TLS(), Err: err}) // for the reports of package tlsrpt
//
// A policy that cannot be met defers mail and does not bounce it: it may be an
// attack, or a mistake that its owner is about to mend (RFC 8461 section 5). Only
// REQUIRETLS refuses for good.
//
// # Standards
//
// RFC 6698, 7671 and 7672 (DANE), 8461 (MTA-STS), 8689 (REQUIRETLS).
package tlspolicy
