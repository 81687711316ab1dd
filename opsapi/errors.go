package opsapi

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// ErrRunning is returned by Start when the Server is running or still stopping.
var ErrRunning = errors.New("opsapi: already running")

// ErrNotRunning is returned by what needs a running Server.
var ErrNotRunning = errors.New("opsapi: not running")

// ErrNotFound is for the host's code to return, wrapped perhaps, where what a
// request names does not exist.
var ErrNotFound = errors.New("not found")

// Codes of errors, which clients find as code in an error's data.
const (
	CodeInvalid         = "invalid"         // fields says what is wrong where
	CodeUnauthenticated = "unauthenticated" // nobody has signed in
	CodeForbidden       = "forbidden"       // the role does not do
	CodeNotFound        = "not_found"
	CodeConflict        = "conflict" // somebody else has changed it
	CodePending         = "pending"  // a change waits to be confirmed, or to be taken back
	CodeTooLarge        = "too_large"
	CodeLocked          = "locked" // retryAt says until when
	CodeFailed          = "failed" // what the host's code said
	CodeNotConfigured   = "not_configured"
	codeUnknownMethod   = "" // its data is empty, as the reference has it
)

// Error is an error as clients see it. What methods return that is none becomes
// one with CodeFailed, or CodeInvalid if it is made of [FieldError]s, or
// CodeNotFound if it is [ErrNotFound].
type Error struct {
	// Code is one of the constants.
	Code string
	// Text is for people.
	Text string
	// Data is for programs, beside the code.
	Data map[string]any
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

func errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

func notConfigured(what string) *Error {
	return errorf(CodeNotConfigured, "%s not configured here", what)
}

func unknownMethod() *Error {
	return &Error{Code: codeUnknownMethod, Text: "There is no available method for this call on the server side"}
}

// RetryError asks the client to send its request again later.
type RetryError struct {
	After  time.Duration
	Reason string
}

// Error returns the reason.
func (e *RetryError) Error() string { return e.Reason }

// maxFieldErrors bounds how many problems one answer has.
const maxFieldErrors = 200

// fieldProblem is a [FieldError] in an answer.
type fieldProblem struct {
	Path    string `json:"path" doc:"leads to the field, as in routes[3].action.targets[0].port; empty for the whole"`
	Message string `json:"message"`
}

// problemsOf lists the FieldErrors in err.
func problemsOf(err error) []fieldProblem {
	var list []fieldProblem
	for _, e := range conf.Fields(err) {
		if len(list) == maxFieldErrors {
			break
		}
		list = append(list, fieldProblem{e.Path, e.Msg})
	}
	return list
}

// isInvalid reports whether err says what is wrong with what a client sent.
func isInvalid(err error) bool {
	var field *FieldError
	return errors.As(err, &field)
}

// invalid makes an Error of FieldErrors.
func invalid(err error) *Error {
	problems := problemsOf(err)
	text := err.Error()
	if len(problems) > 0 {
		text = (&FieldError{Path: problems[0].Path, Msg: problems[0].Message}).Error()
	}
	if n := len(problems) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return &Error{Code: CodeInvalid, Text: text, Data: map[string]any{"fields": problems}}
}

// clientError makes an Error of what a method returned.
func clientError(err error) *Error {
	var known *Error
	switch {
	case errors.As(err, &known):
		return known
	case isInvalid(err):
		return invalid(err)
	case errors.Is(err, ErrNotFound):
		return errorf(CodeNotFound, "%v", err)
	}
	return errorf(CodeFailed, "%v", err)
}

// data is what goes into the answer beside the text.
func (e *Error) data() map[string]any {
	data := map[string]any{}
	for k, v := range e.Data {
		data[k] = v
	}
	if e.Code != codeUnknownMethod {
		data["code"] = e.Code
	}
	return data
}

// status is the HTTP status for the REST form of the API.
func (e *Error) status() int {
	switch e.Code {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeUnauthenticated:
		return http.StatusUnauthorized
	case CodeForbidden:
		return http.StatusForbidden
	case CodeNotFound, codeUnknownMethod:
		return http.StatusNotFound
	case CodeConflict:
		return http.StatusPreconditionFailed
	case CodePending:
		return http.StatusConflict
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeLocked:
		return http.StatusTooManyRequests
	case CodeNotConfigured:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}
