// Package proxy is a reverse proxy for HTTP, HTTPS and any TCP protocol, with
// routes that can be replaced while it runs.
//
// A [Proxy] listens on the ports that its routes name and decides for each
// connection, by client address, TLS server name or HTTP request, which
// [Route] takes it. Several protocols may share one port where the first bytes
// tell them apart. A route forwards to targets, redirects, serves files, or
// hands the request or the whole connection to code of the host.
//
//	p, err := proxy.New(proxy.Config{
//		Routes: []proxy.Route{{
//			Name:  "web",
//			Match: proxy.Match{Ports: proxy.Ports(8080), Domains: []string{"example.com"}},
//			Action: proxy.Action{
//				Type:    proxy.Forward,
//				Targets: []proxy.Target{{Host: "127.0.0.1", Port: 3000}},
//			},
//		}},
//	})
//	if err != nil { ... }
//	if err := p.Start(ctx); err != nil { ... }
//	defer p.Stop(ctx)
//
// [Proxy.UpdateRoutes] replaces the routes: all of them or, if any has a
// mistake, none. Connections of routes that stay are not touched.
package proxy
