package scan

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Rspamd asks rspamd over HTTP (/checkv2). A connection is for one message, as
// rspamd closes it; and net/http's client, made to keep connections, would print
// what a backend says out of turn, and read the message after its return.
type Rspamd struct {
	backend   Backend
	threshold float64
	password  string
}

// RspamdOptions are more about rspamd; the zero value is fine.
type RspamdOptions struct {
	// Threshold is the score from which a message is spam. The default 0 leaves it
	// to rspamd: spam is what it would mark or refuse.
	Threshold float64
	// Password is sent with each request, if any.
	Password string
}

// NewRspamd returns a scanner for spam.
func NewRspamd(b Backend, o RspamdOptions) *Rspamd {
	return &Rspamd{backend: b, threshold: o.Threshold, password: o.Password}
}

const (
	maxRspamdAnswer = 1 << 20
	maxSubject      = 900 // a line has 998 (RFC 5322 section 2.1.1)
)

// Scan sends the whole message.
func (s *Rspamd) Scan(ctx context.Context, m Message) (Verdict, error) {
	v := Verdict{Kind: Spam}
	err := s.backend.talk(ctx, "rspamd", func(conn net.Conn) error { return s.ask(conn, m, &v) })
	return v, err
}

func (s *Rspamd) ask(conn net.Conn, m Message, v *Verdict) error {
	req := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/checkv2"}, Host: "rspamd", Header: s.header(m), Close: true,
		ContentLength: m.Data.Size(), Body: io.NopCloser(io.NewSectionReader(m.Data, 0, m.Data.Size())),
	}
	// rspamd may answer and hang up before it has read all: what it said is worth
	// more than the failed write.
	sendErr := req.Write(conn)
	limit := &io.LimitedReader{R: conn, N: maxRspamdAnswer}
	resp, err := http.ReadResponse(bufio.NewReader(limit), req)
	switch {
	case err != nil && limit.N == 0:
		return errAnswer
	case err != nil && sendErr != nil:
		return fmt.Errorf("sending the message: %w", sendErr)
	case err != nil:
		return fmt.Errorf("reading the answer: %w", noEOF(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if limit.N == 0 {
		return errAnswer
	}
	if err != nil {
		return fmt.Errorf("reading the answer: %w", noEOF(err))
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answers %d: %q", resp.StatusCode, line(string(answer), maxDetailLen))
	}
	return v.setRspamd(answer, s.threshold)
}

// header tells rspamd about the envelope.
func (s *Rspamd) header(m Message) http.Header {
	h := http.Header{}
	set := func(name string, values ...string) {
		for _, value := range values {
			// In a header of HTTP nothing is decoded, so this is all that there is
			// to clean.
			value = strings.Map(func(r rune) rune {
				if r < ' ' || r == 0x7f {
					return -1
				}
				return r
			}, value)
			if value != "" {
				h.Add(name, value)
			}
		}
	}
	if m.ClientIP != (netip.Addr{}) {
		set("IP", m.ClientIP.Unmap().WithZone("").String())
	}
	set("Helo", m.Helo)
	set("Hostname", m.ClientName)
	set("From", "<"+m.MailFrom+">")
	for _, rcpt := range m.Rcpts {
		set("Rcpt", "<"+rcpt+">")
	}
	if len(m.Rcpts) > 0 {
		set("Deliver-To", m.Rcpts[0])
	}
	set("User", m.User)
	set("Queue-Id", m.ID)
	set("MTA-Name", m.Hostname)
	set("Password", s.password)
	return h
}

// rspamdResult is the part of rspamd's answer that we use.
type rspamdResult struct {
	Skipped  bool     `json:"is_skipped"`
	Score    *float64 `json:"score"`
	Required float64  `json:"required_score"`
	Action   string   `json:"action"`
	Subject  string   `json:"subject"`
	Symbols  map[string]struct {
		Score   float64  `json:"score"`
		Options []string `json:"options"`
	} `json:"symbols"`
	Messages map[string]any `json:"messages"`
	Milter   struct {
		Add    map[string]json.RawMessage `json:"add_headers"`
		Remove map[string]json.RawMessage `json:"remove_headers"`
	} `json:"milter"`
}

// setRspamd understands the JSON of rspamd.
func (v *Verdict) setRspamd(answer []byte, threshold float64) error {
	var r rspamdResult
	if err := json.Unmarshal(answer, &r); err != nil {
		return fmt.Errorf("cannot read the answer: %w", err)
	}
	if r.Score == nil {
		return fmt.Errorf("no score in the answer %q", line(string(answer), maxDetailLen))
	}
	v.Score, v.Threshold = *r.Score, r.Required
	if v.Action, v.Bad = rspamdAction(r.Action); r.Action != "" && v.Action == NoAction && r.Action != "no action" {
		v.detail("unknown action " + r.Action)
	}
	if threshold > 0 {
		v.Threshold = threshold
		v.Bad = v.Score >= threshold || v.Action == Reject // some rules force it
	}
	if v.Bad && v.Action == RewriteSubject && r.Subject != "" {
		// Encoded words, a line each.
		words := strings.ReplaceAll(mime.QEncoding.Encode("utf-8", line(r.Subject, maxSubject)), "?= =?", "?=\n=?")
		if f, ok := field("Subject", words); ok {
			v.Changes = append(v.Changes, Change{f, 1})
		}
	}
	if text, ok := r.Messages["smtp_message"].(string); ok {
		v.Reply = line(text, maxDetailLen)
	}
	v.setSymbols(&r)
	v.setAddHeaders(r.Milter.Add)
	v.setRemoveHeaders(r.Milter.Remove)
	return nil
}

// rspamdAction is an action, and whether it says that the message is spam.
func rspamdAction(s string) (a Action, bad bool) {
	switch s {
	case "add header":
		return AddHeader, true
	case "rewrite subject":
		return RewriteSubject, true
	case "greylist":
		return Greylist, false
	case "soft reject":
		return SoftReject, false
	case "quarantine":
		return Quarantine, true
	case "discard":
		return Discard, true
	case "reject":
		return Reject, true
	}
	return NoAction, false
}

// setSymbols lists the symbols from the highest score to the lowest.
func (v *Verdict) setSymbols(r *rspamdResult) {
	names := make([]string, 0, len(r.Symbols))
	for name := range r.Symbols {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if x, y := r.Symbols[a].Score, r.Symbols[b].Score; x != y {
			if x > y {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		v.detail(fmt.Sprintf("%s(%.2f)", name, r.Symbols[name].Score))
	}
	if v.Bad && len(names) > 0 {
		v.Name = line(names[0], maxDetailLen)
	}
}

// setAddHeaders reads what rspamd would have a milter add: for each name a text,
// an object with value, or a list of these.
func (v *Verdict) setAddHeaders(add map[string]json.RawMessage) {
	for _, name := range slices.Sorted(maps.Keys(add)) {
		for _, raw := range oneOrMore(add[name]) {
			var value string
			var object struct {
				Value string `json:"value"`
			}
			if json.Unmarshal(raw, &value) != nil && json.Unmarshal(raw, &object) == nil {
				value = object.Value
			}
			if f, ok := field(name, value); ok && len(v.Headers) < maxHeaders {
				v.Headers = append(v.Headers, f)
			}
		}
	}
}

// setRemoveHeaders reads what rspamd would have a milter remove: for each name an
// index as in [Change], or a list of these.
func (v *Verdict) setRemoveHeaders(remove map[string]json.RawMessage) {
	for _, name := range slices.Sorted(maps.Keys(remove)) {
		for _, raw := range oneOrMore(remove[name]) {
			var index int
			if err := json.Unmarshal(raw, &index); err != nil {
				continue
			}
			if f, ok := field(name, ""); ok && len(v.Changes) < maxHeaders {
				v.Changes = append(v.Changes, Change{f, index})
			}
		}
	}
}

// oneOrMore is what is in a list, or else the value itself.
func oneOrMore(raw json.RawMessage) []json.RawMessage {
	var several []json.RawMessage
	if json.Unmarshal(raw, &several) == nil {
		return several
	}
	return []json.RawMessage{raw}
}

// maxHeaders bounds the headers that a backend may add or change.
const maxHeaders = 100
