package email

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/sched"
	"github.com/dcrouter/dcrouter/storage"
)

// A stranger's domain that names the servers of another beside its own, or wants
// TLS of them that they do not have, does not put off mail to the other.
func TestMailToOthersThanAStranger(t *testing.T) {
	for name, strangers := range map[string]struct {
		mx     []*net.MX
		policy string // the hosts that MTA-STS lets take mail
	}{
		"a host of his own": {[]*net.MX{{Host: "mx.b.example.", Pref: 10}, {Host: "mx.silent.example.", Pref: 20}}, "mx.silent.example"},
		"TLS":               {[]*net.MX{{Host: "mx.b.example.", Pref: 10}}, "mx.b.example"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &script{}
				dns := strangersMX{hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2", "silent.example": "192.0.2.66"}, strangers.mx}
				st := onStage(t, relay("a.example"), b, withPolicy(t, "stranger.example", strangers.policy), WithResolver(dns),
					WithDialer(func(_ context.Context, _ netip.Addr, _, address string) (net.Conn, error) {
						ours, theirs := net.Pipe()
						if strings.HasPrefix(address, "192.0.2.2:") {
							go b.serve(theirs)
						}
						return ours, nil
					}))
				for i := range 20 {
					m := Email{From: "u@a.example", To: []string{fmt.Sprintf("x%d@stranger.example", i)}, Subject: "s", Text: "t"}
					if _, err := st.SendEmail(t.Context(), m); err != nil {
						t.Fatal(err)
					}
					time.Sleep(6 * time.Second)
				}
				if got := b.got(); len(got) > 0 {
					t.Fatalf("the stranger's policy was not heeded: %q", got)
				}
				if _, err := st.SendEmail(t.Context(), Email{From: "u@a.example", To: []string{"friend@b.example"}, Subject: "s", Text: "t"}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if got := b.got(); len(got) != 1 {
					t.Errorf("mail to b.example waits: %+v", st.Stats().Deliveries.Sites)
				}
			})
		})
	}
}

// strangersMX is hosts with those that stranger.example says are its.
type strangersMX struct {
	hosts
	mx []*net.MX
}

func (s strangersMX) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	if name == "stranger.example." {
		return s.mx, nil
	}
	return s.hosts.LookupMX(ctx, name)
}

// withPolicy is a storage with the MTA-STS policy of a domain, as if it had been
// fetched, which lets a host take mail and no other.
func withPolicy(t *testing.T, domain, host string) Option {
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	until := time.Now().Add(30 * 24 * time.Hour).Format(time.RFC3339)
	policy := fmt.Sprintf(`{"id":"1","policy":{"mode":"enforce","mx":[%q],"max_age":%d},"fetched":%[3]q,"expires":%[3]q,"used":%[3]q}`, host, 30*24*time.Hour, until)
	if err := store.Put(t.Context(), "email/mta-sts/"+domain+".json", []byte(policy)); err != nil {
		t.Fatal(err)
	}
	return WithStorage(store)
}

// That a policy lets no host take the mail does not show that the hosts work.
func TestNobodyWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := strangersMX{hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}, []*net.MX{{Host: "mx.b.example.", Pref: 10}}}
		st := onStage(t, relay("a.example"), nil, withPolicy(t, "stranger.example", "mx.elsewhere.example"), WithResolver(dns)) // and b.example is down
		for _, to := range []string{"1@b.example", "2@b.example", "3@b.example", "x@stranger.example", "4@b.example"} {
			if _, err := st.SendEmail(t.Context(), Email{From: "u@a.example", To: []string{to}, Subject: "s", Text: "t"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
		}
		if sites := st.Stats().Deliveries.Sites; len(sites) != 1 || sites[0].Rest.IsZero() {
			t.Errorf("its rest has ended: %+v", sites)
		}
	})
}

// justInTime answers RCPT just in time, as in converse.
func justInTime(command string) string {
	if strings.HasPrefix(command, "RCPT") {
		time.Sleep(4 * time.Minute)
	}
	return ""
}

// Servers that answer just in time hold up those who send to them, and nobody else
// for longer than it takes to see that.
func TestTarpits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}
		for i := range 20 {
			dns[fmt.Sprintf("d%d.example", i)] = "192.0.2.66"
		}
		b := &script{}
		st := onStage(t, relay("a.example"), b, WithResolver(dns), WithDialer(func(_ context.Context, _ netip.Addr, _, address string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			if strings.HasPrefix(address, "192.0.2.66:") {
				go converse(theirs, justInTime)
			} else {
				go b.serve(theirs)
			}
			return ours, nil
		}))
		for k := range 5 {
			m := Email{From: "u@a.example", Subject: "s", Text: "t"}
			for i := range 20 {
				m.Bcc = append(m.Bcc, fmt.Sprintf("x%d@d%d.example", k, i))
			}
			if _, err := st.SendEmail(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if _, err := st.SendEmail(t.Context(), Email{From: "u@a.example", To: []string{"friend@b.example"}, Subject: "s", Text: "t"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(70 * time.Second)
		if len(b.got()) != 1 {
			t.Errorf("mail to b.example waits: %+v", st.Stats().Deliveries)
		}
	})
}

// However many servers there are that answer just in time, one for each recipient,
// others wait for no more than their turn. What was ended is tried again later, and
// given up when its time is up.
func TestAGreatManyTarpits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tarpits = 150
		dns := hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}
		for i := range tarpits {
			dns[fmt.Sprintf("d%d.example", i)] = "192.0.2.66"
		}
		b := &script{}
		cfg := relay("a.example")
		cfg.Queue.Concurrency = 10 // and 100 that are slow
		cfg.Queue.MaxAge = time.Hour
		st := onStage(t, cfg, b, WithResolver(dns), WithDialer(func(_ context.Context, _ netip.Addr, _, address string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			if strings.HasPrefix(address, "192.0.2.66:") {
				go converse(theirs, func(command string) string {
					if command != "" && !strings.HasPrefix(command, "EHLO") {
						time.Sleep(4 * time.Minute)
					}
					if strings.HasPrefix(command, "RCPT") {
						return "451 4.3.0 Later"
					}
					return ""
				})
			} else {
				go b.serve(theirs)
			}
			return ours, nil
		}))
		m := Email{From: "u@a.example", Subject: "s", Text: "t"}
		for i := range tarpits {
			m.Bcc = append(m.Bcc, fmt.Sprintf("x@d%d.example", i))
		}
		id, err := st.SendEmail(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := st.SendEmail(t.Context(), Email{From: "u@a.example", To: []string{"friend@b.example"}, Subject: "s", Text: "t"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(tarpits/10*30*time.Second + time.Second)
		if len(b.got()) != 1 {
			t.Errorf("mail to b.example waits: %+v", st.Stats().Deliveries.Running)
		}
		time.Sleep(30 * time.Minute)
		ended := 0
		for _, e := range st.seen(EventDeferred) {
			if strings.Contains(e.Reason, sched.ErrSlow.Error()) {
				ended++
			}
		}
		if ended == 0 || ended == tarpits {
			t.Errorf("%d of %d were ended", ended, tarpits)
		}
		time.Sleep(2 * time.Hour)
		if got := st.status(id); got.Status != StatusBounced {
			t.Errorf("it is %q in the end", got.Status)
		}
	})
}

// What is ended for others, because it takes long, has not been for nothing: a server
// that takes its time over a message it has gets it once, and who is one of many
// recipients is not given up before it was his turn.
func TestEndedForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tarpits, friends = 300, 100
		dns := hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2", "c.example": "192.0.2.3"}
		for i := range tarpits {
			dns[fmt.Sprintf("d%d.example", i)] = "192.0.2.66"
		}
		var got, many atomic.Int32
		cfg := relay("a.example")
		cfg.Queue.Concurrency = 10 // and 100 that are slow
		cfg.Queue.MaxRetries = new(0)
		st := onStage(t, cfg, nil, WithResolver(dns), WithDialer(func(_ context.Context, _ netip.Addr, _, address string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			host, _, _ := net.SplitHostPort(address)
			go converse(theirs, func(command string) string {
				switch {
				case host == "192.0.2.2" && command == ".":
					got.Add(1)
					time.Sleep(7 * time.Minute)
				case host == "192.0.2.3" && command == ".":
					many.Add(1)
					time.Sleep(10 * time.Second)
				case host == "192.0.2.66" && command != "" && !strings.HasPrefix(command, "EHLO"):
					time.Sleep(4 * time.Minute)
					if strings.HasPrefix(command, "RCPT") {
						return "451 4.3.0 Later"
					}
				}
				return ""
			})
			return ours, nil
		}))
		send := func(to ...string) {
			t.Helper()
			if _, err := st.SendEmail(t.Context(), Email{From: "u@a.example", Bcc: to, Subject: "s", Text: "t"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		send("friend@b.example")
		var to []string
		for i := range friends {
			to = append(to, fmt.Sprintf("x%d@c.example", i))
		}
		send(to...)
		to = nil
		for i := range tarpits {
			to = append(to, fmt.Sprintf("x@d%d.example", i))
		}
		send(to...)
		time.Sleep(5 * time.Hour)
		delivered := 0
		for _, e := range st.seen(EventDelivered) {
			delivered += len(e.Recipients)
		}
		if got.Load() != 1 || many.Load() < friends || delivered != friends+1 {
			t.Errorf("b.example got %d copies, c.example %d; %d recipients have it", got.Load(), many.Load(), delivered)
		}
		ended := slices.ContainsFunc(st.seen(EventDeferred), func(e Event) bool { return strings.Contains(e.Reason, sched.ErrSlow.Error()) })
		if !ended {
			t.Error("nothing was ended")
		}
	})
}

// silentDNS does not tell anything about what is below silent.example.
type silentDNS struct{ hosts }

func (s silentDNS) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	if !strings.HasSuffix(name, ".silent.example.") {
		return s.hosts.LookupMX(ctx, name)
	}
	time.Sleep(6 * time.Second)
	return nil, &net.DNSError{Err: "timeout", IsTimeout: true, IsTemporary: true}
}

// DNS servers that do not answer hold up mail to domains of their owner only.
func TestSilentDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &script{}
		st := onStage(t, relay("a.example"), b, WithResolver(silentDNS{hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}}))
		m := Email{From: "u@a.example", Subject: "s", Text: "t"}
		for i := range 1000 {
			m.Bcc = append(m.Bcc, fmt.Sprintf("x@d%d.silent.example", i))
		}
		if _, err := st.SendEmail(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := st.SendEmail(t.Context(), Email{From: "u@a.example", To: []string{"friend@b.example"}, Subject: "s", Text: "t"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if len(b.got()) != 1 {
			t.Errorf("mail to b.example waits: %+v", st.Stats().Deliveries)
		}
	})
}

// Who is at a slow server, one transaction each, does not keep the others of the
// message from their retries; and without retries everybody has a turn.
func TestRetriesBesideASlowPlace(t *testing.T) {
	for name, retries := range map[string]*int{"as many as it takes": nil, "none": new(int)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				b := &script{answer: func(_ int, command string) string {
					if strings.HasPrefix(command, "RCPT") {
						if asked++; asked == 1 {
							return "451 4.7.1 Greylisted"
						}
					}
					return ""
				}}
				cfg := relay("a.example")
				cfg.Queue.MaxRetries = retries
				st := onStage(t, cfg, b, WithResolver(hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2", "slow.example": "192.0.2.66"}),
					WithDialer(func(_ context.Context, _ netip.Addr, _, address string) (net.Conn, error) {
						ours, theirs := net.Pipe()
						if strings.HasPrefix(address, "192.0.2.66:") {
							go converse(theirs, justInTime)
						} else {
							go b.serve(theirs)
						}
						return ours, nil
					}))
				m := Email{From: "u@a.example", To: []string{"friend@b.example"}, Subject: "s", Text: "t"}
				const slow = 20
				for i := range slow {
					m.Bcc = append(m.Bcc, fmt.Sprintf("x%d@slow.example", i))
				}
				id, err := st.SendEmail(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(15 * time.Minute)
				if n := len(b.got()); retries == nil && n != 1 {
					t.Errorf("the one who was greylisted waits: %+v", st.status(id))
				}
				time.Sleep(2 * time.Hour)
				if n := len(st.seen(EventDelivered)); n != slow+len(b.got()) {
					t.Errorf("%d were delivered to: %+v", n, st.status(id))
				}
			})
		})
	}
}
