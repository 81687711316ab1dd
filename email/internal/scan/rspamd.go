package scan

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Rspamd asks rspamd over HTTP (/checkv2). It keeps connections for the next
// message.
type Rspamd struct {
	backend   Backend
	threshold float64
	password  string
	client    *http.Client
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
	return &Rspamd{backend: b, threshold: o.Threshold, password: o.Password, client: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return b.dial(ctx)
			},
			DisableCompression:     true,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close gives idle connections back.
func (s *Rspamd) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

const maxRspamdAnswer = 1 << 20

// Scan sends the whole message.
func (s *Rspamd) Scan(ctx context.Context, m Message) (Verdict, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	var bodies sync.WaitGroup
	v, err := s.ask(ctx, m, &bodies)
	err = s.backend.fail(ctx, "rspamd", err)
	// net/http may still be sending when the answer is there already, and the
	// message's file may be closed once we return.
	cancel()
	bodies.Wait()
	return v, err
}

// sentBody is done when net/http has closed it.
type sentBody struct {
	io.Reader
	close func()
}

func (b *sentBody) Close() error {
	b.close()
	return nil
}

func (s *Rspamd) ask(ctx context.Context, m Message, bodies *sync.WaitGroup) (Verdict, error) {
	v := Verdict{Kind: Spam}
	host := s.backend.Address
	if s.backend.network() == "unix" {
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+host+"/checkv2", nil)
	if err != nil {
		return v, err
	}
	// A connection that was kept may be closed by now: then it is sent again.
	req.GetBody = func() (io.ReadCloser, error) {
		bodies.Add(1)
		return &sentBody{io.NewSectionReader(m.Data, 0, m.Data.Size()), sync.OnceFunc(bodies.Done)}, nil
	}
	req.Body, _ = req.GetBody()
	req.ContentLength = m.Data.Size()
	s.setHeader(req.Header, m)
	resp, err := s.client.Do(req)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxRspamdAnswer+1))
	if err != nil {
		return v, fmt.Errorf("reading the answer: %w", noEOF(err))
	}
	if len(answer) > maxRspamdAnswer {
		return v, errAnswer
	}
	if resp.StatusCode != http.StatusOK {
		return v, fmt.Errorf("answers %d: %q", resp.StatusCode, line(string(answer), maxDetailLen))
	}
	return v, v.setRspamd(answer, s.threshold)
}

// setHeader tells rspamd about the envelope.
func (s *Rspamd) setHeader(h http.Header, m Message) {
	set := func(name string, values ...string) {
		for _, value := range values {
			// net/http refuses control characters; in a header of HTTP nothing
			// is decoded, so this is all that there is to clean.
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
		Add map[string]json.RawMessage `json:"add_headers"`
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
	v.Subject = line(r.Subject, 998)
	if text, ok := r.Messages["smtp_message"].(string); ok {
		v.Reply = line(text, maxDetailLen)
	}
	v.setSymbols(&r)
	v.setAddHeaders(r.Milter.Add)
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
	names := make([]string, 0, len(add))
	for name := range add {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		list := []json.RawMessage{add[name]}
		var several []json.RawMessage
		if json.Unmarshal(add[name], &several) == nil {
			list = several
		}
		for _, raw := range list {
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

// maxHeaders bounds the headers that a backend may add or change.
const maxHeaders = 100
