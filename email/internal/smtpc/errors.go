package smtpc

import (
	"errors"
	"fmt"
)

// Status is what became of a message.
type Status int

const (
	// Delivered: the server has taken it.
	Delivered Status = iota + 1
	// Temporary: it was not taken, and may be another time.
	Temporary
	// Permanent: it was refused for good.
	Permanent
	// Unknown: the connection was lost after the end of the content and before
	// the reply to it. The server may have it or not; to try again may make
	// two of it, not to try may lose it.
	Unknown
)

// String returns the name in lower case.
func (s Status) String() string {
	switch s {
	case Delivered:
		return "delivered"
	case Temporary:
		return "temporary"
	case Permanent:
		return "permanent"
	case Unknown:
		return "unknown"
	}
	return "undecided"
}

// Phase is a part of the dialogue.
type Phase string

const (
	PhaseConnect  Phase = "connect"  // to the address, and the handshake of implicit TLS
	PhaseGreeting Phase = "greeting" // the server's first reply
	PhaseHello    Phase = "hello"    // EHLO, HELO, LHLO
	PhaseTLS      Phase = "starttls" // STARTTLS and its handshake
	PhaseAuth     Phase = "auth"     // AUTH
	PhaseMail     Phase = "mail"     // MAIL
	PhaseRcpt     Phase = "rcpt"     // RCPT
	PhaseData     Phase = "data"     // DATA until the server asks for the content
	PhaseContent  Phase = "content"  // the content up to the final dot
	PhaseEnd      Phase = "end"      // the reply to the final dot
	PhaseOther    Phase = "other"    // RSET, NOOP, QUIT
)

// Error says where a dialogue ended, and what that means for the message.
type Error struct {
	Phase  Phase
	Status Status // never Delivered
	// Reply is the server's, if it gave one that ended the dialogue. If the
	// client itself refuses to go on, for what the server lacks, it is the
	// reply that RFCs give for that, and Err says so too.
	Reply Reply
	// Err is the reason beside or instead of a reply: of package net, a
	// context's, ... It may be nil.
	Err error
}

// Error describes the error in one line, without control characters.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("%s: the server said %q", e.Phase, e.Reply)
	case e.Reply.Code != 0:
		return fmt.Sprintf("%s: %v (%s)", e.Phase, e.Err, e.Reply)
	default:
		return fmt.Sprintf("%s: %v", e.Phase, e.Err)
	}
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// ErrNotAsked says that it was the client that refused to go on, for what this
// server cannot do. Another server for the same mail may be able to.
var ErrNotAsked = errors.New("not asked of the server")

// refused is the error for a reply that is no success.
func refused(phase Phase, r Reply) *Error {
	status := r.status()
	if status == Delivered { // a success where another was due
		status = Temporary
	}
	return &Error{Phase: phase, Status: status, Reply: r}
}

// lacking is the error for what the server would have to be able to do.
func lacking(phase Phase, code int, enhanced, text string) *Error {
	r := Reply{Code: code, Enhanced: enhanced, Lines: []string{text}}
	return &Error{Phase: phase, Status: r.status(), Reply: r, Err: ErrNotAsked}
}

// temporary is the error for a dialogue that broke off.
func temporary(phase Phase, err error) *Error {
	return &Error{Phase: phase, Status: Temporary, Err: err}
}
