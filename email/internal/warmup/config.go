package warmup

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/glob"
	"github.com/dcrouter/dcrouter/storage"
)

// Config of [Pools].
type Config struct {
	Settings
	// Store keeps the state. Nil means that it is forgotten with the Pools.
	Store *storage.Store
	// SaveEvery is how often changes are stored; default 5s.
	SaveEvery time.Duration
	// Log is told when a lane is held and when storing fails. Nil means nobody.
	Log *slog.Logger
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

// Settings is the part of the configuration that can be written as JSON.
type Settings struct {
	// Pools are groups of addresses; the first that is for a sender is used.
	// Mail of senders that no pool is for goes out as the system likes.
	Pools []Pool `json:"pools"`
	// Schedule is how many messages an address may send on its first day of
	// use, its second, and so on; after the last there is no limit. Empty means
	// the default, see the package comment.
	Schedule []int `json:"schedule"`
	// Providers adds to the providers that are known, or changes their share.
	Providers []Provider `json:"providers"`
	// Hold is about addresses that get into trouble.
	Hold Hold `json:"hold"`
}

// Values of [Pool.Overflow].
const (
	// OverflowWarm gives what is too much for the addresses that warm up to the
	// warm ones of the pool; without one it waits. It is the default.
	OverflowWarm = "warm"
	// OverflowDefer has it wait for the next day, though there be warm ones.
	OverflowDefer = "defer"
	// OverflowAny has nothing wait: the warm addresses of the pool take it,
	// else those of other pools, else the pool's own beyond their number.
	OverflowAny = "any"
)

// Pool is a group of addresses for the mail of certain senders.
type Pool struct {
	// Name is for statistics and logs. Required.
	Name string `json:"name" conf:"key"`
	// Addresses to send from; at least one, and each in one pool only.
	Addresses []Address `json:"addresses"`
	// Senders are patterns of addresses ("*@news.example.com") or, without @, of
	// domains ("*.example.com"). Case does not matter. Empty means all senders.
	Senders []string `json:"senders"`
	// Overflow is [OverflowWarm], [OverflowDefer] or [OverflowAny]; "" is
	// [OverflowWarm].
	Overflow string `json:"overflow"`
}

// Address is one that mail is sent from.
type Address struct {
	// Address is of this machine. Required.
	Address string `json:"address" conf:"key"`
	// HELO is the name to introduce it with, which should lead to the address
	// and back. The default "" means that of the server.
	HELO string `json:"helo"`
	// Since is the first day of its warm-up, as "2026-11-01" (UTC): it is not
	// used before, and days since then of which nothing is known here count
	// as used. The default "" means the first day on which it is used here.
	Since string `json:"since"`
	// Warm says that it needs no warm-up.
	Warm bool `json:"warm"`
}

// Provider is who runs the mail servers of many domains.
type Provider struct {
	// Name is that of a known one ("gmail", "outlook", "yahoo", "apple", "gmx",
	// "other") or a new one. Required.
	Name string `json:"name" conf:"key"`
	// MX are patterns of the names of its MX hosts ("*.pphosted.com"). They are
	// asked before the known ones.
	MX []string `json:"mx"`
	// Share is what part of a day's number may go there, up to 1. The default 0
	// means 0.5 for gmail, outlook and other, and 0.25 for all else: most of a
	// day for the largest, and not all of it for anyone.
	Share float64 `json:"share"`
}

// Hold says when a lane stalls; at twice these it steps back. All are parts of
// a day's answers, and need 20 of them to mean something; complaints are a part
// of what was delivered, and two are needed. In each field 0 means the default.
type Hold struct {
	// Off never holds anything.
	Off bool `json:"off"`
	// Bounces is for recipients that do not exist; default 0.05. Senders who
	// know their recipients are below 0.02.
	Bounces float64 `json:"bounces"`
	// Blocks is for what was refused for policy or reputation; default 0.1.
	Blocks float64 `json:"blocks"`
	// Complaints is for readers who call it spam; default 0.0015. Gmail and Yahoo
	// want less than 0.001, and never 0.003, where a lane steps back.
	Complaints float64 `json:"complaints"`
}

func (h Hold) withDefaults() Hold {
	def := func(v *float64, value float64) {
		if *v <= 0 {
			*v = value
		}
	}
	def(&h.Bounces, 0.05)
	def(&h.Blocks, 0.1)
	def(&h.Complaints, 0.0015)
	return h
}

// maxSchedule bounds the days of a schedule, maxNumber a day's number.
const maxSchedule, maxNumber = 366, 1_000_000_000

// Validate reports all mistakes at once, each a [*conf.FieldError] with its path
// within the settings.
func (s *Settings) Validate() error {
	check := conf.NewChecker()
	names, addresses := map[string]int{}, map[string]int{}
	for i := range s.Pools {
		at := check.Field("pools").Index(i)
		at.Field("name").Required(s.Pools[i].Name)
		at.Field("name").Line(s.Pools[i].Name)
		at.Field("name").Unique(names, s.Pools[i].Name, "pools", i)
		s.Pools[i].validate(at, addresses)
	}
	at := check.Field("schedule")
	if len(s.Schedule) > maxSchedule {
		at.Errorf("%d days are too many, the limit is %d", len(s.Schedule), maxSchedule)
	}
	for i, n := range s.Schedule {
		at.Index(i).Range(n, 1, maxNumber)
		if i > 0 && n < s.Schedule[i-1] {
			at.Index(i).Errorf("%d is less than on the day before", n)
		}
	}
	names = map[string]int{}
	for i, p := range s.Providers {
		at := check.Field("providers").Index(i)
		at.Field("name").Required(p.Name)
		at.Field("name").Line(p.Name)
		at.Field("name").Unique(names, p.Name, "providers", i)
		validatePatterns(at.Field("mx"), p.MX)
		if len(p.MX) == 0 && !isKnown(p.Name) {
			at.Field("mx").Errorf("missing: %q is not a provider that is known without", p.Name)
		}
		validatePart(at.Field("share"), p.Share)
	}
	at = check.Field("hold")
	validatePart(at.Field("bounces"), s.Hold.Bounces)
	validatePart(at.Field("blocks"), s.Hold.Blocks)
	validatePart(at.Field("complaints"), s.Hold.Complaints)
	return check.Err()
}

func (p *Pool) validate(check *conf.Checker, addresses map[string]int) {
	if len(p.Addresses) == 0 {
		check.Field("addresses").Errorf("missing: give at least one")
	}
	for i, a := range p.Addresses {
		at := check.Field("addresses").Index(i)
		ip, err := netip.ParseAddr(a.Address)
		switch _, again := addresses[ip.Unmap().String()]; {
		case err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast():
			at.Field("address").Errorf("%.60q is not an address to send from", a.Address)
		case again:
			at.Field("address").Errorf("%s is there already; each address is in one pool, once", ip)
		default:
			addresses[ip.Unmap().String()] = i
		}
		if a.HELO != "" {
			at.Field("helo").Domain(a.HELO)
		}
		if _, err := parseDay(a.Since); err != nil {
			at.Field("since").Errorf(`%.60q is not a day as in "2026-11-01"`, a.Since)
		}
		if a.Since != "" && a.Warm {
			at.Field("since").Errorf("a warm address has no warm-up to begin; leave one of the two out")
		}
	}
	validatePatterns(check.Field("senders"), p.Senders)
	if p.Overflow != "" {
		check.Field("overflow").OneOf(p.Overflow, OverflowWarm, OverflowDefer, OverflowAny)
	}
}

func validatePatterns(check *conf.Checker, patterns []string) {
	for i, s := range patterns {
		check.Index(i).Required(s)
		if _, err := glob.ParseFold(s); err != nil {
			check.Index(i).Errorf("%v", err)
		}
	}
}

func validatePart(check *conf.Checker, part float64) {
	if !(part >= 0 && part <= 1) { // NaN too
		check.Errorf("%v is not between 0 and 1", part)
	}
}
