// Package certs obtains server certificates by ACME (RFC 8555), keeps them in a
// storage and renews them before they expire.
//
//	m, err := certs.New(certs.Config{Directory: certs.LetsEncrypt, Email: "ops@example.com"}, certs.WithDNS(zones))
//	m.SetNames([]string{"example.com", "*.example.com"})
//	err = m.Load(ctx, store)  // from now on GetCertificate has what is in the storage
//	... listen ...
//	m.Start()                 // obtains what is missing, in the background
//	defer m.Stop(ctx)
//
// Nothing waits for a certification authority but goroutines of the Manager:
// each name has one, which looks at its certificate from time to time. What it
// does and when it will do something next is in [Manager.States].
//
// Names are proven to be ours by DNS-01 (RFC 8555 section 8.4) in zones of this
// process or at Cloudflare, by TLS-ALPN-01 (RFC 8737) or by HTTP-01 (RFC 8555
// section 8.3). Renewal follows what the authority suggests (RFC 9773). With
// zones of our own, the authority is told by CAA records (RFC 8659) that only
// this account may have certificates (RFC 8657).
//
// Several Managers may share a storage: who issues for a name holds a lease, and
// the others take over what it has put there. Nothing is shared beyond the
// storage, so Managers in one process with storages of their own know nothing
// of each other: each has its account and orders for itself.
//
// certmagic makes keys and requests, keeps certificates and cleans the storage;
// acmez speaks the protocol. certmagic's own issuer and its schedule are not
// used: they keep jobs, challenges and rate limits by name for the whole process,
// so that two Routers would get in each other's way, and retry where nobody sees
// it.
package certs
