package dkim

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A pair is a key and its record.
type pair struct {
	signer    Signer
	algorithm string
	record    string
	private   string // as dkimpy wants it
}

func newRSA(t testing.TB, bits int) pair {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	return pair{Signer{"example.com", "rsa", key}, RSA, "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der), string(private)}
}

func newEd25519(t testing.TB) pair {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		Signer{"example.com", "ed", key}, Ed25519, "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public),
		base64.StdEncoding.EncodeToString(key.Seed()),
	}
}

// records are the TXT records of pairs by name.
func records(pairs ...pair) map[string]string {
	m := map[string]string{}
	for _, p := range pairs {
		m[p.signer.Selector+"._domainkey."+p.signer.Domain] = p.record
	}
	return m
}

func keysOf(t testing.TB, pairs ...pair) *Keys {
	zone := dnstest.Zone{}
	for name, txt := range records(pairs...) {
		zone[name] = []string{"TXT " + txt}
	}
	return NewKeys(dnstest.New(t, zone).Resolver())
}

type job struct {
	Do        string            `json:"do"`
	Messages  [][]byte          `json:"messages"`
	Records   map[string]string `json:"records,omitempty"`
	Selector  string            `json:"selector,omitempty"`
	Domain    string            `json:"domain,omitempty"`
	Key       string            `json:"key,omitempty"`
	Canon     string            `json:"canon,omitempty"`
	Algorithm string            `json:"algorithm,omitempty"`
	Length    bool              `json:"length,omitempty"`
}

// peer lets testdata/peer.py do jobs.
func peer[T any](t testing.TB, jobs ...job) [][]T {
	t.Helper()
	python := testenv.Need(t, "/usr/bin/python3", "apt-get install python3-dkim python3-nacl libopendkim11")
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "testdata/peer.py")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if text := stderr.String(); strings.Contains(text, "ModuleNotFoundError") || strings.Contains(text, "cannot open shared object") {
			testenv.Lacks(t, "dkimpy or OpenDKIM is missing; get it with: apt-get install python3-dkim python3-nacl libopendkim11")
		}
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var answers [][]T
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return answers
}

// noLineEnd is the message that OpenDKIM cannot sign: it ends without a line
// end, as none does that came by SMTP's DATA.
const noLineEnd = 3

// mails are messages that are hard to see past.
func mails() [][]byte {
	head := "From: Joe <joe@example.com>\nTo: a@example.net\nSubject: hi\nDate: Fri, 11 Jul 2003 21:00:37 -0700\nMessage-ID: <1@example.com>\n"
	return [][]byte{
		crlf(dinner),
		crlf(head + "\n"),
		crlf(head + "\n\n\n\n"),
		crlf(head + "\nno line end"),
		crlf(head + "\n\n\n leading and  inner \t white space \t \n \t\nx\n\n \n\n"),
		crlf("SUBJECT:   folded\n  twice\n\tand \n\tagain  \nFrom:joe@example.com\nTo: a@example.net,\n\tb@example.net\nDate: x\nX-Empty:\n\nbody\n"),
		crlf("Received: 1\nReceived: 2\nFrom: joe@example.com\nComments: one\nComments: two\nContent-Type: text/plain;\n charset=utf-8\n\ngr\xc3\xbc\xc3\x9fe\n"),
		crlf("X-Note: b=not a signature; c=d\nFrom: joe@example.com\nSubject: a; b=c; b=d\n\n" + strings.Repeat("line with text \n", 5000)),
	}
}

func sign(t testing.TB, msg []byte, pairs ...pair) []byte {
	t.Helper()
	h, body := split(t, msg)
	var signers []Signer
	for _, p := range pairs {
		signers = append(signers, p.signer)
	}
	field, err := Sign(t.Context(), h, bytes.NewReader(body), signers...)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(field), "\r\n"), "\r\n") {
		if len(line) > 998 { // RFC 5322 section 2.1.1
			t.Errorf("a line has %d bytes: %q", len(line), line)
		}
	}
	return append(field, msg...)
}

func TestWeSignPeersVerify(t *testing.T) {
	rsaKey, edKey := newRSA(t, 2048), newEd25519(t)
	var signed, rsaOnly [][]byte
	for _, m := range mails() {
		signed = append(signed, sign(t, m, rsaKey, edKey))
		rsaOnly = append(rsaOnly, sign(t, m, rsaKey))
	}
	dkimpy := peer[[]string](t, job{Do: "verify", Messages: signed, Records: records(rsaKey, edKey)})
	for i, got := range dkimpy[0] {
		if !slices.Equal(got, []string{"pass", "pass"}) {
			t.Errorf("message %d: dkimpy says %q\n%s", i, got, signed[i][:min(len(signed[i]), 2000)])
		}
	}
	opendkim := peer[string](t, job{Do: "opendkim", Messages: rsaOnly, Records: records(rsaKey)})
	for i, got := range opendkim[0] {
		if got != "pass" && i != noLineEnd {
			t.Errorf("message %d: OpenDKIM says %q", i, got)
		}
	}
	keys := keysOf(t, rsaKey, edKey)
	for i, m := range signed {
		for _, v := range verifyAll(t, keys, m, time.Now()) {
			if v.Result != Pass {
				t.Errorf("message %d: we say %s (%v)", i, v.Result, v.Err)
			}
		}
	}
}

func TestPeersSignWeVerify(t *testing.T) {
	rsaKey, edKey := newRSA(t, 2048), newEd25519(t)
	keys := keysOf(t, rsaKey, edKey)
	var jobs []job
	for _, p := range []pair{rsaKey, edKey} {
		for _, canon := range []string{"simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"} {
			j := job{
				Do: "sign", Messages: mails(), Selector: p.signer.Selector, Domain: p.signer.Domain, Key: p.private,
				Canon: canon, Algorithm: p.algorithm,
			}
			jobs = append(jobs, j)
			j.Length = true
			jobs = append(jobs, j)
			if p.algorithm == RSA { // Debian's OpenDKIM has no Ed25519
				j.Do = "opendkimsign"
				jobs = append(jobs, j)
			}
		}
	}
	for n, fields := range peer[string](t, jobs...) {
		j := jobs[n]
		for i, m := range mails() {
			if i == noLineEnd && j.Do == "opendkimsign" {
				continue
			}
			got := verifyAll(t, keys, append([]byte(fields[i]), m...), time.Now())
			if len(got) != 1 || got[0].Result != Pass {
				t.Errorf("%s %s %s l=%v, message %d: %+v\n%s", j.Do, j.Algorithm, j.Canon, j.Length, i, got, fields[i])
			}
		}
	}
}

func signerOpts(p pair) crypto.SignerOpts {
	if p.algorithm == Ed25519 {
		return crypto.Hash(0)
	}
	return crypto.SHA256
}
