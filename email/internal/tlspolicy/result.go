package tlspolicy

import (
	"crypto/x509"
	"errors"
	"net/netip"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
)

// Outcome is what became of a connection to a host, or that it was refused.
type Outcome struct {
	// Host is as it was given to [Policy.Host].
	Host string
	// SendingIP and ReceivingIP are the addresses of both ends, HELO the name
	// that was given; each may be empty.
	SendingIP, ReceivingIP netip.Addr
	HELO                   string
	// TLS is that of the connection, nil if it has none.
	TLS *smtpc.TLSState
	// Err is why there is no connection, or no TLS: the error of [smtpc.Dial],
	// [Requirement.Refuse], or why opportunistic TLS was given up.
	Err error
	// NotOffered says that Err is about a server without STARTTLS. It need not
	// be set if Err is nil.
	NotOffered bool
}

// Result counts an outcome for the reports to the domain. Connections that did
// not come as far as TLS say nothing about it and are not counted, nor is mail
// under a rule of ours.
func (p *Policy) Result(o Outcome) {
	if p.policies.report == nil || p.rule != "" && p.demand != Require {
		return
	}
	p.mu.Lock()
	e := p.hosts[o.Host]
	p.mu.Unlock()
	if e.policy.Type == "" {
		return
	}
	s := tlsrpt.Session{
		Domain: p.domain, Policy: e.policy, Failure: e.failure, Reason: e.reason,
		SendingIP: o.SendingIP, ReceivingIP: o.ReceivingIP, MX: o.Host, HELO: o.HELO,
	}
	switch failure, counts := classify(e.policy.Type, o); {
	case e.failure != "":
	case !counts:
		return
	case failure != "":
		s.Failure = failure
		s.Reason = reason(o)
	}
	if s.Failure != "" && p.sts != nil { // it may have changed
		p.policies.sts.recheck(p.domain)
	}
	p.policies.report(s)
}

// classify names what failed of TLS, and says whether the session got that far.
func classify(kind tlsrpt.PolicyType, o Outcome) (failure tlsrpt.Failure, counts bool) {
	if o.TLS != nil {
		if kind == tlsrpt.STS && !o.TLS.Verified {
			return certificateFailure(o.TLS.VerifyError), true
		}
		return "", true
	}
	if o.Err == nil || o.NotOffered {
		return tlsrpt.StartTLSNotSupported, true
	}
	var e *smtpc.Error
	if errors.As(o.Err, &e) {
		switch {
		case e.Phase != smtpc.PhaseTLS:
			return "", false
		case e.Err == nil: // STARTTLS was refused
			return tlsrpt.StartTLSNotSupported, true
		}
	}
	return certificateFailure(o.Err), true
}

func certificateFailure(err error) tlsrpt.Failure {
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return tlsrpt.CertificateExpired
	case errors.As(err, &host):
		return tlsrpt.CertificateHostMismatch
	case errors.As(err, &authority):
		return tlsrpt.CertificateNotTrusted
	}
	return tlsrpt.ValidationFailure
}

func reason(o Outcome) string {
	switch {
	case o.TLS != nil && o.TLS.VerifyError != nil:
		return o.TLS.VerifyError.Error()
	case o.Err != nil && !o.NotOffered:
		return o.Err.Error()
	}
	return ""
}
