package message

import (
	"io"
	"strings"
)

// Part is a part of a message, or the message itself. It is valid until the
// visitor returns.
type Part struct {
	// Header is the part's header section.
	Header Header
	// MediaType is its type in lower case, as "text/plain", with the default of
	// RFC 2045 section 5.2 where there is none or one that cannot be read.
	MediaType string
	// Params are the parameters of the media type, their names in lower case,
	// decoded by RFC 2231 and RFC 2047.
	Params map[string]string
	// Disposition is "inline", "attachment" or another in lower case, or "".
	Disposition string
	// Filename is the name that most clients show, without folders, or "".
	Filename string
	// Names are all that any client may take for the file's name, Filename first.
	// They differ where one is plainer for older clients, or someone means to
	// deceive.
	Names []string
	// Defects tells what is wrong with the part's header, in a few words each.
	Defects []string

	// Depth is 0 for the message, 1 for its parts, and so on.
	Depth int
	// Index numbers the parts in the order of the walk, from 0.
	Index int
	// Offset and Size are where the content is, not decoded, in the message
	// around it: that is the one walked, but for what is in a message/rfc822 that
	// has a transfer encoding. Size is 0 where the content is parts that follow.
	Offset, Size int64

	encoding encoding
	leaf     bool
	message  *io.SectionReader // what Offset counts in
}

func newPart(h Header, mediaType string) *Part {
	p := &Part{Header: h, MediaType: mediaType}
	p.once("Content-Type", "Content-Transfer-Encoding", "Content-Disposition")
	if v := h.Get("Content-Type"); v != "" {
		t, params, ok := parseValue(v)
		p.Params = params
		if major, minor, slash := strings.Cut(t, "/"); slash && isToken(major) && isToken(minor) {
			p.MediaType = t
		} else {
			p.Defects = append(p.Defects, "unreadable Content-Type")
		}
		if !ok {
			p.Defects = append(p.Defects, "repeated parameter of Content-Type")
		}
	}
	if v := h.Get("Content-Disposition"); v != "" {
		var ok bool
		if p.Disposition, _, ok = parseValue(v); !ok {
			p.Defects = append(p.Defects, "repeated parameter of Content-Disposition")
		}
	}
	for _, f := range h.All("Content-Disposition") {
		p.addNames(f.Value(), "filename")
	}
	for _, f := range h.All("Content-Type") {
		p.addNames(f.Value(), "name")
	}
	if len(p.Names) > 0 {
		p.Filename = p.Names[0]
	}
	p.encoding = parseEncoding(h.Get("Content-Transfer-Encoding"))
	return p
}

// once notes fields that are there more than once.
func (p *Part) once(names ...string) {
	for _, name := range names {
		if len(p.Header.All(name)) > 1 {
			p.Defects = append(p.Defects, "several "+name)
		}
	}
}

// multipart reports whether the part is made of others. Their transfer encoding
// is ignored, as RFC 2045 section 6.4 forbids one.
func (p *Part) multipart() bool { return strings.HasPrefix(p.MediaType, "multipart/") }

// IsMessage reports whether the part is a message, whose parts follow.
func (p *Part) IsMessage() bool {
	return p.MediaType == "message/rfc822" || p.MediaType == "message/global"
}

// IsLeaf reports whether the part has content, rather than parts that follow.
func (p *Part) IsLeaf() bool { return p.leaf }

// Encoding is the transfer encoding that content is decoded from: "base64",
// "quoted-printable", "uuencode", or "" for none.
func (p *Part) Encoding() string { return p.encoding.String() }

// Raw is the content as it was sent.
func (p *Part) Raw() *io.SectionReader { return io.NewSectionReader(p.message, p.Offset, p.Size) }

// Open returns a reader of the decoded content, from its start. What cannot be
// decoded is passed over or passed on, as mail clients do, and is no error.
func (p *Part) Open() io.Reader {
	if p.encoding == identity {
		return p.Raw()
	}
	return newDecodeReader(p.Raw(), p.encoding.decoder())
}

// Section returns the decoded content for access anywhere, which zip files need.
// It reads the content once to learn its size, and keeps none of it.
func (p *Part) Section() (*io.SectionReader, error) {
	if p.encoding == identity {
		return p.Raw(), nil
	}
	s, err := newSeekable(p.Raw(), p.encoding)
	if err != nil {
		return nil, err
	}
	return s.section(), nil
}
