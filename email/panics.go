package email

import (
	"fmt"
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
			err = fmt.Errorf("%s panicked: %v", what, v)
		}
	}()
	return f()
}
