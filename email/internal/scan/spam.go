package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// DefaultThreshold is the score from which a message is spam where nothing else is
// said.
const DefaultThreshold = 5

// spamScanner adds up what rules say.
type spamScanner struct{ threshold float64 }

// NewSpam returns the built-in scanner for spam: fixed rules with fixed weights,
// without network and memory. It tells crude spam; where that is not enough there
// are rspamd and SpamAssassin. A threshold of 0 means [DefaultThreshold].
//
// About the header: MISSING_FROM 2.5, BAD_FROM 2.5 (addresses that cannot be told
// for sure, or several From), MISSING_DATE 1, BAD_DATE 0.5, DATE_OFF 1 (more than a
// day ahead or a week behind), MISSING_MID 0.5 (Message-ID), MISSING_TO 0.5 (no To,
// no Cc), EMPTY_SUBJECT 0.5, CAPS_SUBJECT 1.5, HIDDEN_SUBJECT 1.5 (characters that
// cannot be seen), FROM_NAME 2 (an address of another domain as display name),
// BAD_MIME 1.
//
// About the session, unless the user has signed in: SPF_FAIL 2.5, SPF_SOFTFAIL 1,
// DKIM_FAIL 0.5, DMARC_FAIL 3, HELO_OURS 3 (our own name), HELO_IP 1.5 (an address
// without brackets, or of another than the client), HELO_PLAIN 1 (no full name). For
// all: MANY_RCPTS 1.5 (more than 20).
//
// About the content: GTUBE 1000, HTML_ONLY 1, BASE64_TEXT 1 (of plain ASCII), and of
// links URL_IP 2 (to an address), URL_HIDDEN 2.5 (the host in numbers or escapes, or
// with a user name in front), URL_OTHER 1 (its text shows another domain),
// HIDDEN_TEXT 1 (in letters that are too small or not shown).
func NewSpam(threshold float64) Scanner {
	if threshold == 0 {
		threshold = DefaultThreshold
	}
	return &spamScanner{threshold}
}

func (s *spamScanner) Scan(ctx context.Context, m Message) (Verdict, error) {
	t := &spamTally{m: m}
	t.header()
	t.session()
	if err := t.content(ctx); err != nil {
		return Verdict{Kind: Spam}, err
	}
	v := Verdict{Kind: Spam, Threshold: s.threshold}
	slices.SortStableFunc(t.hits, func(a, b hit) int { return int(100*b.score) - int(100*a.score) })
	for _, h := range t.hits {
		v.Score += h.score
		v.detail(fmt.Sprintf("%s(%.1f)", h.name, h.score))
	}
	if v.Bad = v.Score >= s.threshold; v.Bad {
		v.Action, v.Name = AddHeader, t.hits[0].name
	}
	if t.has("GTUBE") {
		v.Action = Reject
	}
	return v, nil
}

type hit struct {
	name  string
	score float64
}

// spamTally is about one message. A rule counts once.
type spamTally struct {
	m    Message
	hits []hit
}

func (t *spamTally) has(name string) bool {
	return slices.ContainsFunc(t.hits, func(h hit) bool { return h.name == name })
}

func (t *spamTally) add(hits bool, name string, score float64) {
	if hits && !t.has(name) {
		t.hits = append(t.hits, hit{name, score})
	}
}

func (t *spamTally) header() {
	h := t.m.Header
	from, err := message.From(h)
	t.add(errors.Is(err, message.ErrNoFrom), "MISSING_FROM", 2.5)
	t.add(err != nil && !errors.Is(err, message.ErrNoFrom), "BAD_FROM", 2.5)
	for _, a := range from {
		if shown, err := message.Addresses(strings.Trim(a.Name, `"' `)); err == nil {
			t.add(!sameSite(shown[0].Domain, a.Domain), "FROM_NAME", 2)
		}
	}
	t.add(!h.Has("Date"), "MISSING_DATE", 1)
	if h.Has("Date") {
		date, err := mail.ParseDate(h.Get("Date"))
		t.add(err != nil, "BAD_DATE", 0.5)
		if err == nil && !t.m.Received.IsZero() {
			age := t.m.Received.Sub(date)
			t.add(age < -24*time.Hour || age > 7*24*time.Hour, "DATE_OFF", 1)
		}
	}
	t.add(!h.Has("Message-ID"), "MISSING_MID", 0.5)
	t.add(!h.Has("To") && !h.Has("Cc"), "MISSING_TO", 0.5)
	subject := message.DecodeHeader(h.Get("Subject"))
	t.add(strings.TrimSpace(subject) == "", "EMPTY_SUBJECT", 0.5)
	t.add(isShouting(subject), "CAPS_SUBJECT", 1.5)
	t.add(strings.ContainsAny(subject, "\u200b\u2060\ufeff\u00ad\u202d\u202e"), "HIDDEN_SUBJECT", 1.5)
}

// isShouting reports whether a subject of some length is in capitals.
func isShouting(s string) bool {
	upper, lower := 0, 0
	for _, r := range s {
		switch {
		case unicode.IsUpper(r):
			upper++
		case unicode.IsLower(r):
			lower++
		}
	}
	return upper >= 10 && lower*10 < upper
}

const manyRcpts = 20

func (t *spamTally) session() {
	m := t.m
	t.add(len(m.Rcpts) > manyRcpts, "MANY_RCPTS", 1.5)
	if m.User != "" {
		return
	}
	spf, dkim, dmarc := methodResult(m.AuthResults, "spf"), methodResult(m.AuthResults, "dkim"), methodResult(m.AuthResults, "dmarc")
	t.add(spf == "fail", "SPF_FAIL", 2.5)
	t.add(spf == "softfail", "SPF_SOFTFAIL", 1)
	t.add(dkim == "fail", "DKIM_FAIL", 0.5)
	t.add(dmarc == "fail", "DMARC_FAIL", 3)
	if m.Helo == "" {
		return
	}
	helo := strings.TrimSuffix(strings.ToLower(m.Helo), ".")
	ip, literal := heloAddr(helo)
	switch {
	case helo == strings.ToLower(m.Hostname):
		t.add(true, "HELO_OURS", 3)
	case ip.IsValid():
		t.add(!literal || m.ClientIP.IsValid() && ip != m.ClientIP.Unmap().WithZone(""), "HELO_IP", 1.5)
	default:
		t.add(!strings.Contains(helo, "."), "HELO_PLAIN", 1)
	}
}

// methodResult finds the result of a method in Authentication-Results (RFC 8601
// section 2.2). Of several signatures one that is good is enough.
func methodResult(value, method string) string {
	result := ""
	for item := range strings.SplitSeq(strings.ToLower(uncommented(value)), ";") {
		item = strings.TrimSpace(item)
		if rest, ok := strings.CutPrefix(item, method+"="); ok && result != "pass" {
			if end := strings.IndexFunc(rest, func(r rune) bool { return r < 'a' || r > 'z' }); end >= 0 {
				rest = rest[:end]
			}
			result = rest
		}
	}
	return result
}

// uncommented leaves out comments and what is in quotes, where strangers' words may
// be.
func uncommented(s string) string {
	var b strings.Builder
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && (quoted || depth > 0):
			i++
		case c == '"' && depth == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth == 0:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Text is looked at from the beginning of each part, and no more than this in all.
const (
	maxTextPart  = 256 << 10
	maxTextTotal = 1 << 20
)

func (t *spamTally) content(ctx context.Context) error {
	left := int64(maxTextTotal)
	plain, html := false, false
	err := message.Walk(t.m.Data, walkLimits(), func(p *message.Part) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		t.add(len(p.Defects) > 0, "BAD_MIME", 1)
		if !p.IsLeaf() || p.IsAttachment() || !strings.HasPrefix(p.MediaType, "text/") {
			return nil
		}
		text, err := io.ReadAll(io.LimitReader(p.Open(), min(left, maxTextPart)))
		if err != nil {
			return err
		}
		left -= int64(len(text))
		t.add(containsGTUBE(text), "GTUBE", 1000)
		t.add(p.Encoding() == "base64" && len(text) > 0 && isASCII(text), "BASE64_TEXT", 1)
		if p.MediaType == "text/html" {
			html = true
			t.html(text)
		} else {
			plain = true
			t.plainText(text)
		}
		return nil
	})
	t.add(html && !plain, "HTML_ONLY", 1)
	return err
}
