package proxy

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
