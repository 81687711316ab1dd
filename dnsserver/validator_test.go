package dnsserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// validator checks answers of zones as a resolver does that trusts their keys
// (RFC 4035 section 5, RFC 5155 section 8, RFC 9824). It shares no code with
// what it checks but the order of names, which has a test of its own.
type validator struct {
	zone  string
	other []string // zones that aliases lead to
	plain []string // those of all that are not signed
	keys  []*dns.DNSKEY
	now   time.Time
	// sigs counts signatures that were verified.
	sigs int
}

// zoneOf returns the zone that answers for a name, or "".
func (v *validator) zoneOf(name string, qtype uint16) (found string) {
	for _, zone := range append([]string{v.zone}, v.other...) {
		above := qtype == dns.TypeDS && strings.EqualFold(zone, name) && v.zoneOf(name, dns.TypeNone) == zone && v.zoneOf(parentOf(name), dns.TypeNone) != ""
		if dns.IsSubDomain(zone, name) && len(zone) > len(found) && !above {
			found = zone
		}
	}
	return found
}

type rrKey struct {
	name  string
	rtype uint16
}

func groups(section []dns.RR) (sets map[rrKey][]dns.RR, sigs map[rrKey][]*dns.RRSIG) {
	sets, sigs = map[rrKey][]dns.RR{}, map[rrKey][]*dns.RRSIG{}
	for _, rr := range section {
		name := strings.ToLower(rr.Header().Name)
		switch rr := rr.(type) {
		case *dns.RRSIG:
			k := rrKey{name, rr.TypeCovered}
			sigs[k] = append(sigs[k], rr)
		case *dns.OPT:
		default:
			k := rrKey{name, rr.Header().Rrtype}
			sets[k] = append(sets[k], rr)
		}
	}
	return sets, sigs
}

// verify checks the signatures of a set, all of which must be good.
func (v *validator) verify(set []dns.RR, sigs []*dns.RRSIG) error {
	head := set[0].Header()
	if len(sigs) == 0 {
		return fmt.Errorf("%s %s has no signature", head.Name, dns.Type(head.Rrtype))
	}
	for _, sig := range sigs {
		good := false
		for _, key := range v.keys {
			if key.KeyTag() == sig.KeyTag && sig.Verify(key, set) == nil {
				good = true
			}
		}
		if !good {
			return fmt.Errorf("a bad signature: %v of %v", sig, set)
		}
		if !sig.ValidityPeriod(v.now) {
			return fmt.Errorf("not at its time %v: %v", v.now, sig)
		}
		if sig.Hdr.Ttl != head.Ttl {
			return fmt.Errorf("TTL %d, but that of the set is %d", sig.Hdr.Ttl, head.Ttl)
		}
		v.sigs++
	}
	return nil
}

// sections verifies all sets of answer and authority that must be signed.
func (v *validator) sections(m *dns.Msg, referral string) error {
	for i, section := range [][]dns.RR{m.Answer, m.Ns} {
		sets, sigs := groups(section)
		for k, set := range sets {
			switch {
			case i == 1 && k.rtype == dns.TypeNS && k.name == referral:
				if len(sigs[k]) > 0 {
					return fmt.Errorf("a signed delegation: %v", set)
				}
				continue
			case k.rtype == dns.TypeCNAME && len(sigs[k]) == 0 && v.byDNAME(k.name, sets):
				continue
			}
			if len(sigs[k]) == 0 && slices.Contains(v.plain, v.zoneOf(k.name, k.rtype)) {
				continue
			}
			if err := v.verify(set, sigs[k]); err != nil {
				return err
			}
		}
		for k := range sigs {
			if sets[k] == nil && k.rtype != dns.TypeANY && m.Question[0].Qtype != dns.TypeRRSIG {
				return fmt.Errorf("a signature of nothing: %v", k)
			}
		}
	}
	return nil
}

func (v *validator) byDNAME(name string, sets map[rrKey][]dns.RR) bool {
	for k := range sets {
		if k.rtype == dns.TypeDNAME && name != k.name && dns.IsSubDomain(k.name, name) {
			return true
		}
	}
	return false
}

// answer checks a whole answer.
func (v *validator) answer(m *dns.Msg) error {
	name, qtype := strings.ToLower(m.Question[0].Name), m.Question[0].Qtype
	if qtype == dns.TypeRRSIG || v.zoneOf(name, qtype) == "" {
		return nil
	}
	answers, sigs := groups(m.Answer)
	authority, _ := groups(m.Ns)
	referral := ""
	for k := range authority {
		if k.rtype == dns.TypeNS && v.zoneOf(k.name, dns.TypeNone) != k.name {
			referral = k.name
		}
	}
	if err := v.sections(m, referral); err != nil {
		return err
	}
	var zone string
	var p proofList
	been := map[string]bool{}
	for {
		if been[name] || len(been) > maxChain-1 {
			return nil // a circle, or a chain that is too long
		}
		if zone = v.zoneOf(name, qtype); zone == "" {
			return nil
		}
		if p = proofs(m.Ns, zone); qtype == dns.TypeNSEC {
			p = append(p, proofs(m.Answer, zone)...)
		}
		types := []uint16{qtype, dns.TypeCNAME}
		if qtype == dns.TypeANY {
			types = nil
			for k := range answers {
				if k.name == name && k.rtype != dns.TypeCNAME {
					types = append(types, k.rtype)
				}
			}
			types = append(types, dns.TypeCNAME)
		}
		var set []dns.RR
		for _, t := range types {
			if set = answers[rrKey{name, t}]; set != nil {
				break
			}
		}
		if set == nil {
			break
		}
		k := rrKey{name, set[0].Header().Rrtype}
		if s := sigs[k]; len(s) > 0 && int(s[0].Labels) < dns.CountLabel(name) && !strings.HasPrefix(name, "*.") {
			if err := p.noBetter(name, int(s[0].Labels)); err != nil {
				return fmt.Errorf("from a wildcard: %w", err)
			}
		}
		if k.rtype != dns.TypeCNAME || qtype == dns.TypeCNAME || qtype == dns.TypeANY {
			return nil
		}
		been[name] = true
		name = strings.ToLower(set[0].(*dns.CNAME).Target)
	}
	switch {
	case slices.Contains(v.plain, zone):
		return nil
	case referral != "":
		if authority[rrKey{referral, dns.TypeDS}] != nil {
			return nil
		}
		return p.noData(referral, dns.TypeDS, true)
	case m.Rcode == dns.RcodeYXDomain:
		return nil
	case authority[rrKey{zone, dns.TypeSOA}] == nil && qtype != dns.TypeNSEC:
		return errors.New("neither an answer nor a SOA record")
	case m.Rcode == dns.RcodeNameError:
		return p.noName(name)
	}
	return p.noData(name, qtype, false)
}

type proofList []dns.RR

// proofs returns those that the keys of a zone have signed.
func proofs(section []dns.RR, zone string) (p proofList) {
	_, sigs := groups(section)
	for _, rr := range section {
		k := rrKey{strings.ToLower(rr.Header().Name), rr.Header().Rrtype}
		if (k.rtype == dns.TypeNSEC || k.rtype == dns.TypeNSEC3) && slices.ContainsFunc(sigs[k], func(sig *dns.RRSIG) bool { return strings.EqualFold(sig.SignerName, zone) }) {
			p = append(p, rr)
		}
	}
	return p
}

func before(a, b string) int {
	wa, _ := wireName(a)
	wb, _ := wireName(b)
	return compareNames(wa, wb)
}

func nsec3Hash(name string) string { return dns.HashName(name, dns.SHA1, 0, "") }

func parentOf(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[i:]
}

// match returns the types that a record says a name has.
func (p proofList) match(name string) (types []uint16, ok bool) {
	for _, rr := range p {
		switch rr := rr.(type) {
		case *dns.NSEC:
			if strings.EqualFold(rr.Hdr.Name, name) {
				return rr.TypeBitMap, true
			}
		case *dns.NSEC3:
			if strings.EqualFold(strings.SplitN(rr.Hdr.Name, ".", 2)[0], nsec3Hash(name)) {
				return rr.TypeBitMap, true
			}
		}
	}
	return nil, false
}

// cover reports whether a record says that there is no record at a name. next is
// the end of the gap, if that is told.
func (p proofList) cover(name string) (owner, next string, ok bool) {
	for _, rr := range p {
		switch rr := rr.(type) {
		case *dns.NSEC:
			wraps := before(rr.NextDomain, rr.Hdr.Name) <= 0
			if before(rr.Hdr.Name, name) < 0 && (wraps || before(name, rr.NextDomain) < 0) {
				cut := slices.Contains(rr.TypeBitMap, dns.TypeNS) && !slices.Contains(rr.TypeBitMap, dns.TypeSOA)
				if (cut || slices.Contains(rr.TypeBitMap, dns.TypeDNAME)) && dns.IsSubDomain(rr.Hdr.Name, name) {
					continue // RFC 6840 section 4.1
				}
				return strings.ToLower(rr.Hdr.Name), strings.ToLower(rr.NextDomain), true
			}
		case *dns.NSEC3:
			h, a, b := nsec3Hash(name), strings.ToUpper(strings.SplitN(rr.Hdr.Name, ".", 2)[0]), strings.ToUpper(rr.NextDomain)
			if a < h && h < b || b <= a && (a < h || h < b) {
				return "", "", true
			}
		}
	}
	return "", "", false
}

func (p proofList) hashed() bool { return len(p) > 0 && p[0].Header().Rrtype == dns.TypeNSEC3 }

// encloser returns the nearest name above one that is proven to exist, with the
// proof that the name below that does not.
func (p proofList) encloser(name string) (string, error) {
	if !p.hashed() {
		owner, next, ok := p.cover(name)
		if !ok {
			return "", fmt.Errorf("nothing covers %s", name)
		}
		if dns.IsSubDomain(name, next) {
			return "", fmt.Errorf("%s is an empty non-terminal", name)
		}
		for up := parentOf(name); ; up = parentOf(up) {
			if dns.IsSubDomain(up, owner) || dns.IsSubDomain(up, next) {
				return up, nil
			}
		}
	}
	for closer, up := name, parentOf(name); closer != "."; closer, up = up, parentOf(up) {
		if _, ok := p.match(up); ok {
			if _, _, ok := p.cover(closer); !ok {
				return "", fmt.Errorf("nothing covers %s", closer)
			}
			return up, nil
		}
	}
	return "", fmt.Errorf("nothing above %s is shown to exist", name)
}

func (p proofList) noName(name string) error {
	if types, ok := p.match(name); ok {
		if slices.Contains(types, dns.TypeNXNAME) {
			return nil
		}
		return fmt.Errorf("%s exists", name)
	}
	up, err := p.encloser(name)
	if err != nil {
		return err
	}
	_, next, ok := p.cover("*." + up)
	if !ok {
		return fmt.Errorf("nothing covers *.%s", up)
	}
	if !p.hashed() && dns.IsSubDomain("*."+up, next) {
		return fmt.Errorf("*.%s is an empty non-terminal", up)
	}
	return nil
}

// noBetter checks that a wildcard with some labels above it is the best match.
func (p proofList) noBetter(name string, labels int) error {
	closer := name
	for dns.CountLabel(closer) > labels+1 {
		closer = parentOf(closer)
	}
	if !p.hashed() {
		closer = name
	}
	if _, _, ok := p.cover(closer); !ok {
		return fmt.Errorf("nothing covers %s", closer)
	}
	return nil
}

func (p proofList) noData(name string, rtype uint16, delegation bool) error {
	has := func(types []uint16) error {
		if slices.Contains(types, rtype) || slices.Contains(types, dns.TypeCNAME) && rtype != dns.TypeNSEC {
			if rtype == dns.TypeNSEC {
				return nil // an NSEC record in the answer
			}
			return fmt.Errorf("%s has %s or CNAME", name, dns.Type(rtype))
		}
		if delegation && (!slices.Contains(types, dns.TypeNS) || slices.Contains(types, dns.TypeSOA)) {
			return fmt.Errorf("%s is no delegation", name)
		}
		return nil
	}
	if types, ok := p.match(name); ok {
		return has(types)
	}
	if delegation {
		return fmt.Errorf("nothing is about %s", name)
	}
	if _, next, ok := p.cover(name); ok && !p.hashed() && dns.IsSubDomain(name, next) {
		return nil
	}
	up, err := p.encloser(name)
	if err != nil {
		return err
	}
	types, ok := p.match("*." + up)
	if !ok {
		if _, next, ok := p.cover("*." + up); ok && !p.hashed() && dns.IsSubDomain("*."+up, next) {
			return nil
		}
		return fmt.Errorf("nothing is about *.%s", up)
	}
	return has(types)
}

// whole checks all records of a zone: what must be signed is, what must not is
// not, and the chain is the one that follows from the names.
func (v *validator) whole(z *zone, mode string) error {
	var rrs []dns.RR
	for r := range z.records() {
		rr, err := r.unpack()
		if err != nil {
			return err
		}
		rrs = append(rrs, rr)
	}
	sets, sigs := groups(rrs)
	cuts := map[string]bool{}
	for k := range sets {
		if k.rtype == dns.TypeNS && k.name != v.zone || k.rtype == dns.TypeDNAME {
			cuts[k.name] = true
		}
	}
	hidden := func(name string) bool {
		for name != v.zone {
			if name = parentOf(name); cuts[name] {
				return true
			}
		}
		return false
	}
	types := map[string][]uint16{}
	for k, set := range sets {
		cut := sets[rrKey{k.name, dns.TypeNS}] != nil && k.name != v.zone
		signed := !hidden(k.name) && (!cut || k.rtype == dns.TypeDS || k.rtype == dns.TypeNSEC)
		if !signed {
			if len(sigs[k]) > 0 {
				return fmt.Errorf("%v is signed", k)
			}
		} else if err := v.verify(set, sigs[k]); err != nil {
			return err
		}
		if !hidden(k.name) && k.rtype != dns.TypeNSEC3 && (signed || k.rtype == dns.TypeNS) {
			types[k.name] = append(types[k.name], k.rtype)
		}
	}
	for k := range sigs {
		if sets[k] == nil {
			return fmt.Errorf("a signature of nothing: %v", k)
		}
	}
	for k := range z.nodes.from("") { // ALIAS records show in no other way
		name := strings.ToLower(nameText(z.nameOf(k)))
		if types[name] == nil && k.set(typeALIAS) != nil && !hidden(name) {
			types[name] = []uint16{}
		}
	}
	var names []string
	for name := range types {
		names = append(names, name)
	}
	switch mode {
	case denialNSEC:
		slices.SortFunc(names, before)
		for i, name := range names {
			set := sets[rrKey{name, dns.TypeNSEC}]
			if len(set) != 1 {
				return fmt.Errorf("%s has %d NSEC records", name, len(set))
			}
			nsec := set[0].(*dns.NSEC)
			list := types[name]
			list = append(list, dns.TypeRRSIG)
			slices.Sort(list)
			if next := names[(i+1)%len(names)]; nsec.NextDomain != next || !slices.Equal(nsec.TypeBitMap, list) {
				return fmt.Errorf("%v: should have %s and %v", nsec, next, list)
			}
		}
	case denialNSEC3:
		want := map[string][]uint16{}
		for _, name := range names {
			list := types[name]
			if len(list) > 0 && !slices.Equal(list, []uint16{dns.TypeNS}) || name == v.zone {
				list = append(list, dns.TypeRRSIG)
			}
			slices.Sort(list)
			want[nsec3Hash(name)] = list
			for up := name; up != v.zone; {
				up = parentOf(up)
				if types[up] == nil {
					want[nsec3Hash(up)] = nil
				}
			}
		}
		var hashes []string
		for h := range want {
			hashes = append(hashes, h)
		}
		slices.Sort(hashes)
		for i, h := range hashes {
			set := sets[rrKey{strings.ToLower(h) + "." + v.zone, dns.TypeNSEC3}]
			if len(set) != 1 {
				return fmt.Errorf("%s has %d NSEC3 records", h, len(set))
			}
			nsec := set[0].(*dns.NSEC3)
			if next := hashes[(i+1)%len(hashes)]; strings.ToUpper(nsec.NextDomain) != next || !slices.Equal(nsec.TypeBitMap, want[h]) {
				return fmt.Errorf("%v: should have %s and %v", nsec, next, want[h])
			}
			delete(sets, rrKey{strings.ToLower(h) + "." + v.zone, dns.TypeNSEC3})
		}
		for k := range sets {
			if k.rtype == dns.TypeNSEC3 {
				return fmt.Errorf("%v is too many", k)
			}
		}
	}
	for k := range sets {
		if k.rtype == dns.TypeNSEC && (mode != denialNSEC || types[k.name] == nil || hidden(k.name)) {
			return fmt.Errorf("%v is too many", k)
		}
	}
	return nil
}
