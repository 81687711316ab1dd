package dnsserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Catalog zones (RFC 9432): those of others, whose members are served here as
// copies, and our own, which list zones for others.

// maxMembers is how many zones a catalog may list.
const maxMembers = 100_000

// catalogRecords are the records of our own catalogs, by the canonical names of
// those.
func catalogRecords(list []Zone) map[string][]indexedRecord {
	byZone := make(map[string][]indexedRecord)
	add := func(zone, name, rtype, value string) {
		if name != "" {
			name += "."
		}
		byZone[zone] = append(byZone[zone], indexedRecord{Record: Record{Name: name + zone, Type: rtype, Value: value}})
	}
	for i := range list {
		if z := &list[i]; z.Catalog != nil && len(z.Primaries) == 0 {
			zone := canonical(z.Name)
			add(zone, "", "NS", "invalid.") // RFC 9432 section 4.1
			add(zone, "version", "TXT", "2")
		}
	}
	for i := range list {
		z := &list[i]
		if z.CatalogZone == "" {
			continue
		}
		zone, member := canonical(z.CatalogZone), canonical(z.Name)
		id := memberID(member)
		add(zone, id+".zones", "PTR", member+".")
		if z.Group != "" {
			add(zone, "group."+id+".zones", "TXT", z.Group)
		}
	}
	return byZone
}

// memberID is the label of a zone in a catalog, which stays the same.
func memberID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// catalogs are the catalogs of others that this server goes by.
type catalogs struct {
	wake chan struct{}

	mu  sync.Mutex
	due map[*servedZone]bool
}

// look has a catalog read again.
func (c *catalogs) look(z *servedZone) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.due == nil {
		c.due = make(map[*servedZone]bool)
	}
	c.due[z] = true
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// followCatalogs reads catalogs that have changed, until ctx ends.
func (t *transfers) followCatalogs(ctx context.Context) {
	c := &t.catalogs
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		due := c.due
		c.due = nil
		c.mu.Unlock()
		for z := range due {
			current := z.ref.current.Load()
			if current == nil || t.zones.get(z.name) != z {
				continue
			}
			members, err := readCatalog(current)
			if err != nil {
				// RFC 9432 section 3: what was said last counts on.
				t.log.Error("a catalog is broken and is not gone by", "zone", nameText(z.name), "err", err)
				continue
			}
			t.applyCatalog(ctx, z, members)
		}
	}
}

// member is a zone in a catalog.
type member struct {
	id    string // label
	group string
	coo   string // wire name of the catalog that it is to move to, or ""
}

// readCatalog returns the zones that a catalog lists, by wire names.
func readCatalog(z *zone) (map[string]*member, error) {
	version := textAt(z.nodes.get(labelKey("version")))
	if version != "2" {
		return nil, fmt.Errorf("its version is %.20q, this server knows 2 (RFC 9432)", version)
	}
	members := make(map[string]*member)
	list := z.nodes.get(labelKey("zones"))
	if list == nil {
		return members, nil
	}
	for n := range z.nodes.below(list.key) {
		set := n.set(dns.TypePTR)
		if set == nil || n.key == list.key || parentKey(n.key) != list.key {
			continue
		}
		label := appendLabels(nil, n.key)
		m := &member{id: string(label[1 : 1+label[0]])}
		if set.count != 1 {
			return nil, fmt.Errorf("%s has more than one PTR record", nameText(z.nameOf(n)))
		}
		if sub := z.nodes.get(n.key + labelKey("group")); sub != nil {
			m.group = textAt(sub)
		}
		if sub := z.nodes.get(n.key + labelKey("coo")); sub != nil {
			if ptr := sub.set(dns.TypePTR); ptr != nil && ptr.count == 1 {
				for data := range ptr.data() {
					m.coo = lowerName([]byte(data))
				}
			}
		}
		for data := range set.data() {
			name := lowerName([]byte(data))
			if members[name] != nil {
				return nil, fmt.Errorf("it lists %s twice", nameText(name))
			}
			members[name] = m
		}
		if len(members) > maxMembers {
			return nil, fmt.Errorf("it lists more than %d zones", maxMembers)
		}
	}
	return members, nil
}

// labelKey returns the key of a label.
func labelKey(label string) string {
	return keyOf(string(append(append([]byte{byte(len(label))}, label...), 0)))
}

// textAt returns the text at a node, if it has one TXT record of one string.
func textAt(n *node) string {
	if n == nil {
		return ""
	}
	set := n.set(dns.TypeTXT)
	if set == nil || set.count != 1 {
		return ""
	}
	for data := range set.data() {
		if len(data) == int(data[0])+1 {
			return data[1:]
		}
	}
	return ""
}

// memberOf says which catalog a zone comes from, and as what.
type memberOf struct {
	catalog   *servedZone
	id, group string
}

// applyCatalog has the zones that a catalog lists served, and those that it
// does not list any more not.
func (t *transfers) applyCatalog(ctx context.Context, catalog *servedZone, members map[string]*member) {
	var add, remove, forget []*servedZone
	for _, z := range t.zones.sorted() {
		if z.member.catalog != catalog {
			continue
		}
		if m := members[z.name]; m == nil || m.id != z.member.id || m.group != z.member.group {
			remove = append(remove, z)
			if m == nil || m.id != z.member.id {
				forget = append(forget, z) // RFC 9432 section 5.4: all that is known of it
			}
			if m != nil {
				continue
			}
		}
		delete(members, z.name)
	}
	gone := make(map[*servedZone]bool)
	for _, z := range remove {
		gone[z] = true
	}
	t.drop(ctx, remove, forget)
	for name, m := range members {
		if other := t.zones.get(name); other != nil && !gone[other] {
			if !t.mayMove(other, name, catalog) {
				t.log.Warn("a zone of a catalog is not served as its copy: there is one of that name already", "zone", nameText(name), "catalog", nameText(catalog.name))
				continue
			}
			t.drop(ctx, []*servedZone{other}, nil)
		}
		cfg := catalog.catalog.memberZone(name, m.group)
		z, err := t.zones.openCopy(ctx, &cfg)
		if err != nil {
			t.log.Error("a zone of a catalog cannot be served", "zone", nameText(name), "catalog", nameText(catalog.name), "err", err)
			continue
		}
		z.member = memberOf{catalog, m.id, m.group}
		add = append(add, z)
	}
	if ctx.Err() != nil {
		return
	}
	t.zones.put(add)
	for _, z := range add {
		t.begin(z)
	}
	if len(add)+len(remove) > 0 {
		t.log.Info("the zones of a catalog have changed", "catalog", nameText(catalog.name), "added", len(add), "removed", len(remove))
	}
	if len(remove) > 0 { // which another catalog may have waited for
		for _, z := range t.zones.sorted() {
			if z.catalog != nil && z != catalog {
				t.catalogs.look(z)
			}
		}
	}
}

// mayMove reports whether a zone goes from the catalog that it came from to
// another, because both say so (RFC 9432 section 4.4.1).
func (t *transfers) mayMove(z *servedZone, name string, to *servedZone) bool {
	if z.member.catalog == nil {
		return false
	}
	current := z.member.catalog.ref.current.Load()
	if current == nil {
		return false
	}
	members, err := readCatalog(current)
	return err == nil && members[name] != nil && members[name].coo == to.name
}

// drop ends the service of copies, and of some forgets what is kept.
func (t *transfers) drop(ctx context.Context, list, forget []*servedZone) {
	if len(list) == 0 {
		return
	}
	t.zones.put(nil, list...)
	for _, z := range list {
		z.copy.end()
	}
	for _, z := range list { // or what it is about to keep would come after
		select {
		case <-z.copy.done:
		case <-ctx.Done():
			return
		}
	}
	for _, z := range forget {
		if err := z.copy.store.drop(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.log.Error("a copy that is not served any more could not be deleted", "zone", nameText(z.name), "err", err)
		}
	}
}

// catalogConfig is what the configuration says about the zones of a catalog.
type catalogConfig struct {
	Catalog
	own []Peer // primaries of the catalog itself
}

// memberZone is the configuration of a zone in the catalog.
func (c *catalogConfig) memberZone(name, group string) Zone {
	primaries := c.own
	if len(c.Primaries) > 0 {
		primaries = c.Primaries
	}
	if list := c.Groups[group]; len(list) > 0 {
		primaries = list
	}
	return Zone{Name: strings.TrimSuffix(nameText(name), "."), Primaries: primaries, AllowTransfer: c.AllowTransfer, Notify: c.Notify}
}
