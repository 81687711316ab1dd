package h1

import "errors"

// ErrUnusual is returned for what is, or may be, right, but is more than this
// package reads.
var ErrUnusual = errors.New("HTTP/1 beyond what is read here")

// ErrTooLong is returned for a head or line that is longer than allowed.
var ErrTooLong = errors.New("HTTP/1 head too long")

// MalformedError says why a message is no HTTP/1.1.
type MalformedError struct{ Reason string }

// Error returns the reason.
func (e *MalformedError) Error() string { return "malformed HTTP/1 message: " + e.Reason }

func malformed(reason string) error { return &MalformedError{reason} }

// IsMalformed reports whether err is about a message that is no HTTP/1.1.
func IsMalformed(err error) bool {
	var m *MalformedError
	return errors.As(err, &m)
}
