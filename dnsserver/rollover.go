package dnsserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// The keys of a zone go through their states in maintain, one step at a time.
// Each step is kept in storage before it shows in the zone. What a step waits
// for counts from when the version that is served has it, so that it is safe to
// stop at any point and go on later.

// load reads the keys of the zone, and makes those that are missing.
func (s *signer) load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var keys []*key
	withdrawn := false
	if s.store != nil {
		for name, err := range s.store.List(ctx, s.folder) {
			if err != nil {
				return err
			}
			text, err := s.store.Get(ctx, name)
			if err != nil {
				return err
			}
			if strings.HasSuffix(name, "/"+withdrawnName) {
				withdrawn = true
				continue
			}
			var r keyRecord
			if err := json.Unmarshal(text, &r); err != nil {
				return fmt.Errorf("the key %s: it cannot be read", name) // the cause might quote it
			}
			k, err := r.open()
			if err != nil {
				return fmt.Errorf("the key %s: %w", name, err)
			}
			keys = append(keys, k)
		}
	}
	s.keys = newKeySet(keys, withdrawn)
	if len(keys) > 0 && s.algorithm() != s.configured() {
		s.log.Warn("the zone stays with the algorithm of its keys, which is not the configured one",
			"algorithm", dns.AlgorithmToString[s.algorithm()], "configured", s.config.Algorithm)
	}
	return s.mend(ctx, now)
}

// mend makes the keys fit together after a start: whatever has been interrupted
// is brought to an end, and there is a key for each role.
func (s *signer) mend(ctx context.Context, now time.Time) error {
	var ksk, zsk *key // the newest active ones
	for _, k := range slices.Backward(s.keys.keys) {
		if k.State != keyActive {
			continue
		}
		newest := &zsk
		if k.KSK {
			newest = &ksk
		}
		if *newest == nil {
			*newest = k
			continue
		}
		// Its successor was made active, but it was not retired any more.
		since := time.Time{}
		if k.KSK {
			since = now
		}
		if err := s.keep(ctx, k, k.with(keyRetire, since)); err != nil {
			return err
		}
	}
	if zsk == nil {
		k, err := s.create(false, now)
		if err != nil {
			return err
		}
		if err := s.keep(ctx, nil, k.with(keyActive, now)); err != nil {
			return err
		}
	}
	for _, k := range s.keys.ksks {
		if k.State != keyRetire {
			return nil
		}
	}
	k, err := s.create(true, now)
	if err != nil {
		return err
	}
	return s.keep(ctx, nil, k)
}

// algorithm is that of the keys that there are, or the configured one.
func (s *signer) algorithm() uint8 {
	if len(s.keys.keys) > 0 {
		return s.keys.keys[0].Algorithm
	}
	return s.configured()
}

func (s *signer) configured() uint8 {
	if s.config.Algorithm == algorithmEd25519 {
		return dns.ED25519
	}
	return dns.ECDSAP256SHA256
}

// create makes a key whose tag no other has.
func (s *signer) create(ksk bool, now time.Time) (*key, error) {
	for {
		k, err := newKey(ksk, s.algorithm(), now)
		if err != nil || !slices.ContainsFunc(s.keys.keys, func(other *key) bool { return other.tag == k.tag }) {
			return k, err
		}
	}
}

// keep puts a key into storage and among the keys, in the place of old if that
// is not nil. A nil key takes old out.
func (s *signer) keep(ctx context.Context, old, k *key) error {
	if s.store != nil {
		if k == nil {
			if err := s.store.Delete(ctx, s.keyName(old)); err != nil {
				return err
			}
		} else {
			text, err := k.encode()
			if err != nil {
				return err
			}
			if err := s.store.Put(ctx, s.keyName(k), text); err != nil {
				return fmt.Errorf("keeping a key: %w", err)
			}
		}
	}
	keys := slices.DeleteFunc(slices.Clone(s.keys.keys), func(other *key) bool { return other == old })
	if k != nil {
		keys = append(keys, k)
		s.log.Info("key", "tag", k.tag, "ksk", k.KSK, "state", string(k.State))
	} else {
		s.log.Info("key removed", "tag", old.tag, "ksk", old.KSK)
	}
	s.keys = newKeySet(keys, s.keys.withdrawn)
	return nil
}

func (s *signer) keyName(k *key) string { return fmt.Sprintf("%s%05d.json", s.folder, k.tag) }

const withdrawnName = "withdrawn"

// step makes at most one change to the keys. It reports whether the zone has to
// be signed for it.
func (s *signer) step(ctx context.Context, z *zone, now time.Time) (stepped, sign bool, err error) {
	rolling := false // there is a ZSK to come or to go
	for _, k := range s.keys.keys {
		rolling = rolling || !k.KSK && k.State != keyActive
		at, ok := s.stepAt(k, z, now)
		if !ok || now.Before(at) {
			continue
		}
		switch {
		case k.State == keyPublish && k.Since.IsZero():
			return true, false, s.keep(ctx, k, k.with(keyPublish, now))
		case k.State == keyPublish && k.KSK:
			err := s.keep(ctx, k, k.with(keyReady, now))
			if err == nil {
				s.log.Info("the zone above is to get this DS record; confirm when it has it", "tag", k.tag, "ds", dsText(k, s.zone))
			}
			return true, true, err
		case k.State == keyPublish:
			old := s.keys.zsk
			if err := s.keep(ctx, k, k.with(keyActive, now)); err != nil {
				return true, false, err
			}
			gone := old.with(keyRetire, time.Time{})
			gone.MaxTTL = max(gone.MaxTTL, s.maxTTL)
			return true, true, s.keep(ctx, old, gone)
		case k.State == keyRetire && k.Since.IsZero():
			return true, false, s.keep(ctx, k, k.with(keyRetire, now))
		case k.State == keyRetire && !k.KSK && s.pass.foreign:
			// A change that was being signed when the keys changed has brought
			// one back.
			return true, false, s.keep(ctx, k, k.with(keyRetire, time.Time{}))
		case k.State == keyRetire:
			return true, true, s.keep(ctx, k, nil)
		}
	}
	if at := s.rollAt(); !rolling && !at.IsZero() && !now.Before(at) {
		k, err := s.create(false, now)
		if err != nil {
			return false, false, err
		}
		return true, true, s.keep(ctx, nil, k)
	}
	if k := s.keys.zsk; s.maxTTL > k.MaxTTL {
		next := *k
		next.MaxTTL = s.maxTTL
		return true, false, s.keep(ctx, k, &next)
	}
	return false, false, nil
}

// stepAt is when a key goes on to its next state, if nothing else is needed for
// that than time. z is the version that is served.
func (s *signer) stepAt(k *key, z *zone, now time.Time) (at time.Time, ok bool) {
	switch {
	case k.State == keyPublish && k.Since.IsZero():
		return now, z == nil || z.hasKey(k)
	case k.State == keyPublish && k.KSK:
		wait := uint32(keyTTL)
		if len(s.keys.ksks) == 1 {
			// The zone has not been signed before: until all that is remembered
			// without signatures is gone nobody should expect some.
			wait = max(wait, s.keys.zsk.MaxTTL, s.maxTTL)
		}
		return k.Since.Add(seconds(wait) + s.config.Propagation), true
	case k.State == keyPublish:
		return k.Since.Add(seconds(keyTTL) + s.config.Propagation), true
	case k.State == keyRetire && k.KSK:
		return k.Since.Add(dsTimeout + s.config.Propagation), true
	case k.State == keyRetire && k.Since.IsZero():
		return now, s.pass.clean == s.keys
	case k.State == keyRetire && s.pass.foreign && s.pass.keys == s.keys:
		return now, true // not all of its signatures were gone: see step
	case k.State == keyRetire:
		// A look at all signatures that has begun only now has to be without
		// any of them too.
		at := s.goneAt(k)
		return at, s.pass.clean == s.keys && !s.pass.cleanFrom.Before(at)
	}
	return time.Time{}, false
}

// goneAt is when nobody remembers a signature of a retired ZSK.
func (s *signer) goneAt(k *key) time.Time {
	return k.Since.Add(seconds(max(k.MaxTTL, keyTTL)) + s.config.Propagation)
}

// awaitsLook reports whether a ZSK could be removed if its signatures are gone.
func (s *signer) awaitsLook(k *key, now time.Time) bool {
	return !k.KSK && k.State == keyRetire && !k.Since.IsZero() && !now.Before(s.goneAt(k)) && s.pass.cleanFrom.Before(s.goneAt(k))
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// rollAt is when the successor of the ZSK is to be published, or zero.
func (s *signer) rollAt() time.Time {
	if s.config.ZSKLifetime <= 0 || s.keys.zsk == nil {
		return time.Time{}
	}
	return s.keys.zsk.Since.Add(s.config.ZSKLifetime - s.config.Propagation - seconds(keyTTL))
}

// maintain does what is due at the keys, and looks for signatures that have to
// be replaced in the version of the zone that is served. It reports whether the
// zone has to be signed anew for that to take effect.
func (s *signer) maintain(ctx context.Context, z *zone, now time.Time) (resign bool, err error) {
	s.mu.Lock()
	if now.Before(s.looked) { // the clock was ahead, and so is what was to be done next
		s.pass, s.nextCheck = pass{}, time.Time{}
	}
	s.looked = now
	s.mu.Unlock()
	if err := s.checkParent(ctx, now); err != nil {
		s.log.Warn("asking the zone above for its DS records", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil || z == nil {
		return false, nil
	}
	s.notBefore = now.Add(passGap)
	for {
		stepped, sign, err := s.step(ctx, z, now)
		if err != nil {
			return false, err
		}
		if resign = resign || sign; !stepped || sign {
			break
		}
	}
	for _, k := range s.keys.keys {
		if s.awaitsLook(k, now) && now.Before(s.pass.at) && s.pass.begun.IsZero() {
			s.pass.at = now
		}
	}
	found := s.look(z, now)
	if !z.hasKeys(s.keys) {
		// Also if an earlier call was for that, and publishing has failed.
		resign = true
		if again := now.Add(time.Minute); again.Before(s.pass.at) {
			s.pass.at = again
		}
	}
	return found || resign, nil
}

// due is when maintain has to be called next.
func (s *signer) due(now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		return now
	}
	next := s.pass.at
	if s.pass.keys != s.keys {
		next = now
	}
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	rolling := false
	for _, k := range s.keys.keys {
		rolling = rolling || !k.KSK && k.State != keyActive
		if at, ok := s.stepAt(k, nil, now); ok {
			sooner(at)
		} else if !k.KSK && k.State == keyRetire && !k.Since.IsZero() {
			if at := s.goneAt(k); at.After(now) || s.awaitsLook(k, now) && s.pass.begun.IsZero() {
				sooner(at)
			}
		}
		if k.State == keyReady && s.parentDS != nil {
			sooner(s.nextCheck)
		}
	}
	if at := s.rollAt(); !rolling && !at.IsZero() {
		sooner(at)
	}
	if next.Before(s.notBefore) {
		next = s.notBefore
	}
	if next.Before(now) {
		return now
	}
	return next
}

const (
	checkEvery   = 15 * time.Minute // the zone above is asked whether it has a DS record
	checkTimeout = 10 * time.Second // for that
)

// checkParent confirms a new KSK if the zone above has its DS record.
func (s *signer) checkParent(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	var ready *key
	if s.keys != nil && s.parentDS != nil && !now.Before(s.nextCheck) {
		for _, k := range s.keys.ksks {
			if k.State == keyReady {
				ready = k
			}
		}
	}
	if ready == nil {
		s.mu.Unlock()
		return nil
	}
	s.nextCheck = now.Add(checkEvery)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	list, err := s.parentDS(ctx, nameText(s.zone))
	if err != nil || !slices.Contains(list, ready.ds(s.zone)) {
		return err
	}
	return s.ConfirmDS(ctx, ready.tag)
}

// RollKSK begins to replace the key that signs the keys. The new one is in the
// zone from the next version on. When all can know it, its state is ready, the
// zone has CDS and CDNSKEY records for it (RFC 7344), and DS returns the record
// that the zone above is to have. Then ConfirmDS has to be called.
func (s *signer) RollKSK(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		return errNoKeys
	}
	for _, k := range s.keys.ksks {
		if k.State != keyActive {
			return fmt.Errorf("key %d is in the state %q: a rollover can begin when all keys are active", k.tag, k.State)
		}
	}
	k, err := s.create(true, s.now())
	if err != nil {
		return err
	}
	return s.keep(ctx, nil, k)
}

var errNoKeys = errors.New("the keys of the zone have not been read")

// ConfirmDS says that all servers of the zone above have the DS record of the
// key with this tag, and no other. Its predecessor is removed when nobody can
// remember the DS record of that.
func (s *signer) ConfirmDS(ctx context.Context, tag uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		return errNoKeys
	}
	now := s.now()
	for _, k := range s.keys.ksks {
		if k.tag != tag {
			continue
		}
		if k.State != keyReady {
			return fmt.Errorf("key %d is in the state %q, not %q", tag, k.State, keyReady)
		}
		if err := s.keep(ctx, k, k.with(keyActive, now)); err != nil {
			return err
		}
		for _, old := range s.keys.ksks {
			if old.tag != tag && old.State == keyActive {
				if err := s.keep(ctx, old, old.with(keyRetire, now)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return fmt.Errorf("the zone has no key for keys with the tag %d", tag)
}

// WithdrawDS publishes, in the next version of the zone, CDS and CDNSKEY records
// that ask the zone above to remove its DS records (RFC 8078 section 4), or
// takes that back.
func (s *signer) WithdrawDS(ctx context.Context, withdraw bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		return errNoKeys
	}
	if s.store != nil {
		var err error
		if withdraw {
			err = s.store.Put(ctx, s.folder+withdrawnName, []byte("true"))
		} else if err = s.store.Delete(ctx, s.folder+withdrawnName); errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	s.keys = newKeySet(s.keys.keys, withdraw)
	return nil
}
