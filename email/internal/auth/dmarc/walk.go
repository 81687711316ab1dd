package dmarc

import (
	"context"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// maxQueries bounds a walk (RFC 9989 section 4.10).
const maxQueries = 8

// A walker asks for records, each once for a message.
type walker struct {
	ctx      context.Context
	resolver lookup.Resolver
	known    map[string]*Record // nil: there is none
}

// record returns the record of a domain, or nil if there is none or several.
func (w *walker) record(domain string) (*Record, error) {
	if r, ok := w.known[domain]; ok {
		return r, nil
	}
	list, err := lookup.TXT(w.ctx, w.resolver, "_dmarc."+domain)
	if err != nil {
		return nil, err
	}
	var found *Record
	n := 0
	for _, txt := range list {
		if r, ok := ParseRecord(txt); ok {
			found, n = &r, n+1
		}
	}
	if n != 1 {
		found = nil
	}
	w.known[domain] = found
	return found, nil
}

// A step is a domain on the way up that has a record.
type step struct {
	domain string
	*Record
}

// walk is the DNS Tree Walk (RFC 9989 section 4.10): the records at a domain and
// above it, the longest name first.
func (w *walker) walk(domain string) ([]step, error) {
	var steps []step
	target := domain
	for range maxQueries {
		r, err := w.record(target)
		if err != nil {
			return nil, err
		}
		if r != nil {
			steps = append(steps, step{target, r})
			if r.PSD != "u" {
				break
			}
		}
		labels := strings.Count(target, ".") + 1
		if labels == 1 {
			break
		}
		for drop := max(1, labels-(maxQueries-1)); drop > 0; drop-- {
			_, target, _ = strings.Cut(target, ".")
		}
	}
	return steps, nil
}

// organizational selects the organizational domain from a walk that started at
// domain (RFC 9989 section 4.10.2).
func organizational(domain string, steps []step) string {
	for _, s := range steps {
		switch {
		case s.PSD == "n":
			return s.domain
		case s.PSD == "y" && s.domain != domain:
			labels := strings.Split(domain, ".")
			return strings.Join(labels[len(labels)-strings.Count(s.domain, ".")-2:], ".")
		}
	}
	if len(steps) > 0 {
		return steps[len(steps)-1].domain
	}
	return domain
}
