// Package ech makes, keeps and rotates the keys of Encrypted Client Hello
// (RFC 9849), which hides from the network what server a client asks for:
//
//	keys, err := ech.Open(ctx, store, "gateway.example.com", log)
//	...
//	go keys.Run(ctx, func(configList []byte) { publish in HTTPS records })
//	config := &tls.Config{GetEncryptedClientHelloKeys: keys.Get}
//
// All that is hidden is hidden behind one public name, for which the server
// needs a certificate as well: clients that have an old key are told the new
// one under it.
package ech

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

const (
	// life is how long a key is published. Who gets hold of it can read what
	// names were asked for with it.
	life = 24 * time.Hour
	// lead is how long a key is in the storage before it is published, for all
	// Routers on the storage to know it by then.
	lead = time.Hour
	// grace is how long it is good for clients that have it, from DNS or a cache
	// of their own.
	grace = 24 * time.Hour
	// interval is how often Run looks at the storage.
	interval = 10 * time.Minute
)

// Keys are the keys behind one public name. Its methods may be called from
// several goroutines.
type Keys struct {
	store *storage.Store
	name  string
	log   *slog.Logger

	current atomic.Pointer[snapshot]
}

// snapshot is what the keys are good for at a moment.
type snapshot struct {
	list []byte
	tls  []tls.EncryptedClientHelloKey
}

// key is a key as it is stored.
type key struct {
	// ID is by what clients say which key they use.
	ID byte `json:"id"`
	// From is when it is published.
	From    time.Time `json:"from"`
	Private []byte    `json:"private"`
}

// Open takes the keys from the storage, and makes the first one if there is
// none. publicName is a host name in lower case. log may be nil.
func Open(ctx context.Context, store *storage.Store, publicName string, log *slog.Logger) (*Keys, error) {
	if !IsPublicName(publicName) {
		return nil, fmt.Errorf("%q cannot be the public name of Encrypted Client Hello: it takes a host name in lower case, with a dot", publicName)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &Keys{store: store, name: publicName, log: log}
	if err := k.refresh(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// PublicName returns the name that everything is hidden behind.
func (k *Keys) PublicName() string { return k.name }

// ConfigList returns the ECHConfigList to publish now, which is the value of
// the parameter ech in HTTPS records (RFC 9848). Their time to live should be
// an hour or less: a key is replaced after a day and forgotten after two.
func (k *Keys) ConfigList() []byte { return slices.Clone(k.current.Load().list) }

// Get is for [tls.Config]: the published key and those before and after it. It
// never fails.
func (k *Keys) Get(*tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
	return k.current.Load().tls, nil
}

// Run rotates the keys until ctx ends, and calls changed with each new
// ConfigList. While the storage cannot be read or written, the last keys stay
// in use.
func (k *Keys) Run(ctx context.Context, changed func(configList []byte)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		before := k.current.Load().list
		if err := k.refresh(ctx); err != nil && ctx.Err() == nil {
			k.log.Error("cannot rotate the keys of Encrypted Client Hello, will try again", "public_name", k.name, "err", err, "in", interval)
		}
		if now := k.ConfigList(); !slices.Equal(before, now) {
			k.log.Info("rotated the key of Encrypted Client Hello", "public_name", k.name)
			changed(now)
		}
	}
}

// refresh takes the keys from the storage and replaces what is due.
func (k *Keys) refresh(ctx context.Context) error {
	path := "certificates/ech/" + k.name + ".json"
	text, err := k.store.Get(ctx, path)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	now := time.Now()
	keys, isDue, err := rotate(text, now)
	if err == nil && isDue {
		err = k.store.Update(ctx, path, func(old []byte) ([]byte, error) {
			if keys, isDue, err = rotate(old, now); err != nil || !isDue {
				return old, err // another was faster
			}
			return json.Marshal(keys)
		})
	}
	if err != nil {
		return fmt.Errorf("%s in the storage: %w", path, err)
	}
	next, err := k.snapshot(keys, now)
	if err != nil {
		return fmt.Errorf("%s in the storage: %w; delete it to have new keys made", path, err)
	}
	k.current.Store(next)
	return nil
}

// rotate reads keys, oldest first, forgets those that are not needed any more,
// and makes the next one if it is time for that. It reports whether anything
// has changed.
func rotate(text []byte, now time.Time) (keys []key, changed bool, err error) {
	if text != nil {
		if err := json.Unmarshal(text, &keys); err != nil {
			return nil, false, fmt.Errorf("%w; delete it to have new keys made", err)
		}
	}
	for len(keys) > 1 && !now.Before(keys[1].From.Add(grace)) {
		keys, changed = keys[1:], true
	}
	from := now
	if n := len(keys); n > 0 {
		end := keys[n-1].From.Add(life)
		if now.Before(end.Add(-lead)) {
			return keys, changed, nil
		}
		if from = now.Add(lead); end.After(from) {
			from = end
		}
	}
	next, err := newKey(from, keys)
	return append(keys, next), true, err
}

// newKey makes a key with an id that others do not have.
func newKey(from time.Time, others []key) (key, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	var id [1]byte
	for {
		rand.Read(id[:]) // never fails
		if !slices.ContainsFunc(others, func(k key) bool { return k.ID == id[0] }) {
			return key{ID: id[0], From: from.UTC(), Private: private.Bytes()}, nil
		}
	}
}

// snapshot prepares keys for use. The published one is the newest whose time
// has come.
func (k *Keys) snapshot(keys []key, now time.Time) (*snapshot, error) {
	s := new(snapshot)
	published := 0
	for i, stored := range keys {
		private, err := ecdh.X25519().NewPrivateKey(stored.Private)
		if err != nil {
			return nil, err
		}
		s.tls = append(s.tls, tls.EncryptedClientHelloKey{
			Config:     encodeConfig(stored.ID, private.PublicKey(), k.name),
			PrivateKey: stored.Private,
		})
		if !stored.From.After(now) {
			published = i
		}
	}
	s.tls[published].SendAsRetry = true
	s.list = encodeList(s.tls[published].Config)
	return s, nil
}
