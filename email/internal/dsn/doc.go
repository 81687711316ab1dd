// Package dsn writes and reads delivery status notifications, and what else comes
// back for mail that was sent: replies of machines, and complaints.
//
//	m, err := dsn.Make(dsn.Report{ReportingMTA: "mail.example.com", To: sender, Now: now, Recipients: failed, Original: body})
//	...
//	n, err := dsn.Parse(body)
//	for _, r := range n.Recipients {
//		if r.Action == dsn.Failed && dsn.Classify(r.Failure()).Severity == dsn.Hard {
//			...
//		}
//	}
//
// What is read comes from strangers, and nothing of it is proven: anybody can
// write that an address does not exist. So it counts only together with the
// address it was sent to (package bounceaddr).
//
// # Standards
//
// RFC 3464 (delivery status), 3461 (what the sender asked for), 3463 and 5248
// (status codes), 6522 (multipart/report), 6533 (UTF-8), 3834 (automatic
// responses), 5965 and 6650 (complaints), 8098 (read receipts are recognized).
package dsn

import (
	"io"
	"slices"
	"strings"
	"time"
)

// Action says what became of a message for a recipient (RFC 3464 section 2.3.3).
type Action string

const (
	Failed    Action = "failed"    // it could not be delivered, and no more is tried
	Delayed   Action = "delayed"   // it is tried again
	Delivered Action = "delivered" // it is in a mailbox
	Relayed   Action = "relayed"   // it is with a server that sends no notifications
	Expanded  Action = "expanded"  // it went to several others, as of a list
)

// Recipient is what a notification says of one recipient. One that was read has
// what it said, cleaned of control characters, and the zero value where it said
// nothing.
type Recipient struct {
	// Address is the final recipient, as "bob@example.net". When read it may be ""
	// or without a domain.
	Address string
	// Original is the recipient that the sender wrote to, with its type, not
	// encoded: "rfc822;bob@example.com" (ORCPT of RFC 3461 section 4.2). It may be
	// "".
	Original string
	// Action is what happened.
	Action Action
	// Status is an enhanced status code (RFC 3463), as "5.1.1". When made, the
	// default is x.0.0 by Action.
	Status string
	// RemoteMTA is the host that was asked, "" for none.
	RemoteMTA string
	// Diagnostic is what it said, as "550 5.1.1 no such user"; without a
	// RemoteMTA it is what the reporting server itself has to say.
	Diagnostic string
	// LastAttempt is when that was.
	LastAttempt time.Time
	// RetryUntil is when a delayed message is given up.
	RetryUntil time.Time
}

// Report is what [Make] is to write. The original message's sender may not be
// null: nobody is told what became of a notification.
type Report struct {
	// ReportingMTA is the name of our host. Required.
	ReportingMTA string
	// From is the address of the From field. Default MAILER-DAEMON at
	// ReportingMTA.
	From string
	// To is the envelope sender of the original message. Required.
	To string
	// EnvID is the sender's name for the envelope, not encoded (RFC 3461 section
	// 4.4), or "".
	EnvID string
	// Arrival is when the original message came.
	Arrival time.Time
	// Now is the time of the notification. Required.
	Now time.Time
	// MessageID of the notification, without angle brackets. Default a random one
	// at ReportingMTA.
	MessageID string
	// Recipients to tell of. One at least.
	Recipients []Recipient
	// Original is the original message, or its header section. It may be nil.
	Original *io.SectionReader
	// Full returns all of the original (RET=FULL) with a failure, if it is not
	// larger than 100 KiB and its lines are fit for SMTP; otherwise its header goes
	// back, 64 KiB of it at most.
	Full bool
	// UTF8 writes message/global-* (RFC 6533) where there is something beyond
	// ASCII. It is for senders who take such mail: those of SMTPUTF8 messages.
	UTF8 bool
}

// Message is a notification, to be sent with the null sender.
type Message struct {
	Content []byte
	// EightBit and UTF8 are for the envelope (RFC 6152, RFC 6531).
	EightBit, UTF8 bool
}

// Wanted says whether a sender who gave NOTIFY with these values for a recipient
// (RFC 3461 section 4.1) is to be told. Without NOTIFY they are of failures, as
// they must, and of delays, as they may.
func Wanted(notify []string, a Action) bool {
	has := func(s string) bool {
		return slices.ContainsFunc(notify, func(n string) bool { return strings.EqualFold(n, s) })
	}
	switch a {
	case Failed:
		return len(notify) == 0 || has("FAILURE")
	case Delayed:
		return len(notify) == 0 || has("DELAY")
	case Delivered, Relayed, Expanded:
		return has("SUCCESS")
	}
	return false
}

// Kind is the kind of a message that came back.
type Kind int

const (
	None      Kind = iota // no notification
	Bounce                // a recipient at least did not get the message
	Delay                 // it is delayed, and nobody has failed to get it
	Success               // it was delivered, relayed or expanded
	AutoReply             // a machine answered: out of office, a challenge to the sender, ...
	Receipt               // somebody has seen it, or deleted it (RFC 8098)
	Feedback              // a complaint, for [ParseComplaint]
)

// String returns the name in lower case.
func (k Kind) String() string {
	switch k {
	case Bounce:
		return "bounce"
	case Delay:
		return "delay"
	case Success:
		return "success"
	case AutoReply:
		return "auto-reply"
	case Receipt:
		return "receipt"
	case Feedback:
		return "feedback"
	}
	return "none"
}

// Notification is what was read from a message that came back.
type Notification struct {
	Kind Kind
	// Recipients may be empty even in a bounce: then the address that it came to
	// has to tell.
	Recipients []Recipient
	// ReportingMTA is who says so, or "".
	ReportingMTA string
	// EnvID is what we gave as ENVID, or "".
	EnvID string
	// Arrival is when the reporting server got the message.
	Arrival time.Time
	// MessageID, From, To and Subject are of the original message's header, as far
	// as it came along. MessageID has no angle brackets; the others are decoded.
	MessageID, From, To, Subject string
	// Format names what was recognized: "rfc3464", "exim", "qmail", ...; for logs.
	Format string
}
