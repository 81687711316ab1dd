package certs

import (
	"strings"
	"time"
	"unicode"
)

// State is what there is to know about the certificate of a name.
type State struct {
	// Name is the domain, or one with "*." in front for all names a label below.
	Name string `json:"name"`
	// OnDemand is set if the name came with a handshake.
	OnDemand bool `json:"onDemand,omitempty"`
	// Issuer, NotBefore and NotAfter are those of the certificate in use, and
	// empty if there is none.
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	// Stapled is set if an OCSP response goes with it.
	Stapled bool `json:"stapled,omitempty"`
	// Challenge is the type by which the name was proven to be ours last.
	Challenge string `json:"challenge,omitempty"`
	// InProgress is set while an attempt to obtain a certificate is under way.
	InProgress bool `json:"inProgress,omitempty"`
	// Failures is how many attempts have failed since the last that has not, and
	// LastError what the last one said.
	Failures  int    `json:"failures,omitempty"`
	LastError string `json:"lastError,omitempty"`
	// NextTry is when the next attempt is made: a renewal, or one after
	// failures. Zero means never, or now if one is in progress.
	NextTry time.Time `json:"nextTry,omitzero"`
	// TotalFailures is how many attempts have failed since the name came.
	TotalFailures uint64 `json:"totalFailures"`
}

// Values of [Event.Kind].
const (
	Obtained = "obtained" // the first certificate
	Renewed  = "renewed"  // a later one
	Failed   = "failed"   // an attempt that brought none
)

// Event is something that happened to a certificate.
type Event struct {
	Kind string
	// State is how things are after it.
	State State
	// Err is why it failed.
	Err error
}

// maxErrorText bounds what is kept of an error, in bytes.
const maxErrorText = 1000

// errorText is what an error says, without what could confuse a terminal:
// authorities and name servers may have written it.
func errorText(err error) string {
	s := strings.ToValidUTF8(err.Error(), "?")
	if len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "") + " ..."
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
