package greylist

import (
	"container/list"
	"crypto/sha256"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/upkeep"
	"github.com/dcrouter/dcrouter/storage"
)

// Config of a [List]. In each field but Store and Log, 0 means the default.
type Config struct {
	// Delay is how long a new delivery is put off; default 5m.
	Delay time.Duration
	// Window is how long after its first attempt a delivery must have been
	// tried again, or it counts as new; default 48h, as some servers wait that
	// long (RFC 5321 section 4.5.4.1).
	Window time.Duration
	// Keep is how long what came through is known without being seen again;
	// default 36 days, more than a month, for monthly letters.
	Keep time.Duration
	// AutoAllow is how many deliveries must have come through from a network
	// for it to be let through at once; default 5. Negative means never.
	AutoAllow int
	// MaxEntries bounds the deliveries and networks that are held, at some 200
	// bytes each; default 100,000. Beyond it, those that wait and were seen
	// longest ago are forgotten first.
	MaxEntries int
	// MaxWaiting bounds the deliveries that wait for one network; default 1,000.
	// Beyond it, the network's oldest are forgotten. For an IPv6 /48, which one
	// customer may have, it is a tenth of MaxEntries.
	MaxWaiting int
	// Store keeps the list. Nil means that it is forgotten with the List.
	Store *storage.Store
	// SaveEvery is how often changes are stored; default 1m. A crash loses what
	// came since, and some mail is put off once more.
	SaveEvery time.Duration
	// Log is told when storing fails. Nil means nobody.
	Log *slog.Logger
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	def(&c.Delay, 5*time.Minute)
	def(&c.Window, 48*time.Hour)
	def(&c.Keep, 36*24*time.Hour)
	def(&c.SaveEvery, time.Minute)
	if c.AutoAllow == 0 {
		c.AutoAllow = 5
	}
	if c.MaxEntries <= 0 {
		c.MaxEntries = 100_000
	}
	if c.MaxWaiting <= 0 {
		c.MaxWaiting = 1_000
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// List knows who has tried to deliver what. Make one with [Open]. It is safe for
// concurrent use.
type List struct {
	cfg Config

	mu sync.Mutex
	// entries has deliveries and networks alike; their keys never meet.
	entries map[key]*entry
	// waiting has the deliveries that have not come through, by the time when
	// they were first seen, and known the rest by the time when they were last.
	waiting, known list.List // of *entry
	// perNet counts the waiting ones of a network, and of an IPv6 /48.
	perNet map[key]*list.List // of *entry
	dirty  [shards]bool

	upkeep *upkeep.Upkeep // nil without a Store
}

// key is a hash: as long whatever strangers send.
type key [16]byte

// entry is a delivery, or a network.
type entry struct {
	key    key
	net    key // a delivery's network; zero for a network, and for what was loaded
	wide   key // an IPv6 delivery's /48; zero for others, and for what was loaded
	first  time.Time
	last   time.Time
	passes uint32 // how often it came through; of a network, how many deliveries did

	order   *list.Element // in waiting or known
	inOrder *list.List
	ofNet   *list.Element // in perNet, as ofWide
	ofWide  *list.Element
}

// Decision is what to do with a recipient.
type Decision struct {
	// Pass lets it through.
	Pass bool
	// RetryAfter is when it would be, if it is not.
	RetryAfter time.Duration
	// Reason is "new", "early", "retried", "known" or "network", for the log.
	Reason string
}

// Check decides about one recipient of one message, from the client at addr. The
// null sender is "".
func (l *List) Check(addr netip.Addr, sender, recipient string) Decision {
	network := networkKey(addr)
	delivery := deliveryKey(network, sender, recipient)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Now()
	l.expire(now)

	if n := l.entries[network]; n != nil && l.cfg.AutoAllow > 0 && int(n.passes) >= l.cfg.AutoAllow {
		l.seen(n, now)
		return Decision{Pass: true, Reason: "network"}
	}
	e := l.entries[delivery]
	switch {
	case e == nil:
		l.add(&entry{key: delivery, net: network, wide: wideKey(addr), first: now, last: now})
		return Decision{RetryAfter: l.cfg.Delay, Reason: "new"}
	case e.passes > 0:
		e.passes++
		l.seen(e, now)
		return Decision{Pass: true, Reason: "known"}
	case now.Sub(e.first) < l.cfg.Delay:
		return Decision{RetryAfter: l.cfg.Delay - now.Sub(e.first), Reason: "early"}
	}
	l.passed(e, network, now)
	return Decision{Pass: true, Reason: "retried"}
}

// Len returns how many deliveries and networks are held.
func (l *List) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// passed moves a delivery from those that wait to those that are known.
func (l *List) passed(e *entry, network key, now time.Time) {
	l.remove(e)
	e.passes = 1
	e.last = now
	l.add(e)
	n := l.entries[network]
	if n == nil {
		n = &entry{key: network, first: now, last: now, passes: 1}
		l.add(n)
		return
	}
	n.passes++
	l.seen(n, now)
}

// seen notes that what is known is still in use.
func (l *List) seen(e *entry, now time.Time) {
	e.last = now
	l.known.MoveToBack(e.order)
	l.touch(e.key)
}

// add enters e, and makes room for it first.
func (l *List) add(e *entry) {
	if e.passes == 0 {
		l.makeRoom(e.net, l.cfg.MaxWaiting)
		if e.wide != (key{}) {
			l.makeRoom(e.wide, max(1, l.cfg.MaxEntries/10))
		}
	}
	if len(l.entries) >= l.cfg.MaxEntries {
		if oldest := l.waiting.Front(); oldest != nil {
			l.remove(oldest.Value.(*entry))
		} else if oldest := l.known.Front(); oldest != nil {
			l.remove(oldest.Value.(*entry))
		}
	}
	l.entries[e.key] = e
	e.inOrder = &l.known
	if e.passes == 0 {
		e.inOrder = &l.waiting
		e.ofNet = l.count(e.net, e)
		if e.wide != (key{}) {
			e.ofWide = l.count(e.wide, e)
		}
	}
	e.order = e.inOrder.PushBack(e)
	l.touch(e.key)
}

// makeRoom forgets a network's oldest if as many as may be wait.
func (l *List) makeRoom(net key, most int) {
	if of := l.perNet[net]; of != nil && of.Len() >= most {
		l.remove(of.Front().Value.(*entry))
	}
}

func (l *List) count(net key, e *entry) *list.Element {
	of := l.perNet[net]
	if of == nil {
		of = list.New()
		l.perNet[net] = of
	}
	return of.PushBack(e)
}

func (l *List) uncount(net key, el *list.Element) {
	if el == nil {
		return
	}
	of := l.perNet[net]
	if of.Remove(el); of.Len() == 0 {
		delete(l.perNet, net)
	}
}

func (l *List) remove(e *entry) {
	delete(l.entries, e.key)
	e.inOrder.Remove(e.order)
	l.uncount(e.net, e.ofNet)
	l.uncount(e.wide, e.ofWide)
	e.ofNet, e.ofWide = nil, nil
	l.touch(e.key)
}

// expire forgets what is too old.
func (l *List) expire(now time.Time) {
	for front := l.waiting.Front(); front != nil && now.Sub(front.Value.(*entry).first) >= l.cfg.Window; front = l.waiting.Front() {
		l.remove(front.Value.(*entry))
	}
	for front := l.known.Front(); front != nil && now.Sub(front.Value.(*entry).last) >= l.cfg.Keep; front = l.known.Front() {
		l.remove(front.Value.(*entry))
	}
}

// networkKey stands for the /24 or /64 of a client: large senders try again from
// another address (RFC 6647 section 5).
func networkKey(addr netip.Addr) key {
	addr = addr.Unmap().WithZone("")
	bits := 24
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // the zero Addr gives the zero Prefix
	return hash("network", p.String())
}

// wideKey stands for the /48 of an IPv6 client; it is zero for others.
func wideKey(addr netip.Addr) key {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return key{}
	}
	p, _ := addr.Prefix(48)
	return hash("network", p.String())
}

// deliveryKey stands for a delivery. Senders that are new for each message, as
// those of mailing lists, are reduced to what they have in common.
func deliveryKey(network key, sender, recipient string) key {
	return hash("delivery", string(network[:]), stableSender(sender), strings.ToLower(recipient))
}

// stableSender drops what follows a "+" in the local part and makes digits equal.
func stableSender(sender string) string {
	local, domain := sender, ""
	if at := strings.LastIndexByte(sender, '@'); at >= 0 {
		local, domain = sender[:at], sender[at:]
	}
	if plus := strings.IndexByte(local, '+'); plus > 0 {
		local = local[:plus]
	}
	var b strings.Builder
	for i := 0; i < len(local); i++ {
		if c := local[i]; c < '0' || c > '9' {
			b.WriteByte(c)
		} else if i == 0 || local[i-1] < '0' || local[i-1] > '9' {
			b.WriteByte('#')
		}
	}
	return strings.ToLower(b.String() + domain)
}

func hash(parts ...string) key {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0}) // no address has one
	}
	return key(h.Sum(nil))
}
