package blocklist

import (
	"slices"
	"time"
)

// All lists the blocks that hold, those of the configuration first.
func (s *Set) All() []Block {
	now := s.now()
	list := append(s.fixed.list(now), s.networks.Load().list(now)...)
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.RLock()
		for _, b := range shard.blocks {
			if s.holds(b, now) {
				list = append(list, *b)
			}
		}
		shard.mu.RUnlock()
	}
	return slices.Clip(list)
}

// holds reports whether the block of a single address does.
func (s *Set) holds(b *Block, now time.Time) bool {
	return b.Active(now) && !s.Allowed(b.Prefix.Addr())
}

// Sweep forgets what is over. It is to be called now and then.
func (s *Set) Sweep() {
	now := s.now()
	over := func(b *Block) bool {
		end := b.Forget(s.cfg.MaxDuration)
		return !end.IsZero() && !now.Before(end)
	}
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.Lock()
		for key, b := range shard.blocks {
			if over(b) {
				delete(shard.blocks, key)
				s.held.Add(-1)
			}
		}
		for key, c := range shard.counts {
			if c.isOver(now, s.cfg.Within) {
				delete(shard.counts, key)
			}
		}
		shard.mu.Unlock()
	}
	_ = s.changeNetworks(func(n *networks) error { // it cannot fail
		n.removeIf(over)
		return nil
	})
}

// Memory is how long an address is remembered when its block is over.
func (s *Set) Memory() time.Duration { return s.cfg.MaxDuration }

// Stats are figures of a [Set].
type Stats struct {
	// Active are the blocks that hold now, those of the configuration included.
	Active int
	// Counted are the addresses with events that have not led to a block.
	Counted int
	// Made counts the blocks that events have led to.
	Made uint64
}

// Stats returns how much there is.
func (s *Set) Stats() Stats {
	now := s.now()
	st := Stats{Made: s.made.Load(), Active: len(s.fixed.byKey) + len(s.networks.Load().list(now))}
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.RLock()
		for _, b := range shard.blocks {
			if s.holds(b, now) {
				st.Active++
			}
		}
		st.Counted += len(shard.counts)
		shard.mu.RUnlock()
	}
	return st
}
