package opsapi

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/opsapi/internal/token"
	"github.com/dcrouter/dcrouter/storage"
)

// Times and bounds of sessions.
const (
	tokenLife   = 15 * time.Minute
	sessionLife = 12 * time.Hour
	maxSessions = 100 // of a user; the oldest ends
)

const (
	signingKey    = "ops/signing-key"
	sessionPrefix = "ops/sessions/"
)

// session is somebody's signing in.
type session struct {
	ID      string    `json:"id"`
	User    string    `json:"user"`
	Epoch   uint64    `json:"epoch"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`

	ended chan struct{} // closed at its end
}

// sessions are those that live. A token is good as long as its session lives and
// its account's epoch is the token's.
type sessions struct {
	store    *storage.Store
	accounts map[string]*account
	now      func() time.Time
	key      ed25519.PrivateKey

	mu   sync.Mutex
	live map[string]*session
}

// loadKey reads the key for tokens, which is made at the first start.
func loadKey(ctx context.Context, store *storage.Store) (ed25519.PrivateKey, error) {
	seed, err := store.Get(ctx, signingKey) // a full disk may not even say that it exists
	if errors.Is(err, storage.ErrNotFound) {
		seed = make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		if _, err = store.Create(ctx, signingKey, seed); errors.Is(err, storage.ErrExists) {
			seed, err = store.Get(ctx, signingKey)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opsapi: the key for tokens: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("opsapi: the key for tokens, %s in the storage, has %d bytes instead of %d: remove it to have a new one made", signingKey, len(seed), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// loadSessions reads the key and what sessions there are. Those that have ended it
// removes, as far as the storage can be written.
func loadSessions(ctx context.Context, store *storage.Store, accounts map[string]*account, now func() time.Time, log *slog.Logger) (*sessions, error) {
	s := &sessions{store: store, accounts: accounts, now: now, live: map[string]*session{}}
	var err error
	if s.key, err = loadKey(ctx, store); err != nil {
		return nil, err
	}
	for key, err := range store.List(ctx, sessionPrefix) {
		if err != nil {
			return nil, fmt.Errorf("opsapi: sessions: %w", err)
		}
		one := &session{ended: make(chan struct{})}
		data, err := store.Get(ctx, key)
		if err == nil {
			err = json.Unmarshal(data, one)
		}
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if a := s.accounts[one.User]; err == nil && a != nil && s.good(one) {
			if err := a.settle(ctx, store); err != nil { // which may void it
				return nil, fmt.Errorf("opsapi: the account %q: %w", a.name, err)
			}
		}
		if err != nil || sessionPrefix+one.ID != key || !s.good(one) {
			if err := store.Delete(ctx, key); err != nil {
				log.Warn("a session that has ended cannot be removed", "err", err)
			}
			continue
		}
		s.live[one.ID] = one
	}
	return s, nil
}

// good reports whether a session is one of an account as it is.
func (s *sessions) good(one *session) bool {
	a := s.accounts[one.User]
	return a != nil && a.currentEpoch() == one.Epoch && s.now().Before(one.Expires)
}

// begin makes a session.
func (s *sessions) begin(ctx context.Context, a *account) (*session, error) {
	if err := a.settle(ctx, s.store); err != nil {
		return nil, err
	}
	now := s.now().UTC()
	one := &session{ID: rand.Text(), User: a.name, Epoch: a.currentEpoch(), Created: now, Expires: now.Add(sessionLife), ended: make(chan struct{})}
	data, err := json.Marshal(one)
	if err != nil {
		return nil, err
	}
	if err := s.store.Put(ctx, sessionPrefix+one.ID, data); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.live[one.ID] = one
	s.mu.Unlock()
	own := s.which(func(other *session) bool { return other.User == a.name })
	if len(own) <= maxSessions {
		return one, nil
	}
	oldest := slices.MinFunc(own, func(x, y *session) int { return x.Created.Compare(y.Created) })
	return one, s.end(ctx, oldest)
}

// end ends a session: from now on its tokens are void, also if the storage
// fails, which is an error since they would be good after a restart.
func (s *sessions) end(ctx context.Context, one *session) error {
	s.mu.Lock()
	if s.live[one.ID] == one {
		delete(s.live, one.ID)
		close(one.ended)
	}
	s.mu.Unlock()
	return s.store.Delete(ctx, sessionPrefix+one.ID)
}

// endAll ends all sessions of an account.
func (s *sessions) endAll(ctx context.Context, a *account) error {
	errs := []error{a.endAll(ctx, s.store)}
	for _, one := range s.which(func(one *session) bool { return one.User == a.name }) {
		errs = append(errs, s.end(ctx, one))
	}
	return errors.Join(errs...)
}

// sweep ends sessions whose time is over.
func (s *sessions) sweep(ctx context.Context) error {
	var errs []error
	for _, one := range s.which(func(one *session) bool { return !s.good(one) }) {
		errs = append(errs, s.end(ctx, one))
	}
	return errors.Join(errs...)
}

func (s *sessions) which(pick func(*session) bool) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*session
	for _, one := range s.live {
		if pick(one) {
			list = append(list, one)
		}
	}
	return list
}

// sign makes a token for a session.
func (s *sessions) sign(one *session) (text string, expires time.Time, err error) {
	now := s.now()
	expires = now.Add(tokenLife)
	if expires.After(one.Expires) {
		expires = one.Expires
	}
	expires = expires.Truncate(time.Second)
	text, err = token.Sign(s.key, token.Claims{Subject: one.User, Session: one.ID, Epoch: one.Epoch, Issued: now, Expires: expires})
	return text, expires, err
}

// find returns what session a token is of.
func (s *sessions) find(text string) (*session, *account, time.Time, error) {
	claims, err := token.Verify(s.key.Public().(ed25519.PublicKey), strings.TrimSpace(text), s.now())
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	s.mu.Lock()
	one := s.live[claims.Session]
	s.mu.Unlock()
	if one == nil || one.User != claims.Subject || one.Epoch != claims.Epoch || !s.good(one) {
		return nil, nil, time.Time{}, token.ErrInvalid
	}
	return one, s.accounts[one.User], claims.Expires, nil
}
