package dnsserver

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// oracle answers from a list of records, slowly and by the letter of RFC 1034,
// RFC 4592 and RFC 6672. What it says our answers are measured by.
type oracle struct {
	zone string // with final dot, in lower case
	rrs  []dns.RR
}

func (o *oracle) at(name string, rtype uint16) (set []dns.RR) {
	for _, rr := range o.rrs {
		if strings.EqualFold(rr.Header().Name, name) && (rr.Header().Rrtype == rtype || rtype == dns.TypeANY) {
			set = append(set, rr)
		}
	}
	return set
}

func (o *oracle) exists(name string) bool {
	return slices.ContainsFunc(o.rrs, func(rr dns.RR) bool { return dns.IsSubDomain(name, rr.Header().Name) })
}

// under iterates over the names from the top of the zone down to name.
func (o *oracle) under(name string) (names []string) {
	labels := dns.SplitDomainName(strings.ToLower(name))
	for i := len(labels) - dns.CountLabel(o.zone); i >= 0; i-- {
		names = append(names, dns.Fqdn(strings.Join(labels[i:], ".")))
	}
	return names
}

func renamed(set []dns.RR, name string) (out []dns.RR) {
	for _, rr := range set {
		rr = dns.Copy(rr)
		rr.Header().Name = name
		out = append(out, rr)
	}
	return out
}

// oracles are those of a server's zones.
type oracles []*oracle

// find returns the one whose zone a name is in, or nil. DS records are in the
// zone above.
func (list oracles) find(name string, above bool) (found *oracle) {
	var same *oracle
	for _, o := range list {
		switch {
		case !dns.IsSubDomain(o.zone, name):
		case above && strings.EqualFold(o.zone, name):
			same = o
		case found == nil || dns.IsSubDomain(found.zone, o.zone):
			found = o
		}
	}
	if found == nil {
		return same
	}
	return found
}

func (list oracles) answer(qname string, qtype uint16) (m dns.Msg) {
	name := qname
	o := list.find(name, qtype == dns.TypeDS)
	if o == nil {
		m.Rcode = dns.RcodeRefused
		return m
	}
	m.Authoritative = true
	negative := func() {
		soa := dns.Copy(o.at(o.zone, dns.TypeSOA)[0]).(*dns.SOA)
		soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
		m.Ns = append(m.Ns, soa)
	}
hop:
	for range maxChain {
		if o = list.find(name, qtype == dns.TypeDS); o == nil {
			return m
		}
		encloser := o.zone
		for _, at := range o.under(name) {
			if at != o.zone {
				if !o.exists(at) {
					break
				}
				encloser = at
				if set := o.at(at, dns.TypeNS); len(set) > 0 && (at != strings.ToLower(name) || qtype != dns.TypeDS) {
					m.Authoritative = len(m.Answer) > 0
					m.Ns = append(m.Ns, set...)
					for _, ns := range set {
						m.Extra = append(m.Extra, o.at(ns.(*dns.NS).Ns, dns.TypeA)...)
						m.Extra = append(m.Extra, o.at(ns.(*dns.NS).Ns, dns.TypeAAAA)...)
					}
					return m
				}
			}
			if set := o.at(at, dns.TypeDNAME); len(set) > 0 && at != strings.ToLower(name) {
				m.Answer = append(m.Answer, set...)
				target := name[:len(name)-len(at)] + set[0].(*dns.DNAME).Target
				if len(target) > 254 { // no escapes in these zones
					m.Rcode = dns.RcodeYXDomain
					return m
				}
				m.Answer = append(m.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: 1, Ttl: set[0].Header().Ttl}, Target: target})
				if qtype == dns.TypeCNAME || qtype == dns.TypeANY {
					return m
				}
				name = target
				continue hop
			}
		}
		at := name
		if !o.exists(name) {
			if at = "*." + encloser; !o.exists(at) {
				m.Rcode = dns.RcodeNameError
				negative()
				return m
			}
		}
		set := renamed(o.at(at, qtype), name)
		if qtype == dns.TypeANY && len(set) > 0 {
			slices.SortStableFunc(set, func(a, b dns.RR) int { return cmp.Compare(a.Header().Rrtype, b.Header().Rrtype) })
			first := set[0].Header().Rrtype
			set = slices.DeleteFunc(set, func(rr dns.RR) bool { return rr.Header().Rrtype != first })
		}
		if len(set) == 0 && qtype != dns.TypeNSEC && qtype != dns.TypeANY {
			if alias := renamed(o.at(at, dns.TypeCNAME), name); len(alias) > 0 {
				m.Answer = append(m.Answer, alias...)
				name = alias[0].(*dns.CNAME).Target
				continue hop
			}
		}
		if len(set) == 0 {
			negative()
			return m
		}
		m.Answer = append(m.Answer, set...)
		for _, rr := range set {
			target := ""
			switch rr := rr.(type) {
			case *dns.MX:
				target = rr.Mx
			case *dns.NS:
				target = rr.Ns
			case *dns.SRV:
				target = rr.Target
			default:
				continue
			}
			if qtype != dns.TypeANY || rr.Header().Rrtype == set[0].Header().Rrtype {
				m.Extra = append(m.Extra, o.at(target, dns.TypeA)...)
				m.Extra = append(m.Extra, o.at(target, dns.TypeAAAA)...)
			}
		}
		return m
	}
	return m
}

// randomZone returns records of a zone that has a bit of everything, and aliases
// to others.
func randomZone(r *rand.Rand, top string, others ...string) (*oracle, *zone) {
	o := &oracle{zone: nameText(top)}
	name := func() string {
		if r.IntN(12) == 0 {
			return "outside."
		}
		if len(others) > 0 && r.IntN(2) == 0 {
			return nameText(randomOwner(r, others[r.IntN(len(others))]))
		}
		return nameText(randomOwner(r, top))
	}
	e := newZone(top)
	add := func(text string) {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		rec, err := packRecord(rr)
		if err != nil {
			panic(err)
		}
		key := e.nodeKey(rec.name)
		before := e.zone
		if n := e.node(key); n != nil && n.set(rec.rtype) != nil && n.set(rec.rtype).ttl() != rec.ttl {
			return
		}
		if !e.add(&rec) {
			return
		}
		if e.checkNode(e.node(key)) != nil || key == "" && rec.rtype == dns.TypeDNAME || rec.rtype == dns.TypeDNAME && strings.HasPrefix(rr.Header().Name, "*") || rec.rtype == dns.TypeNS && strings.Contains(rr.Header().Name, "*") {
			// Not touched: the versions are immutable, but the edit owns its
			// branches, so it is taken back by hand.
			_ = before
			e.remove(rec.name, rec.rtype, rec.data)
			return
		}
		o.rrs = slices.DeleteFunc(o.rrs, func(old dns.RR) bool {
			return single(rec.rtype) && old.Header().Rrtype == rec.rtype && old.Header().Name == rr.Header().Name
		})
		o.rrs = append(o.rrs, rr)
	}
	add(o.zone + " 600 IN SOA ns.z. host.z. 7 1 2 3 300")
	add(o.zone + " 600 IN NS ns.z.")
	for range 4 + r.IntN(25) {
		owner := nameText(randomOwner(r, top))
		switch r.IntN(12) {
		case 0:
			add(owner + " 60 IN CNAME " + name())
		case 1:
			add(owner + " 60 IN DNAME " + name())
		case 2:
			add(owner + " 60 IN NS " + name())
			add(owner + " 60 IN NS " + name())
		case 3:
			add(owner + " 60 IN MX 10 " + name())
		case 4:
			target := name()
			add(owner + " 60 IN SRV 1 2 3 " + target)
			if len(others) > 0 {
				add(owner + " 60 IN SRV 1 2 4 " + target)
			}
		case 5:
			add(owner + " 60 IN TXT hello")
		case 6:
			add("*." + owner + " 60 IN A 192.0.2.9")
		case 7:
			add("*." + owner + " 60 IN CNAME " + name())
		case 8:
			add(owner + " 60 IN AAAA 2001:db8::1")
		case 9:
			add(owner + " 60 IN DS 1 13 2 00")
		default:
			add(owner + " 60 IN A 192.0.2.1")
			add(owner + " 60 IN A 192.0.2.2")
		}
	}
	return o, e.finish()
}

// zoneZ is the zone of most tests with random records.
const zoneZ = "\x01z\x00"

func randomOwner(r *rand.Rand, top string) string {
	name := top
	for range r.IntN(4) {
		name = "\x01" + string("abc"[r.IntN(3)]) + name
	}
	return name
}

// texts is the records of a section, in an order of its own.
func texts(section []dns.RR) []string {
	var list []string
	for _, rr := range section {
		if rr.Header().Rrtype != dns.TypeOPT {
			list = append(list, strings.ToLower(rr.String()))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func testResponder(zones ...*zone) *responder {
	r := &responder{authoritative: true, udpSize: 1232}
	refs := make(map[string]*zoneRef)
	for _, z := range zones {
		ref := new(zoneRef)
		ref.current.Store(z)
		refs[z.key] = ref
	}
	r.zones.Store(newZoneSet(refs))
	return r
}

// ask sends a query the short way.
func answerTo(t testing.TB, r *responder, q *dns.Msg, how transport) *dns.Msg {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got := r.respond(r.newScratch(), nil, wire, &asker{addr: netip.MustParseAddrPort("192.0.2.1:5353"), transport: how})
	m := new(dns.Msg)
	if err := m.Unpack(got); err != nil {
		t.Fatalf("%v in %x, the answer to\n%v", err, got, q)
	}
	if err := orderly(m); err != nil {
		t.Fatalf("%v in\n%v", err, m)
	}
	return m
}

// orderly reports what no answer may have: a record twice in a section, or a set
// that is not in one piece with its signatures behind it.
func orderly(m *dns.Msg) error {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		if len(section) < 2 {
			continue
		}
		seen, ended := map[string]bool{}, map[string]bool{}
		last := ""
		for _, rr := range section {
			h := rr.Header()
			if h.Rrtype == dns.TypeOPT || h.Rrtype == dns.TypeTSIG {
				continue
			}
			r, err := packed(rr)
			if err != nil {
				return err
			}
			set := strings.ToLower(h.Name) + " " + dns.Type(h.Rrtype).String()
			whole := set + " " + canonicalData(r.rtype, r.data)
			if seen[whole] {
				return fmt.Errorf("twice: %v", rr)
			}
			seen[whole] = true
			if sig, ok := rr.(*dns.RRSIG); ok {
				covered := strings.ToLower(h.Name) + " " + dns.Type(sig.TypeCovered).String()
				if covered == last {
					continue
				}
				set += " of " + dns.Type(sig.TypeCovered).String()
			}
			if set != last && ended[set] {
				return fmt.Errorf("in pieces: %v", rr)
			}
			last, ended[set] = set, true
		}
	}
	return nil
}

func TestAnswersAgainstOracle(t *testing.T) {
	seen := map[string]int{}
	r := rand.New(rand.NewPCG(5, 6))
	for range 400 {
		o, z := randomZone(r, zoneZ)
		checkOracle(t, r, oracles{o}, testResponder(z), seen)
	}
	for range 50 {
		var list oracles
		var zones []*zone
		for _, top := range severalZones() {
			o, z := randomZone(r, top, severalZones()...)
			list, zones = append(list, o), append(zones, z)
		}
		checkOracle(t, r, list, testResponder(zones...), seen)
	}
	if testing.Verbose() {
		t.Log(seen)
	}
	if len(seen) < 15 {
		t.Errorf("not much was tried: %v", seen)
	}
}

// severalZones are the names of zones of one server, of which one is below
// another.
func severalZones() []string { return []string{zoneZ, "\x01a" + zoneZ, "\x01y\x00"} }

func checkOracle(t *testing.T, r *rand.Rand, list oracles, resp *responder, seen map[string]int) {
	t.Helper()
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeCNAME, dns.TypeDNAME, dns.TypeMX, dns.TypeSRV, dns.TypeTXT, dns.TypeDS, dns.TypeSOA, dns.TypeANY}
	for range 100 {
		name := nameText(randomOwner(r, zoneZ))
		switch r.IntN(20) {
		case 0:
			name = "x."
		case 1:
			name = strings.ToUpper(name)
		case 2:
			name = "x." + name
		}
		qtype := types[r.IntN(len(types))]
		q := new(dns.Msg).SetQuestion(name, qtype)
		if r.IntN(2) == 0 {
			q.SetEdns0(4000, r.IntN(2) == 0)
		}
		got, want := answerTo(t, resp, q, overUDP), list.answer(name, qtype)
		if got.Truncated {
			got, seen["truncated"] = answerTo(t, resp, q, overTCP), seen["truncated"]+1
			if qtype == dns.TypeANY {
				continue
			}
		}
		problem := ""
		switch {
		case got.Id != q.Id || !got.Response || got.RecursionAvailable || !got.RecursionDesired || len(got.Question) != 1 || got.Question[0] != q.Question[0]:
			problem = "head"
		case got.Rcode != want.Rcode || got.Authoritative != want.Authoritative:
			problem = "code"
		case !slices.Equal(texts(got.Answer), texts(want.Answer)):
			problem = "answer"
		case !slices.Equal(texts(got.Ns), texts(want.Ns)):
			problem = "authority"
		case !slices.Equal(texts(got.Extra), texts(want.Extra)):
			problem = "additional"
		}
		if problem != "" {
			var rrs []dns.RR
			for _, o := range list {
				rrs = append(rrs, o.rrs...)
			}
			t.Fatalf("%s: got\n%v\nwant\n%v\nof\n%v", problem, got, &want, strings.Join(texts(rrs), "\n"))
		}
		seen[fmt.Sprintf("%s %t %d %d %d", dns.RcodeToString[got.Rcode], got.Authoritative, min(len(got.Answer), 3), min(len(got.Ns), 2), min(len(got.Extra), 2))]++
	}
}
