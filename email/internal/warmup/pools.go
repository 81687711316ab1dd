package warmup

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/upkeep"
	"github.com/dcrouter/dcrouter/internal/glob"
)

// Pools knows the addresses that mail is sent from. Make one with [Open]. It is
// safe for concurrent use.
type Pools struct {
	cfg      Config
	hold     Hold
	schedule []int
	shares   map[string]float64 // by provider
	mappings []mapping
	pools    []*pool

	mu        sync.Mutex
	addresses map[netip.Addr]*address // the zero one for mail without a pool

	saving sync.Mutex     // so that an older state never replaces a newer one
	upkeep *upkeep.Upkeep // nil without a Store
}

type pool struct {
	name      string
	overflow  string
	senders   []glob.Pattern // of addresses
	domains   []glob.Pattern // of their domains
	all       bool
	addresses []*address
}

// address is the state of one.
type address struct {
	ip    netip.Addr
	pool  string
	helo  string
	since day
	warm  bool

	total *lane // over all providers
	lanes map[string]*lane
	dirty bool
}

// newPools compiles settings that are valid.
func newPools(cfg Config) (*Pools, error) {
	p := &Pools{
		cfg: cfg, hold: cfg.Hold.withDefaults(), schedule: cfg.Schedule,
		shares: map[string]float64{}, addresses: map[netip.Addr]*address{},
	}
	if len(p.schedule) == 0 {
		p.schedule = defaultSchedule()
	}
	for _, name := range known() {
		p.shares[name] = defaultShare(name)
	}
	for _, provider := range cfg.Providers {
		p.shares[provider.Name] = provider.Share
		if provider.Share == 0 {
			p.shares[provider.Name] = defaultShare(provider.Name)
		}
		for _, s := range provider.MX {
			pattern, err := glob.ParseFold(s)
			if err != nil {
				return nil, err
			}
			p.mappings = append(p.mappings, mapping{pattern, provider.Name})
		}
	}
	p.addresses[netip.Addr{}] = p.newAddress(Address{Warm: true}, "")
	for i := range cfg.Pools {
		if err := p.addPool(&cfg.Pools[i]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Pools) addPool(c *Pool) error {
	q := &pool{name: c.Name, overflow: c.Overflow, all: len(c.Senders) == 0}
	for _, s := range c.Senders {
		pattern, err := glob.ParseFold(s)
		if err != nil {
			return err
		}
		if strings.Contains(s, "@") {
			q.senders = append(q.senders, pattern)
		} else {
			q.domains = append(q.domains, pattern)
		}
	}
	for _, a := range c.Addresses {
		state := p.newAddress(a, c.Name)
		q.addresses = append(q.addresses, state)
		p.addresses[state.ip] = state
	}
	p.pools = append(p.pools, q)
	return nil
}

func (p *Pools) newAddress(c Address, pool string) *address {
	ip, _ := netip.ParseAddr(c.Address) // the zero one for mail without a pool
	since, _ := parseDay(c.Since)
	return &address{
		ip: ip.Unmap(), pool: pool, helo: c.HELO, since: since, warm: c.Warm,
		total: newLane(1, p.cfg.Now()), lanes: map[string]*lane{},
	}
}

// Request asks for an address to send from.
type Request struct {
	// Sender is "local@domain" or a domain; empty is the null sender, which
	// only pools for all are for.
	Sender string
	// Provider is what [Pools.Provider] returned.
	Provider string
	// Recipients is how many the message has there. Less than 1 is taken for 1.
	Recipients int
	// Usable tells whether an address can reach the destination, which may
	// have addresses of one family only. Nil means that all can.
	Usable func(netip.Addr) bool
}

// Grant is the answer to a [Request].
type Grant struct {
	// Pool and Source say where from. They are zero if no pool is for the
	// sender, or the one that is has no usable address: then the system chooses.
	Pool   string
	Source netip.Addr
	// HELO is the name to introduce it with; "" is that of the server.
	HELO     string
	Provider string
	// N is for how many recipients, from 1 to what was asked for. Others of the
	// message have to be asked for again.
	N int
	// Next is when to come back, if nothing was granted.
	Next time.Time

	day day
}

// spread is how long after a day's begin those who wait for it are told to come
// back, at random: a day's number is not for its first second.
const spread = 6 * time.Hour

// Take grants an address, and counts on that it will be used: what is not used
// goes back by [Pools.Return]. If ok is false nothing was granted, and the Grant
// says when to come back.
func (p *Pools) Take(r Request) (g Grant, ok bool) {
	n := max(1, r.Recipients)
	now := p.cfg.Now()
	today := dayOf(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	g.Provider, g.day = p.provider(r.Provider), today

	a, room := p.addresses[netip.Addr{}], unlimited
	if q := p.poolFor(r.Sender); q != nil {
		usable := func(a *address) bool { return r.Usable == nil || r.Usable(a.ip) }
		c := p.choose(q, g.Provider, today, usable)
		switch {
		case c.best != nil:
			a, room, g.Pool = c.best, c.room, q.name
		case !c.next.IsZero():
			g.Pool, g.Next = q.name, c.next.Add(rand.N(spread))
			return g, false
		}
	}
	g.Source, g.HELO, g.N = a.ip, a.helo, min(n, room)
	l := p.lane(a, g.Provider)
	l.use(g.N)
	a.total.use(g.N)
	l.hour.at(now).Sent += g.N
	l.day.at(now).Sent += g.N
	a.dirty = true
	return g, true
}

// Return takes back n recipients of a grant that were not tried after all, or
// were put off as unknown (greylisting), which says nothing about the address.
func (p *Pools) Return(g Grant, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.addresses[g.Source]
	n = min(n, g.N)
	if a == nil || n <= 0 {
		return
	}
	now := p.cfg.Now()
	l := p.lane(a, p.provider(g.Provider))
	for _, l := range []*lane{l, a.total} {
		if l.today == g.day {
			l.counts.Sent = max(0, l.counts.Sent-n)
		}
	}
	l.hour.unsend(now, n)
	l.day.unsend(now, n)
	a.dirty = true
}

// Report says what became of n recipients that were sent to from a source, be it
// the zero one, at once or days later.
func (p *Pools) Report(source netip.Addr, provider string, o Outcome, n int) {
	if held, stage := p.report(source, provider, o, n); held != "" {
		p.cfg.Log.Warn("an address is held back at a provider: today does not count for its warm-up",
			"address", source, "provider", provider, "reason", held, "day", stage+1)
	}
}

// report returns why the lane is held now, if it was not before, and the day of
// the schedule where it stands.
func (p *Pools) report(source netip.Addr, provider string, o Outcome, n int) (held string, stage int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.addresses[source.Unmap()]
	if a == nil || n <= 0 {
		return "", 0
	}
	now := p.cfg.Now()
	l := p.lane(a, p.provider(provider))
	l.counts.count(o, n)
	l.hour.at(now).count(o, n)
	l.day.at(now).count(o, n)
	a.dirty = true
	trouble := o == HardBounce || o == Block || o == Complaint
	if trouble && a.ip.IsValid() && l.judge(p.hold, p.schedule) {
		return l.held, l.standing()
	}
	return "", 0
}

// provider maps what nobody knows to [Other].
func (p *Pools) provider(name string) string {
	if _, ok := p.shares[name]; ok {
		return name
	}
	return Other
}

// poolFor returns the first pool for a sender, nil if there is none.
func (p *Pools) poolFor(sender string) *pool {
	domain := sender[strings.LastIndexByte(sender, '@')+1:]
	for _, q := range p.pools {
		if q.all {
			return q
		}
		for _, pattern := range q.senders {
			if domain != sender && pattern.Match(sender) {
				return q
			}
		}
		for _, pattern := range q.domains {
			if domain != "" && pattern.Match(domain) {
				return q
			}
		}
	}
	return nil
}

// lane returns an address's lane at a provider, brought to today.
func (p *Pools) lane(a *address, provider string) *lane {
	now := p.cfg.Now()
	l := a.lanes[provider]
	if l == nil {
		l = newLane(p.shares[provider], now)
		a.lanes[provider] = l
	}
	l.turn(dayOf(now), p.schedule)
	a.total.turn(dayOf(now), p.schedule)
	return l
}
