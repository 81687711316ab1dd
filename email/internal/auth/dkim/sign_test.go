package dkim

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// TestOversigned adds fields that a reader would see instead of those signed.
func TestOversigned(t *testing.T) {
	key := newEd25519(t)
	keys := keysOf(t, key)
	signed := sign(t, crlf("Cc: c@example.com\n"+dinner), key)
	for _, field := range []string{
		"From: x@example.com", "Subject: x", "To: x@example.com", "Cc: x@example.com", "Date: x", "Message-ID: <x>",
		"Reply-To: x@example.com", "MIME-Version: 1.0", "Content-Type: text/html",
	} {
		if got := verifyAll(t, keys, append([]byte(field+"\r\n"), signed...), time.Now()); len(got) != 1 || got[0].Result != Fail {
			t.Errorf("%s: %+v", field, got)
		}
	}
	if got := verifyAll(t, keys, append([]byte("Received: x\r\n"), signed...), time.Now()); len(got) != 1 || got[0].Result != Pass {
		t.Errorf("%+v", got)
	}
}

func TestSignRefuses(t *testing.T) {
	key := newEd25519(t)
	weak := newRSA(t, 1024).signer
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak.Key = newRSA(t, 768).signer.Key
	h, _ := split(t, crlf(dinner))
	many, _ := split(t, append(bytes.Repeat([]byte("To:\r\n"), 300), crlf(dinner)...))
	for name, test := range map[string]struct {
		h    message.Header
		body string
		s    Signer
		err  string
	}{
		"no From":     {h[1:], "", key.signer, "From"},
		"two From":    {append(h[:1:1], h...), "", key.signer, "From"},
		"many fields": {many, "", key.signer, "many fields"},
		"domain":      {h, "", Signer{"example.com; x=1", "s", key.signer.Key}, "no domain name"},
		"selector":    {h, "", Signer{"example.com", "s\r\nX: y", key.signer.Key}, "no domain name"},
		"weak key":    {h, "", weak, "1024 bits"},
		"empty lines": {h, "x\r\n" + strings.Repeat("\r\n \t\r\n", maxEmptyLines/2) + "\r\nx", key.signer, "empty lines"},
	} {
		synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
			field, err := Sign(t.Context(), test.h, strings.NewReader(test.body), key.signer, test.s)
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: %q, %v", name, field, err)
			}
		})
	}
	most := strings.Repeat("\r\n", maxEmptyLines-1) + "x\r\n"
	if _, err := Sign(t.Context(), h, strings.NewReader(most+most), key.signer); err != nil {
		t.Error(err)
	}
}

// TestLongestNames signs a message with all fields that are signed, each as often
// as RFC 5322 section 3.6 allows: the line that names them is the longest.
func TestLongestNames(t *testing.T) {
	key := newEd25519(t)
	var msg string
	for _, name := range signedFields(NewHasher(nil)) {
		msg += name + ": <joe@example.com>\n"
	}
	for _, name := range []string{
		"Sender", "In-Reply-To", "References", "Content-Transfer-Encoding", "Content-Disposition",
		"List-Id", "List-Post", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "Autocrypt",
	} {
		msg += name + ": <x>\n"
	}
	signed := sign(t, crlf(msg+"\n"), key)
	if got := verifyAll(t, keysOf(t, key), signed, time.Now()); len(got) != 1 || got[0].Result != Pass {
		t.Errorf("%+v", got)
	}
	lines := strings.Split(string(signed), "\r\n")
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, " h=") }); len(lines[i]) > 380 {
		t.Errorf("%d bytes: %s", len(lines[i]), lines[i])
	}
}

// TestTimeOfSignature reads t=.
func TestTimeOfSignature(t *testing.T) {
	before := time.Now().Unix()
	h, _ := split(t, sign(t, crlf(dinner), newEd25519(t)))
	s, err := ParseSignature(h[0])
	if err != nil {
		t.Fatal(err)
	}
	made, _ := s.Tags.Get("t")
	if n, err := strconv.ParseInt(made, 10, 64); err != nil || n < before || n > time.Now().Unix() {
		t.Errorf("t=%s, and it was %d", made, before)
	}
}

// BenchmarkSign signs 1 MiB with two keys.
func BenchmarkSign(b *testing.B) {
	h, _ := split(b, crlf(dinner))
	rsaKey, edKey := newRSA(b, 2048), newEd25519(b)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Sign(b.Context(), h, io.Reader(&lines{left: 1 << 20}), rsaKey.signer, edKey.signer); err != nil {
			b.Fatal(err)
		}
	}
}
