package storage

import (
	"fmt"
	"io/fs"
)

// The errors of this package. Test for them with [errors.Is]; what a call
// returns wraps them in a [*KeyError] that names the operation and the key.
// Each message says what to do about it.
var (
	// ErrNotFound: the key has no value, or its value has expired.
	// errors.Is(ErrNotFound, fs.ErrNotExist) is true.
	ErrNotFound error = &sentinel{"not found", fs.ErrNotExist}

	// ErrExists: Create found a value, or Migrate found a different one.
	// errors.Is(ErrExists, fs.ErrExist) is true.
	ErrExists error = &sentinel{"a value exists already; read it, or replace it with Put or CompareAndSwap", fs.ErrExist}

	// ErrConflict: CompareAndSwap found another revision than the one given.
	ErrConflict error = &sentinel{"the value changed since it was read; read it again and retry", nil}

	// ErrInvalidKey: the key or prefix breaks the rules of [CanonicalKey], or is reserved.
	ErrInvalidKey error = &sentinel{"invalid key", fs.ErrInvalid}

	// ErrInvalidValue: the backend cannot hold this very value.
	ErrInvalidValue error = &sentinel{"this value is reserved by the backend; store it in another form", fs.ErrInvalid}

	// ErrTooLarge: the value is longer than the Store allows.
	ErrTooLarge error = &sentinel{"the value is too large; split it, or raise the limit with WithMaxValueSize", nil}

	// ErrLocked: somebody else holds the lease.
	ErrLocked error = &sentinel{"the lease is held by somebody else; wait for it with Acquire, or try again later", nil}

	// ErrLeaseLost: the lease is not held any more.
	ErrLeaseLost error = &sentinel{"the lease is not held any more; stop the work that it protects and acquire it again", nil}

	// ErrInUse: another process, or another Store in this one, has the backend open.
	ErrInUse error = &sentinel{"in use; close the other Store or stop the other process, or choose another place", nil}

	// ErrClosed: the Store or the backend is not open.
	// errors.Is(ErrClosed, fs.ErrClosed) is true.
	ErrClosed error = &sentinel{"not open", fs.ErrClosed}

	// ErrSchema: the data was written by a newer version of this package.
	ErrSchema error = &sentinel{"the data has a schema that this version does not know; run the version that wrote it, or a newer one", nil}

	// ErrCorrupt: a record that this package keeps for itself cannot be read.
	ErrCorrupt error = &sentinel{"a record of the storage itself cannot be read; restore it from a backup", nil}
)

// sentinel is an error that may also answer for one of package fs.
type sentinel struct {
	msg string
	is  error
}

func (e *sentinel) Error() string { return e.msg }

func (e *sentinel) Is(target error) bool { return e.is != nil && target == e.is }

// KeyError is what the operations of this package return: which operation
// failed, on which key (or prefix, lease name, folder), and why.
type KeyError struct {
	Op  string // "get", "put", "list", "acquire", "open", ...
	Key string // as far as known; may be empty
	Err error
}

func (e *KeyError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("storage: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("storage: %s %q: %v", e.Op, e.Key, e.Err)
}

// Unwrap returns the reason.
func (e *KeyError) Unwrap() error { return e.Err }

// keyErr wraps err once: an error that already is a KeyError for the key stays as it is.
func keyErr(op, key string, err error) error {
	if err == nil {
		return nil
	}
	if ke, ok := err.(*KeyError); ok && key == "" {
		return err // which says more than we could
	} else if ok && ke.Key == key {
		return &KeyError{Op: op, Key: key, Err: ke.Err}
	}
	return &KeyError{Op: op, Key: key, Err: err}
}
