package dcrouter_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

// A client that has the keys from the DNS says to nobody else what server it asks
// for.
func TestEncryptedClientHello(t *testing.T) {
	testenv.Goroutines(t)
	const hidden, theirs = "hidden.example.com", "theirs.example.com"
	port := testenv.FreePort(t)
	public, route := autoRoute("public.example.com"), autoRoute(hidden, theirs, "nowhere.example.com")
	public.Name = "public"
	public.Match.Ports, route.Match.Ports = proxy.Ports(port), proxy.Ports(port)
	var records []dnsserver.Record
	for _, name := range []string{hidden, theirs, "public.example.com"} {
		records = append(records, dnsserver.Record{Name: name, Type: "A", Value: "127.0.0.1"})
	}
	records = append(records, dnsserver.Record{Name: theirs, Type: "HTTPS", Value: `1 . alpn="h2"`})
	backend := storage.Memory()
	cfg := dcrouter.Config{
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{public}, ACME: &proxy.ACME{LocalCA: true}},
		DNS:   &dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.com"}}, Records: records},
		TLS:   &dcrouter.TLSConfig{ECHPublicName: "public.example.com"},
	}
	r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend))
	if err := r.UpdateRoutes(t.Context(), []proxy.Route{public, route}); err != nil {
		t.Fatal(err)
	}
	var list []byte
	testenv.WaitFor(t, 20*time.Second, func() error {
		found, err := r.DNS().Lookup(hidden, "HTTPS")
		if err != nil || len(found) != 1 {
			return fmt.Errorf("%v, %v", found, err)
		}
		list, err = base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(found[0].Value, `1 . ech="`), `"`))
		return err
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.LocalCARoot())
	c, err := tls.Dial("tcp", r.Addrs()["proxy"][0], &tls.Config{ServerName: hidden, RootCAs: roots, EncryptedClientHelloConfigList: list})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !c.ConnectionState().ECHAccepted {
		t.Error("not accepted")
	}
	if found, err := r.DNS().Lookup(theirs, "HTTPS"); err != nil || len(found) != 1 || strings.Contains(found[0].Value, "ech") {
		t.Errorf("a record of the operator's: %v, %v", found, err)
	}
	if found, err := r.DNS().Lookup("nowhere.example.com", "HTTPS"); err != nil || len(found) != 0 {
		t.Errorf("a name without address: %v, %v", found, err)
	}

	// What was published goes when the route is gone, in a process or from one to the
	// next, and when nothing is to be hidden any more.
	published := func(r *dcrouter.Router, name string, want bool) {
		t.Helper()
		testenv.WaitFor(t, 20*time.Second, func() error {
			if found, err := r.DNS().Lookup(name, "HTTPS"); err != nil || (len(found) == 1) != want {
				return fmt.Errorf("%s: %v, %v", name, found, err)
			}
			return nil
		})
	}
	for _, routes := range [][]proxy.Route{{public}, {public, route}} {
		if err := r.UpdateRoutes(t.Context(), routes); err != nil {
			t.Fatal(err)
		}
		published(r, hidden, len(routes) == 2)
	}
	for _, left := range []struct {
		ech   string
		names []string
	}{{"public.example.com", []string{"public.example.com"}}, {"", nil}} {
		if err := r.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		cfg.TLS = &dcrouter.TLSConfig{ECHPublicName: left.ech}
		r = start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend))
		for _, name := range []string{hidden, "public.example.com", theirs} {
			published(r, name, slices.Contains(left.names, name) || name == theirs)
		}
	}
}

// A public name that clients would not take is a mistake in the configuration, and
// how it is written does not matter.
func TestPublicName(t *testing.T) {
	for name, want := range map[string]bool{
		"public.example.com": true, "Public.Example.com.": true, "bücher.example": true,
		"localhost": false, "a_b.example.com": false, "*.example.com": false, "192.0.2.1": false,
	} {
		cfg := dcrouter.Config{Proxy: &proxy.Config{ListenHost: "127.0.0.1", ACME: &proxy.ACME{LocalCA: true}}, TLS: &dcrouter.TLSConfig{ECHPublicName: name}}
		err := cfg.Validate()
		if fields := dcrouter.FieldErrors(err); (err == nil) != want || !want && fields[0].Path != "tls.echPublicName" {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(storage.Memory()))
		}
	}
}

// noChanges is a storage that cannot keep changes of zones for now.
type noChanges struct {
	storage.Backend
	on    atomic.Bool
	tried atomic.Int64
}

func (n *noChanges) Put(ctx context.Context, key string, value []byte) error {
	if n.on.Load() && strings.HasPrefix(key, "dns/") {
		n.tried.Add(1)
		return errors.New("the disk is full")
	}
	return n.Backend.Put(ctx, key, value)
}

// A record whose replacement came to nothing is still known as ours.
func TestEncryptedClientHelloInterrupted(t *testing.T) {
	const name = "public.example.com"
	backend := &noChanges{Backend: storage.Memory()}
	cfg := dcrouter.Config{
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{autoRoute(name)}, ACME: &proxy.ACME{LocalCA: true}},
		DNS: &dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.com"}},
			Records: []dnsserver.Record{{Name: name, Type: "A", Value: "127.0.0.1"}}},
		TLS: &dcrouter.TLSConfig{ECHPublicName: name},
	}
	var r *dcrouter.Router
	restart := func(broken bool) {
		t.Helper()
		if r != nil {
			stop(t, r)
		}
		backend.on.Store(broken)
		r = start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend))
	}
	wait := func(ok func(values []string) bool) (values []string) {
		t.Helper()
		testenv.WaitFor(t, 20*time.Second, func() error {
			found, err := r.DNS().Lookup(name, "HTTPS")
			values = nil
			for _, record := range found {
				values = append(values, record.Value)
			}
			if err != nil || !ok(values) {
				return fmt.Errorf("%q, %v", values, err)
			}
			return nil
		})
		return values
	}
	restart(false)
	first := wait(func(values []string) bool { return len(values) == 1 })
	for range 2 { // the same again, twice
		if err := r.Store().Delete(t.Context(), "certificates/ech/"+name+".json"); err != nil { // there will be another key
			t.Fatal(err)
		}
		tried := backend.tried.Load()
		restart(true)
		wait(func(values []string) bool { return backend.tried.Load() > tried && slices.Equal(values, first) })
	}
	restart(false)
	second := wait(func(values []string) bool { return len(values) == 1 && values[0] != first[0] })

	if err := r.Store().Delete(t.Context(), "certificates/ech/"+name+".json"); err != nil {
		t.Fatal(err)
	}
	tried := backend.tried.Load()
	restart(true)
	wait(func(values []string) bool { return backend.tried.Load() > tried && slices.Equal(values, second) })
	cfg.TLS = nil
	restart(false)
	wait(func(values []string) bool { return len(values) == 0 })
}

// silent is a storage that says nothing about the keys that are published.
type silent struct {
	storage.Backend
	asked chan struct{}
}

func (s *silent) Put(ctx context.Context, key string, value []byte) error {
	if strings.HasPrefix(key, "certificates/ech/records/") {
		select {
		case s.asked <- struct{}{}:
		case <-ctx.Done():
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Backend.Put(ctx, key, value)
}

// Keys are published while the Router serves already, and Stop does not wait for
// that.
func TestEncryptedClientHelloAndSlowStorage(t *testing.T) {
	testenv.Goroutines(t)
	const name = "public.example.com"
	backend := &silent{storage.Memory(), make(chan struct{})}
	r, err := dcrouter.New(dcrouter.WithStorage(backend), dcrouter.WithConfig(dcrouter.Config{
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{autoRoute(name)}, ACME: &proxy.ACME{LocalCA: true}},
		DNS:   &dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Records: []dnsserver.Record{{Name: name, Type: "A", Value: "127.0.0.1"}}},
		TLS:   &dcrouter.TLSConfig{ECHPublicName: name},
	}))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Start(t.Context()) }()
	testenv.Receive(t, backend.asked)
	if err := testenv.Receive(t, done); err != nil {
		t.Fatal(err)
	}
	go func() { done <- r.Stop(context.Background()) }()
	if err := testenv.Receive(t, done); err != nil {
		t.Error(err)
	}
}
