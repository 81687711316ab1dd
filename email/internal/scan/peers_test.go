package scan

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startRspamd runs rspamd with no configuration but this, and returns where it
// speaks HTTP and where milter.
func startRspamd(t *testing.T) (scanner, milter string) {
	rspamd := testenv.Need(t, "rspamd", "apt-get install rspamd")
	dir := testenv.Folder(t)
	scanner = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	milter = filepath.Join(dir, "milter")
	write(t, dir, "tld", "com\norg\n") // the real list takes seconds to compile
	config := write(t, dir, "rspamd.conf", strings.NewReplacer("DIR", dir, "SCANNER", scanner).Replace(`
options {
	pidfile = "DIR/pid"; tempdir = "DIR"; control_socket = "DIR/control mode=0600"; url_tld = "DIR/tld"; filters = "";
	dns { nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }
}
logging { type = "console"; level = "info"; }
actions { reject = 15; add_header = 6; greylist = 4; }
worker "normal" { bind_socket = "SCANNER"; count = 1; }
worker "rspamd_proxy" { bind_socket = "DIR/milter mode=0666"; count = 1; milter = yes; upstream "local" { default = yes; self_scan = yes; } }
`))
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: scanner, Timeout: time.Minute}, rspamd,
		"-f", "-i", "-c", config, "--var", "DBDIR="+dir, "--var", "RUNDIR="+dir)
	testenv.WaitPort(t, milter, time.Minute)
	return scanner, milter
}

func TestRspamd(t *testing.T) {
	t.Parallel()
	scanner, milter := startRspamd(t)
	clean := newMessage(t, "", "Hello Bob,\nnothing to see here.\n")
	spam := newMessage(t, "", string(gtube())+"\n")
	large := largeMessage(t, 1<<20)

	t.Run("http", func(t *testing.T) {
		s := NewRspamd(Backend{Address: scanner}, RspamdOptions{Password: "x"})
		for range 2 {
			if v := scan(t, s, clean); v.Bad || v.Action != NoAction || v.Threshold != 15 {
				t.Errorf("clean: %+v", v)
			}
			if v := scan(t, s, spam); !v.Bad || v.Action != Reject || v.Name != "GTUBE" || v.Score != 15 || v.Reply != "Gtube pattern" {
				t.Errorf("GTUBE: %+v", v)
			}
		}
		if v := scan(t, s, large); v.Bad {
			t.Errorf("large: %+v", v)
		}
	})
	t.Run("milter", func(t *testing.T) {
		f := NewMilter(Backend{Address: milter}, Spam)
		if v := scan(t, f, clean); v.Bad || v.Action != NoAction {
			t.Errorf("clean: %+v", v)
		}
		if v := scan(t, f, spam); !v.Bad || v.Action != Reject || v.Code/100 != 5 || !strings.Contains(v.Reply, "Gtube pattern") {
			t.Errorf("GTUBE: %+v", v)
		}
		if v := scan(t, f, large); v.Bad {
			t.Errorf("large: %+v", v)
		}
	})
}

func TestSpamAssassin(t *testing.T) {
	t.Parallel()
	spamd := testenv.Need(t, "spamd", "apt-get install spamd")
	dir := testenv.Folder(t)
	addr := testenv.FreePort(t)
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: fmt.Sprintf("127.0.0.1:%d", addr), Timeout: time.Minute}, spamd,
		"-L", "-x", "--nouser-config", "--syslog=stderr", "--siteconfigpath=/etc/spamassassin",
		fmt.Sprintf("--listen=127.0.0.1:%d", addr), "--max-children=1", "--min-children=1", "-r", filepath.Join(dir, "pid"))
	s := NewSpamd(Backend{Address: fmt.Sprintf("127.0.0.1:%d", addr)}, 0)
	ours := "Received: from client.example.com (client.example.com [192.0.2.7])\n\tby mail.example.org with ESMTP id abc123;\n\tMon, 02 Mar 2026 10:01:00 +0000\n"
	clean := scan(t, s, newMessage(t, ours+niceHeader, "Hello Bob,\n\nnothing to see here, and so on.\n"))
	if clean.Bad || clean.Threshold != 5 || slices.Contains(clean.Details, "NO_RECEIVED") {
		t.Errorf("clean: %+v", clean)
	}
	if v := scan(t, s, newMessage(t, "", string(gtube())+"\n")); !v.Bad || v.Score < 900 || !slices.Contains(v.Details, "GTUBE") {
		t.Errorf("GTUBE: %+v", v)
	}
}

func TestClamAV(t *testing.T) {
	t.Parallel()
	clamd := testenv.Need(t, "clamd", "apt-get install clamav-daemon")
	dir := testenv.Folder(t)
	os.Mkdir(filepath.Join(dir, "db"), 0o755)
	write(t, filepath.Join(dir, "db"), "own.ndb", "Test.EICAR:0:0:"+hex.EncodeToString(eicar())+"\n")
	socket := filepath.Join(dir, "socket")
	config := write(t, dir, "clamd.conf", strings.ReplaceAll("DatabaseDirectory DIR/db\nLocalSocket DIR/socket\nForeground yes\nStreamMaxLength 2M\n", "DIR", dir))
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: socket, Timeout: time.Minute}, clamd, "--config-file="+config)
	s := NewClamd(Backend{Address: socket})
	if v := scan(t, s, newMessage(t, "", "hello\n")); v.Bad {
		t.Errorf("clean: %+v", v)
	}
	if v := scan(t, s, attached(t, "a.zip", zipped("x/eicar.com", string(eicar())))); !v.Bad || v.Name != "Test.EICAR.UNOFFICIAL" || v.Action != Reject {
		t.Errorf("EICAR: %+v", v)
	}
	if v := scan(t, s, largeMessage(t, 1<<20)); v.Bad {
		t.Errorf("large: %+v", v)
	}
	if _, err := s.Scan(t.Context(), largeMessage(t, 3<<20)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

// OpenDKIM is a filter of libmilter's own, and adds a header.
func TestOpenDKIM(t *testing.T) {
	t.Parallel()
	opendkim := testenv.Need(t, "opendkim", "apt-get install opendkim")
	dir := testenv.Folder(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	addr := testenv.FreePort(t)
	config := write(t, dir, "opendkim.conf", fmt.Sprintf("Mode s\nDomain example.com\nSelector s1\nKeyFile %s/key\nSocket inet:%d@127.0.0.1\n"+
		"InternalHosts 192.0.2.0/24\nBackground no\nOversignHeaders From\nRequireSafeKeys no\n", dir, addr))
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: fmt.Sprintf("127.0.0.1:%d", addr), Timeout: time.Minute, StopTimeout: 100 * time.Millisecond},
		opendkim, "-f", "-x", config)
	f := NewMilter(Backend{Address: fmt.Sprintf("127.0.0.1:%d", addr)}, Spam)
	m := largeMessage(t, 300<<10)
	m.Header = append(message.Header{{Name: "Subject", Raw: []byte("Subject:  two spaces\r\n \tand a fold \r\n")}}, m.Header...)
	raw, _ := io.ReadAll(m.Data)
	v := scan(t, f, m)
	if v.Bad || len(v.Headers) != 1 || v.Headers[0].Name != "DKIM-Signature" {
		t.Fatalf("%+v", v)
	}
	// The signature holds for the very bytes, as it is of the kind that forgives
	// nothing (c=simple/simple).
	signed := fmt.Sprintf("DKIM-Signature: %s\r\n%s%s", v.Headers[0].Value, m.Header[0].Raw, raw)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	results, err := dkim.VerifyWithOptions(strings.NewReader(signed), &dkim.VerifyOptions{LookupTXT: func(string) ([]string, error) {
		return []string{"v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(public)}, nil
	}})
	if !strings.Contains(signed, "c=simple/simple") || err != nil || len(results) != 1 || results[0].Err != nil || !slices.Contains(results[0].HeaderKeys, "Subject") {
		t.Errorf("%v, %+v of %s", err, results, v.Headers[0].Value)
	}
}

// largeMessage is a file of this size, of which a part is made up when it is read.
func largeMessage(t testing.TB, size int64) Message {
	m := newMessage(t, "", "x")
	m.Data = io.NewSectionReader(largeText{m.Data}, 0, size)
	return m
}

type largeText struct{ head *io.SectionReader }

func (l largeText) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < l.head.Size() {
		n, _ = l.head.ReadAt(p, off)
	}
	for i := n; i < len(p); i++ {
		p[i] = "some text of a line that goes on and on and on\r\n"[(off+int64(i))%48]
	}
	return len(p), nil
}

func TestNobodyThere(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	for name, s := range backends(Backend{Address: addr}) {
		_, err := s.Scan(context.Background(), newMessage(t, "", "x\n"))
		var backend *BackendError
		if !errors.As(err, &backend) || backend.Backend != name || backend.Address != addr || !strings.HasPrefix(err.Error(), name+" at "+addr+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func backends(b Backend) map[string]Scanner {
	return map[string]Scanner{"rspamd": NewRspamd(b, RspamdOptions{}), "spamd": NewSpamd(b, 0), "clamd": NewClamd(b), "milter": NewMilter(b, Virus)}
}
