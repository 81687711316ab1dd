package proxy

import (
	"github.com/dcrouter/dcrouter/internal/conf"
)

// validateUse checks what a route says about the use of its targets.
func (l *LoadBalancing) validateUse(check *conf.Checker) {
	check.Field("retry").Field("attempts").NotNegative(l.Retry.Attempts)
	if l.Retry.BudgetPercent > 100 {
		check.Field("retry").Field("budgetPercent").Errorf("%d is more than 100; a negative value means no limit", l.Retry.BudgetPercent)
	}
	check.Field("retry").Field("budgetPerSecond").NotNegative(l.Retry.BudgetPerSecond)
}
