package dnsserver

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// life is a signed zone over months of a clock that jumps, with what validators
// anywhere may remember of it.
type life struct {
	t      *testing.T
	clock  *clock
	config DNSSEC
	store  *storage.Store
	signer *signer
	zone   *zone
	logs   bytes.Buffer

	parent   []string // data of DS records, now
	versions []servedVersion
	parents  []parentVersion
	resigned int
}

type servedVersion struct {
	from time.Time
	keys map[uint16]bool   // in the DNSKEY set
	by   map[uint16]bool   // that the DNSKEY set is signed by
	tags map[uint16]uint32 // of the other signatures, with the longest TTL
	ends time.Time         // of the first signature to end
}

type parentVersion struct {
	from time.Time
	ds   []string
}

const lifeZone = `$TTL 7200
@ IN SOA ns hostmaster 10 7200 3600 1209600 600
  NS ns
ns A 192.0.2.53
www 86400 A 192.0.2.80
deep.ent A 192.0.2.7
`

func newLife(t *testing.T, config DNSSEC) *life {
	l := &life{t: t, clock: newClock(), config: config, store: memory(t)}
	l.restart()
	return l
}

// restart begins anew from storage, as after a crash.
func (l *life) restart() {
	l.signer = newSigner("\x07example\x00", l.config, l.store, l.clock.now, slog.New(slog.NewTextHandler(&l.logs, nil)))
	if err := l.signer.load(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	e := parsedZone(l.t, "example.", lifeZone)
	if l.zone != nil {
		e.setSerial(l.zone.serial() + 1)
	}
	l.publish(l.signer.edited(l.t, e))
}

func (l *life) publish(z *zone) {
	l.zone = z
	v := servedVersion{from: l.clock.at, keys: map[uint16]bool{}, by: map[uint16]bool{}, tags: map[uint16]uint32{}, ends: l.clock.at.Add(10000 * day)}
	for data := range z.top.set(dns.TypeDNSKEY).data() {
		v.keys[keyTag(data)] = true
	}
	for r := range z.records() {
		if r.rtype != dns.TypeRRSIG {
			continue
		}
		if end := time.Unix(int64(sigExpiration(r.data)), 0); end.Before(v.ends) {
			v.ends = end
		}
		switch uint16At(r.data, 0) {
		case dns.TypeDNSKEY:
			v.by[sigTag(r.data)] = true
		case dns.TypeCDS, dns.TypeCDNSKEY:
		default:
			v.tags[sigTag(r.data)] = max(v.tags[sigTag(r.data)], r.ttl)
		}
	}
	l.versions = append(l.versions, v)
}

func (l *life) setParent(ds []string) {
	l.parent = ds
	l.parents = append(l.parents, parentVersion{l.clock.at, ds})
}

// remembered returns those of a list that may still be known somewhere: a
// server may have had one for a while after the next, and others remember it.
func remembered[T any](list []T, from func(T) time.Time, since time.Time) []T {
	for len(list) > 1 && !from(list[1]).After(since) {
		list = list[1:]
	}
	return list
}

// check wants every mixture of what is remembered to be valid.
func (l *life) check() {
	l.t.Helper()
	now, served := l.clock.at, func(v servedVersion) time.Time { return v.from }
	late := l.config.filled().Propagation
	keySets := remembered(l.versions, served, now.Add(-late-keyTTL*time.Second))
	for _, old := range remembered(l.versions, served, now.Add(-late-day)) {
		for tag, ttl := range old.tags {
			// Signatures that are remembered, with keys that are.
			list := remembered(l.versions, served, now.Add(-late-seconds(ttl)))
			if !slices.ContainsFunc(list, func(v servedVersion) bool { return v.from.Equal(old.from) }) {
				continue
			}
			for _, keys := range keySets {
				if !keys.keys[tag] {
					l.t.Fatalf("%v: a signature by %d of %v is remembered, but the keys of %v are %v", now, tag, old.from, keys.from, keys.keys)
				}
			}
		}
	}
	for _, keys := range keySets {
		if !keys.ends.After(now) {
			l.t.Fatalf("%v: signatures of %v have ended", now, keys.from)
		}
		for _, p := range remembered(l.parents, func(p parentVersion) time.Time { return p.from }, now.Add(-dsTimeout)) {
			if len(p.ds) > 0 && !slices.ContainsFunc(p.ds, func(ds string) bool { return keys.keys[uint16At(ds, 0)] && keys.by[uint16At(ds, 0)] }) {
				l.t.Fatalf("%v: no DS record of %v fits the keys of %v", now, p.from, keys.from)
			}
		}
	}
}

// step lets the manager do what is due. With lost set what was signed never
// gets published, and the process is started again.
func (l *life) step(lost bool) {
	if l.signer.due(l.clock.at).After(l.clock.at) {
		return
	}
	resign, err := l.signer.maintain(l.t.Context(), l.zone, l.clock.at)
	if err != nil {
		l.t.Fatal(err)
	}
	if !resign {
		return
	}
	l.resigned++
	e := l.zone.change()
	e.setSerial(e.serial() + 1)
	z := l.signer.edited(l.t, e)
	if lost {
		return
	}
	l.publish(z)
}

func (l *life) run(d, step time.Duration, each func()) {
	for end := l.clock.at.Add(d); l.clock.at.Before(end); l.clock.at = l.clock.at.Add(step) {
		for range 3 {
			l.step(false)
		}
		l.check()
		if each != nil {
			each()
		}
	}
}

func (l *life) cds() (list []string) {
	if set := l.zone.top.set(dns.TypeCDS); set != nil {
		for data := range set.data() {
			list = append(list, data)
		}
	}
	return list
}

func (l *life) active(ksk bool) (tags []uint16) {
	for _, k := range l.signer.Keys() {
		if k.KSK == ksk && k.State == "active" {
			tags = append(tags, k.Tag)
		}
	}
	return tags
}

// A ZSK is replaced again and again, a KSK with the help of its parent, and at no
// time is there something remembered that does not fit.
func TestRollovers(t *testing.T) {
	for _, mode := range []string{denialNSEC, denialNSEC3} {
		t.Run(mode, func(t *testing.T) {
			l := newLife(t, DNSSEC{Denial: mode, ZSKLifetime: 20 * day})
			if l.cds() != nil {
				t.Error("the parent is asked for a DS record before everybody knows the signatures")
			}
			first := l.active(false)
			l.run(3*day, time.Hour, nil)
			if len(l.cds()) != 1 {
				t.Fatalf("no CDS record: %v", l.signer.Keys())
			}
			l.setParent(l.cds())
			if err := l.signer.ConfirmDS(t.Context(), uint16At(l.parent[0], 0)); err != nil {
				t.Fatal(err)
			}
			if err := l.signer.ConfirmDS(t.Context(), uint16At(l.parent[0], 0)); err == nil {
				t.Error("confirmed twice")
			}
			l.run(60*day, time.Hour, nil)
			if now := l.active(false); len(now) != 1 || slices.Equal(now, first) {
				t.Errorf("the ZSK was not replaced: %v", now)
			}
			old := l.active(true)
			if err := l.signer.RollKSK(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := l.signer.RollKSK(t.Context()); err == nil {
				t.Error("a second rollover has begun in the first")
			}
			rolled := false
			l.run(30*day, time.Hour, func() {
				if cds := l.cds(); !rolled && !slices.Equal(cds, l.parent) {
					rolled = true
					l.setParent(cds)
					if err := l.signer.ConfirmDS(t.Context(), uint16At(cds[0], 0)); err != nil {
						t.Fatal(err)
					}
				}
			})
			if now := l.active(true); !rolled || len(now) != 1 || slices.Equal(now, old) {
				t.Errorf("the KSK was not replaced: %v", l.signer.Keys())
			}
			if n := len(l.signer.Keys()); n > 3 {
				t.Errorf("keys were not removed: %v", l.signer.Keys())
			}
			if l.resigned > 500 {
				t.Errorf("signed %d times", l.resigned)
			}
			if err := validatorOf(l.zone, l.clock.at).whole(l.zone, mode); err != nil {
				t.Error(err)
			}
			if strings.Contains(l.logs.String(), "rivate") {
				t.Error("there is something private in the log")
			}
		})
	}
}

// The process dies again and again, also between keeping a step and publishing
// it, and rollovers come to their end all the same.
func TestRolloversWithCrashes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	l := newLife(t, DNSSEC{ZSKLifetime: 10 * day})
	seen := map[uint16]bool{}
	rolls := 0
	for range 120 * 8 {
		l.clock.at = l.clock.at.Add(3 * time.Hour)
		switch r.IntN(8) {
		case 0:
			l.step(true)
			fallthrough // the zone that is served is now one from before the step
		case 1:
			l.check()
			l.restart()
		case 2:
			if r.IntN(4) > 0 {
				break
			}
			for range 12 { // nothing can be published for a while
				l.step(true)
				l.clock.at = l.clock.at.Add(3 * time.Hour)
				l.check()
			}
		case 3: // down for a while; secondaries go on
			l.clock.at = l.clock.at.Add(time.Duration(r.IntN(30)) * time.Hour)
			l.restart()
		default:
			l.step(false)
		}
		l.check()
		for _, tag := range l.active(false) {
			seen[tag] = true
		}
		if cds := l.cds(); len(cds) > 0 && !slices.Equal(cds, l.parent) {
			l.setParent(cds)
			if err := l.signer.ConfirmDS(t.Context(), uint16At(cds[0], 0)); err != nil {
				t.Fatal(err)
			}
		} else if len(cds) > 0 && r.IntN(60) == 0 && l.signer.RollKSK(t.Context()) == nil {
			rolls++
		}
		if n := len(l.signer.Keys()); n > 5 {
			t.Fatalf("too many keys: %v", l.signer.Keys())
		}
	}
	t.Logf("%d ZSKs, %d rollovers of the KSK", len(seen), rolls)
	if len(seen) < 4 || rolls < 3 {
		t.Error("not much has happened")
	}
}

// Where the parent can be asked nobody has to confirm; and it can be asked to
// forget its DS records.
func TestParentIsAsked(t *testing.T) {
	l := newLife(t, DNSSEC{})
	l.signer.parentDS = func(context.Context, string) ([]string, error) { return l.parent, nil }
	l.run(3*day, time.Hour, func() {
		if cds := l.cds(); len(cds) > 0 && l.parent == nil {
			l.setParent(cds)
		}
	})
	if len(l.active(true)) != 1 || len(l.signer.DS()) != 1 {
		t.Fatalf("not confirmed: %v", l.signer.Keys())
	}
	for _, withdrawn := range []bool{true, false} {
		if err := l.signer.WithdrawDS(t.Context(), withdrawn); err != nil {
			t.Fatal(err)
		}
		l.restart()
		cds := l.cds()
		if got := len(cds) == 1 && cds[0] == "\x00\x00\x00\x00\x00"; got != withdrawn || (len(l.signer.DS()) == 0) != withdrawn {
			t.Errorf("withdrawn %t: CDS %q", withdrawn, cds)
		}
	}
}

// Signatures are replaced in time, but not all at once.
func TestSignaturesAreReplacedInTime(t *testing.T) {
	t.Parallel()
	l := newLife(t, DNSSEC{ZSKLifetime: -1, SignatureValidity: 4 * day, Refresh: day})
	e := unsigned(l.zone)
	e.setSerial(99)
	for i := range 1000 {
		e.add(&record{"\x04" + string([]byte{'a' + byte(i/260%26), 'a' + byte(i/10%26), '0' + byte(i%10), 'a' + byte(i/6760)}) + "\x07example\x00", dns.TypeA, 60, "\x01\x02\x03\x04"})
	}
	l.publish(l.signer.edited(t, e))
	largest := 0
	for range 24 * 10 {
		l.clock.at = l.clock.at.Add(time.Hour)
		signed := map[string]bool{}
		for range 30 {
			before := l.zone
			l.step(false)
			if before == l.zone {
				break
			}
			for r := range l.zone.records() {
				if r.rtype == dns.TypeRRSIG && uint32At(r.data, 12) == uint32(l.clock.at.Add(-clockSkew).Unix()) {
					signed[r.name] = true
				}
			}
			l.clock.at = l.clock.at.Add(passGap)
		}
		largest = max(largest, len(signed))
		last := l.versions[len(l.versions)-1]
		if left := last.ends.Sub(l.clock.at); left < 20*time.Hour {
			t.Fatalf("%v: signatures end in %v", l.clock.at, left)
		}
		l.versions = l.versions[max(0, len(l.versions)-50):]
	}
	if largest == 0 || largest > 800 {
		t.Errorf("%d of 1000 were signed within an hour", largest)
	}
	if err := validatorOf(l.zone, l.clock.at).whole(l.zone, denialNSEC); err != nil {
		t.Error(err)
	}
}

// If publishing fails the next call of maintain asks for it again.
func TestFailedPublishIsRepeated(t *testing.T) {
	l := newLife(t, DNSSEC{})
	l.run(3*day, time.Hour, nil)
	if err := l.signer.ConfirmDS(t.Context(), uint16At(l.cds()[0], 0)); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func() error{
		func() error { return l.signer.WithdrawDS(t.Context(), true) },
		func() error { return l.signer.RollKSK(t.Context()) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			l.step(true)
			l.clock.at = l.clock.at.Add(time.Hour)
		}
		l.run(2*time.Hour, time.Hour, nil)
		if !slices.Equal(l.cds(), []string{"\x00\x00\x00\x00\x00"}) {
			t.Errorf("CDS %q", l.cds())
		}
	}
	for _, k := range l.signer.Keys() {
		if k.Since.IsZero() {
			t.Errorf("%+v has never been published", k)
		}
	}
}

// A crash between the two halves of a step leaves two active keys.
func TestTwoActiveKeys(t *testing.T) {
	l := newLife(t, DNSSEC{})
	for _, ksk := range []bool{true, false} {
		l.clock.at = l.clock.at.Add(time.Hour)
		k, err := l.signer.create(ksk, l.clock.at)
		if err != nil {
			t.Fatal(err)
		}
		old := l.signer.keys.zsk
		if ksk {
			old = l.signer.keys.ksks[0]
		}
		if err := l.signer.keep(t.Context(), old, old.with(keyActive, old.Created)); err != nil {
			t.Fatal(err)
		}
		if err := l.signer.keep(t.Context(), nil, k.with(keyActive, l.clock.at)); err != nil {
			t.Fatal(err)
		}
		l.restart()
		if active := l.active(ksk); !slices.Equal(active, []uint16{k.tag}) || len(l.signer.keys.keys) < 3 {
			t.Errorf("active: %v, want the newer one, %d, of %v", active, k.tag, l.signer.Keys())
		}
	}
}

// Keys come back from storage as they were, and what cannot be read is named,
// but not shown.
func TestKeysInStorage(t *testing.T) {
	l := newLife(t, DNSSEC{Algorithm: algorithmEd25519})
	before := l.signer.Keys()
	l.config.Algorithm = "" // the keys decide
	l.restart()
	if got := l.signer.Keys(); !slices.Equal(got, before) {
		t.Errorf("got %v, want %v", got, before)
	}
	if !strings.Contains(l.logs.String(), "stays with the algorithm") {
		t.Error("nothing says that the configured algorithm is not used")
	}
	name := l.signer.keyName(l.signer.keys.zsk)
	for _, text := range []string{`{"private":"c2VjcmV0"}`, `{"private":"secret`, `{"algorithm":15,"state":"x"}`, ``} {
		if err := l.store.Put(t.Context(), name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		s := newSigner(l.signer.zone, l.config, l.store, l.clock.now, slog.New(slog.DiscardHandler))
		err := s.load(t.Context())
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
