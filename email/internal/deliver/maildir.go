package deliver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	// tmpAge is when a file in tmp has been left behind; 36 hours by the
	// description of Maildir.
	tmpAge = 36 * time.Hour
	// maxCleaned bounds how many mailboxes a day are looked at for such files.
	maxCleaned = 100_000
)

// Maildir delivers into folders. Any number of deliveries may go on at once, also
// by other programs.
type Maildir struct {
	template Template
	host     string
	now      func() time.Time

	making sync.Mutex // of folders

	mu      sync.Mutex
	day     time.Time
	cleaned map[string]bool // folders, on that day
}

// NewMaildir makes a Maildir. hostname goes into the names of files, to keep
// those of different hosts apart on shared storage. A nil now means [time.Now].
func NewMaildir(template Template, hostname string, now func() time.Time) *Maildir {
	if now == nil {
		now = time.Now
	}
	// As the description of Maildir has it for the names that hosts may have.
	host := strings.NewReplacer("/", `\057`, ":", `\072`, ",", `\054`, "\x00", "").Replace(hostname)
	return &Maildir{template: template, host: host[:min(len(host), 64)], now: now, cleaned: make(map[string]bool)}
}

// Deliver stores a message, prefix and then content, for user@domain, and
// returns the path of the file. When it returns without an error the message is
// durable. After a crash before that, there may be a file in tmp, which readers
// do not look at, or the message, whole. Such files are removed after 36 hours, by
// the first delivery of a day.
//
// Lines end in LF in the file, as programs that read mailboxes expect it; else
// the message is as it came. prefix is raw header fields with CRLF, such as
// Return-Path and Delivered-To. Folders that are missing are made, for this
// user alone (0700). The error is an [*Error].
func (m *Maildir) Deliver(ctx context.Context, user, domain string, prefix []byte, content *io.SectionReader) (string, error) {
	folder, err := m.template.Folder(user, domain)
	if err != nil {
		return "", err
	}
	path, err := m.deliver(ctx, folder, io.MultiReader(bytes.NewReader(prefix), io.NewSectionReader(content, 0, content.Size())))
	if err != nil {
		return "", temporary(err)
	}
	if m.toClean(folder) {
		m.clean(folder)
	}
	return path, nil
}

func (m *Maildir) deliver(ctx context.Context, folder string, message io.Reader) (path string, err error) {
	if err := m.prepare(folder); err != nil {
		return "", err
	}
	name := m.uniqueName()
	tmp := filepath.Join(folder, "tmp", name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			f.Close() // if it is not closed yet
			os.Remove(tmp)
		}
	}()
	size, lines, err := write(ctx, f, message)
	if err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	// Sizes in the name, here and with CRLF, save readers a look at the file.
	path = filepath.Join(folder, "new", fmt.Sprintf("%s,S=%d,W=%d", name, size, size+lines))
	if err := os.Rename(tmp, path); err != nil { // the name is random: there is none to overwrite
		return "", err
	}
	if err := syncFolder(filepath.Join(folder, "new")); err != nil {
		os.Remove(path) // so that to try again does not make two of it
		return "", err
	}
	return path, nil
}

// uniqueName is, after the time in seconds, as the description of Maildir wants
// it: delivery identifiers (M, the microseconds, and R, a random number), and
// the host.
func (m *Maildir) uniqueName() string {
	now := m.now()
	return fmt.Sprintf("%d.M%dR%s.%s", now.Unix(), now.Nanosecond()/1000, rand.Text(), m.host)
}

// write copies the message with LF for CRLF, and returns the number of bytes
// and of lines that it wrote.
func write(ctx context.Context, f *os.File, message io.Reader) (size, lines int64, err error) {
	r := bufio.NewReaderSize(message, 32<<10)
	w := bufio.NewWriterSize(f, 32<<10)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) && line[len(line)-1] == '\r' {
			r.UnreadByte() // its LF may come
			line, err = line[:len(line)-1], nil
		}
		switch {
		case bytes.HasSuffix(line, []byte("\r\n")):
			w.Write(line[:len(line)-2])
			w.WriteByte('\n')
			size += int64(len(line) - 1)
			lines++
		default:
			w.Write(line)
			size += int64(len(line))
		}
		switch {
		case err == io.EOF:
			return size, lines, w.Flush()
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return 0, 0, err
		case ctx.Err() != nil:
			return 0, 0, context.Cause(ctx)
		}
	}
}

// prepare makes the folders of a mailbox, tmp as the last one: where it is, all
// others are and are durable, also if that is somebody else's work at this very
// moment.
func (m *Maildir) prepare(folder string) error {
	tmp := filepath.Join(folder, "tmp")
	if isFolder(tmp) {
		return nil
	}
	m.making.Lock()
	defer m.making.Unlock()
	for _, path := range []string{filepath.Join(folder, "cur"), filepath.Join(folder, "new"), tmp} {
		if err := makeFolder(path); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes a folder and those above it, each durable before the next.
func makeFolder(path string) error {
	err := os.Mkdir(path, 0o700)
	if parent := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && parent != path {
		if err := makeFolder(parent); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
	}
	switch {
	case err == nil:
		return syncFolder(filepath.Dir(path))
	case isFolder(path):
		return nil
	}
	return err
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func syncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil // there is no such thing; the file system's journal does it
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// toClean reports whether nobody has cleaned the mailbox today.
func (m *Maildir) toClean(folder string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if day := m.now().Truncate(24 * time.Hour); !day.Equal(m.day) {
		m.day = day
		clear(m.cleaned)
	}
	if m.cleaned[folder] || len(m.cleaned) >= maxCleaned {
		return false
	}
	m.cleaned[folder] = true
	return true
}

// clean removes files that a crash has left in the tmp of a mailbox. What cannot be
// removed stays; the message has been delivered.
// A link in its place is not followed: who owns the mailbox may have made it.
func (m *Maildir) clean(folder string) {
	mailbox, err := os.OpenRoot(folder)
	if err != nil {
		return
	}
	defer mailbox.Close()
	if info, err := mailbox.Lstat("tmp"); err != nil || !info.IsDir() {
		return
	}
	tmp, err := mailbox.OpenRoot("tmp")
	if err != nil {
		return
	}
	defer tmp.Close()
	entries, _ := fs.ReadDir(tmp.FS(), ".")
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || m.now().Sub(info.ModTime()) < tmpAge {
			continue // gone meanwhile, none of ours, or in use
		}
		_ = tmp.Remove(e.Name())
	}
}
