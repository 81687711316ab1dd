package deliver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func maildir(t *testing.T, template string) (*Maildir, string) {
	t.Helper()
	dir := t.TempDir()
	tmpl, err := ParseTemplate(filepath.Join(dir, template))
	if err != nil {
		t.Fatal(err)
	}
	return NewMaildir(tmpl, "mx/1:a.example", nil), dir
}

func section(s string) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(s), 0, int64(len(s)))
}

func TestTemplates(t *testing.T) {
	for _, bad := range []string{"", "{user}", "mail/{user}", "/mail", "/mail/{domain}", "/mail/{User}", "/mail/{user}/{x}", "/mail/{user}}", "/mail/\x00{user}", "/mail/{{user}}", "/mail/{user}/../x",
		"/mail/{user}{domain}", "/mail/{user}-{domain}", "/mail/{domain}.x.{user}", "/mail/{user}X{domain}", "/mail/{user}%{domain}/{domain}{user}"} {
		if _, err := ParseTemplate(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	tmpl, err := ParseTemplate("/mail/{domain}//{user}/../{user}/Maildir")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tmpl.Folder("Bob.o'x", "Example.COM"); err != nil || got != "/mail/example.com/%42ob.o%27x/Maildir" {
		t.Error(got, err)
	}
}

// Whatever the address, the folder is one of its own below the root.
func hostile() []string {
	return []string{
		"a", "A", "..", ".", "...", ".a", "a.", "a..b", "/", "a/b", "../a", "../../etc/passwd", `a\b`, "a b", "a\x00b", "a\nb", "%", "%41", "%2541", "-rf", "--",
		"a-b", "~", "$HOME", "é", "e\u0301", "\xff", "{user}", "{domain}", "a@b", "a:2,S", "cur", "new", "tmp", "con", "*", "?", "%61", "a=b", "+", "a+b", "a%", "%2e%2e", "\u202e",
	}
}

func TestFoldersAreApart(t *testing.T) {
	for _, template := range []string{"/mail/{domain}/{user}", "/mail/{domain}/{user}/Maildir", "/mail/x{user}@{domain}x", "/mail/{domain}/{domain}.{user}"} {
		tmpl, err := ParseTemplate(template)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		for _, user := range hostile() {
			got, err := tmpl.Folder(user, "example.com")
			if err != nil {
				t.Errorf("%q: %v", user, err)
				continue
			}
			if filepath.Clean(got) != got || strings.Count(got, "/") != strings.Count(template, "/") || !strings.HasPrefix(got, "/mail/") ||
				!regexp.MustCompile(`^[a-z0-9./%_+=@M-]+$`).MatchString(got) {
				t.Errorf("%q is in %q", user, got)
			}
			if other, ok := seen[strings.ToLower(got)]; ok {
				t.Errorf("%q and %q are both in %q", user, other, got)
			}
			seen[strings.ToLower(got)] = user
		}
		for _, domain := range hostile() {
			if got, err := tmpl.Folder("bob", domain); err != nil || strings.Count(got, "/") != strings.Count(template, "/") || filepath.Clean(got) != got {
				t.Errorf("domain %q: %q, %v", domain, got, err)
			}
		}
		for _, bad := range [][2]string{{"", "example.com"}, {"bob", ""}, {strings.Repeat("x", 256), "example.com"}, {strings.Repeat("/", 86), "example.com"}} {
			_, err := tmpl.Folder(bad[0], bad[1])
			var e *Error
			if !errors.As(err, &e) || e.Temporary || e.Code != "5.1.1" {
				t.Errorf("%.20q: %v", bad, err)
			}
		}
	}
}

func FuzzFolder(f *testing.F) {
	for i, s := range hostile() {
		f.Add(s, hostile()[len(hostile())-1-i])
	}
	tmpl, err := ParseTemplate("/mail/{domain}/{user}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		pa, err := tmpl.Folder(a, "d")
		if err != nil {
			return
		}
		if filepath.Dir(pa) != "/mail/d" || filepath.Clean(pa) != pa || strings.ContainsAny(filepath.Base(pa), "/\\\x00") {
			t.Errorf("%q is in %q", a, pa)
		}
		if pb, err := tmpl.Folder(b, "d"); err == nil && (strings.EqualFold(pa, pb) != (a == b)) {
			t.Errorf("%q is in %q, %q in %q", a, pa, b, pb)
		}
	})
}

func TestDeliver(t *testing.T) {
	m, dir := maildir(t, "mail/{domain}/{user}")
	content := section("Subject: x\r\n\r\n.dot\r\nno end")
	io.Copy(io.Discard, content) // where it was read to does not matter
	path, err := m.Deliver(t.Context(), "bob", "example.com", []byte("Return-Path: <>\r\n"), content)
	if err != nil {
		t.Fatal(err)
	}
	want := "Return-Path: <>\nSubject: x\n\n.dot\nno end"
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%q, %v", b, err)
	}
	folder := filepath.Join(dir, "mail/example.com/bob")
	name := regexp.MustCompile(fmt.Sprintf(`^[0-9]+\.M[0-9]+R[A-Z0-9]{26}\.mx\\0571\\072a\.example,S=%d,W=%d$`, len(want), len(want)+4))
	if filepath.Dir(path) != filepath.Join(folder, "new") || !name.MatchString(filepath.Base(path)) {
		t.Errorf("it is %s", path)
	}
	for p := filepath.Join(folder, "new"); p != dir; p = filepath.Dir(p) {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Join(folder, "tmp")); err != nil || len(entries) != 0 {
		t.Errorf("tmp has %v, %v", entries, err)
	}
}

// Wherever a line's end falls in the buffers, CRLF becomes LF, and nothing else
// changes.
func TestLineEndings(t *testing.T) {
	m, _ := maildir(t, "{domain}/{user}")
	for _, n := range []int{0, 1, 32<<10 - 2, 32<<10 - 1, 32 << 10, 32<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1} {
		for _, end := range []string{"", "\r", "\n", "\r\n", "\r\r\n", "\r\nx\r\n", "\n\r", "\r\n\r"} {
			s := strings.Repeat("x", n) + end
			path, err := m.Deliver(t.Context(), "bob", "example.com", nil, section(s))
			if err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(s, "\r\n", "\n")
			if b, err := os.ReadFile(path); err != nil || string(b) != want {
				t.Errorf("%d and %q: %d bytes ending in %q, %v", n, end, len(b), b[max(0, len(b)-4):], err)
			}
			if !strings.HasSuffix(path, fmt.Sprintf(",S=%d,W=%d", len(want), len(want)+strings.Count(s, "\r\n"))) {
				t.Errorf("%d and %q: %s", n, end, path)
			}
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	m, dir := maildir(t, "{domain}/{user}")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				if _, err := m.Deliver(t.Context(), fmt.Sprintf("u%d", i%2), "example.com", nil, section("a: b\r\n\r\n")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if files, err := filepath.Glob(filepath.Join(dir, "example.com/*/new/*")); len(files) != 80 || err != nil {
		t.Errorf("%d messages, %v", len(files), err)
	}
}

// A message is there whole or not at all.
func TestFailures(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx     context.Context
		content *io.SectionReader
		prepare func(t *testing.T, dir string)
		code    string
		is      error
	}{
		"source fails": {t.Context(), io.NewSectionReader(failing{}, 0, 1<<20), nil, "4.3.0", iotest.ErrTimeout},
		"context ends": {ended, section("a: b\r\n\r\n"), nil, "4.3.0", context.Canceled},
		"a file in the way": {t.Context(), section("a: b\r\n\r\n"), func(t *testing.T, dir string) {
			os.WriteFile(filepath.Join(dir, "example.com"), nil, 0o600)
		}, "4.3.0", syscall.ENOTDIR},
		"a link to nowhere": {t.Context(), section("a: b\r\n\r\n"), func(t *testing.T, dir string) {
			os.Symlink("/nowhere/at/all", filepath.Join(dir, "example.com"))
		}, "4.3.0", os.ErrExist},
		"new is a file": {t.Context(), section("a: b\r\n\r\n"), func(t *testing.T, dir string) {
			os.MkdirAll(filepath.Join(dir, "example.com/bob/tmp"), 0o700)
			os.WriteFile(filepath.Join(dir, "example.com/bob/new"), nil, 0o600)
		}, "4.3.0", syscall.ENOTDIR},
		"no new": {t.Context(), section("a: b\r\n\r\n"), func(t *testing.T, dir string) {
			os.MkdirAll(filepath.Join(dir, "example.com/bob/tmp"), 0o700)
		}, "4.3.0", os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			m, dir := maildir(t, "{domain}/{user}")
			if test.prepare != nil {
				test.prepare(t, dir)
			}
			path, err := m.Deliver(test.ctx, "bob", "example.com", nil, test.content)
			var e *Error
			if !errors.As(err, &e) || !e.Temporary || e.Code != test.code || path != "" || !errors.Is(err, test.is) {
				t.Errorf("%q, %v (%+v)", path, err, e)
			}
			for _, sub := range []string{"new", "tmp"} {
				if entries, _ := os.ReadDir(filepath.Join(dir, "example.com/bob", sub)); len(entries) != 0 {
					t.Errorf("%s has %v", sub, entries)
				}
			}
		})
	}
	for err, code := range map[error]string{
		&os.PathError{Err: syscall.ENOSPC}: "4.3.1", &os.PathError{Err: syscall.EDQUOT}: "4.2.2", &os.PathError{Err: syscall.EACCES}: "4.3.0",
	} {
		if e := temporary(err); !e.Temporary || e.Code != code {
			t.Errorf("%v: %+v", err, e)
		}
	}
}

type failing struct{}

func (failing) ReadAt(p []byte, off int64) (int, error) {
	if off > 100<<10 {
		return 0, iotest.ErrTimeout
	}
	return len(p), nil
}

// A full file system is said to be, and takes mail again once it is not.
func TestNoSpace(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Lacks(t, "a small file system can be mounted by root only")
	}
	mount := testenv.Need(t, "mount", "apt-get install mount")
	umount := testenv.Need(t, "umount", "apt-get install mount")
	dir := testenv.Folder(t)
	if out, err := exec.Command(mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", dir).CombinedOutput(); err != nil {
		testenv.Lacks(t, "no file system can be mounted here: %s", out)
	}
	defer exec.Command(umount, dir).Run()
	tmpl, err := ParseTemplate(dir + "/{domain}/{user}")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMaildir(tmpl, "mx", nil)
	big := section(strings.Repeat("x", 1<<20))
	_, err = m.Deliver(t.Context(), "bob", "example.com", nil, big)
	var e *Error
	if !errors.As(err, &e) || e.Code != "4.3.1" || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if _, err := m.Deliver(t.Context(), "bob", "example.com", nil, section("a: b\r\n\r\n")); err != nil {
		t.Error("what was left took the place:", err)
	}
}

// TestClean: the first delivery of a day removes what crashes have left in the
// mailbox.
func TestClean(t *testing.T) {
	tmpl, err := ParseTemplate(filepath.Join(t.TempDir(), "{user}"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)
	m := NewMaildir(tmpl, "mx", func() time.Time { return now })
	box, err := tmpl.Folder("bob", "example.com")
	if err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(box, "tmp")
	deliver := func(want ...string) {
		t.Helper()
		if _, err := m.Deliver(t.Context(), "bob", "example.com", nil, section("a: b\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(tmp)
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	deliver()
	for name, age := range map[string]time.Duration{"old": 37 * time.Hour, "young": 10 * time.Hour} {
		path := filepath.Join(tmp, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(tmp, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	deliver("folder", "old", "young")
	now = now.Add(24 * time.Hour)
	deliver("folder", "young")
	if files, _ := filepath.Glob(filepath.Join(box, "new/*")); len(files) != 3 {
		t.Errorf("%d messages", len(files))
	}
}

// The order of system calls is what makes a message durable: its bytes before
// its name, its name before the answer.
func TestDurable(t *testing.T) {
	if os.Getenv("MAILDIR_TO") != "" {
		tmpl, err := ParseTemplate(os.Getenv("MAILDIR_TO") + "/{domain}/{user}")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewMaildir(tmpl, "mx", nil).Deliver(t.Context(), "bob", "example.com", nil, section("a: b\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		return
	}
	strace := testenv.Need(t, "strace", "apt-get install strace")
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	cmd := exec.Command(strace, "-f", "-y", "-o", trace, "-e", "trace=fsync,rename,renameat,renameat2,mkdirat,mkdir", os.Args[0], "-test.run=^TestDurable$")
	cmd.Env = append(os.Environ(), "MAILDIR_TO="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("ptrace")) {
			testenv.Lacks(t, "processes cannot be traced here: %s", out)
		}
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for line := range strings.SplitSeq(string(b), "\n") {
		line = strings.ReplaceAll(line, dir, "ROOT")
		for call, kind := range map[string]string{"fsync(": "sync", "rename": "move", "mkdir": "make"} {
			// What another thread does meanwhile has strace say the result elsewhere.
			if i := strings.Index(line, call); i >= 0 && i < 10 && (strings.HasSuffix(line, "= 0") || strings.HasSuffix(line, "<unfinished ...>")) {
				folders := regexp.MustCompile(`ROOT[a-z./]*`).FindAllString(line, -1)
				calls = append(calls, kind+" "+folders[len(folders)-1])
			}
		}
	}
	want := []string{
		"make ROOT/example.com", "sync ROOT",
		"make ROOT/example.com/bob", "sync ROOT/example.com",
		"make ROOT/example.com/bob/cur", "sync ROOT/example.com/bob",
		"make ROOT/example.com/bob/new", "sync ROOT/example.com/bob",
		"make ROOT/example.com/bob/tmp", "sync ROOT/example.com/bob",
		"sync ROOT/example.com/bob/tmp/", // the file
		"move ROOT/example.com/bob/new/",
		"sync ROOT/example.com/bob/new",
	}
	if strings.Join(calls, "\n") != strings.Join(want, "\n") {
		t.Errorf("the calls are\n%s\nnot\n%s", strings.Join(calls, "\n"), strings.Join(want, "\n"))
	}
}

// Others read what is delivered.
func TestPythonReadsIt(t *testing.T) {
	python := testenv.Need(t, "python3", "apt-get install python3")
	m, dir := maildir(t, "{domain}/{user}")
	for range 3 {
		if _, err := m.Deliver(t.Context(), "bob", "example.com", []byte("Delivered-To: bob@example.com\r\n"), section("Subject: hello\r\n\r\nbody\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(python, "-c", `
import mailbox, sys
box = mailbox.Maildir(sys.argv[1], create=False)
for key, m in sorted(box.items()):
    print(m.get_subdir(), m["Delivered-To"], m["Subject"], repr(m.get_payload()))
`, filepath.Join(dir, "example.com/bob")).CombinedOutput()
	want := strings.Repeat("new bob@example.com hello 'body\\n'\n", 3)
	if err != nil || string(out) != want {
		t.Errorf("%v: %s", err, out)
	}
}

func TestDovecotReadsIt(t *testing.T) {
	testenv.Need(t, "dovecot", "apt-get install dovecot-core")
	doveadm := testenv.Need(t, "doveadm", "apt-get install dovecot-core")
	dir := testenv.Folder(t)
	tmpl, err := ParseTemplate(dir + "/{domain}/{user}")
	if err != nil {
		t.Fatal(err)
	}
	body := "Subject: hello\r\n\r\n" + strings.Repeat("line\r\n", 100)
	if _, err := NewMaildir(tmpl, "mx", nil).Deliver(t.Context(), "bob", "example.com", nil, section(body)); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // for whom Dovecot opens no mailbox
		uid, gid = 65534, 65534
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, uid, gid))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "dovecot.conf")
	if err := os.WriteFile(conf, []byte(fmt.Sprintf("base_dir = %[1]s/run\nlog_path = /dev/stderr\nssl = no\nfirst_valid_uid = 1\nmail_location = maildir:%[1]s/example.com/bob\nmail_uid = %[2]d\nmail_gid = %[3]d\nmail_home = %[1]s\n", dir, uid, gid)), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(doveadm, "-c", conf, "-f", "tab", "fetch", "hdr.subject size.physical size.virtual", "mailbox", "INBOX")
	cmd.Env = append(os.Environ(), "USER=bob")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	want := fmt.Sprintf("hello\t%d\t%d\n", len(body)-102, len(body))
	if _, got, _ := strings.Cut(string(out), "\n"); err != nil || got != want {
		t.Errorf("%v: %q, not %q (%s)", err, got, want, stderr.String())
	}
}

// Who owns a mailbox must not have the files of others removed.
func TestCleanFollowsNoLink(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	theirs := filepath.Join(other, "theirs")
	if err := os.WriteFile(theirs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(theirs, time.Time{}, time.Now().Add(-2*tmpAge)); err != nil {
		t.Fatal(err)
	}
	box := filepath.Join(dir, "bob")
	for _, name := range []string{"new", "cur"} {
		if err := os.MkdirAll(filepath.Join(box, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, filepath.Join(box, "tmp")); err != nil {
		t.Fatal(err)
	}
	tmpl, err := ParseTemplate(filepath.Join(dir, "{user}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewMaildir(tmpl, "mx", time.Now).Deliver(t.Context(), "bob", "example.com", nil, section("a: b\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
}
