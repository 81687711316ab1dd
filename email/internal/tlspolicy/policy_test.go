package tlspolicy

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/dnsc"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Which policy counts, by what a real validating resolver and real policy hosts
// say.
func TestPrecedence(t *testing.T) {
	testenv.Goroutines(t)
	h := startPolicyHost(t, nil)
	hash := strings.Repeat("ab", 32)
	records := `
dane A 192.0.2.1
_25._tcp.dane TLSA 3 1 1 ` + hash + `
none A 192.0.2.1
unusable A 192.0.2.1
_25._tcp.unusable TLSA 0 0 1 ` + hash + `
alias CNAME dane
over CNAME none.plain.test.
_25._tcp.over TLSA 3 1 1 ` + hash + `
out CNAME dane.plain.test.
broken A 192.0.2.1
_25._tcp.broken TLSA 3 1 1 ` + strings.Repeat("cd", 32) + `
badaddr A 192.0.2.77
cross A 192.0.2.1
_25._tcp.cross CNAME _25._tcp.dane.plain.test.
mute A 192.0.2.1
_tcp.mute NS lame
lame A 127.0.0.1
_mta-sts.none TXT "v=STSv1; id=1"
_mta-sts.dane TXT "v=STSv1; id=1"
_mta-sts.testing TXT "v=STSv1; id=1"
`
	server := testenv.StartDNSSEC(t, "",
		testenv.DNSZone{Name: "signed.test", Records: records, Signed: true, Tamper: func(file string) string {
			return strings.NewReplacer(strings.Repeat("cd", 32), strings.Repeat("ce", 32), "192.0.2.77", "192.0.2.78").Replace(file)
		}},
		testenv.DNSZone{Name: "plain.test", Records: records}, testenv.DNSZone{Name: "test"})
	dns, err := dnsc.New(dnsc.Config{Servers: []string{server}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, zone := range []string{"signed.test", "plain.test"} {
		h.set("none."+zone, policyText("enforce", sevenDays, "*.signed.test", "*.plain.test"))
		h.set("dane."+zone, policyText("enforce", sevenDays, "mx.other.test"))
		h.set("testing."+zone, policyText("testing", sevenDays, "*.signed.test"))
	}
	cfg := Config{Resolver: dns, DNS: dns, Roots: pool(h.root), Dialer: h}
	p := open(t, cfg)
	cfg.Rules = []Rule{
		{"rule-none.test", RuleNone}, {"rule-opp.test", RuleOpportunistic}, {"rule-tls.test", RuleStartTLS}, {"rule-dane.test", RuleDANE},
		{"none.signed.test", RuleOpportunistic}, {"[192.0.2.1]", RuleNone},
	}
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "rules[5].domain") {
		t.Error(err)
	}
	cfg.Rules = cfg.Rules[:5]
	ruled := open(t, cfg)
	cfg.DNS, cfg.Rules = nil, nil
	noDANE := open(t, cfg)

	secure := func(domain string) Destination { return Destination{domain, true} }
	plain := func(domain string) Destination { return Destination{domain, false} }
	const (
		byDANE       = "dane 1"
		byRequireTLS = "requiretls 1"
		noTLSA       = "dane refuses: temporary 4.7.5"
		never        = "requiretls refuses: permanent 5.7.30"
	)
	for i, c := range []struct {
		policies *Policies
		dest     Destination
		demand   Demand
		host     string
		want     string
	}{
		// DANE, where all the way to it is secure.
		{p, secure("a.test"), Default, "dane.signed.test", byDANE},
		{p, plain("a.test"), Default, "dane.signed.test", asItGoes},
		{p, secure("a.test"), Default, "dane.plain.test", asItGoes},
		{p, secure("a.test"), Default, "none.signed.test", asItGoes},
		{p, secure("a.test"), Default, "absent.signed.test", asItGoes},
		{p, secure("a.test"), Default, "unusable.signed.test", byDANE},
		{p, secure("a.test"), Default, "alias.signed.test", byDANE},
		{p, secure("a.test"), Default, "over.signed.test", byDANE},
		{p, secure("a.test"), Default, "out.signed.test", asItGoes},
		{p, secure("a.test"), Default, "broken.signed.test", noTLSA},
		{p, secure("a.test"), Default, "badaddr.signed.test", noTLSA},
		{p, plain("a.test"), Default, "broken.signed.test", asItGoes},
		{p, secure("a.test"), Default, "cross.signed.test", asItGoes}, // the records are not secure
		{p, secure("a.test"), Default, "mute.plain.test", asItGoes},   // and here not even asked for
		{p, secure("[192.0.2.1]"), Default, "192.0.2.1", asItGoes},
		{noDANE, secure("a.test"), Default, "dane.signed.test", asItGoes},
		// DANE before MTA-STS, which counts for hosts without.
		{p, secure("dane.signed.test"), Default, "dane.signed.test", byDANE},
		{p, plain("dane.signed.test"), Default, "dane.signed.test", unlisted},
		{p, secure("none.signed.test"), Default, "none.signed.test", enforced},
		{p, secure("none.signed.test"), Default, "dane.plain.test", enforced},
		{p, secure("none.signed.test"), Default, "broken.signed.test", noTLSA},
		// REQUIRETLS.
		{p, secure("a.test"), Require, "dane.signed.test", byDANE},
		{p, secure("a.test"), Require, "none.signed.test", byRequireTLS},
		{p, secure("a.test"), Require, "unusable.signed.test", byRequireTLS},
		{p, secure("a.test"), Require, "broken.signed.test", noTLSA},
		{p, plain("a.test"), Require, "dane.signed.test", never},
		{p, plain("none.plain.test"), Require, "dane.signed.test", enforced},
		{p, plain("testing.plain.test"), Require, "dane.signed.test", enforced},
		{p, plain("testing.plain.test"), Require, "dane.plain.test", unlisted},
		{p, plain("testing.plain.test"), Default, "dane.plain.test", asItGoes},
		{p, secure("[192.0.2.1]"), Require, "192.0.2.1", never},
		{noDANE, secure("a.test"), Require, "dane.signed.test", byRequireTLS},
		// TLS-Required: No.
		{p, secure("a.test"), Optional, "dane.signed.test", asItGoes},
		{p, secure("a.test"), Optional, "broken.signed.test", asItGoes},
		{p, plain("dane.signed.test"), Optional, "dane.signed.test", asItGoes},
		{ruled, plain("rule-tls.test"), Optional, "dane.signed.test", "config 1"},
		// Rules.
		{ruled, secure("rule-none.test"), Default, "dane.signed.test", "config 3"},
		{ruled, secure("rule-opp.test"), Default, "broken.signed.test", "config 0"},
		{ruled, secure("rule-tls.test"), Default, "dane.signed.test", "config 1"},
		{ruled, secure("rule-dane.test"), Default, "dane.signed.test", byDANE},
		{ruled, plain("rule-dane.test"), Default, "dane.signed.test", "config refuses: temporary 4.7.5"},
		{ruled, secure("rule-dane.test"), Default, "none.signed.test", "config refuses: temporary 4.7.5"},
		{ruled, secure("rule-dane.test"), Default, "unusable.signed.test", "config refuses: temporary 4.7.5"},
		{ruled, secure("rule-dane.test"), Default, "broken.signed.test", noTLSA},
		{ruled, plain("none.signed.test"), Default, "x.test", "config 0"},
		{ruled, secure("b.test"), Default, "dane.signed.test", byDANE},
		// A rule does not take from a message what it requires.
		{ruled, plain("rule-none.test"), Require, "dane.signed.test", never},
		{ruled, secure("rule-none.test"), Require, "dane.signed.test", byDANE},
		{ruled, plain("none.signed.test"), Require, "x.signed.test", enforced},
	} {
		if got := source(t, c.policies, c.dest, c.demand, c.host); got != c.want {
			t.Errorf("%d: %+v %d %s: %s, want %s", i, c.dest, c.demand, c.host, got, c.want)
		}
	}

	names, keys := map[string]string{}, map[string]string{}
	policy, err := p.For(t.Context(), secure("a.test"), Default)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"dane.signed.test", "alias.signed.test", "over.signed.test", "none.signed.test", "unusable.signed.test"} {
		r := policy.Host(t.Context(), host)
		names[host] = r.ServerName
		if other := keys[r.Key]; other != "" || r.Key == "" {
			t.Errorf("%s and %s have the key %q", host, other, r.Key)
		}
		keys[r.Key] = host
		if again := policy.Host(t.Context(), host); again.Key != r.Key {
			t.Error(again.Key, r.Key)
		}
	}
	if want := "map[alias.signed.test:dane.signed.test dane.signed.test:dane.signed.test none.signed.test:none.signed.test over.signed.test:over.signed.test unusable.signed.test:unusable.signed.test]"; fmt.Sprint(names) != want {
		t.Error(names)
	}
}

// What a real server's TLS is like ends up in the report under its right name.
func TestResult(t *testing.T) {
	testenv.Goroutines(t)
	root := issue(t, nil, "root", authority)
	stranger := issue(t, nil, "stranger", authority)
	addrs := startPostfix(t,
		issue(t, root, "good", forNames("mx.a.test")), issue(t, root, "other", forNames("mx.b.test")),
		issue(t, root, "old", expired("mx.a.test")), issue(t, stranger, "x", forNames("mx.a.test")), nil)
	const good, other, old, untrusted, plain = 0, 1, 2, 3, 4
	reported := &sessions{}
	policies := &Policies{report: reported.add, now: time.Now, roots: pool(root), sts: &stsCache{}}
	sts := func(mode stsMode) *stsPolicy {
		return &stsPolicy{Mode: mode, MX: []string{"mx.a.test"}, MaxAge: time.Hour}
	}
	for name, c := range map[string]struct {
		sts    *stsPolicy
		server int
		want   string // of the report
		sent   bool   // whether mail can be sent
	}{
		"enforced":           {sts(stsEnforce), good, "sts", true},
		"enforced, other":    {sts(stsEnforce), other, "sts certificate-host-mismatch", false},
		"enforced, old":      {sts(stsEnforce), old, "sts certificate-expired", false},
		"enforced, stranger": {sts(stsEnforce), untrusted, "sts certificate-not-trusted", false},
		"enforced, plain":    {sts(stsEnforce), plain, "sts starttls-not-supported", false},
		"testing":            {sts(stsTesting), good, "sts", true},
		"testing, other":     {sts(stsTesting), other, "sts certificate-host-mismatch", true},
		"testing, old":       {sts(stsTesting), old, "sts certificate-expired", true},
		"testing, plain":     {sts(stsTesting), plain, "sts starttls-not-supported", true},
		"none":               {sts(stsNone), old, "no-policy-found", true},
		"nothing":            {nil, untrusted, "no-policy-found", true},
		"nothing, plain":     {nil, plain, "no-policy-found starttls-not-supported", true},
	} {
		t.Run(name, func(t *testing.T) {
			policy := &Policy{policies: policies, domain: "a.test", sts: c.sts}
			r := policy.Host(t.Context(), "mx.a.test")
			conn, err := smtpc.Dial(t.Context(), smtpc.Config{Address: addrs[c.server], Hostname: "client.test", TLS: r.Mode, TLSConfig: r.Config, ServerName: r.ServerName})
			if (err == nil) != c.sent {
				t.Error(err)
			}
			out := Outcome{
				Host: "mx.a.test", HELO: "client.test", Err: err, NotOffered: err != nil && strings.Contains(err.Error(), "does not offer"),
				SendingIP: netip.MustParseAddr("192.0.2.1"), ReceivingIP: netip.MustParseAddr("127.0.0.1"),
			}
			if err == nil {
				out.TLS = conn.TLS()
				conn.Close()
			}
			policy.Result(out)
			list := reported.take()
			if len(list) != 1 {
				t.Fatal(list)
			}
			s := list[0]
			if got := strings.TrimSpace(fmt.Sprint(s.Policy.Type, " ", s.Failure)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if s.Domain != "a.test" || s.Policy.Domain != "a.test" || s.MX != "mx.a.test" || s.HELO != "client.test" || s.SendingIP != out.SendingIP || s.ReceivingIP != out.ReceivingIP {
				t.Errorf("%+v", s)
			}
		})
	}

	// These say nothing about TLS.
	policy := &Policy{policies: policies, domain: "a.test", sts: sts(stsEnforce)}
	policy.Host(t.Context(), "mx.a.test")
	for _, phase := range []smtpc.Phase{smtpc.PhaseConnect, smtpc.PhaseGreeting, smtpc.PhaseHello} {
		policy.Result(Outcome{Host: "mx.a.test", Err: &smtpc.Error{Phase: phase, Status: smtpc.Temporary}})
	}
	policy.Result(Outcome{Host: "mx.unknown.test"})
	(&Policy{policies: policies, domain: "a.test", rule: RuleStartTLS}).Result(Outcome{Host: "mx.a.test"})
	(&Policy{policies: &Policies{}, domain: "a.test"}).Result(Outcome{Host: "mx.a.test"})
	strict := &Policy{policies: policies, domain: "a.test", demand: Require}
	strict.Result(Outcome{Host: "mx.a.test", Err: strict.Host(t.Context(), "mx.a.test").Refuse})
	literal := &Policy{policies: policies, domain: "[192.0.2.1]", literal: true}
	literal.Host(t.Context(), "192.0.2.1")
	literal.Result(Outcome{Host: "192.0.2.1"})
	if list := reported.take(); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	// A server that offers STARTTLS and refuses it.
	policy.Result(Outcome{Host: "mx.a.test", Err: &smtpc.Error{Phase: smtpc.PhaseTLS, Status: smtpc.Temporary, Reply: smtpc.Reply{Code: 454}}})
	// Opportunistic TLS that failed, and was done without.
	policy.Result(Outcome{Host: "mx.a.test", Err: fmt.Errorf("handshake: %w", x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign})})
	if list := reported.take(); len(list) != 2 || list[0].Failure != tlsrpt.StartTLSNotSupported || list[1].Failure != tlsrpt.ValidationFailure || !strings.Contains(list[1].Reason, "handshake") {
		t.Errorf("%+v", list)
	}
}
