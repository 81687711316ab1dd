package dkim

import (
	"bufio"
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// libraryVerifies returns what go-msgauth says of a message's signatures: "pass"
// or why not.
func libraryVerifies(t testing.TB, lookup func(name string) ([]string, error), msg []byte) []string {
	t.Helper()
	list, err := dkim.VerifyWithOptions(bytes.NewReader(msg), &dkim.VerifyOptions{LookupTXT: lookup})
	if err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	var got []string
	for _, v := range list {
		if v.Err != nil {
			got = append(got, v.Err.Error())
		} else {
			got = append(got, "pass")
		}
	}
	return got
}

// lookupOf lets the library ask a resolver as we do.
func lookupOf(ctx context.Context, r *net.Resolver) func(string) ([]string, error) {
	return func(name string) ([]string, error) { return r.LookupTXT(ctx, name+".") }
}

// TestLikeLibrary changes signed messages at random places: what we take for
// authentic, go-msgauth has to, and the other way round. TestVerify lists where
// the two do not agree.
func TestLikeLibrary(t *testing.T) {
	rsaKey, edKey := newRSA(t, 1024), newEd25519(t)
	keys, txt := keysOf(t, rsaKey, edKey), records(rsaKey, edKey)
	lookup := func(name string) ([]string, error) {
		if record, ok := txt[name]; ok {
			return []string{record}, nil
		}
		return nil, &net.DNSError{Name: name, Err: "no such host", IsNotFound: true}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	compared := map[bool]int{}
	compare := func(msg []byte) {
		t.Helper()
		ours, library := verifyAll(t, keys, msg, time.Now()), libraryVerifies(t, lookup, msg)
		if len(ours) != len(library) {
			t.Fatalf("%d and %d signatures\n%q", len(ours), len(library), msg)
		}
		for i, v := range ours {
			if (v.Result == Pass) != (library[i] == "pass") {
				t.Errorf("we say %s (%v), the library %s\n%q", v.Result, v.Err, library[i], msg[:min(len(msg), 1500)])
			}
			compared[v.Result == Pass]++
		}
	}
	for _, m := range mails() {
		m = m[:min(len(m), 3000)]
		compare(sign(t, m, rsaKey, edKey))
		for _, p := range []pair{rsaKey, edKey} {
			for _, canon := range []string{"simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"} {
				signed := craft(t, p, m, "v=1; a="+p.algorithm+"; c="+canon+"; d=example.com; s="+p.signer.Selector+
					"; t=1600000000;\r\n\th=From : To:From:Subject:\r\n\tSubject:Comments:X-Note; bh={bh}")
				compare(signed)
				for range 30 {
					if changed := mutate(rng, signed); wellFormed(changed) {
						compare(changed)
					}
				}
			}
		}
	}
	if compared[true] < 100 || compared[false] < 500 {
		t.Errorf("%d were authentic and %d not: too few to say anything", compared[true], compared[false])
	}
}

// mutate changes, takes out or repeats some bytes, mostly among the first.
func mutate(rng *rand.Rand, msg []byte) []byte {
	i := rng.IntN(min(len(msg), 1500))
	n := min(1+rng.IntN(3), len(msg)-i)
	switch rng.IntN(4) {
	case 0:
		out := bytes.Clone(msg)
		out[i] ^= 1 << rng.IntN(8)
		return out
	case 1:
		return append(bytes.Clone(msg[:i]), msg[i+n:]...)
	case 2:
		return append(bytes.Clone(msg[:i+n]), msg[i:]...)
	}
	with := []string{" ", "\t", "\r\n", "\r\n ", ";", "b=", "X: y\r\n", "From: x@example.com\r\n"}
	return append(append(bytes.Clone(msg[:i]), with[rng.IntN(len(with))]...), msg[i:]...)
}

// wellFormed reports whether a message is one that the mail server lets in, and
// that has one header section for all readers: the library wants an empty line
// at its end, and takes a line without a colon for a field.
func wellFormed(msg []byte) bool {
	head, _, ok := bytes.Cut(msg, []byte("\r\n\r\n"))
	if !ok || bytes.ContainsAny(bytes.ReplaceAll(msg, []byte("\r\n"), nil), "\r\n") {
		return false
	}
	h, size, err := message.ReadHeader(bufio.NewReader(bytes.NewReader(msg)), 64<<10)
	return err == nil && len(h) > 0 && size == len(head)+4
}
