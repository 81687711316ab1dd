package dsn

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	gomessage "github.com/emersion/go-message"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// maxDiagnostic bounds what a server said, in bytes: with the field's name it
// has to fit into a line (RFC 5322 section 2.1.1).
const maxDiagnostic = 900

// Make writes a notification. Whatever strings the report has, no line break of
// theirs gets into a header.
func Make(r Report) (*Message, error) {
	from, to, err := r.check()
	if err != nil {
		return nil, err
	}
	// All of the message only where it did not arrive (RFC 3461 section 4.3).
	original, err := readOriginal(r.Original, r.Full && r.worst() == Failed, r.UTF8)
	if err != nil {
		return nil, fmt.Errorf("dsn: reading the original message: %w", err)
	}
	status := r.statusPart()
	prose := r.prosePart(original.fields)

	// Fields are added from the last to the first: go-message puts each in front.
	var h gomessage.Header
	h.SetContentType("multipart/report", map[string]string{"report-type": "delivery-status", "boundary": rand.Text()})
	h.Add("MIME-Version", "1.0")
	h.Add("Auto-Submitted", "auto-replied") // RFC 3834 section 5
	if id := original.messageID; id != "" {
		h.Add("References", "<"+id+">")
		h.Add("In-Reply-To", "<"+id+">")
	}
	h.Add("Message-ID", "<"+r.messageID()+">")
	h.Add("Date", r.Now.Format(time.RFC1123Z))
	h.Add("Subject", r.subject())
	h.Add("To", "<"+to.String()+">")
	h.Add("From", "Mail Delivery System <"+from.String()+">")

	var out bytes.Buffer
	w, err := gomessage.CreateWriter(&out, h)
	if err != nil {
		return nil, fmt.Errorf("dsn: %w", err)
	}
	for _, p := range []part{prose, status, original.part} {
		if err := p.write(w); err != nil {
			return nil, fmt.Errorf("dsn: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("dsn: %w", err)
	}
	m := &Message{Content: out.Bytes(), EightBit: !isASCII(out.String())}
	header, _, _ := bytes.Cut(m.Content, []byte("\r\n\r\n"))
	m.UTF8 = !isASCII(string(header))
	return m, nil
}

// check reports what is missing, all at once, and reads the addresses.
func (r *Report) check() (from, to addr.Address, err error) {
	var problems []error
	if r.Now.IsZero() {
		problems = append(problems, errors.New("dsn: no time"))
	}
	if len(r.Recipients) == 0 {
		problems = append(problems, errors.New("dsn: no recipients"))
	}
	if _, err := addr.ParseDomain(r.ReportingMTA); err != nil {
		problems = append(problems, fmt.Errorf("dsn: the reporting host %q: %w", r.ReportingMTA, err))
	}
	if r.To == "" {
		problems = append(problems, errors.New("dsn: the null sender gets no notifications"))
	} else if to, err = addr.Parse(r.To); err != nil {
		problems = append(problems, fmt.Errorf("dsn: the sender %q: %w", r.To, err))
	} else if !to.IsASCII() && !r.UTF8 {
		problems = append(problems, fmt.Errorf("dsn: the sender %q needs UTF8", r.To))
	}
	sender := r.From
	if sender == "" {
		sender = "MAILER-DAEMON@" + r.ReportingMTA
	}
	if from, err = addr.Parse(sender); err != nil {
		problems = append(problems, fmt.Errorf("dsn: the author %q: %w", sender, err))
	}
	for i, rcpt := range r.Recipients {
		switch rcpt.Action {
		case Failed, Delayed, Delivered, Relayed, Expanded:
		default:
			problems = append(problems, fmt.Errorf("dsn: recipient %d has no action: %q", i, rcpt.Action))
		}
	}
	return from, to, errors.Join(problems...)
}

func (r *Report) messageID() string {
	if r.MessageID != "" {
		return strings.Map(func(c rune) rune {
			if c <= ' ' || c >= 0x7f || c == '<' || c == '>' {
				return -1
			}
			return c
		}, clip(r.MessageID, 200))
	}
	return strings.ToLower(rand.Text()) + "@" + r.ReportingMTA
}

// worst is the action that the notification as a whole is about.
func (r *Report) worst() Action {
	for _, action := range []Action{Failed, Delayed, Relayed, Delivered} {
		if slices.ContainsFunc(r.Recipients, func(rcpt Recipient) bool { return rcpt.Action == action }) {
			return action
		}
	}
	return Expanded
}

func (r *Report) subject() string {
	switch r.worst() {
	case Failed:
		return "Your message could not be delivered"
	case Delayed:
		return "Your message is delayed, and will be tried again"
	case Relayed:
		return "Your message was passed on"
	default:
		return "Your message was delivered"
	}
}

// A part of the notification.
type part struct {
	mediaType   string
	params      map[string]string
	encoding    string
	description string
	content     []byte
}

func (p part) write(w *gomessage.Writer) error {
	if p.mediaType == "" {
		return nil
	}
	var h gomessage.Header
	h.Add("Content-Transfer-Encoding", p.encoding)
	h.Add("Content-Description", p.description)
	h.SetContentType(p.mediaType, p.params)
	pw, err := w.CreatePart(h)
	if err != nil {
		return err
	}
	if _, err := io.Copy(pw, bytes.NewReader(p.content)); err != nil {
		return err
	}
	return pw.Close()
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// line makes a string fit for a header field or a line of text: valid UTF-8, one
// space for each stretch of white space and control characters, n bytes at most.
func line(s string, n int) string {
	s = strings.ToValidUTF8(clip(s, 4*n), "?")
	s = strings.Join(strings.FieldsFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f && c <= 0xa0 || c == '\u2028' || c == '\u2029' || c == '\ufeff'
	}), " ")
	return strings.TrimRight(strings.ToValidUTF8(clip(s, n), ""), " ")
}

// clip cuts a string after n bytes.
func clip(s string, n int) string { return s[:min(len(s), n)] }

// ascii puts a question mark in the place of other characters.
func ascii(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 0x80 {
			return '?'
		}
		return c
	}, s)
}
