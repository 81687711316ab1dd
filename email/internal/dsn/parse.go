package dsn

import (
	"cmp"
	"io"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// maxRecipients bounds the recipients that are read of a notification.
const maxRecipients = 1000

// Parse finds out whether a message is a notification, and what it says:
// one after the standard, or as servers write them that do not follow it. What is
// none has the kind None. The error is that of reading msg, never one of the
// message.
func Parse(msg *io.SectionReader) (*Notification, error) {
	e, err := collect(msg)
	if err != nil {
		return nil, err
	}
	n := &Notification{}
	switch {
	case e.feedback != nil || e.reportType == "feedback-report":
		n.Kind, n.Format = Feedback, "arf"
	case e.status != nil && n.readStatus(e.status):
		n.Kind, n.Format = Bounce, "rfc3464"
		n.complete(e)
	case e.receipt || e.reportType == "disposition-notification":
		n.Kind, n.Format = Receipt, "mdn"
	case n.readText(e):
	case isAutoReply(e):
		n.Kind, n.Format = AutoReply, "auto-reply"
	default:
		if e.status != nil { // one that nobody can read
			n.Kind, n.Format = Bounce, "rfc3464"
		}
	}
	if n.Kind == Bounce || n.Kind == Delay || n.Kind == Success {
		n.Kind = kindOf(n.Recipients, n.Kind)
	}
	n.readOriginal(e)
	return n, nil
}

// kindOf is the kind of a notification by the worst that it says.
func kindOf(list []Recipient, otherwise Kind) Kind {
	kind := None
	for _, r := range list {
		switch {
		case r.Action == Failed:
			return Bounce
		case r.Action == Delayed:
			kind = Delay
		case kind == None:
			kind = Success
		}
	}
	if kind == None {
		return otherwise
	}
	return kind
}

// complete takes from the text what the fields for machines do not say: some
// servers put only that it failed there.
func (n *Notification) complete(e *evidence) {
	var said []Recipient
	for i := range n.Recipients {
		r := &n.Recipients[i]
		if r.Diagnostic != "" {
			continue
		}
		if said == nil {
			if said = textRecipients(e.text); len(said) == 0 {
				own, _ := cutOriginal(e.text)
				said = mentioned(own, e)
			}
			said = append(said, Recipient{}) // not nil again
		}
		for _, s := range said {
			if s.Diagnostic == "" || !strings.EqualFold(s.Address, r.Address) && (len(n.Recipients) > 1 || len(said) > 2) {
				continue
			}
			r.Diagnostic = s.Diagnostic
			r.RemoteMTA = cmp.Or(r.RemoteMTA, s.RemoteMTA)
			break
		}
	}
}

// readOriginal takes what identifies the original message.
func (n *Notification) readOriginal(e *evidence) {
	h := e.original
	n.MessageID = messageID(h.Get("Message-ID"))
	n.From = line(message.DecodeHeader(h.Get("From")), maxDiagnostic)
	n.To = line(message.DecodeHeader(h.Get("To")), maxDiagnostic)
	n.Subject = line(message.DecodeHeader(h.Get("Subject")), maxDiagnostic)
	if n.MessageID == "" && n.Kind != None {
		// Replies name it too, and so do the notifications of some.
		for _, name := range []string{"In-Reply-To", "References", "X-MS-Exchange-Parent-Message-Id"} {
			if fields := e.header.All(name); len(fields) > 0 {
				value := fields[0].Value()
				if i := strings.LastIndexByte(value, '<'); i >= 0 {
					value = value[i:] // the last of References is the one
				}
				if n.MessageID = messageID(value); n.MessageID != "" {
					break
				}
			}
		}
	}
	if n.Kind != None && n.EnvID == "" {
		n.EnvID = line(e.header.Get("Original-Envelope-Id"), maxDiagnostic)
	}
}
