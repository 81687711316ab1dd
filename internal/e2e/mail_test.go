package e2e

import (
	"crypto/tls"
	"errors"
	"io"
	"net/mail"
	"net/smtp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Two sites know of each other only what they publish: they write to each other,
// refuse what could be an attacker, change their keys under way, and hear of mail
// that could not be delivered.
func TestMailBetweenSites(t *testing.T) {
	testenv.Goroutines(t)
	testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	testenv.Need(t, "curl", "apt-get install curl")
	a, b := twoSites(t)
	certPath, keyPath, _ := testenv.SelfSigned(t, "other.example")
	wrong, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	a.internet.trust(t, certPath)
	// With psd=n nobody asks what example says, which has no name server here.
	const reject = "v=DMARC1; p=reject; psd=n"
	b.edit = func(c *email.Config) {
		c.Domains[0].Policies = email.Policies{MTASTS: email.EnforceMTASTS, DMARC: reject}
		c.Routes = append(c.Routes, email.Route{Name: "moved", Match: email.Match{Recipients: []string{"gone@b.example"}},
			Action: email.Action{Type: email.Forward, Forward: &email.ForwardAction{Host: a.addr, Queue: true}}})
	}
	a.edit = func(c *email.Config) {
		c.Domains[0].Policies.DMARC = reject
		c.Routes = append(c.Routes, email.Route{Name: "nobody", Match: email.Match{Recipients: []string{"gone@b.example"}},
			Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "There is no such mailbox"}}})
	}
	b.start(t, a.addr)
	a.start(t, b.addr)
	b.ready(t)
	a.ready(t)

	b.published(t)
	a.delivers(t, b)
	b.seesThrough(t, "ann@a.example")
	waiting := a.refuses(t, b, &wrong)
	keys := a.rotates(t)

	// The keys take over while the message waits. A remembers B's policy, and B is
	// still not itself.
	a.stop(t)
	if counts := a.stored(t, "email/tlsrpt/"); !strings.Contains(counts, "certificate-host-mismatch") || !strings.Contains(counts, "mx.b.example") {
		t.Errorf("what is to be reported about TLS: %s", counts)
	}
	a.internet.ahead.Store(int64(2 * time.Hour))
	a.start(t, b.addr)
	a.waitForKeys(t, "retiring", "retiring", "active", "active")
	for _, k := range keys { // what the old ones have signed can still be verified
		if got := a.dig(t, k.Selector+"._domainkey.a.example", "TXT"); len(got) != 1 || !strings.HasPrefix(got[0], `"v=DKIM1; k=`+k.Algorithm+"; p=") {
			t.Errorf("%s: %q", k.Selector, got)
		}
	}
	a.waitForStatus(t, waiting, func(st email.EmailStatus) bool { return st.Tries == 2 && st.Status == email.StatusPending })

	b.other.Store(nil)
	testenv.WaitFor(t, patience, func() error { return a.Email().Retry(t.Context(), waiting) }) // not while it is under way
	a.waitForStatus(t, waiting, func(st email.EmailStatus) bool { return st.Status == email.StatusDelivered })
	signedBy(t, b.waitForMail(t, "bob", "Subject: waits"), keys[2:])
	if n := len(b.mailbox(t, "bob")); n != 2 {
		t.Errorf("%d messages have arrived of 2", n)
	}

	a.bounces(t)
}

// published looks at all that the domain says about its mail.
func (s *mailSite) published(t *testing.T) {
	t.Helper()
	for _, want := range []struct{ name, rtype, value string }{
		{s.domain, "MX", "10 mx." + s.domain + "."},
		{"mx." + s.domain, "A", s.addr},
		{s.domain, "TXT", `"v=spf1 mx ip4:` + s.addr + ` ~all"`},
		{"default._domainkey." + s.domain, "TXT", `"v=DKIM1; k=rsa; p=`},
		{"default-ed25519._domainkey." + s.domain, "TXT", `"v=DKIM1; k=ed25519; p=`},
		{"_dmarc." + s.domain, "TXT", `"v=DMARC1; p=reject; psd=n"`},
		{"_mta-sts." + s.domain, "TXT", `"v=STSv1; id=`},
		{"mta-sts." + s.domain, "A", s.addr},
		{"_smtp._tls." + s.domain, "TXT", `"v=TLSRPTv1; rua=mailto:postmaster@` + s.domain + `"`},
	} {
		if got := s.dig(t, want.name, want.rtype); len(got) != 1 || !strings.HasPrefix(got[0], want.value) {
			t.Errorf("%s %s is %q, want %s", want.name, want.rtype, got, want.value)
		}
	}
	got := tool(t, "curl", "apt-get install curl", "-sS", "--cacert", s.internet.roots, "--resolve", "mta-sts."+s.domain+":443:"+s.addr,
		"https://mta-sts."+s.domain+"/.well-known/mta-sts.txt")
	if want := "version: STSv1\r\nmode: enforce\r\nmx: mx." + s.domain + "\r\nmax_age: 604800\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if st, err := s.Email().CheckDomain(t.Context(), s.domain); err != nil || !st.OK {
		t.Errorf("%v, %+v", err, st)
	}
}

// delivers sends a message that nothing is wrong with.
func (s *mailSite) delivers(t *testing.T, to *mailSite) {
	t.Helper()
	id := s.send(t, "bob@"+to.domain, "arrives")
	signedBy(t, to.waitForMail(t, "bob", "Subject: arrives"), s.Email().Domains()[0].Keys)
	st := s.waitForStatus(t, id, func(st email.EmailStatus) bool { return st.Status == email.StatusDelivered })
	if !slices.ContainsFunc(st.Timeline, func(e email.TimelineEntry) bool {
		return e.Host == "mx."+to.domain && e.Addr == to.addr+":25" && strings.HasPrefix(e.Source, s.addr) && e.TLS == "TLS 1.3, verified by mta-sts"
	}) {
		t.Errorf("%+v", st.Timeline)
	}
}

// seesThrough sends a message from somewhere else in the name of an author.
func (s *mailSite) seesThrough(t *testing.T, author string) {
	t.Helper()
	msg := "From: " + author + "\r\nTo: bob@" + s.domain + "\r\nSubject: is forged\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@forged.example>\r\n\r\nHello.\r\n"
	c, err := smtp.Dial(s.addr + ":25")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Mail(author), c.Rcpt("bob@"+s.domain)); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, msg)
	if err = errors.Join(err, w.Close()); err == nil || !strings.Contains(err.Error(), "DMARC") {
		t.Errorf("%v", err)
	}
}

// signedBy wants that the receiver has found a message to be from its author, by
// the signatures of these keys.
func signedBy(t *testing.T, msg string, keys []email.DKIMKey) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(msg))
	if err != nil {
		t.Fatal(err)
	}
	results := m.Header.Get("Authentication-Results")
	if !strings.Contains(results, "spf=pass") || strings.Count(results, "dkim=pass") != len(keys) || !strings.Contains(results, "dmarc=pass") {
		t.Errorf("Authentication-Results: %s", results)
	}
	for _, k := range keys {
		if !strings.Contains(results, " header.s="+k.Selector+" ") {
			t.Errorf("no signature of %s in %s", k.Selector, results)
		}
	}
}

// refuses sends a message while the other's certificate is for somebody else, and
// returns it: it waits.
func (s *mailSite) refuses(t *testing.T, to *mailSite, wrong *tls.Certificate) (id string) {
	t.Helper()
	to.stop(t) // and with it the connection that A keeps
	to.start(t, s.addr)
	to.ready(t)
	to.other.Store(wrong)
	id = s.send(t, "bob@"+to.domain, "waits")
	st := s.waitForStatus(t, id, func(st email.EmailStatus) bool { return st.Tries == 1 })
	if st.Status != email.StatusPending || st.Next.IsZero() || len(to.mailbox(t, "bob")) != 1 {
		t.Errorf("%v: %+v", st, st.Timeline)
	}
	if !slices.ContainsFunc(st.Timeline, func(e email.TimelineEntry) bool {
		return e.Kind == "tried" && e.Host == "mx."+to.domain && e.TLS == "" && strings.Contains(e.Text, "other.example")
	}) {
		t.Errorf("the timeline does not say why: %+v", st.Timeline)
	}
	return id
}

// rotates makes new keys. Their records are there at once, and they wait until all
// others have had the time to see them.
func (s *mailSite) rotates(t *testing.T) []email.DKIMKey {
	t.Helper()
	if err := s.Email().RotateDKIM(t.Context(), s.domain); err != nil {
		t.Fatal(err)
	}
	keys := s.waitForKeys(t, "active", "active", "published", "published")
	for _, k := range keys {
		if got := s.dig(t, k.Selector+"._domainkey."+s.domain, "TXT"); len(got) != 1 || !strings.HasPrefix(got[0], `"v=DKIM1; k=`+k.Algorithm+"; p=") {
			t.Errorf("%s: %q", k.Selector, got)
		}
	}
	return keys
}

// bounces sends to somebody whose server takes the mail first and cannot deliver
// it then.
func (s *mailSite) bounces(t *testing.T) {
	t.Helper()
	id := s.send(t, "gone@b.example", "comes back")
	st := s.waitForStatus(t, id, func(st email.EmailStatus) bool { return st.Status == email.StatusBounced })
	if rcpt := st.Recipients[0]; rcpt.Code != "5.7.1" || !strings.Contains(rcpt.Reply, "no such mailbox") {
		t.Errorf("%+v", rcpt)
	}
	var kinds []string
	for _, e := range st.Timeline {
		kinds = append(kinds, e.Kind)
	}
	if want := []string{"tried", email.EventDelivered, email.EventBounced}; !slices.Equal(kinds, want) {
		t.Errorf("the timeline is %+v, want %v", st.Timeline, want)
	}
	if entry, ok := s.Email().Suppressions().Check("gone@b.example"); !ok || entry.Reason != email.SuppressedBounce {
		t.Errorf("%+v, %v", entry, ok)
	}
}
