package email

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Hooks let the host take part in what happens to mail. All may be nil. They are
// called from the goroutine of the connection, and ctx ends when the client has
// gone, after 30 seconds, or when the Server gives up waiting in Stop. They have to
// return then: Stop waits until they have.
//
// An error refuses: a [*Reply] with that reply, any other with 451, so that
// nothing passes where a hook fails. The text of other errors is logged and not
// shown to the client. A hook that panics ends the connection, with 421; one that
// is merely told of something changes nothing by that.
type Hooks struct {
	// OnConnect is asked about each connection before the greeting.
	OnConnect func(ctx context.Context, c *Client) error
	// OnMail is asked about each MAIL command.
	OnMail func(ctx context.Context, m *Envelope) error
	// OnRcpt is asked about each RCPT command. The recipient is not yet among
	// those of the Envelope.
	OnRcpt func(ctx context.Context, m *Envelope, recipient string) error
	// OnMessage is asked about each message that has passed everything else,
	// before it is accepted.
	OnMessage func(ctx context.Context, m *Message) error
	// OnEvent is told of what happens. It must return soon: the connection
	// waits for it. It may be called from several goroutines.
	OnEvent func(Event)
}

// hookTimeout bounds each call of a hook.
const hookTimeout = 30 * time.Second

// Reply is an SMTP reply (RFC 5321 section 4.2), as an error of hooks and of
// backends.
type Reply struct {
	// Code is 400 to 499 to put off, 500 to 599 to refuse.
	Code int
	// Enhanced is the enhanced status code (RFC 3463), as in {5, 7, 1}. Zero
	// means one without a meaning of its own.
	Enhanced [3]int
	// Text is shown to the client: printable ASCII, without line ends.
	Text string
}

func (r *Reply) Error() string {
	return fmt.Sprintf("%d %d.%d.%d %s", r.Code, r.Enhanced[0], r.Enhanced[1], r.Enhanced[2], r.Text)
}

// Client is who is connected.
type Client struct {
	// ID is the same in all logs and events about the connection.
	ID string
	// Addr is where the client connects from.
	Addr netip.Addr
	// Local is where the client has connected to.
	Local net.Addr
	// Mode is that of the port: [SMTP], [Submission] or [SMTPS].
	Mode string
	// Helo is how the client has introduced itself, "" before it did.
	Helo string
	// User is who has signed in, or "".
	User string
	// TLS is nil without TLS.
	TLS *tls.ConnectionState
}

// Envelope is a message before its content comes.
type Envelope struct {
	// Client is who sends.
	Client *Client
	// From is the sender's address, "" for the null sender of bounces.
	From string
	// Recipients are those accepted.
	Recipients []string
	// UTF8 is set for internationalized mail (RFC 6531).
	UTF8 bool
}

// Message is a message that has arrived.
type Message struct {
	Envelope
	// ID names the message in the spool, in logs and in its Received header.
	ID string
	// Content is the message: header fields that the server has added, and
	// behind them all as it came, with CRLF at line ends.
	Content *io.SectionReader
	// Authentication is what is known of the sender: the value of the
	// Authentication-Results field (RFC 8601) that Content has.
	Authentication string
}

// Delivery is a message on its way into a mailbox.
type Delivery struct {
	// Message has the recipients that are for this call.
	*Message
	// Recipient is whose mailbox it is.
	Recipient string
}

// A Mailbox takes mail into mailboxes. When it returns nil it has the message
// for good. An error is taken as in [Hooks]: a [*Reply] with 5xx refuses the
// mail, any other error has it tried again later, and so does a panic.
//
// It may be called from several goroutines, and twice with the same message and
// recipient, if the process ends before it is noted that it took it.
type Mailbox func(ctx context.Context, d *Delivery) error

// Resolver asks the DNS. [net.Resolver] is one.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}
