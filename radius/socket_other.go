//go:build !linux

package radius

import (
	"errors"
	"net"
)

// wantDestination is for Linux. Elsewhere a host with several addresses should
// set ListenHost.
func wantDestination(*net.UDPConn) error { return errors.ErrUnsupported }

func replyFrom([]byte) []byte { return nil }
