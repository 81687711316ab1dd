//go:build !unix

package h1

import "net"

// rawReader is for systems on which sockets are file descriptors.
type rawReader struct{}

func (rawReader) init(net.Conn, *Reader) {}
func (rawReader) usable() bool           { return false }
func (rawReader) fill(*Reader) error     { return net.ErrClosed }
