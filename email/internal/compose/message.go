package compose

import (
	"crypto/rand"
	"errors"
	"io"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// Message is what is to be written.
type Message struct {
	// From is the author: an address, or a name and an address in angle brackets.
	// Required.
	From string
	// To, Cc and Bcc are the recipients, at least one, written as From is. Bcc are
	// not in the message.
	To, Cc, Bcc []string
	// ReplyTo is where answers go, if not to From.
	ReplyTo []string
	// Sender is the address in the envelope; "" means that of From.
	Sender string
	// Subject is one line of text.
	Subject string
	// Text and HTML are two forms of the same content. Without Text it is made
	// from HTML.
	Text, HTML string
	// Attachments are files that come along.
	Attachments []Attachment
	// Headers are fields beside those that this package writes. White space in
	// values is written as single spaces.
	Headers map[string]string
	// Date defaults to now.
	Date time.Time
	// MessageID, with or without angle brackets, defaults to random text at the
	// domain of From.
	MessageID string
}

// Attachment is a file in a message.
type Attachment struct {
	// Filename may have any characters but control characters.
	Filename string
	// ContentType is a media type, by default what Filename's ending stands for.
	ContentType string
	// Content is the file, or Open opens it.
	Content []byte
	Open    func() (io.ReadCloser, error)
	// ContentID is the name by which HTML shows the file: cid:name.
	ContentID string
}

// Options of [Prepare]. The zero value is fine.
type Options struct {
	// Now is the clock.
	Now func() time.Time
	// Rand is where boundaries and message identifiers come from, crypto/rand by
	// default.
	Rand io.Reader
	// MaxSize limits the message as it is sent, in bytes. The default is 50 MiB.
	MaxSize int64
}

func (o *Options) setDefaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.MaxSize <= 0 {
		o.MaxSize = 50 << 20
	}
}

// ErrTooLarge is what [Prepared.Write] fails with when the message becomes larger
// than [Options.MaxSize].
var ErrTooLarge = errors.New("the message is too large")

// Prepared is a message without mistakes, ready to be written.
type Prepared struct {
	// Sender is the sender in the envelope.
	Sender addr.Address
	// Recipients are those of To, Cc and Bcc in this order, each once.
	Recipients []addr.Address
	// MessageID is without angle brackets.
	MessageID string
	// UTF8 is set if the message can only be sent with SMTPUTF8 (RFC 6531), because
	// an address has other characters than ASCII in front of its @.
	UTF8 bool

	root    *part
	maxSize int64
}

// Written is what is known of a message once it is written.
type Written struct {
	// Size is how many bytes there are.
	Size int64
	// EightBit is set if it takes 8BITMIME (RFC 6152) to send them: only an attached
	// message may have such bytes.
	EightBit bool
}
