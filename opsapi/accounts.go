package opsapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/dcrouter/dcrouter/opsapi/internal/password"
	"github.com/dcrouter/dcrouter/storage"
)

// account is somebody who may sign in.
type account struct {
	name string
	role Role
	hash password.Hash
	// streams has a token for each stream of events, of which nobody may use up all
	// that there are.
	streams chan struct{}

	mu    sync.Mutex
	epoch uint64 // tokens of another one are void
}

// accountRecord is what is stored about an account: who has a token of an
// earlier password, or from before all sessions were ended, has none.
type accountRecord struct {
	Name  string `json:"name"`
	Hash  string `json:"hash"`
	Epoch uint64 `json:"epoch"`
}

func accountKey(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "ops/accounts/" + hex.EncodeToString(sum[:16])
}

// loadAccounts makes the accounts of the configuration. A password is hashed
// once, and anew when it changes; with that its epoch changes too.
func loadAccounts(ctx context.Context, store *storage.Store, cfg *Config) (map[string]*account, error) {
	users := append([]User{{cfg.Admin.Username, cfg.Admin.Password, RoleAdmin.String()}}, cfg.Users...)
	accounts := make(map[string]*account, len(users))
	for _, u := range users {
		role, _ := parseRole(u.Role)
		a := &account{name: u.Username, role: role, streams: make(chan struct{}, maxUserStreams)}
		if err := a.load(ctx, store, u.Password.Reveal()); err != nil {
			return nil, fmt.Errorf("opsapi: the account %q: %w", u.Username, err)
		}
		accounts[u.Username] = a
	}
	return accounts, nil
}

func (a *account) load(ctx context.Context, store *storage.Store, secret string) error {
	var known accountRecord
	data, err := store.Get(ctx, accountKey(a.name))
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(data, &known); err != nil {
			return fmt.Errorf("what is stored cannot be read: %w", err)
		}
	}
	stored, err := password.Parse(known.Hash)
	same := err == nil && (known.Hash == secret || !password.IsHash(secret) && stored.Verify(secret))
	a.epoch = known.Epoch
	switch {
	case same:
		a.hash = stored
		return nil
	case password.IsHash(secret):
		if a.hash, err = password.Parse(secret); err != nil {
			return err
		}
	default:
		a.hash = password.New(secret)
	}
	a.epoch++
	return a.save(ctx, store)
}

// save stores the account. The caller holds a.mu, or has it alone.
func (a *account) save(ctx context.Context, store *storage.Store) error {
	data, err := json.Marshal(accountRecord{a.name, a.hash.String(), a.epoch})
	if err != nil {
		return err
	}
	return store.Put(ctx, accountKey(a.name), data)
}

func (a *account) currentEpoch() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.epoch
}

// endAll makes all tokens of the account void.
func (a *account) endAll(ctx context.Context, store *storage.Store) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.epoch++ // at once, also where it cannot be stored
	return a.save(ctx, store)
}
