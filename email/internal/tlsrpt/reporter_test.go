package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// clock is a clock that tests set.
type clock struct{ t atomic.Pointer[time.Time] }

func (c *clock) now() time.Time  { return *c.t.Load() }
func (c *clock) set(t time.Time) { c.t.Store(&t) }

func open(t *testing.T, cfg Config) *Reporter {
	t.Helper()
	cfg.Organization, cfg.Submitter, cfg.From = "Example & Söhne", "Mail.example.com", "tls-reports@mail.example.com"
	r, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(context.Background()) })
	return r
}

func memory(t *testing.T) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func storedKeys(t *testing.T, s *storage.Store) (keys []string) {
	t.Helper()
	for k, err := range s.List(t.Context(), storePrefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return keys
}

// outbox takes mails on.
type outbox struct {
	mu   sync.Mutex
	list []Message
	err  error
}

func (o *outbox) send(_ context.Context, m Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	o.list = append(o.list, m)
	return nil
}

func (o *outbox) take() []Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.list
	o.list = nil
	return list
}

func sample() []Session {
	sts := Policy{Type: STS, Domain: "a.test", Lines: []string{"version: STSv1", "mode: testing", "mx: *.a.test", "max_age: 86400"}, MX: []string{"*.a.test"}}
	s := Session{Domain: "A.test.", Policy: sts, SendingIP: netip.MustParseAddr("2001:db8::1"), ReceivingIP: netip.MustParseAddr("192.0.2.25"), MX: "mx.a.test", HELO: "mail.example.com"}
	failed := s
	failed.Failure, failed.Reason = CertificateExpired, "x509: certificate has expired"
	bare := Session{Domain: "a.test", Policy: Policy{Type: NoPolicy, Domain: "a.test"}, Failure: StartTLSNotSupported}
	return []Session{s, s, failed, failed, bare}
}

const wantReport = `{
 "contact-info": "tls-reports@mail.example.com",
 "date-range": {"end-datetime": "2026-03-01T23:59:59Z", "start-datetime": "2026-03-01T00:00:00Z"},
 "organization-name": "Example & Söhne",
 "policies": [
  {
   "failure-details": [
    {
     "failed-session-count": 2, "failure-reason-code": "x509: certificate has expired",
     "receiving-ip": "192.0.2.25", "receiving-mx-helo": "mail.example.com", "receiving-mx-hostname": "mx.a.test",
     "result-type": "certificate-expired", "sending-mta-ip": "2001:db8::1"
    }
   ],
   "policy": {
    "mx-host": ["*.a.test"], "policy-domain": "a.test",
    "policy-string": ["version: STSv1", "mode: testing", "mx: *.a.test", "max_age: 86400"], "policy-type": "sts"
   },
   "summary": {"total-failure-session-count": 2, "total-successful-session-count": 2}
  },
  {
   "failure-details": [{"failed-session-count": 1, "result-type": "starttls-not-supported"}],
   "policy": {"policy-domain": "a.test", "policy-type": "no-policy-found"},
   "summary": {"total-failure-session-count": 1, "total-successful-session-count": 0}
  }
 ],
 "report-id": "2026-03-01.a.test@mail.example.com"
}`

func checkReport(t *testing.T, gz []byte) {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := errors.Join(json.Unmarshal(text, &got), json.Unmarshal([]byte(wantReport), &want)); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s", text)
	}
}

// readMail has Python read a message: what it finds in it, as JSON.
const readMail = `
import email, email.policy, json, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTP)
parts = [[p.get_content_type(), p.get_filename(), p.get_content_disposition()] for p in m.iter_parts()]
print(json.dumps({"headers": {k.lower(): str(v) for k, v in m.items() if k.lower() != "content-type"}, "type": m.get_content_type(),
  "report": m.get_param("report-type"), "parts": parts, "data": list(m.get_payload()[1].get_payload(decode=True)),
  "text": m.get_payload()[0].get_content(), "defects": [str(d) for p in m.walk() for d in p.defects]}))
`

// A day of counting ends in reports by mail and HTTPS, which others can read.
func TestReport(t *testing.T) {
	testenv.Goroutines(t)
	var posts atomic.Int32
	var healthy atomic.Bool
	posted := make(chan []byte, 10)
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		if r.Method != http.MethodPost || r.URL.Path != "/v1" || r.Header.Get("Content-Type") != "application/tlsrpt+gzip" {
			t.Errorf("%s %s %s", r.Method, r.URL, r.Header)
		}
		body, _ := io.ReadAll(r.Body)
		if !healthy.Load() {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		posted <- body
		w.WriteHeader(http.StatusCreated)
	}))
	defer web.Close()
	dns := dnstest.New(t, dnstest.Zone{
		"_smtp._tls.a.test":    {"TXT v=TLSRPTv1; rua=mailto:reports@a.test,https://" + web.Listener.Addr().String() + "/v1"},
		"_smtp._tls.down.test": {"SERVFAIL"},
	})
	store, out, c := memory(t), &outbox{}, &clock{}
	c.set(time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC))
	cfg := Config{Resolver: dns.Resolver(), Send: out.send, HTTP: web.Client(), Store: store, Now: c.now, Spread: -1}
	r := open(t, cfg)
	for _, s := range sample() {
		r.Add(s)
	}
	for _, domain := range []string{"silent.test", "down.test", "[192.0.2.1]", ""} {
		r.Add(Session{Domain: domain, Policy: Policy{Type: NoPolicy, Domain: domain}})
	}
	r.deliverDue(t.Context())
	if posts.Load() != 0 || len(out.take()) != 0 {
		t.Error("a report of a day that is not over")
	}
	// A restart at midnight loses nothing.
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys := storedKeys(t, store); !slices.Equal(keys, []string{"email/tlsrpt/2026-03-01/a.test.json", "email/tlsrpt/2026-03-01/down.test.json", "email/tlsrpt/2026-03-01/silent.test.json"}) {
		t.Error(keys)
	}
	c.set(time.Date(2026, 3, 2, 0, 0, 1, 0, time.UTC))
	r = open(t, cfg)
	r.Add(Session{Domain: "a.test", Policy: Policy{Type: NoPolicy, Domain: "a.test"}}) // the next day's
	r.deliverDue(t.Context())
	mails := out.take()
	if len(mails) != 1 || posts.Load() != 1 || mails[0].To != "reports@a.test" || mails[0].From != "tls-reports@mail.example.com" {
		t.Fatalf("%d mails, %d posts: %+v", len(mails), posts.Load(), mails)
	}
	if s := r.Stats(); s.Domains != 3 || s.Delivered != 1 { // a.test of both days, down.test
		t.Errorf("%+v", s)
	}

	data := mails[0].Data
	if bytes.Contains(bytes.ReplaceAll(data, []byte("\r\n"), nil), []byte("\n")) {
		t.Errorf("there are bare line feeds in %q", data)
	}
	cmd := exec.Command(testenv.Need(t, "python3", "apt-get install python3"), "-c", readMail)
	cmd.Stdin = bytes.NewReader(data)
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	var read struct {
		Headers      map[string]string
		Type, Report string
		Parts        [][]any
		Data         []int
		Text         string
		Defects      []string
	}
	if err := json.Unmarshal(b, &read); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	delete(read.Headers, "message-id")
	const file = "mail.example.com!a.test!1772323200!1772409599.json.gz"
	if want := map[string]string{
		"from": "tls-reports@mail.example.com", "to": "reports@a.test", "mime-version": "1.0", "auto-submitted": "auto-generated",
		"date": "Mon, 02 Mar 2026 00:00:01 +0000", "tls-required": "No", "tls-report-domain": "a.test", "tls-report-submitter": "mail.example.com",
		"subject": "Report Domain: a.test Submitter: mail.example.com Report-ID: <2026-03-01.a.test@mail.example.com>",
	}; !maps.Equal(read.Headers, want) {
		t.Errorf("%q", read.Headers)
	}
	if read.Type != "multipart/report" || read.Report != "tlsrpt" || len(read.Defects) > 0 || !strings.Contains(read.Text, "Example & Söhne") ||
		fmt.Sprint(read.Parts) != "[[text/plain <nil> <nil>] [application/tlsrpt+gzip "+file+" attachment]]" {
		t.Errorf("%s", b)
	}
	gz := make([]byte, len(read.Data))
	for i, v := range read.Data {
		gz[i] = byte(v)
	}
	checkReport(t, gz)

	// Only what failed is tried again, over a restart too, when its time has come.
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	healthy.Store(true)
	r = open(t, cfg)
	c.set(c.now().Add(firstRetry + time.Second))
	r.deliverDue(t.Context())
	if mails := out.take(); len(mails) != 0 || posts.Load() != 2 {
		t.Errorf("%d mails, %d posts", len(mails), posts.Load())
	}
	checkReport(t, <-posted)
	// What cannot be looked up is given up in the end.
	c.set(time.Date(2026, 3, 3, 0, 0, 1, 0, time.UTC))
	r.deliverDue(t.Context())
	if s := r.Stats(); s.Domains != 0 || s.Failed != 1 {
		t.Errorf("%+v", s)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys := storedKeys(t, store); len(keys) != 0 {
		t.Error(keys)
	}
}

// records is DNS without a network, for a clock that is not real.
type records map[string]string

func (r records) LookupTXT(_ context.Context, name string) ([]string, error) {
	switch text := r[strings.TrimSuffix(name, ".")]; text {
	case "":
		return nil, &net.DNSError{IsNotFound: true}
	case "SERVFAIL":
		return nil, &net.DNSError{IsTemporary: true}
	default:
		return []string{text}, nil
	}
}
func (records) LookupMX(context.Context, string) ([]*net.MX, error) {
	return nil, errors.ErrUnsupported
}
func (records) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	return nil, errors.ErrUnsupported
}
func (records) LookupAddr(context.Context, string) ([]string, error) {
	return nil, errors.ErrUnsupported
}

type doFunc func(*http.Request) (*http.Response, error)

func (f doFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }

// A clock that runs forward by days: reports go out spread over the hours after
// midnight, and what fails is tried again less and less often for a day.
func TestDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC()
		midnight := now.Truncate(24 * time.Hour).Add(24 * time.Hour)
		dns := records{"_smtp._tls.bad.test": "v=TLSRPTv1; rua=https://bad.test/"}
		const domains = 50
		for i := range domains {
			dns[fmt.Sprintf("_smtp._tls.a%d.test", i)] = "v=TLSRPTv1; rua=mailto:r@a.test"
		}
		var mu sync.Mutex
		var sent, tried []time.Duration // since midnight
		r := open(t, Config{
			Resolver: dns,
			Send: func(context.Context, Message) error {
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, time.Since(midnight))
				return nil
			},
			HTTP: doFunc(func(*http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				tried = append(tried, time.Since(midnight))
				return nil, errors.New("nobody is there")
			}),
		})
		for i := range domains {
			domain := fmt.Sprintf("a%d.test", i)
			r.Add(Session{Domain: domain, Policy: Policy{Type: NoPolicy, Domain: domain}})
		}
		r.Add(Session{Domain: "bad.test", Policy: Policy{Type: NoPolicy, Domain: "bad.test"}})
		time.Sleep(5 * 24 * time.Hour)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(sent) != domains || sent[0] < 0 || sent[domains-1] > 4*time.Hour+time.Minute || sent[domains-1]-sent[0] < time.Hour {
			t.Error(sent)
		}
		first := tried[0]
		if first < 0 || first > 4*time.Hour+time.Minute || len(tried) < 8 || len(tried) > 20 || tried[1]-first > 7*time.Minute {
			t.Error(tried)
		}
		if last := tried[len(tried)-1]; last < 24*time.Hour || last > 33*time.Hour {
			t.Error(tried)
		}
		if s := r.Stats(); s != (Stats{Delivered: domains, Failed: 1}) {
			t.Errorf("%+v", s)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestDomainsAreBounded(t *testing.T) {
	c := &clock{}
	c.set(time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC))
	r := open(t, Config{Resolver: records{}, MaxDomains: 3, Now: c.now, Spread: -1})
	add := func() {
		for i := range 5 {
			r.Add(Session{Domain: fmt.Sprintf("a%d.test", i), Policy: Policy{Type: NoPolicy}})
		}
	}
	add()
	add()
	if s := r.Stats(); s.Domains != 3 || s.Uncounted != 4 {
		t.Errorf("%+v", s)
	}
	c.set(c.now().Add(24 * time.Hour))
	add()
	if s := r.Stats(); s.Domains != 6 || s.Uncounted != 6 {
		t.Errorf("%+v", s)
	}
	// A domain without a record, and an address that we have no means for.
	r.cfg.Resolver = records{"_smtp._tls.a0.test": "v=TLSRPTv1; rua=mailto:a@a.test,https://a.test/", "_smtp._tls.a1.test": "v=TLSRPTv1"}
	c.set(c.now().Add(5 * time.Hour))
	r.deliverDue(t.Context())
	if s := r.Stats(); s.Domains != 0 || s.Delivered != 0 || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

// A mail that is not taken on is tried again.
func TestSendFails(t *testing.T) {
	c, out := &clock{}, &outbox{err: errors.New("full")}
	c.set(time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC))
	r := open(t, Config{Resolver: records{"_smtp._tls.a.test": "v=TLSRPTv1; rua=mailto:a@a.test"}, Send: out.send, Now: c.now, Spread: -1})
	for _, s := range sample() {
		r.Add(s)
	}
	c.set(c.now().Add(3 * time.Hour))
	r.deliverDue(t.Context())
	out.mu.Lock()
	out.err = nil
	out.mu.Unlock()
	r.deliverDue(t.Context()) // too early
	if list := out.take(); len(list) != 0 {
		t.Error("too early")
	}
	c.set(c.now().Add(firstRetry))
	r.deliverDue(t.Context())
	if list := out.take(); len(list) != 1 {
		t.Errorf("%d mails", len(list))
	}
}

// What is stored and cannot be right is passed over.
func TestDamagedStore(t *testing.T) {
	store := memory(t)
	for name, text := range map[string]string{
		"2026-03-01/a.test.json": `{"day":"2026-03-01","domain":"a.test","policies":[{"policy":{"policy-type":"sts","policy-domain":"a.test"},"successes":3}]}`,
		"2026-03-01/b.test.json": `{"day":"2026-03-01","domain":"other.test"}`,
		"2026-03-01/c.test.json": `{"day":"2026-03-02","domain":"c.test"}`,
		"nonsense/d.test.json":   `{"day":"nonsense","domain":"d.test"}`,
		"2026-03-01/e.test.json": `{"day":"2026-03-01","domain":"e.test","policies":[null]}`,
		"2026-03-01/f.test.json": `{"day":"2026-03-01","domain":"f.test","policies":[{"details":[null]}]}`,
		"2026-03-01/g.test.json": `{`,
		"x":                      `{}`,
	} {
		if err := store.Put(t.Context(), storePrefix+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	r := open(t, Config{Resolver: records{}, Store: store})
	if s := r.Stats(); s.Domains != 1 {
		t.Errorf("%+v", s)
	}
}

func TestConfig(t *testing.T) {
	_, err := Open(t.Context(), Config{Organization: "a\r\nBcc: x", Submitter: "-", From: "x", Contact: "a\nb"})
	for _, want := range []string{"organization", "contact", "sender", "resolver"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name the %s", err, want)
		}
	}
	_, err = Open(t.Context(), Config{Organization: "a", Submitter: "", From: "ü@a.test", Resolver: records{}})
	for _, want := range []string{"submitter", "ASCII"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name the %s", err, want)
		}
	}
}

// However many domains an owner makes up, and however long their policies are, what
// is kept of them is bounded, also after a restart, and others are counted.
func TestAnOwnerIsBounded(t *testing.T) {
	var c clock
	c.set(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	store := memory(t)
	cfg := Config{Resolver: records{}, Store: store, Now: c.now, Spread: -1}
	r := open(t, cfg)
	long := []string{"version: STSv1", strings.Repeat("x", 32<<10)}
	flood := func() {
		for i := range 1000 {
			domain := fmt.Sprintf("d%d.a.test", i)
			r.Add(Session{Domain: domain, Policy: Policy{Type: NoPolicy, Domain: domain}})
			r.Add(Session{Domain: domain, Policy: Policy{Type: STS, Domain: domain, Lines: long}})
			r.Add(Session{Domain: "d0.a.test", Policy: Policy{Type: NoPolicy, Domain: "d0.a.test"}, Failure: ValidationFailure, MX: domain})
		}
	}
	flood()
	stored := func() (bytes int) {
		for _, k := range storedKeys(t, store) {
			value, err := store.Get(t.Context(), k)
			if err != nil {
				t.Fatal(err)
			}
			bytes += len(value)
		}
		return bytes
	}
	stats := r.Stats()
	r.Close(t.Context())
	if n := stored(); n > 2*maxOwned || stats.Domains < 2 || stats.Uncounted == 0 {
		t.Errorf("%d bytes for %d domains, %d sessions were left out", n, stats.Domains, stats.Uncounted)
	}
	p := r.counts[key{"2026-03-01", "d0.a.test"}].Policies[0]
	if p.Successes != 1 || p.Failures != 1000 {
		t.Errorf("%d and %d sessions of a domain that was known were counted", p.Successes, p.Failures)
	}

	r = open(t, cfg)
	if n := r.owned[key{"2026-03-01", "a.test"}]; n < maxOwned*9/10 || n > maxOwned+overhead {
		t.Errorf("%d bytes are held after a restart", n)
	}
	flood()
	r.Add(Session{Domain: "b.test", Policy: Policy{Type: STS, Domain: "b.test", Lines: long}})
	if n := r.Stats().Domains; n != stats.Domains+1 {
		t.Errorf("%d domains after a restart and one more, %d before", n, stats.Domains)
	}
	r.Close(t.Context())
	if n := stored(); n > 2*maxOwned {
		t.Errorf("%d bytes after a restart", n)
	}
}
