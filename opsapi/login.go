package opsapi

import (
	"context"
	"crypto/rand"
	"net/netip"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/opsapi/internal/lockout"
)

// How many failed attempts to sign in lock an account or an address, and for
// how long.
const (
	maxFailures   = 10
	failureWindow = 15 * time.Minute
	lockTime      = 15 * time.Minute
	lockoutKeys   = 10_000
)

// Passwords are compared two at a time, as a hash may take many megabytes, and few
// more wait.
const (
	comparisons        = 2
	waitingComparisons = 16
)

// gate decides who may sign in.
type gate struct {
	accounts  map[string]*account
	nobody    *account // compared with where there is no account
	now       func() time.Time
	byAccount *lockout.Table
	byName    *lockout.Table // of names that are no account's
	byAddress *lockout.Table
	byPair    *lockout.Table // of a familiar account and address, while the account is locked
	waiting   chan struct{}  // a token for each who wants to compare
	comparing chan struct{}  // and for each who does

	mu sync.Mutex
	// familiar are pairs of account and address that have signed in before. A
	// locked account is not locked for them, but counted apart: else whoever knows
	// its name could keep its owner out.
	familiar map[[2]string]bool
}

func newGate(accounts map[string]*account, now func() time.Time) *gate {
	limits := lockout.Limits{Attempts: maxFailures, Window: failureWindow, Lock: lockTime, Keys: lockoutKeys}
	each := limits
	each.Keys = len(accounts)
	return &gate{
		accounts: accounts, nobody: newNobody(accounts), now: now,
		byAccount: lockout.New(each), byName: lockout.New(limits), byAddress: lockout.New(limits), byPair: lockout.New(limits),
		waiting: make(chan struct{}, comparisons+waitingComparisons), comparing: make(chan struct{}, comparisons),
		familiar: map[[2]string]bool{},
	}
}

// newNobody makes an account that no password fits. It has a hash if one of the
// others has, those of the admins first.
func newNobody(accounts map[string]*account) *account {
	nobody := &account{secret: Secret(rand.Text())}
	var of *account
	for _, a := range accounts {
		if a.hash != nil && (of == nil || a.role > of.role || a.role == of.role && a.name < of.name) {
			of = a
		}
	}
	if of != nil {
		dummy := of.hash.Dummy()
		nobody.hash = &dummy
	}
	return nobody
}

// maxFamiliar bounds what is remembered of who signed in from where.
const maxFamiliar = 1000

// failures are those at an account, or at a name that is none's: of the latter
// there may be any number, which must not push out that an account is locked.
func (g *gate) failures(name string) *lockout.Table {
	if g.accounts[name] != nil {
		return g.byAccount
	}
	return g.byName
}

// signIn returns the account if the password is right. Whether an account
// exists shows neither in the answer nor in the time that it takes, nor in what
// is locked, but to who has thousands of other names locked meanwhile.
func (g *gate) signIn(ctx context.Context, name, secret string, from netip.Addr) (*account, error) {
	address, now := lockoutKey(from), g.now()
	select {
	case g.waiting <- struct{}{}:
		defer func() { <-g.waiting }()
	default:
		return nil, &RetryError{After: time.Second, Reason: "too many attempts to sign in at once"}
	}
	if until := g.byAddress.Attempt(address, now); !until.IsZero() {
		return nil, locked(until)
	}
	pair := name + "\n" + address
	accountLocked := g.failures(name).Attempt(name, now)
	if until := accountLocked; !until.IsZero() {
		if g.isFamiliar(name, address) {
			until = g.byPair.Attempt(pair, now)
		}
		if !until.IsZero() {
			return nil, locked(until)
		}
	}
	select {
	case g.comparing <- struct{}{}:
		defer func() { <-g.comparing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a, known := g.accounts[name]
	if !known {
		a = g.nobody
	}
	right := a.verify(secret)
	if a.hash == nil && g.nobody.hash != nil { // it takes as long as where there is one
		g.nobody.verify(secret)
	}
	if !right || !known {
		return nil, errorf(CodeUnauthenticated, "wrong username or password")
	}
	// Other failures from the address may be guesses at others' passwords, and
	// those at a locked account are not its owner's.
	g.byAddress.TakeBack(address)
	if accountLocked.IsZero() {
		g.byAccount.Succeeded(name)
	} else {
		g.byPair.Succeeded(pair)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.familiar) >= maxFamiliar {
		clear(g.familiar)
	}
	g.familiar[[2]string{name, address}] = true
	return a, nil
}

func (g *gate) isFamiliar(name, address string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.familiar[[2]string{name, address}]
}

// locks reports whether the last failure has locked something.
func (g *gate) locks(name string, from netip.Addr) bool {
	return !g.failures(name).Locked(name, g.now()).IsZero() || g.locksAddress(from)
}

func (g *gate) locksAddress(from netip.Addr) bool {
	return !g.byAddress.Locked(lockoutKey(from), g.now()).IsZero()
}

// locked is the error for who has to wait.
func locked(until time.Time) *Error {
	at := until.UTC().Truncate(time.Second).Add(time.Second).Format(time.RFC3339)
	return &Error{Code: CodeLocked, Text: "too many failed attempts to sign in: try again at " + at, Data: map[string]any{"retryAt": at}}
}
