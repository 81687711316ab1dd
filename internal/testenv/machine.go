package testenv

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// Machine makes a folder that looks to a program like a machine, to be run in with
// chroot: for mail servers whose Debian packages cannot be installed beside
// Postfix, and which look for users and folders of their own. The package is
// unpacked below /opt; the program is its path in there. Users are Debian-exim (8)
// and opensmtpd (9).
func Machine(t testing.TB, name, program string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacks(t, "mail servers can be started by root only")
	}
	unpacked := "/opt/" + name
	Need(t, unpacked+program, fmt.Sprintf("apt-get download %s && dpkg -x %[1]s_*.deb %[2]s (see .ci/run for the libraries)", name, unpacked))
	Need(t, "chroot", "apt-get install coreutils")
	dir := Folder(t)
	if err := os.CopyFS(dir, noLinks{os.DirFS(unpacked)}); err != nil {
		t.Fatal(err)
	}
	libraries, err := exec.Command("ldd", unpacked+program).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(libraries), -1) {
		content, err := os.ReadFile(lib)
		if err != nil {
			t.Fatal(err)
		}
		os.MkdirAll(filepath.Dir(dir+lib), 0o755)
		if err := os.WriteFile(dir+lib, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, sub := range []string{"dev", "tmp", "run", "var/run", "mail", "var/spool/exim4", "var/log/exim4", "etc/exim4", "var/spool/smtpd", "var/lib/opensmtpd/empty"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Join(dir, "var/spool/smtpd"), 0o711)
	for _, own := range []string{"mail", "var/spool/exim4", "var/log/exim4"} {
		os.Chown(filepath.Join(dir, own), 8, 8)
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/passwd", "root:x:0:0:root:/:/bin/sh\nDebian-exim:x:8:8::/:/bin/false\nopensmtpd:x:9:9::/var/lib/opensmtpd/empty:/bin/false\nopensmtpq:x:10:10::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")
	write("etc/group", "root:x:0:\nDebian-exim:x:8:\nopensmtpd:x:9:\nopensmtpq:x:10:\nnogroup:x:65534:\n")
	write("etc/services", "smtp 25/tcp\n")
	write("etc/hosts", "127.0.0.1 localhost peer.test\n")
	write("etc/mailname", "peer.test\n")
	write("dev/null", "") // as good as the real one here
	os.Chmod(filepath.Join(dir, "dev/null"), 0o666)
	return dir
}

// noLinks leaves out symbolic links, which are of manuals only.
type noLinks struct{ fs.FS }

func (n noLinks) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(n.FS, name)
	var files []fs.DirEntry
	for _, e := range list {
		if e.Type()&fs.ModeSymlink == 0 {
			files = append(files, e)
		}
	}
	return files, err
}
