// Package proxy is a reverse proxy for HTTP/1.1, HTTP/2, HTTP/3 and WebSocket, for
// TLS, and for any protocol over TCP or UDP, with routes that can be replaced while
// it runs.
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
//
// # Requests or bytes
//
// Where something about HTTP, TLS or a name decides (a domain, a path, a redirect,
// a certificate), connections are read, and HTTP goes request by request: each by
// the routes of now, with X-Forwarded-For and the like. Where no route of a port asks
// for that, connections are passed on as they are, and stay with their route as
// long as they last. [Match.Protocol] says it outright: "http" or "tcp".
//
// # Certificates
//
// They come from files, or from [WithGetCertificate]. A Proxy does not obtain any
// itself: the Router of package dcrouter does.
package proxy
