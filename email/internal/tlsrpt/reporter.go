package tlsrpt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/upkeep"
	"github.com/dcrouter/dcrouter/storage"
)

// Doer makes HTTP requests; *http.Client is one. It should not follow redirects,
// and must bound the time.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Config says who reports, and how.
type Config struct {
	// Organization is our name in reports. Required.
	Organization string
	// Contact is an address for questions about them; default From.
	Contact string
	// Submitter is the domain that reports come from; they are signed for it.
	// Required.
	Submitter string
	// From is the sender of mailed reports, at Submitter's domain. Required.
	From string
	// Resolver looks up who wants reports. Required.
	Resolver lookup.Resolver
	// Send takes on a report to be mailed; once it returns nil the report is
	// taken to be delivered. Nil means that none are mailed.
	Send func(context.Context, Message) error
	// HTTP posts reports to "https:" addresses. Nil means that none are.
	HTTP Doer
	// Spread is how long after the end of a day, at most, its reports begin to
	// go out; default 4h, and negative none.
	Spread time.Duration
	// Store keeps the counts below "email/tlsrpt". Nil means that they are
	// forgotten with the Reporter.
	Store *storage.Store
	// SaveEvery is how often changes are stored; default 1m. A crash loses what
	// came since.
	SaveEvery time.Duration
	// MaxDomains bounds the domains of a day; default 10,000. Those beyond are
	// not counted. What is kept of the domains of one owner is bounded, too.
	MaxDomains int
	// Log is told what cannot be stored or delivered. Nil means nobody.
	Log *slog.Logger
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

func (cfg *Config) prepare() error {
	if cfg.Contact == "" {
		cfg.Contact = cfg.From
	}
	if cfg.Spread == 0 {
		cfg.Spread = 4 * time.Hour
	}
	if cfg.SaveEvery <= 0 {
		cfg.SaveEvery = time.Minute
	}
	if cfg.MaxDomains <= 0 {
		cfg.MaxDomains = 10_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	var errs []error
	if !isLine(cfg.Organization) {
		errs = append(errs, fmt.Errorf("the organization %q is not a name in one line", cfg.Organization))
	}
	if !isLine(cfg.Contact) {
		errs = append(errs, fmt.Errorf("the contact %q is not an address in one line", cfg.Contact))
	}
	submitter, err := lookup.Domain(cfg.Submitter)
	if err != nil {
		errs = append(errs, fmt.Errorf("the submitter: %w", err))
	}
	cfg.Submitter = submitter
	if from, err := addr.Parse(cfg.From); err != nil {
		errs = append(errs, fmt.Errorf("the sender %q: %w", cfg.From, err))
	} else if !from.IsASCII() {
		errs = append(errs, fmt.Errorf("the sender %q is not in ASCII", cfg.From))
	}
	if cfg.Resolver == nil {
		errs = append(errs, errors.New("there is no resolver"))
	}
	return errors.Join(errs...)
}

// Reporter counts sessions and reports them. Make one with [Open]. It is safe for
// concurrent use.
type Reporter struct {
	cfg Config

	mu      sync.Mutex
	counts  map[key]*counts
	perDay  map[string]int // how many domains a day has
	owned   map[key]int    // the sizes of the counts of an owner's domains
	stats   Stats
	stopped bool

	upkeep *upkeep.Upkeep
}

type key struct{ day, domain string }

// Stats are counts since [Open], but for Domains.
type Stats struct {
	// Domains are those that are held, of today and of days to be reported.
	Domains int
	// Uncounted are sessions for which there was no room.
	Uncounted uint64
	// Delivered are reports that were taken, by address, and Failed those that
	// were given up after a day.
	Delivered, Failed uint64
}

// Open reads what is stored, and begins to report.
func Open(ctx context.Context, cfg Config) (*Reporter, error) {
	if err := cfg.prepare(); err != nil {
		return nil, fmt.Errorf("tlsrpt: %w", err)
	}
	r := &Reporter{cfg: cfg, counts: map[key]*counts{}, perDay: map[string]int{}, owned: map[key]int{}}
	if cfg.Store != nil {
		if err := r.load(ctx); err != nil {
			return nil, fmt.Errorf("tlsrpt: %w", err)
		}
	}
	r.upkeep = upkeep.New(ctx)
	r.upkeep.Save(cfg.SaveEvery, cfg.Log, "counts for reports about TLS", r.save)
	r.upkeep.Every(time.Minute, r.deliverDue)
	return r, nil
}

// Close ends deliveries under way, which go on after the next Open, and stores
// what has changed. Later calls, and sessions, do nothing.
func (r *Reporter) Close(ctx context.Context) error {
	r.mu.Lock()
	stopped := r.stopped
	r.stopped = true
	r.mu.Unlock()
	r.upkeep.Close()
	if stopped {
		return nil
	}
	return r.save(ctx)
}

// Add counts a session.
func (r *Reporter) Add(s Session) {
	domain, err := lookup.Domain(s.Domain)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	k := key{r.cfg.Now().UTC().Format(dayFormat), domain}
	c, owner := r.counts[k], key{k.day, ownerOf(domain)}
	known := c != nil
	if !known {
		c = &counts{Day: k.day, Domain: domain}
	}
	before := c.size
	switch {
	case !known && r.perDay[k.day] >= r.cfg.MaxDomains, !c.add(s, maxOwned-r.owned[owner]):
		r.stats.Uncounted++
	case known:
		r.owned[owner] += c.size - before
	default:
		r.put(c)
	}
}

// Stats returns the counts.
func (r *Reporter) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Domains = len(r.counts)
	return s
}

func (r *Reporter) put(c *counts) {
	r.counts[key{c.Day, c.Domain}] = c
	r.perDay[c.Day]++
	r.owned[key{c.Day, ownerOf(c.Domain)}] += c.size
}

func (r *Reporter) remove(c *counts) {
	delete(r.counts, key{c.Day, c.Domain})
	if r.perDay[c.Day]--; r.perDay[c.Day] == 0 {
		delete(r.perDay, c.Day)
	}
	owner := key{c.Day, ownerOf(c.Domain)}
	if r.owned[owner] -= c.size; r.owned[owner] == 0 {
		delete(r.owned, owner)
	}
}

const (
	storePrefix = "email/tlsrpt/"
	storeSuffix = ".json"
	// storeTTL has storage forget what nobody comes back for.
	storeTTL = 4 * 24 * time.Hour
)

func storeKey(c *counts) string { return storePrefix + c.Day + "/" + c.Domain + storeSuffix }

// save stores what has changed.
func (r *Reporter) save(ctx context.Context) error {
	if r.cfg.Store == nil {
		return nil
	}
	var dirty []*counts
	r.mu.Lock()
	for _, c := range r.counts {
		if c.dirty {
			dirty = append(dirty, c)
		}
	}
	r.mu.Unlock()
	var errs []error
	for _, c := range dirty {
		r.mu.Lock()
		value, err := json.Marshal(c)
		c.dirty = false
		r.mu.Unlock()
		if err == nil {
			err = r.store(ctx, c, value)
		}
		if err != nil {
			errs = append(errs, err)
			r.mu.Lock()
			c.dirty = true
			r.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// store stores one value, unless its report has gone out meanwhile.
func (r *Reporter) store(ctx context.Context, c *counts, value []byte) error {
	if err := r.cfg.Store.Put(ctx, storeKey(c), value, storage.TTL(storeTTL)); err != nil {
		return err
	}
	r.mu.Lock()
	gone := r.counts[key{c.Day, c.Domain}] != c
	r.mu.Unlock()
	if gone {
		return r.cfg.Store.Delete(ctx, storeKey(c))
	}
	return nil
}

// load reads what is stored. What cannot be read is passed over.
func (r *Reporter) load(ctx context.Context) error {
	for name, err := range r.cfg.Store.List(ctx, storePrefix) {
		if err != nil {
			return err
		}
		b, err := r.cfg.Store.Get(ctx, name)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		day, file, _ := strings.Cut(strings.TrimPrefix(name, storePrefix), "/")
		c := &counts{}
		if err := json.Unmarshal(b, c); err != nil {
			r.cfg.Log.Warn("stored counts for reports about TLS cannot be read", "key", name, "err", err)
			continue
		}
		domain, err := lookup.Domain(c.Domain)
		if _, bad := time.Parse(dayFormat, c.Day); err != nil || bad != nil || domain != c.Domain || c.Day != day || c.Domain+storeSuffix != file || !c.whole() {
			r.cfg.Log.Warn("stored counts for reports about TLS do not belong where they are", "key", name)
			continue
		}
		c.measure()
		if r.perDay[c.Day] < r.cfg.MaxDomains {
			r.put(c)
		}
	}
	return nil
}

// whole says whether what was read has all its parts.
func (c *counts) whole() bool {
	for _, p := range c.Policies {
		if p == nil {
			return false
		}
		for _, d := range p.Details {
			if d == nil {
				return false
			}
		}
	}
	return true
}
