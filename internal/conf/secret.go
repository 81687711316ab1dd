package conf

import (
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what a [Secret] shows instead of its value.
const Redacted = "***"

// Secret is a password, key or token. However it is printed, logged or
// marshalled, it shows [Redacted], or nothing if it is empty; only
// [Secret.Reveal] and [Encode] with reveal give the value. Beyond its
// protection are unexported struct fields, of which package fmt calls no
// methods, and keys of maps, of which encoding/json calls none.
type Secret string

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// String returns [Redacted], or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return Redacted
}

// GoString does for %#v what String does for %v.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format keeps the value from every verb of package fmt, %x and %d included.
func (s Secret) Format(f fmt.State, verb rune) {
	switch {
	case verb == 'q', verb == 'v' && f.Flag('#'):
		fmt.Fprintf(f, "%q", s.String())
	default:
		io.WriteString(f, s.String())
	}
}

// LogValue keeps the value out of structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON keeps the value out of JSON.
func (s Secret) MarshalJSON() ([]byte, error) {
	if s == "" {
		return []byte(`""`), nil
	}
	return []byte(`"` + Redacted + `"`), nil
}

// MarshalText keeps the value out of every other text encoding.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
