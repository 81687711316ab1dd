package dnsserver

import "github.com/miekg/dns"

// Stats is a snapshot of a Server's counters. They count from New on, those of
// zones from Start on.
type Stats struct {
	// Transports are by the way that queries come.
	Transports Transports `json:"transports"`
	// Types counts questions by record type; "other" is those above 254.
	Types map[string]uint64 `json:"types"`
	// Rcodes counts responses by response code, as "NXDOMAIN".
	Rcodes map[string]uint64 `json:"rcodes"`
	// Zones are ordered by name.
	Zones []ZoneStats `json:"zones"`
}

// ZoneStats are the counters of one zone.
type ZoneStats struct {
	ZoneInfo
	// Queries is how many questions were for names in the zone.
	Queries uint64 `json:"queries"`
	// NameErrors, NoData and Referrals are those that were for a name that does
	// not exist, for a type that it does not have, and for a zone below.
	NameErrors uint64 `json:"nameErrors"`
	NoData     uint64 `json:"noData"`
	Referrals  uint64 `json:"referrals"`
	// Updates is how many versions of the zone there have been.
	Updates uint64 `json:"updates"`
	// Transfers is how often the zone was transferred to others.
	Transfers uint64 `json:"transfers"`
}

// Stats returns a snapshot of the counters.
func (s *Server) Stats() Stats {
	stats := Stats{Transports: s.counters.snapshot(), Types: make(map[string]uint64), Rcodes: make(map[string]uint64)}
	for i := range s.shards {
		shard := &s.shards[i]
		for t := range shard.types {
			if n := shard.types[t].Load(); n > 0 {
				name := "other"
				if t != otherType {
					name = dns.Type(t).String()
				}
				stats.Types[name] += n
			}
		}
		for code := range shard.rcodes {
			if n := shard.rcodes[code].Load(); n > 0 {
				stats.Rcodes[rcodeName(code)] += n
			}
		}
	}
	for _, z := range s.contents.sorted() {
		zs := ZoneStats{ZoneInfo: z.info()}
		if now := z.ref.current.Load(); now != nil {
			c := now.counters
			zs.Queries, zs.NameErrors, zs.NoData = c.queries.Load(), c.nameErrors.Load(), c.noData.Load()
			zs.Referrals, zs.Updates, zs.Transfers = c.referrals.Load(), c.updates.Load(), c.transfers.Load()
		}
		stats.Zones = append(stats.Zones, zs)
	}
	return stats
}

// rcodeName is rcodeText where 16 is not about TSIG.
func rcodeName(code int) string {
	if code == dns.RcodeBadVers {
		return "BADVERS"
	}
	return rcodeText(code)
}
