package email

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
)

// guarded calls f, and makes an error of what it panics with, after a line in the
// log with the stack: code of the host, or one message, must not end the process.
// what says what f does. Panics of a session end its connection only, but those
// that come for one recipient of many must not be those of the others, nor those
// of somebody who is merely told.
func (s *Server) guarded(what string, f func() error, log ...any) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("a panic was caught", append(log, "in", what, "panic", v, "stack", string(debug.Stack()))...)
			err = fmt.Errorf("%s panicked", what)
		}
	}()
	return f()
}

// safeResolver is a resolver of the host that fails where that one panics.
type safeResolver struct {
	s *Server
	r Resolver
}

func (r safeResolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return safely(r.s, r.r.LookupTXT, ctx, name)
}

func (r safeResolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return safely(r.s, r.r.LookupMX, ctx, name)
}

func (r safeResolver) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	return safely(r.s, r.r.LookupIPAddr, ctx, host)
}

func (r safeResolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	return safely(r.s, r.r.LookupAddr, ctx, addr)
}

func safely[T any](s *Server, look func(context.Context, string) ([]T, error), ctx context.Context, name string) (list []T, err error) {
	err = s.guarded("the resolver", func() (err error) {
		list, err = look(ctx, name)
		return err
	}, "name", name)
	return list, err
}
