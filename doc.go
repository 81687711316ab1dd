// Package dcrouter is a datacenter's gateway in one process, to be embedded in a
// host program: a reverse proxy for HTTP, TLS, TCP and UDP whose routes can be
// replaced while traffic flows, mail, DNS, RADIUS, automatic certificates, and an
// operations API with a dashboard.
//
//	r, err := dcrouter.New(
//		dcrouter.WithProxy(proxy.Config{Routes: routes}),
//		dcrouter.WithStorage(storage.Dir("/var/lib/example")),
//		dcrouter.WithLogger(slog.Default()),
//	)
//	if err != nil { ... } // every mistake at once
//	if err := r.Start(ctx); err != nil { ... }
//	defer r.Stop(ctx)
//	...
//	err = r.UpdateRoutes(ctx, otherRoutes)
//
// What can be written as JSON is a field of [Config], which [LoadConfig] reads
// from a file and [WithConfig] gives to a Router. What cannot (loggers,
// listeners, backends, hooks) is an [Option].
//
// # Life
//
// [New] checks everything and does no I/O. [Router.Start] binds all ports or takes
// everything back. While it runs, [Router.UpdateRoutes], [Router.UpdateDomainRules]
// and [Router.UpdateDNS] change what is served, [Router.Stats] and
// [Router.Collector] tell how it goes, and [Router.Wait] returns if something
// cannot go on. [Router.Stop] drains until its context ends, and leaves no
// goroutine. A Router takes no signals, writes to nothing but its logger and has
// no global state: there may be several in a process.
//
// # Parts
//
// Each subsystem also works alone: see the packages proxy, email, dnsserver,
// radius, storage and opsapi. What is between them is here: the proxy serves DNS
// over HTTPS (dnsDomain) and hands over connections for mail (useSocketHandler),
// certificates are shared and proven in our own zones, and the records of mail
// domains are published there.
package dcrouter
