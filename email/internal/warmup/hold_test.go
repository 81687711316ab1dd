package warmup

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestHold(t *testing.T) {
	day := func(l LaneStats) int { return l.Day }
	for _, test := range []struct {
		name     string
		hold     Hold
		outcomes map[Outcome]int
		held     string
		back     bool
		tomorrow int // day of the schedule, after 8 on which all was sent
	}{
		{"clean", Hold{}, map[Outcome]int{Delivered: 100}, "", false, 9},
		{"some bounces", Hold{}, map[Outcome]int{Delivered: 97, HardBounce: 3}, "", false, 9},
		{"soft bounces", Hold{}, map[Outcome]int{Delivered: 50, SoftBounce: 50, Deferred: 500}, "", false, 9},
		{"bounces", Hold{}, map[Outcome]int{Delivered: 94, HardBounce: 6}, "6.0% bounces", false, 8},
		{"many bounces", Hold{}, map[Outcome]int{Delivered: 90, HardBounce: 10}, "10.0% bounces", true, 6},
		{"blocks", Hold{}, map[Outcome]int{Delivered: 90, Block: 10}, "10.0% blocks", false, 8},
		{"many blocks", Hold{}, map[Outcome]int{Delivered: 50, Block: 50}, "50.0% blocks", true, 6},
		{"few answers", Hold{}, map[Outcome]int{Delivered: 1, Block: 18}, "", false, 9},
		{"one complaint", Hold{}, map[Outcome]int{Delivered: 100, Complaint: 1}, "", false, 9},
		{"complaints", Hold{}, map[Outcome]int{Delivered: 800, Complaint: 2}, "0.2% complaints", false, 8},
		{"many complaints", Hold{}, map[Outcome]int{Delivered: 400, Complaint: 2}, "0.5% complaints", true, 6},
		{"off", Hold{Off: true}, map[Outcome]int{Delivered: 10, Block: 90, Complaint: 9}, "", false, 9},
		{"own numbers", Hold{Blocks: 0.5}, map[Outcome]int{Delivered: 60, Block: 40}, "", false, 9},
	} {
		c := newClock()
		var log bytes.Buffer
		s := onePool("", "192.0.2.1")
		s.Hold = test.hold
		p := open(t, Config{Settings: s, Now: c.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
		ip := addr("192.0.2.1")
		for i := range 8 {
			for {
				g, ok := p.Take(Request{Provider: Gmail, Recipients: 1 << 20})
				if !ok {
					break
				}
				if i < 7 {
					p.Report(ip, Gmail, Delivered, g.N)
				}
			}
			if i < 7 {
				c.Advance(days(1))
			}
		}
		for _, o := range []Outcome{Delivered, Deferred, SoftBounce, HardBounce, Block, Complaint} {
			p.Report(ip, Gmail, o, test.outcomes[o])
		}
		l := lane1(t, p, "192.0.2.1", Gmail)
		if l.Held != test.held || l.SteppedBack != test.back {
			t.Errorf("%s: held for %q, %v; want %q, %v", test.name, l.Held, l.SteppedBack, test.held, test.back)
		}
		if (test.held != "") != strings.Contains(log.String(), "held back") {
			t.Errorf("%s: the log says %q", test.name, &log)
		}
		if test.back && total(send(p, Gmail, 1000)) != 0 {
			t.Errorf("%s: more was sent on that day", test.name)
		}
		// Others are not touched, and the day after begins anew.
		if n := total(send(p, Outlook, 10)); n != 10 {
			t.Errorf("%s: %d to another provider", test.name, n)
		}
		c.Advance(days(1))
		if l := lane1(t, p, "192.0.2.1", Gmail); day(l) != test.tomorrow || l.Held != "" || l.SteppedBack {
			t.Errorf("%s: the next day %+v, not day %d", test.name, l, test.tomorrow)
		}
	}
}

// A lane that may send far more than it does goes back from what it sends.
func TestStepBackOfAGraduatedLane(t *testing.T) {
	c := newClock()
	s := onePool("", "192.0.2.1")
	s.Pools[0].Addresses[0].Since = "2026-01-01"
	p := open(t, Config{Settings: s, Now: c.Now})
	send(p, Gmail, 1000)
	c.Advance(days(1))
	send(p, Gmail, 100)
	p.Report(addr("192.0.2.1"), Gmail, Block, 30)
	l := lane1(t, p, "192.0.2.1", Gmail)
	if !l.SteppedBack || l.Limit != 650 { // two days before the first that has 1000
		t.Errorf("%+v", l)
	}
}

func TestStats(t *testing.T) {
	c := newClock()
	p := open(t, Config{Settings: onePool("", "192.0.2.1", "w192.0.2.2"), Now: c.Now})
	if s := p.Stats(); len(s.Addresses) != 2 || len(s.Providers) != 0 || s.Addresses[0].Score != 100 {
		t.Errorf("%+v", s)
	}
	send(p, Gmail, 100)
	p.Report(addr("192.0.2.2"), Yahoo, Delivered, 40)
	p.Report(addr("192.0.2.2"), Yahoo, HardBounce, 10)
	p.Report(netip.Addr{}, "unheard of", Complaint, 1)
	p.Report(addr("203.0.113.1"), Gmail, Complaint, 1) // not ours
	p.Report(addr("192.0.2.1"), Gmail, Outcome(99), 1)
	p.Report(addr("192.0.2.1"), Gmail, Complaint, -1)

	s := p.Stats()
	if len(s.Addresses) != 3 || s.Addresses[0].Address != "" {
		t.Fatalf("%+v", s.Addresses)
	}
	first, warm := s.Addresses[1], s.Addresses[2]
	if first.Day != 1 || first.Days != 30 || first.Limit != 50 || first.Today != 25 || first.LastHour.Delivered != 25 || first.Score != 100 {
		t.Errorf("%+v", first)
	}
	if warm.Day != 0 || warm.Limit != 0 || !warm.Warm || warm.LastDay.Delivered != 115 || warm.Providers[Yahoo].Rates.Bounces != 0.2 {
		t.Errorf("%+v", warm)
	}
	// 10 bounces of 100 answers, 50 of them added: all of the 30 points.
	if got := warm.Providers[Yahoo].Score; got != 70 {
		t.Errorf("a score of %d", got)
	}
	if g := s.Providers[Gmail]; g.LastDay.Sent != 100 || g.Score != 100 {
		t.Errorf("%+v", g)
	}
	if o := s.Providers[Other]; o.LastDay.Complaints != 1 || o.Rates.Complaints != 1 || o.Score != 60 {
		t.Errorf("%+v", o)
	}
	text, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(text), `"address":"192.0.2.2","pool":"main"`) || !strings.Contains(string(text), `"limit":50`) {
		t.Errorf("%s, %v", text, err)
	}

	c.Advance(61 * 60e9)
	if l := lane1(t, p, "192.0.2.1", Gmail); l.LastHour != (Counts{}) || l.LastDay.Delivered != 25 {
		t.Errorf("an hour later %+v", l)
	}
	c.Advance(days(1))
	if l := lane1(t, p, "192.0.2.1", Gmail); l.LastDay != (Counts{}) || l.Score != 100 {
		t.Errorf("a day later %+v", l)
	}
}

func TestScore(t *testing.T) {
	for _, test := range []struct {
		c    Counts
		want int
	}{
		{Counts{}, 100},
		{Counts{Delivered: 1000}, 100},
		{Counts{Delivered: 5}, 100},
		{Counts{HardBounces: 1}, 94},
		{Counts{Delivered: 850, HardBounces: 100}, 70},
		{Counts{Delivered: 850, Blocks: 100}, 85},
		{Counts{Delivered: 950, Complaints: 2}, 73},
		{Counts{Blocks: 1000}, 70},
		{Counts{HardBounces: 500, Blocks: 500, Complaints: 10}, 0},
		{Counts{Delivered: 500, Deferred: 10_000, SoftBounces: 100}, 100},
	} {
		if got := test.c.Score(); got != test.want {
			t.Errorf("%+v: %d, not %d", test.c, got, test.want)
		}
	}
}
