package warmup

import (
	"math"
	"time"
)

// A day is a number of days since 1970, in UTC. The zero day is none.
type day int64

func dayOf(t time.Time) day { return day(math.Floor(float64(t.Unix()) / 86400)) }

func (d day) begin() time.Time { return time.Unix(int64(d)*86400, 0).UTC() }

// parseDay reads a day as it is written in the configuration; "" is none.
func parseDay(s string) (day, error) {
	if s == "" {
		return 0, nil
	}
	t, err := time.Parse(time.DateOnly, s)
	return dayOf(t), err
}

// defaultSchedule is 50, and half as much again each day for 30 days, in two
// digits. The package comment says why.
func defaultSchedule() []int {
	return []int{
		50, 75, 110, 170, 250, 380, 570, 850, 1300, 1900,
		2900, 4300, 6500, 9700, 15_000, 22_000, 33_000, 49_000, 74_000, 110_000,
		170_000, 250_000, 370_000, 560_000, 840_000, 1_300_000, 1_900_000, 2_800_000, 4_300_000, 6_400_000,
	}
}

// unlimited is the number of a lane that is warm.
const unlimited = math.MaxInt

// number is how many messages a lane may send on a day of the schedule that
// began with day 0, with its share of what an address may.
func number(schedule []int, stage int, share float64) int {
	if stage >= len(schedule) {
		return unlimited
	}
	return max(1, int(math.Ceil(float64(schedule[stage])*share)))
}

const (
	// usedPart is what part of a day's number has to be sent for it to count.
	usedPart = 0.25
	// idleFree is how many days without mail do no harm, idleAll how many undo
	// all.
	idleFree, idleAll = 7, 30
	// stepBack is how many days of the schedule are lost by a lane in trouble.
	stepBack = 2
)

// cooled is the day of the schedule where a lane stands after idle days.
func cooled(stage int, idle day) int {
	switch {
	case idle >= idleAll:
		return 0
	case idle > idleFree:
		return max(0, stage-int(idle-idleFree))
	}
	return stage
}
