package opsapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
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
	// secret is the password as the configuration has it, or its hash, which then is
	// in hash as well. A password that is in the configuration is compared as it is:
	// to hash it would hide it from nobody, and take a lot of memory.
	secret Secret
	hash   *password.Hash
	// streams has a token for each stream of events, of which nobody may use up all
	// that there are.
	streams chan struct{}

	mu      sync.Mutex
	known   accountRecord // what is stored
	epoch   uint64        // tokens of another one are void
	settled bool          // known is about secret
}

// accountRecord is what is stored about an account: who has a token of an
// earlier password, or from before all sessions were ended, has none.
type accountRecord struct {
	Name  string `json:"name"`
	Hash  string `json:"hash"`
	Epoch uint64 `json:"epoch"`
}

func accountKey(name string) string { return "ops/accounts/" + nameKey(name) }

// nameKey stands for a user's name in keys.
func nameKey(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// loadAccounts makes the accounts of the configuration.
func loadAccounts(ctx context.Context, store *storage.Store, cfg *Config) (map[string]*account, error) {
	users := append([]User{{cfg.Admin.Username, cfg.Admin.Password, RoleAdmin.String()}}, cfg.Users...)
	accounts := make(map[string]*account, len(users))
	for _, u := range users {
		role, _ := parseRole(u.Role)
		a := &account{name: u.Username, role: role, secret: u.Password, streams: make(chan struct{}, maxUserStreams)}
		if err := a.load(ctx, store); err != nil {
			return nil, fmt.Errorf("opsapi: the account %q: %w", u.Username, err)
		}
		accounts[u.Username] = a
	}
	return accounts, nil
}

func (a *account) load(ctx context.Context, store *storage.Store) error {
	if secret := a.secret.Reveal(); password.IsHash(secret) {
		hash, err := password.Parse(secret)
		if err != nil {
			return err
		}
		a.hash = &hash
	}
	data, err := store.Get(ctx, accountKey(a.name))
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &a.known); err != nil {
		return fmt.Errorf("what is stored cannot be read: %w", err)
	}
	a.epoch = a.known.Epoch
	return nil
}

// settle begins another epoch if the password is another one than that which is
// stored. It must come before there are sessions, and not sooner: it may take
// a hash, with the memory for that, which a start without sessions need not.
func (a *account) settle(ctx context.Context, store *storage.Store) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.settled {
		return nil
	}
	secret := a.secret.Reveal()
	same := a.known.Hash == secret
	if stored, err := password.Parse(a.known.Hash); err == nil && !same && a.hash == nil {
		same = stored.Verify(secret)
	}
	if !same {
		next := accountRecord{Name: a.name, Hash: secret, Epoch: a.known.Epoch + 1}
		if a.hash == nil {
			next.Hash = password.New(secret).String()
		}
		if err := a.save(ctx, store, next); err != nil {
			return err
		}
		a.epoch = next.Epoch
	}
	a.settled = true
	return nil
}

// save stores the account. The caller holds a.mu.
func (a *account) save(ctx context.Context, store *storage.Store, next accountRecord) error {
	data, err := json.Marshal(next)
	if err == nil {
		err = store.Put(ctx, accountKey(a.name), data)
	}
	if err == nil {
		a.known = next
	}
	return err
}

// verify reports whether this is the password.
func (a *account) verify(given string) bool {
	if a.hash != nil {
		return a.hash.Verify(given)
	}
	x, y := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(a.secret.Reveal())) // of equal length
	return len(given) <= password.MaxLength && subtle.ConstantTimeCompare(x[:], y[:]) == 1
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
	return a.save(ctx, store, accountRecord{Name: a.name, Hash: a.known.Hash, Epoch: a.epoch})
}
