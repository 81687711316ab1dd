package smtpd

import (
	"context"
	"io"

	"github.com/emersion/go-sasl"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// Backend makes sessions.
type Backend interface {
	// NewSession is called once for a connection, before the greeting and after
	// the handshake of implicit TLS. With an error the connection is refused,
	// with the error's reply if it is a [*Reply], and closed.
	NewSession(ctx context.Context, c *Conn) (Session, error)
}

// Session is what decides about the mail of one connection. Its methods are
// never called at the same time.
//
// An error that is a [*Reply] is what the client is told. Any other is logged,
// and the client is told 451, or 535 within AUTH, and nothing of the error.
//
// ctx ends with the connection, also while a method runs, and at the deadline of
// Shutdown. Methods may take their time, seconds if need be; what the client
// sends meanwhile waits.
type Session interface {
	// Helo is called for each EHLO and HELO with the name that the client
	// gives, which need not be true; [Conn.ESMTP] says which of the two. The
	// name is an address literal or of letters, digits and ".-_:", at most 255
	// bytes. Clients introduce themselves once more after STARTTLS.
	Helo(ctx context.Context, name string) error
	// AuthMechanisms lists SASL mechanisms, in the order in which they are
	// announced. It is asked at every EHLO and AUTH. AUTH needs TLS, whatever
	// is returned.
	AuthMechanisms() []string
	// Authenticate begins an exchange. The mechanism is one of
	// AuthMechanisms. The exchange has succeeded once Next says that it is
	// done; from then on [Conn.Authenticated] is true.
	Authenticate(ctx context.Context, mechanism string) (sasl.Server, error)
	// Mail begins a transaction. It ends with Reset or Close.
	Mail(ctx context.Context, from addr.Address, o *MailOptions) error
	// Rcpt adds a recipient. Domain is empty for "<postmaster>".
	Rcpt(ctx context.Context, to addr.Address, o *RcptOptions) error
	// Data is given the message; r belongs to it until it returns. If r ends
	// with io.EOF the message is complete: its lines end with CRLF, though the last
	// one may not end at all, there is no other CR or LF and no NUL in it, dots
	// are as the sender meant them. Any other error of r says that there will
	// be no more of it, and whatever Data returns then, the client is not told
	// that the message was accepted.
	//
	// The reply, by default 250 2.0.0, is for success. Data need not read the
	// message to its end to refuse it.
	Data(ctx context.Context, r io.Reader) (*Reply, error)
	// Reset ends a transaction that Mail has begun: it is called after Data, at
	// RSET, and at EHLO, HELO and STARTTLS within a transaction.
	Reset()
	// Close is called once, at the end of the connection.
	Close()
}

// Values of [MailOptions.Body] and [MailOptions.Return].
const (
	SevenBit = "7BIT"     // RFC 6152
	EightBit = "8BITMIME" // RFC 6152

	ReturnFull    = "FULL" // RFC 3461 section 4.3
	ReturnHeaders = "HDRS"
)

// MailOptions are the parameters of MAIL. Those that were not given are zero.
type MailOptions struct {
	// Size is the size that the client has declared (RFC 1870), in bytes.
	Size int64
	// Body is [SevenBit] or [EightBit].
	Body string
	// UTF8 says that envelope and header may have UTF-8 in them (RFC 6531).
	UTF8 bool
	// RequireTLS says that the message must only be sent on over verified TLS
	// (RFC 8689).
	RequireTLS bool
	// Return is what a bounce shall have of the message: [ReturnFull] or
	// [ReturnHeaders].
	Return string
	// EnvelopeID is for bounces, decoded (RFC 3461 section 4.4).
	EnvelopeID string
}

// Values of [RcptOptions.Notify].
const (
	NotifyNever   = "NEVER"
	NotifySuccess = "SUCCESS"
	NotifyFailure = "FAILURE"
	NotifyDelay   = "DELAY"
)

// RcptOptions are the parameters of RCPT (RFC 3461), zero if they were not given.
type RcptOptions struct {
	// Notify says when the sender wants a notification: [NotifyNever] alone, or
	// any of the others. Empty means on failure, and on delay if we like.
	Notify []string
	// OriginalType and Original are the recipient that the sender has written
	// to, decoded; the type is "RFC822" or "UTF-8".
	OriginalType, Original string
}
