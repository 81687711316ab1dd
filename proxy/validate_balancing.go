package proxy

import (
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// validateUse checks what a route says about the use of its targets.
func (l *LoadBalancing) validateUse(check *conf.Checker, r *Route) {
	streams, http := r.carries()
	if l.Sticky != nil {
		l.Sticky.validate(check.Field("sticky"))
		if streams {
			check.Field("sticky").Errorf("needs HTTP, which passthrough and SocketHandlers do not look into")
		}
	}
	if l.CircuitBreaker != nil {
		l.CircuitBreaker.validate(check.Field("circuitBreaker"))
		if !http && len(l.CircuitBreaker.Statuses) > 0 {
			check.Field("circuitBreaker").Field("statuses").Errorf("needs HTTP, which this route does not look into")
		}
	}
	check.Field("slowStart").Wait(l.SlowStart)
	check.Field("retry").Field("attempts").NotNegative(l.Retry.Attempts)
	if l.Retry.BudgetPercent > 100 {
		check.Field("retry").Field("budgetPercent").Errorf("%d is more than 100; a negative value means no limit", l.Retry.BudgetPercent)
	}
	check.Field("retry").Field("budgetPerSecond").NotNegative(l.Retry.BudgetPerSecond)
	check.Field("maxConnectionsPerTarget").NotNegative(l.MaxConnectionsPerTarget)
	if l.Queue != (Queue{}) && l.MaxConnectionsPerTarget == 0 {
		check.Field("queue").Errorf("nobody waits without maxConnectionsPerTarget")
	}
	if l.Queue.Size > maxQueue {
		check.Field("queue").Field("size").Errorf("%d is more than %d", l.Queue.Size, maxQueue)
	}
	check.Field("queue").Field("timeout").Wait(l.Queue.Timeout)
}

// maxQueue bounds what may wait. So many have lost patience long before.
const maxQueue = 100_000

func (s *Sticky) validate(check *conf.Checker) {
	if !httpguts.ValidHeaderFieldName(s.Cookie) {
		check.Field("cookie").Errorf("%q is not a cookie name", s.Cookie)
	}
	if s.Path != "" && (s.Path[0] != '/' || strings.ContainsFunc(s.Path, func(r rune) bool { return r <= ' ' || r == ';' || r >= 0x7f })) {
		check.Field("path").Errorf("%q is not a path; it begins with / and has no spaces or semicolons", s.Path)
	}
	if s.MaxAge < 0 || s.MaxAge%time.Second != 0 {
		check.Field("maxAge").Errorf("%v is not a number of whole seconds", s.MaxAge)
	}
	switch s.SameSite {
	case "", SameSiteLax, SameSiteStrict:
	case SameSiteNone:
		if s.Secure != nil && !*s.Secure {
			check.Field("secure").Errorf("browsers refuse a cookie with sameSite none that is not secure")
		}
	default:
		check.Field("sameSite").OneOf(s.SameSite, SameSiteLax, SameSiteStrict, SameSiteNone)
	}
	check.Field("secret").Secret(s.Secret)
}

func (c *CircuitBreaker) validate(check *conf.Checker) {
	if c.FailurePercent > 100 {
		check.Field("failurePercent").Errorf("%d is more than 100; a negative value turns it off", c.FailurePercent)
	}
	if c.ConsecutiveFailures < 0 && c.FailurePercent < 0 {
		check.Errorf("with both consecutiveFailures and failurePercent turned off nothing ejects a target")
	}
	check.Field("minRequests").NotNegative(c.MinRequests)
	check.Field("window").Wait(c.Window)
	for i, status := range c.Statuses {
		check.Field("statuses").Index(i).Range(status, 400, 599)
	}
	if check.Field("ejectionTime").Wait(c.EjectionTime); c.EjectionTime > 0 && c.EjectionTime < time.Millisecond {
		check.Field("ejectionTime").Errorf("%v is too short; give at least 1ms", c.EjectionTime)
	}
	check.Field("maxEjectedPercent").Range(c.MaxEjectedPercent, 0, 100)
}
