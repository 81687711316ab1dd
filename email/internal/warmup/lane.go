package warmup

import (
	"fmt"
	"time"
)

// A lane is an address at a provider, or at all of them together.
type lane struct {
	share float64
	// stage is the day of the schedule, as of when the lane was last used.
	stage int
	// today is the day that the fields below are of, used the last one on which
	// the lane was used at all.
	today, used day
	counts      Counts
	held        string // why the day does not count
	back        bool   // a step was taken back
	before      int    // tries on the last day of use before today

	hour, day recent // nil slots in the lane over all providers
}

func newLane(share float64, now time.Time) *lane {
	return &lane{
		share: share, today: dayOf(now), used: dayOf(now),
		hour: newRecent(time.Hour, 12), day: newRecent(24*time.Hour, 24),
	}
}

// turn brings the lane to a day. A clock that is set back gives nothing anew: by a
// little, around midnight, the lane stays on the later day; by more, what was
// counted moves with it.
func (l *lane) turn(to day, schedule []int) {
	switch {
	case to == l.today || to == l.today-1:
		return
	case to < l.today:
		l.today, l.used = to, min(l.used, to)
		return
	}
	if n := l.counts.Sent; n > 0 {
		if l.held == "" && l.stage < len(schedule) && float64(n) >= usedPart*float64(number(schedule, l.stage, l.share)) {
			l.stage++
		}
		l.before = n
	}
	l.today, l.counts, l.held, l.back = to, Counts{}, "", false
}

// standing is the day of the schedule where the lane stands today.
func (l *lane) standing() int { return cooled(l.stage, l.today-l.used-1) }

func (l *lane) number(schedule []int) int { return number(schedule, l.standing(), l.share) }

// room is how many more may be sent today.
func (l *lane) room(schedule []int) int {
	n := l.number(schedule)
	if n == unlimited {
		return unlimited
	}
	return max(0, n-l.counts.Sent)
}

func (l *lane) use(n int) {
	l.stage = l.standing()
	l.used = l.today
	l.counts.Sent += n
}

// minAnswers is how many answers of a day, minComplaints how many complaints say
// something.
const minAnswers, minComplaints = 20, 2

// judge holds the lane if today's counts are bad, and reports whether it has
// done anything.
func (l *lane) judge(h Hold, schedule []int) bool {
	level, why := h.level(l.counts)
	switch {
	case level >= 2 && !l.back:
		l.back = true
		l.stage = max(0, min(l.standing(), reached(schedule, l.share, max(l.before, l.counts.Sent)))-stepBack)
		l.used = l.today
	case level >= 1 && l.held == "":
	default:
		return false
	}
	l.held = why
	return true
}

// level is how bad the counts are, in multiples of what is too much, and what is
// the worst of it.
func (h Hold) level(c Counts) (level float64, why string) {
	if h.Off {
		return 0, ""
	}
	r := c.Rates()
	consider := func(part, limit float64, what string) {
		if part/limit > level {
			level, why = part/limit, fmt.Sprintf("%.1f%% %s", 100*part, what)
		}
	}
	if c.answers() >= minAnswers {
		consider(r.Bounces, h.Bounces, "bounces")
		consider(r.Blocks, h.Blocks, "blocks")
	}
	if c.Complaints >= minComplaints {
		consider(r.Complaints, h.Complaints, "complaints")
	}
	return level, why
}

// reached is the first day of the schedule that allows n: where a lane is by what
// it sends, however far it would be allowed to go.
func reached(schedule []int, share float64, n int) int {
	for stage := range schedule {
		if number(schedule, stage, share) >= n {
			return stage
		}
	}
	return len(schedule)
}
