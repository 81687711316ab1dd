package dsn

import (
	"cmp"
	"strings"
)

// Severity says what a failure means for the next message to the same address.
type Severity string

const (
	// Hard: the address is no good, and nothing should be sent to it any more.
	Hard Severity = "hard"
	// Soft: this time it did not work, or nobody knows why.
	Soft Severity = "soft"
	// Block: the recipient's server does not want us or the message. The address
	// may be perfectly good.
	Block Severity = "block"
)

// Reason is why a message was not taken.
type Reason string

const (
	NoSuchUser   Reason = "no-such-user"
	NoSuchDomain Reason = "no-such-domain"
	Disabled     Reason = "disabled" // the mailbox is there, and closed
	MailboxFull  Reason = "mailbox-full"
	Size         Reason = "size"       // the message is too large
	Content      Reason = "content"    // viruses, attachments, malformed messages
	Spam         Reason = "spam"       // the content looks like it
	Reputation   Reason = "reputation" // our address or name: lists, reverse DNS
	Auth         Reason = "auth"       // SPF, DKIM, DMARC
	Policy       Reason = "policy"     // another rule of the server's
	Relaying     Reason = "relaying"   // the server does not think that the recipient is its own
	Rate         Reason = "rate"       // too much at once
	Greylisted   Reason = "greylisted"
	Network      Reason = "network"  // connections and DNS
	System       Reason = "system"   // the server is in trouble
	Protocol     Reason = "protocol" // commands, TLS, extensions
	Expired      Reason = "expired"  // tried for too long
	Unknown      Reason = "unknown"
)

// Failure is what is known of a delivery that failed. Each of the fields may be
// missing.
type Failure struct {
	// Code is the reply code, as 550. If it is 0, one in the text counts, with less
	// trust.
	Code int
	// Status is the enhanced status code, as "5.1.1".
	Status string
	// Text is what the server said, with or without the codes, or a program about
	// it.
	Text string
}

// Failure returns what the notification says about a recipient who was not
// reached.
func (r Recipient) Failure() Failure {
	return Failure{Status: r.Status, Text: r.Diagnostic}
}

// Class is what a failure is taken for.
type Class struct {
	Severity Severity
	Reason   Reason
}

// Classify tells why a message failed, from a reply or a notification. Servers do
// not agree on codes: blocks come as 5.1.1, unknown users as 5.7.1, full
// mailboxes as 554. So what the text clearly says goes first, then a code that
// means one thing only, then what the text hints at. Whatever is only temporary
// is never Hard, and what nobody understands is Soft: to give up an address that
// is good does more harm than one more message to one that is not.
func Classify(f Failure) Class {
	text := normalize(f.Text)
	status := findStatus(f.Status)
	code := cmp.Or(f.Code, findCode(f.Text))
	// A general code from a program about the delivery says less than the one
	// that the other server gave.
	if said := findStatus(text); said != "" && (status == "" || strings.HasSuffix(status, ".0.0")) {
		status = said
	}
	// The reply code is what SMTP acts on (RFC 5321 section 4.2.1).
	temporary := code/100 == 4 || f.Code == 0 && strings.HasPrefix(status, "4")
	if code/100 == 2 || code == 0 && strings.HasPrefix(status, "2") {
		return Class{Severity: Soft, Reason: Unknown} // no failure
	}
	reason := cmp.Or(clearReason(text), clearStatus(status, text), vagueReason(text, status), vagueStatus(status), codeReason(code), Unknown)
	if isAboutSender(text) && severity(reason, false) == Hard {
		reason = Policy // it is our address that is no good to them
	}
	temporary = temporary || reason == Disabled && strings.Contains(text, "temporar")
	return Class{Severity: severity(reason, temporary), Reason: reason}
}

// isAboutSender finds the phase of the dialogue that programs name.
func isAboutSender(text string) bool {
	return containsAny(text, "after mail from", "reply to mail from", "response to mail from", "to our mail from", "command: mail from", ">>> mail from")
}

func severity(reason Reason, temporary bool) Severity {
	switch reason {
	case NoSuchUser, NoSuchDomain, Disabled:
		if temporary {
			return Soft
		}
		return Hard
	case Spam, Reputation, Auth, Policy, Relaying:
		return Block
	}
	return Soft
}

// clearStatus knows the codes of RFC 3463 and its registry (RFC 5248) that
// servers use for what they mean.
func clearStatus(status, text string) Reason {
	if len(status) < 3 {
		return ""
	}
	switch status[2:] {
	case "1.1", "1.3", "1.6":
		return NoSuchUser
	case "1.2", "1.10": // 1.10: null MX (RFC 7505)
		return NoSuchDomain
	case "1.7", "1.8": // about the sender's address
		return Policy
	case "2.1":
		return Disabled
	case "2.2", "3.1":
		return MailboxFull
	case "2.3", "3.4":
		return Size
	case "4.1", "4.2", "4.3":
		if strings.Contains(text, "recipient address rejected: access denied") {
			return NoSuchUser // Exchange Online, for whom is not in the directory
		}
		return Network
	case "4.5", "5.3", "7.28":
		return Rate
	case "4.6":
		return System
	case "4.7":
		return Expired
	case "7.8", "7.20", "7.21", "7.22", "7.23", "7.24", "7.26", "7.29":
		return Auth
	case "7.25":
		return Reputation
	case "7.10", "7.30", "3.3", "6.3", "6.7":
		return Protocol
	}
	return ""
}

// vagueStatus goes by what a code is about at least.
func vagueStatus(status string) Reason {
	if len(status) < 3 || strings.HasSuffix(status, ".0.0") {
		return ""
	}
	switch status[2:3] {
	case "1":
		return NoSuchUser
	case "2":
		return Disabled
	case "3":
		return System
	case "4":
		return Network
	case "5":
		return Protocol
	case "6":
		return Content
	case "7":
		return Policy
	}
	return ""
}

// codeReason goes by the reply codes that mean something (RFC 5321 section 4.2.3,
// RFC 7504).
func codeReason(code int) Reason {
	switch code {
	case 552:
		return MailboxFull
	case 551, 553:
		return NoSuchUser
	case 521, 556:
		return NoSuchDomain
	case 421, 451, 452:
		return System
	case 500, 501, 502, 503, 504, 555:
		return Protocol
	case 530, 534, 535:
		return Policy
	}
	return ""
}

// normalize makes a reply comparable: lower case, single spaces, plain
// apostrophes, no codes at the start of later lines, no addresses, as people have
// all kinds of words in theirs, and nothing of what Cisco's servers call the class
// of an error ("5.1.0 - Unknown address error 554-'...'").
func normalize(s string) string {
	s = strings.ToLower(line(s, 2000))
	if code, rest, ok := strings.Cut(s, " - "); ok && len(code) > 4 && findStatus(code) == code {
		s = strings.TrimPrefix(strings.TrimPrefix(rest, "unknown address error"), "other mail system problem")
	}
	s = strings.NewReplacer("’", "'", "`", "'", "_", " ").Replace(s)
	words := strings.Fields(s)
	kept := words[:0]
	for _, w := range words {
		if strings.Contains(w, "@") {
			before, _, _ := strings.Cut(w, "<") // as of MAIL FROM:<a@b.example>
			if w = "<address>"; !strings.Contains(before, "@") {
				w = before + w
			}
		}
		// 550-5.7.1 between the lines of one reply
		if len(w) > 4 && w[3] == '-' && findCode(w) != 0 {
			if w = w[4:]; findStatus(w) == w {
				continue
			}
		}
		kept = append(kept, w)
	}
	return strings.Join(kept, " ")
}
