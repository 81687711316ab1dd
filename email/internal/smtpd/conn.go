package smtpd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
)

// Conn is what a session may know of its connection. Its methods may be called
// from the session's methods only.
type Conn struct {
	id            string
	mode          Mode
	remote, local net.Addr
	tls           *tls.ConnectionState
	helo          string
	esmtp         bool
	authenticated bool
}

// ID is what relates the records about this connection to each other.
func (c *Conn) ID() string { return c.id }

// Mode is that of the port.
func (c *Conn) Mode() Mode { return c.mode }

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr is the address that the client has connected to.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// TLS is the state of the connection's TLS, or nil if there is none.
func (c *Conn) TLS() *tls.ConnectionState { return c.tls }

// Helo is the name in the client's last EHLO or HELO; see [Session.Helo].
func (c *Conn) Helo() string { return c.helo }

// ESMTP says whether that was EHLO.
func (c *Conn) ESMTP() bool { return c.esmtp }

// Authenticated says whether the client has signed in.
func (c *Conn) Authenticated() bool { return c.authenticated }

type idKey struct{}

// WithID makes the connections that are served with the context have that ID.
func WithID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, idKey{}, id)
}

func newConn(ctx context.Context, c net.Conn, mode Mode) *Conn {
	id, ok := ctx.Value(idKey{}).(string)
	if !ok {
		id = rand.Text()[:16]
	}
	conn := &Conn{id: id, mode: mode, remote: c.RemoteAddr(), local: c.LocalAddr()}
	conn.setTLS(c)
	return conn
}

// setTLS looks at the connection, which may be one of tls or of a proxy's own.
func (c *Conn) setTLS(conn net.Conn) {
	if t, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		if state := t.ConnectionState(); state.HandshakeComplete {
			c.tls = &state
		}
	}
}
