package dsn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

const (
	maxFull   = 100 << 10 // bytes of a message that goes back in full
	maxHeader = 64 << 10  // bytes of a header that goes back
	maxLine   = 998       // bytes of a line (RFC 5322 section 2.1.1)
)

// original is what goes back of the message.
type original struct {
	part      part
	fields    message.Header
	messageID string
}

func readOriginal(msg *io.SectionReader, full, utf8Target bool) (o original, err error) {
	if msg == nil {
		return o, nil
	}
	o.fields, _, err = message.ReadHeader(bufio.NewReader(io.NewSectionReader(msg, 0, msg.Size())), maxHeader)
	if err != nil && !errors.Is(err, message.ErrHeaderTooLarge) {
		return o, err
	}
	o.messageID = messageID(o.fields.Get("Message-ID"))
	header := joinFields(o.fields)
	if full && err == nil && msg.Size() <= maxFull {
		content, err := io.ReadAll(io.NewSectionReader(msg, 0, msg.Size()))
		if err != nil {
			return o, err
		}
		if p, ok := fullPart(content, header, utf8Target); ok {
			o.part = p
			return o, nil
		}
	}
	o.part = headerPart(header, utf8Target)
	return o, nil
}

// joinFields writes the fields with the line ends that they should have.
func joinFields(h message.Header) []byte {
	var b bytes.Buffer
	for _, f := range h {
		for l := range bytes.Lines(f.Raw) {
			if len(bytes.Trim(l, " \t\r\n\x00")) == 0 {
				continue // it would end the header
			}
			for _, c := range l {
				if c != '\r' && c != '\n' && c != 0 {
					b.WriteByte(c)
				}
			}
			b.WriteString("\r\n")
		}
	}
	return b.Bytes()
}

// fullPart is a part with all of the message as it is, if it can be sent so.
func fullPart(content, header []byte, utf8Target bool) (part, bool) {
	if !isSendable(content) {
		return part{}, false
	}
	p := part{mediaType: "message/rfc822", encoding: "7bit", description: "Your message", content: content}
	if !isASCII(string(content)) {
		p.encoding = "8bit"
	}
	if !isASCII(string(header)) {
		if !utf8Target || !utf8.Valid(header) {
			return part{}, false
		}
		p.mediaType = "message/global" // RFC 6532 section 3.7
	}
	return p, true
}

// headerPart is a part with the header alone. Its text form may have any bytes,
// encoded.
func headerPart(header []byte, utf8Target bool) part {
	p := part{mediaType: "text/rfc822-headers", encoding: "7bit", description: "The header of your message", content: header}
	switch {
	case isASCII(string(header)) && isSendable(header):
	case utf8Target && utf8.Valid(header) && isSendable(header):
		p.mediaType, p.encoding = "message/global-headers", "8bit"
	default:
		p.encoding = "quoted-printable"
		if utf8.Valid(header) {
			p.params = map[string]string{"charset": "utf-8"}
		}
	}
	return p
}

// isSendable says whether content can go over SMTP as it is: lines that are not
// too long and end in CRLF.
func isSendable(content []byte) bool {
	for l := range bytes.Lines(content) {
		l, ended := bytes.CutSuffix(l, []byte("\r\n"))
		if !ended && bytes.HasSuffix(l, []byte("\n")) || len(l) > maxLine || bytes.ContainsAny(l, "\r\x00") {
			return false
		}
	}
	return true
}

// messageID takes the first message ID out of a field's value, without its
// brackets.
func messageID(value string) string {
	_, rest, ok := strings.Cut(value, "<")
	if !ok {
		rest = strings.TrimSpace(value)
	}
	id, _, _ := strings.Cut(rest, ">")
	if id == "" || len(id) > 900 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '<' }) {
		return ""
	}
	return id
}
