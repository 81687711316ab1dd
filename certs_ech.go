package dcrouter

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/certs"
	"github.com/dcrouter/dcrouter/internal/certs/ech"
	"github.com/dcrouter/dcrouter/storage"
)

// encryptedHello has the keys of Encrypted Client Hello (RFC 9849), and
// publishes them in HTTPS records (RFC 9848) where the zone is ours.
type encryptedHello struct {
	router *Router
	keys   atomic.Pointer[ech.Keys] // nil before Start
	store  *storage.Store
	wake   chan struct{} // names have changed
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex // held while records are changed
}

func (e *encryptedHello) open(ctx context.Context, store *storage.Store) error {
	keys, err := ech.Open(ctx, store, certs.CanonicalName(e.router.config.TLS.ECHPublicName), e.router.log)
	if err != nil {
		return fmt.Errorf("encrypted client hello: %w", err)
	}
	e.keys.Store(keys)
	e.store = store
	return nil
}

func (e *encryptedHello) get(hello *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
	keys := e.keys.Load()
	if keys == nil {
		return nil, errors.New("no keys before Start")
	}
	return keys.Get(hello)
}

func (e *encryptedHello) start(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	keys := e.keys.Load()
	e.namesChanged() // they are to be published, however long the storage takes
	e.wg.Go(func() { keys.Run(ctx, func([]byte) { e.publish(ctx) }) })
	e.wg.Go(func() {
		for {
			select {
			case <-e.wake:
				e.publish(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

func (e *encryptedHello) stop(context.Context) error {
	if e.cancel != nil {
		e.cancel()
	}
	e.wg.Wait()
	return nil
}

func (e *encryptedHello) namesChanged() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// helloRecords are the records that have been published, by name. While one is
// replaced there are both, a line each: nobody knows which is in the zone.
const helloRecords = "certificates/ech/records/"

// withdrawOldHellos takes the records away, also of an earlier process, that are not
// wanted any more: clients would go on to hide names with keys that nobody has.
func (r *Router) withdrawOldHellos(ctx context.Context, store *storage.Store) {
	if r.dns == nil {
		return
	}
	wanted := make(map[string]bool)
	if r.hello != nil {
		for _, name := range r.certificateNames(r.proxy.Routes()) {
			wanted[name] = true
		}
	}
	for key, err := range store.List(ctx, helloRecords) {
		name := strings.TrimPrefix(key, helloRecords)
		if err == nil && !wanted[name] {
			err = r.withdrawHello(ctx, store, key, name)
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("cannot take back old keys of encrypted client hello", "component", "certificates", "name", name, "err", err)
		}
	}
}

func (r *Router) withdrawHello(ctx context.Context, store *storage.Store, key, name string) error {
	if _, err := r.dns.Source(name); err != nil {
		return nil // the record is not here either
	}
	mine, err := store.Get(ctx, key)
	if err != nil {
		return err
	}
	tx := new(dnsserver.Tx)
	for value := range strings.SplitSeq(string(mine), "\n") {
		tx.Remove(dnsserver.Record{Name: name, Type: "HTTPS", Value: value})
	}
	if err := r.dns.Update(ctx, tx); err != nil {
		return err
	}
	return store.Delete(ctx, key)
}

// publish makes a record for each name that has an address in our zones, and no
// HTTPS record of somebody else's, and takes those of other names away. Keys live
// for two days, the record for an hour.
func (e *encryptedHello) publish(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.router
	if r.dns == nil {
		return
	}
	value := fmt.Sprintf(`1 . ech="%s"`, base64.StdEncoding.EncodeToString(e.keys.Load().ConfigList()))
	for _, name := range r.certificateNames(r.proxy.Routes()) {
		if err := e.publishAt(ctx, name, value); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot publish the keys of encrypted client hello", "component", "certificates", "name", name, "err", err)
		}
	}
	r.withdrawOldHellos(ctx, e.store)
}

func (e *encryptedHello) publishAt(ctx context.Context, name, value string) error {
	dns := e.router.dns
	if _, err := dns.Source(name); err != nil || !isCertificateName(name) {
		return nil // others are to say it
	}
	a, errA := dns.Lookup(name, "A")
	aaaa, errAAAA := dns.Lookup(name, "AAAA")
	have, err := dns.Lookup(name, "HTTPS")
	if err = errors.Join(errA, errAAAA, err); err != nil || len(a)+len(aaaa) == 0 {
		return err
	}
	key := helloRecords + name
	mine, err := e.store.Get(ctx, key)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	both := value
	if len(have) > 0 {
		old := have[0].Value
		if len(have) > 1 || old == value && string(mine) == value || !slices.Contains(strings.Split(string(mine), "\n"), old) {
			return nil
		}
		both = old + "\n" + value
	}
	if err := e.store.Put(ctx, key, []byte(both)); err != nil {
		return err
	}
	tx := new(dnsserver.Tx)
	tx.Set(dnsserver.Record{Name: name, Type: "HTTPS", Value: value, TTL: 3600})
	if err := dns.Update(ctx, tx); err != nil || both == value {
		return err
	}
	return e.store.Put(ctx, key, []byte(value))
}
