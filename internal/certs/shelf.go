package certs

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// shelf is where things of one authority are in the storage:
//
//	certificates/acme/<authority>/account         the account and its key
//	certificates/acme/<authority>/certmagic/...   certificates and their keys, as certmagic keeps them
//	certificates/acme/<authority>/answers/<id>    what to answer to a challenge
//	certificates/caa/<name>                       the CAA record that we have made, for whichever authority
//
// Values are written whole: a crash leaves the old or the new one. Leases have the
// name of what they protect.
type shelf struct {
	store *storage.Store
	root  string
}

func newShelf(store *storage.Store, directory string) *shelf {
	return &shelf{store, "certificates/acme/" + plain(strings.TrimPrefix(directory, "https://"))}
}

// plain makes one segment of a key from a URL.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
	return strings.Trim(s, "-.")
}

const caaKeys = "certificates/caa/"

func (s *shelf) accountKey() string           { return s.root + "/account" }
func (s *shelf) nameLease(name string) string { return s.root + "/names/" + name }
func (s *shelf) caaKey(name string) string    { return caaKeys + name }
func (s *shelf) answerKey(id string) string   { return s.root + "/answers/" + id }

// load reads a value that is JSON, and reports whether there is one.
func (s *shelf) load(ctx context.Context, key string, v any) (bool, error) {
	data, err := s.store.Get(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, json.Unmarshal(data, v)
}

// save writes a value as JSON. A ttl of 0 means that it stays.
func (s *shelf) save(ctx context.Context, key string, v any, ttl time.Duration) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if ttl > 0 {
		return s.store.Put(ctx, key, data, storage.TTL(ttl))
	}
	return s.store.Put(ctx, key, data)
}

// releaseTimeout is how long to wait for a lease to be given back.
const releaseTimeout = 5 * time.Second

// alone calls do while this process is the only one to hold a lease. When the
// lease is lost the context ends.
func (s *shelf) alone(ctx context.Context, lease string, do func(context.Context) error) error {
	l, err := s.store.Acquire(ctx, lease, 0)
	if err != nil {
		return err
	}
	// Should the storage hang, the lease runs out by itself.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		_ = l.Release(ctx)
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-l.Done():
			cancel(l.Err())
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(nil); <-watching }()
	return do(ctx)
}
