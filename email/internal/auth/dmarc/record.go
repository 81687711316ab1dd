package dmarc

import (
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
)

// Policy is what a domain asks to do with mail that fails.
type Policy string

// The policies (RFC 9989 section 4.7).
const (
	None       Policy = "none"
	Quarantine Policy = "quarantine"
	Reject     Policy = "reject"
)

// Record is a DMARC policy record (RFC 9989 section 4.7).
type Record struct {
	Policy      Policy // p
	Subdomains  Policy // sp, or empty
	NonExistent Policy // np, or empty
	StrictDKIM  bool   // adkim=s
	StrictSPF   bool   // aspf=s
	Testing     bool   // t=y
	PSD         string // y, n or u
	// Aggregate is where aggregate reports go: the URIs of rua.
	Aggregate []string

	invalid bool // no valid p, or an sp or np that is none, and nobody to report to
}

// isRecord reports whether a TXT record is one of DMARC: "v = DMARC1" comes
// first, and case matters.
func isRecord(txt string) bool {
	first, _, _ := strings.Cut(txt, ";")
	name, value, ok := strings.Cut(first, "=")
	return ok && strings.TrimSpace(name) == "v" && strings.TrimSpace(value) == "DMARC1"
}

// ParseRecord reads a record, and reports whether it is one. What is malformed
// in it is as if it were not there (RFC 9989 section 4.8), other than in p, sp
// and np (section 4.10.1).
func ParseRecord(txt string) (Record, bool) {
	if !isRecord(txt) {
		return Record{}, false
	}
	var tags dkim.Tags
	for spec := range strings.SplitSeq(txt, ";") {
		tag, err := dkim.ParseTags(spec)
		if err != nil || len(tag) == 0 || len(tags) >= maxTags {
			continue
		}
		if _, twice := tags.Get(tag[0].Name); !twice {
			tags = append(tags, tag[0])
		}
	}
	r := Record{PSD: "u"}
	var p, sp, np bool
	r.Policy, p = policy(tags, "p")
	r.Subdomains, sp = policy(tags, "sp")
	r.NonExistent, np = policy(tags, "np")
	r.StrictDKIM = is(tags, "adkim", "s")
	r.StrictSPF = is(tags, "aspf", "s")
	r.Testing = is(tags, "t", "y")
	for _, psd := range []string{"y", "n"} {
		if is(tags, "psd", psd) {
			r.PSD = psd
		}
	}
	rua, _ := tags.Get("rua")
	for uri := range strings.SplitSeq(rua, ",") {
		if uri = strings.TrimSpace(uri); strings.Contains(uri, ":") {
			r.Aggregate = append(r.Aggregate, uri)
		}
	}
	_, hasP := tags.Get("p")
	if bad := hasP && !p || !sp || !np; bad || !hasP {
		r.Policy, r.Subdomains, r.NonExistent = None, "", ""
		r.invalid = len(r.Aggregate) == 0
	}
	return r, true
}

// maxTags bounds a record; RFC 9989 knows 11 tags.
const maxTags = 64

// policy reads a tag, and reports whether it is missing or valid.
func policy(tags dkim.Tags, name string) (Policy, bool) {
	value, ok := tags.Get(name)
	if !ok {
		return "", true
	}
	switch p := Policy(strings.ToLower(value)); p {
	case None, Quarantine, Reject:
		return p, true
	}
	return "", false
}

func is(tags dkim.Tags, name, value string) bool {
	got, _ := tags.Get(name)
	return strings.EqualFold(got, value)
}
