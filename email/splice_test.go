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
		blank  int64
		want   string
	}{
		{"", nil, 0, "0123456789"},
		{"ab", nil, 0, "ab0123456789"},
		{"ab", []span{{0, 3}}, 0, "ab3456789"},
		{"ab", []span{{2, 4}, {4, 5}, {9, 10}}, 0, "ab015678"},
		{"", []span{{0, 10}}, 0, ""},
		{"ab", nil, 3, "ab012\r\n3456789"},
		{"ab", []span{{0, 1}, {2, 4}}, 4, "ab1\r\n456789"},
		{"", []span{{1, 2}}, 10, "023456789\r\n"},
	}
	for _, test := range tests {
		s := newSplice([]byte(test.prefix), body, test.cuts, test.blank)
		if s.Size() != int64(len(test.want)) {
			t.Errorf("%v: size %d", test, s.Size())
		}
		if err := iotest.TestReader(s, []byte(test.want)); err != nil {
			t.Errorf("%v: %v", test, err)
		}
	}
}

func TestSpliceOfLess(t *testing.T) {
	s := newSplice(nil, io.NewSectionReader(strings.NewReader("0123"), 0, 10), nil, 0)
	if _, err := io.ReadAll(s); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
}
