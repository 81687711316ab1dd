package email

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/arc"
	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// listKey is a resolver that knows the key of list.example, until it is silent
// about it.
type listKey struct {
	published
	record string
	silent atomic.Bool
}

func (r *listKey) LookupTXT(ctx context.Context, name string) ([]string, error) {
	switch {
	case name != "s._domainkey.list.example.":
		return r.published.LookupTXT(ctx, name)
	case r.silent.Load():
		select {
		case <-ctx.Done():
		case <-time.After(24 * time.Hour):
		}
		return nil, context.DeadlineExceeded
	}
	return []string{r.record}, nil
}

// A seal says of the chain what was found as the message came in. To forward it
// takes no question to the DNS of those who sealed it before.
func TestSealByArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
		dns := &listKey{
			published: published{hosts: hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}},
			record:    "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)),
		}
		got := newMailbox(nil)
		n, a, b, _ := pair(t, got.take, WithResolver(dns))
		dns.add(a)
		time.Sleep(3 * time.Hour) // until keys are in use
		if err := a.UpdateRoutes(t.Context(), []Route{{Name: "fwd", Match: Match{Recipients: []string{"fwd@a.example"}},
			Action: Action{Type: Forward, Forward: &ForwardAction{Host: "192.0.2.2", SRS: true, Queue: true}}}}); err != nil {
			t.Fatal(err)
		}
		if err := b.UpdateRoutes(t.Context(), routes(t, `[{"name":"all","match":{"recipients":["*@a.example"]},"action":{"type":"deliver"}}]`)); err != nil {
			t.Fatal(err)
		}
		msg := strings.ReplaceAll(toB, "a.example", "list.example")
		header, size, err := message.ReadHeader(bufio.NewReader(strings.NewReader(msg)), maxHeader)
		if err != nil {
			t.Fatal(err)
		}
		set, err := arc.Seal(t.Context(), header, dkim.NewBody(strings.NewReader(msg[size:]+"\r\n")), time.Now(), arc.Result{Status: arc.None},
			[]byte("mx.list.example; none"), dkim.Signer{Domain: "list.example", Selector: "s", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		next := func(s *Server) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.servers["192.0.2.2"] = s
		}

		// The next server is away until the key is, and what was remembered of it.
		next(nil)
		n.inject(t, a, "192.0.2.3", "x@list.example", "fwd@a.example", string(set)+msg)
		dns.silent.Store(true)
		time.Sleep(time.Minute)
		next(b.Server)
		time.Sleep(time.Hour)
		if mail := got.all(); len(mail) != 1 || !strings.Contains(mail[0].content, "ARC-Seal: i=2;") || !strings.Contains(mail[0].content, "cv=pass") {
			t.Fatalf("the chain has not grown: %+v", mail)
		}

		// What could not be found as it came in is not sealed, and waits for nobody.
		n.inject(t, a, "192.0.2.3", "x@list.example", "fwd@a.example", string(set)+msg)
		time.Sleep(time.Second)
		if mail := got.all(); len(mail) != 2 || strings.Contains(mail[1].content, "ARC-Seal: i=2;") || !strings.Contains(mail[1].content, "ARC-Seal: i=1;") {
			t.Errorf("without the key: %+v", mail)
		}
	})
}
