// Package proxyheader reads headers of the PROXY protocol
// (https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt), which tell a
// server who is at the other end of a connection that comes from a proxy. One
// stands before everything else: a line of text in version 1, and binary in
// version 2.
package proxyheader

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

const (
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"

	max1 = 107
	min2 = len(signature2) + 4

	// MaxSize is the most that a header takes here, in bytes. It leaves room for
	// what version 2 may carry beside the addresses, a certificate for example. Up
	// to 64 KiB could be announced.
	MaxSize = min2 + 4096
)

var (
	errNone = errors.New("no PROXY header, which this peer has to send")
	errLong = errors.New("PROXY header is too long")
)

// Size returns the size of the header that b begins with, which may be more
// than b has, or 0 if more has to be read to know.
func Size(b []byte) (int, error) {
	begins := func(signature string) bool {
		n := min(len(b), len(signature))
		return string(b[:n]) == signature[:n]
	}
	switch {
	case begins(signature1):
		line := b[:min(len(b), max1)]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			return i + 1, nil
		}
		if len(line) == max1 {
			return 0, errLong
		}
		return 0, nil
	case !begins(signature2):
		return 0, errNone
	case len(b) < min2:
		return 0, nil
	}
	size := min2 + int(binary.BigEndian.Uint16(b[min2-2:]))
	if size > MaxSize {
		return 0, errLong
	}
	return size, nil
}

// Parse returns the addresses in a header of this size: the client's and the one
// that it connected to. They are not valid where the proxy speaks for itself, as
// in a health check, or knows no IP addresses; then those of the connection
// hold.
func Parse(b []byte) (client, local netip.AddrPort, err error) {
	const proxied, unspecified = "\x21", "\x00" // version 2 and command, address family
	if bytes.HasPrefix(b, []byte(signature2+proxied+unspecified)) {
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

// addrPort is the address of a header in its shortest form.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// Read reads the header that r must begin with. rest is what has come behind it.
// The addresses are those of [Parse].
func Read(r io.Reader) (client, local netip.AddrPort, rest []byte, err error) {
	buf := make([]byte, 0, 512)
	for {
		size, err := Size(buf)
		if err != nil {
			return client, local, nil, err
		}
		if size > 0 && size <= len(buf) {
			client, local, err = Parse(buf[:size])
			return client, local, buf[size:], err
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, MaxSize), buf...)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n == 0 && err != nil {
			return client, local, nil, err
		}
	}
}
