package transport

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// Content is a message as it goes out; an [io.SectionReader] is one, and so is a
// [bytes.Reader]. It is read once for each transaction.
type Content interface {
	io.ReaderAt
	Size() int64
}

// Request is a message, and where it shall go. Nothing in it is changed.
type Request struct {
	// Destination has the hosts to try.
	Destination mx.Destination
	// Policy says which TLS they need; nil means opportunistic TLS, or with
	// Envelope.RequireTLS one whose certificate is valid.
	Policy Policy
	// Hop is a server to hand the message to instead, if it is not nil. Messages
	// share connections if they have the same pointer; what it points to must not
	// change.
	Hop *smtpc.Config
	// Source is the address to connect from; the zero Addr leaves it to the
	// system. Only addresses of its family are tried.
	Source netip.Addr
	// HELO is the name to say hello with; the default is that of the Config, or of
	// Hop.
	HELO string
	// Envelope has one recipient at least. Its Size is that of Content.
	Envelope smtpc.Envelope
	// Content is the message.
	Content Content
}

// Result is what became of a message.
type Result struct {
	// Recipients are in the order of the envelope.
	Recipients []RcptResult
	// Attempts are what was done, in order: one for each host that was tried, and
	// each transaction.
	Attempts []Attempt
	// Omitted is the number of attempts beyond those.
	Omitted int
	// Trouble says that it is the site that is in trouble, rather than the message:
	// at last nobody could be reached, or the host took leave or broke off. It is
	// better asked less often. That is not said where a host was passed over for the
	// TLS that it should have, or for what it cannot do.
	Trouble bool
	// Answered says that a host was there to take commands.
	Answered bool
}

// RcptResult is what became of a message for one recipient.
type RcptResult struct {
	smtpc.RcptResult
	// Attempt is the index of the attempt in which that was decided; -1 means that
	// there was none.
	Attempt int
	// DSN says that the host which decided that sends notifications itself (RFC
	// 3461).
	DSN bool
}

// Attempt is what was done with one host.
type Attempt struct {
	// Time is when it began.
	Time time.Time `json:"time"`
	// Host is the host's name, or the address of a hop as it is configured.
	Host string `json:"host"`
	// Addr is the host's address; it is not valid if it is not known.
	Addr netip.AddrPort `json:"addr,omitzero"`
	// Source is the address that was connected from.
	Source netip.Addr `json:"source,omitzero"`
	// Recipients is for how many it was.
	Recipients int `json:"recipients"`
	// Reused says that the connection is one that was kept.
	Reused bool `json:"reused,omitempty"`
	// TLS describes the TLS that was used, as "TLS 1.3, verified by dane".
	TLS string `json:"tls,omitempty"`
	// TLSError is why opportunistic TLS was given up for plaintext.
	TLSError string `json:"tlsError,omitempty"`
	// DSN says that the host offers delivery status notifications (RFC 3461).
	DSN bool `json:"dsn,omitempty"`
	// Phase is how far it came.
	Phase smtpc.Phase `json:"phase"`
	// Reply is what the host said there, on one line.
	Reply string `json:"reply,omitempty"`
	// Err is the reason beside or instead of a reply.
	Err string `json:"err,omitempty"`
	// Duration is how long it took.
	Duration time.Duration `json:"duration"`
}

// maxAttempts bounds what is told of one message: hosts that take one recipient at
// a time make many.
const maxAttempts = 32

// record adds an attempt and returns its index, or that of the last one there is
// room for.
func (r *Result) record(a Attempt) int {
	if len(r.Attempts) == maxAttempts {
		r.Omitted++
		return maxAttempts - 1
	}
	r.Attempts = append(r.Attempts, a)
	return len(r.Attempts) - 1
}

// ended fills in how an attempt ended.
func (a *Attempt) ended(e *smtpc.Error, now time.Time) {
	a.Phase, a.Reply, a.Duration = e.Phase, short(e.Reply.String()), now.Sub(a.Time)
	if e.Err != nil {
		a.Err = short(e.Err.Error())
	}
}

// describe tells of a connection.
func (a *Attempt) describe(c *smtpc.Conn, source string) {
	if !a.Addr.IsValid() {
		a.Addr = addrPort(c.RemoteAddr())
	}
	a.Source = addrPort(c.LocalAddr()).Addr()
	_, a.DSN = c.Extension("DSN")
	if err := c.TLSFailure(); err != nil {
		a.TLSError = short(err.Error())
	}
	t := c.TLS()
	if t == nil {
		return
	}
	a.TLS = t.Version
	switch {
	case !t.Verified && !t.Approved:
		a.TLS += ", not verified"
	case source == "" || source == "opportunistic":
		a.TLS += ", verified"
	default:
		a.TLS += ", verified by " + source
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// short cuts what may be long off, and makes one printable line of it.
func short(s string) string {
	const limit = 500
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
