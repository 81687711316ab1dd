package scan

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// ArchiveLimits bounds what is done with the archives of one message. 0 means the
// default.
type ArchiveLimits struct {
	// Depth is how deep archives may be nested. Default 5.
	Depth int
	// Files is how many files there may be in all archives. Default 10,000.
	Files int
	// Bytes is how much may be unpacked. Of most files it is the first bytes only.
	// Default 256 MiB.
	Bytes int64
	// Ratio is how many times its size an archive may say that it unpacks to, if
	// that is more than 100 MiB. Default 200.
	Ratio int64
	// Memory is for ZIP files within archives, which cannot be read in one go.
	// Default 16 MiB.
	Memory int64
}

func (l ArchiveLimits) withDefaults() ArchiveLimits {
	if l.Depth == 0 {
		l.Depth = 5
	}
	if l.Files == 0 {
		l.Files = 10_000
	}
	if l.Bytes == 0 {
		l.Bytes = 256 << 20
	}
	if l.Ratio == 0 {
		l.Ratio = 200
	}
	if l.Memory == 0 {
		l.Memory = 16 << 20
	}
	return l
}

// smallUnpacked is what may be unpacked at any ratio.
const smallUnpacked = 100 << 20

// limitError says which limit of archives a message breaks.
type limitError struct{ what, path string }

func (e *limitError) Error() string { return e.what + ": " + e.path }

// file is an attachment or a file of an archive in one.
type file struct {
	part  *message.Part
	names []string // all that someone may take for its name
	path  string   // with the archives around it, for reports
	head  []byte   // its first bytes, at most headSize
	whole bool     // head is all of it
	typ   fileType

	encrypted bool   // head is unknown
	problem   string // why the rest of it could not be looked into, or ""
	archived  bool
}

// files calls visit for each part of a message, and for each file in those that
// are archives.
type files struct {
	ctx    context.Context
	limits ArchiveLimits
	visit  func(file) error

	part     *message.Part
	count    int
	unpacked int64
	memory   int64
}

func eachFile(ctx context.Context, msg *io.SectionReader, limits ArchiveLimits, visit func(file) error) error {
	src := &readErrors{r: msg}
	a := &files{ctx: ctx, limits: limits.withDefaults(), visit: visit}
	err := message.Walk(io.NewSectionReader(src, 0, msg.Size()), walkLimits(), func(p *message.Part) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		a.part = p
		f := file{part: p, names: p.Names, path: p.Filename}
		if f.path == "" {
			f.path = fmt.Sprintf("part %d", p.Index)
		}
		if !p.IsLeaf() {
			return visit(f)
		}
		return a.look(f, p.Open(), p.Section, 0)
	})
	if src.err != nil {
		// It has made an archive look damaged, at best.
		return fmt.Errorf("reading the message: %w", src.err)
	}
	return err
}

// readErrors remembers an error of reading the message.
type readErrors struct {
	r   io.ReaderAt
	err error
}

func (r *readErrors) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// look reads the first bytes of a file and, if it is an archive, what is in it.
func (a *files) look(f file, r io.Reader, section func() (*io.SectionReader, error), depth int) error {
	buffered := bufio.NewReaderSize(r, headSize)
	head, err := buffered.Peek(headSize)
	if err != nil && err != io.EOF {
		if fatal(err) {
			return err
		}
		f.problem = "damaged"
	}
	f.head, f.whole = bytes.Clone(head), err == io.EOF
	f.typ = typeOf(f.head)
	unpack := otherFile
	switch {
	case f.typ == zipFile, f.typ == gzipFile, f.typ == tarFile:
		unpack = f.typ
	case section == nil && slices.ContainsFunc(f.names, isZipName):
		unpack = zipFile // whatever it begins with: its end is not at hand
	}
	if unpack != otherFile {
		if depth++; depth > a.limits.Depth {
			return &limitError{"archives are nested too deeply", f.path}
		}
	}
	if f.typ == sealedArchive {
		f.problem = "an archive of a kind that is not looked into"
	}
	if err := a.show(f); err != nil {
		return err
	}
	switch err = nil; unpack {
	case zipFile:
		err = a.zip(f, buffered, section, depth)
		var limit *limitError
		if f.typ != zipFile && errors.As(err, &limit) && limit.path == f.path {
			err = errors.New(limit.what) // only its name says that it is one
		}
	case gzipFile:
		err = a.gzip(f, buffered, depth)
	case tarFile:
		err = a.tar(f, buffered, depth)
	}
	if err = a.damaged(f, err); err != nil || section == nil || unpack == zipFile || !f.part.IsAttachment() {
		return err
	}
	// Programs find a ZIP file by its end, whatever is in front of it. This reads
	// the attachment once more, and keeps no more than its last 64 KiB.
	s, err := section()
	if err != nil || !isZip(s) {
		return err
	}
	return a.damaged(f, a.zip(f, nil, func() (*io.SectionReader, error) { return s, nil }, depth+1))
}

func isZipName(name string) bool {
	_, is := cutSuffixFold(name, ".zip")
	return is
}

// damaged makes an error of an archive that does not end the scan a report.
func (a *files) damaged(f file, err error) error {
	if err == nil || fatal(err) {
		return err
	}
	return a.show(file{part: f.part, path: f.path, problem: "a damaged archive", archived: true})
}

func (a *files) show(f file) error {
	if err := a.visit(f); err != nil {
		return &stopError{err}
	}
	return nil
}

// fatal tells errors that end the scan from those of a damaged archive.
func fatal(err error) bool {
	var limit *limitError
	var stop *stopError
	return errors.As(err, &limit) || errors.As(err, &stop)
}

// stopError is an error of the visitor or of the context.
type stopError struct{ error }

func (e *stopError) Unwrap() error { return e.error }

func (a *files) zip(f file, r io.Reader, section func() (*io.SectionReader, error), depth int) error {
	if section == nil {
		left := a.limits.Memory - a.memory
		b, err := io.ReadAll(io.LimitReader(r, left+1))
		if err != nil {
			return err
		}
		if int64(len(b)) > left {
			return &limitError{"an archive within an archive is too large", f.path}
		}
		a.memory += int64(len(b))
		defer func() { a.memory -= int64(len(b)) }()
		section = func() (*io.SectionReader, error) {
			return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), nil
		}
	}
	s, err := section()
	if err != nil {
		return err
	}
	var declared uint64
	return eachZipEntry(s, func(e *zipEntry) error {
		if declared += min(e.size, 1<<50); declared > smallUnpacked && declared/uint64(max(1, s.Size())) > uint64(a.limits.Ratio) {
			return &limitError{"an archive unpacks to far more than its size", f.path}
		}
		inner := file{part: a.part, names: e.names, path: f.path + "/" + e.names[0], archived: true, encrypted: e.encrypted}
		content := e.open()
		if content == nil {
			if !e.encrypted {
				inner.problem = "packed in a way that is not known"
			}
			if err := a.enter(inner.path); err != nil {
				return err
			}
			return a.show(inner)
		}
		return a.entry(inner, content, depth)
	})
}

func (a *files) gzip(f file, r io.Reader, depth int) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	inner := file{part: a.part, path: f.path + "/" + z.Name, archived: true}
	if z.Name != "" {
		inner.names = []string{z.Name}
	} else {
		for _, name := range f.names {
			if base, ok := cutSuffixFold(name, ".gz"); ok {
				inner.names = append(inner.names, base)
			}
		}
		inner.path = f.path + "/content"
	}
	return a.entry(inner, z, depth)
}

func (a *files) tar(f file, r io.Reader, depth int) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		inner := file{part: a.part, names: []string{h.Name}, path: f.path + "/" + h.Name, archived: true}
		if err := a.entry(inner, t, depth); err != nil {
			return err
		}
	}
}

// entry looks at a file of an archive.
func (a *files) entry(f file, r io.Reader, depth int) error {
	if err := a.enter(f.path); err != nil {
		return err
	}
	return a.look(f, &unpacking{a, r, f.path}, nil, depth)
}

func (a *files) enter(path string) error {
	if err := a.ctx.Err(); err != nil {
		return &stopError{err}
	}
	if a.count++; a.count > a.limits.Files {
		return &limitError{"archives hold too many files", path}
	}
	return nil
}

// unpacking counts what comes out of an archive.
type unpacking struct {
	a    *files
	r    io.Reader
	path string
}

func (u *unpacking) Read(p []byte) (int, error) {
	if err := u.a.ctx.Err(); err != nil {
		return 0, &stopError{err}
	}
	n, err := u.r.Read(p)
	if u.a.unpacked += int64(n); u.a.unpacked > u.a.limits.Bytes {
		return n, &limitError{"archives unpack to too much", u.path}
	}
	return n, err
}
