package records

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/auth/spf"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// State is what DNS says about a record.
type State string

// The states.
const (
	OK      State = "ok"
	Missing State = "missing"
	Wrong   State = "wrong"
	Unknown State = "unknown" // DNS did not answer
)

// Finding is a record that is wanted, and what is there.
type Finding struct {
	Record
	State State
	// Found is what is there in its place, at most maxFound values. It comes from
	// strangers.
	Found []string
	// Note says what is wrong, or what to know though it is not.
	Note string
}

// maxFound bounds what is kept of an answer.
const maxFound = 10

// Check looks the records up. What does the same as a wanted record is ok: an
// SPF policy that lets the server send, another DMARC policy, further MX hosts.
func Check(ctx context.Context, r lookup.Resolver, s *Settings, want []Record) []Finding {
	c := checker{ctx, r, s}
	list := make([]Finding, len(want))
	for i, record := range want {
		f := &list[i]
		f.Record = record
		f.State = OK
		switch {
		case record.Type == "MX":
			c.mx(f)
		case record.Type != "TXT":
			c.address(f)
		case record.Kind == SPF:
			c.spf(f)
		case record.Kind == DKIM:
			c.dkim(f)
		case record.Kind == DMARC:
			c.dmarc(f)
		case record.Kind == MTASTS:
			c.sts(f)
		case record.Kind == TLSRPT:
			c.tlsrpt(f)
		}
	}
	return list
}

type checker struct {
	ctx      context.Context
	resolver lookup.Resolver
	s        *Settings
}

func (f *Finding) say(state State, format string, args ...any) {
	f.State, f.Note = state, fmt.Sprintf(format, args...)
}

func (f *Finding) unknown(err error) { f.say(Unknown, "DNS: %v", err) }

// find adds something that is there.
func (f *Finding) find(value string) {
	if len(f.Found) < maxFound {
		f.Found = append(f.Found, value)
	}
}

func (c *checker) mx(f *Finding) {
	list, err := c.resolver.LookupMX(c.ctx, f.Name+".")
	if len(list) == 0 {
		if f.State = Missing; err != nil && !lookup.NotFound(err) {
			f.unknown(err)
		}
		return
	}
	var others []string
	ours, first := -1, int(list[0].Pref)
	for _, mx := range list {
		host, err := lookup.Domain(mx.Host)
		if err != nil {
			host = mx.Host // "." is none (RFC 7505)
		}
		f.find(fmt.Sprintf("%d %s", mx.Pref, mx.Host))
		first = min(first, int(mx.Pref))
		if host == c.s.Hostname || ours < 0 && c.leadsHere(host) {
			ours = int(mx.Pref)
		} else {
			others = append(others, fmt.Sprintf("%q", host))
		}
	}
	others = others[:min(len(others), maxFound)]
	switch {
	case ours < 0:
		f.say(Wrong, "mail goes to %s, and not to this server", strings.Join(others, ", "))
	case first < ours:
		f.say(OK, "mail goes to others before this server: %s", strings.Join(f.Found, ", "))
	case len(others) > 0:
		f.say(OK, "mail may also go to %s", strings.Join(others, ", "))
	}
}

// leadsHere reports whether a host has an address of the server.
func (c *checker) leadsHere(host string) bool {
	if len(c.s.Addrs) == 0 || host == "." {
		return false
	}
	addrs, err := c.addrs(host)
	return err == nil && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(c.s.Addrs, a) })
}

func (c *checker) addrs(host string) ([]netip.Addr, error) {
	list, err := c.resolver.LookupIPAddr(c.ctx, host+".")
	if err != nil && !lookup.NotFound(err) {
		return nil, err
	}
	var addrs []netip.Addr
	for _, ip := range list {
		if a, ok := netip.AddrFromSlice(ip.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs, nil
}

func (c *checker) address(f *Finding) {
	addrs, err := c.addrs(f.Name)
	if err != nil {
		f.unknown(err)
		return
	}
	same := 0 // of the family that is wanted
	for _, a := range addrs {
		f.find(a.String())
		if f.Type == "CNAME" || a.Is4() == (f.Type == "A") {
			same++
		}
	}
	switch {
	case same == 0:
		f.State = Missing
	case f.Type == "CNAME" || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.String() == f.Value }):
	case f.Kind == MTASTS:
		f.say(OK, "it leads elsewhere, and the policy has to be served there")
	default:
		f.say(Wrong, "it leads to %s", strings.Join(f.Found, ", "))
	}
}

// text returns the TXT record at a name that begins with a version tag, and
// reports whether there is exactly one. The finding says so otherwise.
func (c *checker) text(f *Finding, version string) (text string, ok bool) {
	all, err := lookup.TXT(c.ctx, c.resolver, f.Name)
	if err != nil {
		f.unknown(err)
		return "", false
	}
	n := 0
	for _, t := range all {
		if isVersion(t, version) {
			f.find(t)
			text, n = t, n+1
		}
	}
	switch {
	case n == 0:
		f.State = Missing
	case n > 1:
		f.say(Wrong, "there are %d records that begin with %s, and so none counts", n, version)
	}
	return text, n == 1
}

// isVersion reports whether a text begins with a version tag as "v=spf1".
func isVersion(text, version string) bool {
	name, want, _ := strings.Cut(version, "=")
	got, rest, ok := strings.Cut(text, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(got), name) {
		return false
	}
	rest = strings.TrimLeft(rest, " \t")
	if len(rest) < len(want) || !strings.EqualFold(rest[:len(want)], want) {
		return false
	}
	rest = rest[len(want):]
	return rest == "" || strings.ContainsRune(" \t;", rune(rest[0]))
}

func (c *checker) spf(f *Finding) {
	if _, ok := c.text(f, "v=spf1"); !ok {
		return
	}
	if len(c.s.Addrs) == 0 {
		f.say(OK, "whether it lets this server send is not known, as publicIp does not say its addresses")
		return
	}
	for _, a := range c.s.Addrs {
		q := spf.Request{IP: a, Helo: f.Name, Hostname: c.s.Hostname}
		if f.Name == c.s.Domain {
			q.MailFrom = "postmaster@" + f.Name
		}
		switch result := spf.Check(c.ctx, c.resolver, q); result.Code {
		case spf.Pass:
		case spf.TempError:
			f.unknown(result.Err)
			return
		case spf.PermError:
			f.say(Wrong, "it is in error: %v", result.Err)
			return
		default:
			f.say(Wrong, "it does not let %s send: %s", a, result.Code)
			return
		}
	}
}

func (c *checker) dkim(f *Finding) {
	list, err := lookup.TXT(c.ctx, c.resolver, f.Name)
	if err != nil {
		f.unknown(err)
		return
	}
	for _, t := range list {
		f.find(t)
	}
	switch {
	case len(list) == 0:
		f.State = Missing
	case !slices.ContainsFunc(list, func(t string) bool { return SameKey(t, f.Value) }):
		f.say(Wrong, "there is another key, or none")
	case len(list) > 1:
		f.say(Wrong, "there are %d records, and verifiers may take any of them (RFC 6376 section 3.6.2.2)", len(list))
	}
}

// SameKey reports whether two DKIM records have the same public key.
func SameKey(a, b string) bool {
	key := func(text string) (kind string, p []byte, ok bool) {
		tags, err := dkim.ParseTags(text)
		if err != nil {
			return "", nil, false
		}
		if v, given := tags.Get("v"); given && v != "DKIM1" {
			return "", nil, false
		}
		if kind, ok = tags.Get("k"); !ok {
			kind = "rsa"
		}
		switch value, given := tags.Get("p"); {
		case !given:
			return "", nil, false
		case value == "":
			return kind, nil, true // it is revoked
		}
		p, err = tags.Base64("p")
		return kind, p, err == nil
	}
	kindA, keyA, okA := key(a)
	kindB, keyB, okB := key(b)
	return okA && okB && kindA == kindB && string(keyA) == string(keyB)
}

func (c *checker) dmarc(f *Finding) {
	text, ok := c.text(f, "v=DMARC1")
	record, _ := dmarc.ParseRecord(text)
	switch {
	case ok && !IsDMARC(text) && len(record.Aggregate) == 0:
		f.say(Wrong, "%q is no policy", text)
	case ok && !IsDMARC(text):
		f.say(OK, "%q has no valid p, and is taken as p=none", text)
	}
	if f.State != Missing {
		return
	}
	// That of a domain above may do.
	from := message.Header{{Name: "From", Raw: []byte("From: postmaster@" + c.s.Domain + "\r\n")}}
	switch result := dmarc.Check(c.ctx, c.resolver, from, dmarc.Identifiers{}); {
	case result.Code == dmarc.TempError:
		f.unknown(result.Err)
	case result.Record != nil && result.PolicyDomain != c.s.Domain:
		f.say(OK, "the policy is that of %s: %s", result.PolicyDomain, result.Requested)
	}
}

// IsDMARC reports whether a text is a DMARC policy record that is well-formed and
// says what to do (RFC 9989 section 4.7).
func IsDMARC(text string) bool {
	tags, err := dkim.ParseTags(text)
	if err != nil || len(tags) == 0 || tags[0].Name != "v" || tags[0].Value != "DMARC1" {
		return false
	}
	p, _ := tags.Get("p")
	return slices.Contains([]string{"none", "quarantine", "reject"}, strings.ToLower(p))
}

func (c *checker) sts(f *Finding) {
	text, ok := c.text(f, "v=STSv1")
	if !ok {
		return
	}
	tags, err := dkim.ParseTags(text)
	id, _ := tags.Get("id")
	switch {
	case err != nil || id == "":
		f.say(Wrong, "it has no id")
	case c.s.STS != nil && id != c.s.STS.ID():
		f.say(Wrong, "it has another id, so senders who know it do not look whether the policy has changed")
	}
}

func (c *checker) tlsrpt(f *Finding) {
	text, ok := c.text(f, "v=TLSRPTv1")
	if !ok {
		return
	}
	tags, err := dkim.ParseTags(text)
	if rua, _ := tags.Get("rua"); err != nil || rua == "" {
		f.say(Wrong, "it does not say where reports go")
	}
}
