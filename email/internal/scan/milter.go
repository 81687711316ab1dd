package scan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// ErrUnsupported is wrapped by the error of a milter that wants to replace the
// body, or change sender or recipients. A message is never written anew here, so
// that its signatures stay valid; to pass it as it was would be against the
// milter's word.
var ErrUnsupported = errors.New("the milter wants a change that is not possible here")

// Milter asks a mail filter by sendmail's protocol, version 6 to 2.
type Milter struct {
	backend Backend
	kind    Kind
}

// NewMilter returns a scanner of either kind: a milter does not say what it looks
// for. One that refuses a recipient refuses the message: all of it has come, and its
// client can be told but one thing for all recipients.
func NewMilter(b Backend, kind Kind) *Milter { return &Milter{b, kind} }

// errDecided ends a conversation whose outcome is known.
var errDecided = errors.New("decided")

// Scan tells the milter about the whole session, from the connection to the end of
// the message.
func (f *Milter) Scan(ctx context.Context, m Message) (Verdict, error) {
	v := Verdict{Kind: f.kind}
	err := f.backend.talk(ctx, "milter", func(conn net.Conn) error {
		t := &milterTalk{milterWire: newMilterWire(conn), v: &v, m: m}
		if err := t.run(); err != nil && err != errDecided {
			return err
		}
		_ = t.write(milterQuit) // it has said what it had to
		_ = t.w.Flush()
		return nil
	})
	return v, err
}

// milterTalk is about one message.
type milterTalk struct {
	*milterWire
	m        Message
	v        *Verdict
	protocol uint32
}

func (t *milterTalk) run() error {
	for _, step := range []func() error{t.negotiate, t.connect, t.envelope, t.header, t.body, t.end} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (t *milterTalk) negotiate() error {
	data := binary.BigEndian.AppendUint32(nil, milterVersion)
	data = binary.BigEndian.AppendUint32(data, milterActions)
	data = binary.BigEndian.AppendUint32(data, milterProtocol)
	if err := t.write(milterNegotiate, data); err != nil {
		return err
	}
	command, data, err := t.read()
	if err != nil {
		return err
	}
	t.protocol, err = parseNegotiation(command, data)
	return err
}

func (t *milterTalk) connect() error {
	m := t.m
	if err := t.macros(milterConnect, "j", m.Hostname, "{daemon_name}", m.Hostname, "v", "dcrouter",
		"{client_addr}", clientAddr(m), "{client_name}", clientName(m)); err != nil {
		return err
	}
	if err := t.say(milterConnect, noConnect, noConnectReply, cstring(clientName(m)), family(m)); err != nil {
		return err
	}
	return t.say(milterHelo, noHelo, noHeloReply, cstring(m.Helo))
}

func clientAddr(m Message) string {
	if !m.ClientIP.IsValid() {
		return ""
	}
	return m.ClientIP.Unmap().WithZone("").String()
}

func clientName(m Message) string {
	switch {
	case m.ClientName != "":
		return m.ClientName
	case m.ClientIP.IsValid():
		return "[" + clientAddr(m) + "]"
	}
	return "localhost"
}

// family is the client's address as the command connect wants it.
func family(m Message) []byte {
	if !m.ClientIP.IsValid() {
		return []byte{'U'}
	}
	b := []byte{'4'}
	if m.ClientIP.Unmap().Is6() {
		b[0] = '6'
	}
	b = binary.BigEndian.AppendUint16(b, m.ClientPort)
	return append(b, cstring(clientAddr(m))...)
}

func (t *milterTalk) envelope() error {
	m := t.m
	if err := t.macros(milterMail, "i", m.ID, "{auth_authen}", m.User, "{mail_addr}", m.MailFrom); err != nil {
		return err
	}
	if err := t.say(milterMail, noMail, noMailReply, cstring("<"+m.MailFrom+">")); err != nil {
		return err
	}
	for _, rcpt := range m.Rcpts {
		if err := t.macros(milterRcpt, "{rcpt_addr}", rcpt); err != nil {
			return err
		}
		err := t.say(milterRcpt, noRcpt, noRcptReply, cstring("<"+rcpt+">"))
		if err == errDecided && t.v.Action == Reject {
			text := t.v.Reply
			if text == "" {
				text = "The recipient is refused"
			}
			t.v.Reply = "<" + line(rcpt, maxDetailLen) + ">: " + text
		}
		if err != nil {
			return err
		}
	}
	if err := t.macros(milterData, "i", m.ID); err != nil {
		return err
	}
	return t.say(milterData, noData, noDataReply)
}

func (t *milterTalk) header() error {
	for _, f := range t.m.Header {
		_, value, _ := bytes.Cut(f.Raw, []byte(":"))
		value = bytes.TrimRight(value, "\r\n")
		value = bytes.ReplaceAll(value, []byte("\r\n"), []byte("\n")) // libmilter's way
		if t.protocol&leadingSpace == 0 {
			value = bytes.TrimLeft(value, " \t")
		}
		if err := t.say(milterHeader, noHeaders, noHeaderReply, cstring(f.Name), cstring(string(value))); err != nil {
			return err
		}
	}
	return t.say(milterEOH, noEOH, noEOHReply)
}

func (t *milterTalk) body() error {
	if t.protocol&noBody != 0 {
		return nil
	}
	body, err := message.Body(t.m.Data)
	if err != nil {
		return fmt.Errorf("reading the message: %w", err)
	}
	chunk := make([]byte, milterChunk)
	for {
		n, err := io.ReadFull(body, chunk)
		if n > 0 {
			switch err := t.say(milterBody, noBody, noBodyReply, chunk[:n]); err {
			case nil:
			case errSkip:
				return nil
			default:
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the message: %w", err)
		}
	}
}

// errSkip is the milter's wish to see no more of the body.
var errSkip = errors.New("skip")

// maxMilterChanges bounds what a milter may do at the end of a message.
const maxMilterChanges = 4 * maxHeaders

// end has the milter say what it wants to change, until it decides.
func (t *milterTalk) end() error {
	if err := t.macros(milterEOM, "i", t.m.ID); err != nil {
		return err
	}
	if err := t.write(milterEOM); err != nil {
		return err
	}
	for changes := 0; ; {
		command, data, err := t.read()
		if err != nil {
			return err
		}
		switch command {
		case answerProgress:
			continue
		case answerAddHeader, answerInsHeader, answerChgHeader, answerQuarantine:
			if changes++; changes > maxMilterChanges {
				return errAnswer
			}
			if err := t.v.change(command, data); err != nil {
				return err
			}
			continue
		case '+', '-', '2', 'e', 'b':
			return fmt.Errorf("%w (%q)", ErrUnsupported, command)
		case answerContinue:
			return nil
		}
		return t.v.decide(command, data)
	}
}

// macros gives the values of macros for the command that follows; those without a
// value are left out.
func (t *milterTalk) macros(command byte, pairs ...string) error {
	data := []byte{command}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			data = append(append(data, cstring(pairs[i])...), cstring(pairs[i+1])...)
		}
	}
	return t.write(milterMacros, data)
}

// say sends a command unless the milter does not want it, and reads the answer
// unless there is none. The error is nil if the conversation goes on.
func (t *milterTalk) say(command byte, unwanted, unanswered uint32, data ...[]byte) error {
	if t.protocol&unwanted != 0 {
		return nil
	}
	if err := t.write(command, data...); err != nil || t.protocol&unanswered != 0 {
		return err
	}
	for {
		answer, data, err := t.read()
		switch {
		case err != nil:
			return err
		case answer == answerProgress:
			continue
		case answer == answerContinue:
			return nil
		case answer == answerSkip:
			if command == milterBody {
				return errSkip
			}
			return nil
		}
		return t.v.decide(answer, data)
	}
}

// decide takes an answer that ends the conversation.
func (v *Verdict) decide(command byte, data []byte) error {
	switch command {
	case answerAccept:
		if v.Action != Quarantine {
			v.Action = NoAction
		}
	case answerReject:
		v.Action, v.Bad = Reject, true
	case answerDiscard:
		v.Action, v.Bad = Discard, true
	case answerTempFail, answerShutdown, answerConnFail:
		v.Action, v.Bad = SoftReject, false
	case answerReply:
		return v.reply(data)
	default:
		return fmt.Errorf("unexpected answer %q", command)
	}
	return errDecided
}

// reply takes a reply of the milter's own, "550 5.7.1 text".
func (v *Verdict) reply(data []byte) error {
	text, _ := cut(data)
	code, err := strconv.Atoi(text[:min(3, len(text))])
	if err != nil || code < 400 || code > 599 {
		return fmt.Errorf("unexpected reply %q", line(text, maxDetailLen))
	}
	v.Action, v.Bad = Reject, true
	if code < 500 {
		v.Action, v.Bad = SoftReject, false
	}
	// Of a reply of several lines each has the codes in front.
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, l := range lines {
		v.Enhanced, lines[i] = cutEnhanced(strings.TrimLeft(strings.TrimPrefix(l, text[:3]), "- "), code/100)
	}
	v.Code = code
	// A percent sign is doubled (smfi_setreply).
	v.Reply = line(strings.ReplaceAll(strings.Join(lines, " "), "%%", "%"), maxDetailLen)
	return errDecided
}

// cutEnhanced cuts off an enhanced status code of this class.
func cutEnhanced(s string, class int) (enhanced [3]int, rest string) {
	first, rest, _ := strings.Cut(s, " ")
	numbers := strings.Split(first, ".")
	if len(numbers) != len(enhanced) || numbers[0] != strconv.Itoa(class) {
		return enhanced, s
	}
	for i, n := range numbers {
		number, err := strconv.ParseUint(n, 10, 16)
		if err != nil || number > 999 {
			return [3]int{}, s
		}
		enhanced[i] = int(number)
	}
	return enhanced, rest
}

// change takes note of what the milter wants to have changed.
func (v *Verdict) change(command byte, data []byte) error {
	if command == answerQuarantine {
		reason, _ := cut(data)
		v.Action, v.Bad = Quarantine, true
		v.detail(reason)
		return nil
	}
	index := 0
	if command != answerAddHeader {
		if len(data) < 4 {
			return errors.New("a change of a header without an index")
		}
		index = int(binary.BigEndian.Uint32(data))
		data = data[4:]
	}
	name, rest := cut(data)
	value, _ := cut(rest)
	f, ok := field(name, value)
	if !ok {
		return fmt.Errorf("it adds or changes a header named %q", line(name, maxDetailLen))
	}
	if len(v.Headers)+len(v.Changes) >= maxHeaders {
		return errAnswer
	}
	if command == answerChgHeader {
		v.Changes = append(v.Changes, Change{f, max(1, index)})
	} else {
		v.Headers = append(v.Headers, f)
	}
	return nil
}
