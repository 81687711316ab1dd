package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// Whatever strangers ask for, the host is not overrun by it.
func TestManyUnknownNames(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	full := make(chan struct{})
	allow := func(ctx context.Context, name string) error {
		mu.Lock()
		if now++; now > most {
			if most = now; most == maxDecisions {
				close(full)
			}
		}
		mu.Unlock()
		select {
		case <-full:
		case <-ctx.Done():
		}
		mu.Lock()
		now--
		mu.Unlock()
		return errors.New("unknown")
	}
	m := newManager(t, Config{}, WithOnDemand(allow))
	m.begin(t, openStore(t, storage.Memory()))
	var wg sync.WaitGroup
	for i := range 4 * maxDecisions {
		wg.Go(func() {
			name := fmt.Sprintf("host%d.example.com", i)
			if _, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: name}); err == nil || !strings.Contains(err.Error(), "unknown") {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if most != maxDecisions {
		t.Errorf("%d at once", most)
	}
	if len(m.States()) > 0 {
		t.Error("names that are not allowed are kept")
	}
}

// A name that came with a handshake goes when nobody asks for it, but not if it
// has been configured meanwhile: nobody else would renew its certificate.
func TestDrop(t *testing.T) {
	m := newManager(t, Config{})
	c := m.newManaged("a.example.com", true)
	m.names.Store(&map[string]*managed{c.name: c})
	c.state.Failures = 1
	c.used.Store(time.Now().Add(-2 * forgetFailed).Unix())
	if !m.isUnused(c) {
		t.Fatal(errors.New("it is still of use"))
	}
	m.SetNames([]string{c.name})
	if m.drop(c) || (*m.names.Load())[c.name] != c {
		t.Error("a configured name was dropped")
	}
	c.onDemand = true
	if !m.drop(c) || (*m.names.Load())[c.name] != nil {
		t.Error("it is still there")
	}
}

// Nobody has asked for a name for a month: when its certificate is to be renewed, it
// goes instead, and its place is free for another.
func TestUnusedIsNotRenewed(t *testing.T) {
	var asked atomic.Int64
	m := newManager(t, Config{}, WithOnDemand(func(context.Context, string) error { asked.Add(1); return errors.New("unknown") }))
	m.begin(t, openStore(t, storage.Memory()))
	c := m.newManaged("a.example.com", true)
	start := time.Now().Add(-80 * 24 * time.Hour)
	c.use(testPair(t, start, 90*24*time.Hour, c.name), acme.RenewalInfo{}, start)
	c.used.Store(time.Now().Add(-2 * forgetUnused).Unix())
	if !m.isDue(c) {
		t.Fatal("it is not to be renewed")
	}
	m.mu.Lock()
	m.names.Store(&map[string]*managed{c.name: c})
	m.keep(c)
	m.mu.Unlock()
	testenv.WaitFor(t, patience, func() error {
		if (*m.names.Load())[c.name] != nil {
			return errors.New("it is still there")
		}
		return nil
	})
	if n := asked.Load(); n > 0 {
		t.Errorf("%d attempts to renew it", n)
	}
}

// What the storage has for a name may be damaged, which is as good as nothing.
func TestDamagedOnDemand(t *testing.T) {
	store := openStore(t, storage.Memory())
	m := newManager(t, Config{}, WithOnDemand(func(context.Context, string) error { return nil }))
	m.shelfTest(t, store).put(t, "a.example.com", []byte("garbage"), []byte("garbage"))
	m.begin(t, store)
	if _, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "a.example.com"}); err == nil || m.state("a.example.com").TotalFailures == 0 {
		t.Errorf("none was ordered: %v", err) // of an authority that is not there
	}
}

// A browser opens several connections at once, and they are for one new name.
func TestOneNewNameAtOnce(t *testing.T) {
	var asked atomic.Int64
	all := make(chan struct{}) // handshakes are there
	m := newManager(t, Config{}, WithOnDemand(func(ctx context.Context, _ string) error {
		if asked.Add(1) == newNamesPerMinute {
			close(all)
		}
		select {
		case <-all:
		case <-ctx.Done():
		}
		return nil
	}))
	m.begin(t, openStore(t, storage.Memory()))
	var wg sync.WaitGroup
	for range newNamesPerMinute {
		wg.Go(func() { m.GetCertificate(&tls.ClientHelloInfo{ServerName: "one.example.com"}) })
	}
	testenv.Await(t, "the handshakes", wg.Wait)
	_, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: "two.example.com"})
	if m.state("two.example.com").Name == "" {
		t.Errorf("another name: %v", err)
	}
}
