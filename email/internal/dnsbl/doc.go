// Package dnsbl asks DNS block lists (RFC 5782) about the addresses of clients.
//
//	checker, err := dnsbl.New(dnsbl.Config{Providers: providers, Resolver: net.DefaultResolver})
//	...
//	result, err := checker.Check(ctx, addr)
//	if result.Blocked {
//		// result.Reason says why
//	}
//
// Answers are cached, in memory and in storage. A list that does not answer, or
// answers with an error code, counts as one that does not know the address.
package dnsbl
