package arc

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

const mail = "From: Joe <joe@example.com>\r\nTo: list@example.net\r\nSubject: hi\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700\r\nMessage-ID: <1@example.com>\r\n\r\nHi.\r\n"

const found = "mx.example.net; spf=pass smtp.mailfrom=example.com;\r\n\tdkim=pass header.d=example.com"

type world struct {
	rsaKey  *rsa.PrivateKey
	signer  dkim.Signer // RSA, a.example
	signer2 dkim.Signer // Ed25519, b.example
	txt     map[string]string
	server  *dnstest.Server
}

func newWorld(t testing.TB) *world {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{rsaKey: key, signer: dkim.Signer{Domain: "a.example", Selector: "s", Key: key}, signer2: dkim.Signer{Domain: "b.example", Selector: "s", Key: private}}
	w.txt = map[string]string{
		"s._domainkey.a.example": "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der),
		"s._domainkey.b.example": "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public),
	}
	zone := dnstest.Zone{}
	for name, txt := range w.txt {
		zone[name] = []string{"TXT " + txt}
	}
	w.server = dnstest.New(t, zone)
	return w
}

func (w *world) verify(t testing.TB, msg string) Result {
	t.Helper()
	h, body := read(t, msg)
	return verify(t, dkim.NewKeys(w.server.Resolver()), h, body)
}

// seal verifies a message and seals it.
func (w *world) seal(t testing.TB, msg string, signer dkim.Signer) string {
	t.Helper()
	h, body := read(t, msg)
	set, err := Seal(t.Context(), h, dkim.NewBody(strings.NewReader(body)), time.Unix(1600000000, 0), w.verify(t, msg), []byte(found), signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(set) + msg
}

func TestSeal(t *testing.T) {
	w := newWorld(t)
	one := w.seal(t, mail, w.signer)
	got := w.verify(t, one)
	if got.Status != Pass || got.Sets != 1 || !slices.Equal(got.Sealers, []string{"a.example"}) || !strings.HasPrefix(got.Results, "mx.example.net; spf=pass") {
		t.Fatalf("%+v\n%s", got, one)
	}
	three := w.seal(t, w.seal(t, one, w.signer2), w.signer)
	got = w.verify(t, three)
	if got.Status != Pass || got.Sets != 3 || !slices.Equal(got.Sealers, []string{"a.example", "b.example", "a.example"}) {
		t.Fatalf("%+v", got)
	}

	// A list changes the message, then seals what it is now.
	changed := strings.Replace(three, "Hi.\r\n", "Hi.\r\n-- \r\nThe list\r\n", 1)
	if got = w.verify(t, changed); got.Status != Fail || got.Sealers != nil || !errors.Is(got.Err, dkim.ErrBody) {
		t.Fatalf("%+v", got)
	}
	failed := w.seal(t, changed, w.signer)
	if !strings.Contains(failed, "cv=fail") {
		t.Error(failed)
	}
	got = w.verify(t, failed)
	if got.Status != Fail || got.Sets != 4 {
		t.Fatalf("%+v", got)
	}
	h, body := read(t, failed)
	if _, err := Seal(t.Context(), h, dkim.NewBody(strings.NewReader(body)), time.Now(), got, []byte(found), w.signer); !errors.Is(err, ErrEnded) {
		t.Errorf("a chain that had ended was sealed: %v", err)
	}
}

func TestSealFull(t *testing.T) {
	w := newWorld(t)
	msg := mail
	for sets := range MaxSets {
		chain := Result{Status: Pass, Sets: sets}
		if sets == 0 {
			chain.Status = None
		}
		h, body := read(t, msg)
		set, err := Seal(t.Context(), h, dkim.NewBody(strings.NewReader(body)), time.Now(), chain, []byte(found), w.signer2)
		if err != nil {
			t.Fatal(err)
		}
		msg = string(set) + msg
	}
	got := w.verify(t, msg)
	if got.Status != Pass || got.Sets != MaxSets {
		t.Fatalf("%+v", got)
	}
	h, body := read(t, msg)
	if _, err := Seal(t.Context(), h, dkim.NewBody(strings.NewReader(body)), time.Now(), got, []byte(found), w.signer); !errors.Is(err, ErrEnded) {
		t.Errorf("set 51: %v", err)
	}
}

// What has come to the chain since it was verified, or gone from it, is not sealed.
func TestSealOtherChain(t *testing.T) {
	w := newWorld(t)
	one := w.seal(t, mail, w.signer)
	for _, test := range []struct {
		msg   string
		chain Result
		ok    bool
	}{
		{mail, Result{Status: None}, true},
		{mail, Result{Status: Pass, Sets: 1}, false},
		{mail, Result{Status: Fail, Sets: 1}, false},
		{one, Result{Status: None}, false},
		{one, Result{Status: Pass, Sets: 1}, true},
		{one, Result{Status: Fail, Sets: 1}, true},
		{one, Result{Status: Pass, Sets: 2}, false},
	} {
		h, body := read(t, test.msg)
		if _, err := Seal(t.Context(), h, dkim.NewBody(strings.NewReader(body)), time.Now(), test.chain, []byte(found), w.signer); (err == nil) != test.ok {
			t.Errorf("%+v on %d fields: %v", test.chain, len(h), err)
		}
	}
}

func TestSealWithoutDNS(t *testing.T) {
	w := newWorld(t)
	msg := w.seal(t, mail, w.signer)
	w.server.Set("s._domainkey.a.example", "SERVFAIL")
	got := w.verify(t, msg)
	var temporary dkim.TemporaryError
	if got.Status != Fail || !errors.As(got.Err, &temporary) {
		t.Fatalf("%+v", got)
	}
	h, body := read(t, msg)
	if _, err := Seal(t.Context(), h, dkim.NewBody(strings.NewReader(body)), time.Now(), got, []byte(found), w.signer); !errors.As(err, &temporary) {
		t.Errorf("%v", err)
	}
}

// TestBrokenChains are chains that were never right.
func TestBrokenChains(t *testing.T) {
	w := newWorld(t)
	one := w.seal(t, mail, w.signer)

	// Each seal has to hold: the newest covers those before it, but whoever made
	// it may have lied about them.
	other := newWorld(t)
	forged := other.seal(t, mail, other.signer)
	h, body := read(t, forged)
	set, err := Seal(t.Context(), h, dkim.NewBody(strings.NewReader(body)), time.Now(), Result{Status: Pass, Sets: 1}, []byte(found), w.signer2)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.verify(t, string(set)+forged); got.Status != Fail || !strings.Contains(got.Err.Error(), "seal 1") {
		t.Errorf("%+v", got)
	}

	for _, tag := range []string{"h=From", "bh=AAAA", "c=relaxed/relaxed"} {
		if got := w.verify(t, strings.Replace(one, "cv=none;", "cv=none; "+tag+";", 1)); got.Status != Fail || !strings.Contains(got.Err.Error(), "has a tag") {
			t.Errorf("%s: %+v", tag, got)
		}
	}

	// What cannot be read is sealed as failed, alone.
	odd := w.seal(t, "ARC-Seal: i=3; what\r\nARC-Seal: i=3; cv=pass\r\n"+mail, w.signer)
	if !strings.Contains(odd, "i=4;") || !strings.Contains(odd, "cv=fail") {
		t.Error(odd)
	}
}

// TestEachByte changes each byte of a chain of two.
func TestEachByte(t *testing.T) {
	w := newWorld(t)
	msg := w.seal(t, w.seal(t, mail, w.signer2), w.signer2)
	keys := dkim.NewKeys(w.server.Resolver())
	spare, step := 0, 1
	if testenv.Race {
		step = 5
	}
	for i := 0; i < len(msg); i += step {
		changed := []byte(msg)
		changed[i] ^= 1
		h, body := read(t, string(changed))
		if got := verify(t, keys, h, body); got.Status == Pass {
			if msg[i+1] == '=' || msg[i+1] == '\r' && strings.Contains(msg[i-4:i], "=") { // bits that base64 does not use
				spare++
				continue
			}
			t.Errorf("byte %d after %q was changed to %q and nobody saw it", i, msg[max(0, i-10):i+1], changed[i])
		}
	}
	if spare > 4 {
		t.Errorf("%d bytes make no difference", spare)
	}
}

// peer runs dkimpy, see dkim/testdata/peer.py.
func peer[T any](t *testing.T, jobs ...map[string]any) [][]T {
	t.Helper()
	python := testenv.Need(t, "/usr/bin/python3", "apt-get install python3-dkim python3-nacl")
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "../dkim/testdata/peer.py")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if strings.Contains(stderr.String(), "ModuleNotFoundError") {
			testenv.Lacks(t, "dkimpy is missing; get it with: apt-get install python3-dkim python3-nacl")
		}
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var answers [][]T
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatal(err)
	}
	return answers
}

func TestPeer(t *testing.T) {
	w := newWorld(t)
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(w.rsaKey)})
	arcsign := map[string]any{"do": "arcsign", "selector": "s", "domain": "a.example", "key": string(private), "records": w.txt}
	ours := w.seal(t, mail, w.signer)
	var messages [][]byte
	for _, msg := range []string{mail, ours} {
		messages = append(messages, []byte("Authentication-Results: peer.example; arc="+string(w.verify(t, msg).Status)+"; spf=pass\r\n"+msg))
	}
	arcsign["messages"] = messages
	sets := peer[string](t, arcsign)[0]
	theirs, mixed := sets[0]+mail, w.seal(t, sets[1]+ours, w.signer)
	for name, msg := range map[string]string{"theirs": theirs, "ours, theirs, ours": mixed} {
		if got := w.verify(t, msg); got.Status != Pass {
			t.Errorf("%s: we say %+v\n%s", name, got, msg)
		}
	}
	oursOnTheirs := w.seal(t, theirs, w.signer)
	broken := strings.Replace(ours, "Hi.", "Ho.", 1)
	verdicts := peer[[]string](t, map[string]any{
		"do": "arcverify", "records": w.txt,
		"messages": [][]byte{[]byte(ours), []byte(oursOnTheirs), []byte(mixed), []byte(w.seal(t, oursOnTheirs, w.signer)), []byte(broken)},
	})
	for i, got := range verdicts[0] {
		want := "pass"
		if i == 4 {
			want = "fail"
		}
		if got[0] != want {
			t.Errorf("message %d: dkimpy says %q, want %s", i, got, want)
		}
	}
}

func FuzzChain(f *testing.F) {
	w := newWorld(f)
	msg := w.seal(f, w.seal(f, mail, w.signer), w.signer2)
	f.Add(msg[:strings.Index(msg, "\r\nFrom:")+2])
	f.Add("ARC-Seal: i=1; cv=none; a=rsa-sha256; d=a.example; s=s; b=AA\r\nARC-Authentication-Results: i=1 ; x\r\n")
	keys := dkim.NewKeys(w.server.Resolver())
	f.Fuzz(func(t *testing.T, fields string) {
		h, body := read(t, fields+"X: y\r\nFrom: joe@example.com\r\n\r\nHi.\r\n")
		if got := verify(t, keys, h, body); got.Status == Pass && got.Sets > 2 {
			t.Errorf("%+v", got)
		}
	})
}
