package scan

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// Spamd asks spamd of SpamAssassin by its protocol SPAMC/1.5.
type Spamd struct {
	backend   Backend
	threshold float64
}

// NewSpamd returns a scanner for spam. The threshold 0 is the one that spamd has
// (required_score).
func NewSpamd(b Backend, threshold float64) *Spamd { return &Spamd{b, threshold} }

const (
	// spamdMaxSize is how much of a message is sent. Spam is rarely longer, and
	// rules of SpamAssassin take seconds for a megabyte; so spamc leaves messages
	// beyond 500 KB out altogether. We send their beginning.
	spamdMaxSize   = 512 << 10
	maxSpamdAnswer = 64 << 10
)

// Scan sends the first 512 KiB of the message. Of a user's it tells in a Received
// field in front where it came from, as spamd learns it from there, and the
// message's own does not say where users are.
func (s *Spamd) Scan(ctx context.Context, m Message) (Verdict, error) {
	v := Verdict{Kind: Spam}
	err := s.backend.talk(ctx, "spamd", func(conn net.Conn) error {
		trace := ""
		if m.User != "" {
			trace = traceField(m)
		}
		size := min(m.Data.Size(), spamdMaxSize)
		head := fmt.Sprintf("SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n\r\n%s", int64(len(trace))+size, trace)
		_, sendErr := io.Copy(conn, io.MultiReader(strings.NewReader(head), io.NewSectionReader(m.Data, 0, size)))
		if c, ok := conn.(interface{ CloseWrite() error }); ok && sendErr == nil {
			sendErr = c.CloseWrite()
		}
		answer, err := io.ReadAll(io.LimitReader(conn, maxSpamdAnswer+1))
		if err != nil && len(answer) == 0 {
			if sendErr != nil {
				return fmt.Errorf("sending the message: %w", sendErr)
			}
			return fmt.Errorf("reading the answer: %w", err)
		}
		if len(answer) > maxSpamdAnswer {
			return errAnswer
		}
		return v.setSpamd(answer, s.threshold)
	})
	return v, err
}

// setSpamd understands what spamd answers to SYMBOLS.
func (v *Verdict) setSpamd(answer []byte, threshold float64) error {
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(answer)))
	status, err := r.ReadLine()
	if err != nil {
		return fmt.Errorf("reading the answer: %w", noEOF(err))
	}
	version, rest, _ := strings.Cut(status, " ")
	if !strings.HasPrefix(version, "SPAMD/") || !strings.HasPrefix(rest, "0 ") {
		return fmt.Errorf("unexpected answer %q", line(status, maxDetailLen))
	}
	header, err := r.ReadMIMEHeader()
	if err != nil {
		return fmt.Errorf("reading the answer: %w", noEOF(err))
	}
	// Spam: True ; 15.0 / 5.0
	spam := header.Get("Spam")
	verdict, scores, _ := strings.Cut(spam, ";")
	score, required, _ := strings.Cut(scores, "/")
	if v.Score, err = parseScore(score); err == nil {
		v.Threshold, err = parseScore(required)
	}
	if err != nil {
		return fmt.Errorf("unexpected result %q", line(spam, maxDetailLen))
	}
	body, _ := io.ReadAll(r.R)
	if n, err := strconv.Atoi(header.Get("Content-Length")); err == nil && n > len(body) {
		return fmt.Errorf("reading the answer: %w", io.ErrUnexpectedEOF)
	}
	for _, symbol := range strings.FieldsFunc(string(body), func(r rune) bool { return r == ',' || r <= ' ' }) {
		v.detail(symbol)
	}
	verdict = strings.TrimSpace(verdict)
	v.Bad = strings.EqualFold(verdict, "True") || strings.EqualFold(verdict, "Yes")
	if threshold > 0 {
		v.Threshold, v.Bad = threshold, v.Score >= threshold
	}
	if v.Bad {
		v.Action = AddHeader
	}
	return nil
}

func parseScore(s string) (float64, error) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
		err = strconv.ErrRange
	}
	return f, err
}

// traceField tells where a user's message came from.
func traceField(m Message) string {
	name, ip := m.ClientName, "127.0.0.1"
	if name == "" {
		name = "unknown"
	}
	if m.ClientIP.IsValid() {
		ip = m.ClientIP.Unmap().WithZone("").String()
		if m.ClientIP.Unmap().Is6() {
			ip = "IPv6:" + ip
		}
	}
	received := m.Received
	if received.IsZero() {
		received = time.Unix(0, 0)
	}
	// ESMTPA is of users (RFC 3848).
	return fmt.Sprintf("Received: from %s (%s [%s])\r\n\tby %s with ESMTPA id %s;\r\n\t%s\r\n", word(m.Helo), word(name), ip,
		word(m.Hostname), word(m.ID), received.Format(time.RFC1123Z))
}

// word makes a word of a field of what a client said.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f || strings.ContainsRune("();<>\"\\", r) {
			return '_'
		}
		return r
	}, message.DecodeHeader(s))
	if s == "" {
		return "unknown"
	}
	return s
}
