package dmarcrpt

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/upkeep"
)

// Reporter counts messages and reports them. Make one with [Open]. It is safe for
// concurrent use.
type Reporter struct {
	cfg Config

	mu            sync.Mutex
	domains       map[key]*domain
	organizations map[key]int // how many domains each has
	bytes         int
	dirty         [shards]bool
	stats         Stats

	saving sync.Mutex // so that an older state never replaces a newer one
	upkeep *upkeep.Upkeep
}

// Stats counts since [Open], but for what is held now.
type Stats struct {
	// Messages were counted, Omitted were not for lack of room.
	Messages uint64 `json:"messages"`
	Omitted  uint64 `json:"omitted"`
	// Sent are reports handed over, Failed those given up.
	Sent   uint64 `json:"sent"`
	Failed uint64 `json:"failed"`
	// Domains and Bytes are held now.
	Domains int `json:"domains"`
	Bytes   int `json:"bytes"`
}

// key is a domain on a day, in days since 1970 (UTC).
type key struct {
	day  int64
	name string
}

// domain is what a policy domain gets reported about a day.
type domain struct {
	key
	organization string
	policy       published
	rua          []string
	rows         map[row]int
	bytes        int
	messages     int
	omitted      int // messages that there was no room for

	next time.Time // of the next try
	sent []string  // addresses that have it
}

// published is a policy as far as reports show it.
type published struct {
	Policy      dmarc.Policy `json:"p"`
	Subdomains  dmarc.Policy `json:"sp,omitempty"`
	NonExistent dmarc.Policy `json:"np,omitempty"`
	StrictDKIM  bool         `json:"adkim,omitempty"`
	StrictSPF   bool         `json:"aspf,omitempty"`
	Testing     bool         `json:"t,omitempty"`
}

// maxPerOrganization bounds the policy domains of an organization: by wildcards in
// DNS one can have any number of them.
const maxPerOrganization = 100

// maxURIs bounds the addresses of a record that are looked at.
const maxURIs = 5

const daySeconds = 24 * 60 * 60

func dayOf(t time.Time) int64 { return int64(math.Floor(float64(t.Unix()) / daySeconds)) }

// Add counts a message, once it is decided what becomes of it: one that was put off
// comes again. One without a policy, or whose domain wants no reports, is passed
// over.
func (r *Reporter) Add(m Message) {
	if m.Auth == nil {
		return
	}
	d := &m.Auth.DMARC
	if d.Code != dmarc.Pass && d.Code != dmarc.Fail || d.Record == nil || len(d.Record.Aggregate) == 0 || !m.SourceIP.IsValid() {
		return
	}
	line := newRow(m)
	now := r.cfg.Now()

	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.obtain(key{dayOf(now), d.PolicyDomain}, d.Organization)
	if e == nil {
		r.stats.Omitted++
		return
	}
	e.policy = published{d.Record.Policy, d.Record.Subdomains, d.Record.NonExistent, d.Record.StrictDKIM, d.Record.StrictSPF, d.Record.Testing}
	e.rua = boundedURIs(d.Record.Aggregate)
	e.messages++
	r.dirty[shardOf(e.name)] = true
	if e.rows[line] == 0 {
		size := line.size()
		if len(e.rows) >= r.cfg.MaxRows || e.bytes+size > r.cfg.MaxBytes/16 {
			e.omitted++
			r.stats.Omitted++
			return
		}
		e.bytes += size
		r.bytes += size
	}
	e.rows[line]++
	r.stats.Messages++
	if r.bytes > r.cfg.MaxBytes {
		r.shrink()
	}
}

// boundedURIs returns the first of a record's URIs, as far as they are of a
// length that an address may have.
func boundedURIs(list []string) []string {
	var uris []string
	for _, uri := range list {
		if len(uri) <= 1000 && len(uris) < maxURIs {
			uris = append(uris, uri)
		}
	}
	return uris
}

// domainBytes is roughly what a domain takes without rows.
const domainBytes = 1024

// obtain returns a domain, or nil if its organization has too many.
func (r *Reporter) obtain(k key, organization string) *domain {
	if e := r.domains[k]; e != nil {
		return e
	}
	if r.organizations[key{k.day, organization}] >= maxPerOrganization {
		return nil
	}
	if len(r.domains) >= r.cfg.MaxDomains {
		r.shrink()
	}
	e := &domain{key: k, organization: organization, rows: map[row]int{}}
	r.insert(e)
	return e
}

func (r *Reporter) insert(e *domain) {
	e.bytes = domainBytes
	for line := range e.rows {
		e.bytes += line.size()
	}
	r.domains[e.key] = e
	r.organizations[key{e.day, e.organization}]++
	r.bytes += e.bytes
}

func (r *Reporter) remove(e *domain) {
	delete(r.domains, e.key)
	r.bytes -= e.bytes
	r.dirty[shardOf(e.name)] = true
	k := key{e.day, e.organization}
	if r.organizations[k]--; r.organizations[k] == 0 {
		delete(r.organizations, k)
	}
}

// shrink makes room for a tenth, at the cost of the domains with the fewest
// messages.
func (r *Reporter) shrink() {
	list := make([]*domain, 0, len(r.domains))
	for _, e := range r.domains {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *domain) int { return cmp.Compare(a.messages, b.messages) })
	for _, e := range list {
		if len(r.domains) <= r.cfg.MaxDomains*9/10 && r.bytes <= r.cfg.MaxBytes/10*9 {
			break
		}
		r.remove(e)
		r.stats.Omitted += uint64(e.messages - e.omitted)
	}
}

// Stats returns a snapshot of the counters.
func (r *Reporter) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Domains, s.Bytes = len(r.domains), r.bytes
	return s
}
