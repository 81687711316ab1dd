package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// signer signs a zone, and takes care of its keys.
type signer struct {
	zone   string // wire name
	config DNSSEC
	store  *storage.Store // nil: the keys are lost in the end
	folder string         // of the keys in storage
	now    func() time.Time
	log    *slog.Logger
	online *onlineSigner
	// parentDS returns the data of the DS records that the zone above has now.
	// If it is nil somebody has to say when they have changed.
	parentDS func(ctx context.Context, zone string) ([]string, error)

	mu        sync.Mutex
	keys      *keySet // nil: not loaded
	maxTTL    uint32  // of what has been signed, in seconds
	pass      pass
	nextCheck time.Time // of the zone above
	notBefore time.Time // maintain is not due before
	looked    time.Time // by maintain
}

func newSigner(zone string, config DNSSEC, store *storage.Store, now func() time.Time, log *slog.Logger) *signer {
	config = config.filled()
	s := &signer{
		zone: zone, config: config, store: store, folder: "dns/keys/" + zoneFolder(zone), now: now,
		log: log.With("zone", nameText(zone)),
	}
	s.online = newOnlineSigner(&s.config, now)
	return s
}

// lookahead is how much earlier than it must be a signature is replaced, so
// that several are at once.
func (c *DNSSEC) lookahead() time.Duration {
	return min(time.Hour, (c.SignatureValidity-c.Refresh)/8)
}

// goodUntil is until when signatures must be good to be left alone.
func (c *DNSSEC) goodUntil(now time.Time) uint32 {
	return uint32(now.Add(c.Refresh + c.lookahead()).Unix())
}

// sign is called with each new version of the zone before it is published, when
// all other changes and the serial number are in it. It adds, replaces and
// removes signatures and the records that belong to signing, so that the result
// is complete, but touches only what has to be touched: the nodes in e.touched,
// and what maintain has found. A version whose e.old is not signed in the same
// way is signed as a whole.
func (s *signer) sign(e *zoneEdit, now time.Time) error {
	s.mu.Lock()
	ks, todo, hashed := s.keys, s.pass.todo, s.pass.hashed
	s.pass.todo, s.pass.hashed = nil, nil
	s.mu.Unlock()
	if ks == nil {
		return errors.New("its keys have not been read")
	}
	if s.config.Denial == denialNSEC3 && hashLabel+1+len(s.zone) > maxName {
		return errors.New("its name is too long for NSEC3")
	}
	for _, set := range ks.published(e.name) {
		e.replaceTop(set)
	}
	if s.config.Denial == denialNSEC3 {
		e.replaceTop(newSet(dns.TypeNSEC3PARAM, 0, []string{nsec3Head}))
	} else {
		e.replaceTop(rrset{rtype: dns.TypeNSEC3PARAM})
	}
	p := &signing{
		zoneEdit: e, config: &s.config, keys: ks, now: now, until: s.config.goodUntil(now),
		work: make(map[string]bool), negTTL: e.negativeTTL(),
	}
	whole := e.old == nil || denialOf(e.old.denial) != s.config.Denial || e.old.negativeTTL() != p.negTTL
	for _, key := range todo {
		p.add(key)
	}
	if err := s.run(p, whole, hashed); err != nil {
		return err
	}
	s.mu.Lock()
	s.maxTTL = max(s.maxTTL, p.maxTTL)
	s.mu.Unlock()
	return nil
}

func (s *signer) run(p *signing, whole bool, hashed []string) error {
	began := s.now()
	if whole && p.nodes.size > reportFrom {
		s.log.Info("signing the whole zone", "names", p.nodes.size)
		last := began
		p.progress = func(done, all int) {
			if now := s.now(); now.Sub(last) >= reportEvery {
				last = now
				s.log.Info("signing the whole zone", "done", done, "of", all)
			}
		}
	}
	var own []*node
	var err error
	chain := s.config.Denial == denialNSEC
	if whole {
		own, err = p.all(chain)
	} else {
		p.collect()
		err = p.some(chain)
	}
	if err != nil {
		return err
	}
	var old denial
	if p.old != nil {
		old = p.old.denial
	}
	p.hashed = make(map[string]bool)
	if chain := hashedNames(old); chain != nil && whole {
		for n := range chain.from("") { // what is not there any more has changed too
			p.hashed[n.key] = true
		}
	}
	switch s.config.Denial {
	case denialNSEC:
		p.denial = nsecDenial{}
	case denialNSEC3:
		var d *nsec3Denial
		if d, err = p.chainNSEC3(hashedNames(old), own, hashed); err != nil {
			return err
		}
		p.denial = d
	case denialCompact:
		p.denial = &compactDenial{keys: p.keys.zsks, negTTL: p.negTTL, online: s.online}
	}
	if p.progress != nil {
		s.log.Info("signed the whole zone", "names", p.nodes.size, "took", s.now().Sub(began).Round(time.Millisecond))
	}
	return nil
}

const (
	reportFrom  = 20_000 // names
	reportEvery = 5 * time.Second
)

// denialOf returns the setting that leads to a way of proving.
func denialOf(d denial) string {
	switch d.(type) {
	case nsecDenial:
		return denialNSEC
	case *nsec3Denial:
		return denialNSEC3
	case *compactDenial:
		return denialCompact
	}
	return ""
}

// replaceTop is replace for a set at the top of the zone, if it is not there
// already.
func (e *zoneEdit) replaceTop(set rrset) {
	old := e.top.set(set.rtype)
	if old == nil && set.count == 0 || old != nil && old.wire == set.wire {
		return
	}
	e.replace("", set)
}

// pass is a look at all signatures of the served zone: which have to be
// replaced, and by when the next has.
type pass struct {
	keys   *keySet   // that it is made for
	at     time.Time // when it goes on
	next   string    // key of the node to go on at
	chain  bool      // it is at the NSEC3 chain
	found  int       // sets with signatures to replace
	oldest uint32    // the first end of another signature
	any    bool      // oldest has been set
	// foreign is set when a signature was found that is not by the keys.
	foreign bool

	todo   []string // keys of nodes, for sign
	hashed []string // keys of nodes of the NSEC3 chain

	begun     time.Time // zero between passes
	clean     *keySet   // all signatures were found to be by these keys
	cleanFrom time.Time // by a pass that began then
}

const (
	passNodes = 20_000                 // looked at in one go
	passSigs  = 1000                   // made in one go, about 50 ms of work
	passGap   = 100 * time.Millisecond // until it goes on
)

// look goes on with the pass, if it is time. It reports whether there is
// something to sign.
func (s *signer) look(z *zone, now time.Time) bool {
	p := &s.pass
	if p.keys != s.keys {
		*p = pass{keys: s.keys, at: now}
	}
	if now.Before(p.at) {
		return false
	}
	if p.begun.IsZero() {
		p.begun = now
	}
	until := s.config.goodUntil(now)
	nodes := &z.nodes
	if p.chain {
		nodes = hashedNames(z.denial)
	}
	visited := 0
	ended := true
	if nodes != nil && nodes.size > 0 {
		for n := range nodes.from(p.next) {
			if visited++; visited > passNodes || len(p.todo)+len(p.hashed) >= passSigs {
				p.next, ended = n.key, false
				break
			}
			if s.stale(n, now, until) {
				p.found++
				if p.chain {
					p.hashed = append(p.hashed, n.key)
				} else {
					p.todo = append(p.todo, n.key)
				}
			}
		}
	}
	p.at = now.Add(passGap)
	switch {
	case !ended:
	case !p.chain && hashedNames(z.denial) != nil:
		p.chain, p.next = true, ""
	default:
		if p.found == 0 {
			p.clean, p.cleanFrom = s.keys, p.begun
			p.at = now.Add(s.config.lookahead())
			if p.any {
				if left := time.Duration(int32(p.oldest-uint32(now.Unix())))*time.Second - s.config.Refresh; left > s.config.lookahead() {
					p.at = now.Add(left)
				}
			}
		}
		p.chain, p.next, p.found, p.any, p.foreign = false, "", 0, false, p.foreign && p.found > 0
		p.begun = time.Time{}
	}
	return len(p.todo)+len(p.hashed) > 0
}

// stale reports whether a node has signatures that have to be replaced.
func (s *signer) stale(n *node, now time.Time, until uint32) bool {
	stale := false
	for i := range n.sets {
		set := &n.sets[i]
		if set.signs == 0 {
			continue
		}
		keys := s.pass.keys.signersAt(n.key, set.rtype)
		if !set.isFresh(keys, now, until) {
			stale = true
			for data := range eachData(set.sigs) {
				tag := sigTag(data)
				s.pass.foreign = s.pass.foreign || !slices.ContainsFunc(keys, func(k *key) bool { return k.tag == tag })
			}
			continue
		}
		for data := range eachData(set.sigs) {
			if end := sigExpiration(data); !s.pass.any || serialAfter(s.pass.oldest, end) {
				s.pass.oldest, s.pass.any = end, true
			}
		}
	}
	return stale
}

// KeyInfo is about a key with which a zone is signed.
type KeyInfo struct {
	Tag       uint16    // by which signatures name it
	Algorithm string    // mnemonic, as ECDSAP256SHA256
	KSK       bool      // it signs the keys; otherwise it signs everything else
	State     string    // "publish", "ready", "active" or "retire"
	Created   time.Time //
	Since     time.Time // that the state lasts; zero while it waits for the zone to be served so
	DS        string    // data of its DS record, as in a zone file; only of KSKs
}

// Keys are the keys of the zone.
func (s *signer) Keys() []KeyInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		return nil
	}
	var list []KeyInfo
	for _, k := range s.keys.keys {
		info := KeyInfo{Tag: k.tag, Algorithm: dns.AlgorithmToString[k.Algorithm], KSK: k.KSK, State: string(k.State), Created: k.Created, Since: k.Since}
		if k.KSK {
			info.DS = dsText(k, s.zone)
		}
		list = append(list, info)
	}
	return list
}

// DS are the DS records that the zone above should have, as in a zone file:
// none where it has been asked to remove them.
func (s *signer) DS() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil || s.keys.withdrawn {
		return nil
	}
	k := s.keys.newestKSK()
	if k == nil && len(s.keys.ksks) > 0 {
		k = s.keys.ksks[0] // the first one, which not everybody knows yet
	}
	if k == nil {
		return nil
	}
	return []string{nameText(s.zone) + " IN DS " + dsText(k, s.zone)}
}

func dsText(k *key, zone string) string {
	ds := k.ds(zone)
	return fmt.Sprintf("%d %d %d %X", k.tag, k.Algorithm, ds[3], ds[4:])
}
