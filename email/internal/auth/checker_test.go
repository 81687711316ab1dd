package auth

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/arc"
	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/email/internal/auth/iprev"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/auth/spf"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

const mail = "From: Joe <joe@example.com>\r\nTo: a@example.net\r\nSubject: hi\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700\r\n\r\nHi.\r\n"

func newKey(t testing.TB, bits int) (key crypto.Signer, record string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return private, "TXT v=DKIM1; p=" + base64.StdEncoding.EncodeToString(der)
}

// request is a message as it came from 192.0.2.1.
func request(t testing.TB, msg string) Request {
	t.Helper()
	r := bytes.NewReader([]byte(msg))
	h, size, err := message.ReadHeader(bufio.NewReader(bytes.NewReader([]byte(msg))), 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	return Request{
		ClientIP: netip.MustParseAddr("::ffff:192.0.2.1"), Helo: "mail.example.com", MailFrom: "bounce@example.com", Header: h,
		// Behind something else, as in a file.
		Body: section(r, int64(size)),
	}
}

func sign(t testing.TB, msg string, key crypto.Signer, domain string) string {
	t.Helper()
	q := request(t, msg)
	field, err := dkim.Sign(t.Context(), q.Header, section(q.Body, 0), dkim.Signer{Domain: domain, Selector: "s", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return string(field) + msg
}

func TestCheck(t *testing.T) {
	testenv.Goroutines(t)
	key, record := newKey(t, 1024)
	server := dnstest.New(t, dnstest.Zone{
		"example.com":               {"TXT v=spf1 ip4:192.0.2.1 ip4:192.0.2.3 -all exp=why.example.com"},
		"why.example.com":           {"TXT %{i} is not ours, says %{r}"},
		"_dmarc.example.com":        {"TXT v=DMARC1; p=reject"},
		"s._domainkey.example.com":  {record},
		"s._domainkey.list.example": {record},
		"1.2.0.192.in-addr.arpa":    {"PTR mail.example.com"},
		"mail.example.com":          {"A 192.0.2.1", "TXT v=spf1 a -all"},
	})
	c := Checker{Resolver: server.Resolver(), Hostname: "mx.example.net"}

	r := c.Check(t.Context(), request(t, sign(t, mail, key, "example.com")))
	if r.SPF.Code != spf.Pass || len(r.DKIM) != 1 || r.DKIM[0].Result != dkim.Pass || r.ARC.Status != arc.None || r.IPRev.Code != iprev.Pass ||
		r.DMARC.Code != dmarc.Pass || !r.DMARC.SPFAligned || r.DMARC.DKIMDomain != "example.com" || r.Temporary() {
		t.Errorf("%+v", r)
	}
	want := "Authentication-Results: mx.example.net;\r\n\tspf=pass smtp.mailfrom=example.com;\r\n" +
		"\tdkim=pass header.d=example.com header.s=s header.a=rsa-sha256\r\n\t header.b="
	if got := string(r.Field()); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, ";\r\n\tdmarc=pass header.from=example.com policy.dmarc=none;\r\n\tiprev=pass policy.iprev=192.0.2.1\r\n") {
		t.Errorf("%q", got)
	}

	q := request(t, sign(t, strings.TrimSuffix(mail, "Hi.\r\n"), key, "example.com"))
	if q.Body = nil; c.Check(t.Context(), q).DKIM[0].Result != dkim.Pass {
		t.Error("a message without a body")
	}

	// The null sender is checked by the name in HELO.
	q = request(t, mail)
	q.MailFrom = ""
	if r = c.Check(t.Context(), q); r.SPF.Code != spf.Pass || r.SPF.Scope != spf.Helo || r.DMARC.Code != dmarc.Pass || !strings.Contains(string(r.Field()), "smtp.helo=mail.example.com") {
		t.Errorf("%+v", r)
	}

	// A forger; and a list that has changed the message and signs it as its own.
	q = request(t, sign(t, mail, key, "list.example"))
	q.ClientIP = netip.MustParseAddr("192.0.2.2")
	r = c.Check(t.Context(), q)
	if r.SPF.Code != spf.Fail || r.SPF.Explanation != "192.0.2.2 is not ours, says mx.example.net" || r.DKIM[0].Result != dkim.Pass || r.DMARC.Code != dmarc.Fail || r.DMARC.Policy != dmarc.Reject || r.IPRev.Code != iprev.PermError {
		t.Errorf("%+v", r)
	}

	// What DNS does not answer may have been what the message passes by.
	server.Set("s._domainkey.example.com", "SERVFAIL")
	q = request(t, sign(t, mail, key, "example.com"))
	q.ClientIP = netip.MustParseAddr("192.0.2.2")
	if r = c.Check(t.Context(), q); r.DKIM[0].Result != dkim.TempError || r.DMARC.Code != dmarc.Fail || !r.Temporary() {
		t.Errorf("%+v", r)
	}
	server.Set("example.com", "SERVFAIL")
	q = request(t, mail)
	if r = c.Check(t.Context(), q); r.SPF.Code != spf.TempError || r.DMARC.Code != dmarc.Fail || !r.Temporary() {
		t.Errorf("%+v", r)
	}
	server.Set("example.com", "TXT v=spf1 -all")
	server.Set("s._domainkey.list.example", "SERVFAIL")
	q = request(t, sign(t, mail, key, "list.example"))
	q.ClientIP = netip.MustParseAddr("192.0.2.2")
	if r = c.Check(t.Context(), q); r.DKIM[0].Result != dkim.TempError || r.Temporary() {
		t.Errorf("%+v", r)
	}
}

// TestRemembered checks with answers that are remembered, some of them and all.
func TestRemembered(t *testing.T) {
	server := dnstest.New(t, dnstest.Zone{
		"example.com":            {"TXT v=spf1 include:spf.example.com -all"},
		"spf.example.com":        {"TXT v=spf1 ip4:192.0.2.1"},
		"_dmarc.example.com":     {"TXT v=DMARC1; p=reject"},
		"1.2.0.192.in-addr.arpa": {"PTR mail.example.com"},
		"mail.example.com":       {"A 192.0.2.1", "TXT v=spf1 a -all"},
	})
	cache := lookup.NewCache(server.Resolver(), func() time.Time { return time.Unix(1000, 0) }) // it forgets nothing
	if _, err := cache.LookupTXT(t.Context(), "example.com."); err != nil {
		t.Fatal(err)
	}
	c := Checker{Resolver: cache, Hostname: "mx.example.net"}
	for _, round := range []string{"cold", "warm"} {
		r := c.Check(t.Context(), request(t, mail))
		if r.SPF.Code != spf.Pass || r.IPRev.Code != iprev.Pass || r.DMARC.Code != dmarc.Pass {
			t.Errorf("%s: %+v", round, r)
		}
		for _, name := range []string{"example.com", "spf.example.com", "_dmarc.example.com", "1.2.0.192.in-addr.arpa", "mail.example.com"} {
			server.Set(name, "SERVFAIL")
		}
	}
}

// TestOneRead passes a message with signatures of DKIM and ARC on, whose body is
// read once.
func TestOneRead(t *testing.T) {
	key, record := newKey(t, 1024)
	server := dnstest.New(t, dnstest.Zone{"s._domainkey.example.com": {record}})
	c := Checker{Resolver: server.Resolver(), Hostname: "mx.example.net"}
	msg := sign(t, mail, key, "example.com")
	q := request(t, msg)
	first := c.Check(t.Context(), q)
	set, err := arc.Seal(t.Context(), q.Header, dkim.NewBody(section(q.Body, 0)), time.Now(), first.ARC, first.Value(), dkim.Signer{Domain: "example.com", Selector: "s", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	q = request(t, string(set)+msg)
	counter := &counting{data: []byte("Hi.\r\n")}
	q.Body = section(counter, 0)
	r := c.Check(t.Context(), q)
	if r.ARC.Status != arc.Pass || r.DKIM[0].Result != dkim.Pass || !strings.Contains(r.ARC.Results, "dkim=pass header.d=example.com") {
		t.Errorf("%+v", r)
	}
	if counter.read != len(counter.data) {
		t.Errorf("%d bytes were read of %d", counter.read, len(counter.data))
	}
}

// silent is a resolver that never answers.
type silent struct{}

func (silent) LookupTXT(ctx context.Context, _ string) ([]string, error) {
	<-ctx.Done()
	return nil, &net.DNSError{Err: ctx.Err().Error(), Server: "10.1.2.3:53", IsTimeout: true}
}

func (silent) LookupMX(ctx context.Context, _ string) ([]*net.MX, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silent) LookupIPAddr(ctx context.Context, _ string) ([]net.IPAddr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silent) LookupAddr(ctx context.Context, _ string) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestTimeout(t *testing.T) {
	key, _ := newKey(t, 1024)
	msg := sign(t, mail, key, "example.com")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := Checker{Resolver: silent{}, Hostname: "mx.example.net"}
		r := c.Check(t.Context(), request(t, msg))
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("it took %v", took)
		}
		if r.SPF.Code != spf.TempError || r.DKIM[0].Result != dkim.TempError || r.DMARC.Code != dmarc.TempError || r.IPRev.Code != iprev.TempError || !r.Temporary() {
			t.Errorf("%+v", r)
		}
		field := string(r.Field())
		if strings.Contains(field, "10.1.2.3") || strings.Count(field, "DNS did not answer") != 4 {
			t.Error(field)
		}
	})
}

// half is a resolver that answers some questions for TXT, and others never.
type half map[string]string

func (h half) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if strings.HasPrefix(name, "_dmarc.") || h[name] != "" {
		return still(h).LookupTXT(ctx, name)
	}
	return silent{}.LookupTXT(ctx, name)
}

func (half) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return silent{}.LookupMX(ctx, name)
}

func (half) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	return silent{}.LookupIPAddr(ctx, name)
}

func (half) LookupAddr(ctx context.Context, name string) ([]string, error) {
	return silent{}.LookupAddr(ctx, name)
}

// The policy of the author's domain is found, however long the sender's names take.
func TestTimeoutOfSender(t *testing.T) {
	key, _ := newKey(t, 1024)
	msg := sign(t, mail, key, "slow.example")
	synctest.Test(t, func(t *testing.T) {
		c := Checker{Hostname: "mx.example.net", Resolver: half{
			"_dmarc.example.com.": "v=DMARC1; p=reject",
			"bounce.example.com.": "v=spf1 ip4:192.0.2.1 -all",
		}}
		for _, test := range []struct {
			from   string
			spf    spf.Code
			dmarc  dmarc.Code
			policy dmarc.Policy
		}{
			{"x@slow.example", spf.TempError, dmarc.Fail, dmarc.Reject},
			{"x@bounce.example.com", spf.Pass, dmarc.Pass, dmarc.None}, // what aligns is asked after the others
		} {
			q := request(t, msg)
			q.MailFrom = test.from
			start := time.Now()
			r := c.Check(t.Context(), q)
			if took := time.Since(start); took != 20*time.Second {
				t.Errorf("%s: it took %v", test.from, took)
			}
			if r.SPF.Code != test.spf || r.DKIM[0].Result != dkim.TempError || r.DMARC.Code != test.dmarc || r.DMARC.Policy != test.policy || r.Temporary() {
				t.Errorf("%s: %+v", test.from, r)
			}
		}
	})
}

// TestFieldIsRead lets another program read what we write.
func TestFieldIsRead(t *testing.T) {
	python := testenv.Need(t, "/usr/bin/python3", "apt-get install python3-authres")
	if exec.Command(python, "-c", "import authres").Run() != nil {
		testenv.Lacks(t, "authres is missing; get it with: apt-get install python3-authres")
	}
	r := Result{
		hostname: "mx.example.net", clientIP: netip.MustParseAddr("2001:db8::1"),
		SPF: spf.Result{Code: spf.SoftFail, Scope: spf.MailFrom, Domain: "strange \"name\r\n"},
		DKIM: []dkim.Verification{
			{Result: dkim.Pass, Domain: "example.com", Selector: "s", Algorithm: dkim.RSA, Value: "a+/bcdefghij"},
			{Result: dkim.Fail, Domain: "example.org", Selector: "t", Algorithm: dkim.Ed25519, Value: "x", Err: dkim.ErrForged, Testing: true},
			{Result: dkim.PermError, Err: dkim.ErrNoKey},
		},
		ARC:   arc.Result{Status: arc.Fail, Err: dkim.ErrBody},
		DMARC: dmarc.Result{Code: dmarc.Fail, Domain: "example.com", Policy: dmarc.Quarantine, Record: &dmarc.Record{}},
		IPRev: iprev.Result{Code: iprev.Fail},
	}
	cmd := exec.Command(python, "-c", `
import authres, json, sys
h = authres.AuthenticationResultsHeader.parse(sys.stdin.read())
print(json.dumps([h.authserv_id] + [[r.method, r.result, [p.type + "." + p.name + "=" + p.value for p in r.properties]] for r in h.results]))`)
	cmd.Stdin = bytes.NewReader(bytes.TrimSuffix(r.Field(), []byte("\r\n")))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, stderr.String(), r.Field())
	}
	var got []any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, v := range got {
		line, _ := json.Marshal(v)
		text.Write(append(line, '\n'))
	}
	want := `"mx.example.net"
["spf","softfail",["smtp.mailfrom=strange \\\"name??"]]
["dkim","pass",["header.d=example.com","header.s=s","header.a=rsa-sha256","header.b=a+/bcdef"]]
["dkim","fail",["header.d=example.org","header.s=t","header.a=ed25519-sha256","header.b=x"]]
["dkim","permerror",[]]
["arc","fail",[]]
["dmarc","fail",["header.from=example.com","policy.dmarc=quarantine"]]
["iprev","fail",["policy.iprev=2001:db8::1"]]
`
	if text.String() != want {
		t.Errorf("authres reads\n%s\nof\n%s", text.String(), r.Field())
	}
}

// still answers at once.
type still map[string]string

func (s still) LookupTXT(_ context.Context, name string) ([]string, error) {
	if txt, ok := s[name]; ok {
		return []string{txt}, nil
	}
	return nil, &net.DNSError{IsNotFound: true}
}

func (s still) LookupMX(context.Context, string) ([]*net.MX, error) {
	return nil, &net.DNSError{IsNotFound: true}
}

func (s still) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	return []net.IPAddr{{IP: net.IPv4(192, 0, 2, 1)}}, nil
}

func (s still) LookupAddr(context.Context, string) ([]string, error) {
	return []string{"mail.example.com."}, nil
}

// BenchmarkCheck checks a message of 4 KiB with one signature of 2048 bits.
func BenchmarkCheck(b *testing.B) {
	key, record := newKey(b, 2048)
	line := strings.Repeat("All work and no play makes a dull message. ", 2)[:76] + "\r\n"
	msg := sign(b, mail+strings.Repeat(line, (4096-600-len(mail))/len(line)), key, "example.com")
	c := Checker{Hostname: "mx.example.net", Resolver: still{
		"s._domainkey.example.com.": strings.TrimPrefix(record, "TXT "),
		"example.com.":              "v=spf1 mx ip4:192.0.2.0/24 -all",
		"_dmarc.example.com.":       "v=DMARC1; p=reject",
	}}
	q := request(b, msg)
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if r := c.Check(b.Context(), q); r.DMARC.Code != dmarc.Pass || r.DKIM[0].Result != dkim.Pass {
			b.Fatalf("%+v", r)
		} else if len(r.Field()) == 0 {
			b.Fatal("no field")
		}
	}
}
