package email

import (
	"time"

	"github.com/dcrouter/dcrouter/email/internal/warmup"
)

// SiteStats is about servers that mail goes to together.
type SiteStats struct {
	// Site names the servers.
	Site string `json:"site"`
	// Active are deliveries under way, Limit how many there may be, and Waiting
	// those that are due.
	Active  int `json:"active"`
	Limit   int `json:"limit"`
	Waiting int `json:"waiting"`
	// Rest is until when it is not tried, zero if it is, and Why says why.
	Rest time.Time `json:"rest,omitzero"`
	Why  string    `json:"why,omitempty"`
}

// SourceStats is about an address that mail goes out from.
type SourceStats struct {
	// Address is "" for what no pool is for: then the system chooses.
	Address string `json:"address"`
	// Pool is that of the address, HELO how it is introduced.
	Pool string `json:"pool"`
	HELO string `json:"helo"`
	// Day is the day of its warm-up, from 1 to Days; 0 if it is over, or Warm.
	Day  int  `json:"day"`
	Days int  `json:"days"`
	Warm bool `json:"warm"`
	// Limit is how many messages it may send today, 0 for no limit, Today how many
	// it has sent.
	Limit int `json:"limit"`
	Today int `json:"today"`
	// Traffic is that of the address to all providers.
	Traffic Traffic `json:"traffic"`
	// Providers has those that it has sent to.
	Providers map[string]SourceProviderStats `json:"providers"`
}

// SourceProviderStats is about an address and a provider.
type SourceProviderStats struct {
	// Day, Days, Limit and Today are as in [SourceStats].
	Day   int `json:"day"`
	Days  int `json:"days"`
	Limit int `json:"limit"`
	Today int `json:"today"`
	// Held says why the warm-up does not go on today, or is "".
	Held    string  `json:"held,omitempty"`
	Traffic Traffic `json:"traffic"`
}

// Traffic is what was sent lately, in recipients.
type Traffic struct {
	LastHour TrafficCounts `json:"lastHour"`
	LastDay  TrafficCounts `json:"lastDay"`
	// Score rates the last day: 100 is the best, 0 the worst.
	Score int `json:"score"`
}

// TrafficCounts counts recipients.
type TrafficCounts struct {
	Sent      int `json:"sent"`
	Delivered int `json:"delivered"`
	// Deferred were put off.
	Deferred int `json:"deferred"`
	// HardBounces are those that there are not, SoftBounces such as have no room,
	// Blocks those whose server does not want the mail or its sender.
	HardBounces int `json:"hardBounces"`
	SoftBounces int `json:"softBounces"`
	Blocks      int `json:"blocks"`
	// Complaints are those who called a message spam.
	Complaints int `json:"complaints"`
}

// QuotaStats is what was sent of what [OutboundLimits] allow; limits of 0 are
// none.
type QuotaStats struct {
	Hour      int `json:"hour"`
	HourLimit int `json:"hourLimit"`
	Day       int `json:"day"`
	DayLimit  int `json:"dayLimit"`
}

// addOutbound fills in what is known of mail going out.
func (st *Stats) addOutbound(r *run) {
	st.Deliveries.addSites(r.queue)
	st.Quotas = make(map[string]QuotaStats)
	for name, u := range r.quota.Stats() {
		st.Quotas[name] = QuotaStats{u.Hour, u.HourLimit, u.Day, u.DayLimit}
	}
	sources := r.sources.Stats()
	for _, a := range sources.Addresses {
		s := SourceStats{Address: a.Address, Pool: a.Pool, HELO: a.HELO, Day: a.Day, Days: a.Days, Warm: a.Warm, Limit: a.Limit, Today: a.Today,
			Traffic: traffic(&a.ProviderStats), Providers: make(map[string]SourceProviderStats)}
		for name, p := range a.Providers {
			s.Providers[name] = SourceProviderStats{p.Day, p.Days, p.Limit, p.Today, p.Held, traffic(&p.ProviderStats)}
		}
		st.Sources = append(st.Sources, s)
	}
	st.Providers = make(map[string]Traffic)
	for name, p := range sources.Providers {
		st.Providers[name] = traffic(&p)
	}
}

func traffic(p *warmup.ProviderStats) Traffic {
	return Traffic{LastHour: TrafficCounts(p.LastHour), LastDay: TrafficCounts(p.LastDay), Score: p.Score}
}

func (d *DeliveryStats) addSites(q *queue) {
	now := q.sites.Stats()
	d.Running, d.Waiting = now.Running, now.Waiting
	for _, site := range now.Sites {
		d.Sites = append(d.Sites, SiteStats{site.Name, site.Active, site.Limit, site.Waiting, site.Rest, site.Why})
	}
}
