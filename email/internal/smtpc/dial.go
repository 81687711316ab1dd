package smtpc

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
)

// Dial connects, says hello, and does TLS and AUTH as far as cfg asks for them.
// The error is an [*Error], but for a configuration that cannot be used.
//
// What fails because of this host's own settings, a password that is wrong or a
// certificate that is not valid, is [Temporary]: it is not the messages' fault.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	if err := cfg.prepare(); err != nil {
		return nil, err
	}
	c, err := open(ctx, cfg)
	if errors.Is(err, ErrHandshake) && cfg.TLS == Opportunistic && ctx.Err() == nil {
		failure := err
		cfg.TLS = NoTLS
		if c, err = open(ctx, cfg); err == nil {
			c.tlsFailure = failure
		}
	}
	return c, err
}

func open(ctx context.Context, cfg Config) (*Conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, cfg.Timeouts.Connect)
	defer cancel()
	raw, err := cfg.Dialer.DialContext(dialCtx, cfg.network(), cfg.Address)
	if err != nil {
		return nil, temporary(PhaseConnect, err)
	}
	c := &Conn{cfg: cfg, raw: raw}
	c.use(raw)
	if err := c.during(ctx, c.begin); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// use makes conn what is spoken over.
func (c *Conn) use(conn net.Conn) {
	c.conn = conn
	c.r = bufio.NewReaderSize(conn, maxReplyLine)
	c.w = bufio.NewWriterSize(conn, 16<<10)
}

// begin brings the connection to where the first MAIL can be sent.
func (c *Conn) begin(ctx context.Context) error {
	if c.cfg.TLS == ImplicitTLS {
		if err := c.handshake(ctx, PhaseConnect); err != nil {
			return err
		}
	}
	var err error
	if c.greeting, err = c.read(ctx, PhaseGreeting, c.cfg.Timeouts.Greeting); err != nil {
		return err
	}
	if c.greeting.Code != 220 {
		return c.lose(refused(PhaseGreeting, c.greeting))
	}
	if err := c.hello(ctx); err != nil {
		return err
	}
	if c.cfg.TLS == Opportunistic || c.cfg.TLS == StartTLS {
		if err := c.startTLS(ctx); err != nil {
			return err
		}
	}
	if c.cfg.Auth != nil {
		return c.authenticate(ctx)
	}
	return nil
}

// hello learns what the server can do.
func (c *Conn) hello(ctx context.Context) error {
	verb := "EHLO "
	if c.cfg.LMTP {
		verb = "LHLO "
	}
	c.extensions = map[string]string{}
	reply, err := c.command(ctx, PhaseHello, c.cfg.Timeouts.Command, verb+c.cfg.Hostname)
	if err != nil {
		return err
	}
	if reply.Code/100 == 5 && !c.cfg.LMTP { // RFC 5321 section 3.2
		reply, err = c.command(ctx, PhaseHello, c.cfg.Timeouts.Command, "HELO "+c.cfg.Hostname)
		if err == nil && reply.Code != 250 {
			err = c.lose(refused(PhaseHello, reply))
		}
		return err
	}
	if reply.Code != 250 {
		return c.lose(refused(PhaseHello, reply))
	}
	for _, line := range reply.Lines[1:] {
		keyword, parameters, _ := strings.Cut(line, " ")
		c.extensions[strings.ToUpper(keyword)] = parameters
	}
	return nil
}
