package compose

import (
	"fmt"
	"strings"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// part is a part of a message, or the whole.
type part struct {
	fields []field
	// Either it has parts,
	boundary string
	parts    []*part
	// or text,
	text   string
	base64 bool
	// or a file.
	file  *file
	index int // of the file
}

const dateLayout = "Mon, 02 Jan 2006 15:04:05 -0700"

func (b *builder) build() (*Prepared, error) {
	root, err := b.body()
	if err != nil {
		return nil, err
	}
	if b.messageID == "" {
		id, err := random(b.o.Rand)
		if err != nil {
			return nil, err
		}
		b.messageID = id + "@" + strings.Trim(b.from.addr.Domain, "[]")
		if b.from.addr.IsLiteral() && strings.Contains(b.messageID, ":") { // IPv6
			b.messageID = id + "@localhost"
		}
	}
	date := b.m.Date
	if date.IsZero() {
		date = b.o.Now().UTC()
	}
	fields := []field{{"Date", date.Format(dateLayout)}, {"From", addressList([]mailbox{b.from})}}
	for _, f := range []struct {
		name string
		list []mailbox
	}{{"Reply-To", b.replyTo}, {"To", b.to}, {"Cc", b.cc}} {
		if len(f.list) > 0 {
			fields = append(fields, field{f.name, addressList(f.list)})
		}
	}
	if len(b.to)+len(b.cc) == 0 {
		// A group without members, as a message without recipients looks like spam.
		fields = append(fields, field{"To", "undisclosed-recipients:;"})
	}
	if b.m.Subject != "" {
		fields = append(fields, field{"Subject", unstructured(b.m.Subject)})
	}
	fields = append(fields, field{"Message-ID", "<" + b.messageID + ">"})
	fields = append(fields, b.fields...)
	fields = append(fields, field{"MIME-Version", "1.0"})
	root.fields = append(fields, root.fields...)

	size := 0
	for _, f := range root.fields {
		size += len(fold(f))
	}
	if size > maxHeader {
		return nil, &conf.FieldError{Msg: fmt.Sprintf("the header section is %d bytes long, and %d at most are possible; with many recipients, use bcc or send several", size, maxHeader)}
	}
	b.prepared.MessageID, b.prepared.root, b.prepared.maxSize = b.messageID, root, b.o.MaxSize
	return &b.prepared, nil
}

// body nests what there is, from inside: text and HTML are alternatives, what HTML
// shows is related to it, and other files are beside that.
func (b *builder) body() (*part, error) {
	var related, mixed []*part
	for i := range b.files {
		p := filePart(&b.files[i], i)
		if b.files[i].ContentID != "" && b.m.HTML != "" {
			related = append(related, p)
		} else {
			mixed = append(mixed, p)
		}
	}
	text := b.m.Text
	if text == "" && b.m.HTML != "" {
		text = Text(b.m.HTML)
	}
	var root *part
	var err error
	switch {
	case b.m.HTML == "" && text == "" && len(mixed) > 0: // files only
	case b.m.HTML == "":
		root = textPart("text/plain", text)
	case text == "": // HTML without a word, as a picture is
		root = textPart("text/html", b.m.HTML)
	default:
		if root, err = b.multipart("alternative", nil, textPart("text/plain", text), textPart("text/html", b.m.HTML)); err != nil {
			return nil, err
		}
	}
	if len(related) > 0 {
		// RFC 2387 section 3.1: the type of the part that is shown.
		kind, _, _ := strings.Cut(root.fields[0].value, ";")
		if root, err = b.multipart("related", map[string]string{"type": kind}, append([]*part{root}, related...)...); err != nil {
			return nil, err
		}
	}
	if len(mixed) > 0 {
		if root != nil {
			mixed = append([]*part{root}, mixed...)
		}
		return b.multipart("mixed", nil, mixed...)
	}
	return root, nil
}

func (b *builder) multipart(kind string, params map[string]string, parts ...*part) (*part, error) {
	id, err := random(b.o.Rand)
	if err != nil {
		return nil, err
	}
	// "=_" comes up neither in base64 nor in quoted-printable.
	p := &part{boundary: "=_" + id, parts: parts}
	all := map[string]string{"boundary": p.boundary}
	for name, value := range params {
		all[name] = value
	}
	p.fields = []field{{"Content-Type", withParams("multipart/"+kind, all)}}
	for _, inner := range parts {
		if inner.isEightBit() { // RFC 2045 section 6.4
			p.fields = append(p.fields, field{"Content-Transfer-Encoding", "8bit"})
			break
		}
	}
	return p, nil
}

// isEightBit reports whether a part may have bytes beyond ASCII.
func (p *part) isEightBit() bool {
	last := p.fields[len(p.fields)-1]
	return last.name == "Content-Transfer-Encoding" && last.value == "8bit"
}

func textPart(mediaType, text string) *part {
	p := &part{text: text}
	quoted := 0
	for i := range len(text) {
		if c := text[i]; c >= 0x7f || c == '=' {
			quoted += 2
		}
	}
	encoding := "quoted-printable"
	if quoted > len(text)/2 { // base64 is shorter, or people could not read it anyway
		p.base64, encoding = true, "base64"
	}
	p.fields = []field{
		{"Content-Type", withParams(mediaType, map[string]string{"charset": "utf-8"})},
		{"Content-Transfer-Encoding", encoding},
	}
	return p
}

func filePart(f *file, index int) *part {
	disposition := "attachment"
	if f.ContentID != "" {
		disposition = "inline"
	}
	var params map[string]string
	if f.Filename != "" {
		params = map[string]string{"filename": f.Filename}
	}
	p := &part{file: f, index: index, fields: []field{
		{"Content-Type", withParams(f.mediaType, f.params)},
		{"Content-Disposition", withParams(disposition, params)},
	}}
	if f.ContentID != "" {
		p.fields = append(p.fields, field{"Content-ID", "<" + f.ContentID + ">"})
	}
	encoding := "base64"
	if f.mediaType == "message/rfc822" { // which may not be encoded (RFC 2046 section 5.2.1)
		encoding = "8bit"
	}
	p.fields = append(p.fields, field{"Content-Transfer-Encoding", encoding})
	return p
}
