package email

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestSplice(t *testing.T) {
	body := io.NewSectionReader(strings.NewReader("0123456789"), 0, 10)
	tests := []struct {
		prefix string
		cuts   []span
		want   string
	}{
		{"", nil, "0123456789"},
		{"ab", nil, "ab0123456789"},
		{"ab", []span{{0, 3}}, "ab3456789"},
		{"ab", []span{{2, 4}, {4, 5}, {9, 10}}, "ab015678"},
		{"", []span{{0, 10}}, ""},
	}
	for _, test := range tests {
		s := newSplice(strings.NewReader(test.prefix), int64(len(test.prefix)), body, test.cuts)
		if s.Size() != int64(len(test.want)) {
			t.Errorf("%v: size %d", test, s.Size())
		}
		if err := iotest.TestReader(s, []byte(test.want)); err != nil {
			t.Errorf("%v: %v", test, err)
		}
	}
}

func TestSpliceOfLess(t *testing.T) {
	s := newSplice(strings.NewReader(""), 0, io.NewSectionReader(strings.NewReader("0123"), 0, 10), nil)
	if _, err := io.ReadAll(s); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
}
