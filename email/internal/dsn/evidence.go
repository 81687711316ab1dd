package dsn

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// What is read of a message at most, in bytes where it is not said otherwise.
const (
	maxStatus   = 512 << 10 // of the parts for machines
	maxText     = 64 << 10  // of the parts for people
	maxOriginal = 64 << 10  // of the original's header
	maxDepth    = 20        // levels of parts
	maxParts    = 100       // parts
)

// evidence is what in a message can tell that it is a notification.
type evidence struct {
	header     message.Header // of the message itself
	reportType string         // of multipart/report, in lower case
	status     []byte         // of message/delivery-status, or what is called so
	feedback   []byte         // of message/feedback-report
	receipt    bool           // there is a message/disposition-notification
	text       string         // of text/plain, else of text/html
	html       string
	original   message.Header // of the message that it is about
}

// collect reads a message. Of one that is too deep or has too many parts it takes
// what comes first.
func collect(msg *io.SectionReader) (*evidence, error) {
	e := &evidence{}
	inside := -1 // the depth of the message/rfc822 whose parts are passed over
	limits := message.Limits{Depth: maxDepth, Parts: maxParts, HeaderBytes: maxOriginal}
	err := message.Walk(msg, limits, func(p *message.Part) error {
		if p.Index == 0 {
			e.header = p.Header
			e.reportType = strings.ToLower(p.Params["report-type"])
		}
		if inside >= 0 {
			if p.Depth > inside {
				if p.Depth == inside+1 && e.original == nil {
					e.original = p.Header
				}
				return nil
			}
			inside = -1
		}
		if p.IsMessage() && p.Depth > 0 {
			inside = p.Depth
			return nil
		}
		if !p.IsLeaf() {
			return nil
		}
		return e.leaf(p)
	})
	if errors.Is(err, message.ErrTooDeep) || errors.Is(err, message.ErrTooManyParts) || errors.Is(err, message.ErrHeaderTooLarge) {
		err = nil
	}
	if e.text == "" {
		e.text = untag(e.html)
	}
	return e, err
}

// leaf takes what a part has to tell.
func (e *evidence) leaf(p *message.Part) error {
	var err error
	switch p.MediaType {
	case "message/delivery-status", "message/global-delivery-status", "text/delivery-status", "message/delivery-notification":
		err = readTo(&e.status, p, maxStatus)
	case "message/feedback-report":
		err = readTo(&e.feedback, p, maxStatus)
	case "message/disposition-notification", "message/global-disposition-notification":
		e.receipt = true
	case "text/rfc822-headers", "message/global-headers", "message/rfc822-headers":
		if e.original == nil {
			e.original, err = headerOf(p.Open())
		}
	case "text/plain":
		if p.Disposition != "attachment" {
			err = e.addText(&e.text, p)
		}
	case "text/html":
		if p.Disposition != "attachment" {
			err = e.addText(&e.html, p)
		}
	}
	return err
}

func (e *evidence) addText(to *string, p *message.Part) error {
	room := maxText - len(*to)
	if room <= 0 {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(p.Open(), int64(room)))
	if len(b) > 0 {
		*to += strings.ToValidUTF8(strings.ReplaceAll(string(b), "\r\n", "\n"), "?") + "\n"
	}
	return err
}

// readTo appends the content of a part, with an empty line between parts.
func readTo(to *[]byte, p *message.Part, limit int) error {
	if len(*to) > 0 {
		*to = append(*to, "\n\n"...)
	}
	b, err := io.ReadAll(io.LimitReader(p.Open(), int64(max(0, limit-len(*to)))))
	*to = append(*to, b...)
	return err
}

// headerOf reads a header section, or the start of one that is too large.
func headerOf(r io.Reader) (message.Header, error) {
	h, _, err := message.ReadHeader(bufio.NewReader(r), maxOriginal)
	if errors.Is(err, message.ErrHeaderTooLarge) {
		err = nil
	}
	return h, err
}

// untag makes text of HTML that is good enough to look for phrases in.
func untag(html string) string {
	var b strings.Builder
	for html != "" {
		text, rest, _ := strings.Cut(html, "<")
		b.WriteString(text)
		name, after, _ := strings.Cut(rest, ">")
		name = strings.ToLower(clip(name, 10))
		for _, block := range []string{"br", "p", "/p", "div", "/div", "tr", "/tr", "li", "h", "/h", "td"} {
			if strings.HasPrefix(name, block) {
				b.WriteByte('\n')
				break
			}
		}
		for _, hidden := range []string{"style", "script"} {
			if strings.HasPrefix(name, hidden) {
				_, after, _ = strings.Cut(after, "</"+hidden)
				_, after, _ = strings.Cut(after, ">")
			}
		}
		html = after
	}
	return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&quot;", `"`, "&#39;", "'", "&nbsp;", " ", "&amp;", "&").Replace(b.String())
}
