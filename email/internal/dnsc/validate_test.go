package dnsc_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/dnsc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

const records = `
@ MX 20 b
@ MX 10 a.plain.test.
@ TXT "v=one" " joined \"\\ \200"
a A 192.0.2.1
a AAAA 2001:db8::1
four A 192.0.2.4
alias CNAME alias2
alias2 CNAME a
out CNAME a.plain.test.
dangling CNAME absent
null MX 0 .
_25._tcp.a TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
_25._tcp.a TLSA 2 0 2 ff00
_25._tcp.alias CNAME _25._tcp.a
`

// What a validating resolver says about signed, unsigned and broken zones.
func TestValidation(t *testing.T) {
	testenv.Goroutines(t)
	big := "big TXT"
	for range 20 {
		big += ` "` + strings.Repeat("x", 200) + `"`
	}
	server := testenv.StartDNSSEC(t, "",
		testenv.DNSZone{Name: "signed.test", Records: records + big, Signed: true},
		testenv.DNSZone{Name: "plain.test", Records: records},
		testenv.DNSZone{Name: "bogus.test", Records: records, Signed: true, Tamper: func(file string) string {
			return strings.ReplaceAll(file, "192.0.2.1", "192.0.2.99")
		}},
		testenv.DNSZone{Name: "2.0.192.in-addr.arpa", Records: "1 PTR a.plain.test.", Signed: true},
	)
	r, err := dnsc.New(dnsc.Config{Servers: []string{server}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	show := func(records any, name string, secure, noName bool, ttl time.Duration, err error) string {
		s := fmt.Sprint(records)
		var d *net.DNSError
		switch {
		case err == nil:
		case !errors.As(err, &d):
			s = "not a DNSError"
		case d.IsNotFound && !d.IsTemporary:
			s = "none"
		case d.IsTemporary && !d.IsNotFound:
			return "temporary"
		default:
			s = err.Error()
		}
		if secure {
			s += " secure"
		}
		if noName {
			s += " nxdomain"
		}
		if ttl <= 0 {
			s += " without a TTL"
		}
		return s + " at " + name
	}
	mx := func(name string) string {
		a, err := r.MX(ctx, name)
		var list []string
		for _, m := range a.Records {
			list = append(list, strings.ToLower(fmt.Sprint(m.Pref, m.Host)))
		}
		return show(list, a.Name, a.Secure, a.NoName, a.TTL, err)
	}
	addrs := func(name string) string {
		a, err := r.Addrs(ctx, name)
		return show(a.Records, a.Name, a.Secure, a.NoName, a.TTL, err)
	}
	tlsa := func(name string) string {
		a, err := r.TLSA(ctx, name)
		return show(a.Records, a.Name, a.Secure, a.NoName, a.TTL, err)
	}
	txt := func(name string) string {
		a, err := r.TXT(ctx, name)
		return show(fmt.Sprintf("%q", a.Records), a.Name, a.Secure, a.NoName, a.TTL, err)
	}
	cname := func(name string) string {
		a, err := r.CNAME(ctx, name)
		return show(a.Records, a.Name, a.Secure, a.NoName, a.TTL, err)
	}
	const hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		kind string
		ask  func(string) string
		name string
		want string
	}{
		{"MX", mx, "signed.test", "[10a.plain.test. 20b.signed.test.] secure at signed.test"},
		{"MX", mx, "SIGNED.test.", "[10a.plain.test. 20b.signed.test.] secure at signed.test"},
		{"MX", mx, "plain.test", "[10a.plain.test. 20b.plain.test.] at plain.test"},
		{"MX", mx, "a.signed.test", "none secure at a.signed.test"},
		{"MX", mx, "absent.signed.test", "none secure nxdomain at absent.signed.test"},
		{"MX", mx, "absent.plain.test", "none nxdomain at absent.plain.test"},
		{"MX", mx, "null.signed.test", "[0.] secure at null.signed.test"},
		{"address", addrs, "a.signed.test", "[2001:db8::1 192.0.2.1] secure at a.signed.test"},
		{"address", addrs, "four.signed.test", "[192.0.2.4] secure at four.signed.test"},
		{"address", addrs, "alias.signed.test", "[2001:db8::1 192.0.2.1] secure at a.signed.test"},
		{"address", addrs, "out.signed.test", "[2001:db8::1 192.0.2.1] at a.plain.test"},
		{"address", addrs, "a.plain.test", "[2001:db8::1 192.0.2.1] at a.plain.test"},
		{"address", addrs, "dangling.signed.test", "none secure nxdomain at absent.signed.test"},
		{"address", addrs, "null.signed.test", "none secure at null.signed.test"},
		// Its address was changed, that of IPv6 was not: it holds, and is secure.
		{"address", addrs, "a.bogus.test", "[2001:db8::1] secure at a.bogus.test"},
		{"TLSA", tlsa, "_25._tcp.a.signed.test", "[2 0 2 ff00 3 1 1 " + hash + "] secure at _25._tcp.a.signed.test"},
		{"TLSA", tlsa, "_25._tcp.alias.signed.test", "[2 0 2 ff00 3 1 1 " + hash + "] secure at _25._tcp.a.signed.test"},
		{"TLSA", tlsa, "_25._tcp.b.signed.test", "none secure nxdomain at _25._tcp.b.signed.test"},
		{"TXT", txt, "signed.test", `["v=one joined \"\\ \xc8"] secure at signed.test`},
		{"TXT", txt, "big.signed.test", fmt.Sprintf("[%q] secure at big.signed.test", strings.Repeat("x", 4000))},
		{"CNAME", cname, "alias.signed.test", "[alias2.signed.test] secure at alias.signed.test"},
		{"CNAME", cname, "out.signed.test", "[a.plain.test] secure at out.signed.test"},
		{"CNAME", cname, "a.signed.test", "none secure at a.signed.test"},
	} {
		got := c.ask(c.name)
		if c.kind == "TLSA" { // in any order
			got = strings.Replace(got, "[3 1 1 "+hash+" 2 0 2 ff00]", "[2 0 2 ff00 3 1 1 "+hash+"]", 1)
		}
		if got != c.want {
			t.Errorf("%s of %s: %s\nwant %s", c.kind, c.name, got, c.want)
		}
	}

	names, err := r.LookupAddr(ctx, "192.0.2.1")
	if fmt.Sprint(names, err) != "[a.plain.test.] <nil>" {
		t.Error(names, err)
	}
	ips, err := r.LookupIPAddr(ctx, "a.signed.test.")
	if fmt.Sprint(ips, err) != "[{2001:db8::1 } {192.0.2.1 }] <nil>" {
		t.Error(ips, err)
	}
}

// A record that was changed under its signature is a failure, not an absence.
func TestBogus(t *testing.T) {
	server := testenv.StartDNSSEC(t, "", testenv.DNSZone{
		Name: "bogus.test", Records: "@ MX 10 a\na A 192.0.2.1\n_25._tcp.a TLSA 3 1 1 ffff", Signed: true,
		Tamper: func(file string) string {
			return strings.NewReplacer("192.0.2.1", "192.0.2.99", "ffff", "ffee", "MX\t10", "MX\t11").Replace(file)
		}})
	r, err := dnsc.New(dnsc.Config{Servers: []string{server}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	_, errMX := r.MX(t.Context(), "bogus.test")
	_, errAddr := r.Addrs(t.Context(), "a.bogus.test")
	_, errTLSA := r.TLSA(t.Context(), "_25._tcp.a.bogus.test")
	for _, err := range []error{errMX, errTLSA} {
		var d *net.DNSError
		if !errors.As(err, &d) || !d.IsTemporary || d.IsNotFound || !strings.Contains(d.Err, "SERVFAIL") {
			t.Errorf("%v", err)
		}
	}
	var d *net.DNSError
	if !errors.As(errAddr, &d) || !d.IsTemporary {
		t.Error(errAddr)
	}
}
