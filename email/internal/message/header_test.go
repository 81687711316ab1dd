package message

import (
	"bufio"
	"io"
	"strings"
	"testing"
)

func TestReadHeader(t *testing.T) {
	tests := []struct {
		name, in string
		want     string // name=value, one a line
		body     string
	}{
		{"usual", "From: a@example.com\r\nSubject: hi\r\n\r\nbody\r\n", "From=a@example.com\nSubject=hi", "body\r\n"},
		{"folded", "Subject: one\r\n two\r\n\tthree\r\nTo: b\r\n\r\n", "Subject=one two\tthree\nTo=b", ""},
		{"no body", "A: 1\r\n", "A=1", ""},
		{"no line end", "A: 1", "A=1", ""},
		{"no header", "\r\nbody", "", "body"},
		{"empty", "", "", ""},
		{"space before the colon", "From : a\r\n\r\n", "From=a", ""},
		{"no field", "From: a\r\nnot a field\r\nTo: b\r\n\r\nx", "From=a", "not a field\r\nTo: b\r\n\r\nx"},
		{"no name", ": a\r\n\r\nx", "", ": a\r\n\r\nx"},
		{"starts folded", " a: b\r\nFrom: x\r\n\r\n", "", " a: b\r\nFrom: x\r\n\r\n"},
		{"LF", "A: 1\nB: 2\n\nx", "A=1\nB=2", "x"},
		{"8-bit value", "Subject: gr\xc3\xbc\xc3\x9fe\r\n\r\n", "Subject=gr\xc3\xbc\xc3\x9fe", ""},
		{"8-bit name", "S\xc3\xbc: x\r\n\r\n", "", "S\xc3\xbc: x\r\n\r\n"},
		{"long name", strings.Repeat("x", 500) + ": 1\r\n\r\n", strings.Repeat("x", 500) + "=1", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(test.in))
			h, size, err := ReadHeader(r, 4096)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range h {
				got = append(got, f.Name+"="+f.Value())
			}
			body, _ := io.ReadAll(r)
			if g := strings.Join(got, "\n"); g != test.want || string(body) != test.body || size+len(body) != len(test.in) {
				t.Errorf("got %q, body %q after %d bytes", g, body, size)
			}
		})
	}
}

func TestHeaderTooLarge(t *testing.T) {
	for _, in := range []string{"A: " + strings.Repeat("x", 9000), strings.Repeat("A: 1\r\n", 2000), strings.Repeat("A", 900)} {
		r := bufio.NewReader(strings.NewReader(in + "\r\n\r\n"))
		limit := 8192
		if len(in) == 900 {
			limit = 0
		}
		if _, _, err := ReadHeader(r, limit); err != ErrHeaderTooLarge {
			t.Errorf("%.20q: %v", in, err)
		}
	}
}

func TestHeaderGet(t *testing.T) {
	h, _, _ := ReadHeader(bufio.NewReader(strings.NewReader("Received: 1\r\nFrom: a\r\nreceived: 2\r\n\r\n")), 100)
	if h.Get("FROM") != "a" || h.Get("x") != "" || len(h.All("Received")) != 2 {
		t.Error(h)
	}
}
