package dsn

import (
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// readText reads a notification that is written for people only. As it has
// nothing but phrases to go by, it has to come from a server's own address.
func (n *Notification) readText(e *evidence) bool {
	failed := e.header.Get("X-Failed-Recipients") // Exim's, and those who took it over
	subject := strings.ToLower(message.DecodeHeader(e.header.Get("Subject")))
	if failed == "" && !fromServer(e.header) {
		// The null sender has sent it, and it is no person's vacation program.
		if e.header.Get("Return-Path") != "<>" || !saysFailure(subject) || isAutoReply(e) {
			return false
		}
	}
	own, rest := cutOriginal(e.text)
	lower := strings.ToLower(own)
	format := textFormat(lower)
	if failed == "" && format == "" && !saysFailure(subject) && !saysFailure(lower) {
		return false
	}
	if e.original == nil && rest != "" {
		// A string cannot fail to be read.
		e.original, _ = headerOf(strings.NewReader(strings.TrimLeft(rest, "\n ")))
	}
	n.Recipients = withoutSender(textRecipients(e.text), e)
	if len(n.Recipients) == 0 {
		n.Recipients = mentioned(own, e)
	}
	if len(n.Recipients) == 0 {
		n.addFailed(failed)
	}
	n.Kind, n.Format = Bounce, format
	if format == "" {
		n.Format = "text"
	}
	action := Failed
	if saysDelay(subject) || saysDelay(lower) {
		n.Kind, action = Delay, Delayed
	}
	for i := range n.Recipients {
		n.Recipients[i].Action = action
	}
	return true
}

// withoutSender leaves out whose message it was, unless there is nobody else: some
// servers begin with that.
func withoutSender(list []Recipient, e *evidence) []Recipient {
	sender := strings.ToLower(e.header.Get("To") + " " + e.original.Get("Return-Path"))
	isSender := func(r Recipient) bool { return strings.Contains(sender, strings.ToLower(r.Address)) }
	if slices.ContainsFunc(list, func(r Recipient) bool { return !isSender(r) }) {
		list = slices.DeleteFunc(list, isSender)
	}
	return list
}

// addFailed adds the recipients of X-Failed-Recipients.
func (n *Notification) addFailed(list string) {
	for s := range strings.SplitSeq(list, ",") {
		if len(n.Recipients) >= maxRecipients {
			return
		}
		if address := findAddress(s); address != "" {
			n.Recipients = addRecipient(n.Recipients, address)
		}
	}
}

func addRecipient(list []Recipient, address string) []Recipient {
	for _, r := range list {
		if strings.EqualFold(r.Address, address) {
			return list
		}
	}
	return append(list, Recipient{Address: address})
}

// fromServer says whether a message is from a mail server, by its own account.
func fromServer(h message.Header) bool {
	from := strings.ToLower(message.DecodeHeader(h.Get("From") + " " + h.Get("Sender")))
	return containsAny(from,
		"mailer-daemon", "mailer_daemon", "mailerdaemon", "postmaster", "mail delivery", "delivery subsystem",
		"system administrator", "mail-daemon", "maildaemon", "mdaemon", "daemon@", "mail administrator", "mail system",
		"mail server", "microsoft outlook", "postoffice@")
}

// textFormat recognizes programs by what they always say. The text is in lower
// case.
func textFormat(text string) string {
	switch {
	case strings.Contains(text, "created automatically by mail delivery software"):
		return "exim"
	case containsAny(text, "this is the qmail-send program", "hi. this is the", "--- below this line is a copy of the message"):
		return "qmail"
	case containsAny(text, "sorry, we were unable to deliver your message"):
		return "yahoo"
	case containsAny(text, "this is the mail system at host", "this is the postfix program at"):
		return "postfix"
	case containsAny(text,
		"delivery to the following recipient failed permanently", "delivery to the following recipients failed permanently",
		"google tried to deliver"):
		return "gmail"
	case containsAny(text, "did not reach the following recipient", "diagnostic information for administrators"):
		return "exchange"
	case containsAny(text, "------- failure reasons", "not listed in domino directory", "public name & address book"):
		return "domino"
	case containsAny(text, "----- the following addresses had", "----- transcript of session follows"):
		return "sendmail"
	}
	return ""
}

// saysFailure and saysDelay look for what servers write, in lower case.
func saysFailure(s string) bool {
	return containsAny(s,
		"undeliver", "not be delivered", "n't be delivered", "not delivered", "n't delivered", "unable to deliver",
		"delivery failed", "delivery failure", "failure notice", "returned mail", "delivery has failed", "failed to deliver",
		"did not reach", "delivery status notification", "mail system error", "mail failure", "non-delivery", "nondeliver",
		"permanent failure", "permanent error", "permanent fatal", "delivery error", "mail could not be",
		"message was rejected", "rejected your message", "delivery problem", "could not deliver", "couldn't deliver",
		"can't deliver", "mail delivery", "could not be sent", "error sending mail", "cannot deliver",
		"returning message to sender", "user unknown", "bounced", "delivery report")
}

func saysDelay(s string) bool {
	return containsAny(s,
		"a warning message only", "this is a warning only", "not yet been delivered", "message delayed", "delivery is delayed",
		"delivery delayed", "has been delayed", "not need to resend", "not have to resend",
		"no action is required on your part", "will be retried", "will continue to try", "notification (delay)",
		"will continue trying", "will keep trying", "warning: could not send", "keep trying until", "delayed mail",
		"delivery will be attempted again")
}

func containsAny(s string, phrases ...string) bool {
	for _, p := range phrases {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}

// cutOriginal finds where in a text the original message begins.
func cutOriginal(text string) (own, original string) {
	at := 0
	for l := range strings.Lines(text) {
		next := at + len(l)
		t := strings.ToLower(strings.TrimSpace(l))
		switch {
		case strings.HasPrefix(t, "received: ") && at > 0, strings.HasPrefix(t, "return-path: "):
			return text[:at], text[at:]
		case strings.HasPrefix(t, "--") && containsAny(t,
			"original", "returned message", "unsent message", "copy of", "message follows", "headers follow", "header follow",
			"body of the message", "enclosed", "message header"),
			containsAny(t,
				"message header follows", "message headers follow", "original message headers:", "original message follows",
				"start of message", "headers of the original message", "content of the original message"):
			return text[:at], text[next:]
		}
		at = next
	}
	return text, ""
}

// textRecipients reads the lines that begin with an address, each with what is
// said below or behind it.
func textRecipients(text string) []Recipient {
	own, _ := cutOriginal(text)
	var list []Recipient
	var said [][]string // for each recipient, lines
	index := map[string]int{}
	before := "" // the last line before the first recipient
	at := -1
	for l := range strings.Lines(own) {
		l = strings.TrimSpace(l)
		address, rest, ok := recipientLine(l)
		switch {
		case ok:
			if i, known := index[strings.ToLower(address)]; known {
				at = i
			} else if len(list) < maxRecipients {
				at = len(list)
				index[strings.ToLower(address)] = at
				list = append(list, Recipient{Address: address})
				said = append(said, nil)
			}
			if rest != "" {
				said[at] = append(said[at], rest)
			}
		case at < 0:
			if strings.Trim(l, " -") != "" {
				before = l
			}
		default:
			said[at] = append(said[at], l)
		}
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].explain(said[i]); list[i].Diagnostic != "" {
			continue
		}
		if i+1 < len(list) { // several with the same reason below them
			list[i].Diagnostic, list[i].Status, list[i].RemoteMTA = list[i+1].Diagnostic, list[i+1].Status, list[i+1].RemoteMTA
		} else if !strings.HasSuffix(before, ":") {
			list[i].explain([]string{before}) // Domino: the reason stands first
		}
	}
	return list
}

// recipientLine takes a line apart that begins with an address, if it is one that
// tells of a recipient.
func recipientLine(l string) (address, rest string, ok bool) {
	l = strings.TrimLeft(l, "*-> \t\"'")
	if inside, after, closed := strings.Cut(strings.TrimPrefix(l, "<"), ">"); strings.HasPrefix(l, "<") && closed {
		address, rest = inside, after
	} else {
		end := strings.IndexAny(l, " \t<>,;:()\"'")
		if end < 0 {
			end = len(l)
		}
		address, rest = l[:end], l[end:]
	}
	if !strings.Contains(address, "@") || len(address) > 320 {
		return "", "", false
	}
	trimmed := strings.TrimRight(strings.TrimPrefix(address, "mailto:"), ".")
	a, err := addr.Parse(trimmed)
	if err != nil || !strings.Contains(a.Domain, ".") {
		return "", "", false
	}
	if strings.HasSuffix(address, "...") {
		rest = "..." + rest
	}
	if strings.HasPrefix(rest, "<mailto:") {
		_, rest, _ = strings.Cut(rest, ">")
	}
	rest = strings.TrimSpace(strings.TrimLeft(rest, "\"'>"))
	switch {
	case rest == "":
	case strings.ContainsRune(":.,;([-", rune(rest[0])):
		rest = strings.TrimLeft(rest, ":.,; ")
	case strings.HasPrefix(rest, "on "): // Exchange: and a date
		rest = ""
	default:
		return "", "", false // a sentence that begins with an address
	}
	return a.String(), rest, true
}

// mentioned are the addresses that the text names anywhere, but for those of the
// people and servers who wrote to each other.
func mentioned(own string, e *evidence) []Recipient {
	var list []Recipient
	skip := strings.ToLower(e.header.Get("From") + " " + e.header.Get("To") + " " + e.original.Get("From") + " " + e.original.Get("Return-Path"))
	lines := strings.Split(own, "\n")
	for _, l := range lines {
		if containsAny(strings.ToLower(l), "mail from:", "message-id", "message id", "messageid") || len(list) >= 20 {
			continue
		}
		address := findAddress(l)
		lower := strings.ToLower(address)
		if address == "" || strings.Contains(skip, lower) || containsAny(lower, "mailer-daemon@", "postmaster@", "abuse@", "helpdesk@", "support@") {
			continue
		}
		list = addRecipient(list, address)
	}
	var r Recipient
	r.explain(lines)
	for i := range list {
		list[i].Diagnostic, list[i].Status, list[i].RemoteMTA = r.Diagnostic, r.Status, r.RemoteMTA
	}
	return list
}

// explain takes what was said about a recipient out of lines: the paragraph that
// has a reply of a server in it, or the first.
func (r *Recipient) explain(lines []string) {
	first, best := "", ""
	var paragraph []string
	for i := 0; i <= len(lines) && best == ""; i++ {
		if i < len(lines) && strings.Trim(lines[i], " \t-*_") != "" {
			l := strings.TrimSpace(lines[i])
			if origin, ok := strings.CutPrefix(l, "(generated from "); ok && r.Original == "" {
				r.Original = "rfc822;" + line(strings.TrimSuffix(origin, ")"), 300)
				continue
			}
			paragraph = append(paragraph, l)
			continue
		}
		text := strings.Join(paragraph, " ")
		if strings.HasSuffix(text, ":") && i < len(lines) && len(text) < maxDiagnostic {
			continue // it announces the next; what is too long for that is not joined again
		}
		paragraph = nil
		if first == "" {
			first = text
		}
		if hasReply(text) {
			best = text
		}
	}
	if best == "" {
		best = first
	}
	best = strings.TrimPrefix(line(best, maxDiagnostic), "(reason: ")
	r.Diagnostic = best
	r.Status = findStatus(best)
	r.RemoteMTA = findHost(best)
}

// hasReply looks for a reply code or an enhanced status code.
func hasReply(s string) bool { return findCode(s) != 0 || findStatus(s) != "" }

// findCode returns the first word that is a reply code for a failure, or 0.
func findCode(s string) int {
	for i := 0; i+2 < len(s); i++ {
		if (s[i] != '4' && s[i] != '5') || i > 0 && strings.IndexByte(" \t(:<[\"'", s[i-1]) < 0 {
			continue
		}
		d1, d2 := s[i+1], s[i+2]
		if d1 < '0' || d1 > '5' || d2 < '0' || d2 > '9' {
			continue
		}
		if i+3 == len(s) || strings.IndexByte(" -\t:;,)#_<", s[i+3]) >= 0 {
			return int(s[i]-'0')*100 + int(d1-'0')*10 + int(d2-'0')
		}
	}
	return 0
}

// findHost returns the name of the host that a text says to have answered.
func findHost(s string) string {
	lower := asciiLower(s)
	for _, before := range []string{"host ", "while talking to ", "connect to ", "connected to ", " by "} {
		for at := 0; ; {
			i := strings.Index(lower[at:], before)
			if i < 0 {
				break
			}
			at += i + len(before)
			end := at
			for end < len(s) && isDomainRune(rune(s[end])) {
				end++
			}
			if name := strings.Trim(lower[at:end], ".-"); strings.Contains(name, ".") && strings.ContainsFunc(name, func(c rune) bool { return c >= 'a' && c <= 'z' }) {
				return name
			}
		}
	}
	return ""
}

// asciiLower keeps each byte in its place.
func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
