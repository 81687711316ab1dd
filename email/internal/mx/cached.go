package mx

import "github.com/dcrouter/dcrouter/email/internal/auth/lookup"

// Cached returns what [Resolver.Lookup] would without asking anybody; ok is false
// if it would have to ask.
func (r *Resolver) Cached(domain string) (d Destination, err error, ok bool) {
	if len(domain) > 0 && domain[0] == '[' {
		d, err = r.literal(domain)
		return d, err, true
	}
	name, err := lookup.Domain(domain)
	if err != nil {
		return Destination{}, permanent("5.1.2", "%.300q is no domain name", domain), true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.known[name]; ok && r.now().Before(a.until) {
		d, err = a.result()
		return d, err, true
	}
	return Destination{}, nil, false
}
