package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
)

// ConnInfo describes a client connection to code of the host: handlers,
// socket handlers and port functions.
type ConnInfo struct {
	// ID names the connection in logs; it follows the connection into other
	// subsystems.
	ID string
	// Client is the client's address, from the PROXY header if there was one.
	Client netip.AddrPort
	// Local is the address that the client connected to, from the PROXY header
	// if there was one.
	Local netip.AddrPort
	// Port is the port as the routes name it: 0 where any free port was asked
	// for.
	Port int
	// ServerName is the TLS server name in canonical form, or "".
	ServerName string
	// ALPN is the protocol agreed on in the TLS handshake, or "".
	ALPN string
	// TLS is the state of the TLS connection that was terminated here, or nil.
	TLS *tls.ConnectionState
	// Route is the name of the route that took the connection or request.
	Route string
	// RequestID is the id of the HTTP request, or "" where Config.RequestID is
	// not set.
	RequestID string
}

// A SocketHandler serves whole connections in the host's process.
type SocketHandler interface {
	// ServeConn serves conn and returns when it is done with it; the Proxy
	// closes conn then. When ctx ends, the connection is about to be closed.
	//
	// conn is a *net.TCPConn if the route could be chosen without reading
	// from it, and TLS was not terminated. A PROXY header that came alone does
	// not change that, but conn's addresses are those of the proxy then.
	ServeConn(ctx context.Context, conn net.Conn, info ConnInfo)
}

// SocketHandlerFunc makes a function a [SocketHandler].
type SocketHandlerFunc func(ctx context.Context, conn net.Conn, info ConnInfo)

// ServeConn calls f.
func (f SocketHandlerFunc) ServeConn(ctx context.Context, conn net.Conn, info ConnInfo) {
	f(ctx, conn, info)
}

type connInfoKey struct{}

// ConnInfoFrom returns the client connection's description from the context
// of an HTTP request that a Proxy serves.
func ConnInfoFrom(ctx context.Context) (ConnInfo, bool) {
	info, ok := ctx.Value(connInfoKey{}).(ConnInfo)
	return info, ok
}
