package records

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
)

const publicKey = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="

func example() *Settings {
	return &Settings{
		Domain: "example.com", Hostname: "mx.example.com", Preference: 10, TTL: 300,
		Addrs:  []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Keys:   []DKIMKey{{"default", "v=DKIM1; k=rsa; p=" + strings.Repeat("A", 392), false}, {"ed", publicKey, true}},
		DMARC:  "v=DMARC1; p=none; rua=mailto:postmaster@example.com",
		STS:    &Policy{"testing", []string{"mx.example.com"}, 86400},
		TLSRPT: "v=TLSRPTv1; rua=mailto:postmaster@example.com",
	}
}

func lines(list []Record) (out []string) {
	for _, r := range list {
		out = append(out, string(r.Kind)+" "+r.String())
	}
	return out
}

func expectLines(t *testing.T, got []string, want string) {
	t.Helper()
	if list := strings.Split(strings.TrimSpace(want), "\n"); !slices.Equal(got, list) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

func TestWanted(t *testing.T) {
	s := example()
	a := strings.Repeat("A", 237)
	expectLines(t, lines(Wanted(s)), `
MX example.com. 300 IN MX 10 mx.example.com.
MX mx.example.com. 300 IN A 192.0.2.1
MX mx.example.com. 300 IN AAAA 2001:db8::1
SPF example.com. 300 IN TXT "v=spf1 mx ip4:192.0.2.1 ip6:2001:db8::1 ~all"
SPF mx.example.com. 300 IN TXT "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 ~all"
DKIM default._domainkey.example.com. 300 IN TXT "v=DKIM1; k=rsa; p=`+a+`" "`+strings.Repeat("A", 392-237)+`"
DKIM ed._domainkey.example.com. 300 IN TXT "`+publicKey+`"
DMARC _dmarc.example.com. 300 IN TXT "v=DMARC1; p=none; rua=mailto:postmaster@example.com"
MTA-STS _mta-sts.example.com. 300 IN TXT "v=STSv1; id=`+s.STS.ID()+`;"
MTA-STS mta-sts.example.com. 300 IN A 192.0.2.1
MTA-STS mta-sts.example.com. 300 IN AAAA 2001:db8::1
TLSRPT _smtp._tls.example.com. 300 IN TXT "v=TLSRPTv1; rua=mailto:postmaster@example.com"`)

	bare := &Settings{Domain: "example.com", Hostname: "mx.example.net", TTL: 3600, STS: s.STS}
	expectLines(t, lines(Wanted(bare)), `
MX example.com. 3600 IN MX 0 mx.example.net.
SPF example.com. 3600 IN TXT "v=spf1 mx a:mx.example.net ~all"
MTA-STS _mta-sts.example.com. 3600 IN TXT "v=STSv1; id=`+s.STS.ID()+`;"
MTA-STS mta-sts.example.com. 3600 IN CNAME mx.example.net.`)
}

// What is to be pasted is what a zone file parser reads.
func TestLinesAreOfZoneFiles(t *testing.T) {
	s := example()
	s.DMARC = `a "quoted" \ text` + "\t\x00ü" + strings.Repeat("x", 600)
	s.TLSRPT = strings.Repeat("y", 255)
	for _, r := range Wanted(s) {
		rr, err := dns.NewRR(r.String())
		if err != nil {
			t.Errorf("%s: %v", r, err)
			continue
		}
		if rr.Header().Name != r.Name+"." || dns.Type(rr.Header().Rrtype).String() != r.Type || rr.Header().Ttl != uint32(r.TTL) {
			t.Errorf("%s became %s", r, rr)
		}
		buf := make([]byte, 4096)
		n, err := dns.PackRR(rr, buf, 0, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		const fixed = 10 // type, class, TTL and length
		if data := string(buf[len(rr.Header().Name)+1+fixed : n]); r.Type == "TXT" && joined(data) != r.Value {
			t.Errorf("%q became %q", r.Value, data)
		}
	}
}

// joined puts the strings of a TXT record's data together.
func joined(data string) (text string) {
	for data != "" {
		n := int(data[0])
		text += data[1 : 1+n]
		data = data[1+n:]
	}
	return text
}

func TestPolicy(t *testing.T) {
	p := &Policy{"enforce", []string{"mx.example.com", "*.example.net"}, 604800}
	if got, want := p.Text(), "version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	id := p.ID()
	p.MaxAge++
	if p.ID() == id || len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		t.Errorf("%q", id)
	}
}

// right is a zone in which nothing is missing.
func right(s *Settings) dnstest.Zone {
	zone := dnstest.Zone{}
	for _, r := range Wanted(s) {
		zone[r.Name] = append(zone[r.Name], r.Type+" "+r.Value)
	}
	return zone
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		name string
		with func(s *Settings, z dnstest.Zone)
		want string // "name type state note", of those that are not ok or have a note
	}{
		{"all is there", func(*Settings, dnstest.Zone) {}, ""},
		{"nothing is there", func(_ *Settings, z dnstest.Zone) { clear(z) }, `example.com MX missing
mx.example.com A missing
mx.example.com AAAA missing
example.com TXT missing
mx.example.com TXT missing
default._domainkey.example.com TXT missing
ed._domainkey.example.com TXT missing
_dmarc.example.com TXT missing
_mta-sts.example.com TXT missing
mta-sts.example.com A missing
mta-sts.example.com AAAA missing
_smtp._tls.example.com TXT missing`},
		{"DNS fails", func(_ *Settings, z dnstest.Zone) {
			for name := range z {
				z[name] = []string{"SERVFAIL"}
			}
		}, strings.Repeat("unknown DNS: \n", 12)},
		{"other MX hosts too", func(_ *Settings, z dnstest.Zone) {
			z["example.com"] = append(z["example.com"], "MX 20 backup.example.net")
		}, `example.com MX ok mail may also go to "backup.example.net"`},
		{"another MX host first", func(_ *Settings, z dnstest.Zone) {
			z["example.com"] = append(z["example.com"], "MX 5 first.example.net")
		}, `example.com MX ok mail goes to others before this server: 5 first.example.net.`},
		{"other MX hosts only", func(_ *Settings, z dnstest.Zone) { z["example.com"][0] = "MX 5 other.example.net" }, `example.com MX wrong mail goes to "other.example.net", and not`},
		{"null MX", func(_ *Settings, z dnstest.Zone) { z["example.com"][0] = "MX 0 ." }, `example.com MX wrong mail goes to "."`},
		{"MX by another name", func(_ *Settings, z dnstest.Zone) {
			z["example.com"][0] = "MX 5 alias.example.net"
			z["alias.example.net"] = []string{"CNAME mx.example.com"}
		}, ``},
		{"MX in capitals", func(_ *Settings, z dnstest.Zone) { z["example.com"][0] = "MX 5 MX.Example.COM" }, ``},
		{"host elsewhere", func(_ *Settings, z dnstest.Zone) { z["mx.example.com"][0] = "A 192.0.2.9" }, `mx.example.com A wrong it leads to `},
		{"SPF by another way", func(_ *Settings, z dnstest.Zone) { z["example.com"][1] = "TXT v=spf1 a:mx.example.com -all" }, ""},
		{"SPF of others", func(_ *Settings, z dnstest.Zone) { z["example.com"][1] = "TXT v=spf1 include:spf.example.net -all" }, "example.com TXT wrong it is in error: "},
		{"SPF without us", func(_ *Settings, z dnstest.Zone) { z["example.com"][1] = "TXT v=spf1 ip4:192.0.2.1 -all" }, "example.com TXT wrong it does not let 2001:db8::1 send: fail"},
		{"SPF twice", func(_ *Settings, z dnstest.Zone) { z["example.com"] = append(z["example.com"], "TXT v=spf1 -all") }, "example.com TXT wrong there are 2 records that begin with v=spf1"},
		{"other TXT", func(_ *Settings, z dnstest.Zone) {
			z["example.com"] = append(z["example.com"], "TXT v=spf10 x", "TXT site-verification=x", "TXT v=spf")
		}, ""},
		{"addresses not known", func(s *Settings, z dnstest.Zone) { s.Addrs = nil }, "example.com TXT ok whether it lets\nmx.example.com TXT ok whether it lets"},
		{"another DKIM key", func(_ *Settings, z dnstest.Zone) {
			z["default._domainkey.example.com"] = []string{"TXT v=DKIM1; p=BBBB"}
		}, "default._domainkey.example.com TXT wrong there is another key"},
		{"DKIM revoked", func(_ *Settings, z dnstest.Zone) {
			z["ed._domainkey.example.com"] = []string{"TXT v=DKIM1; k=ed25519; p="}
		}, "ed._domainkey.example.com TXT wrong there is another key"},
		{"DKIM otherwise written", func(_ *Settings, z dnstest.Zone) {
			z["ed._domainkey.example.com"] = []string{"CNAME k.example.net"}
			z["k.example.net"] = []string{"TXT  k = ed25519 ;t=s; p=11qYAYKxCrfVS/7TyWQHOg7h cvPapiMlrwIaaPcHURo= ;"}
		}, ""},
		{"DKIM twice", func(_ *Settings, z dnstest.Zone) {
			z["ed._domainkey.example.com"] = append(z["ed._domainkey.example.com"], "TXT x")
		}, "ed._domainkey.example.com TXT wrong there are 2 records"},
		{"another DMARC policy", func(_ *Settings, z dnstest.Zone) { z["_dmarc.example.com"] = []string{"TXT v=DMARC1; p=reject"} }, ""},
		{"DMARC above", func(s *Settings, z dnstest.Zone) {
			delete(z, "_dmarc.example.com")
			z["_dmarc.com"] = []string{"TXT v=DMARC1; p=reject; sp=quarantine"}
		}, "_dmarc.example.com TXT ok the policy is that of com: quarantine"},
		{"DMARC twice", func(_ *Settings, z dnstest.Zone) {
			z["_dmarc.example.com"] = append(z["_dmarc.example.com"], "TXT v=DMARC1; p=none")
		}, "_dmarc.example.com TXT wrong there are 2 records"},
		{"DMARC, and above nobody answers", func(_ *Settings, z dnstest.Zone) { z["_dmarc.com"] = []string{"SERVFAIL"} }, ""},
		{"no DMARC, and above nobody answers", func(_ *Settings, z dnstest.Zone) {
			delete(z, "_dmarc.example.com")
			z["_dmarc.com"] = []string{"SERVFAIL"}
		}, "_dmarc.example.com TXT unknown DNS: "},
		{"DMARC without p", func(_ *Settings, z dnstest.Zone) {
			z["_dmarc.example.com"] = []string{"TXT v=DMARC1; rua=mailto:x@example.com"}
		}, `_dmarc.example.com TXT ok "v=DMARC1; rua=mailto:x@example.com" has no valid p`},
		{"no DMARC policy", func(_ *Settings, z dnstest.Zone) { z["_dmarc.example.com"] = []string{"TXT v=DMARC1; x"} }, `_dmarc.example.com TXT wrong "v=DMARC1; x" is no policy`},
		{"another MTA-STS id", func(_ *Settings, z dnstest.Zone) { z["_mta-sts.example.com"] = []string{"TXT v=STSv1; id=1"} }, "_mta-sts.example.com TXT wrong it has another id"},
		{"no MTA-STS id", func(_ *Settings, z dnstest.Zone) { z["_mta-sts.example.com"] = []string{"TXT v=STSv1;"} }, "_mta-sts.example.com TXT wrong it has no id"},
		{"policy elsewhere", func(_ *Settings, z dnstest.Zone) {
			z["mta-sts.example.com"] = []string{"A 192.0.2.9", "AAAA 2001:db8::1"}
		}, "mta-sts.example.com A ok it leads elsewhere"},
		{"TLSRPT without address", func(_ *Settings, z dnstest.Zone) { z["_smtp._tls.example.com"] = []string{"TXT v=TLSRPTv1; x=y"} }, "_smtp._tls.example.com TXT wrong it does not say"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := example()
			want := Wanted(s)
			zone := right(s)
			test.with(s, zone)
			var got []string
			for _, f := range Check(t.Context(), dnstest.New(t, zone).Resolver(), s, want) {
				if f.State != OK || f.Note != "" {
					got = append(got, strings.TrimSpace(f.Name+" "+f.Type+" "+string(f.State)+" "+f.Note))
				}
			}
			list := strings.Split(strings.TrimSpace(test.want), "\n")
			if test.want == "" {
				list = nil
			}
			if len(got) != len(list) {
				t.Fatalf("got %q\nwant %q", got, list)
			}
			for i := range got {
				if !strings.Contains(got[i], list[i]) {
					t.Errorf("%q, want %q", got[i], list[i])
				}
			}
		})
	}
}
