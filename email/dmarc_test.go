package email

import (
	"context"
	"net"
	"strings"
	"testing"
)

// failing is a resolver that does not answer for some names.
type failing struct {
	Resolver
	suffix string
}

func (r failing) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if strings.HasSuffix(name, r.suffix) {
		return nil, &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	}
	return r.Resolver.LookupTXT(ctx, name)
}

// Mail whose author's domain may have a policy that DNS does not tell for now
// comes again, unless the domain itself has sent it.
func TestDMARCWithoutDNS(t *testing.T) {
	dns := resolver(t, `sent.down.example. TXT "v=spf1 ip4:127.0.0.1 -all"`)
	m := newMailbox(nil)
	s := start(t, Config{
		Domains: []Domain{{Domain: "strict.example"}, {Domain: "soft.example", DMARC: QuarantineDMARC}, {Domain: "lax.example", DMARC: MonitorDMARC}},
		Routes:  routes(t, `[{"name":"in","action":{"type":"deliver"}}]`),
	}, WithMailbox(m.take), WithResolver(failing{dns, "_dmarc.sent.down.example."}))
	for _, test := range []struct{ author, from, to, want string }{
		{"sent.down.example", "a@forger.example", "x@strict.example", "451 4.7.1"},
		{"sent.down.example", "a@forger.example", "x@soft.example", "451 4.7.1"},
		{"sent.down.example", "a@forger.example", "x@lax.example", "250"},
		{"sent.down.example", "a@sent.down.example", "x@strict.example", "250"},
		{"nopolicy.example", "a@forger.example", "x@strict.example", "250"},
	} {
		had := len(m.all())
		if got := s.dial().hello().send(test.from, test.to, strings.Replace(hi, "a@example.net", "a@"+test.author, 1)); !strings.HasPrefix(got, test.want) {
			t.Errorf("%+v: %q", test, got)
		}
		if got := len(m.all()) - had; (got == 1) != (test.want == "250") {
			t.Errorf("%+v: %d delivered", test, got)
		}
	}
}

// hostile is a resolver of the host that panics.
type hostile struct{ Resolver }

func (hostile) LookupTXT(context.Context, string) ([]string, error) { panic("no resolver at all") }

// A resolver that panics is one that does not answer, wherever it is asked: about a
// message, or by what looks after the domains.
func TestResolverPanics(t *testing.T) {
	log := new(safeLog)
	s := start(t, Config{Routes: toMailboxes}, WithMailbox(newMailbox(nil).take), WithResolver(hostile{resolver(t, "")}), WithLogger(log.logger()))
	for range 2 {
		if got := s.dial().hello().send("a@forger.example", "x@example.com", hi); !strings.HasPrefix(got, "451 4.7.1") {
			t.Errorf("%q", got)
		}
	}
	waitFor(t, func() bool { return strings.Contains(log.String(), "default._domainkey.example.com") })
	if text := log.String(); !strings.Contains(text, "no resolver at all") || !strings.Contains(text, "hostile.LookupTXT") {
		t.Error(text)
	}
}
