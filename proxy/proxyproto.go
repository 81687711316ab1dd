package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// The PROXY protocol (https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt)
// tells a server who is at the other end of a connection that comes from a
// proxy: in a header before everything else, a line of text in version 1 and
// binary in version 2.
const (
	proxySignature1 = "PROXY "
	proxySignature2 = "\r\n\r\n\x00\r\nQUIT\n"

	maxProxyHeader1 = 107
	minProxyHeader2 = len(proxySignature2) + 4
	// maxProxyHeader leaves room for what version 2 may carry beside the
	// addresses, a certificate for example. Up to 64 KiB could be announced.
	maxProxyHeader = minProxyHeader2 + 4096
)

var (
	errNoProxyHeader   = errors.New("no PROXY header, which this peer has to send")
	errLongProxyHeader = errors.New("PROXY header is too long")
)

// readProxyHeader reads the header that the connection must begin with and
// takes over the addresses in it. What came with it stays in c.head.
func (c *conn) readProxyHeader() error {
	for {
		size, err := proxyHeaderSize(c.head)
		if err != nil {
			return err
		}
		if size > 0 && size <= len(c.head) {
			client, local, err := parseProxyHeader(c.head[:size])
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
		if err := c.fill(maxProxyHeader); err != nil {
			return err
		}
	}
}

// proxyHeaderSize returns the size of the header that b begins with, which may
// be more than b has, or 0 if more has to be read to know.
func proxyHeaderSize(b []byte) (int, error) {
	begins := func(signature string) bool {
		n := min(len(b), len(signature))
		return string(b[:n]) == signature[:n]
	}
	switch {
	case begins(proxySignature1):
		line := b[:min(len(b), maxProxyHeader1)]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			return i + 1, nil
		}
		if len(line) == maxProxyHeader1 {
			return 0, errLongProxyHeader
		}
		return 0, nil
	case !begins(proxySignature2):
		return 0, errNoProxyHeader
	case len(b) < minProxyHeader2:
		return 0, nil
	}
	size := minProxyHeader2 + int(binary.BigEndian.Uint16(b[minProxyHeader2-2:]))
	if size > maxProxyHeader {
		return 0, errLongProxyHeader
	}
	return size, nil
}

// parseProxyHeader returns the addresses in a header: the client's and the one
// that it connected to. They are not valid where the proxy speaks for itself,
// as in a health check, or knows no IP addresses; then those of the connection
// hold.
func parseProxyHeader(b []byte) (client, local netip.AddrPort, err error) {
	const proxied, unspecified = "\x21", "\x00" // version 2 and command, address family
	if bytes.HasPrefix(b, []byte(proxySignature2+proxied+unspecified)) {
		// Whether to refuse this is left to the receiver, and the library does.
		// HAProxy sends it for clients of a Unix socket.
		return client, local, nil
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), len(b)))
	if err != nil {
		return client, local, fmt.Errorf("malformed PROXY header: %w", err)
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnix() {
		return client, local, nil
	}
	return addrPort(h.SourceAddr), addrPort(h.DestinationAddr), nil
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
