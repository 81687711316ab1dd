package email

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/email/internal/scan"
)

const (
	defaultScanTimeout   = 30 * time.Second
	defaultSpamThreshold = 5
)

// scanner is a Scanner of the configuration at work.
type scanner struct {
	Scanner
	name string // of its kind and backend, for logs and statistics
	scan scan.Scanner
}

// newScanners makes the scanners of a configuration that Validate has passed.
func newScanners(list []Scanner) []scanner {
	var scanners []scanner
	for _, c := range list {
		if c.Backend == "" {
			c.Backend = BuiltinBackend
		}
		if c.Timeout == 0 {
			c.Timeout = defaultScanTimeout
		}
		if c.Action == "" {
			c.Action = RejectMail
			if c.Type == SpamScanner {
				c.Action = TagMail
			}
		}
		s := scanner{Scanner: c, name: c.Type}
		if c.Backend != BuiltinBackend {
			s.name += "/" + c.Backend
		}
		s.scan = newScan(&c)
		scanners = append(scanners, s)
	}
	return scanners
}

func newScan(c *Scanner) scan.Scanner {
	kind, backend := scan.Kind(c.Type), scan.Backend{Address: c.Address}
	switch c.Backend {
	case RspamdBackend:
		return scan.NewRspamd(backend, scan.RspamdOptions{Threshold: c.Threshold})
	case SpamAssassinBackend:
		return scan.NewSpamd(backend, c.Threshold)
	case ClamAVBackend:
		return scan.NewClamd(backend)
	case MilterBackend:
		return scan.NewMilter(backend, kind)
	}
	switch c.Type {
	case VirusScanner:
		return scan.NewVirus(scan.ArchiveLimits{})
	case AttachmentScanner:
		return scan.NewAttachments(scan.AttachmentOptions{Blocked: c.BlockedExtensions, MaxSize: c.MaxSize})
	}
	threshold := c.Threshold
	if threshold == 0 {
		threshold = defaultSpamThreshold
	}
	return scan.NewSpam(threshold)
}

// finding is what a scanner says, or why it says nothing.
type finding struct {
	scanner *scanner
	verdict scan.Verdict
	err     error
}

// scan has all scanners look at the message at once, if a route wants that, and
// then does what they are configured for in their order.
func (m *incoming) scan(ctx context.Context) error {
	wanted := false
	for _, t := range m.tx.taken {
		wanted = wanted || scans(t.route)
	}
	if !wanted {
		return nil
	}
	content, header, err := m.shown()
	if err != nil {
		return m.s.storageError(err)
	}
	var tags []byte
	var changes []scan.Change
	for _, f := range m.findings(ctx, content, header) {
		switch {
		case f.err != nil:
			if err := m.unscanned(f); err != nil {
				return err
			}
		case f.verdict.Bad:
			if err := m.found(ctx, f); err != nil {
				return err
			}
		case f.verdict.Action == scan.Greylist || f.verdict.Action == scan.SoftReject:
			m.s.r.s.stats.scanners.add(f.scanner.name + "/deferred")
			return m.refuseAs(&f.verdict, 451, "Try again later")
		default:
			m.s.r.s.stats.scanners.add(f.scanner.name + "/clean")
		}
		if f.err == nil {
			tags = f.appendTags(tags)
			changes = append(changes, f.verdict.Changes...)
		}
	}
	m.change(header, changes)
	m.tx.env.Prefix = append(tags, m.tx.env.Prefix...)
	return nil
}

// shown is what scanners see of the message: what will be delivered, but for what
// they add themselves. So they find our trace fields in it, and no forged ones.
func (m *incoming) shown() (*io.SectionReader, message.Header, error) {
	content := m.tx.env.content(m.body, nil)
	header, _, err := m.tx.env.split(content)
	return content, header, err
}

func (m *incoming) findings(ctx context.Context, content *io.SectionReader, header message.Header) []finding {
	r, env := m.s.r, &m.tx.env
	shown := scan.Message{
		ID: string(m.id), ClientIP: m.s.client.Addr, Helo: m.s.client.Helo, MailFrom: env.From, User: m.s.client.User,
		Hostname: r.s.cfg.Hostname, AuthResults: env.Authentication, Received: env.Arrived, Header: header, Data: content,
	}
	if m.auth != nil {
		shown.ClientName = m.auth.IPRev.Name
	}
	for _, rcpt := range env.Recipients {
		shown.Rcpts = append(shown.Rcpts, rcpt.Address)
	}
	list := make([]finding, len(r.scanners))
	var wg sync.WaitGroup
	for i := range r.scanners {
		wg.Go(func() {
			f := finding{scanner: &r.scanners[i]}
			f.verdict, f.err = m.look(ctx, f.scanner, shown)
			list[i] = f
		})
	}
	wg.Wait()
	return list
}

// look has one scanner look at the message. That it panics, over something that a
// stranger has made, is an error of it alone.
func (m *incoming) look(ctx context.Context, s *scanner, shown scan.Message) (v scan.Verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	err = m.s.r.s.guarded("a scanner", func() (err error) {
		v, err = s.scan.Scan(ctx, shown)
		return err
	}, "conn_id", m.s.client.ID, "msg_id", m.id, "scanner", s.name)
	return v, err
}

// unscanned does what is to be done with a message that a scanner could not look
// at.
func (m *incoming) unscanned(f finding) error {
	s := m.s.r.s
	s.stats.scanners.add(f.scanner.name + "/error")
	s.log.Error("a message could not be scanned", "conn_id", m.s.client.ID, "msg_id", m.id, "scanner", f.scanner.name, "on_error", f.scanner.OnError, "err", f.err)
	if f.scanner.OnError == AcceptMail {
		return nil
	}
	return m.refuse("scanner", 451, 7, 1, "The message could not be scanned, try again later")
}

// found does what is to be done with a message that a scanner has found bad.
func (m *incoming) found(ctx context.Context, f finding) error {
	m.s.r.s.stats.scanners.add(f.scanner.name + "/bad")
	what := string(f.verdict.Kind)
	if f.verdict.Name != "" {
		what += " " + f.verdict.Name
	}
	m.s.r.s.log.Info("a scanner has found something", "conn_id", m.s.client.ID, "msg_id", m.id, "scanner", f.scanner.name, "found", f.verdict.Name,
		"score", f.verdict.Score, "details", f.verdict.Details)
	switch f.scanner.Action {
	case TagMail:
	case QuarantineMail:
		m.quarantine = f.scanner.Type + ": " + what
	default:
		if f.scanner.Quarantine {
			m.keepCopy(ctx, f.scanner.Type+": "+what)
		}
		return m.refuseAs(&f.verdict, 554, "The message was refused: "+what)
	}
	return nil
}

// keepCopy puts a copy of a message that is refused into quarantine. That it
// cannot be kept does not change what the client is told.
func (m *incoming) keepCopy(ctx context.Context, why string) {
	env := m.tx.env
	env.Quarantine, env.Refused = why, true
	if err := m.s.r.queue.add(ctx, m.id, &env, m.draft, 0); err != nil {
		m.s.r.s.log.Error("a refused message could not be kept in quarantine", "conn_id", m.s.client.ID, "msg_id", m.id, "err", err)
	}
}

// refuseAs refuses the message with the reply that a backend wants, or else with
// code and text.
func (m *incoming) refuseAs(v *scan.Verdict, code int, text string) error {
	reply := &Reply{Code: code, Enhanced: [3]int{code / 100, 7, 1}, Text: text}
	if v.Reply != "" {
		reply.Text = v.Reply
	}
	if v.Code/100 == code/100 {
		reply.Code = v.Code
	}
	if v.Enhanced[0] == code/100 {
		reply.Enhanced = v.Enhanced
	}
	return m.s.refuse("scanner", reply)
}

// appendTags writes the header fields for a message that passes.
func (f *finding) appendTags(b []byte) []byte {
	v := &f.verdict
	for _, h := range v.Headers {
		b = fmt.Appendf(b, "%s: %s\r\n", h.Name, h.Value)
	}
	if f.scanner.Type != SpamScanner {
		return b
	}
	names := f.scanner.Headers
	if len(names) == 0 {
		names = []string{"X-Spam-Score", "X-Spam-Status"}
	}
	for _, name := range names {
		switch name {
		case "X-Spam-Score":
			b = fmt.Appendf(b, "X-Spam-Score: %.1f\r\n", v.Score)
		case "X-Spam-Level":
			b = fmt.Appendf(b, "X-Spam-Level: %s\r\n", strings.Repeat("*", min(max(int(v.Score), 0), 50)))
		case "X-Spam-Flag":
			b = fmt.Appendf(b, "X-Spam-Flag: %s\r\n", yesNo(v.Bad))
		case "X-Spam-Status":
			title := "No"
			if v.Bad {
				title = "Yes"
			}
			b = fmt.Appendf(b, "X-Spam-Status: %s, score=%.1f required=%.1f\r\n", title, v.Score, v.Threshold)
		}
	}
	return b
}

func yesNo(b bool) string {
	if b {
		return "YES"
	}
	return "NO"
}
