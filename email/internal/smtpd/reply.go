package smtpd

import (
	"fmt"
	"strconv"
	"strings"
)

// Reply is an answer to a client (RFC 5321 section 4.2). As an error it refuses
// something.
type Reply struct {
	// Code is of three digits. 421 always ends the connection.
	Code int
	// Enhanced is the enhanced status code (RFC 3463); zero means that of
	// Code's class, x.0.0.
	Enhanced [3]int
	// Text is for people. Each line of it becomes one of the reply; characters
	// other than printable ASCII become "?".
	Text string
	// Close ends the connection after this reply.
	Close bool

	plain bool // no enhanced status code
}

// Error is the reply on one line.
func (r *Reply) Error() string {
	if e := r.enhanced(); e[0] != 0 {
		return fmt.Sprintf("%d %d.%d.%d %q", r.Code, e[0], e[1], e[2], r.Text)
	}
	return fmt.Sprintf("%d %q", r.Code, r.Text)
}

// Temporary says whether the client may try again.
func (r *Reply) Temporary() bool { return r.Code/100 == 4 }

func newReply(code, class, subject, detail int, text string) *Reply {
	return &Reply{Code: code, Enhanced: [3]int{class, subject, detail}, Text: text}
}

// closing is the reply with the end of the connection behind it.
func (r *Reply) closing() *Reply {
	r.Close = true
	return r
}

func (r *Reply) ends() bool { return r.Close || r.Code == 421 }

func (r *Reply) enhanced() [3]int {
	class := r.Code / 100
	if r.plain || class == 3 {
		return [3]int{}
	}
	if r.Enhanced == [3]int{} {
		return [3]int{class, 0, 0}
	}
	return r.Enhanced
}

// maxReplyText keeps reply lines below the 512 octets of RFC 5321 section
// 4.5.3.1.5, with code and line end. A SASL challenge is one line, however long
// (RFC 4954 section 4).
const maxReplyText = 480

// appendTo writes the reply as it goes over the wire.
func (r *Reply) appendTo(b []byte) []byte {
	enhanced := r.enhanced()
	text := r.Text
	for more := true; more; {
		var line string
		line, text, more = strings.Cut(text, "\n")
		if len(line) > maxReplyText && r.Code != 334 {
			line, text, more = line[:maxReplyText], line[maxReplyText:]+join(more, text), true
		}
		b = strconv.AppendInt(b, int64(r.Code), 10)
		if more {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if enhanced[0] != 0 {
			b = strconv.AppendInt(b, int64(enhanced[0]), 10)
			b = append(b, '.')
			b = strconv.AppendInt(b, int64(enhanced[1]), 10)
			b = append(b, '.')
			b = strconv.AppendInt(b, int64(enhanced[2]), 10)
			b = append(b, ' ')
		}
		b = appendPrintable(b, strings.TrimSuffix(line, "\r"))
		b = append(b, '\r', '\n')
	}
	return b
}

// join is the rest of a text behind a line that was too long.
func join(more bool, text string) string {
	if more {
		return "\n" + text
	}
	return ""
}

func appendPrintable(b []byte, s string) []byte {
	for _, r := range s {
		if r < ' ' || r > '~' {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return b
}
