//go:build !unix

package main

import (
	"errors"
	"net"
	"os"
)

// upgrades never receives anything: there is no signal for it here, and sockets
// cannot be handed on.
func upgrades() <-chan os.Signal { return nil }

func socketPair() (net.Conn, *os.File, error) { return nil, nil, errors.ErrUnsupported }

func closeOnExec(int) {}
