// Package blocklist holds addresses that are refused for a while, and counts who
// is about to be.
//
// An address stands for whoever has it: one of IPv4 for itself, one of IPv6 for
// the /64 around it, since whoever has one has them all. To look one up takes no
// allocation and, where nothing is blocked, next to no time. Everything is
// bounded: a flood of forged sources pushes out those who have done least.
package blocklist

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Errors of [Set.Put] and [Set.Lift].
var (
	ErrAllowed    = errors.New("it is among the addresses that are never blocked")
	ErrTooWide    = errors.New("the network is too large: /8 is the widest of IPv4, /16 of IPv6")
	ErrFull       = errors.New("there are as many blocks as can be kept")
	ErrConfigured = errors.New("it is blocked by the configuration")
	ErrNotBlocked = errors.New("it is not blocked")
)

// Config of a [Set].
type Config struct {
	// Block are always blocked, but for what [Set.SetAllowed] excepts.
	Block []netip.Prefix
	// Events within this time, from the first on, block their address.
	Events int
	Within time.Duration
	// Duration is how long the first time. Each time more takes twice as long as
	// the one before, at most MaxDuration, which is also how long an address is
	// remembered when its block is over.
	Duration, MaxDuration time.Duration
	// Size is how many blocks, and how many addresses with events, are kept.
	// Default 100,000.
	Size int
	// Evicted is told of each block that has made room for another, while the Set
	// is locked. Nil is nobody.
	Evicted func(netip.Prefix)
	// Now tells the time. Default [time.Now].
	Now func() time.Time
}

// Block is an address or network that is refused.
type Block struct {
	Prefix netip.Prefix
	// Source is who has blocked it, Reason why.
	Source, Reason string
	// Since is when it began. Until is when it ends, zero for never.
	Since, Until time.Time
	// Times counts the blocks of this address, as far as they are remembered. It
	// is 0 for those that a person has made, which no flood pushes out.
	Times int
}

// Active reports whether the block holds.
func (b *Block) Active(now time.Time) bool { return b.Until.IsZero() || now.Before(b.Until) }

// Forget returns when the block need not be remembered any longer; zero is never.
func (b *Block) Forget(memory time.Duration) time.Time {
	if b.Until.IsZero() || b.Times == 0 {
		return b.Until
	}
	return b.Until.Add(memory)
}

const (
	shardCount  = 256
	defaultSize = 100_000
	// maxNetworks bounds the blocks of networks, which are copied at each change.
	maxNetworks = 1000
	// sampled is how many are looked at to find one that can go.
	sampled = 8
)

// Set is the blocks and the counts. Its methods may be called from several
// goroutines.
type Set struct {
	cfg    Config
	now    func() time.Time
	fixed  *networks // the configuration's
	allow  atomic.Pointer[networks]
	odd    uint64 // spreads addresses over shards in a way that nobody knows
	each   int    // most of a shard
	shards [shardCount]shard
	held   atomic.Int64 // blocks in shards

	changing sync.Mutex // held while networks change
	networks atomic.Pointer[networks]
	made     atomic.Uint64
}

// shard is a part of the single addresses.
type shard struct {
	mu     sync.RWMutex
	blocks map[uint64]*Block // not changed once they are here
	counts map[uint64]count
}

// New makes a Set.
func New(cfg Config) *Set {
	s := &Set{cfg: cfg, now: cfg.Now, fixed: newNetworks(), odd: rand.Uint64() | 1}
	if s.now == nil {
		s.now = time.Now
	}
	if s.cfg.Size == 0 {
		s.cfg.Size = defaultSize
	}
	s.each = max(1, s.cfg.Size/shardCount)
	for _, p := range cfg.Block {
		s.fixed.add(&Block{Prefix: p, Source: "configuration", Reason: "on the configuration's list"})
	}
	s.SetAllowed(nil)
	s.networks.Store(newNetworks())
	for i := range s.shards {
		s.shards[i].blocks, s.shards[i].counts = map[uint64]*Block{}, map[uint64]count{}
	}
	return s
}

// Around returns what is blocked with an address.
func Around(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // the zero Prefix of the zero Addr
	return p
}

// Parse reads what people write: an address, which stands for what Around says,
// or a network.
func Parse(text string) (netip.Prefix, error) {
	p, ok := conf.ParseCIDR(text)
	switch {
	case !ok:
		return p, errors.New("it is no address or network")
	case !strings.Contains(text, "/"):
		p = Around(p.Addr())
	}
	return p, nil
}

// isHost reports whether p is what Around returns.
func isHost(p netip.Prefix) bool { return p == Around(p.Addr()) }

func (s *Set) shard(key uint64) *shard { return &s.shards[key*s.odd>>56] }

// Blocked reports whether an address is refused.
func (s *Set) Blocked(addr netip.Addr) bool { return s.find(addr) != nil }

// Find returns the block that an address is refused by.
func (s *Set) Find(addr netip.Addr) (Block, bool) {
	if b := s.find(addr); b != nil {
		return *b, true
	}
	return Block{}, false
}

func (s *Set) find(addr netip.Addr) *Block {
	nets := s.networks.Load()
	if s.held.Load() == 0 && nets.empty() && s.fixed.empty() || !addr.IsValid() {
		return nil
	}
	w := wordsOf(addr)
	b := s.fixed.find(w, time.Time{})
	if b == nil {
		key := w.host()
		shard := s.shard(key)
		shard.mu.RLock()
		b = shard.blocks[key]
		shard.mu.RUnlock()
		if b != nil || !nets.empty() {
			// To ask for the time takes longer than all the rest.
			now := s.now()
			if b == nil || !b.Active(now) {
				b = nets.find(w, now)
			}
		}
	}
	if b == nil || s.allow.Load().find(w, time.Time{}) != nil {
		return nil
	}
	return b
}

// Allowed reports whether an address is never refused.
func (s *Set) Allowed(addr netip.Addr) bool {
	return s.allow.Load().find(wordsOf(addr), time.Time{}) != nil
}

// SetAllowed replaces the addresses that are never blocked. Blocks of new ones do not
// hold as long as these are among them.
func (s *Set) SetAllowed(list []netip.Prefix) {
	allow := newNetworks()
	for _, p := range list {
		allow.add(&Block{Prefix: p})
	}
	s.allow.Store(allow)
}

// Block blocks an address as if it had had all its events. It reports false if it
// is blocked already, or never.
func (s *Set) Block(addr netip.Addr, source, reason string) (Block, bool) {
	if !addr.IsValid() || s.Allowed(addr) {
		return Block{}, false
	}
	key := wordsOf(addr).host()
	shard := s.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return s.block(shard, key, addr, source, reason, s.now())
}

// block is Block with the shard locked.
func (s *Set) block(shard *shard, key uint64, addr netip.Addr, source, reason string, now time.Time) (Block, bool) {
	old, times := shard.blocks[key], 1
	if old != nil {
		if old.Active(now) {
			return Block{}, false
		}
		times = old.Times + 1
	}
	duration := s.cfg.Duration
	for range times - 1 {
		if duration *= 2; duration >= s.cfg.MaxDuration {
			break
		}
	}
	b := &Block{Prefix: Around(addr), Source: source, Reason: reason, Since: now, Until: now.Add(min(duration, s.cfg.MaxDuration)), Times: times}
	if !s.keep(shard, key, b, now) {
		return Block{}, false
	}
	delete(shard.counts, key)
	s.made.Add(1)
	return *b, true
}

// keep enters a block into its shard, in place of another if that is full.
func (s *Set) keep(shard *shard, key uint64, b *Block, now time.Time) bool {
	if _, known := shard.blocks[key]; !known {
		if len(shard.blocks) >= s.each && !s.evictBlock(shard, now) {
			return false
		}
		s.held.Add(1)
	}
	shard.blocks[key] = b
	return true
}

// evictBlock drops the block that ends first, of some.
func (s *Set) evictBlock(shard *shard, now time.Time) bool {
	var victim uint64
	var first time.Time
	looked := 0
	for key, b := range shard.blocks {
		if b.Times > 0 && (first.IsZero() || b.Until.Before(first)) {
			victim, first = key, b.Until
		}
		if looked++; looked >= sampled && !first.IsZero() {
			break
		}
	}
	if first.IsZero() {
		return false // all of them are people's
	}
	evicted := shard.blocks[victim].Prefix
	delete(shard.blocks, victim)
	s.held.Add(-1)
	if s.cfg.Evicted != nil {
		s.cfg.Evicted(evicted)
	}
	return true
}

// Put enters a block that a person has made, or that was kept somewhere. It takes
// the place of another of the same prefix.
func (s *Set) Put(b Block) error {
	p := b.Prefix
	switch widest := 8; {
	case !p.IsValid():
		return errors.New("it is no address or network")
	case p.Addr().Is6() && p.Bits() < 2*widest, p.Addr().Is4() && p.Bits() < widest:
		return ErrTooWide
	case s.allow.Load().covers(p):
		return ErrAllowed
	}
	now := s.now()
	if !isHost(p) {
		return s.changeNetworks(func(n *networks) error {
			if n.add(&b); len(n.byKey) > maxNetworks {
				return ErrFull
			}
			return nil
		})
	}
	key := wordsOf(p.Addr()).host()
	shard := s.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if !s.keep(shard, key, &b, now) {
		return ErrFull
	}
	delete(shard.counts, key)
	return nil
}

// Lift ends the block of a prefix, and forgets that there was one.
func (s *Set) Lift(p netip.Prefix) error {
	err := ErrNotBlocked
	if s.fixed.get(p) != nil {
		err = ErrConfigured
	}
	if !isHost(p) {
		return s.changeNetworks(func(n *networks) error {
			if !n.remove(p) {
				return err
			}
			return nil
		})
	}
	key := wordsOf(p.Addr()).host()
	shard := s.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	delete(shard.counts, key)
	old := shard.blocks[key]
	if old == nil {
		return err
	}
	delete(shard.blocks, key)
	s.held.Add(-1)
	if !old.Active(s.now()) {
		return err
	}
	return nil
}

// Holds reports whether there is a block of p itself, which may be over.
func (s *Set) Holds(p netip.Prefix) bool {
	if !isHost(p) {
		return s.networks.Load().get(p) != nil
	}
	key := wordsOf(p.Addr()).host()
	shard := s.shard(key)
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	return shard.blocks[key] != nil
}

// changeNetworks replaces the networks by a copy with a change, unless that fails.
func (s *Set) changeNetworks(change func(*networks) error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	next := s.networks.Load().clone()
	if err := change(next); err != nil {
		return err
	}
	s.networks.Store(next)
	return nil
}
