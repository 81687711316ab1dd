package scan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Backend says where another program listens.
type Backend struct {
	// Address is host:port, or the path of a Unix socket.
	Address string
	// Dial connects to it. The default nil is that of a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// BackendError is returned when a backend could not be asked or has not answered
// as it should.
type BackendError struct {
	Backend string // "rspamd", "spamd", "clamd" or "milter"
	Address string
	Err     error
}

func (e *BackendError) Error() string {
	return fmt.Sprintf("%s at %s: %v", e.Backend, e.Address, e.Err)
}

func (e *BackendError) Unwrap() error { return e.Err }

var (
	// ErrTooLarge is wrapped by the error of a backend that takes no message of
	// this size.
	ErrTooLarge = errors.New("the message is larger than the backend takes")
	// errAnswer is for answers beyond any that make sense.
	errAnswer = errors.New("the answer is too long")
)

// defaultTimeout is for contexts without a deadline: nobody waits forever.
const defaultTimeout = time.Minute

func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

func (b Backend) network() string {
	if strings.HasPrefix(b.Address, "/") {
		return "unix"
	}
	return "tcp"
}

func (b Backend) dial(ctx context.Context) (net.Conn, error) {
	dial := b.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return dial(ctx, b.network(), b.Address)
}

// talk connects, and has ask speak over the connection until the context ends.
func (b Backend) talk(ctx context.Context, name string, ask func(net.Conn) error) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	conn, err := b.dial(ctx)
	if err == nil {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
		err = ask(conn)
	}
	return b.fail(ctx, name, err)
}

// fail names the backend, and the context as the cause where it was.
func (b Backend) fail(ctx context.Context, name string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		err = fmt.Errorf("no answer in time: %w", cause)
	}
	return &BackendError{Backend: name, Address: b.Address, Err: err}
}
