package dcrouter

import (
	"time"

	"github.com/dcrouter/dcrouter/internal/certs"
)

// CertificateState is what there is to know about an automatic certificate.
type CertificateState struct {
	// Name is the domain, or one with "*." in front for all names a label below.
	Name string `json:"name"`
	// OnDemand is set if the name came with a handshake.
	OnDemand bool `json:"onDemand,omitempty"`
	// Issuer, NotBefore and NotAfter are those of the certificate in use, and
	// empty if there is none.
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	// Stapled is set if an OCSP response goes with it (RFC 6066 section 8).
	Stapled bool `json:"stapled,omitempty"`
	// Challenge is the type by which the name was proven to be ours last, as
	// "dns-01".
	Challenge string `json:"challenge,omitempty"`
	// InProgress is set while an attempt to obtain a certificate is under way.
	InProgress bool `json:"inProgress,omitempty"`
	// Failures is how many attempts have failed since the last that has not, and
	// LastError what the last one said.
	Failures  int    `json:"failures,omitempty"`
	LastError string `json:"lastError,omitempty"`
	// NextTry is when the next attempt is made: a renewal, or one after failures.
	// Zero means never, or now if one is in progress.
	NextTry time.Time `json:"nextTry,omitzero"`
	// TotalFailures is how many attempts have failed since the name came.
	TotalFailures uint64 `json:"totalFailures"`
}

// Values of [CertificateEvent.Kind].
const (
	CertificateObtained = certs.Obtained // the first for its name
	CertificateRenewed  = certs.Renewed  // a later one
	CertificateFailed   = certs.Failed   // an attempt that brought none
)

// CertificateEvent is something that happened to an automatic certificate; see
// [WithCertificateObserver].
type CertificateEvent struct {
	// Kind is [CertificateObtained], [CertificateRenewed] or [CertificateFailed].
	Kind string
	// State is how things are after it.
	State CertificateState
	// Err is why it failed, otherwise nil.
	Err error
}
