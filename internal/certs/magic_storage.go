package certs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"

	"github.com/dcrouter/dcrouter/storage"
)

// magicStorage is certmagic's storage: keys below root in ours. Its locks are
// leases, which other processes on the storage heed too.
type magicStorage struct {
	store *storage.Store
	root  string

	mu     sync.Mutex
	leases map[string]*storage.Lease
}

var (
	_ certmagic.Storage   = (*magicStorage)(nil)
	_ certmagic.TryLocker = (*magicStorage)(nil)
	_ fmt.Stringer        = (*magicStorage)(nil)
)

// String is what certmagic's log lines say of it.
func (s *magicStorage) String() string { return s.root }

func (s *magicStorage) key(key string) string {
	if key = strings.Trim(key, "/"); key == "" {
		return s.root
	}
	return s.root + "/" + key
}

// Store puts a value at a key.
func (s *magicStorage) Store(ctx context.Context, key string, value []byte) error {
	return s.store.Put(ctx, s.key(key), value)
}

// Load returns the value at a key; the error is fs.ErrNotExist if there is none.
func (s *magicStorage) Load(ctx context.Context, key string) ([]byte, error) {
	return s.store.Get(ctx, s.key(key))
}

// Delete removes a key and all keys below it.
func (s *magicStorage) Delete(ctx context.Context, key string) error {
	if err := s.store.Delete(ctx, s.key(key)); err != nil {
		return err
	}
	_, err := s.store.DeletePrefix(ctx, s.key(key)+"/")
	return err
}

// Exists reports whether there is a value at a key or below it.
func (s *magicStorage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List returns the keys below path: all of them, or those of the next level.
func (s *magicStorage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	below := s.key(path) + "/"
	seen := make(map[string]bool)
	for key, err := range s.store.List(ctx, below) {
		if err != nil {
			return nil, err
		}
		rest := strings.TrimPrefix(key, below)
		for i := 0; ; i++ {
			next := strings.IndexByte(rest[i:], '/')
			if next < 0 {
				seen[rest] = true
				break
			}
			i += next
			seen[rest[:i]] = true // a folder
			if !recursive {
				break
			}
		}
	}
	if len(seen) == 0 {
		return nil, fmt.Errorf("%s: %w", path, storage.ErrNotFound)
	}
	list := make([]string, 0, len(seen))
	for rest := range seen {
		list = append(list, strings.TrimPrefix(below+rest, s.root+"/"))
	}
	slices.Sort(list)
	return list, nil
}

// Stat describes a key, or the folder that others make of it.
func (s *magicStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	info, err := s.store.Stat(ctx, s.key(key))
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: info.Modified, Size: info.Size, IsTerminal: true}, nil
	}
	for _, listErr := range s.store.List(ctx, s.key(key)+"/") {
		if listErr != nil {
			return certmagic.KeyInfo{}, listErr
		}
		return certmagic.KeyInfo{Key: key}, nil
	}
	return certmagic.KeyInfo{}, err
}

// Lock takes the lease of this name, and waits for it.
func (s *magicStorage) Lock(ctx context.Context, name string) error {
	l, err := s.store.Acquire(ctx, s.key("locks/"+name), 0)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases == nil {
		s.leases = make(map[string]*storage.Lease)
	}
	s.leases[name] = l
	return nil
}

// TryLock takes the lease of this name if nobody has it.
func (s *magicStorage) TryLock(ctx context.Context, name string) (bool, error) {
	l, err := s.store.TryAcquire(ctx, s.key("locks/"+name), 0)
	if err != nil {
		if errors.Is(err, storage.ErrLocked) {
			return false, nil
		}
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases == nil {
		s.leases = make(map[string]*storage.Lease)
	}
	s.leases[name] = l
	return true, nil
}

// Unlock gives a lease back. Should the storage hang, it runs out by itself.
func (s *magicStorage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	l := s.leases[name]
	delete(s.leases, name)
	s.mu.Unlock()
	if l == nil {
		return fmt.Errorf("certs: %q is not locked", name)
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	return l.Release(ctx)
}
