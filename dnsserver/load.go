package dnsserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// zonesOf returns the zones of a configuration: those it names, and those that
// its records need beside them. A record outside all zones makes the domain
// that it could be registered as one, www.example.com example.com.
func zonesOf(c *Config) []Zone {
	list := slices.Clone(c.Zones)
	known := make(map[string]bool)
	for _, z := range list {
		known[canonical(z.Name)] = true
	}
	for _, r := range slices.Concat(c.Records, c.DefaultRecords) {
		if !inSome(canonical(r.Name), known) {
			zone := RegisteredDomain(r.Name)
			known[canonical(zone)] = true
			list = append(list, Zone{Name: zone})
		}
	}
	return list
}

// RegisteredDomain returns the domain of a name that somebody can register, by
// the public suffix list: for "www.example.co.uk" "example.co.uk". A name that
// is a public suffix itself comes back as it is.
func RegisteredDomain(name string) string {
	name = strings.TrimPrefix(canonical(name), "*.")
	if name == "" {
		return "."
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return domain
	}
	return name
}

// inSome reports whether a name, canonical, is in one of these zones.
func inSome(name string, zones map[string]bool) bool {
	for {
		if zones[name] {
			return true
		}
		_, rest, ok := strings.Cut(name, ".")
		if !ok {
			return name != "" && zones[""]
		}
		name = rest
	}
}

// base is what a zone begins with: its file, the records of the configuration
// in it, and what no zone can do without.
type base struct {
	edit *zoneEdit
	hash string // of all but the serial number
	// dated is set if the serial number comes from the clock, because nothing
	// says another.
	dated bool
}

// readBase reads what a zone of the configuration begins with. records and
// defaults are those of the configuration that are in it.
func readBase(cfg *Zone, records, defaults []indexedRecord, servers []string, now time.Time) (*base, error) {
	name, err := wireName(cfg.Name)
	if err != nil {
		return nil, err
	}
	b := &base{edit: newZone(name)}
	e := b.edit
	if cfg.File != "" {
		err := readZoneFile(cfg.File, name, func(r record) error {
			if set := e.setAt(r.name, r.rtype); single(r.rtype) && set != nil {
				for data := range set.data() {
					if data != r.data {
						return fmt.Errorf("%s: there can be only one %s record", nameText(r.name), typeText(r.rtype))
					}
				}
			}
			e.add(&r)
			return e.err
		})
		if err != nil {
			return nil, err
		}
		if e.setAt(name, dns.TypeSOA) == nil {
			return nil, &ZoneError{Zone: nameText(name), File: cfg.File, Err: errors.New("there is no SOA record for the zone's name in it")}
		}
	}
	if err := addRecords(e, records, "records", nil); err != nil {
		return nil, err
	}
	said := e.zone.nodes // versions of a trie do not change
	e.edit = new(edit)
	if err := addRecords(e, defaults, "defaultRecords", &said); err != nil {
		return nil, err
	}
	b.complete(name, servers, now)
	if err := e.check(); err != nil {
		if ze, ok := err.(*ZoneError); ok {
			ze.File = cfg.File
		}
		return nil, err
	}
	b.hash = e.hash()
	return b, nil
}

// addRecords adds records of a list of the configuration: all, or those about
// which a version of the zone says nothing.
func addRecords(e *zoneEdit, records []indexedRecord, list string, said *trie) error {
	var errs []error
	for _, r := range records {
		packed, err := r.pack()
		if err != nil {
			errs = append(errs, &FieldError{Path: fmt.Sprintf("%s[%d]", list, r.index), Msg: err.Error(), Err: err})
			continue
		}
		if said != nil {
			n := said.get(e.nodeKey(packed.name))
			if n != nil && (n.set(packed.rtype) != nil || n.set(dns.TypeCNAME) != nil || n.set(typeALIAS) != nil) {
				continue
			}
		}
		e.add(&packed)
	}
	return errors.Join(errs...)
}

type indexedRecord struct {
	Record
	index int // in the configuration
}

// setAt returns a set by wire name, or nil.
func (e *zoneEdit) setAt(name string, rtype uint16) *rrset {
	n := e.node(e.nodeKey(name))
	if n == nil {
		return nil
	}
	return n.set(rtype)
}

// Timers of zones that have no SOA record of their own, as RFC 1912 section 2.2
// recommends for zones that change.
const (
	soaRefresh = 2 * 3600
	soaRetry   = 900
	soaExpire  = 14 * 24 * 3600
	soaMinimum = 300
)

// complete adds the NS and SOA records that a zone must have and nobody wrote.
func (b *base) complete(name string, servers []string, now time.Time) {
	e := b.edit
	if e.setAt(name, dns.TypeNS) == nil {
		for _, server := range servers {
			if data, err := wireName(server); err == nil {
				e.add(&record{name, dns.TypeNS, defaultTTL, data})
			}
		}
	}
	if e.setAt(name, dns.TypeSOA) == nil {
		primary := name
		if ns := e.setAt(name, dns.TypeNS); ns != nil {
			for data := range ns.data() {
				primary = data
				break
			}
		}
		if len(servers) > 0 {
			if data, err := wireName(servers[0]); err == nil {
				primary = data
			}
		}
		mailbox := "\x0ahostmaster" + name
		if len(mailbox) > maxName {
			mailbox = name
		}
		data := []byte(primary + mailbox)
		for _, n := range []uint32{uint32(now.Unix()), soaRefresh, soaRetry, soaExpire, soaMinimum} {
			data = append(data, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
		}
		e.add(&record{name, dns.TypeSOA, defaultTTL, string(data)})
		b.dated = true
	}
}

// hash tells apart what zones contain; the serial number does not count.
func (e *zoneEdit) hash() string {
	h := sha256.New()
	for n := range e.nodes.from("") {
		for i := range n.sets {
			fmt.Fprintf(h, "%q %d ", n.key, n.sets[i].rtype)
			wire := n.sets[i].wire
			if n.sets[i].rtype == dns.TypeSOA {
				wire = wire[:len(wire)-20] + wire[len(wire)-16:]
			}
			h.Write([]byte(wire))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// load makes the first version of a zone: the base with what has been changed
// since, under a serial number that is not behind the one it had last. It is
// the same only where the contents are: who follows the zone takes changes from
// one number to the next for changes of what he has (RFC 1995 section 4).
func (z *servedZone) load(ctx context.Context, b *base) (*zone, error) {
	e := b.edit
	own := e.serial()
	sets := 0
	last, known, err := z.journal.load(ctx, func(s keptSet) {
		sets++
		e.replace(e.nodeKey(s.name), newSet(s.rtype, s.ttl, s.data))
	})
	if err != nil {
		return nil, &ZoneError{Zone: nameText(z.name), Err: fmt.Errorf("reading its changes: %w", err)}
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("with the changes made while it was served: %w", err)
	}
	switch {
	case !known:
	case z.journal.state.Base == b.hash && !z.journal.unkept && z.signer == nil && (b.dated || !serialAfter(own, last)):
		e.setSerial(last)
	case !serialAfter(own, last):
		e.setSerial(nextSerial(last))
	default:
		e.setSerial(own)
	}
	if z.signer != nil {
		if err := z.signer.sign(e, z.all.now()); err != nil {
			return nil, &ZoneError{Zone: nameText(z.name), Err: fmt.Errorf("signing it: %w", err)}
		}
	}
	whole := e.finish()
	if state := &z.journal.state; z.journal.store != nil && (state.Base != b.hash || z.journal.next-state.Folded > foldAfter || whole.serial() != last) {
		served := b.hash
		if z.signer != nil {
			served = "" // with signatures
		}
		if err := z.journal.fold(ctx, served, whole.serial()); err != nil {
			return nil, &ZoneError{Zone: nameText(z.name), Err: err}
		}
		if err := z.journal.tidy(ctx); err != nil {
			return nil, &ZoneError{Zone: nameText(z.name), Err: err}
		}
	}
	return whole, nil
}

// recordsByZone sorts records into the zones that they are in, the nearest one
// above each.
func recordsByZone(records []Record, list []Zone) map[string][]indexedRecord {
	known := make(map[string]bool)
	for _, z := range list {
		known[canonical(z.Name)] = true
	}
	byZone := make(map[string][]indexedRecord)
	for i, r := range records {
		name := canonical(r.Name)
		for !known[name] {
			_, rest, ok := strings.Cut(name, ".")
			if name = rest; !ok {
				break
			}
		}
		byZone[name] = append(byZone[name], indexedRecord{r, i})
	}
	return byZone
}

// loadAll reads all zones of a configuration and puts them into service. If one
// cannot be read none is; the error joins all mistakes.
func (zs *zones) loadAll(ctx context.Context, c *Config) error {
	// What is read now would lack the changes that those of a run before still got.
	for _, z := range zs.sorted() {
		z.mu.Lock()
		z.retired = true
		z.mu.Unlock()
	}
	zs.keys = newKeyring(c.TSIGKeys)
	list := zonesOf(c)
	byZone, defaults := recordsByZone(c.Records, list), recordsByZone(c.DefaultRecords, list)
	for zone, records := range catalogRecords(list) {
		byZone[zone] = append(byZone[zone], records...)
	}
	var served []*servedZone
	var errs []error
	for i := range list {
		cfg := &list[i]
		z, err := zs.open(ctx, cfg, byZone[canonical(cfg.Name)], defaults[canonical(cfg.Name)], c.NameServers)
		if err != nil {
			if i < len(c.Zones) {
				err = conf.Prefix(fmt.Sprintf("zones[%d]", i), err)
			}
			errs = append(errs, err)
			continue
		}
		served = append(served, z)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	zs.mu.Lock()
	zs.list = make(map[string]*servedZone) // without those of a run before
	zs.mu.Unlock()
	zs.put(served)
	zs.warnOfGaps(served)
	return nil
}

// warnOfGaps tells of zones below others of ours that do not delegate to them:
// resolvers that come from above are told that there is no such zone.
func (zs *zones) warnOfGaps(served []*servedZone) {
	for _, z := range served {
		if z.name == "\x00" {
			continue
		}
		above, err := zs.find(z.name[1+int(z.name[0]):])
		if err != nil {
			continue
		}
		if p := above.ref.current.Load(); p != nil {
			if n := p.nodes.get(p.nodeKey(z.name)); n == nil || n.set(dns.TypeNS) == nil {
				zs.logger().Warn("a zone lies in another that has no NS records for it", "zone", nameText(z.name), "above", nameText(above.name))
			}
		}
	}
}

// open reads a zone, which is not served yet.
func (zs *zones) open(ctx context.Context, cfg *Zone, records, defaults []indexedRecord, servers []string) (*servedZone, error) {
	if len(cfg.Primaries) > 0 {
		return zs.openCopy(ctx, cfg)
	}
	b, err := readBase(cfg, records, defaults, servers, zs.now())
	if err != nil {
		return nil, err
	}
	z := &servedZone{name: b.edit.name, all: zs, journal: newJournal(zs.store, b.edit.name)}
	z.setPeers(cfg)
	if d := cfg.DNSSEC; d != nil && orDefault(d.Enabled, true) {
		z.signer = newSigner(z.name, *d, zs.store, zs.now, zs.logger())
		if ask := zs.parentDS; ask != nil {
			z.signer.parentDS = func(ctx context.Context, zone string) ([]string, error) { return packDS(ctx, ask, zone) }
		}
		if err := z.signer.load(ctx); err != nil {
			return nil, &ZoneError{Zone: nameText(z.name), Err: fmt.Errorf("reading its keys: %w", err)}
		}
	}
	first, err := z.load(ctx, b)
	if err != nil {
		return nil, err
	}
	z.ref.current.Store(first)
	return z, nil
}

// reload reads what the zones of a configuration begin with once more.
func (zs *zones) reload(ctx context.Context, c *Config) error {
	list := zonesOf(c)
	byZone, defaults := recordsByZone(c.Records, list), recordsByZone(c.DefaultRecords, list)
	for zone, records := range catalogRecords(list) {
		byZone[zone] = append(byZone[zone], records...)
	}
	var errs []error
	for i := range list {
		cfg := &list[i]
		if cfg.File == "" {
			continue
		}
		if err := zs.reloadZone(ctx, cfg, byZone[canonical(cfg.Name)], defaults[canonical(cfg.Name)], c.NameServers); err != nil {
			errs = append(errs, conf.Prefix(fmt.Sprintf("zones[%d]", i), err))
		}
	}
	return errors.Join(errs...)
}

func (zs *zones) reloadZone(ctx context.Context, cfg *Zone, records, defaults []indexedRecord, servers []string) error {
	b, err := readBase(cfg, records, defaults, servers, zs.now())
	if err != nil {
		return err
	}
	z := zs.get(b.edit.name)
	if z == nil {
		return fmt.Errorf("%s: %w", nameText(b.edit.name), ErrNoZone)
	}
	z.mu.Lock() // no change may come in between
	defer z.mu.Unlock()
	own := b.edit.serial()
	// Without a change that was refused but may be there: the next one is going to
	// take its place.
	kept := journal{store: z.journal.store, prefix: z.journal.prefix, before: z.journal.next}
	if _, _, err := kept.load(ctx, func(s keptSet) {
		b.edit.replace(b.edit.nodeKey(s.name), newSet(s.rtype, s.ttl, s.data))
	}); err != nil {
		return &ZoneError{Zone: nameText(z.name), Err: fmt.Errorf("reading its changes: %w", err)}
	}
	if err := b.edit.check(); err != nil {
		return fmt.Errorf("with the changes made while it was served: %w", err)
	}
	now := z.ref.current.Load()
	_, err = z.replace(ctx, b.edit.finish(), now != nil && !b.dated && serialAfter(own, now.serial()))
	return err
}
