package proxyheader

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// What a header may be, and what not, is tested where the proxy reads them.
func TestRead(t *testing.T) {
	const header = "PROXY TCP4 192.0.2.1 203.0.113.9 12345 25\r\n"
	long := signature2 + "\x21\x11\x10\x00" + "\xc0\x00\x02\x01\xcb\x00\x71\x09\x30\x39\x00\x19" + strings.Repeat("\x04", 4096-12)
	for _, test := range []string{header, header + "EHLO x\r\n", long, long + "EHLO x\r\n"} {
		for name, r := range map[string]io.Reader{"at once": strings.NewReader(test), "in pieces": iotest.OneByteReader(strings.NewReader(test))} {
			client, local, rest, err := Read(r)
			more, _ := io.ReadAll(r)
			if err != nil || client.String() != "192.0.2.1:12345" || local.String() != "203.0.113.9:25" {
				t.Errorf("%s, %d bytes: %v to %v, %v", name, len(test), client, local, err)
			}
			if left := string(append(rest, more...)); left != strings.TrimPrefix(strings.TrimPrefix(test, header), long) {
				t.Errorf("%s, %d bytes: left %q", name, len(test), left)
			}
		}
	}
	if _, _, _, err := Read(strings.NewReader(header[:20])); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if _, _, _, err := Read(bytes.NewReader([]byte("EHLO x\r\n"))); !errors.Is(err, errNone) {
		t.Error(err)
	}
}
