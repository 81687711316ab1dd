package tlsrpt

import "net/netip"

// PolicyType is the kind of a policy (RFC 8460 section 4.2).
type PolicyType string

// The kinds of policies.
const (
	TLSA     PolicyType = "tlsa"
	STS      PolicyType = "sts"
	NoPolicy PolicyType = "no-policy-found"
)

// Policy is what was expected of a session.
type Policy struct {
	Type PolicyType `json:"policy-type"`
	// Lines are the policy's text: TLSA records, or the lines of an MTA-STS
	// policy.
	Lines []string `json:"policy-string,omitempty"`
	// Domain is the recipient's, or for TLSA records that of the MX host.
	Domain string `json:"policy-domain"`
	// MX are the patterns of an MTA-STS policy.
	MX []string `json:"mx-host,omitempty"`
}

// Failure is a kind of failure (RFC 8460 section 4.3); "" is success.
type Failure string

// The kinds of failures.
const (
	StartTLSNotSupported    Failure = "starttls-not-supported"
	CertificateHostMismatch Failure = "certificate-host-mismatch"
	CertificateExpired      Failure = "certificate-expired"
	CertificateNotTrusted   Failure = "certificate-not-trusted"
	ValidationFailure       Failure = "validation-failure"
	TLSAInvalid             Failure = "tlsa-invalid"
	DNSSECInvalid           Failure = "dnssec-invalid"
	DANERequired            Failure = "dane-required"
	STSPolicyFetchError     Failure = "sts-policy-fetch-error"
	STSPolicyInvalid        Failure = "sts-policy-invalid"
	STSWebPKIInvalid        Failure = "sts-webpki-invalid"
)

// Session is one connection to an MX host, or one that was not even tried as its
// policy forbade it.
type Session struct {
	// Domain is the recipient's domain, which is asked for where reports go.
	Domain string
	Policy Policy
	// Failure is why the policy was not met; "" means that it was.
	Failure Failure
	// What is known of both ends; each may be empty.
	SendingIP, ReceivingIP netip.Addr
	MX                     string // the host's name
	HELO                   string // the name that we gave
	// Reason says more about the failure, in our words.
	Reason string
}
