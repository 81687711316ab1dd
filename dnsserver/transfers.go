package dnsserver

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// transfers is all that goes on between this server and others that serve the
// same zones: keys, transfers, notifications, updates, copies, and the looking
// up of what ALIAS records stand for. It owns the goroutines for that, between
// start and stop.
type transfers struct {
	zones *zones
	log   *slog.Logger
	logLimit
	now     func() time.Time
	changed func(zone string) // what [WithZoneChanged] has set, or nil

	slots    chan struct{} // of transfers to others
	inward   *turns        // of transfers from others
	telling  *turns        // of notifications
	updates  updateLog
	aliases  aliases
	catalogs catalogs

	maxCopy                int           // octets of a zone from others
	minRefresh, firstRetry time.Duration // tests have no patience

	mu      sync.Mutex
	running context.Context // nil: not running
	cancel  context.CancelFunc
	work    sync.WaitGroup
}

const (
	maxTransfersIn = 16
	maxInPerPeer   = 4
	maxTelling     = 128
	maxTellPerPeer = 16
)

// newTransfers is about the zones, of which it reads the keys when they are
// loaded, and makes itself known to them.
func newTransfers(zs *zones) *transfers {
	t := &transfers{
		zones: zs, log: zs.logger(), now: zs.now,
		slots: make(chan struct{}, maxTransfersOut), inward: newTurns(maxTransfersIn, maxInPerPeer), telling: newTurns(maxTelling, maxTellPerPeer),
		catalogs: catalogs{wake: make(chan struct{}, 1)},
		aliases:  aliases{resolver: newStubResolver(nil), wake: make(chan struct{}, 1), slots: make(chan struct{}, maxLookups), retry: aliasRetry},
		maxCopy:  maxCopySize, minRefresh: minRefresh, firstRetry: firstRetry,
	}
	zs.published = t.published
	zs.responder.transfers = t
	return t
}

// start begins to work in the background, once the zones are loaded.
func (t *transfers) start() {
	t.mu.Lock()
	t.running, t.cancel = context.WithCancel(context.Background())
	t.mu.Unlock()
	t.aliases.forget() // a change after stop may have left some of zones that are gone
	for _, z := range t.zones.sorted() {
		t.begin(z)
	}
	t.goes(t.followAliases)
	t.goes(t.followCatalogs)
}

// stop ends that, and returns when all is over.
func (t *transfers) stop() {
	t.mu.Lock()
	if t.running != nil {
		t.cancel()
		t.running = nil
	}
	t.aliases.forget()
	t.mu.Unlock()
	t.work.Wait()
}

// goes runs f in a goroutine until stop, and reports false if that has been.
func (t *transfers) goes(f func(ctx context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running == nil {
		return false
	}
	ctx := t.running
	t.work.Go(func() { f(ctx) })
	return true
}

// begin does what a zone that is new here needs.
func (t *transfers) begin(z *servedZone) {
	if z.copy != nil {
		t.goes(func(ctx context.Context) { t.follow(ctx, z) })
	}
	if z.ref.current.Load() != nil {
		t.published(z, nil)
	}
}

// logger returns where to log.
func (zs *zones) logger() *slog.Logger {
	if zs.log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return zs.log
}

// published is told of each new version of a zone.
func (t *transfers) published(z *servedZone, d *delta) {
	t.notify(z)
	if z.copy == nil {
		t.aliases.look(z, d)
	}
	if z.catalog != nil {
		t.catalogs.look(z)
	}
	if t.changed != nil {
		t.changed(nameText(z.name))
	}
}

// key returns a key by wire name, or nil.
func (t *transfers) key(name string) *tsigKey {
	if t == nil {
		return nil
	}
	return t.zones.keys[name]
}

var errBusy = errors.New("too many transfers are under way")

// takeSlot waits for the turn of a transfer to another server.
func (t *transfers) takeSlot(ctx context.Context) error {
	select {
	case t.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(transferWait)
	defer timer.Stop()
	select {
	case t.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *transfers) giveSlot() { <-t.slots }

// sleep waits, and reports false if ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// zonePeers is what a zone has to do with other servers.
type zonePeers struct {
	transfer access
	notify   []*peer
	rules    []updateRule
}

// peer is another server.
type peer struct {
	addr string // with port
	ip   string
	key  *tsigKey // nil: none

	mu     sync.Mutex
	due    bool // there is something to tell
	active bool // somebody is telling
}

// newPeers reads a list that has been checked.
func newPeers(list []Peer, keys keyring) []*peer {
	var peers []*peer
	for _, p := range list {
		if ap, ok := parseAddr(p.Addr); ok {
			peers = append(peers, &peer{addr: ap.String(), ip: ap.Addr().String(), key: keys.named(p.Key)})
		}
	}
	return peers
}

// setPeers reads the part of a zone's configuration that is about others.
func (z *servedZone) setPeers(cfg *Zone) {
	keys := z.all.keys
	z.peers = zonePeers{
		transfer: newAccess(cfg.AllowTransfer),
		notify:   newPeers(cfg.Notify, keys),
		rules:    newRules(cfg.AllowUpdate, z.name, keys),
	}
	if len(cfg.Primaries) > 0 {
		z.copy = newZoneCopy(z, newPeers(cfg.Primaries, keys))
		if cfg.Catalog != nil {
			z.catalog = &catalogConfig{*cfg.Catalog, cfg.Primaries}
		}
	}
}
