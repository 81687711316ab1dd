package deliver

import (
	"errors"
	"syscall"
)

// Error is why a message could not be delivered.
type Error struct {
	// Temporary says that it may be possible later: everything but an address
	// for which there can be no folder.
	Temporary bool
	// Code is the enhanced status code (RFC 3463): 4.2.2 if the mailbox is
	// full, 4.3.1 if the file system is, 4.3.0 otherwise; 5.1.1 for an address.
	Code string
	Err  error
}

// Error describes it for the log: it may name paths of this host.
func (e *Error) Error() string { return "maildir: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

func permanent(err error) *Error { return &Error{Code: "5.1.1", Err: err} }

func temporary(err error) *Error {
	e := &Error{Temporary: true, Code: "4.3.0", Err: err}
	switch {
	case errors.Is(err, syscall.EDQUOT):
		e.Code = "4.2.2"
	case errors.Is(err, syscall.ENOSPC):
		e.Code = "4.3.1"
	}
	return e
}
