package conf

import (
	"errors"
	"strings"
)

// FieldError is a problem with one field of a configuration.
type FieldError struct {
	// Path leads to the field, as in routes[3].action.targets[0].port. It is
	// empty where the problem concerns the whole.
	Path string
	// Msg says what is wrong.
	Msg string
	// Err is the cause, where there is one beyond the configuration itself,
	// such as a file that cannot be read. Msg includes it.
	Err error
}

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

// Error returns the path and the message.
func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// maxErrors bounds what one call reports. A document with more problems than
// that is not the configuration that its author meant.
const maxErrors = 1000

// errorList collects problems up to maxErrors. They are linked, because a
// slice that grows would, to the compiler, let escape what a Checker points to:
// each step of a path would be moved to the heap, also where nothing is wrong.
type errorList struct {
	first, last *problem
	n           int
}

type problem struct {
	err  error
	next *problem
}

// add reports whether there is room for more.
func (l *errorList) add(path, msg string) bool {
	return l.addError(&FieldError{Path: path, Msg: msg})
}

func (l *errorList) addError(e *FieldError) bool {
	if l.n > maxErrors {
		return false
	}
	if l.n == maxErrors {
		e = &FieldError{Msg: "too many problems, the rest is not shown"}
	}
	p := &problem{err: e}
	if l.last == nil {
		l.first = p
	} else {
		l.last.next = p
	}
	l.last = p
	l.n++
	return l.n <= maxErrors
}

func (l *errorList) err() error {
	var errs []error
	for p := l.first; p != nil; p = p.next {
		errs = append(errs, p.err)
	}
	return errors.Join(errs...)
}

// Fields flattens joined errors, in order. An error that is no [FieldError]
// becomes one without a path.
func Fields(err error) []*FieldError {
	switch e := err.(type) {
	case nil:
		return nil
	case *FieldError:
		return []*FieldError{e}
	case interface{ Unwrap() []error }:
		var all []*FieldError
		for _, one := range e.Unwrap() {
			all = append(all, Fields(one)...)
		}
		return all
	}
	if inner := errors.Unwrap(err); inner != nil {
		if field := (*FieldError)(nil); errors.As(inner, &field) {
			return Fields(inner)
		}
	}
	return []*FieldError{{Msg: err.Error()}}
}

// Prefix puts path in front of the path of every [FieldError] inside err.
func Prefix(path string, err error) error {
	var moved []error
	for _, e := range Fields(err) {
		moved = append(moved, &FieldError{Path: join(path, e.Path), Msg: e.Msg, Err: e.Err})
	}
	return errors.Join(moved...)
}

func join(path, rest string) string {
	if path == "" || rest == "" || strings.HasPrefix(rest, "[") {
		return path + rest
	}
	return path + "." + rest
}
