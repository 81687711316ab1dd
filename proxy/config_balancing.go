package proxy

import (
	"slices"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Secret is a password or key: a string, written Secret("..."), that shows as ***
// wherever it is printed, logged or written as JSON. Its method Reveal() string
// gives the value.
type Secret = conf.Secret

// Sticky keeps a client with its target by a cookie. A client whose target is
// dead, ejected or gone gets another one and a new cookie. The cookie is set
// when it changes, and in WebSocket handshakes too.
type Sticky struct {
	// Cookie is the name of the cookie.
	Cookie string `json:"cookie"`
	// Path is the part of the site that the cookie is for. Default "/".
	Path string `json:"path"`
	// MaxAge is how long a browser keeps the cookie, in whole seconds, counted
	// from when it was set. The default 0 means until the browser is closed.
	MaxAge time.Duration `json:"maxAge"`
	// Secure keeps the cookie from being sent without TLS. The default nil
	// means true where the client came over TLS.
	Secure *bool `json:"secure"`
	// HTTPOnly hides the cookie from scripts. The default nil means true.
	HTTPOnly *bool `json:"httpOnly"`
	// SameSite says whether requests that other sites cause carry the cookie:
	// [SameSiteLax], [SameSiteStrict] or [SameSiteNone], which is always Secure.
	// The default "" leaves it to the browser.
	SameSite string `json:"sameSite"`
	// Secret is the key that the value of the cookie is made with. The value is
	// a hash of the target's address, the same after a restart and in every
	// gateway with this secret. Without a secret a client cannot read the
	// address off the cookie, but it can find out whether one that it guesses
	// is right.
	Secret Secret `json:"secret"`
}

// Values of [Sticky.SameSite].
const (
	SameSiteLax    = "lax"
	SameSiteStrict = "strict"
	SameSiteNone   = "none"
)

// CircuitBreaker watches how targets do with real traffic and ejects those that
// fail, which others call outlier detection or passive health checks. What
// counts as a failure is that a target cannot be reached, breaks off, does not
// answer within Timeouts.ResponseHead, or answers with one of Statuses. What may
// be for the client does not count: that the target breaks off when it has waited
// a second or more for the client to send or to read, for example.
//
// A target that is ejected, its circuit is open, gets nothing for EjectionTime.
// Then the circuit is half-open: one request tries the target. If that goes
// well the circuit closes and the target is back, otherwise it stays ejected
// for another EjectionTime. When all targets of a route are ejected, requests
// are refused at once, with 503, so that the targets can recover.
type CircuitBreaker struct {
	// ConsecutiveFailures is how many failures in a row eject a target. The
	// default 0 means 5; a negative value means that they do not.
	ConsecutiveFailures int `json:"consecutiveFailures"`
	// FailurePercent ejects a target when so much of what it got has failed,
	// counted for Window from a first failure on. The default 0 means 50; a
	// negative value means that this does not.
	FailurePercent int `json:"failurePercent"`
	// MinRequests is how much a target must have got within Window for
	// FailurePercent to mean anything. Default 20.
	MinRequests int `json:"minRequests"`
	// Window is the time that FailurePercent is about. Default 10s.
	Window time.Duration `json:"window"`
	// Statuses are the answers that are failures, 400 to 599. Default 500, 502,
	// 503 and 504.
	Statuses []int `json:"statuses"`
	// EjectionTime is how long an ejected target is left alone. Default 10s.
	EjectionTime time.Duration `json:"ejectionTime"`
	// MaxEjectedPercent is how many of a route's targets may be ejected at
	// once, rounded down, but at least one. With less than all of them, some
	// are tried whatever they answer. The default 0 means 100.
	MaxEjectedPercent int `json:"maxEjectedPercent"`
}

// Retry is about trying another target when one cannot be reached, or breaks
// off before it has answered a request that can be sent again: one without a
// body whose method is GET, HEAD or OPTIONS. No target is tried twice.
type Retry struct {
	// Attempts is how many targets may be tried in all. 1 turns retries off.
	// The default 0 means as many as the route has.
	Attempts int `json:"attempts"`
	// BudgetPercent limits the retries of a route to a part of its requests and
	// streams of the same second, or the one before, so that retries do not
	// make an outage worse. To go from a target that cannot be reached to one
	// of which nothing bad is known costs nothing. The default 0 means 20; a
	// negative value means no limit.
	BudgetPercent int `json:"budgetPercent"`
	// BudgetPerSecond is how many retries there may be in a second beyond that.
	// Default 10.
	BudgetPerSecond int `json:"budgetPerSecond"`
}

// Queue is where requests and streams of a route wait when all targets that
// could take them have MaxConnectionsPerTarget. The one that has waited longest
// is next. Whoever finds no place, or does not get to a target in time, is
// refused: HTTP with 503 and Retry-After.
type Queue struct {
	// Size is how many may wait. The default 0 means 100; a negative value means
	// that nobody waits.
	Size int `json:"size"`
	// Timeout is how long each may wait. Default 5s.
	Timeout time.Duration `json:"timeout"`
}

// clone makes l independent of what it was copied from.
func (l *LoadBalancing) clone() {
	if l.Sticky = clonePtr(l.Sticky); l.Sticky != nil {
		l.Sticky.Secure, l.Sticky.HTTPOnly = clonePtr(l.Sticky.Secure), clonePtr(l.Sticky.HTTPOnly)
	}
	l.HealthCheck = clonePtr(l.HealthCheck)
	if l.CircuitBreaker = clonePtr(l.CircuitBreaker); l.CircuitBreaker != nil {
		l.CircuitBreaker.Statuses = slices.Clone(l.CircuitBreaker.Statuses)
	}
}
