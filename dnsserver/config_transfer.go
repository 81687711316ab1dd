package dnsserver

import (
	"encoding/base64"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Secret is a password or key: a string, written Secret("..."), that shows as ***
// wherever it is printed, logged or written as JSON. Its method Reveal() string
// gives the value.
type Secret = conf.Secret

// TSIGKey is a secret that this server shares with others, to know what comes
// from them and to sign what goes to them (RFC 8945).
type TSIGKey struct {
	// Name of the key, a domain name that both sides write alike. Required.
	Name string `json:"name" conf:"key"`
	// Algorithm is hmac-sha256, hmac-sha384, hmac-sha512, hmac-sha224 or
	// hmac-sha1. The default "" means hmac-sha256.
	Algorithm string `json:"algorithm"`
	// Secret in base64, as tsig-keygen and keymgr print it. It should have as
	// many octets as the hash. Required.
	Secret Secret `json:"secret"`
}

// Peer is another server for the same zone.
type Peer struct {
	// Addr is its IP address, with a port if that is not 53. Required.
	Addr string `json:"addr"`
	// Key is the name of a key of [Config.TSIGKeys] that all messages from and
	// to this server are signed with. The default "" means none.
	Key string `json:"key"`
}

// UpdateRule allows dynamic updates (RFC 2136) that are signed with a key.
//
// Of all rules of the key the one counts of which a pattern fits the name of
// the record best: the one with the most labels, and of two with as many the
// one without asterisk.
type UpdateRule struct {
	// Key is the name of a key of [Config.TSIGKeys]. Required.
	Key string `json:"key"`
	// Names are patterns: "_acme-challenge.example.com" is that name,
	// "*.dyn.example.com" all names below dyn.example.com. Empty means all names
	// of the zone.
	Names []string `json:"names"`
	// Types are record types, such as TXT. Empty means all.
	Types []string `json:"types"`
}

// Catalog makes a zone a catalog (RFC 9432), which lists other zones so that
// secondary servers know of them. Where the zone has Primaries, the zones in
// the list are served here as their copies; otherwise the list is made of the
// zones whose [Zone.CatalogZone] it is.
type Catalog struct {
	// Primaries are where the zones in the list come from. Empty means the
	// primaries of the catalog itself.
	Primaries []Peer `json:"primaries"`
	// Groups have other primaries for zones with that group property (RFC 9432
	// section 4.4.2).
	Groups map[string][]Peer `json:"groups"`
	// AllowTransfer is that of the zones in the list.
	AllowTransfer []string `json:"allowTransfer"`
	// Notify is that of the zones in the list.
	Notify []Peer `json:"notify"`
}

// algorithm returns the name of the key's algorithm.
func (k *TSIGKey) algorithm() string {
	if k.Algorithm == "" {
		return "hmac-sha256"
	}
	return canonical(k.Algorithm)
}

// validateTransfer checks what is about other servers, of the whole
// configuration.
func validateTransfer(check *conf.Checker, c *Config) {
	keys := map[string]int{}
	for i := range c.TSIGKeys {
		k, at := &c.TSIGKeys[i], check.Field("tsigKeys").Index(i)
		checkName(at.Field("name"), k.Name, k.Name)
		at.Field("name").Unique(keys, canonical(k.Name), "tsigKeys", i)
		if hmacOf(k.algorithm()) == nil {
			at.Field("algorithm").OneOf(k.Algorithm, "hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1")
		}
		at.Field("secret").RequiredSecret(k.Secret)
		if secret, err := base64.StdEncoding.DecodeString(k.Secret.Reveal()); k.Secret != "" && k.Secret != conf.Redacted && (err != nil || len(secret) == 0) {
			at.Field("secret").Errorf("not in base64")
		}
	}
	v := transferChecker{keys: keys}
	catalogs := map[string]*Zone{}
	for i := range c.Zones {
		if c.Zones[i].Catalog != nil {
			catalogs[canonical(c.Zones[i].Name)] = &c.Zones[i]
		}
	}
	for i := range c.Zones {
		z, at := &c.Zones[i], check.Field("zones").Index(i)
		v.peers(at.Field("primaries"), z.Primaries)
		v.peers(at.Field("notify"), z.Notify)
		v.access(at.Field("allowTransfer"), z.AllowTransfer)
		v.rules(at.Field("allowUpdate"), z)
		if len(z.Primaries) > 0 {
			if z.File != "" {
				at.Field("file").Errorf("not together with primaries: the zone is what they send")
			}
			if z.DNSSEC != nil && (z.DNSSEC.Enabled == nil || *z.DNSSEC.Enabled) {
				at.Field("dnssec").Errorf("not together with primaries: the zone is served as they have signed it")
			}
		}
		if z.CatalogZone != "" {
			if list := catalogs[canonical(z.CatalogZone)]; list == nil || len(list.Primaries) > 0 {
				at.Field("catalogZone").Errorf("%.60q is no zone with catalog and without primaries", z.CatalogZone)
			}
		}
		if z.Catalog == nil {
			continue
		}
		at = at.Field("catalog")
		if len(z.Primaries) == 0 && (len(z.Catalog.Primaries) > 0 || len(z.Catalog.Groups) > 0) {
			at.Errorf("primaries and groups are for catalogs that come from primaries")
		}
		v.peers(at.Field("primaries"), z.Catalog.Primaries)
		v.peers(at.Field("notify"), z.Catalog.Notify)
		v.access(at.Field("allowTransfer"), z.Catalog.AllowTransfer)
		for name, peers := range z.Catalog.Groups {
			v.peers(at.Field("groups").Key(name), peers)
		}
	}
	copies := map[string]bool{} // by zone
	for i := range c.Zones {
		copies[canonical(c.Zones[i].Name)] = len(c.Zones[i].Primaries) > 0
	}
	for i := range c.Records {
		name := canonical(c.Records[i].Name)
		for ok := true; ok; _, name, ok = strings.Cut(name, ".") {
			if isCopy, known := copies[name]; known {
				if isCopy {
					check.Field("records").Index(i).Field("name").Errorf("%.60q is in the zone %s, which is what its primaries send", c.Records[i].Name, name)
				}
				break
			}
		}
	}
	for i, s := range c.Resolvers {
		if _, ok := parseAddr(s); !ok {
			check.Field("resolvers").Index(i).Errorf("%.60q is not an IP address, with or without port", s)
		}
	}
}

type transferChecker struct {
	keys map[string]int
}

func (v transferChecker) key(at *conf.Checker, name string) {
	if _, ok := v.keys[canonical(name)]; !ok {
		at.Errorf("%.60q is not a key of tsigKeys", name)
	}
}

func (v transferChecker) peers(at *conf.Checker, list []Peer) {
	for i, p := range list {
		at := at.Index(i)
		if _, ok := parseAddr(p.Addr); !ok {
			at.Field("addr").Errorf("%.60q is not an IP address, with or without port", p.Addr)
		}
		if p.Key != "" {
			v.key(at.Field("key"), p.Key)
		}
	}
}

func (v transferChecker) access(at *conf.Checker, list []string) {
	for i, s := range list {
		if name, ok := strings.CutPrefix(s, "key:"); ok {
			v.key(at.Index(i), name)
		} else {
			at.Index(i).CIDR(s)
		}
	}
}

func (v transferChecker) rules(at *conf.Checker, z *Zone) {
	if len(z.AllowUpdate) > 0 && len(z.Primaries) > 0 {
		at.Errorf("not together with primaries: the zone is changed where it comes from")
	}
	for i := range z.AllowUpdate {
		r, at := &z.AllowUpdate[i], at.Index(i)
		if at.Field("key").Required(r.Key); r.Key != "" {
			v.key(at.Field("key"), r.Key)
		}
		for j, name := range r.Names {
			at := at.Field("names").Index(j)
			rest := strings.TrimPrefix(name, "*.")
			if checkName(at, name, rest); isName(rest) && !inSome(canonical(rest), map[string]bool{canonical(z.Name): true}) {
				at.Errorf("%.60q is not in the zone", name)
			}
		}
		for j, t := range r.Types {
			if rtype, ok := dns.StringToType[strings.ToUpper(t)]; !ok || metaType(rtype) || ownType(rtype) {
				at.Field("types").Index(j).Errorf("%.20q is not a record type that updates can have", t)
			}
		}
	}
}

// parseAddr reads the address of a server, of which the port may be left out.
func parseAddr(s string) (netip.AddrPort, bool) {
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), DefaultPort), true
	}
	ap, err := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), err == nil && ap.Port() != 0
}

// access is who may have a copy of a zone.
type access struct {
	nets []netip.Prefix
	keys []string // wire names
}

// newAccess reads a list that has been checked.
func newAccess(list []string) access {
	var a access
	for _, s := range list {
		if name, ok := strings.CutPrefix(s, "key:"); ok {
			if wire, err := wireName(name); err == nil {
				a.keys = append(a.keys, wire)
			}
		} else if prefix, ok := conf.ParseCIDR(s); ok {
			a.nets = append(a.nets, prefix)
		}
	}
	return a
}

// allows reports whether whoever asks is on the list.
func (a *access) allows(from *asker) bool {
	if from.key != nil && slices.Contains(a.keys, from.key.name) {
		return true
	}
	addr := from.addr.Addr().Unmap()
	return slices.ContainsFunc(a.nets, func(p netip.Prefix) bool { return p.Contains(addr) })
}
