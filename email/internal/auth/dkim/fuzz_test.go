package dkim

import (
	"bytes"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

func FuzzSignature(f *testing.F) {
	f.Add([]byte("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=example.com; s=s; t=1; x=2; l=3; h=From:To; i=@example.com; q=dns/txt; bh=AAAA; b=AA AA\r\n"))
	f.Add([]byte("DKIM-Signature: b=; b=;=;;\r\n"))
	keys := keysOf(f, newEd25519(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h := message.Header{{Name: "DKIM-Signature", Raw: raw}, {Name: "From", Raw: []byte("From: a@example.com\r\n")}}
		b := NewBody(bytes.NewReader(nil))
		for _, v := range Parse(h, b).Verify(t.Context(), NewHasher(h), b, keys, time.Unix(0, 0)) {
			if v.Result == Pass || v.Err == nil {
				t.Errorf("%+v", v)
			}
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add("v=DKIM1; k=rsa; h=sha256; s=email; t=y:s; p=" + brisbaneRSA[len("TXT v=DKIM1; k=rsa; p="):])
	f.Add("k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	f.Fuzz(func(t *testing.T, record string) {
		for _, algorithm := range []string{RSA, Ed25519} {
			if key, err := parseKey(record, algorithm); err == nil {
				if key.Verify(make([]byte, 32), make([]byte, 64)) == nil && algorithm == RSA {
					t.Error("a signature of nothing holds")
				}
			}
		}
	})
}
