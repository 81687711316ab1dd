package auth

import (
	"context"
	"errors"
	"net"

	"github.com/dcrouter/dcrouter/email/internal/auth/arc"
	"github.com/dcrouter/dcrouter/email/internal/auth/authres"
	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/spf"
)

// Field returns the raw field Authentication-Results (RFC 8601), folded, with
// its line end.
func (r *Result) Field() []byte {
	return append(append([]byte("Authentication-Results: "), r.Value()...), "\r\n"...)
}

// Value returns what follows the field's name, for ARC too (RFC 8617 section
// 4.1.1), without the last line end.
func (r *Result) Value() []byte { return authres.Value(r.hostname, r.results()) }

func (r *Result) results() []authres.Result {
	list := []authres.Result{r.spf()}
	for _, d := range r.DKIM {
		list = append(list, ofDKIM(d))
	}
	if len(r.DKIM) == 0 {
		list = append(list, authres.Result{Method: "dkim", Value: "none"})
	}
	if r.ARC.Status != arc.None {
		list = append(list, authres.Result{Method: "arc", Value: string(r.ARC.Status), Reason: reason(r.ARC.Err)})
	}
	list = append(list, authres.Result{
		Method: "dmarc", Value: string(r.DMARC.Code), Reason: reason(r.DMARC.Err),
		Props: []authres.Prop{{Name: "header.from", Value: r.DMARC.Domain}, {Name: "policy.dmarc", Value: r.policy()}},
	})
	return append(list, authres.Result{
		Method: "iprev", Value: string(r.IPRev.Code), Reason: reason(r.IPRev.Err),
		Props: []authres.Prop{{Name: "policy.iprev", Value: r.clientIP.String()}},
	})
}

func (r *Result) spf() authres.Result {
	name := "smtp.mailfrom"
	if r.SPF.Scope == spf.Helo {
		name = "smtp.helo"
	}
	result := authres.Result{Method: "spf", Value: string(r.SPF.Code), Props: []authres.Prop{{Name: name, Value: r.SPF.Domain}}}
	if r.SPF.Code == spf.TempError || r.SPF.Code == spf.PermError {
		result.Reason = reason(r.SPF.Err)
	}
	return result
}

// ofDKIM shows whose signature it is (RFC 8601 section 2.7.1) and its start, to
// tell several of one domain apart (RFC 6008).
func ofDKIM(d dkim.Verification) authres.Result {
	why := reason(d.Err)
	if d.Testing && d.Result != dkim.Pass {
		why += " (testing)"
	}
	return authres.Result{Method: "dkim", Value: string(d.Result), Reason: why, Props: []authres.Prop{
		{Name: "header.d", Value: d.Domain}, {Name: "header.s", Value: d.Selector},
		{Name: "header.a", Value: d.Algorithm}, {Name: "header.b", Value: d.Value[:min(len(d.Value), 8)]},
	}}
}

// policy is what is to be done, where DMARC has a policy (RFC 9989 section 9.1).
func (r *Result) policy() string {
	if r.DMARC.Record == nil {
		return ""
	}
	return string(r.DMARC.Policy)
}

// reason says why, without what a resolver tells of the network here.
func reason(err error) string {
	if err == nil {
		return ""
	}
	var d *net.DNSError
	if errors.As(err, &d) || errors.Is(err, context.DeadlineExceeded) {
		return "DNS did not answer"
	}
	return err.Error()
}
