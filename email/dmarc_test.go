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
	for _, test := range []struct {
		author, from, to, want string
		quarantined            bool
	}{
		{"sent.down.example", "a@forger.example", "x@strict.example", "451 4.7.1", false},
		{"sent.down.example", "a@forger.example", "x@soft.example", "250", true},
		{"sent.down.example", "a@forger.example", "x@lax.example", "250", false},
		{"sent.down.example", "a@sent.down.example", "x@strict.example", "250", false},
		{"nopolicy.example", "a@forger.example", "x@strict.example", "250", false},
	} {
		before, had := s.Stats().Messages.Quarantined, len(m.all())
		if got := s.dial().hello().send(test.from, test.to, strings.Replace(hi, "a@example.net", "a@"+test.author, 1)); !strings.HasPrefix(got, test.want) {
			t.Errorf("%+v: %q", test, got)
		}
		if got := s.Stats().Messages.Quarantined - before; (got == 1) != test.quarantined {
			t.Errorf("%+v: %d quarantined", test, got)
		}
		if got := len(m.all()) - had; (got == 1) != (test.want == "250" && !test.quarantined) {
			t.Errorf("%+v: %d delivered", test, got)
		}
	}
}
