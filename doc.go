// Package dcrouter is a datacenter's gateway in one process, to be embedded in
// a host program: routes for HTTP, HTTPS, TLS and TCP that can be replaced
// while traffic flows, mail, DNS, RADIUS and automatic certificates, with an
// operator's desk to come.
//
//	r, err := dcrouter.New(
//		dcrouter.WithProxy(proxy.Config{Routes: routes}),
//		dcrouter.WithStorage(storage.Dir("/var/lib/example")),
//		dcrouter.WithLogger(slog.Default()),
//	)
//	if err != nil { ... }
//	if err := r.Start(ctx); err != nil { ... }
//	defer r.Stop(ctx)
//	...
//	err = r.UpdateRoutes(ctx, otherRoutes)
//
// What can be written as JSON is a field of [Config], which [LoadConfig] reads
// from a file and [WithConfig] gives to a Router. What cannot (loggers,
// listeners, backends, hooks) is an [Option].
//
// Each subsystem also works alone: see the packages proxy, email,
// dnsserver, radius and storage.
package dcrouter
