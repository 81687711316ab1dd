// Package quota counts messages by key and says when the next may go: so many in
// an hour, so many in a day.
//
//	q, err := quota.Open(ctx, quota.Config{Store: store, Limits: map[string]quota.Limits{
//		"":            {Hour: 1000},            // the server
//		"example.com": {Hour: 200, Day: 1000},  // a domain
//	}})
//	next, ok := q.Take(1, "", "example.com")
//
// # Windows
//
// A limit holds in every hour and every day, wherever they begin. Fixed windows
// would let through twice the limit around their boundary, and then everybody who
// waits at the same moment. The usual remedy, two counters and the assumption that
// what came was spread evenly, is off by up to half when it was not, and mail is
// sent in bursts. So an hour is counted in minutes and a day in quarters of an
// hour: exact, but for a wait that is longer by up to a minute or a quarter of an
// hour, at less than a kilobyte for a key.
//
// # What outlasts a crash
//
// Counts are stored every few seconds, in parts, and by Close. A crash forgets
// what was taken since, and nothing else.
package quota
