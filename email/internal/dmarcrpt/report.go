package dmarcrpt

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-message/mail"
)

// Report is a message that is ready to be signed and sent, from Config.Email in the
// envelope too, so that SPF can vouch for it, and without a wish for notifications
// (NOTIFY=NEVER): many of the addresses are not read.
type Report struct {
	// ID is the Report-ID: the same for a report that is sent again.
	ID string
	// Domain is the policy domain that it is about.
	Domain string
	// To is the one address that it goes to.
	To string
	// Message is all of it, with CRLF at the ends of lines.
	Message []byte
}

// compressed returns a document as the attachment that it becomes.
func compressed(document []byte) ([]byte, error) {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(document); err != nil {
		return nil, err
	}
	err = z.Close()
	return buf.Bytes(), err
}

// report writes the message for one destination (RFC 9990 section 3.5.2).
func (r *Reporter) report(e *domain, to destination, attachment []byte) (Report, error) {
	id := r.reportID(e)
	var h mail.Header
	h.SetDate(r.cfg.Now())
	h.SetAddressList("From", []*mail.Address{{Name: r.cfg.Organization, Address: r.cfg.Email}})
	h.SetAddressList("To", []*mail.Address{{Address: to.addr.String()}})
	h.SetSubject(fmt.Sprintf("Report Domain: %s Submitter: %s Report-ID: <%s>", e.name, r.cfg.Hostname, id))
	h.SetMessageID(id)
	h.Set("Auto-Submitted", "auto-generated") // RFC 3834: no vacation notes

	var buf bytes.Buffer
	w, err := mail.CreateWriter(&buf, h)
	if err != nil {
		return Report{}, err
	}
	if err := r.text(w, e); err != nil {
		return Report{}, err
	}
	filename := fmt.Sprintf("%s!%s!%d!%d.xml.gz", r.cfg.Hostname, e.name, e.begin(), e.end())
	var part mail.AttachmentHeader
	part.SetContentType("application/gzip", map[string]string{"name": filename})
	part.SetFilename(filename)
	p, err := w.CreateAttachment(part)
	if err != nil {
		return Report{}, err
	}
	if _, err := p.Write(attachment); err != nil {
		return Report{}, err
	}
	if err := p.Close(); err != nil {
		return Report{}, err
	}
	err = w.Close()
	return Report{ID: id, Domain: e.name, To: to.addr.String(), Message: buf.Bytes()}, err
}

// text writes the part for people.
func (r *Reporter) text(w *mail.Writer, e *domain) error {
	var h mail.InlineHeader
	h.SetContentType("text/plain", map[string]string{"charset": "utf-8"})
	p, err := w.CreateSingleInline(h)
	if err != nil {
		return err
	}
	lines := []string{
		"This is a DMARC aggregate report (RFC 9990), which the DMARC record of",
		e.name + " asks for.",
		"",
		"Reported by: " + r.cfg.Organization + " (" + r.cfg.Hostname + ")",
		"Day:         " + time.Unix(e.begin(), 0).UTC().Format(time.DateOnly) + " (UTC)",
		fmt.Sprintf("Messages:    %d", e.messages),
		"",
	}
	if _, err := p.Write([]byte(strings.Join(lines, "\r\n"))); err != nil {
		return err
	}
	return p.Close()
}
