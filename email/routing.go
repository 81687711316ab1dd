package email

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/internal/glob"
)

// routeTable is a compiled list of routes. It is immutable.
type routeTable struct {
	given  []Route  // as UpdateRoutes got them
	routes []*route // those in service, the first to decide first
	byName map[string]*route
	// beyond the envelope: some route looks at these
	header, attachments bool
}

// route is a compiled Route.
type route struct {
	Route
	index       int // in given
	recipients  []glob.Pattern
	senders     []glob.Pattern
	clients     []netip.Prefix
	headers     []headerCondition
	subject     *glob.Pattern
	trusts      bool                // its clientIp names who may relay
	namesDomain bool                // its recipients name the domains it is for
	hop         atomic.Pointer[hop] // made when it is needed
}

type headerCondition struct {
	name    string
	pattern glob.Pattern
}

// facts is what is known of a message, more from phase to phase.
type facts struct {
	client        netip.Addr
	authenticated bool
	sender        string // "" is the null sender
	recipient     string

	// After the message has arrived:
	content *content // nil before
}

// content is what routes can look at in a message.
type content struct {
	header      message.Header
	size        int64
	attachments bool // valid where the table asks for it
}

// verdict is what a condition says of facts that may be incomplete.
type verdict int

const (
	no verdict = iota
	maybe
	yes
)

// compileRoutes expects routes that Validate has passed. forwards come after all
// others, and are not among those given.
func compileRoutes(routes, forwards []Route) *routeTable {
	t := &routeTable{given: routes}
	t.byName = make(map[string]*route)
	for i := range routes {
		r := &routes[i]
		if r.Enabled != nil && !*r.Enabled {
			continue
		}
		t.routes = append(t.routes, compileRoute(r, i))
		t.header = t.header || len(r.Match.Headers) > 0 || r.Match.Subject != ""
		t.attachments = t.attachments || r.Match.HasAttachments != nil
	}
	slices.SortStableFunc(t.routes, func(a, b *route) int { return cmp.Compare(b.Priority, a.Priority) })
	for i := range forwards {
		t.routes = append(t.routes, compileRoute(&forwards[i], len(routes)))
	}
	for _, r := range t.routes {
		if r.Name != "" && r.Action.Type != Reject {
			t.byName[r.Name] = r
		}
	}
	for _, name := range []string{outgoing, takesBack} {
		t.byName[name] = &route{Route: Route{Name: name, Action: Action{Type: Process}}}
	}
	t.byName[takesBack].Action.Type = takesBack
	return t
}

// Names of routes that are always there, which no route of the configuration can
// have.
const (
	// outgoing takes mail of this server to the MX hosts of its recipients.
	outgoing = "(outgoing)"
	// takesBack takes bounces of and complaints about mail that was sent; it is
	// also a type of action.
	takesBack = "(returns)"
)

// named finds a route that takes mail by its name. It is nil for one without, or
// one that is no longer there.
func (t *routeTable) named(name string) *route { return t.byName[name] }

// lets reports whether the route's clientIp lets a client relay.
func (r *route) lets(client netip.Addr) bool {
	return r.trusts && r.matchClient(client)
}

// knows reports whether a client is one of those whom some route lets relay.
func (t *routeTable) knows(client netip.Addr) bool {
	return slices.ContainsFunc(t.routes, func(r *route) bool { return r.lets(client) })
}

// forwards are the routes of domains that have a server to forward to.
func (s *Server) forwards() []Route {
	var list []Route
	for _, d := range s.cfg.Domains {
		f := d.DNS.Forward
		if valueOr(d.DNSMode, s.cfg.Defaults.DNSMode) != ForwardDNS || f == nil || f.TargetDomain == "" {
			continue
		}
		list = append(list, Route{
			Name:   "(forward " + d.Domain + ")",
			Match:  Match{Recipients: []string{"*@" + d.Domain}},
			Action: Action{Type: Forward, Forward: &ForwardAction{Host: f.TargetDomain}},
		})
	}
	return list
}

func compileRoute(r *Route, index int) *route {
	c := &route{Route: *r, index: index}
	m := &r.Match
	c.namesDomain = len(m.Recipients) > 0
	for _, p := range m.Recipients {
		c.recipients = append(c.recipients, mustPattern(asciiDomain(p)))
		c.namesDomain = c.namesDomain && namesDomain(p)
	}
	for _, p := range m.Senders {
		c.senders = append(c.senders, mustPattern(asciiDomain(p)))
	}
	c.trusts = len(m.ClientIP) > 0
	for _, p := range m.ClientIP {
		prefix := mustPrefix(p)
		c.clients = append(c.clients, prefix)
		c.trusts = c.trusts && prefix.Bits() > 0 // everybody is nobody in particular
	}
	for name, p := range m.Headers {
		c.headers = append(c.headers, headerCondition{name, mustPattern(p)})
	}
	if m.Subject != "" {
		p := mustPattern(m.Subject)
		c.subject = &p
	}
	return c
}

// mustPattern compiles what Validate has compiled before.
func mustPattern(s string) glob.Pattern {
	p, _ := glob.ParseFold(s)
	return p
}

// asciiDomain is an address, or a pattern of some, with its domain as the envelope
// has it, in A-labels (RFC 5890).
func asciiDomain(pattern string) string {
	local, domain, ok := cutAddress(pattern)
	if !ok || strings.HasPrefix(pattern, "/") || !beyondASCII(domain) {
		return pattern
	}
	labels := strings.Split(domain, ".")
	for i, label := range labels {
		if ascii, err := addr.ParseDomain(label); err == nil { // others have wildcards in them
			labels[i] = ascii
		}
	}
	return local + "@" + strings.Join(labels, ".")
}

// mustPrefix reads what Validate has read before.
func mustPrefix(s string) netip.Prefix {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	p, _ := netip.ParsePrefix(s)
	return p.Masked()
}

// namesDomain reports whether a pattern of recipients is a glob with a domain
// that is spelled out, as "*@example.com" is and "*" is not.
func namesDomain(pattern string) bool {
	if strings.HasPrefix(pattern, "/") {
		return false // who knows what a regular expression takes
	}
	at := strings.LastIndexByte(pattern, '@')
	if at < 0 {
		return false
	}
	domain := strings.TrimPrefix(pattern[at+1:], "*.")
	return strings.Contains(domain, ".") && !strings.ContainsAny(domain, "*?")
}

// decide finds the route for a recipient. It is final where more facts would
// not change it; a nil route that is final means that no route takes the mail.
// Otherwise it may be any of open.
func (t *routeTable) decide(f *facts) (r *route, open []*route) {
	for _, r := range t.routes {
		switch r.match(f) {
		case yes:
			if len(open) > 0 {
				return nil, append(open, r)
			}
			return r, nil
		case maybe:
			open = append(open, r)
		}
	}
	return nil, open
}

// match is yes if all conditions hold, no if one does not.
func (r *route) match(f *facts) verdict {
	m := &r.Match
	if m.Authenticated != nil && *m.Authenticated != f.authenticated ||
		len(r.clients) > 0 && !r.matchClient(f.client) ||
		len(r.senders) > 0 && !matchAny(r.senders, f.sender) ||
		len(r.recipients) > 0 && !matchAny(r.recipients, f.recipient) {
		return no
	}
	if f.content == nil {
		if m.SizeRange != (SizeRange{}) || m.HasAttachments != nil || len(r.headers) > 0 || r.subject != nil {
			return maybe
		}
		return yes
	}
	if s := m.SizeRange; f.content.size < s.Min || s.Max != 0 && f.content.size > s.Max {
		return no
	}
	if m.HasAttachments != nil && *m.HasAttachments != f.content.attachments {
		return no
	}
	for i := range r.headers {
		if !f.content.hasHeader(r.headers[i].name, &r.headers[i].pattern) {
			return no
		}
	}
	if r.subject != nil && !f.content.hasHeader("Subject", r.subject) {
		return no
	}
	return yes
}

func (r *route) matchClient(client netip.Addr) bool {
	return slices.ContainsFunc(r.clients, func(p netip.Prefix) bool { return p.Contains(client) })
}

func matchAny(patterns []glob.Pattern, s string) bool {
	return slices.ContainsFunc(patterns, func(p glob.Pattern) bool { return p.Match(s) })
}

// hasHeader reports whether a field of this name matches, as its reader sees it.
func (c *content) hasHeader(name string, p *glob.Pattern) bool {
	for _, f := range c.header.All(name) {
		if p.Match(message.DecodeHeader(f.Value())) {
			return true
		}
	}
	return false
}

// mayRelay reports whether mail may leave through the route: for who signed in,
// for clients that the route names, or to domains that are ours or that it
// names. Whatever else a route matches would make an open relay. Mail in the queue
// may have been taken by what the route was before, so nothing is taken for matched.
func (r *route) mayRelay(f *facts, ours func(domain string) bool) bool {
	switch r.Action.Type {
	case Reject, Deliver, takesBack:
		return true
	}
	if f.authenticated || r.lets(f.client) || r.namesDomain && matchAny(r.recipients, f.recipient) {
		return true
	}
	_, domain, _ := cutAddress(f.recipient)
	return ours(domain)
}

// cutAddress splits at the last @, which is not in quotes: a domain has none.
func cutAddress(address string) (local, domain string, ok bool) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return address, "", false
	}
	return address[:at], address[at+1:], true
}
