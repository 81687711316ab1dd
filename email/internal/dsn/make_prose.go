package dsn

import (
	"fmt"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// maxProse is how many recipients people are told of one by one; the report for
// machines has all.
const maxProse = 100

// prosePart writes the text that people read.
func (r *Report) prosePart(original message.Header) part {
	var b strings.Builder
	fmt.Fprintf(&b, "This is the mail server %s.\n", r.ReportingMTA)
	for _, action := range []Action{Failed, Delayed, Relayed, Expanded, Delivered} {
		r.proseOf(&b, action)
	}
	b.WriteString("\nThe message that this is about:\n\n")
	about := func(name, value string) {
		if value = line(value, 200); value != "" {
			fmt.Fprintf(&b, "    %-8s %s\n", name, value)
		}
	}
	about("Subject:", message.DecodeHeader(original.Get("Subject")))
	about("From:", message.DecodeHeader(original.Get("From")))
	about("To:", message.DecodeHeader(original.Get("To")))
	about("Date:", original.Get("Date"))
	if !r.Arrival.IsZero() {
		about("Received:", r.Arrival.Format(time.RFC1123Z))
	}
	text := strings.ReplaceAll(b.String(), "\n", "\r\n")
	p := part{mediaType: "text/plain", params: map[string]string{"charset": "utf-8"}, encoding: "7bit", description: "Notification", content: []byte(text)}
	if !isASCII(text) || !isSendable(p.content) {
		p.encoding = "quoted-printable"
	}
	return p
}

func (r *Report) proseOf(b *strings.Builder, action Action) {
	var list []Recipient
	for _, rcpt := range r.Recipients {
		if rcpt.Action == action {
			list = append(list, rcpt)
		}
	}
	if len(list) == 0 {
		return
	}
	b.WriteString("\n" + heading(action) + "\n")
	for i, rcpt := range list {
		if i == maxProse {
			fmt.Fprintf(b, "\n  ... and to %d more.\n", len(list)-i)
			break
		}
		rcpt.prose(b)
	}
	if action != Delayed {
		return
	}
	b.WriteString("\nYou need not do anything, and need not send it again.\n")
	if until := list[0].RetryUntil; !until.IsZero() {
		fmt.Fprintf(b, "If it cannot be delivered until %s,\nyou will be told.\n", until.Format(time.RFC1123Z))
	} else {
		b.WriteString("If it cannot be delivered in the end, you will be told.\n")
	}
}

func heading(a Action) string {
	switch a {
	case Failed:
		return "Your message could not be delivered, and will not be tried again, to:"
	case Delayed:
		return "Your message has not been delivered yet. The server keeps trying, to:"
	case Relayed:
		return "Your message was passed on to a server that may not tell you more, for:"
	case Expanded:
		return "Your message was passed on to all members of:"
	default:
		return "Your message was delivered to:"
	}
}

func (r *Recipient) prose(b *strings.Builder) {
	fmt.Fprintf(b, "\n  %s\n", line(r.Address, 400))
	if kind, first, ok := strings.Cut(r.Original, ";"); ok && (strings.EqualFold(kind, "rfc822") || strings.EqualFold(kind, "utf-8")) && !strings.EqualFold(first, r.Address) {
		fmt.Fprintf(b, "  (you wrote to %s)\n", line(first, 400))
	}
	if r.Action != Failed && r.Action != Delayed {
		return
	}
	switch {
	case r.Diagnostic != "" && r.RemoteMTA != "":
		fmt.Fprintf(b, "\n    The server %s said:\n\n", line(r.RemoteMTA, 300))
		wrap(b, "      ", line(r.Diagnostic, maxDiagnostic))
	case r.Diagnostic != "":
		b.WriteString("\n    What went wrong:\n\n")
		wrap(b, "      ", line(r.Diagnostic, maxDiagnostic))
	}
	if r.Action == Failed {
		b.WriteString("\n")
		wrap(b, "    ", advice(Classify(r.Failure()).Reason))
	}
}

// advice says what somebody can do about a failure.
func advice(reason Reason) string {
	switch reason {
	case NoSuchUser:
		return "There seems to be no such address. Check it for typing errors, or ask the recipient in another way."
	case NoSuchDomain:
		return "What is behind the @ seems not to exist, or takes no mail. Check it for typing errors."
	case Disabled:
		return "The mailbox is not in use any more. Ask the recipient in another way for the right one."
	case MailboxFull:
		return "The recipient's mailbox is full. Try again in some days, or tell them in another way."
	case Size:
		return "The message is too large for the recipient's server. Send it with smaller attachments, or a link to them."
	case Content:
		return "The recipient's server did not take what the message contains. Try without attachments, or send them as a link."
	case Spam:
		return "The recipient's server took the message for spam. If it is not, word it differently, or reach the recipient in another way."
	case Reputation, Rate, Auth:
		return "The recipient's server did not trust the server that sent the message. This is for your postmaster to solve: pass this notification on."
	case Policy, Relaying:
		return "The recipient's server has rules against this message. Ask the recipient in another way, or pass this notification on to your postmaster."
	case Network, Expired, System, Greylisted, Protocol:
		return "The recipient's server could not be reached, or could not take the message, for too long. Try again later, or reach the recipient in another way."
	}
	return "If you do not know why, pass this notification on to your postmaster."
}

// wrap writes words in lines of 76 characters at most, longer words whole.
func wrap(b *strings.Builder, indent, text string) {
	width := 0
	for _, word := range strings.Fields(text) {
		switch {
		case width == 0:
			b.WriteString(indent)
			width = len(indent)
		case width+1+len(word) > 76:
			b.WriteString("\n" + indent)
			width = len(indent)
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	b.WriteString("\n")
}
