package dmarcrpt

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth"
	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/spf"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func newClock() *testenv.Clock { return testenv.NewClock(time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)) }

// box takes reports.
type box struct {
	mu   sync.Mutex
	list []Report
	err  error
}

func (b *box) send(_ context.Context, r Report) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.list = append(b.list, r)
	}
	return b.err
}

func (b *box) take() []Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.list
	b.list = nil
	return list
}

func (b *box) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func open(t *testing.T, cfg Config) *Reporter {
	t.Helper()
	if cfg.Hostname == "" {
		cfg.Hostname = "mx.receiver.example"
	}
	if cfg.Email == "" {
		cfg.Email = "dmarc@receiver.example"
	}
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
	t.Cleanup(func() { s.Close() })
	return s
}

// failing is a message in the name of a domain that wants reports to itself.
func failing(domain string) Message {
	return Message{
		SourceIP: netip.MustParseAddr("192.0.2.1"), MailFrom: "a@spam.example", Applied: dmarc.Reject,
		Auth: &auth.Result{
			SPF: spf.Result{Code: spf.Pass, Domain: "spam.example", Scope: spf.MailFrom},
			DMARC: dmarc.Result{
				Code: dmarc.Fail, Domain: domain, Organization: domain, PolicyDomain: domain, Requested: dmarc.Reject, Policy: dmarc.Reject,
				Record: &dmarc.Record{Policy: dmarc.Reject, Aggregate: []string{"mailto:dmarc@" + domain}},
			},
		},
	}
}

// passing is one that is signed.
func passing(domain string) Message {
	m := failing(domain)
	m.SourceIP, m.MailFrom, m.Applied = netip.MustParseAddr("2001:db8::25"), "", dmarc.None
	m.Auth.SPF = spf.Result{Code: spf.None, Domain: "mx." + domain, Scope: spf.Helo}
	m.Auth.DKIM = []dkim.Verification{
		{Result: dkim.PermError}, // unreadable
		{Result: dkim.Fail, Domain: "list.example", Selector: "l"},
		{Result: dkim.Pass, Domain: "esp.example", Selector: "e"},
		{Result: dkim.Pass, Domain: "mail." + domain, Selector: "r"},
		{Result: dkim.Pass, Domain: domain, Selector: "s1"},
	}
	d := &m.Auth.DMARC
	d.Code, d.Policy, d.DKIMAligned, d.DKIMDomain = dmarc.Pass, dmarc.None, true, domain
	return m
}

func add(r *Reporter, n int, m Message) {
	for range n {
		r.Add(m)
	}
}
