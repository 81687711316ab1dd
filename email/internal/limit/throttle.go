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
	pairs    *lru[pairKey, tries]
	// known is when a host last signed in to an account. It is apart from
	// pairs, so that only those who can sign in can push others out of it.
	known *lru[pairKey, time.Time]
}

// accountKey stands for an account's name, which may be as long as a stranger
// likes.
type accountKey [16]byte

func keyOf(account string) accountKey {
	sum := sha256.Sum256([]byte(account))
	return accountKey(sum[:])
}

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

// tries are the failures of one host for one account.
type tries struct {
	count int
	last  time.Time
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
		pairs:    newLRU[pairKey, tries](cfg.Keys),
		known:    newLRU[pairKey, time.Time](cfg.Keys),
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
	key := pairKey{Host(addr), keyOf(account)}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()

	signedIn := t.known.get(key)
	own := signedIn != nil && now.Sub(*signedIn) < t.cfg.Remember
	if host := t.hosts.get(key.host); host != nil {
		wait = host.until.Sub(now)
	}
	if acct := t.accounts.get(key.account); acct != nil && !own {
		wait = max(wait, acct.until.Sub(now))
	}
	if wait > 0 { // and those who have to wait leave no trace
		return nil, wait
	}

	a = &Attempt{t: t, key: key, own: own}
	host := t.hosts.obtain(key.host)
	host.forget(now, t.cfg.Forget)
	host.add(now, t.cfg.HostFailures, t.cfg.HostWait)
	a.hostUntil = host.until
	if !own { // the owner's mistakes at home are no attack
		acct := t.accounts.obtain(key.account)
		acct.forget(now, t.cfg.Forget)
		acct.add(now, t.cfg.AccountFailures, t.cfg.AccountWait)
		a.accountUntil = acct.until
	}
	pair := t.pairs.obtain(key)
	if now.Sub(pair.last) >= t.cfg.Forget {
		pair.count = 0
	}
	pair.count++
	pair.last = now
	return a, 0
}

// Failed says that the password was wrong.
func (a *Attempt) Failed() { a.once.Do(func() {}) }

// Succeeded says that it was right: the host's failures for this account are
// forgotten. Its failures for others stay, or else whoever has one account could
// try all others from there; and so do those of others for the account, or else
// they could guess on whenever its owner signs in. The owner does not need it:
// the host is known from here on.
func (a *Attempt) Succeeded() {
	a.once.Do(func() {
		t := a.t
		t.mu.Lock()
		defer t.mu.Unlock()
		pair := t.pairs.get(a.key)
		if host := t.hosts.get(a.key.host); host != nil && pair != nil {
			host.takeBack(pair.count, a.hostUntil)
		}
		if acct := t.accounts.get(a.key.account); acct != nil && pair != nil && !a.own {
			acct.takeBack(pair.count, a.accountUntil)
		}
		t.pairs.remove(a.key)
		*t.known.obtain(a.key) = t.cfg.Now()
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
		if pair := t.pairs.get(a.key); pair != nil {
			pair.count = max(0, pair.count-1)
		}
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
