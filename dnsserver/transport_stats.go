package dnsserver

import (
	"runtime"
	"sync/atomic"
)

// Transports are the counters of the ways that queries come.
type Transports struct {
	UDP   TransportStats `json:"udp"`
	TCP   TransportStats `json:"tcp"`
	TLS   TransportStats `json:"tls"`
	HTTPS TransportStats `json:"https"`
	QUIC  TransportStats `json:"quic"`
}

// TransportStats are the counters of one way. They count from New on.
type TransportStats struct {
	// Queries is how many messages came.
	Queries uint64 `json:"queries"`
	// Responses is how many messages were sent back; a zone transfer is many.
	Responses uint64 `json:"responses"`
	// Dropped is how many queries got no response: what is no query, and what
	// could not be sent. Those that the system has dropped because the Server
	// did not keep up are not known to it.
	Dropped uint64 `json:"dropped"`
	// Limited is how many responses were held back by
	// [Config.ResponseRateLimit], and Slipped how many of them went out
	// truncated.
	Limited uint64 `json:"limited"`
	Slipped uint64 `json:"slipped"`
	// OpenConnections are those that are open now.
	OpenConnections int64 `json:"openConnections"`
	// Connections is how many were taken in.
	Connections uint64 `json:"connections"`
	// Refused is how many were not, by the limits or because no TLS came about.
	Refused uint64 `json:"refused"`
}

// counters are those of one transport and one shard, so that processors do not
// contend for them.
type counters struct {
	queries, responses, dropped, limited, slipped atomic.Uint64
	open                                          atomic.Int64
	connections, refused                          atomic.Uint64
	_                                             [64]byte // no two in one cache line
}

// transportCounters are those of all transports, by shard.
type transportCounters struct {
	shards [][overQUIC + 1]counters
	next   atomic.Uint64
}

func newTransportCounters() *transportCounters {
	return &transportCounters{shards: make([][overQUIC + 1]counters, min(runtime.GOMAXPROCS(0), 64))}
}

// shard gives out one after the other.
func (t *transportCounters) shard(of transport) *counters {
	return &t.shards[t.next.Add(1)%uint64(len(t.shards))][of]
}

func (t *transportCounters) snapshot() Transports {
	return Transports{UDP: t.sum(overUDP), TCP: t.sum(overTCP), TLS: t.sum(overTLS), HTTPS: t.sum(overHTTPS), QUIC: t.sum(overQUIC)}
}

func (t *transportCounters) sum(of transport) (s TransportStats) {
	for i := range t.shards {
		c := &t.shards[i][of]
		s.Queries += c.queries.Load()
		s.Responses += c.responses.Load()
		s.Dropped += c.dropped.Load()
		s.Limited += c.limited.Load()
		s.Slipped += c.slipped.Load()
		s.OpenConnections += c.open.Load()
		s.Connections += c.connections.Load()
		s.Refused += c.refused.Load()
	}
	return s
}
