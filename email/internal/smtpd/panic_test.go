package smtpd

import (
	"context"
	"crypto/tls"
	"io"
	"strconv"
	"testing"
)

// Whatever code of the host panics ends its connection, and no other.
func TestPanics(t *testing.T) {
	boom := func() { panic("boom") }
	tests := []struct {
		name   string
		h      *host
		change func(*Config)
		script string
	}{
		{"AuthMechanisms", &host{auth: boom}, nil, `
			C: AUTH PLAIN
			S: 421 4.3.0`},
		{"OnEvent", &host{}, func(c *Config) { c.OnEvent = func(*Conn, Event) { boom() } }, `
			C: GET / HTTP/1.1
			S: 421 4.3.0`},
		{"OnEvent, while a message comes", &host{}, func(c *Config) { c.OnEvent = func(*Conn, Event) { boom() } }, `
			C: DATA
			S: 354
			C> "x\nx"
			S: 421 4.3.0`},
		{"the choice of a certificate", &host{}, func(c *Config) {
			c.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { panic("boom") }}
		}, `
			C: STARTTLS
			S: 220
			C> ` + strconv.Quote(noCipherHello)},
		{"Data, of what is refused already", &host{data: func(_ context.Context, r io.Reader) (*Reply, error) {
			if _, err := io.Copy(io.Discard, r); err != nil {
				boom()
			}
			return nil, nil
		}}, nil, `
			C: DATA
			S: 354
			C> "x\x00\r\n"
			S: 421 4.3.0`},
		{"Reset, at RSET", &host{reset: boom}, nil, `
			C: RSET
			S: 421 4.3.0`},
		{"Reset, behind a message", &host{reset: boom}, nil, `
			C: DATA
			S: 354
			C> "x\r\n.\r\nNOOP\r\n"
			S: 250 2.0.0 queued
			S: 421 4.3.0`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			change := test.change
			if change == nil {
				change = func(*Config) {}
			}
			s := serve(t, test.h, Mode{}, change)
			other, c := dial(t, s), dial(t, s)
			other.want("220")
			c.want("220")
			begin(c)
			c.script(test.script)
			c.wantEnd()
			other.ask("NOOP", "250")
		})
	}
}
