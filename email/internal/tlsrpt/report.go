package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/emersion/go-message"
)

const dayFormat = "2006-01-02"

// report is the JSON of RFC 8460 section 4.4.
type report struct {
	Organization string         `json:"organization-name"`
	Range        dateRange      `json:"date-range"`
	Contact      string         `json:"contact-info"`
	ID           string         `json:"report-id"`
	Policies     []reportPolicy `json:"policies"`
}

type dateRange struct {
	Start time.Time `json:"start-datetime"`
	End   time.Time `json:"end-datetime"`
}

type reportPolicy struct {
	Policy  Policy         `json:"policy"`
	Summary summary        `json:"summary"`
	Details []reportDetail `json:"failure-details,omitempty"`
}

type summary struct {
	Successes uint64 `json:"total-successful-session-count"`
	Failures  uint64 `json:"total-failure-session-count"`
}

type reportDetail struct {
	Type        Failure    `json:"result-type"`
	SendingIP   netip.Addr `json:"sending-mta-ip,omitzero"`
	MX          string     `json:"receiving-mx-hostname,omitempty"`
	HELO        string     `json:"receiving-mx-helo,omitempty"`
	ReceivingIP netip.Addr `json:"receiving-ip,omitzero"`
	Count       uint64     `json:"failed-session-count"`
	Reason      string     `json:"failure-reason-code,omitempty"`
}

// period is the day of c in UTC, from its first to its last second.
func (c *counts) period() dateRange {
	start, _ := time.Parse(dayFormat, c.Day) // checked where c came from
	return dateRange{start, start.AddDate(0, 0, 1).Add(-time.Second)}
}

// reportID is the same at each attempt, so that who gets a report twice can tell.
func (r *Reporter) reportID(c *counts) string {
	return c.Day + "." + c.Domain + "@" + r.cfg.Submitter
}

// build makes the compressed report, and its file name (RFC 8460 section 5.1).
func (r *Reporter) build(c *counts) (gz []byte, filename string, err error) {
	period := c.period()
	out := report{Organization: r.cfg.Organization, Range: period, Contact: r.cfg.Contact, ID: r.reportID(c)}
	for _, p := range c.Policies {
		rp := reportPolicy{Policy: p.Policy, Summary: summary{p.Successes, p.Failures}}
		for _, d := range p.Details {
			rp.Details = append(rp.Details, reportDetail{d.Failure, d.SendingIP, d.MX, d.HELO, d.ReceivingIP, d.Count, d.Reason})
		}
		out.Policies = append(out.Policies, rp)
	}
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	if err := json.NewEncoder(zip).Encode(out); err != nil {
		return nil, "", err
	}
	if err := zip.Close(); err != nil {
		return nil, "", err
	}
	filename = fmt.Sprintf("%s!%s!%d!%d.json.gz", r.cfg.Submitter, c.Domain, period.Start.Unix(), period.End.Unix())
	return b.Bytes(), filename, nil
}

// Message is a report to be sent by mail. It has to be signed by DKIM (RFC 8460
// section 3).
type Message struct {
	From, To string
	// Data is the whole message, lines ending in CRLF. "TLS-Required: No" (RFC
	// 8689) is in it: it has to arrive even where TLS fails.
	Data []byte
}

// mail makes the message of RFC 8460 section 5.3.
func (r *Reporter) mail(c *counts, to string, gz []byte, filename string) (Message, error) {
	var h message.Header
	// The last that is added comes first.
	h.SetContentType("multipart/report", map[string]string{"report-type": "tlsrpt"})
	h.Set("MIME-Version", "1.0")
	h.Set("Auto-Submitted", "auto-generated")
	h.Set("TLS-Required", "No")
	h.Set("TLS-Report-Submitter", r.cfg.Submitter)
	h.Set("TLS-Report-Domain", c.Domain)
	h.Set("Subject", fmt.Sprintf("Report Domain: %s Submitter: %s Report-ID: <%s>", c.Domain, r.cfg.Submitter, r.reportID(c)))
	h.Set("Message-ID", fmt.Sprintf("<%s.%d@%s>", c.Day, r.cfg.Now().UnixNano(), r.cfg.Submitter))
	h.Set("Date", r.cfg.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	h.Set("To", "<"+to+">")
	h.Set("From", "<"+r.cfg.From+">")

	var text message.Header
	text.SetContentType("text/plain", map[string]string{"charset": "utf-8"})
	text.Set("Content-Transfer-Encoding", "quoted-printable")
	var file message.Header
	file.SetContentType("application/tlsrpt+gzip", nil)
	file.Set("Content-Transfer-Encoding", "base64")
	file.SetContentDisposition("attachment", map[string]string{"filename": filename})

	words := fmt.Sprintf("This is a report of %s about TLS on the way to %s on %s (UTC).\r\n", r.cfg.Organization, c.Domain, c.Day)
	var b bytes.Buffer
	w, err := message.CreateWriter(&b, h)
	if err != nil {
		return Message{}, err
	}
	for _, part := range []struct {
		header message.Header
		body   []byte
	}{{text, []byte(words)}, {file, gz}} {
		pw, err := w.CreatePart(part.header)
		if err != nil {
			return Message{}, err
		}
		if _, err = pw.Write(part.body); err != nil {
			return Message{}, err
		}
		if err = pw.Close(); err != nil {
			return Message{}, err
		}
	}
	if err := w.Close(); err != nil {
		return Message{}, err
	}
	return Message{From: r.cfg.From, To: to, Data: b.Bytes()}, nil
}

// isLine says whether a text of the configuration can be a header field's.
func isLine(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
