package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestVerify(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	want := Claims{Subject: "admin", Session: "s", Epoch: 7, Issued: now, Expires: now.Add(15 * time.Minute)}
	text, err := Sign(key, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Verify(pub, text, now)
	if err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := Verify(pub, text, want.Expires.Add(-time.Second)); err != nil {
		t.Errorf("a second before its end: %v", err)
	}

	enc := base64.RawURLEncoding.EncodeToString
	parts := strings.Split(text, ".")
	foreign, err := Sign(other, want)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(head, payload string) string {
		signed := enc([]byte(head)) + "." + enc([]byte(payload))
		return signed + "." + enc(ed25519.Sign(key, []byte(signed)))
	}
	for name, bad := range map[string]string{
		"empty":            "",
		"dots":             "..",
		"no signature":     parts[0] + "." + parts[1] + ".",
		"another key":      foreign,
		"alg none":         enc([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + ".",
		"alg HS256":        enc([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + parts[1] + "." + parts[2],
		"alg none, signed": sign(`{"alg":"none"}`, `{"iss":"dcrouter","aud":"opsapi","exp":9999999999}`),
		"other audience":   sign(`{"alg":"EdDSA","typ":"JWT"}`, `{"iss":"dcrouter","aud":"x","exp":9999999999}`),
		"no JSON":          sign(`{"alg":"EdDSA","typ":"JWT"}`, `x`),
		"no end":           sign(`{"alg":"EdDSA","typ":"JWT"}`, `{"iss":"dcrouter","aud":"opsapi"}`),
		"long":             text + strings.Repeat("a", MaxLength),
		"changed":          parts[0] + "." + enc([]byte(`{"sub":"root"}`)) + "." + parts[2],
		"padded":           text + "=",
	} {
		if c, err := Verify(pub, bad, now); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := Verify(pub, text, want.Expires); !errors.Is(err, ErrInvalid) {
		t.Errorf("at its end: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	text, err := Sign(key, Claims{Subject: "a", Expires: now.Add(time.Minute)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(header + ".e30.")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := Verify(pub, s, now); err == nil && s != text {
			t.Errorf("%q was accepted", s)
		}
	})
}
