package email

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/keys"
	"github.com/dcrouter/dcrouter/email/internal/records"
)

// DNSRecord is a DNS record of a mail domain.
type DNSRecord struct {
	// Kind says what it is for: "MX", "SPF", "DKIM", "DMARC", "MTA-STS" or
	// "TLSRPT". Addresses are of the kind that needs them.
	Kind string `json:"kind"`
	// Name is where it is, without final dot.
	Name string `json:"name"`
	// Type is MX, TXT, A, AAAA or CNAME.
	Type string `json:"type"`
	// Value is the data as in a zone file; that of a TXT record is its text,
	// without quotes.
	Value string `json:"value"`
	// TTL is for how long others may remember it, in seconds.
	TTL int `json:"ttl"`
}

// String returns the record as a line of a zone file (RFC 1035 section 5.1), to be
// pasted into one.
func (r DNSRecord) String() string {
	return records.Record{Name: r.Name, Type: r.Type, Value: r.Value, TTL: r.TTL}.String()
}

// DNSPublisher brings the records of domains in mode [InternalDNS] into DNS.
type DNSPublisher interface {
	// Publish puts records in the place of all that it has published for this
	// domain before, at once if it can. When it returns nil they are served to
	// whoever asks. Records of the operator's own that say something else stay as
	// they are. It may be called with the same records again, and for several
	// domains at once.
	Publish(ctx context.Context, domain string, records []DNSRecord) error
}

// WithDNSPublisher sets who brings the records of domains in mode [InternalDNS]
// into DNS. Without it Start refuses such domains.
func WithDNSPublisher(p DNSPublisher) Option {
	return func(o *options) { o.publisher = p }
}

// Values of [RecordStatus.State].
const (
	RecordOK      = string(records.OK)
	RecordMissing = string(records.Missing)
	// RecordWrong means that there is something else in its place.
	RecordWrong = string(records.Wrong)
	// RecordUnknown means that DNS did not answer, or was not asked yet.
	RecordUnknown = string(records.Unknown)
)

// RecordStatus is a record that a domain should have, and what DNS says.
type RecordStatus struct {
	DNSRecord
	// Required is set if the domain counts as broken without it.
	Required bool `json:"required"`
	// State is [RecordOK], [RecordMissing], [RecordWrong] or [RecordUnknown]. A
	// record that does the same as this one is ok.
	State string `json:"state"`
	// Found is what is there in its place, ten values at most. It comes from
	// strangers.
	Found []string `json:"found"`
	// Note says what is wrong, or what to know though it is not.
	Note string `json:"note"`
}

// DKIMKey is a key that a domain signs with, is going to, or did not long ago.
type DKIMKey struct {
	// Selector is its name: the record is at {selector}._domainkey.{domain}.
	Selector string `json:"selector"`
	// Algorithm is "rsa" or "ed25519" (RFC 8463), Bits the size of an RSA key.
	Algorithm string `json:"algorithm"`
	Bits      int    `json:"bits"`
	// State is "pending" until its record has been seen in DNS, "published" until
	// others have had the time to see it too, "active" while it signs, "retiring"
	// for the week in which mail that it has signed may still be on its way, and
	// "revoked" until it is forgotten. It lasts since Since.
	State   string    `json:"state"`
	Created time.Time `json:"created"`
	Since   time.Time `json:"since"`
}

// DomainStatus is how a domain is doing.
type DomainStatus struct {
	// Domain is its name, as A-labels in lower case, Mode its [Domain.DNSMode].
	Domain string `json:"domain"`
	Mode   string `json:"mode"`
	// OK is set if all required records were there at the last look.
	OK bool `json:"ok"`
	// Checked is when that was; zero if it was never.
	Checked time.Time `json:"checked"`
	// Records are those that the domain should have.
	Records []RecordStatus `json:"records"`
	// Keys are its DKIM keys, in the order in which they were made. There are none
	// yet for some moments after the first Start.
	Keys []DKIMKey `json:"keys"`
	// Error is what keeps keys from being made or records from being published.
	Error string `json:"error"`
}

// Domains returns how all domains are doing, by what was seen last. While the
// Server runs, DNS is looked at every hour and after changes, and what is missing
// is logged with the records to paste.
func (s *Server) Domains() []DomainStatus {
	list := make([]DomainStatus, 0, len(s.cfg.Domains))
	r := s.current()
	for i := range s.cfg.Domains {
		list = append(list, s.domainStatus(r, &s.cfg.Domains[i]))
	}
	return list
}

// CheckDomain looks at DNS for a domain now.
func (s *Server) CheckDomain(ctx context.Context, domain string) (DomainStatus, error) {
	d, r, err := s.runningDomain(domain)
	if err != nil {
		return DomainStatus{}, err
	}
	r.domains.check(ctx, d)
	return s.domainStatus(r, d), ctx.Err()
}

// RotateDKIM makes new keys for a domain. They sign as soon as their records are in
// DNS and have been there for an hour, or for the TTL of the records if that is
// longer; the old ones retire then. Where others look after the domain's DNS
// records, the new ones are in the log and in [DomainStatus.Records].
func (s *Server) RotateDKIM(ctx context.Context, domain string) error {
	d, r, err := s.runningDomain(domain)
	if err != nil {
		return err
	}
	return r.domains.keys.Rotate(ctx, lookupName(d.Domain))
}

// ImportDKIM adds a private key that the domain has signed with elsewhere, in PEM:
// PKCS #8, or PKCS #1 for RSA. It signs as a new one does, once its record is found
// in DNS.
func (s *Server) ImportDKIM(ctx context.Context, domain, selector string, privateKey []byte) error {
	d, r, err := s.runningDomain(domain)
	if err != nil {
		return err
	}
	if selector, err = lookup.Domain(selector); err != nil {
		return fmt.Errorf("email: the selector: %w", err)
	}
	return r.domains.keys.Import(ctx, lookupName(d.Domain), selector, privateKey)
}

// MTASTSPolicy returns the MTA-STS policy of a domain, and whether it has one. It is
// to be served as text/plain at
// https://mta-sts.{domain}/.well-known/mta-sts.txt, with a certificate for that
// name (RFC 8461 section 3.3).
func (s *Server) MTASTSPolicy(domain string) (text string, ok bool) {
	d := s.domain(domain)
	if d == nil {
		return "", false
	}
	policy := s.stsPolicy(d)
	if policy == nil {
		return "", false
	}
	return policy.Text(), true
}

func (s *Server) runningDomain(name string) (*Domain, *run, error) {
	r := s.current()
	if r == nil {
		return nil, nil, ErrNotRunning
	}
	d := s.domain(name)
	if d == nil {
		return nil, nil, fmt.Errorf("email: %q is none of the domains", name)
	}
	return d, r, nil
}

// domainStatus puts together what is known of a domain. r is nil while the Server
// does not run.
func (s *Server) domainStatus(r *run, d *Domain) DomainStatus {
	st := DomainStatus{Domain: lookupName(d.Domain), Mode: s.cfg.DNSMode(d)}
	var known []keys.Key
	found := make(map[records.Record]records.Finding)
	if r != nil {
		var err error
		if known, err = r.domains.keys.Keys(st.Domain); err != nil {
			st.Error = err.Error()
		}
		if seen := r.domains.seen(st.Domain); seen != nil {
			st.Checked = seen.at
			for _, f := range seen.findings {
				found[f.Record] = f
			}
		}
	}
	for _, k := range known {
		st.Keys = append(st.Keys, DKIMKey{k.Selector, k.Algorithm, k.Bits, string(k.State), k.Created, k.Since})
	}
	st.OK = !st.Checked.IsZero()
	required := s.requiredKinds(d)
	for _, record := range s.expected(d, known) {
		status := RecordStatus{DNSRecord: publicRecord(record), State: RecordUnknown}
		status.Required = !record.Optional && slices.Contains(required, record.Kind)
		if f, ok := found[record]; ok {
			status.State, status.Found, status.Note = string(f.State), f.Found, f.Note
		}
		st.OK = st.OK && (!status.Required || status.State == RecordOK)
		st.Records = append(st.Records, status)
	}
	return st
}

func publicRecord(r records.Record) DNSRecord {
	return DNSRecord{string(r.Kind), r.Name, r.Type, r.Value, r.TTL}
}

// signers returns the keys that sign the mail of a domain now; nil if there are
// none.
func (r *run) signers(domain string) []dkim.Signer {
	return r.domains.keys.Signers(lookupName(domain))
}

// lookupName is a configured domain in the form in which it is looked up.
func lookupName(name string) string {
	if ascii, err := lookup.Domain(name); err == nil {
		return ascii
	}
	return canonicalDomain(name)
}

// publicAddrs are the addresses that lead here.
func (s *Server) publicAddrs() (list []netip.Addr) {
	for _, text := range s.cfg.PublicIP {
		if a, err := netip.ParseAddr(text); err == nil {
			list = append(list, a.Unmap())
		}
	}
	return list
}
