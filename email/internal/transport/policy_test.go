package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// policy wants the same of all hosts, and keeps what it is told.
type policy struct {
	requirement Requirement
	refuse      map[string]error

	mu       sync.Mutex
	outcomes []Outcome
}

func (p *policy) Host(_ context.Context, h mx.Host) Requirement {
	r := p.requirement
	r.Refuse = p.refuse[h.Name]
	return r
}

func (p *policy) Result(o Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outcomes = append(p.outcomes, o)
}

func certificate(t testing.TB, names ...string) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	certPath, keyPath, pool := testenv.SelfSigned(t, names...)
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	return &cert, pool
}

func TestTLS(t *testing.T) {
	testenv.Goroutines(t)
	good, pool := certificate(t, "mx1.y.test", "mx2.y.test")
	wrong, _ := certificate(t, "other.test")
	approves := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		if cs.ServerName != "mx1.y.test" && cs.ServerName != "mx2.y.test" {
			return errors.New("no SNI")
		}
		return nil
	}}
	vetoes := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return errors.New("no TLSA record matches") }}
	with := func(cert *tls.Certificate, on func(*peer, smtpc.Phase) bool) *server {
		if on == nil {
			on = takes
		}
		return &server{cert: cert, on: on, extensions: []string{"STARTTLS", "REQUIRETLS"}}
	}
	refuses := func(p *peer, phase smtpc.Phase) bool {
		if phase == smtpc.PhaseTLS {
			p.say("454 4.7.0 no TLS today")
		}
		return takes(p, phase)
	}
	drops := at(smtpc.PhaseTLS, func(p *peer) bool { p.say("220 go on"); return false })
	after := func(p *peer, phase smtpc.Phase) bool {
		_, encrypted := p.Conn.(*tls.Conn)
		return !encrypted && takes(p, phase)
	}
	strict := Requirement{Mode: smtpc.StartTLS, Config: &tls.Config{RootCAs: pool}, Source: "mta-sts"}
	opp := Requirement{Mode: smtpc.Opportunistic, Config: &tls.Config{RootCAs: pool}, Source: "opportunistic"}
	dane := Requirement{Mode: smtpc.StartTLS, Config: approves, Source: "dane"}
	for name, test := range map[string]struct {
		server      *server // the first; the second has a good certificate
		requirement Requirement
		taken       string
		tls         string // of the attempt that succeeded
		note        string // in the first attempt's errors
		result      error  // what the policy is told of the first
	}{
		"opportunistic":                {with(good, nil), opp, "A", "TLS 1.3, verified", "", nil},
		"opportunistic, wrong name":    {with(wrong, nil), opp, "A", "TLS 1.3, not verified", "", nil},
		"opportunistic, not offered":   {&server{on: takes}, opp, "A", "", "", nil},
		"opportunistic, refused":       {with(good, refuses), opp, "A", "", "", nil},
		"opportunistic, dropped":       {with(good, drops), opp, "A", "", "handshake failed", smtpc.ErrHandshake},
		"opportunistic, dropped after": {with(good, after), opp, "B", "TLS 1.3, verified", "closed the connection", nil},
		"strict":                       {with(good, nil), strict, "A", "TLS 1.3, verified by mta-sts", "", nil},
		"strict, wrong name":           {with(wrong, nil), strict, "B", "TLS 1.3, verified by mta-sts", "other.test", smtpc.ErrHandshake},
		"strict, not offered":          {&server{on: takes}, strict, "B", "TLS 1.3, verified by mta-sts", "does not offer", smtpc.ErrNoStartTLS},
		"strict, refused":              {with(good, refuses), strict, "B", "TLS 1.3, verified by mta-sts", "", nil},
		"strict, dropped":              {with(good, drops), strict, "B", "TLS 1.3, verified by mta-sts", "handshake failed", smtpc.ErrHandshake},
		"strict, dropped after":        {with(good, after), strict, "B", "TLS 1.3, verified by mta-sts", "closed the connection", nil},
		"dane":                         {with(wrong, nil), dane, "A", "TLS 1.3, verified by dane", "", nil},
		"none":                         {with(wrong, nil), Requirement{Mode: smtpc.NoTLS, Source: "config"}, "A", "", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := start(t, test.server), start(t, with(good, nil))
			p := &policy{requirement: test.requirement}
			r := request(2, "b@y.test")
			r.Policy = p
			c := client(t, Config{Dial: network(a, b)})
			result := c.Send(t.Context(), r)
			if outcome(result) != "b@y.test delivered end 250" || got(a, b) != test.taken+": b@y.test" {
				t.Fatalf("%s, taken %s", outcome(result), got(a, b))
			}
			first, last := result.Attempts[0], result.Attempts[len(result.Attempts)-1]
			if last.TLS != test.tls || len(result.Attempts) != map[string]int{"A": 1, "B": 2}[test.taken] ||
				!strings.Contains(first.Err+first.TLSError, test.note) || test.note == "" && first.Err+first.TLSError != "" {
				t.Errorf("%+v", result.Attempts)
			}
			o := p.outcomes[0]
			failed := test.taken == "B" && !strings.HasSuffix(name, ", dropped after") || test.result != nil
			if o.Host.Name != "mx1.y.test" || o.HELO != "client.test" || o.Remote != hostAddrs(1)[0] || (o.Err != nil) != (failed || name == "opportunistic, dropped after" || name == "strict, dropped after") ||
				test.result != nil && !errors.Is(o.Err, test.result) || (o.TLS != nil) != (test.tls != "" && test.taken == "A") {
				t.Errorf("the policy was told %+v", o)
			}
			if name == "strict, wrong name" && !errors.As(o.Err, new(x509.HostnameError)) && !errors.As(o.Err, new(x509.UnknownAuthorityError)) {
				t.Errorf("no x509 error in %v", o.Err)
			}
			// The connection is good for another message, and the policy is not told again.
			told := len(p.outcomes)
			if result = c.Send(t.Context(), r); outcome(result) != "b@y.test delivered end 250" || test.taken == "A" && (!result.Attempts[0].Reused || len(p.outcomes) != told) {
				t.Errorf("%s by %s", outcome(result), timeline(result))
			}
		})
	}

	// The policy's own check is final, and nothing goes out in plaintext.
	a := start(t, with(good, nil))
	r := request(1, "b@y.test")
	r.Policy = &policy{requirement: Requirement{Mode: smtpc.Opportunistic, Config: vetoes, Source: "dane"}}
	if result := client(t, Config{Dial: network(a)}).Send(t.Context(), r); outcome(result) != "b@y.test temporary starttls 0; trouble" || got(a) != "" {
		t.Error(outcome(result))
	}

	// REQUIRETLS needs to know who the server is, by DANE too.
	r = request(1, "b@y.test")
	r.Envelope.RequireTLS = true
	for want, req := range map[string]*Requirement{
		"b@y.test delivered end 250":    &dane,
		"b@y.test permanent mail 550":   {Mode: smtpc.StartTLS, Config: &tls.Config{InsecureSkipVerify: true}, Source: "dane"},
		"b@y.test temporary starttls 0": nil, // others may have it all the same
	} {
		r.Policy = nil
		if req != nil {
			r.Policy = &policy{requirement: *req}
		}
		s := start(t, with(wrong, at(smtpc.PhaseMail, func(p *peer) bool {
			if !strings.HasSuffix(p.line, " REQUIRETLS") {
				t.Errorf("%q", p.line)
			}
			return true
		})))
		if result := client(t, Config{Dial: network(s)}).Send(t.Context(), r); outcome(result) != want {
			t.Errorf("%s, not %s", outcome(result), want)
		}
	}
}

// Hosts that a policy refuses are not connected to.
func TestRefusedHosts(t *testing.T) {
	forGood := &smtpc.Error{Phase: smtpc.PhaseTLS, Status: smtpc.Permanent, Reply: smtpc.Reply{Code: 550, Enhanced: "5.7.30", Lines: []string{"no"}}, Err: errors.New("not allowed")}
	passing := errors.New("TLSA is bogus")
	for _, test := range []struct {
		refuse map[string]error
		max    int
		want   string
		told   int
	}{
		{map[string]error{"mx1.y.test": passing}, 0, "b@y.test delivered end 250", 2},
		{map[string]error{"mx1.y.test": passing}, 1, "b@y.test delivered end 250", 2},
		{map[string]error{"mx2.y.test": passing}, 0, "b@y.test temporary starttls 0", 3}, // the first is down
		{map[string]error{"mx1.y.test": passing, "mx2.y.test": forGood}, 0, "b@y.test temporary starttls 0", 2},
		{map[string]error{"mx1.y.test": forGood, "mx2.y.test": fmt.Errorf("wrapped: %w", forGood)}, 0, "b@y.test permanent starttls 550", 2},
	} {
		s := start(t, &server{on: takes})
		p := &policy{requirement: Requirement{Source: "mta-sts"}, refuse: test.refuse}
		r := request(2, "b@y.test")
		r.Policy = p
		r.Destination.Hosts[0].Addrs = append(r.Destination.Hosts[0].Addrs, hostAddrs(9)...)
		result := client(t, Config{Dial: network(nil, s), MaxAddresses: test.max}).Send(t.Context(), r)
		if result.Answered != strings.Contains(test.want, "delivered") {
			t.Errorf("%s, answered: %v", outcome(result), result.Answered)
		}
		if outcome(result) != test.want || len(p.outcomes) != test.told || len(result.Attempts) != test.told {
			t.Errorf("%s by %s; the policy was told of %d", outcome(result), timeline(result), len(p.outcomes))
		}
		if a := result.Attempts[0]; test.refuse["mx1.y.test"] != nil && a.Addr.IsValid() || a.Err == "" || a.Host != "mx1.y.test" {
			t.Errorf("%+v", a)
		}
	}
}
