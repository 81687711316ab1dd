package scan

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// AttachmentOptions say which attachments are not let in.
type AttachmentOptions struct {
	// Blocked are endings of file names, as ".exe". They hold for names in any
	// case, for files in archives, and for programs, scripts and shortcuts under
	// another name, by their content.
	Blocked []string
	// MaxSize limits an attachment, decoded, in bytes. 0 means no limit.
	MaxSize int64
	// Limits bounds what is done with archives. Archives beyond are not let in.
	Limits ArchiveLimits
}

// attachmentScanner goes by names, types and sizes.
type attachmentScanner struct {
	blocked []string
	maxSize int64
	limits  ArchiveLimits
}

// NewAttachments returns the built-in scanner for attachments. File names that
// change the direction of text, so that they look like others, are bad whatever is
// blocked. Archives that cannot be looked into, as encrypted ones, are reported in
// the details only.
func NewAttachments(o AttachmentOptions) Scanner {
	s := &attachmentScanner{maxSize: o.MaxSize, limits: o.Limits}
	for _, ext := range o.Blocked {
		s.blocked = append(s.blocked, strings.ToLower(ext))
	}
	return s
}

func (s *attachmentScanner) Scan(ctx context.Context, m Message) (Verdict, error) {
	v := Verdict{Kind: Attachment}
	err := eachFile(ctx, m.Data, s.limits, func(f file) error {
		s.judgeNames(&v, f)
		if f.archived || !strings.HasPrefix(f.part.MediaType, "text/") || f.part.IsAttachment() {
			s.judgeType(&v, f)
		}
		switch {
		case f.encrypted:
			v.detail("encrypted: " + f.path)
		case f.problem != "":
			v.detail(f.problem + ": " + f.path)
		}
		if f.archived || s.maxSize == 0 || !f.part.IsAttachment() {
			return nil
		}
		return s.judgeSize(ctx, &v, f)
	})
	return v, v.limited(err)
}

func (s *attachmentScanner) judgeNames(v *Verdict, f file) {
	for _, raw := range f.names {
		names, deceptive := plainNames(raw)
		if deceptive {
			v.find("Deceptive-Name", fmt.Sprintf("%+q", raw))
		}
		if slices.ContainsFunc(names, s.isBlocked) {
			v.find("Blocked-Extension", f.path)
			return
		}
	}
}

func (s *attachmentScanner) isBlocked(name string) bool {
	return slices.ContainsFunc(s.blocked, func(ext string) bool { return strings.HasSuffix(name, ext) })
}

func (s *attachmentScanner) judgeType(v *Verdict, f file) {
	for _, ext := range f.typ.extensions() {
		if slices.Contains(s.blocked, ext) {
			v.find("Blocked-Type", fmt.Sprintf("%s, by its content a %s", f.path, f.typ))
			return
		}
	}
}

func (s *attachmentScanner) judgeSize(ctx context.Context, v *Verdict, f file) error {
	if f.part.Size <= s.maxSize { // decoded it is no larger
		return nil
	}
	content := &contextReader{ctx, f.part.Open()}
	n, err := io.Copy(io.Discard, io.LimitReader(content, s.maxSize+1))
	if n > s.maxSize {
		v.find("Too-Large", fmt.Sprintf("%s has more than %d bytes", f.path, s.maxSize))
	}
	return err
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// plainNames are what someone may make of a file name: without marks that cannot
// be seen, full stops and spaces at the end, in small letters, and cut off at a
// colon, as Windows does with streams. A name with an override of the direction
// of text is deceptive: "annexe.pdf" may be what people see of one in .exe.
func plainNames(name string) (plain []string, deceptive bool) {
	s := strings.Map(func(r rune) rune {
		switch {
		case r == '\u202d' || r == '\u202e':
			deceptive = true
			return -1
		case r >= '\u200b' && r <= '\u200f', r >= '\u202a' && r <= '\u202c', r >= '\u2060' && r <= '\u2069',
			r == '\u061c', r == '\ufeff', r == '\u00ad', r < ' ', r == 0x7f:
			return -1
		}
		return r
	}, name)
	s = strings.ToLower(norm.NFKC.String(s))
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	plain = []string{strings.TrimRight(s, ". ")}
	if before, _, found := strings.Cut(s, ":"); found {
		plain = append(plain, strings.TrimRight(before, ". "))
	}
	return plain, deceptive
}

// cutSuffixFold is strings.CutSuffix without regard to case.
func cutSuffixFold(s, suffix string) (string, bool) {
	if n := len(s) - len(suffix); n >= 0 && strings.EqualFold(s[n:], suffix) {
		return s[:n], true
	}
	return s, false
}
