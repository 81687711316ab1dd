package email

import (
	"fmt"
	"io"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/compose"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// Email is a message to be written and sent.
//
// Addresses are written as "ann@example.com" or "Ann Smith <ann@example.com>", one
// in each string; names and all texts are UTF-8. Nothing in an Email may hold line
// breaks, NUL or other control characters where a header field is made of it.
type Email struct {
	// From is the author. Required.
	From string `json:"from"`
	// To, Cc and Bcc are who gets the message, at least one and 1000 at most. An
	// address that is there several times gets it once. Bcc are not named in it.
	To  []string `json:"to"`
	Cc  []string `json:"cc"`
	Bcc []string `json:"bcc"`
	// ReplyTo is where answers are to go. Empty means From.
	ReplyTo []string `json:"replyTo"`
	// Subject is one line of text.
	Subject string `json:"subject"`
	// Text and HTML are the content in two forms. Where only HTML is given, Text is
	// made from it. At most 10 MiB each.
	Text string `json:"text"`
	HTML string `json:"html"`
	// Attachments are files that come along.
	Attachments []Attachment `json:"attachments"`
	// Headers are fields of the caller's own by name, such as List-Unsubscribe,
	// List-Unsubscribe-Post (RFC 8058), In-Reply-To or X-Campaign. Refused are those
	// made from other fields here (From, To, Subject, Content-Type, ...) and those
	// that servers write (Received, DKIM-Signature, ...). White space in a value
	// becomes a single space each.
	Headers map[string]string `json:"headers"`
	// Date is that of the message. Zero means now.
	Date time.Time `json:"date"`
	// MessageID is the identifier of the message (RFC 5322 section 3.6.4), with or
	// without angle brackets. "" means one of random text at the domain of From.
	MessageID string `json:"messageId"`
	// Sender is the address in the envelope, where bounces go. "" means that of
	// From.
	Sender string `json:"sender"`
	// Queue is [NormalQueue], the default, or [PriorityQueue].
	Queue string `json:"queue"`
	// SendAt is when the first attempt is made. Zero, or a time that has passed,
	// means at once.
	SendAt time.Time `json:"sendAt"`
	// Metadata comes along in events and webhooks, and is not in the message: say,
	// an order's number. At most 32 entries and 4 KiB.
	Metadata map[string]string `json:"metadata"`
}

// Attachment is a file in an [Email].
type Attachment struct {
	// Filename is what the recipient sees. It may have any characters but control
	// characters.
	Filename string `json:"filename"`
	// ContentType is the media type, as in "application/pdf" or "text/csv;
	// charset=utf-8". "" means what the ending of Filename stands for, or else
	// application/octet-stream. A message/rfc822 is sent as it is; other messages
	// and multiparts are refused.
	ContentType string `json:"contentType"`
	// Content is the file. In JSON it is base64.
	Content []byte `json:"content"`
	// Open is called in place of Content for files that memory is too small for, or
	// too dear. It may be called more than once, and what it returns is closed.
	Open func() (io.ReadCloser, error) `json:"-"`
	// ContentID shows the file within HTML, with <img src="cid:logo"> for the
	// ContentID "logo".
	ContentID string `json:"contentId"`
}

// Bounds of [Email.Metadata].
const (
	maxMetadata      = 32
	maxMetadataBytes = 4 << 10
)

// Validate reports all that is wrong with the message, each a [*FieldError]. It
// opens no attachment, and its size is known only when it is written.
func (e *Email) Validate() error {
	_, err := e.prepare(compose.Options{})
	return err
}

// prepare makes the message ready to be written.
func (e *Email) prepare(o compose.Options) (*compose.Prepared, error) {
	check := conf.NewChecker()
	check.Field("queue").OneOf(e.Queue, "", NormalQueue, PriorityQueue)
	size := 0
	for name, value := range e.Metadata {
		size += len(name) + len(value)
	}
	if len(e.Metadata) > maxMetadata || size > maxMetadataBytes {
		check.Field("metadata").Errorf("has %d entries of %d bytes, and %d of %d are possible", len(e.Metadata), size, maxMetadata, maxMetadataBytes)
	}
	m := &compose.Message{
		From: e.From, To: e.To, Cc: e.Cc, Bcc: e.Bcc, ReplyTo: e.ReplyTo, Sender: e.Sender, Subject: e.Subject, Text: e.Text, HTML: e.HTML,
		Headers: e.Headers, Date: e.Date, MessageID: e.MessageID,
	}
	for _, a := range e.Attachments {
		m.Attachments = append(m.Attachments, compose.Attachment(a))
	}
	p, err := compose.Prepare(m, o)
	check.Add(err)
	if err := check.Err(); err != nil {
		return nil, fmt.Errorf("email: the message cannot be sent: %w", err)
	}
	return p, nil
}
