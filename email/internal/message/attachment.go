package message

import (
	"io"
	"strings"
)

// IsAttachment reports whether people would call the part an attachment: a
// message within another, or a part with content that
//   - says so in Content-Disposition, or
//   - has a file name or is of a type that no client shows as text (not text/* or
//     message/*), and is neither an image shown within the text (with a
//     Content-ID) nor a signature (RFC 3156, RFC 8551).
func (p *Part) IsAttachment() bool {
	if !p.leaf {
		return p.IsMessage() && p.Depth > 0
	}
	if p.Disposition == "attachment" {
		return true
	}
	switch p.MediaType {
	case "application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature":
		return false
	}
	if p.Disposition != "" && p.Disposition != "inline" && p.Depth > 0 {
		return true // RFC 2183 section 2.8: unknown ones are attachments
	}
	if p.Header.Has("Content-ID") && strings.HasPrefix(p.MediaType, "image/") {
		return false
	}
	if p.Filename != "" {
		return true
	}
	major, _, _ := strings.Cut(p.MediaType, "/")
	return major != "text" && major != "message"
}

// HasAttachments reports whether a message has a part that is one, see
// [Part.IsAttachment]. Errors are those of [Walk].
func HasAttachments(msg *io.SectionReader, limits Limits) (bool, error) {
	found := false
	err := Walk(msg, limits, func(p *Part) error {
		if p.IsAttachment() {
			found = true
			return ErrStop
		}
		return nil
	})
	return found, err
}
