package dsn

import (
	"errors"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// ErrNoComplaint is returned for a message that is none.
var ErrNoComplaint = errors.New("the message is no complaint")

// maxComplaint bounds each list in a complaint.
const maxComplaint = 100

// Complaint is what a feedback report says (RFC 5965): most often that somebody
// has pressed the button for spam. Values are cleaned of control characters, and
// zero where the report says nothing.
type Complaint struct {
	// Type is "abuse", "fraud", "virus", "not-spam", "auth-failure", "opt-out", ...
	// in lower case.
	Type string
	// UserAgent is the program that made the report.
	UserAgent string
	// Recipients are the original message's, of those that providers tell.
	Recipients []string
	// MailFrom is its envelope sender, or what stands in its Return-Path: the
	// address to look the message up with.
	MailFrom string
	// EnvID is its envelope's ID.
	EnvID string
	// SourceIP is where the provider got it from.
	SourceIP netip.Addr
	// ReportedDomains are domains that the report is about.
	ReportedDomains []string
	// Arrival is when the provider got the message.
	Arrival time.Time
	// Incidents is how many reports this one stands for, 1 at least.
	Incidents int
	// MessageID, From, To and Subject are of the original message's header.
	// MessageID has no angle brackets; the others are decoded.
	MessageID, From, To, Subject string
}

// ParseComplaint reads a feedback report, or what providers send that do not
// follow the standard. The error is [ErrNoComplaint] or that of reading msg.
func ParseComplaint(msg *io.SectionReader) (*Complaint, error) {
	e, err := collect(msg)
	if err != nil {
		return nil, err
	}
	c := &Complaint{Incidents: 1}
	switch {
	case e.feedback != nil:
		c.readFields(readFields(e.feedback))
	case e.reportType == "feedback-report", isLooseComplaint(e):
	default:
		return nil, ErrNoComplaint
	}
	if c.Type == "" {
		c.Type = "abuse"
	}
	c.readOriginal(e)
	return c, nil
}

// isLooseComplaint knows Microsoft's Junk Mail Reporting Program, which sends the
// message as an attachment and no report.
func isLooseComplaint(e *evidence) bool {
	if e.original == nil {
		return false
	}
	from := strings.ToLower(e.header.Get("From"))
	return e.original.Has("X-HmXmrOriginalRecipient") || containsAny(from, "staff@hotmail.com", "staff@outlook.com", "complaints@", "feedbackloop@", "fbl@") && strings.Contains(strings.ToLower(e.header.Get("Subject")), "complaint")
}

func (c *Complaint) readFields(list []field) {
	for _, f := range list {
		switch f.name {
		case "feedback-type":
			c.Type = strings.ToLower(strings.TrimSpace(f.value))
		case "user-agent":
			c.UserAgent = f.value
		case "original-rcpt-to", "removal-recipient":
			c.addRecipient(cleanAddress("", f.value))
		case "original-mail-from":
			c.MailFrom = cleanAddress("", f.value)
		case "original-envelope-id":
			c.EnvID = f.value
		case "source-ip":
			c.SourceIP = parseIP(f.value)
		case "reported-domain":
			c.ReportedDomains = appendOnce(c.ReportedDomains, strings.ToLower(f.value))
		case "reported-uri":
			if u, err := url.Parse(f.value); err == nil && u.Hostname() != "" {
				c.ReportedDomains = appendOnce(c.ReportedDomains, strings.ToLower(u.Hostname()))
			}
		case "arrival-date", "received-date":
			c.Arrival = parseDate(f.value)
		case "incidents":
			if n, err := strconv.Atoi(f.value); err == nil && n > 0 {
				c.Incidents = n
			}
		}
	}
}

func (c *Complaint) readOriginal(e *evidence) {
	h := e.original
	c.MessageID = messageID(h.Get("Message-ID"))
	c.From = line(message.DecodeHeader(h.Get("From")), maxDiagnostic)
	c.To = line(message.DecodeHeader(h.Get("To")), maxDiagnostic)
	c.Subject = line(message.DecodeHeader(h.Get("Subject")), maxDiagnostic)
	if c.MailFrom == "" || c.MailFrom == "<>" {
		c.MailFrom = findAddress(h.Get("Return-Path"))
	}
	if c.MailFrom == "" {
		c.MailFrom = findAddress(h.Get("X-HmXmrOriginalSender"))
	}
	if len(c.Recipients) == 0 {
		// Microsoft adds a field to the original, others leave in what was there.
		for _, name := range []string{"X-HmXmrOriginalRecipient", "Delivered-To", "X-Original-To", "X-Rcpt-To", "To"} {
			for _, f := range h.All(name) {
				c.addRecipient(findAddress(f.Value()))
			}
			if len(c.Recipients) > 0 {
				break
			}
		}
	}
	if !c.SourceIP.IsValid() {
		for _, name := range []string{"X-Originating-IP", "X-Sender-IP", "X-SID-PRA-IP"} {
			if ip := parseIP(h.Get(name)); ip.IsValid() {
				c.SourceIP = ip
				break
			}
		}
	}
}

// addRecipient adds an address that is one, and not what some providers put in its
// place.
func (c *Complaint) addRecipient(address string) {
	if strings.Contains(address, "@") && !strings.Contains(strings.ToLower(address), "redacted") {
		c.Recipients = appendOnce(c.Recipients, address)
	}
}

func parseIP(s string) netip.Addr {
	s, _, _ = strings.Cut(strings.Trim(s, "[]() \t"), "]")
	ip, _ := netip.ParseAddr(strings.TrimPrefix(strings.TrimPrefix(s, "IPv6:"), "ipv6:")) // invalid: the zero Addr
	return ip.Unmap().WithZone("")
}

func appendOnce(list []string, s string) []string {
	if s == "" || len(list) >= maxComplaint || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
