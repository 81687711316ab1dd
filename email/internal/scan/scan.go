package scan

import (
	"context"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// Message is what a scanner is shown.
type Message struct {
	// ID is the server's name for the message (rspamd's Queue-Id, macro i of
	// milters).
	ID string
	// ClientIP and ClientPort are those of the client. They may be unset.
	ClientIP   netip.Addr
	ClientPort uint16
	// ClientName is the client's name by its address, verified, or "".
	ClientName string
	// Helo is what it has introduced itself as.
	Helo string
	// MailFrom is the envelope sender without brackets; "" is that of bounces.
	MailFrom string
	// Rcpts are the envelope recipients without brackets.
	Rcpts []string
	// User is who has signed in, or "".
	User string
	// Hostname is the name of this server.
	Hostname string
	// AuthResults is the value of our Authentication-Results (RFC 8601), or "".
	AuthResults string
	// Received is when the message came.
	Received time.Time
	// Header is the header section of Data.
	Header message.Header
	// Data is the message as it will be delivered, header and body, with CRLF line
	// endings. It begins with the server's own Received and Authentication-Results.
	Data *io.SectionReader
}

// Kind is what a scanner looks for.
type Kind string

// Values of [Kind], those of the configuration.
const (
	Spam       Kind = "spam"
	Virus      Kind = "virus"
	Attachment Kind = "attachment"
)

// Action is what a backend would do with a message.
type Action int

const (
	// NoAction lets it pass.
	NoAction Action = iota
	// AddHeader marks it with headers.
	AddHeader
	// RewriteSubject marks it in its subject.
	RewriteSubject
	// Greylist puts it off if it is the first time.
	Greylist
	// SoftReject puts it off (4xx).
	SoftReject
	// Quarantine holds it back.
	Quarantine
	// Discard accepts it and throws it away.
	Discard
	// Reject refuses it (5xx).
	Reject
)

func (a Action) String() string {
	switch a {
	case AddHeader:
		return "add header"
	case RewriteSubject:
		return "rewrite subject"
	case Greylist:
		return "greylist"
	case SoftReject:
		return "soft reject"
	case Quarantine:
		return "quarantine"
	case Discard:
		return "discard"
	case Reject:
		return "reject"
	}
	return "no action"
}

// Verdict is what a scanner says of a message. All its texts are valid UTF-8
// without control characters, whoever made them.
type Verdict struct {
	// Kind is what was looked for.
	Kind Kind
	// Bad reports that it was found: the score has reached the threshold, a
	// signature or a rule has matched. A wish to put the message off is not.
	Bad bool
	// Score is how much of spam it has, and Threshold where spam begins. Both are
	// 0 where there is no such thing.
	Score, Threshold float64
	// Name is what was found, in one word, as "Eicar-Test-Signature", or "".
	Name string
	// Details says more: the rules that matched with their scores, the names of
	// files, what could not be looked into.
	Details []string
	// Action is what the backend would do. The built-in scanners leave it at
	// NoAction if nothing is bad, and say Reject else, but for spam: AddHeader.
	Action Action
	// Reply is the text for the client that the backend wants, or "". Code and
	// Enhanced are the reply code and the enhanced status code (RFC 3463) in front
	// of it, or 0.
	Reply    string
	Code     int
	Enhanced [3]int
	// Headers are fields that the backend wants to have put in front.
	Headers []Field
	// Changes are fields that it wants to have changed or removed.
	Changes []Change
}

// Field is a header field. Value may be folded, each line end as CRLF and white
// space.
type Field struct{ Name, Value string }

// Change gives the field that is the Index-th of its name, counted from 1 in the
// header as it was scanned, a new value, or takes it away with "". -1 is the last of
// the name, and 0 are all. Where there is no such field, one with the value is added.
type Change struct {
	Field
	Index int
}

// Scanner looks at a message. Scan may be called at once from several goroutines,
// and leaves nothing behind that would have to be closed.
type Scanner interface {
	// Scan returns an error if the message could not be looked at: for backends
	// a [*BackendError].
	Scan(context.Context, Message) (Verdict, error)
}

// walkLimits has room for the server's own fields in front of a header that is as
// long as the server lets in.
func walkLimits() message.Limits { return message.Limits{HeaderBytes: 128 << 10} }

const (
	maxDetails   = 100 // of a verdict
	maxDetailLen = 300
)

func (v *Verdict) detail(s string) {
	if len(v.Details) < maxDetails {
		v.Details = append(v.Details, line(s, maxDetailLen))
	}
}

// line makes what a stranger said one clean line of at most n bytes.
func line(s string, n int) string {
	if len(s) > 4*n {
		s = strings.ToValidUTF8(s[:4*n], "")
	}
	s = strings.TrimSpace(message.DecodeHeader(s))
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}

// field checks a header field that a backend wants to add.
func field(name, value string) (Field, bool) {
	if len(name) == 0 || len(name) > 100 || len(value) > 16<<10 {
		return Field{}, false
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f || name[i] == ':' {
			return Field{}, false
		}
	}
	var b strings.Builder
	for i, l := range strings.Split(strings.ReplaceAll(value, "\r\n", "\n"), "\n") {
		l = strings.Map(func(r rune) rune {
			if r < ' ' && r != '\t' || r == 0x7f {
				return -1
			}
			return r
		}, l)
		l = strings.Trim(strings.ToValidUTF8(l, "\uFFFD"), " \t")
		if l == "" {
			continue
		}
		if i > 0 && b.Len() > 0 {
			b.WriteString("\r\n\t")
		}
		b.WriteString(l)
	}
	return Field{name, b.String()}, true
}
