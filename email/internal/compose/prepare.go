package compose

import (
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// Limits that no message comes near which was meant to be one. The header section
// has to fit what mail servers take.
const (
	maxRecipients  = 1000
	maxHeader      = 60 << 10
	maxName        = 256 // bytes of a display name or file name
	maxSubject     = 2000
	maxText        = 10 << 20 // bytes each of text and HTML
	maxAttachments = 500
	maxFields      = 100
	maxFieldName   = 60
	maxFieldValue  = 8 << 10
	maxWord        = 900 // of a field that can only be folded at spaces; a line has 998 at most
)

// Prepare checks a message. The error joins all mistakes, each a [conf.FieldError]
// whose path is in the JSON form, such as to[1].
func Prepare(m *Message, o Options) (*Prepared, error) {
	o.setDefaults()
	check := conf.NewChecker()
	b := &builder{m: m, o: &o}
	b.addresses(check)
	b.texts(check)
	b.own(check)
	b.attachments(check)
	if err := check.Err(); err != nil {
		return nil, err
	}
	return b.build()
}

// builder has what was read of a message.
type builder struct {
	m *Message
	o *Options

	from            mailbox
	to, cc, replyTo []mailbox
	messageID       string
	fields          []field // own ones
	files           []file

	prepared Prepared
}

// mailbox is an address with a name.
type mailbox struct {
	name string
	addr addr.Address
}

// field is one of the header section.
type field struct{ name, value string }

// file is an attachment with what its header says.
type file struct {
	*Attachment
	mediaType string
	params    map[string]string
}

func (b *builder) addresses(check *conf.Checker) {
	var err error
	at := check.Field("from")
	switch b.from, err = parseMailbox(b.m.From); {
	case b.m.From == "":
		at.Required("")
	case err != nil:
		at.Errorf("%v", err)
	}
	b.prepared.Sender = b.from.addr
	if b.m.Sender != "" {
		if b.prepared.Sender, err = addr.Parse(b.m.Sender); err != nil {
			check.Field("sender").Errorf("%.300q is not an address: %v", b.m.Sender, err)
		}
	}
	b.replyTo = b.list(check.Field("replyTo"), b.m.ReplyTo)
	b.to = b.list(check.Field("to"), b.m.To)
	b.cc = b.list(check.Field("cc"), b.m.Cc)
	bcc := b.list(check.Field("bcc"), b.m.Bcc)

	known := make(map[addr.Address]bool)
	for _, m := range slices.Concat(b.to, b.cc, bcc) {
		if !known[m.addr] {
			known[m.addr] = true
			b.prepared.Recipients = append(b.prepared.Recipients, m.addr)
		}
	}
	switch n := len(b.m.To) + len(b.m.Cc) + len(b.m.Bcc); {
	case n == 0:
		check.Field("to").Errorf("a recipient is needed, here or in cc or bcc")
	case n > maxRecipients:
		check.Errorf("there are %d recipients, and %d at most; send several", n, maxRecipients)
	}
	for _, m := range slices.Concat([]mailbox{b.from, {addr: b.prepared.Sender}}, b.replyTo, b.to, b.cc, bcc) {
		b.prepared.UTF8 = b.prepared.UTF8 || !m.addr.IsASCII()
	}
}

func (b *builder) list(check *conf.Checker, list []string) []mailbox {
	if len(list) > maxRecipients {
		check.Errorf("has %d addresses, and %d at most are possible", len(list), maxRecipients)
		return nil
	}
	var boxes []mailbox
	for i, s := range list {
		m, err := parseMailbox(s)
		if err != nil {
			check.Index(i).Errorf("%v", err)
			continue
		}
		boxes = append(boxes, m)
	}
	return boxes
}

func parseMailbox(s string) (mailbox, error) {
	if err := checkLine(s, 2*maxName+300); err != nil {
		return mailbox{}, err
	}
	list, err := message.Addresses(s)
	if err != nil {
		return mailbox{}, fmt.Errorf("%q is not an address, nor a name and an address in angle brackets", s)
	}
	if len(list) != 1 {
		return mailbox{}, fmt.Errorf("%q has %d addresses; write each as one of the list", s, len(list))
	}
	m := mailbox{name: list[0].Name}
	if m.addr, err = addr.Parse(addr.Address{Local: list[0].Local, Domain: list[0].Domain}.String()); err != nil {
		return mailbox{}, fmt.Errorf("%q: %v", s, err)
	}
	// The name again: encoded words may have been in it.
	if err := checkLine(m.name, maxName); err != nil {
		return mailbox{}, fmt.Errorf("the name in %q: %v", s, err)
	}
	return m, nil
}

// checkLine refuses what could end a line, for whoever reads it.
func checkLine(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("is %d bytes long, and %d at most are possible", len(s), limit)
	}
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	for i, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return fmt.Errorf("has a line break or control character, %q at byte %d", r, i)
		}
	}
	return nil
}

func (b *builder) texts(check *conf.Checker) {
	if err := checkLine(b.m.Subject, maxSubject); err != nil {
		check.Field("subject").Errorf("%v", err)
	}
	checkText(check.Field("text"), b.m.Text)
	checkText(check.Field("html"), b.m.HTML)
	if year := b.m.Date.Year(); !b.m.Date.IsZero() && (year < 1900 || year > 9999) {
		check.Field("date").Errorf("the year %d cannot be written (RFC 5322 section 3.3)", year)
	}
	b.messageID = strings.TrimSuffix(strings.TrimPrefix(b.m.MessageID, "<"), ">")
	if b.m.MessageID != "" && !validMessageID(b.messageID) {
		check.Field("messageId").Errorf("%.300q is not a message identifier, as in id@example.com (RFC 5322 section 3.6.4)", b.m.MessageID)
	}
}

func checkText(check *conf.Checker, s string) {
	switch {
	case len(s) > maxText:
		check.Errorf("is %d bytes long, and %d at most are possible; attach it as a file", len(s), maxText)
	case !utf8.ValidString(s):
		check.Errorf("is not valid UTF-8")
	case strings.ContainsRune(s, 0):
		check.Errorf("has a NUL character")
	}
}

func validMessageID(s string) bool {
	left, right, ok := strings.Cut(s, "@")
	return ok && left != "" && right != "" && len(s) <= 250 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`<>()[]\,;:"`, r)
	}) && !strings.Contains(right, "@")
}

// own reads the fields of the caller.
func (b *builder) own(check *conf.Checker) {
	at := check.Field("headers")
	if len(b.m.Headers) > maxFields {
		at.Errorf("has %d fields, and %d at most are possible", len(b.m.Headers), maxFields)
		return
	}
	first := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(b.m.Headers)) {
		at, value := at.Key(name), strings.Join(strings.FieldsFunc(b.m.Headers[name], func(r rune) bool { return r == ' ' || r == '\t' }), " ")
		lower := strings.ToLower(name)
		switch err := checkLine(strings.ReplaceAll(b.m.Headers[name], "\t", " "), maxFieldValue); {
		case !validFieldName(name):
			at.Errorf("is not the name of a field: that takes 1 to %d characters of ASCII without spaces and colons", maxFieldName)
		case reserved(lower):
			at.Errorf("is not for the caller to write")
		case first[lower] != "":
			at.Errorf("is there twice, also as %q", first[lower])
		case err != nil:
			at.Errorf("%v", err)
		case isASCII(value) && longestWord(value) > maxWord:
			at.Errorf("has %d characters without a space, and %d at most are possible", longestWord(value), maxWord)
		default:
			first[lower] = name
			if !isASCII(value) {
				value = encodeWords(value)
			}
			b.fields = append(b.fields, field{name, value})
		}
	}
}

func validFieldName(s string) bool {
	return s != "" && len(s) <= maxFieldName && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' })
}

// reserved tells which fields are this package's, or of servers on the way.
func reserved(name string) bool {
	switch name {
	case "from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version",
		"return-path", "received", "received-spf", "delivered-to", "authentication-results", "dkim-signature":
		return true
	}
	return strings.HasPrefix(name, "content-") || strings.HasPrefix(name, "resent-") || strings.HasPrefix(name, "arc-")
}

func longestWord(s string) (longest int) {
	for word := range strings.SplitSeq(s, " ") {
		longest = max(longest, len(word))
	}
	return longest
}

func (b *builder) attachments(check *conf.Checker) {
	at := check.Field("attachments")
	if len(b.m.Attachments) > maxAttachments {
		at.Errorf("has %d files, and %d at most are possible", len(b.m.Attachments), maxAttachments)
		return
	}
	ids := make(map[string]int)
	var size int64
	for i := range b.m.Attachments {
		at, a := at.Index(i), &b.m.Attachments[i]
		f := file{Attachment: a}
		if err := checkLine(a.Filename, maxName); err != nil {
			at.Field("filename").Errorf("%v", err)
		}
		if err := f.readType(); err != nil {
			at.Field("contentType").Errorf("%v", err)
		}
		if a.ContentID != "" {
			if !validContentID(a.ContentID) {
				at.Field("contentId").Errorf("%.300q has characters other than ASCII, spaces, or brackets, or is too long", a.ContentID)
			}
			at.Field("contentId").Unique(ids, a.ContentID, "attachments", i)
		}
		if a.Content != nil && a.Open != nil {
			at.Errorf("has Content and Open; one is needed")
		}
		size += int64(len(a.Content)) / 3 * 4
		b.files = append(b.files, f)
	}
	if size > b.o.MaxSize {
		at.Errorf("take up %d bytes in a message, which may have %d", size, b.o.MaxSize)
	}
}

func validContentID(s string) bool {
	return len(s) <= 250 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`<>()[]\,;:"`, r) })
}

func (f *file) readType() (err error) {
	if f.ContentType == "" {
		// Without parameters: nobody knows the charset.
		f.mediaType, _, err = mime.ParseMediaType(mime.TypeByExtension(path.Ext(f.Filename)))
		if err != nil || !usable(f.mediaType) {
			f.mediaType = "application/octet-stream"
		}
		return nil
	}
	if err := checkLine(f.ContentType, 500); err != nil {
		return err
	}
	f.mediaType, f.params, err = mime.ParseMediaType(f.ContentType)
	switch {
	case err != nil || !strings.Contains(f.mediaType, "/"):
		return fmt.Errorf("%q is not a media type, as in application/pdf", f.ContentType)
	case !usable(f.mediaType):
		return fmt.Errorf("%q is no type for a file", f.ContentType)
	}
	for name, value := range f.params {
		if err := checkLine(value, maxName); err != nil { // it may have come encoded
			return fmt.Errorf("the parameter %q %v", name, err)
		}
	}
	return nil
}

// usable leaves out what has a structure of its own, but for whole messages.
func usable(mediaType string) bool {
	return mediaType == "message/rfc822" || !strings.HasPrefix(mediaType, "multipart/") && !strings.HasPrefix(mediaType, "message/")
}

// random returns text without meaning, of 120 bits.
func random(r io.Reader) (string, error) {
	raw := make([]byte, 15)
	if _, err := io.ReadFull(r, raw); err != nil {
		return "", fmt.Errorf("no random numbers: %w", err)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(raw)), nil
}
