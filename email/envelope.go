package email

import (
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"time"
)

// queued is what the spool keeps of a message beside its content. It does not
// change once it is there.
type queued struct {
	From       string      `json:"from"`
	Recipients []recipient `json:"recipients"`
	UTF8       bool        `json:"utf8,omitempty"`
	EightBit   bool        `json:"eightBit,omitempty"`
	RequireTLS bool        `json:"requireTls,omitempty"`
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

	// Quarantine says why the message is held back; "" if it is not.
	Quarantine string `json:"quarantine,omitempty"`
	// Refused is set for a copy in quarantine of what was refused.
	Refused bool `json:"refused,omitempty"`
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

// progress is what changes of a message in the spool: how far its recipients
// are, in the order of queued.Recipients.
type progress struct {
	Recipients []attempt `json:"recipients"`
	// Next is when the next attempt is due.
	Next time.Time `json:"next"`
	// Tries is how many there were.
	Tries int `json:"tries"`
	// Released is set once a message has left quarantine.
	Released bool `json:"released,omitempty"`
}

// Values of attempt.State; "" is still to be delivered.
const (
	delivered = "delivered"
	failed    = "failed"
)

// attempt is how far a recipient is.
type attempt struct {
	State string `json:"state,omitempty"`
	// Reply is what was said last.
	Reply string `json:"reply,omitempty"`
}

// open is how many recipients are still to be delivered to.
func (p *progress) open() int {
	n := 0
	for _, a := range p.Recipients {
		if a.State == "" {
			n++
		}
	}
	return n
}

// all reports whether all recipients are in this state.
func (p *progress) all(state string) bool {
	return !slices.ContainsFunc(p.Recipients, func(a attempt) bool { return a.State != state })
}

func (q *queued) encode() ([]byte, error) { return json.Marshal(q) }

func (p *progress) encode() ([]byte, error) { return json.Marshal(p) }

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
		p.Recipients = append(p.Recipients, attempt{})
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
