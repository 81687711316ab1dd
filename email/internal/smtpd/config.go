package smtpd

import (
	"crypto/tls"
	"errors"
	"time"
)

// Mode says what the connections of a port are for.
type Mode struct {
	// Submission is for mail from users (RFC 6409), who sign in before MAIL.
	Submission bool
	// ImplicitTLS begins with a TLS handshake (RFC 8314). A connection that is
	// TLS already, because a proxy has done the handshake, stays as it is.
	ImplicitTLS bool
}

// Config is what a Server is made with. Zero means the default.
type Config struct {
	// Hostname is the name in the greeting. Required.
	Hostname string
	// TLS is for STARTTLS and implicit TLS. Nil means neither, and with it no
	// AUTH.
	TLS *tls.Config
	// MaxMessageSize limits a message, in bytes; announced with SIZE. Default
	// 50 MiB.
	MaxMessageSize int64
	// MaxRecipients limits the recipients of a message; announced with LIMITS
	// RCPTMAX. Default 1,000.
	MaxRecipients int
	// MaxTransactions limits the messages of a connection; announced with
	// LIMITS MAILMAX. Default 1,000.
	MaxTransactions int
	// MaxCommands limits the commands since the last accepted message. Those
	// with a message and accepted recipients do not count. Default 200.
	MaxCommands int
	// MaxErrors limits the 5xx replies since the last accepted message.
	// Default 20.
	MaxErrors int

	// CommandTimeout is how long a client may take for a whole command, and to
	// take in a reply. Default 5 minutes (RFC 5321 section 4.5.3.2.7).
	CommandTimeout time.Duration
	// DataTimeout is how long a client may be silent within a body. Default 3
	// minutes (RFC 5321 section 4.5.3.2.5).
	DataTimeout time.Duration
	// MinDataRate is what a client has to send on average within a body, in
	// bytes a second, once DataTimeout is used up. What it sends faster makes up
	// for the time before, not for that behind. Default 512; less than 0 means no
	// minimum.
	MinDataRate int64
	// HandshakeTimeout is how long a TLS handshake may take. Default 1 minute.
	HandshakeTimeout time.Duration
	// SessionTimeout is how long a connection may last; a message that has begun is
	// still received. Default 1 hour.
	SessionTimeout time.Duration
	// GreetDelay is how long to hold back the greeting on ports without
	// implicit TLS. Who speaks in that time is no mail server and is refused.
	// Default 0: not at all.
	GreetDelay time.Duration

	// MaxConnections limits the connections at one time. Default 0: no limit.
	MaxConnections int
	// MaxConnectionsPerIP limits those of one IPv4 address or IPv6 /64.
	// Default 0: no limit.
	MaxConnectionsPerIP int

	// OnEvent is told what the server itself holds against clients, if it is
	// not nil. It must not block, and may be called for several connections at
	// once.
	OnEvent func(c *Conn, e Event)
}

// Event is why a server has ended a connection.
type Event string

// Events. A client that ends the connection itself is none.
const (
	TooManyConnections Event = "too many connections" // of this client
	ServerFull         Event = "no room for more connections"
	EarlyTalker        Event = "spoke before the greeting"
	HandshakeFailed    Event = "TLS handshake failed"
	InjectedBehindTLS  Event = "sent plaintext behind STARTTLS"
	BareNewline        Event = "sent a bare CR or LF in a body"
	NoSMTP             Event = "does not speak SMTP"
	TooManyErrors      Event = "too many errors"
	TooManyCommands    Event = "too many commands"
	TooManyMessages    Event = "too many messages"
	TimedOut           Event = "timed out"
)

func (c *Config) setDefaults() error {
	if c.Hostname == "" {
		return errors.New("a hostname is needed")
	}
	orInt(&c.MaxRecipients, 1000)
	orInt(&c.MaxTransactions, 1000)
	orInt(&c.MaxCommands, 200)
	orInt(&c.MaxErrors, 20)
	if c.MaxMessageSize <= 0 {
		c.MaxMessageSize = 50 << 20
	}
	if c.MinDataRate == 0 {
		c.MinDataRate = 512
	}
	orDuration(&c.CommandTimeout, 5*time.Minute)
	orDuration(&c.DataTimeout, 3*time.Minute)
	orDuration(&c.HandshakeTimeout, time.Minute)
	orDuration(&c.SessionTimeout, time.Hour)
	return nil
}

func orInt(n *int, def int) {
	if *n <= 0 {
		*n = def
	}
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}
