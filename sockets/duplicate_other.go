//go:build !unix

package sockets

import (
	"errors"
	"os"
	"syscall"
)

func duplicate(syscall.Conn) (*os.File, error) { return nil, errors.ErrUnsupported }
