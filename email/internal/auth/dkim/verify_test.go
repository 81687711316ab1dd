package dkim

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// craft signs a message with any tags, which may hold {bh} for the hash of the
// body. The signature is right; whether it is to be accepted is the question.
func craft(t testing.TB, p pair, msg []byte, tags string) []byte {
	t.Helper()
	h, body := split(t, msg)
	parsed, _ := ParseTags(tags)
	c, _ := parsed.Get("c")
	headerCanon, bodyCanon, _ := parseCanon(c)
	length := int64(-1)
	if l, ok := parsed.Get("l"); ok {
		length, _ = number("l", l)
	}
	sum, _, err := NewBody(bytes.NewReader(body)).Sum(bodyCanon, length)
	if err != nil {
		t.Fatal(err)
	}
	tags = strings.ReplaceAll(tags, "{bh}", base64.StdEncoding.EncodeToString(sum))
	names, _ := parsed.Get("h")
	raw := []byte("DKIM-Signature: " + tags + "; b=\r\n")
	signature, err := p.signer.Key.Sign(nil, NewHasher(h).Sum(headerCanon, list(names), raw), signerOpts(p))
	if err != nil {
		t.Fatal(err)
	}
	raw = []byte("DKIM-Signature: " + tags + "; b=" + base64.StdEncoding.EncodeToString(signature) + "\r\n")
	return append(raw, msg...)
}

const usual = "v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=rsa; h=From:To:Subject; bh={bh}"

func TestVerify(t *testing.T) {
	key := newRSA(t, 1024)
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak := newRSA(t, 768)
	weak.signer.Selector = "weak"
	p := strings.TrimPrefix(key.record, "v=DKIM1; k=rsa; ")
	zone := dnstest.Zone{
		"rsa._domainkey.example.com":           {"TXT " + key.record},
		"rsa._domainkey.xn--bcher-kva.example": {"TXT " + key.record},
		"weak._domainkey.example.com":          {"TXT " + weak.record},
		"strict._domainkey.example.com":        {"TXT t=s; " + p},
		"testing._domainkey.example.com":       {"TXT v=DKIM1; t=y:x; n=note; " + p},
		"revoked._domainkey.example.com":       {"TXT v=DKIM1; p="},
		"sha1._domainkey.example.com":          {"TXT v=DKIM1; h=sha1; " + p},
		"both._domainkey.example.com":          {"TXT v=DKIM1; h=sha1 : sha256; s=email; " + p},
		"calendar._domainkey.example.com":      {"TXT v=DKIM1; s=calendar; " + p},
		"ed._domainkey.example.com":            {"TXT v=DKIM1; k=ed25519; " + p},
		"version._domainkey.example.com":       {"TXT v=DKIM2; " + p},
		"late._domainkey.example.com":          {"TXT " + p + "; v=DKIM1"},
		"broken._domainkey.example.com":        {"TXT v=DKIM1; p=AAAA"},
		"twice._domainkey.example.com":         {"TXT some text", "TXT " + key.record},
		"down._domainkey.example.com":          {"SERVFAIL"},
	}
	resolver := dnstest.New(t, zone).Resolver()
	msg := crlf(dinner)
	twoFrom := crlf("From: bank@example.com\n" + dinner)
	more := append(bytes.Clone(msg), "an advertisement\r\n"...)
	replace := func(old, new string) string {
		if !strings.Contains(usual, old) {
			t.Fatal(old)
		}
		return strings.Replace(usual, old, new, 1)
	}
	tests := []struct {
		name   string
		tags   string
		msg    []byte // msg by default
		change func([]byte) []byte
		want   Result
		err    string
		// msgauth is what go-msgauth says where one takes for authentic what the
		// other does not.
		msgauth string
	}{
		{name: "usual", tags: usual, want: Pass},
		{name: "simple", tags: replace("relaxed/relaxed", "simple"), want: Pass},
		{name: "no c", tags: replace("c=relaxed/relaxed; ", ""), want: Pass},
		{name: "order and space", tags: "bh={bh} ;\r\n\th=\tFrom :\r\n To;s=rsa;d = EXAMPLE.com; c=simple/relaxed; a=RSA-SHA256 ;v=1", want: Pass, msgauth: "unsupported hash"},
		{name: "unknown tags", tags: usual + "; foo=bar; z=From:b=x|To:y; r=b=c", want: Pass, msgauth: "did not verify"},
		{name: "b in another tag first", tags: "x_b=1; z=b=AAAA; " + usual, want: Pass, err: "", msgauth: "did not verify"},
		{name: "U-label", tags: replace("example.com", "bücher.example"), want: Pass, msgauth: "no key"},
		{name: "identity", tags: usual + "; i=joe@example.com", want: Pass},
		{name: "identity below", tags: usual + "; i=joe@mail.Example.com", want: Pass, msgauth: "domain mismatch"},
		{name: "identity above", tags: usual + "; i=joe@com", want: PermError, err: "outside"},
		{name: "identity beside", tags: usual + "; i=joe@badexample.com", want: PermError, err: "outside"},
		{name: "identity without domain", tags: usual + "; i=joe", want: PermError, err: "no domain"},
		{name: "strict", tags: replace("s=rsa", "s=strict"), want: Pass},
		{name: "strict, identity below", tags: replace("s=rsa", "s=strict") + "; i=@mail.example.com", want: PermError, err: "below", msgauth: "pass"},
		{name: "testing", tags: replace("s=rsa", "s=testing"), want: Pass},
		{name: "expired", tags: usual + "; t=1600000000; x=1600000001", want: PermError, err: "expired"},
		{name: "expires later", tags: usual + "; t=1600000000; x=1600000200", want: Pass, msgauth: "expired"},
		{name: "expires before", tags: usual + "; t=1600000000; x=1599999999", want: PermError, err: "before"},
		{name: "expires never", tags: usual + "; x=99999999999999999999", want: PermError, err: "too large"},
		{name: "time is no number", tags: usual + "; t=now; x=1600000200", want: PermError, err: "no number"},
		{name: "l of all", tags: usual + "; l=" + "54", want: Pass, msgauth: "insecure body length"},
		{name: "l of a part", tags: usual + "; l=10", want: Policy, err: "44 bytes"},
		{name: "l of nothing", tags: usual + "; l=0", want: Policy, err: "54 bytes"},
		{name: "l and more", tags: usual + "; l=54", change: func([]byte) []byte { return more }, want: Policy, err: "18 bytes"},
		{name: "l too long", tags: usual + "; l=55", want: Fail, err: "shorter"},
		{name: "l is no number", tags: usual + "; l=-1", want: PermError, err: "no number"},
		{name: "body and more", tags: usual, change: func([]byte) []byte { return more }, want: Fail, err: "body hash"},
		{name: "From is not signed", tags: replace("From:To", "To"), want: PermError, err: "From is not signed"},
		{name: "another From on top", tags: usual, change: func([]byte) []byte { return twoFrom }, want: Policy, err: "field From", msgauth: "pass"},
		{name: "another From, oversigned", tags: replace("From:To", "From:From:To"), change: func([]byte) []byte { return twoFrom }, want: Fail},
		{name: "two From, both signed", tags: replace("From:To", "From:From:To"), msg: twoFrom, want: Pass},
		{name: "another To, oversigned", tags: replace("From:To", "From:To:To"), change: func(m []byte) []byte { return append([]byte("To: x@example.com\r\n"), m...) }, want: Fail},
		{name: "another Subject below", tags: usual, change: func(m []byte) []byte {
			return bytes.Replace(m, []byte("Date:"), []byte("Subject: no\r\nDate:"), 1)
		}, want: Fail},
		{name: "a field that is not signed", tags: usual, change: func(m []byte) []byte { return append([]byte("X: y\r\n"), m...) }, want: Pass},
		{name: "SHA-1", tags: replace("rsa-sha256", "rsa-sha1"), want: Policy, err: "rsa-sha1"},
		{name: "other algorithm", tags: replace("rsa-sha256", "dsa"), want: Policy, err: "dsa"},
		{name: "other canonicalization", tags: replace("relaxed/relaxed", "nofws"), want: PermError, err: "nofws"},
		{name: "other query", tags: usual + "; q=http", want: PermError, err: "http"},
		{name: "query", tags: usual + "; q=http : dns/txt", want: Pass},
		{name: "version", tags: replace("v=1", "v=2"), want: PermError, err: "tag v"},
		{name: "no version", tags: replace("v=1; ", ""), want: PermError, err: "tag v"},
		{name: "no a", tags: replace("a=rsa-sha256; ", ""), want: PermError, err: "tag a"},
		{name: "no d", tags: replace("d=example.com; ", ""), want: PermError, err: "tag d"},
		{name: "no s", tags: replace("s=rsa; ", ""), want: PermError, err: "tag s"},
		{name: "no h", tags: replace("h=From:To:Subject; ", ""), want: PermError, err: "tag h"},
		{name: "no bh", tags: replace("; bh={bh}", ""), want: PermError, err: "tag bh"},
		{name: "bh is no base64", tags: replace("{bh}", "!"), want: PermError, err: "base64"},
		{name: "a tag twice", tags: usual + "; d=example.net", want: PermError, err: "twice"},
		{name: "no tag", tags: usual + "; nonsense", want: PermError, err: "no tag"},
		{name: "many tags", tags: usual + manyTags(80), want: PermError, err: "too many tags"},
		{name: "many headers", tags: replace("From:To", "From"+strings.Repeat(":x", 600)), want: PermError, err: "too many fields", msgauth: "pass"},
		{name: "domain is none", tags: replace("example.com", "exa mple.com"), want: PermError, err: "no domain name", msgauth: "pass"},
		{name: "no key", tags: replace("s=rsa", "s=none"), want: PermError, err: "no key"},
		{name: "key revoked", tags: replace("s=rsa", "s=revoked"), want: PermError, err: "revoked"},
		{name: "key for SHA-1", tags: replace("s=rsa", "s=sha1"), want: PermError, err: "no key"},
		{name: "key for both", tags: replace("s=rsa", "s=both"), want: Pass},
		{name: "key for calendars", tags: replace("s=rsa", "s=calendar"), want: PermError, err: "no key"},
		{name: "key of another kind", tags: replace("s=rsa", "s=ed"), want: PermError, err: "no key"},
		{name: "key of another version", tags: replace("s=rsa", "s=version"), want: PermError, err: "no key"},
		{name: "version of key not first", tags: replace("s=rsa", "s=late"), want: PermError, err: "no key", msgauth: "pass"},
		{name: "broken key", tags: replace("s=rsa", "s=broken"), want: PermError, err: "RSA key"},
		{name: "text beside the key", tags: replace("s=rsa", "s=twice"), want: Pass, msgauth: "multiple TXT"},
		{name: "DNS is down", tags: replace("s=rsa", "s=down"), want: TempError, err: "DNS"},
		{name: "weak key", tags: replace("s=rsa", "s=weak"), want: Policy, err: "1024"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, signer := msg, key
			if test.msg != nil {
				m = test.msg
			}
			if test.name == "weak key" {
				signer = weak
			}
			signed := craft(t, signer, m, test.tags)
			if test.change != nil {
				field := signed[:bytes.Index(signed, []byte("\r\nFrom:"))+2]
				signed = append(bytes.Clone(field), test.change(m)...)
			}
			got := verifyAll(t, NewKeys(resolver), signed, time.Unix(1600000100, 0))
			if len(got) != 1 || got[0].Result != test.want {
				t.Fatalf("%+v, want %s", got, test.want)
			}
			if (test.err == "") != (got[0].Err == nil) && test.want != Fail || test.err != "" && !strings.Contains(got[0].Err.Error(), test.err) {
				t.Errorf("error %v, want %q", got[0].Err, test.err)
			}
			msgauth := libraryVerifies(t, lookupOf(t.Context(), resolver), signed)[0]
			if agreed := (test.want == Pass) == (msgauth == "pass"); agreed != (test.msgauth == "") || !strings.Contains(msgauth, test.msgauth) {
				t.Errorf("go-msgauth says %q, want %q", msgauth, test.msgauth)
			}
			if got[0].Testing != (test.name == "testing") {
				t.Errorf("testing: %v", got[0].Testing)
			}
		})
	}
}

func manyTags(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("; t" + strings.Repeat("x", i+1) + "=1")
	}
	return b.String()
}

// TestEachByte changes each byte of signed messages.
func TestEachByte(t *testing.T) {
	rsaKey, edKey := newRSA(t, 1024), newEd25519(t)
	keys := keysOf(t, rsaKey, edKey)
	for _, msg := range [][]byte{
		sign(t, crlf(dinner), edKey),
		craft(t, rsaKey, crlf(dinner), "v=1; a=rsa-sha256; c=simple/simple; d=example.com; s=rsa; h=From:To:Subject:Date:Message-ID; bh={bh}"),
	} {
		if got := verifyAll(t, keys, msg, time.Now()); len(got) != 1 || got[0].Result != Pass {
			t.Fatalf("%+v", got)
		}
		spare := bytes.Index(msg, []byte("\r\nFrom:")) - 1 // the last bits of base64 before its padding mean nothing
		for msg[spare] == '=' {
			spare--
		}
		for i := range msg {
			changed := bytes.Clone(msg)
			changed[i] ^= 1
			for _, v := range verifyAll(t, keys, changed, time.Now()) {
				if v.Result == Pass && i != spare {
					t.Errorf("byte %d of %q was changed to %q and nobody saw it", i, msg[max(0, i-10):i+1], changed[i])
				}
			}
		}
	}
}

func TestEightSignatures(t *testing.T) {
	key := newEd25519(t)
	msg := sign(t, crlf(dinner), key)
	field := msg[:bytes.Index(msg, []byte("\r\nFrom:"))+2]
	many := append(bytes.Repeat(field, 20), crlf(dinner)...)
	server := dnstest.New(t, dnstest.Zone{"ed._domainkey.example.com": {"TXT " + key.record}})
	got := verifyAll(t, NewKeys(server.Resolver()), many, time.Now())
	if len(got) != MaxSignatures {
		t.Errorf("%d signatures were looked at", len(got))
	}
	for _, v := range got {
		if v.Result != Pass {
			t.Errorf("%+v", v)
		}
	}
	if asked := server.Asked(); asked["ed._domainkey.example.com"] != 1 {
		t.Errorf("the key was asked for %d times", asked["ed._domainkey.example.com"])
	}
}

// TestLargeHeader has the largest header section there can be, in short lines:
// to fold and unfold must not take time by the square of them.
func TestLargeHeader(t *testing.T) {
	key := newEd25519(t)
	keys := keysOf(t, key)
	line := "\r\n\tx"
	msg := append([]byte("Subject: "+strings.Repeat(line, 50<<10/len(line))+"\r\n"), crlf(dinner)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	signed := sign(t, msg, key)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("%d bytes were allocated to sign", used)
	}
	field := signed[:bytes.Index(signed, []byte("\r\nSubject:"))+2]
	signed = append(bytes.Repeat(field, MaxSignatures), msg...)
	start := time.Now()
	for _, v := range verifyAll(t, keys, signed, time.Now()) {
		if v.Result != Pass {
			t.Errorf("%+v", v)
		}
	}
	// It takes 5 ms; by the square it would be half a minute.
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// lines is a body that is made as it is read.
type lines struct{ left, read int64 }

func (l *lines) Read(p []byte) (int, error) {
	const line = "A line of text  with white \t space in it, as most have it here.\r\n"
	if l.left == 0 {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && l.left > 0 {
		k := copy(p[n:], line[l.read%int64(len(line)):])
		k = int(min(int64(k), l.left))
		n, l.left, l.read = n+k, l.left-int64(k), l.read+int64(k)
	}
	return n, nil
}

func TestLargeBody(t *testing.T) {
	size := int64(50 << 20)
	if testenv.Race {
		size = 1 << 20
	}
	body := &lines{left: size}
	b := NewBody(body)
	b.Want(Simple, -1)
	b.Want(Relaxed, -1)
	b.Want(Relaxed, 1000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, total, err := b.Sum(Simple, -1); err != nil || total < size {
		t.Fatal(total, err)
	}
	if _, _, err := b.Sum(Relaxed, 1000); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 256<<10 {
		t.Errorf("%d bytes were allocated", used)
	}
	if body.read != size {
		t.Errorf("%d bytes were read of %d", body.read, size)
	}
	if _, _, err := b.Sum(Simple, 7); err == nil {
		t.Error("a hash that nobody wanted")
	}
}

func TestBodyThatCannotBeRead(t *testing.T) {
	key := newEd25519(t)
	h, body := split(t, sign(t, crlf(dinner), key))
	broken := errors.New("broken disk")
	b := NewBody(io.MultiReader(bytes.NewReader(body[:5]), failing{broken}))
	c := Parse(h, b)
	got := c.Verify(t.Context(), NewHasher(h), b, keysOf(t, key), time.Now())
	if len(got) != 1 || got[0].Result != TempError || !errors.Is(got[0].Err, broken) {
		t.Errorf("%+v", got)
	}
	if _, err := Sign(t.Context(), h, failing{broken}, key.signer, key.signer); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
