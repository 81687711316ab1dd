package limit

import (
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

// ThrottleConfig says how fast passwords may be tried. In each field, 0 means
// the default.
type ThrottleConfig struct {
	// HostFailures is how often one host may fail before it has to wait;
	// default 10.
	HostFailures int
	// HostWait is the greatest time that one host has to wait; default 15m.
	HostWait time.Duration
	// AccountFailures is how often all hosts together may fail for one account
	// before they have to wait; default 30.
	AccountFailures int
	// AccountWait is the greatest time that an account's hosts have to wait;
	// default 1m. It is short, as it is the owner who is kept out by others.
	AccountWait time.Duration
	// Forget is how long failures count after the last one; default 1h.
	Forget time.Duration
	// Remember is how long a host that signed in is known as the account's
	// own; default 720h.
	Remember time.Duration
	// Keys bounds the hosts, the accounts and the pairs of both that are held;
	// default [DefaultKeys] each.
	Keys int
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

// firstWait is the time to wait after the first failure too many. Each further
// one doubles it.
const firstWait = time.Second

// Throttle slows down those who guess passwords. Whoever fails too often, by
// host or by account, has to wait, twice as long each time.
//
// An account is never closed to its owner: hosts that have signed in to it do
// not wait for what others did, and everybody else waits AccountWait at most.
type Throttle struct {
	cfg ThrottleConfig

	mu       sync.Mutex
	hosts    *lru[netip.Prefix, failures]
	accounts *lru[accountKey, failures]
	pairs    *lru[pairKey, pair]
}

// accountKey stands for an account's name, which may be as long as a stranger
// likes.
type accountKey [16]byte

type pairKey struct {
	host    netip.Prefix
	account accountKey
}

// failures counts those of late.
type failures struct {
	count int
	last  time.Time
	until time.Time // nobody may try before
}

// pair is about one account at one host.
type pair struct {
	failures int
	last     time.Time
	signedIn time.Time // when it last succeeded
}

// NewThrottle makes a Throttle.
func NewThrottle(cfg ThrottleConfig) *Throttle {
	defaultTo(&cfg.HostFailures, 10)
	defaultTo(&cfg.AccountFailures, 30)
	defaultTo(&cfg.HostWait, 15*time.Minute)
	defaultTo(&cfg.AccountWait, time.Minute)
	defaultTo(&cfg.Forget, time.Hour)
	defaultTo(&cfg.Remember, 30*24*time.Hour)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Throttle{
		cfg:      cfg,
		hosts:    newLRU[netip.Prefix, failures](cfg.Keys),
		accounts: newLRU[accountKey, failures](cfg.Keys),
		pairs:    newLRU[pairKey, pair](cfg.Keys),
	}
}

func defaultTo[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Attempt is one try of a password. Exactly one of its methods must be called;
// further calls do nothing.
type Attempt struct {
	t    *Throttle
	key  pairKey
	once sync.Once

	own                     bool      // the account's failures do not have this one
	hostUntil, accountUntil time.Time // what this attempt set, as if it had failed
}

// Begin asks to try a password for account from addr. If wait is not 0 it must
// not be tried now, and may be after that time.
//
// Until it is known how it went, an attempt counts as failed, so that many at
// once get no further than one after the other.
func (t *Throttle) Begin(addr netip.Addr, account string) (a *Attempt, wait time.Duration) {
	sum := sha256.Sum256([]byte(account))
	key := pairKey{Host(addr), accountKey(sum[:])}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()

	host, acct, pair := t.hosts.obtain(key.host), t.accounts.obtain(key.account), t.pairs.obtain(key)
	host.forget(now, t.cfg.Forget)
	acct.forget(now, t.cfg.Forget)
	if now.Sub(pair.last) >= t.cfg.Forget {
		pair.failures = 0
	}
	own := !pair.signedIn.IsZero() && now.Sub(pair.signedIn) < t.cfg.Remember
	wait = host.until.Sub(now)
	if !own {
		wait = max(wait, acct.until.Sub(now))
	}
	if wait > 0 {
		return nil, wait
	}
	host.add(now, t.cfg.HostFailures, t.cfg.HostWait)
	if !own { // the owner's mistakes at home are no attack
		acct.add(now, t.cfg.AccountFailures, t.cfg.AccountWait)
	}
	pair.failures++
	pair.last = now
	return &Attempt{t: t, key: key, own: own, hostUntil: host.until, accountUntil: acct.until}, 0
}

// Failed says that the password was wrong.
func (a *Attempt) Failed() { a.once.Do(func() {}) }

// Succeeded says that it was right: the account's failures are forgotten, and
// of the host's those for this account. Those for others stay, or else whoever
// has one account could try all others from there.
func (a *Attempt) Succeeded() {
	a.once.Do(func() {
		t := a.t
		t.mu.Lock()
		defer t.mu.Unlock()
		pair := t.pairs.obtain(a.key)
		if host := t.hosts.get(a.key.host); host != nil {
			host.takeBack(pair.failures, a.hostUntil)
		}
		t.accounts.remove(a.key.account)
		pair.failures = 0
		pair.signedIn = t.cfg.Now()
	})
}

// Cancel says that it is not known, as the attempt broke off.
func (a *Attempt) Cancel() {
	a.once.Do(func() {
		t := a.t
		t.mu.Lock()
		defer t.mu.Unlock()
		if host := t.hosts.get(a.key.host); host != nil {
			host.takeBack(1, a.hostUntil)
		}
		if acct := t.accounts.get(a.key.account); acct != nil && !a.own {
			acct.takeBack(1, a.accountUntil)
		}
		pair := t.pairs.obtain(a.key)
		pair.failures = max(0, pair.failures-1)
	})
}

func (f *failures) forget(now time.Time, after time.Duration) {
	if now.Sub(f.last) >= after {
		*f = failures{}
	}
}

func (f *failures) add(now time.Time, free int, longest time.Duration) {
	f.count++
	f.last = now
	if over := f.count - free; over > 0 {
		f.until = now.Add(min(longest, firstWait<<min(over-1, 20)))
	}
}

// takeBack makes n failures not have been, nor the wait that the last of them
// set, unless another has set one since.
func (f *failures) takeBack(n int, until time.Time) {
	f.count = max(0, f.count-n)
	if f.until.Equal(until) {
		f.until = time.Time{}
	}
}
