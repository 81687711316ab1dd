package email

import (
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/arc"
	"github.com/dcrouter/dcrouter/email/internal/dsn"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// queued is what the spool keeps of a message beside its content. It does not
// change once it is there.
type queued struct {
	From       string      `json:"from"`
	Recipients []recipient `json:"recipients"`
	UTF8       bool        `json:"utf8,omitempty"`
	EightBit   bool        `json:"eightBit,omitempty"`
	RequireTLS bool        `json:"requireTls,omitempty"`
	// OptionalTLS passes over the policies of domains about TLS (RFC 8689 section 3),
	// for reports about what is wrong with those.
	OptionalTLS bool `json:"optionalTls,omitempty"`
	// EnvID and Ret are the sender's for delivery status notifications (RFC
	// 3461).
	EnvID string `json:"envId,omitempty"`
	Ret   string `json:"ret,omitempty"`

	// Prefix is put in front of the content, from which Cuts are left out. Break is
	// where the empty line between header and body is missing, and put in; 0 if it
	// is not.
	Prefix []byte `json:"prefix,omitempty"`
	Cuts   []span `json:"cuts,omitempty"`
	Break  int64  `json:"break,omitempty"`

	Arrived        time.Time  `json:"arrived"`
	ConnID         string     `json:"connId"`
	ClientAddr     netip.Addr `json:"client"`
	Mode           string     `json:"mode"`
	Helo           string     `json:"helo,omitempty"`
	User           string     `json:"user,omitempty"`
	Authentication string     `json:"authentication,omitempty"`
	// ARC is the state of the ARC chain as the message came in, and ARCSets the
	// number of its sets; "" if nothing may be added to it.
	ARC     arc.Status `json:"arc,omitempty"`
	ARCSets int        `json:"arcSets,omitempty"`

	// Quarantine says why the message is held back; "" if it is not.
	Quarantine string `json:"quarantine,omitempty"`
	// Refused is set for a copy in quarantine of what was refused.
	Refused bool `json:"refused,omitempty"`

	// Own is set for mail of this server and its host: bounces, reports, and what
	// SendEmail was given.
	Own bool `json:"own,omitempty"`
	// NotBefore is when the first attempt is made, if that is not at once.
	NotBefore time.Time `json:"notBefore,omitzero"`
	// Priority has it go before other mail.
	Priority bool `json:"priority,omitempty"`
	// Bounces says who is told what became of it; see the constants.
	Bounces string `json:"bounces,omitempty"`
	// Subject and Metadata are those of an Email, for events.
	Subject  string            `json:"subject,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Schedule says when it is tried.
	Schedule schedule `json:"schedule,omitzero"`
}

// Values of queued.Bounces beside "", which has them sent to From.
const (
	// bounceHere has recipients' servers report to addresses that lead here; the
	// host sees it in events and in the status of the message.
	bounceHere = "here"
	// bounceNowhere is for mail whose sender is likely forged: what the mail is
	// about would go to somebody who has nothing to do with it.
	bounceNowhere = "nowhere"
)

// tellLess is for mail that may be somebody else's than its sender's. Failures have
// to be told all the same, but a bounce with all of it would be a way to send mail
// through us, and of a success nobody needs to hear.
func (q *queued) tellLess() {
	if q.Ret == "FULL" {
		q.Ret = "HDRS"
	}
	for i := range q.Recipients {
		r := &q.Recipients[i]
		if len(r.Notify) == 0 {
			continue
		}
		r.Notify = slices.DeleteFunc(slices.Clone(r.Notify), func(n string) bool { return strings.EqualFold(n, "SUCCESS") })
		if len(r.Notify) == 0 {
			r.Notify = []string{"NEVER"} // to say nothing asks for failures
		}
	}
}

// recipient is one of a message in the spool.
type recipient struct {
	Address string `json:"address"`
	// Route is the name of the route that decided, which may have changed by
	// the time of a delivery.
	Route string `json:"route"`
	// Notify and ORCPT are the sender's for delivery status notifications.
	Notify []string `json:"notify,omitempty"`
	ORCPT  string   `json:"orcpt,omitempty"`
}

// domain is that of the address, in lower case.
func (r *recipient) domain() string {
	_, domain, _ := cutAddress(r.Address)
	return canonicalDomain(domain)
}

// progress is what changes of a message in the spool: how far its recipients
// are, in the order of queued.Recipients.
type progress struct {
	Recipients []state `json:"recipients"`
	// Next is when the next attempt is due.
	Next time.Time `json:"next"`
	// Tries is how many there were.
	Tries int `json:"tries"`
	// Released is set once a message has left quarantine, and Since is when that was.
	Released bool      `json:"released,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	// Held says why somebody has put it into quarantine.
	Held string `json:"held,omitempty"`
	// Steps tell what has happened, the first and the latest of them.
	Steps []step `json:"steps,omitempty"`
	// Skipped is how many steps there were between.
	Skipped int `json:"skipped,omitempty"`
}

// Values of state.State; "" is still to be delivered.
const (
	// delivered is in a mailbox here, or taken by the recipient's server; sent was
	// taken by a server on the way there.
	delivered = "delivered"
	sent      = "sent"
	// failed will not be delivered, and bounced was taken, and its server said later
	// that it will not.
	failed  = "failed"
	bounced = "bounced"
)

// state is how far a recipient is.
type state struct {
	State string `json:"state,omitempty"`
	// Reply is what was said last.
	Reply string `json:"reply,omitempty"`
	// Status is the enhanced status code of a failure (RFC 3463), and Host the
	// server that said so.
	Status string `json:"status,omitempty"`
	Host   string `json:"host,omitempty"`
	// At is when State came to be.
	At time.Time `json:"at,omitzero"`
	// Report is that of the result, of a recipient who has the message.
	Report dsn.Action `json:"report,omitempty"`
	// Source and Provider are what the warm-up counts a delivery for, and what is
	// reported of it later.
	Source   netip.Addr `json:"source,omitzero"`
	Provider string     `json:"provider,omitempty"`
	// Told is set once the sender was told of State, or is not to be; Delayed once
	// the sender was told of the delay, here or at the server that has the message;
	// Complained once the recipient called it spam.
	Told       bool `json:"told,omitempty"`
	Delayed    bool `json:"delayed,omitempty"`
	Complained bool `json:"complained,omitempty"`
}

// step is something that happened to a message.
type step struct {
	At time.Time `json:"at"`
	// Kind is one of [Event.Kind], or "tried" for a connection.
	Kind string `json:"kind"`
	// Recipients are indexes; nil means all.
	Recipients []int `json:"to,omitempty"`
	// Text is what was said.
	Text string `json:"text,omitempty"`
	// Host, Addr, Source and TLS are about a connection.
	Host   string `json:"host,omitempty"`
	Addr   string `json:"addr,omitempty"`
	Source string `json:"source,omitempty"`
	TLS    string `json:"tls,omitempty"`
}

// tried is the kind of a step that was a connection to a server.
const tried = "tried"

const (
	// firstSteps and lastSteps are how many are kept of many.
	firstSteps, lastSteps = 10, 40
	// maxSaid bounds what is kept of a reply, in bytes.
	maxSaid = 400
)

// note adds a step.
func (p *progress) note(s step) {
	s.Text = clip(s.Text)
	if len(p.Steps) >= firstSteps+lastSteps {
		p.Steps = slices.Delete(p.Steps, firstSteps, firstSteps+1)
		p.Skipped++
	}
	p.Steps = append(p.Steps, s)
}

// clip bounds what is kept of what others say.
func clip(s string) string { return clipTo(s, maxSaid) }

func clipTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

func (p *progress) clone() *progress {
	c := *p
	c.Recipients = slices.Clone(p.Recipients)
	c.Steps = slices.Clone(p.Steps)
	return &c
}

// open is how many recipients are still to be delivered to.
func (p *progress) open() int {
	n := 0
	for i := range p.Recipients {
		if p.Recipients[i].State == "" {
			n++
		}
	}
	return n
}

// settled reports whether there is nothing left to do: all have the message, or
// the sender knows that they have not.
func (p *progress) settled() bool {
	for i := range p.Recipients {
		switch s := &p.Recipients[i]; s.State {
		case "":
			return false
		case failed:
			if !s.Told {
				return false
			}
		}
	}
	return true
}

// quarantine says why a message is held back, and is "" for one that is not.
func (q *queued) quarantine(p *progress) string {
	switch {
	case p.Held != "":
		return p.Held
	case p.Released:
		return ""
	}
	return q.Quarantine
}

func (q *queued) encode() ([]byte, error) { return json.Marshal(q) }

func (p *progress) encode() ([]byte, error) {
	return p.within(spool.MaxMeta, func(p *progress) ([]byte, error) { return json.Marshal(p) })
}

// within writes p with as much of what servers have said as has room: a thousand
// recipients with an answer each must not keep from being noted who has the
// message.
func (p *progress) within(limit int, write func(*progress) ([]byte, error)) ([]byte, error) {
	for said := maxSaid; ; said /= 4 {
		text, err := write(p)
		if err != nil || len(text) <= limit || said == 0 {
			return text, err
		}
		p = p.clone()
		for i := range p.Recipients {
			p.Recipients[i].Reply = clipTo(p.Recipients[i].Reply, said/4)
		}
		if said == 1 {
			p.Skipped += len(p.Steps)
			p.Steps = nil
		}
	}
}

func decodeQueued(data []byte) (*queued, error) {
	q := new(queued)
	return q, json.Unmarshal(data, q)
}

// decodeProgress takes no data for a message that nothing has happened to yet.
func decodeProgress(data []byte, recipients int) (*progress, error) {
	p := new(progress)
	if len(data) > 0 {
		if err := json.Unmarshal(data, p); err != nil {
			return nil, err
		}
	}
	for len(p.Recipients) < recipients {
		p.Recipients = append(p.Recipients, state{})
	}
	return p, nil
}

// content is the message with what the server has added, behind more that the
// recipient is to see.
func (q *queued) content(body *io.SectionReader, more []byte) *io.SectionReader {
	return newSplice(append(more[:len(more):len(more)], q.Prefix...), body, q.Cuts, q.Break)
}

// envelope is what hooks see.
func (q *queued) envelope() Envelope {
	e := Envelope{From: q.From, UTF8: q.UTF8, Client: &Client{
		ID: q.ConnID, Addr: q.ClientAddr, Mode: q.Mode, Helo: q.Helo, User: q.User,
	}}
	for _, r := range q.Recipients {
		e.Recipients = append(e.Recipients, r.Address)
	}
	return e
}
