package dcrouter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/storage"
)

// mailRecords publishes the records of mail domains in the zones of the DNS
// server. It fills in: what the operator's zones say about the same thing stays, in
// zone files and configuration as well as by changes at run time. So the records
// are derived from the keys and the configuration, not kept with the zones, and
// whenever a zone changes they are compared with it again.
type mailRecords struct {
	router *Router
	store  *storage.Store
	wake   chan struct{}
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // held while records are changed
	wanted map[string][]email.DNSRecord
	ours   map[string][]dnsserver.Record // that have been published at some time, by domain

	changes sync.Mutex
	changed map[string]bool // zones, with final dot
}

func newMailRecords(r *Router) *mailRecords {
	return &mailRecords{router: r, wake: make(chan struct{}, 1), changed: make(map[string]bool)}
}

// publishedRecords has a value for each domain: what was published at some time. A
// change at run time of a set that has a record of ours in it is kept with that
// record (an SPF policy beside another TXT record), and it is ours even so.
const publishedRecords = "email/dns/"

// maxPublished bounds what is remembered of a domain.
const maxPublished = 200

// open begins anew, and forgets the records of domains that are somebody else's
// matter now.
func (m *mailRecords) open(ctx context.Context, store *storage.Store) error {
	m.store = store
	m.wanted, m.ours = make(map[string][]email.DNSRecord), make(map[string][]dnsserver.Record)
	ours := make(map[string]bool)
	e := m.router.config.Email
	for i := range e.Domains {
		if e.DNSMode(&e.Domains[i]) == email.InternalDNS {
			ours[publishedRecords+plainDomain(e.Domains[i].Domain)] = true
		}
	}
	var old []string
	for key, err := range store.List(ctx, publishedRecords) {
		if err != nil {
			return err
		}
		if !ours[key] {
			old = append(old, key)
		}
	}
	for _, key := range old {
		if err := store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func (m *mailRecords) start(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.wg.Go(func() { m.follow(ctx) })
	return nil
}

func (m *mailRecords) stop(context.Context) error {
	if m.cancel != nil {
		m.cancel()
	}
	m.wg.Wait()
	return nil
}

// zoneChanged is told of new versions of zones.
func (m *mailRecords) zoneChanged(zone string) {
	m.changes.Lock()
	m.changed[zone] = true
	m.changes.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// follow compares records with zones that have changed.
func (m *mailRecords) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		}
		m.changes.Lock()
		changed := m.changed
		m.changed = make(map[string]bool)
		m.changes.Unlock()
		for _, domain := range m.domainsIn(changed) {
			m.mu.Lock()
			err := m.fillIn(ctx, domain)
			m.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				m.router.log.Warn("the records of a mail domain are not as they should be", "component", "email", "domain", domain, "err", err)
			}
		}
	}
}

// domainsIn lists the domains that have records in one of these zones.
func (m *mailRecords) domainsIn(zones map[string]bool) (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for domain := range m.wanted {
		for zone := range zones {
			if isWithin(domain, zone) || isWithin(zone, domain) {
				list = append(list, domain)
				break
			}
		}
	}
	return list
}

// Publish implements [email.DNSPublisher].
func (m *mailRecords) Publish(ctx context.Context, domain string, records []email.DNSRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted[domain] = records
	return m.fillIn(ctx, domain)
}

// fillIn brings the records of a domain into its zone, in one change. m.mu is held.
func (m *mailRecords) fillIn(ctx context.Context, domain string) error {
	dns := m.router.dns
	if _, err := dns.Source(domain); err != nil {
		return err
	}
	ours, err := m.published(ctx, domain)
	if err != nil {
		return err
	}
	look := lookup{dns, ours}
	var wanted []dnsserver.Record
	var errs []error
	for _, r := range m.wanted[domain] {
		record := dnsserver.Record{Name: r.Name, Type: r.Type, Value: r.Value, TTL: r.TTL}
		if r.Type == "TXT" {
			record.Value = dnsserver.QuoteText(r.Value)
		}
		said, err := look.said(record)
		switch {
		case err != nil:
			errs = append(errs, err)
		case said == nil:
			wanted = append(wanted, record)
		case r.Kind == "DKIM" && !sameRecord(*said, record):
			// The key must not sign: nobody could verify it.
			errs = append(errs, fmt.Errorf("%s has a record of yours, %s %s, and not that of its key", r.Name, said.Type, said.Value))
		}
	}
	tx, add, err := look.changes(wanted)
	if err = errors.Join(append(errs, err)...); tx == nil {
		return err
	}
	if e := m.remember(ctx, domain, add); e != nil {
		return errors.Join(err, e)
	}
	return errors.Join(err, dns.Derive(ctx, tx))
}

// published lists what has been published for a domain.
func (m *mailRecords) published(ctx context.Context, domain string) ([]dnsserver.Record, error) {
	if list, ok := m.ours[domain]; ok {
		return list, nil
	}
	var list []dnsserver.Record
	text, err := m.store.Get(ctx, publishedRecords+domain)
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("reading what was published: %w", err)
	}
	m.ours[domain] = list
	return list, nil
}

// remember notes what is going to be published. What was before stays: changes at
// run time may have kept it.
func (m *mailRecords) remember(ctx context.Context, domain string, add []dnsserver.Record) error {
	list := slices.Clone(m.ours[domain])
	for _, r := range add {
		if !containsRecord(list, r) {
			list = append(list, r)
		}
	}
	if len(list) == len(m.ours[domain]) {
		return nil
	}
	list = list[max(0, len(list)-maxPublished):]
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := m.store.Put(ctx, publishedRecords+domain, text); err != nil {
		return err
	}
	m.ours[domain] = list
	return nil
}

// lookup looks at what the zones say, and tells the operator's records from ours.
type lookup struct {
	dns  *dnsserver.Server
	ours []dnsserver.Record
}

// said returns a record of the operator's that says something about what a record
// of ours is for, or nil.
func (l lookup) said(r dnsserver.Record) (*dnsserver.Record, error) {
	types := []string{"CNAME", r.Type}
	switch r.Type {
	case "A", "AAAA":
		types = []string{"CNAME", "ALIAS", "A", "AAAA"}
	case "CNAME": // it does not bear others beside it
		types = []string{"CNAME", "ALIAS", "A", "AAAA", "TXT", "MX", "HTTPS", "SVCB", "NS", "CAA"}
	}
	for _, rtype := range types {
		list, err := l.dns.Lookup(r.Name, rtype)
		if err != nil {
			return nil, err
		}
		for i := range list {
			if other := &list[i]; !containsRecord(l.ours, *other) && (r.Type != "TXT" || rtype != "TXT" || sameVersion(*other, r)) {
				return other, nil
			}
		}
	}
	return nil, nil
}

// sameVersion reports whether two texts are policies of the same kind, by how they
// begin ("v=spf1"). Others are no business of each other's, but at the name of a
// DKIM key.
func sameVersion(a, b dnsserver.Record) bool {
	version := func(r dnsserver.Record) string {
		text, _ := dnsserver.UnquoteText(r.Value)
		first, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(text)), ";")
		first, _, _ = strings.Cut(first, " ")
		return first
	}
	return version(a) == version(b) || strings.Contains(strings.ToLower(a.Name), "._domainkey.")
}

// changes makes the change after which these of our records are there, and no
// others: nil if that is so already. add is what is new.
func (l lookup) changes(wanted []dnsserver.Record) (tx *dnsserver.Tx, add []dnsserver.Record, err error) {
	var remove []dnsserver.Record
	for _, r := range l.ours {
		if containsRecord(wanted, r) {
			continue
		}
		list, err := l.dns.Lookup(r.Name, r.Type)
		if err != nil {
			return nil, nil, err
		}
		if containsRecord(list, r) {
			remove = append(remove, r)
		}
	}
	for _, r := range wanted {
		list, err := l.dns.Lookup(r.Name, r.Type)
		if err != nil {
			return nil, nil, err
		}
		if containsRecord(list, r) {
			continue
		}
		for _, other := range list {
			if !containsRecord(l.ours, other) {
				r.TTL = other.TTL // all take over that of the last one
			}
		}
		add = append(add, r)
	}
	if len(remove)+len(add) == 0 {
		return nil, nil, nil
	}
	tx = new(dnsserver.Tx)
	tx.Remove(remove...)
	tx.Add(add...)
	return tx, add, nil
}

func containsRecord(list []dnsserver.Record, r dnsserver.Record) bool {
	return slices.ContainsFunc(list, func(other dnsserver.Record) bool { return sameRecord(other, r) })
}

// sameRecord compares records however they are written.
func sameRecord(a, b dnsserver.Record) bool {
	return sameDomain(a.Name, b.Name) && strings.EqualFold(a.Type, b.Type) && plainValue(a) == plainValue(b)
}

func plainValue(r dnsserver.Record) string {
	switch strings.ToUpper(r.Type) {
	case "TXT":
		text, err := dnsserver.UnquoteText(r.Value)
		if err != nil {
			return r.Value
		}
		return text
	case "A", "AAAA":
		if addr, err := netip.ParseAddr(r.Value); err == nil {
			return addr.String()
		}
	}
	return plainDomain(strings.Join(strings.Fields(r.Value), " "))
}

// checkMailDNS finds mail domains that want records in a DNS server that nobody is
// told to ask, or that is not to be the source of them.
func (c *Config) checkMailDNS(check *conf.Checker) {
	for i := range c.Email.Domains {
		d := &c.Email.Domains[i]
		at := check.Field("domains").Index(i)
		switch {
		case c.Email.DNSMode(d) != email.InternalDNS:
		case c.DNSDomain == "" && len(c.DNSNSDomains) == 0:
			at.Field("dnsMode").Errorf("internal-dns needs dnsDomain or dnsNsDomains")
		case !c.inScope(d.Domain) && !c.inConfiguredZone(d.Domain):
			at.Field("dnsMode").Errorf("internal-dns: %q is in none of dnsScopes and in no zone", d.Domain)
		}
	}
}

// inConfiguredZone reports whether a name is in a zone of the configuration.
func (c *Config) inConfiguredZone(name string) bool {
	return c.DNS != nil && slices.ContainsFunc(c.DNS.Zones, func(z dnsserver.Zone) bool { return isWithin(name, z.Name) })
}

// publishesMailRecords reports whether there is a mail domain whose records are
// published here.
func (c *Config) publishesMailRecords() bool {
	return c.Email != nil && c.hasDNS() && slices.ContainsFunc(c.Email.Domains, func(d email.Domain) bool { return c.Email.DNSMode(&d) == email.InternalDNS })
}

// addMailZones makes the DNS server the source of mail domains whose records are
// published here, and of the mail host's addresses.
func (c *Config) addMailZones(d *dnsserver.Config) {
	if c.Email == nil {
		return
	}
	inZone := func(name string) bool {
		return slices.ContainsFunc(d.Zones, func(z dnsserver.Zone) bool { return isWithin(name, z.Name) })
	}
	for i := range c.Email.Domains {
		if m := &c.Email.Domains[i]; c.Email.DNSMode(m) == email.InternalDNS && !inZone(m.Domain) {
			d.Zones = append(d.Zones, dnsserver.Zone{Name: dnsserver.RegisteredDomain(m.Domain)})
		}
	}
	if inZone(c.Email.Hostname) {
		d.DefaultRecords = append(d.DefaultRecords, c.ownAddresses(c.Email.Hostname)...)
	}
}
