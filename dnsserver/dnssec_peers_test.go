package dnsserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

const signedExampleZone = `$TTL 300
@ IN SOA ns hostmaster 10 7200 3600 1209600 60
  NS ns
  MX 10 mail
  TXT "top"
ns A 192.0.2.53
mail A 192.0.2.25
www CNAME web
web A 192.0.2.80
    AAAA 2001:db8::80
far CNAME www.far.wild
*.wild TXT "from a wildcard"
deep.ent A 192.0.2.7
tree DNAME web
old DNAME ent
MiXed MX 5 Mail.Example.
secure NS ns.secure
ns.secure A 192.0.2.54
insecure NS ns.insecure
ns.insecure A 192.0.2.55
_sip._tcp SRV 1 2 3 Mail.example.
naptr NAPTR 10 20 "u" "E2U+sip" "!^.*$!sip:x@example.!" .
`

const childZone = `$TTL 300
@ IN SOA ns hostmaster 10 7200 3600 1209600 60
  NS ns
ns A 192.0.2.54
www A 192.0.2.90
`

func parsedZone(t testing.TB, name, text string) *zoneEdit {
	t.Helper()
	wire, err := wireName(name)
	if err != nil {
		t.Fatal(err)
	}
	e := newZone(wire)
	if err := readZone(strings.NewReader(text), "", wire, func(r record) error { e.add(&r); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := e.check(); err != nil {
		t.Fatal(err)
	}
	return e
}

// signedZones are a zone with a signed and an unsigned one below, and their
// signer.
func signedZones(t testing.TB, config DNSSEC) (*signer, []*zone) {
	t.Helper()
	c := &clock{time.Now()}
	parent := testSigner(t, "\x07example\x00", config, nil, c)
	child := testSigner(t, "\x06secure\x07example\x00", config, nil, c)
	secure := child.edited(t, parsedZone(t, "secure.example.", childZone))
	e := parsedZone(t, "example.", signedExampleZone)
	for _, ds := range child.DS() {
		r, err := parseText(ds)
		if err != nil {
			t.Fatal(err)
		}
		e.add(&r)
	}
	insecure := parsedZone(t, "insecure.example.", childZone).finish()
	return parent, []*zone{parent.edited(t, e), secure, insecure}
}

// serveZones starts a server that has these versions of zones and no others.
func serveZones(t testing.TB, zones ...*zone) *Server {
	t.Helper()
	s := start(t, Config{})
	s.responder.zones.Store(testResponder(zones...).zones.Load())
	return s
}

// trustAnchor writes a file with the keys of a zone for delv.
func trustAnchor(t testing.TB, s *signer) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("trust-anchors {\n")
	for _, k := range s.Keys() {
		if k.KSK {
			fields := strings.Fields(k.DS)
			fmt.Fprintf(&b, "\t\"%s\" static-ds %s %s %s \"%s\";\n", nameText(s.zone), fields[0], fields[1], fields[2], fields[3])
		}
	}
	b.WriteString("};\n")
	path := filepath.Join(t.TempDir(), "anchors")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func delv(t testing.TB, tool, server, anchors, zone, name, rtype string) string {
	t.Helper()
	host, port, _ := strings.Cut(server, ":")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, tool, "@"+host, "-p", port, "-a", anchors, "+root="+zone, name, rtype).CombinedOutput()
	return string(out)
}

// The validator of BIND takes what we answer for proven.
func TestDelv(t *testing.T) {
	tool := testenv.Need(t, "delv", "apt install bind9-dnsutils")
	tests := []struct{ name, rtype, want string }{
		{"example.", "SOA", "; fully validated"},
		{"example.", "DNSKEY", "; fully validated"},
		{"web.example.", "AAAA", "; fully validated"},
		{"WEB.example.", "A", "; fully validated"},
		{"mixed.example.", "MX", "; fully validated"},
		{"naptr.example.", "NAPTR", "; fully validated"},
		{"_sip._tcp.example.", "SRV", "; fully validated"},
		{"www.example.", "A", "; fully validated"},
		{"a.wild.example.", "TXT", "; fully validated"},
		{"b.a.wild.example.", "TXT", "; fully validated"},
		{"far.example.", "TXT", "; fully validated"},
		{"deep.old.example.", "A", "; fully validated"},
		{"web.example.", "NSEC", ""}, // by mode
		{"web.example.", "MX", "; negative response, fully validated"},
		{"www.example.", "MX", "ncache nx"},
		{"a.wild.example.", "A", "; negative response, fully validated"},
		{"ent.example.", "A", "; negative response, fully validated"},
		{"nobody.example.", "A", "; negative response, fully validated"},
		{"no.body.ent.example.", "A", "; negative response, fully validated"},
		{"far.example.", "A", "ncache nx"},
		{"a.old.example.", "A", "ncache nx"},
		{"www.secure.example.", "A", "; fully validated"},
		{"nobody.secure.example.", "A", "; negative response, fully validated"},
		{"secure.example.", "DS", "; fully validated"},
		{"insecure.example.", "DS", "; negative response, fully validated"},
		{"www.insecure.example.", "A", "; unsigned answer"},
	}
	for _, algorithm := range []string{algorithmECDSA, algorithmEd25519} {
		for _, mode := range []string{denialNSEC, denialNSEC3, denialCompact} {
			t.Run(algorithm+" "+mode, func(t *testing.T) {
				t.Parallel()
				signer, zones := signedZones(t, DNSSEC{Algorithm: algorithm, Denial: mode})
				server, anchors := addr(t, serveZones(t, zones...), "udp"), trustAnchor(t, signer)
				for _, test := range tests {
					want := test.want
					if want == "" {
						want = "; fully validated"
						if mode == denialNSEC3 {
							want = "; negative response, fully validated"
						}
					}
					out := delv(t, tool, server, anchors, "example.", test.name, test.rtype)
					if !strings.Contains(out, want) || strings.Contains(want, "ncache") && !strings.Contains(out, "; fully validated") {
						t.Errorf("%s %s: want %s:\n%s", test.name, test.rtype, want, out)
					}
				}
			})
		}
	}
}

// What was tampered with is not taken for proven: the test above can fail.
func TestDelvSeesForgery(t *testing.T) {
	tool := testenv.Need(t, "delv", "apt install bind9-dnsutils")
	signer, zones := signedZones(t, DNSSEC{})
	e := zones[0].change()
	set := *e.setAt("\x03web\x07example\x00", dns.TypeA)
	forged := newSet(dns.TypeA, 300, []string{"\xc0\x00\x02\x51"})
	forged.sigs, forged.signs = set.sigs, set.signs
	e.replace(e.nodeKey("\x03web\x07example\x00"), forged)
	server := addr(t, serveZones(t, e.finish()), "udp")
	if out := delv(t, tool, server, trustAnchor(t, signer), "example.", "web.example.", "A"); strings.Contains(out, "fully validated") {
		t.Errorf("taken for good:\n%s", out)
	}
}

// Other implementations find nothing wrong with our zones as a whole.
func TestZoneVerifiers(t *testing.T) {
	ldns := testenv.Need(t, "ldns-verify-zone", "apt install ldnsutils")
	bind := testenv.Need(t, "dnssec-verify", "apt install bind9-utils")
	for _, algorithm := range []string{algorithmECDSA, algorithmEd25519} {
		for _, mode := range []string{denialNSEC, denialNSEC3} {
			t.Run(algorithm+" "+mode, func(t *testing.T) {
				s, zones := signedZones(t, DNSSEC{Algorithm: algorithm, Denial: mode})
				z := zones[0]
				for i := range 3 {
					path := filepath.Join(t.TempDir(), "zone")
					f, err := os.Create(path)
					if err != nil {
						t.Fatal(err)
					}
					if err := writeZone(f, z, z.records()); err != nil {
						t.Fatal(err)
					}
					f.Close()
					for _, cmd := range [][]string{{ldns, path}, {bind, "-o", "example.", path}} {
						if out, err := exec.CommandContext(t.Context(), cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
							text, _ := os.ReadFile(path)
							t.Fatalf("%v: %v\n%s\n%s", cmd, err, out, text)
						}
					}
					e := z.change()
					e.remove("\x03web\x07example\x00", dns.TypeAAAA, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80")
					r, err := parseText("new-" + strconv.Itoa(i) + ".mail.example. 60 IN A 192.0.2.1")
					if err != nil {
						t.Fatal(err)
					}
					e.add(&r)
					e.setSerial(e.serial() + 1)
					z = s.edited(t, e)
				}
			})
		}
	}
}
