package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

func (r Retry) withDefaults() Retry {
	r.BudgetPercent = defaultTo(r.BudgetPercent, 20)
	r.BudgetPerSecond = defaultTo(r.BudgetPerSecond, 10)
	return r
}

// mayRetry reports whether another target may be tried after this outcome of e,
// which has been reported, and notes in ch that e's has been. The caller knows
// whether the request can be sent again at all.
//
// What a target that cannot be reached did not get costs the budget nothing, as
// long as there is a target of which nothing bad is known: to go there instead
// is no extra work for anybody. What a client has provoked costs it: each target
// in turn would have a handshake for every such request.
func (b *balancer) mayRetry(ch *choice, e *entry, o outcome) bool {
	ch.tried = append(ch.tried, e.target)
	if b.retry.Attempts > 0 && len(ch.tried) >= b.retry.Attempts {
		return false
	}
	some, well := b.left(ch)
	switch budget := &b.state.retries; {
	case !some:
		return false
	case (o == unreachable || o == doubtful) && well, b.retry.BudgetPercent < 0:
		budget.made.Add(1)
		return true
	default:
		return budget.spend(&b.retry, b.state.requests.Load()+b.state.streams.Load())
	}
}

// left reports whether a target has not been tried that may be, full or not,
// and whether nothing bad is known of one such.
func (b *balancer) left(ch *choice) (some, well bool) {
	for k := (pick{balancer: b, ch: ch}); ; k.last = true {
		for i := range b.entries {
			if k.usable(&b.entries[i]) || k.full {
				return true, !k.last
			}
		}
		if k.last {
			return false, false
		}
	}
}

// retryBudget keeps the retries of a route in proportion to its requests, so
// that they do not multiply the load when targets are failing. It costs
// nothing until there is something to retry.
type retryBudget struct {
	made    atomic.Uint64
	refused atomic.Uint64

	mu     sync.Mutex
	began  time.Time // of the window that is counted in
	seen   uint64    // requests when it began
	before float64   // requests a second before that
	spent  int       // retries since then
}

// spend takes one retry out of the budget. requests is how many the route has
// had so far.
func (r *retryBudget) spend(cfg *Retry, requests uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if window := now.Sub(r.began); window >= time.Second {
		r.before = float64(requests-r.seen) / window.Seconds()
		r.began, r.seen, r.spent = now, requests, 0
	}
	budget := float64(cfg.BudgetPerSecond) + float64(cfg.BudgetPercent)/100*max(r.before, float64(requests-r.seen))
	if float64(r.spent+1) > budget {
		r.refused.Add(1)
		return false
	}
	r.spent++
	r.made.Add(1)
	return true
}
