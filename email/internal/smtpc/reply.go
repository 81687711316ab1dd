package smtpc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of a reply. RFC 5321 section 4.5.3.1.5 has 512 bytes a line, which
// many servers exceed; no bound is given for the number of lines.
const (
	maxReplyLine  = 2048
	maxReplyLines = 128
	maxReplySize  = 32 << 10
)

var (
	errReplyTooLong   = errors.New("the server's reply is too long")
	errReplyMalformed = errors.New("the server's reply is malformed")
	errClosed         = errors.New("the server closed the connection")
	errUnasked        = errors.New("the server spoke without being asked")
)

// Reply is a server's answer (RFC 5321 section 4.2). Its text is what a
// stranger sent: it is valid UTF-8 without control characters, and no more.
type Reply struct {
	// Code is the reply code, 200 to 599. 0 means that there is no reply.
	Code int
	// Enhanced is the enhanced status code (RFC 2034), as "5.1.1", or "".
	Enhanced string
	// Lines is the text, without the codes.
	Lines []string
}

// Positive says whether the server did what it was asked to.
func (r Reply) Positive() bool { return r.Code >= 200 && r.Code < 300 }

// Text returns the lines as one.
func (r Reply) Text() string { return strings.Join(r.Lines, " ") }

// String returns the reply on one line, as "550 5.1.1 no such user".
func (r Reply) String() string {
	parts := make([]string, 0, 3)
	if r.Code != 0 {
		parts = append(parts, strconv.Itoa(r.Code))
	}
	if r.Enhanced != "" {
		parts = append(parts, r.Enhanced)
	}
	if text := r.Text(); text != "" {
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// status says what a reply means for a message.
func (r Reply) status() Status {
	switch r.Code / 100 {
	case 2:
		return Delivered
	case 5:
		return Permanent
	default:
		return Temporary
	}
}

// readReply reads one reply. The reader's buffer bounds a line.
func readReply(r *bufio.Reader) (Reply, error) {
	var reply Reply
	for size := 0; ; {
		line, err := r.ReadSlice('\n')
		size += len(line)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return Reply{}, errReplyTooLong
		case err == io.EOF:
			return Reply{}, errClosed
		case err != nil:
			return Reply{}, err
		case size > maxReplySize || len(reply.Lines) == maxReplyLines:
			return Reply{}, errReplyTooLong
		}
		code, last, text, err := parseReplyLine(strings.TrimRight(string(line), "\r\n"))
		if err != nil {
			return Reply{}, err
		}
		if reply.Code != 0 && code != reply.Code {
			return Reply{}, fmt.Errorf("%w: it has the codes %d and %d", errReplyMalformed, reply.Code, code)
		}
		enhanced, rest := cutEnhanced(code, text)
		if reply.Code == 0 {
			reply.Enhanced = enhanced
		}
		if enhanced != "" && enhanced == reply.Enhanced {
			text = rest
		}
		reply.Code = code
		reply.Lines = append(reply.Lines, text)
		if last {
			return reply, nil
		}
	}
}

// parseReplyLine takes apart a line as "250-text", "250 text" or "250".
func parseReplyLine(line string) (code int, last bool, text string, err error) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !isDigit(line[1]) || !isDigit(line[2]) ||
		len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, false, "", fmt.Errorf("%w: %.60q", errReplyMalformed, line)
	}
	code, _ = strconv.Atoi(line[:3])
	if len(line) == 3 {
		return code, true, "", nil
	}
	return code, line[3] == ' ', printable(line[4:]), nil
}

// cutEnhanced cuts an enhanced status code of the right class off a text (RFC
// 2034 section 4).
func cutEnhanced(code int, text string) (enhanced, rest string) {
	word, rest, _ := strings.Cut(text, " ")
	class, numbers, ok := strings.Cut(word, ".")
	subject, detail, ok2 := strings.Cut(numbers, ".")
	if !ok || !ok2 || class != strconv.Itoa(code/100) || !isNumber(subject) || !isNumber(detail) {
		return "", text
	}
	return word, rest
}

func isNumber(s string) bool {
	return len(s) >= 1 && len(s) <= 3 && strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// printable replaces what could harm whoever shows the text or sends it on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError:
			return '?'
		}
		return r
	}, s)
}
