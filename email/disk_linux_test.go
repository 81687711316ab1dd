package email

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A disk that is full puts mail off, also in the midst of a message, and loses
// none; once there is room again, mail is taken again.
func TestFullDisk(t *testing.T) {
	folder := testenv.Folder(t)
	// The spool keeps 256 MiB free, and has a segment and a spare one.
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=400m"); err != nil {
		testenv.Lacks(t, "mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := start(t, crashConfig(folder, 0))
	filler := filepath.Join(folder, "filler")
	// fill leaves so many bytes free. The spool may take some meanwhile.
	fill := func(left int64) {
		t.Helper()
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		testenv.WaitFor(t, 30*time.Second, func() error {
			var fs syscall.Statfs_t
			if err := syscall.Statfs(folder, &fs); err != nil {
				return err
			}
			more := int64(fs.Bavail)*fs.Bsize - left
			if more <= 0 {
				return nil
			}
			end, err := f.Seek(0, io.SeekEnd)
			if err != nil {
				return err
			}
			return syscall.Fallocate(int(f.Fd()), 0, end, more)
		})
	}
	free := func() {
		t.Helper()
		if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	accepted := make(map[string]string) // contents by ID
	take := func(c *client, content string) {
		t.Helper()
		reply := c.send("a@example.net", "b@example.com", content)
		id, ok := strings.CutPrefix(reply, "250 2.0.0 Accepted as ")
		if !ok {
			t.Fatalf("with room: %q", reply)
		}
		accepted[id] = content + "\r\n"
	}
	c := s.dial().hello()
	take(c, hi)

	fill(100 << 20)
	c.say("MAIL FROM:<a@example.net>", "452 4.3.1 ") // before anything is sent for nothing
	free()
	take(c, hi)

	big := hi + strings.Repeat("\r\n"+strings.Repeat("0123456789", 7), 100_000)
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("DATA", "354")
	half := strings.LastIndexByte(big[:len(big)/2], '\n') + 1
	io.WriteString(c, big[:half])
	waitFor(t, func() bool { // the half is there
		files, _ := filepath.Glob(filepath.Join(folder, "spool", "*", "*"))
		more, _ := filepath.Glob(filepath.Join(folder, "spool", "*"))
		for _, f := range append(files, more...) {
			if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() && info.Size() > 1<<20 && info.Size() < 10<<20 {
				return true
			}
		}
		return false
	})
	fill(0)
	io.WriteString(c, big[half:]+"\r\n.\r\n")
	if reply := c.reply(); !strings.HasPrefix(reply, "452 4.3.1 ") {
		t.Errorf("to a message under way: %q", reply)
	}
	c.say("MAIL FROM:<a@example.net>", "452 4.3.1 ")
	free()
	take(c, hi)
	take(c, big)

	for m, err := range s.Queue(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		_, content, err := s.Queued(t.Context(), m.ID)
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(content)
		content.Close()
		if want := accepted[m.ID]; err != nil || want == "" || !strings.HasSuffix(string(all), want) {
			t.Errorf("message %s of %d bytes is not one of those that were accepted: %v", m.ID, len(all), err)
		}
		delete(accepted, m.ID)
	}
	if len(accepted) > 0 {
		t.Errorf("%d messages were accepted and are lost", len(accepted))
	}
}
