package proxy

import (
	"context"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"

	"github.com/dcrouter/dcrouter/internal/proxyheader"
)

// readProxyHeader reads the header that the connection must begin with and
// takes over the addresses in it. What came with it stays in c.head.
func (c *conn) readProxyHeader() error {
	for {
		size, err := proxyheader.Size(c.head)
		if err != nil {
			return err
		}
		if size > 0 && size <= len(c.head) {
			client, local, err := proxyheader.Parse(c.head[:size])
			if err != nil {
				return err
			}
			if client.IsValid() {
				c.client, c.local = client, local
			}
			if c.head = c.head[size:]; len(c.head) == 0 {
				c.head = nil
			}
			return nil
		}
		if err := c.fill(proxyheader.MaxSize); err != nil {
			return err
		}
	}
}

// appendProxyHeader appends the header of a connection from client to local.
// Addresses that are not valid make it one of our own, such as a health check.
func appendProxyHeader(b []byte, version int, client, local netip.AddrPort) []byte {
	h := proxyproto.HeaderProxyFromAddrs(byte(version), net.TCPAddrFromAddrPort(client), net.TCPAddrFromAddrPort(local))
	text, err := h.Format()
	if err != nil {
		// It cannot be: the library has chosen a form that fits both addresses.
		// But without any header the target would believe one of the client's.
		text, _ = (&proxyproto.Header{Version: byte(version), Command: proxyproto.LOCAL}).Format()
	}
	return append(b, text...)
}

// proxyHeader returns what a connection to the target has to begin with: nil if
// that is nothing. It makes the connection the client's, so that no other may
// use it.
func (t *target) proxyHeader(client, local netip.AddrPort) []byte {
	if t.key.proxyVersion == 0 {
		return nil
	}
	return appendProxyHeader(nil, t.key.proxyVersion, client, local)
}

// ownHeader is the one for connections that are on nobody's behalf.
func (t *target) ownHeader() []byte { return t.proxyHeader(netip.AddrPort{}, netip.AddrPort{}) }

// connect dials and sends the PROXY header, if there is one.
func (t *target) connect(ctx context.Context, network, addr string, proxyHeader []byte) (net.Conn, error) {
	conn, err := t.dial(ctx, network, addr)
	if err != nil || proxyHeader == nil {
		return conn, err
	}
	// It fits into the buffer of a new connection, so this does not wait.
	if _, err := conn.Write(proxyHeader); err != nil {
		conn.Close()
		return nil, &dialError{err}
	}
	return conn, nil
}
