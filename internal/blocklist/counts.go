package blocklist

import (
	"net/netip"
	"time"
)

// count is what an address has done. Times are Unix nanoseconds.
type count struct {
	since int64 // the first event that counts
	calm  int64 // the last event that counts once a second
	n     int32
}

func (c *count) isOver(now time.Time, within time.Duration) bool {
	return now.UnixNano()-c.since >= int64(within)
}

// Count notes an event of an address, and returns the block that it has led to, if
// it has. Of events that one mistake has come in crowds, such as being over a
// rate, one a second counts: calm says so.
func (s *Set) Count(addr netip.Addr, source, reason string, calm bool) (Block, bool) {
	if !addr.IsValid() || s.Allowed(addr) {
		return Block{}, false
	}
	key, now := wordsOf(addr).host(), s.now()
	shard := s.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if b := shard.blocks[key]; b != nil && b.Active(now) {
		return Block{}, false // what it does elsewhere adds nothing
	}
	c, known := shard.counts[key]
	if known && c.isOver(now, s.cfg.Within) {
		c = count{}
	}
	if !known && len(shard.counts) >= s.each {
		s.evictCount(shard, now)
	}
	if c.n == 0 {
		c.since = now.UnixNano()
	}
	if calm {
		if c.calm != 0 && now.UnixNano()-c.calm < int64(time.Second) {
			return Block{}, false
		}
		c.calm = now.UnixNano()
	}
	if c.n++; int(c.n) >= s.cfg.Events {
		return s.block(shard, key, addr, source, reason, now)
	}
	shard.counts[key] = c
	return Block{}, false
}

// evictCount drops the address that has done least, of some. So addresses that
// are used once push out each other, not the one that comes again and again.
func (s *Set) evictCount(shard *shard, now time.Time) {
	var victim uint64
	var least count
	looked := 0
	for key, c := range shard.counts {
		if c.isOver(now, s.cfg.Within) {
			victim = key
			break
		}
		if looked == 0 || c.n < least.n || c.n == least.n && c.since < least.since {
			victim, least = key, c
		}
		if looked++; looked >= sampled {
			break
		}
	}
	delete(shard.counts, victim)
}
