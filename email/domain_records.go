package email

import (
	"time"

	"github.com/dcrouter/dcrouter/email/internal/keys"
	"github.com/dcrouter/dcrouter/email/internal/records"
)

// Defaults of domains.
const (
	defaultSelector = "default"
	defaultKeySize  = 2048
	defaultRotation = 90 // days
	defaultMX       = 10
	defaultTTL      = 3600
)

// keyConfig says what DKIM keys a domain is to have.
func (s *Server) keyConfig(d *Domain) keys.Config {
	own, def := &d.DKIM, &s.cfg.Defaults.DKIM
	rotate := own.RotateKeys
	if rotate == nil {
		rotate = def.RotateKeys
	}
	return keys.Config{
		Selector: lookupName(valueOr(own.Selector, valueOr(def.Selector, defaultSelector))),
		Bits:     valueOr(own.KeySize, valueOr(def.KeySize, defaultKeySize)),
		Rotate:   rotate != nil && *rotate,
		Interval: time.Duration(valueOr(own.RotationInterval, valueOr(def.RotationInterval, defaultRotation))) * 24 * time.Hour,
		TTL:      time.Duration(s.recordTTL(d)) * time.Second,
		Internal: s.cfg.DNSMode(d) == InternalDNS,
	}
}

func (s *Server) recordTTL(d *Domain) int {
	if n := d.DNS.Internal; n != nil && n.TTL != 0 {
		return n.TTL
	}
	return defaultTTL
}

// recordSettings are what the records of a domain follow from.
func (s *Server) recordSettings(d *Domain, list []keys.Key) *records.Settings {
	name := lookupName(d.Domain)
	out := &records.Settings{
		Domain: name, Hostname: lookupName(s.cfg.Hostname), Addrs: s.publicAddrs(),
		Preference: defaultMX, TTL: s.recordTTL(d), STS: s.stsPolicy(d),
	}
	if n := d.DNS.Internal; n != nil && n.MXPriority != nil {
		out.Preference = uint16(*n.MXPriority)
	}
	if policy := valueOr(d.Policies.DMARC, s.cfg.Defaults.Policies.DMARC); policy == "" {
		out.DMARC = "v=DMARC1; p=none; rua=mailto:postmaster@" + name
	} else if policy != NoPolicy {
		out.DMARC = policy
	}
	reports := valueOr(d.Policies.TLSRPT, s.cfg.Defaults.Policies.TLSRPT)
	if reports == "" && (s.cfg.DNSMode(d) == InternalDNS || d.requires(records.TLSRPT)) {
		reports = "mailto:postmaster@" + name
	}
	if reports != "" && reports != NoPolicy {
		out.TLSRPT = "v=TLSRPTv1; rua=" + reports
	}
	for i := range list {
		out.Keys = append(out.Keys, records.DKIMKey{Selector: list[i].Selector, Text: list[i].Record, Optional: isSpare(list, i)})
	}
	return out
}

// isSpare reports whether mail can do without the record of a key: it does not sign
// or another does as well. Not all know Ed25519, so that one is never alone.
func isSpare(list []keys.Key, i int) bool {
	k := &list[i]
	if k.Algorithm != keys.RSA || k.State == keys.Retiring || k.State == keys.Revoked {
		return true
	}
	for j := range list {
		if other := &list[j]; k.State != keys.Active && other.State == keys.Active && other.Algorithm == k.Algorithm {
			return true
		}
	}
	return false
}

// For how long senders keep an MTA-STS policy, in seconds. One that is being tried
// out should not outlive a mistake for long (RFC 8461 section 3.2).
const (
	enforcedAge = 7 * 86400
	testedAge   = 86400
)

// stsPolicy returns the MTA-STS policy of a domain, nil if it has none.
func (s *Server) stsPolicy(d *Domain) *records.Policy {
	own, def := &d.Policies, &s.cfg.Defaults.Policies
	mode := valueOr(own.MTASTS, def.MTASTS)
	if mode == "" && d.requires(records.MTASTS) {
		mode = TestMTASTS
	}
	if mode == "" || mode == NoPolicy {
		return nil
	}
	p := &records.Policy{Mode: mode, MX: []string{lookupName(s.cfg.Hostname)}, MaxAge: testedAge}
	if mode == EnforceMTASTS {
		p.MaxAge = enforcedAge
	}
	more := own.MTASTSMX
	if len(more) == 0 {
		more = def.MTASTSMX
	}
	for _, host := range more {
		p.MX = append(p.MX, mxPattern(host))
	}
	return p
}

// mxPattern is a host, or "*." and a domain, as policies have it.
func mxPattern(host string) string {
	if len(host) > 2 && host[:2] == "*." {
		return "*." + lookupName(host[2:])
	}
	return lookupName(host)
}

// requires reports whether the configuration asks for a kind of record by name.
func (d *Domain) requires(kind records.Kind) bool {
	if d.DNS.External == nil {
		return false
	}
	for _, name := range d.DNS.External.RequiredRecords {
		if name == string(kind) {
			return true
		}
	}
	return false
}

// requiredKinds lists the records without which a domain counts as broken.
func (s *Server) requiredKinds(d *Domain) []records.Kind {
	switch s.cfg.DNSMode(d) {
	case ForwardDNS:
		return []records.Kind{records.MX}
	case InternalDNS:
		return []records.Kind{records.MX, records.SPF, records.DKIM, records.DMARC, records.MTASTS, records.TLSRPT}
	}
	if x := d.DNS.External; x != nil && len(x.RequiredRecords) > 0 {
		var list []records.Kind
		for _, name := range x.RequiredRecords {
			list = append(list, records.Kind(name))
		}
		return list
	}
	return []records.Kind{records.MX, records.SPF, records.DKIM, records.DMARC}
}

// expected lists the records that a domain should have, with these keys. Of one
// whose mail is only forwarded little is expected, but a signature works there as
// well if its record is there.
func (s *Server) expected(d *Domain, list []keys.Key) []records.Record {
	var present []keys.Key
	for _, k := range list {
		if k.State != keys.Revoked { // a record that nobody has put there need not be taken away
			present = append(present, k)
		}
	}
	all := records.Wanted(s.recordSettings(d, present))
	if s.cfg.DNSMode(d) != ForwardDNS {
		return all
	}
	skip := d.DNS.Forward != nil && d.DNS.Forward.SkipDNSValidation
	var few []records.Record
	for _, r := range all {
		if r.Kind == records.MX && !skip || r.Kind == records.DKIM {
			few = append(few, r)
		}
	}
	return few
}
