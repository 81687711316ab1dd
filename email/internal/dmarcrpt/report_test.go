package dmarcrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/spf"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// everything adds messages of all kinds about one domain.
func everything(r *Reporter) {
	add(r, 12, failing("example.com"))
	add(r, 3, passing("example.com"))

	m := failing("example.com") // of a subdomain, let through
	m.Auth.DMARC.Domain, m.Applied = "a.b.example.com", dmarc.Quarantine
	m.Reasons = []Reason{{MailingList, "list <x> & \"y\" \x00\x1b[2J\r\nü"}, {"nonsense", ""}}
	m.Auth.SPF = spf.Result{Code: spf.TempError, Domain: "no domain \x00<at> all", Scope: spf.Helo}
	m.MailFrom = "x@[192.0.2.1]"
	add(r, 2, m)

	m = failing("example.com") // nobody said why
	m.Applied = dmarc.None
	add(r, 1, m)

	m = passing("example.com") // by both
	m.SourceIP = netip.MustParseAddr("::ffff:192.0.2.7")
	m.Auth.DMARC.SPFAligned = true
	m.Auth.SPF = spf.Result{Code: spf.Pass, Domain: "example.com", Scope: spf.MailFrom}
	m.MailFrom, m.Auth.DKIM = "a@EXAMPLE.com", nil
	for _, code := range []dkim.Result{dkim.Policy, dkim.TempError, dkim.PermError} {
		m.Auth.DKIM = append(m.Auth.DKIM, dkim.Verification{Result: code, Domain: "example.com", Selector: string(code)})
	}
	for _, code := range []spf.Code{spf.None, spf.Neutral, spf.Pass, spf.Fail, spf.SoftFail, spf.TempError, spf.PermError} {
		c := *m.Auth
		c.SPF.Code = code
		m.Auth = &c
		add(r, 1, m)
	}
}

// dayOver returns the reports of a day that is over.
func dayOver(t *testing.T, r *Reporter, c *testenv.Clock, b *box) []Report {
	t.Helper()
	c.Advance(24 * time.Hour)
	r.sendDue(t.Context())
	return b.take()
}

// attachment takes the report out of a message, with nothing but the standard
// library of Python.
func attachment(t *testing.T, message []byte) (subject, filename string, document []byte) {
	t.Helper()
	python := testenv.Need(t, "python3", "apt-get install python3")
	const script = `
import sys, json, email, email.policy, base64
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
assert m["MIME-Version"] == "1.0" and m["Auto-Submitted"] == "auto-generated" and not m.defects, m.defects
text, part = list(m.iter_parts())
assert text.get_content_type() == "text/plain" and part.get_content_type() == "application/gzip"
assert part.get_content_disposition() == "attachment" and not part.defects
print(json.dumps([m["Subject"], m["From"], m["To"], m["Message-ID"], part.get_filename(), text.get_content(),
    base64.b64encode(part.get_content()).decode()]))`
	cmd := exec.Command(python, "-c", script)
	cmd.Stdin = bytes.NewReader(message)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, out, message)
	}
	var got [7]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if got[1] != "Receiver GmbH <dmarc@receiver.example>" || got[2] != "dmarc@example.com" || !strings.Contains(got[5].(string), "example.com") {
		t.Errorf("%v", got[:6])
	}
	var zipped []byte
	if err := json.Unmarshal([]byte(`"`+got[6].(string)+`"`), &zipped); err != nil {
		t.Fatal(err)
	}
	return got[0].(string), got[4].(string), zipped
}

func TestReport(t *testing.T) {
	xmllint := testenv.Need(t, "xmllint", "apt-get install libxml2-utils")
	c, b := newClock(), &box{}
	r := open(t, Config{Organization: "Receiver GmbH", Contact: "https://receiver.example/dmarc?a=b&c", Send: b.send, Now: c.Now})
	everything(r)
	list := dayOver(t, r, c, b)
	if len(list) != 1 || list[0].To != "dmarc@example.com" || list[0].Domain != "example.com" {
		t.Fatalf("%d reports", len(list))
	}
	message := list[0].Message
	if bytes.Count(message, []byte("\n")) != bytes.Count(message, []byte("\r\n")) {
		t.Error("there are line ends without CR")
	}
	for line := range bytes.SplitSeq(message, []byte("\r\n")) {
		if len(line) > 998 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	subject, filename, zipped := attachment(t, message)
	if !regexp.MustCompile(`^Report\s+Domain:\s+example\.com\s+Submitter:\s+mx\.receiver\.example\s+Report-ID:\s+<1793491200-example\.com@mx\.receiver\.example>$`).MatchString(subject) {
		t.Errorf("the subject is %q", subject)
	}
	if want := "mx.receiver.example!example.com!1793491200!1793577599.xml.gz"; filename != want {
		t.Errorf("the file is %q, not %q", filename, want)
	}
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	document, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, strings.TrimSuffix(filename, ".gz"))
	if err := os.WriteFile(path, document, 0o600); err != nil {
		t.Fatal(err)
	}
	schema, err := filepath.Abs("testdata/feedback.xsd")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(xmllint, "--nonet", "--noout", "--schema", schema, path).CombinedOutput(); err != nil {
		t.Errorf("xmllint: %s\n%s", out, document)
	}
	checkRows(t, document)
	checkWithDmarcCat(t, filepath.Join(dir, filename), zipped)
}

func checkRows(t *testing.T, document []byte) {
	t.Helper()
	var f feedback
	if err := xml.Unmarshal(document, &f); err != nil {
		t.Fatal(err)
	}
	if f.XMLName.Space != namespace || f.Metadata.Begin != 1793491200 || f.Metadata.End != 1793577599 {
		t.Errorf("%+v", f.Metadata)
	}
	var got []string
	total := 0
	for _, rec := range f.Records {
		total += rec.Count
		if rec.Source != "192.0.2.7" {
			text, err := json.Marshal(rec)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(text))
		}
	}
	want := []string{
		`{"Source":"192.0.2.1","Count":12,"Disposition":"reject","DKIM":"fail","SPF":"fail","Reasons":null,"From":"spam.example","HeaderFrom":"example.com","Signatures":null,"SPFResult":{"Domain":"spam.example","Scope":"mfrom","Result":"pass"}}`,
		`{"Source":"192.0.2.1","Count":2,"Disposition":"quarantine","DKIM":"fail","SPF":"fail","Reasons":[{"Type":"mailing_list","Comment":"list \u003cx\u003e \u0026 \"y\" ??[2J???"},{"Type":"other","Comment":""}],"From":"[192.0.2.1]","HeaderFrom":"a.b.example.com","Signatures":null,"SPFResult":{"Domain":"no?domain??\u003cat\u003e?all","Scope":"mfrom","Result":"temperror"}}`,
		`{"Source":"192.0.2.1","Count":1,"Disposition":"none","DKIM":"fail","SPF":"fail","Reasons":[{"Type":"local_policy","Comment":""}],"From":"spam.example","HeaderFrom":"example.com","Signatures":null,"SPFResult":{"Domain":"spam.example","Scope":"mfrom","Result":"pass"}}`,
		`{"Source":"2001:db8::25","Count":3,"Disposition":"pass","DKIM":"pass","SPF":"fail","Reasons":null,"From":"","HeaderFrom":"example.com","Signatures":[{"Domain":"example.com","Selector":"s1","Result":"pass"},{"Domain":"mail.example.com","Selector":"r","Result":"pass"},{"Domain":"esp.example","Selector":"e","Result":"pass"},{"Domain":"list.example","Selector":"l","Result":"fail"}],"SPFResult":{"Domain":"mx.example.com","Scope":"mfrom","Result":"none"}}`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(f.Records) != 4+7 || total != 12+3+2+1+7 {
		t.Errorf("%d rows of %d messages", len(f.Records), total)
	}
}

// checkWithDmarcCat reads the file with a program for those who get reports.
func checkWithDmarcCat(t *testing.T, path string, zipped []byte) {
	t.Helper()
	cat := testenv.Need(t, "dmarc-cat", "apt-get install dmarc-cat")
	if err := os.WriteFile(path, zipped, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(cat, "-N", path).CombinedOutput()
	if err != nil {
		t.Fatalf("dmarc-cat: %v: %s", err, out)
	}
	for _, want := range []string{"Reporting by: Receiver GmbH — dmarc@receiver.example", "Domain: example.com", "Reports(11):", "p=reject", "From 2026-11-01", "to 2026-11-01 23:59:59"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("dmarc-cat does not say %q:\n%s", want, out)
		}
	}
}

func TestDisposition(t *testing.T) {
	for _, test := range []struct {
		name               string
		code               dmarc.Code
		requested, applied dmarc.Policy
		testing            bool
		reasons            []Reason
		want, why          string
	}{
		{"passes", dmarc.Pass, dmarc.Reject, dmarc.None, false, nil, "pass", ""},
		{"passes p=none", dmarc.Pass, dmarc.None, dmarc.None, false, nil, "none", ""},
		{"passes, refused for something else", dmarc.Pass, dmarc.Reject, dmarc.Reject, false, nil, "pass", ""},
		{"as asked", dmarc.Fail, dmarc.Quarantine, dmarc.Quarantine, false, []Reason{{LocalPolicy, "x"}}, "quarantine", ""},
		{"testing", dmarc.Fail, dmarc.Reject, dmarc.Quarantine, true, nil, "quarantine", "policy_test_mode"},
		{"testing, but let through", dmarc.Fail, dmarc.Reject, dmarc.None, true, nil, "none", "local_policy"},
		{"let through", dmarc.Fail, dmarc.Reject, "", false, []Reason{{TrustedForwarder, "a list"}}, "none", "trusted_forwarder a list"},
	} {
		m := failing("example.com")
		m.Applied, m.Reasons = test.applied, test.reasons
		d := &m.Auth.DMARC
		d.Code, d.Requested, d.Policy, d.Record.Testing = test.code, test.requested, test.requested, test.testing
		if test.testing {
			d.Policy = dmarc.Quarantine
		}
		if got, why := disposition(m); got != test.want || why != test.why {
			t.Errorf("%s: %q, %q", test.name, got, why)
		}
	}
}

// Whatever strangers call themselves, the document is XML, and says what it said.
func FuzzDocument(f *testing.F) {
	f.Add("example.com", "a@example.com", "sel", "comment")
	f.Add("<&>\x00\xff", "a@\"b", "\n\n", "]]>")
	f.Fuzz(func(t *testing.T, helo, from, selector, comment string) {
		m := failing("example.com")
		m.MailFrom, m.Applied, m.Reasons = from, dmarc.None, []Reason{{Other, comment}}
		m.Auth.SPF.Domain = helo
		m.Auth.DKIM = []dkim.Verification{{Result: dkim.Pass, Domain: helo, Selector: selector}}
		r := &Reporter{cfg: Config{Hostname: "mx.example", Email: "a@example", Organization: helo, Contact: comment}.withDefaults()}
		line := newRow(m)
		e := &domain{key: key{20000, "example.com"}, rows: map[row]int{line: 3}, messages: 3}
		document, err := r.document(e)
		if err != nil {
			t.Fatal(err)
		}
		var back feedback
		if err := xml.Unmarshal(document, &back); err != nil {
			t.Fatalf("%v: %q", err, document)
		}
		if len(back.Records) != 1 {
			t.Fatalf("%d records", len(back.Records))
		}
		want := line.record(3)
		if !reflect.DeepEqual(want.Signatures, back.Records[0].Signatures) || want.SPFResult != back.Records[0].SPFResult || want.From != back.Records[0].From {
			t.Errorf("%+v\n%+v", want, back.Records[0])
		}
		if helo != "" && selector != "" && len(back.Records[0].Signatures) != 1 || line.size() > 3000 {
			t.Errorf("%+v", line)
		}
	})
}
