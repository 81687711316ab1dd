package opsapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// auditEntries is how many entries the audit log holds, and how many beside them
// of what changes nothing: of signing in and out, and of calls that failed.
const auditEntries = 10_000

// maxTaken is how many numbers are tried for an entry.
const maxTaken = 1000

const (
	auditPrefix   = "ops/audit/"
	attemptPrefix = "ops/attempts/"
)

// Values of [AuditEntry.Outcome].
const (
	outcomeOK    = "ok"
	outcomeError = "error"
)

// AuditEntry says who did what.
type AuditEntry struct {
	// Seq counts the entries, from 1.
	Seq     uint64     `json:"seq"`
	Time    time.Time  `json:"time"`
	User    string     `json:"user"`
	Role    string     `json:"role"`
	Address netip.Addr `json:"address,omitzero"`
	Method  string     `json:"method"`
	Outcome string     `json:"outcome" doc:"ok or error"`
	Detail  string     `json:"detail,omitempty"`
}

// audit is the audit log: a value in the storage for each entry, of which the
// oldest go of who has the most. Nothing here changes one. Every user may do as much
// as he likes, and must not push out what others have done; what changes nothing has
// a trail of its own.
type audit struct {
	store *storage.Store

	mu       sync.Mutex
	last     uint64 // number of the newest entry
	changes  trail
	attempts trail
}

// trail are the entries with a prefix.
type trail struct {
	prefix string
	count  int
	by     map[string][]uint64 // numbers of a user's entries, the oldest first, by nameKey
}

func newTrail(prefix string) trail { return trail{prefix: prefix, by: map[string][]uint64{}} }

// key is that of an entry of a user, or of one of before they were kept by users,
// who is "" then.
func (t *trail) key(who string, seq uint64) string {
	if who != "" {
		who += "/"
	}
	return fmt.Sprintf("%s%s%016d", t.prefix, who, seq)
}

func (t *trail) add(who string, seq uint64) {
	t.by[who] = append(t.by[who], seq)
	t.count++
}

func loadAudit(ctx context.Context, store *storage.Store) (*audit, error) {
	a := &audit{store: store, changes: newTrail(auditPrefix), attempts: newTrail(attemptPrefix)}
	for _, t := range []*trail{&a.changes, &a.attempts} {
		for key, err := range store.List(ctx, t.prefix) { // in order
			if err != nil {
				return nil, fmt.Errorf("opsapi: the audit log: %w", err)
			}
			folder, number := path.Split(strings.TrimPrefix(key, t.prefix))
			if n, err := strconv.ParseUint(number, 10, 64); err == nil {
				t.add(strings.TrimSuffix(folder, "/"), n)
				a.last = max(a.last, n)
			}
		}
	}
	return a, nil
}

// trail returns that of an entry.
func (a *audit) trail(e *AuditEntry) *trail {
	if e.Outcome == outcomeError || e.Method == "adminLoginWithUsernameAndPassword" || e.Method == "adminLogout" {
		return &a.attempts
	}
	return &a.changes
}

// add appends an entry and returns it with its number.
func (a *audit) add(ctx context.Context, e AuditEntry) (AuditEntry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, who := a.trail(&e), nameKey(e.User)
	for range maxTaken {
		e.Seq = a.last + 1
		data, err := json.Marshal(e)
		if err != nil {
			return e, err
		}
		_, err = a.store.Create(ctx, t.key(who, e.Seq), data)
		if err != nil && !errors.Is(err, storage.ErrExists) {
			return e, err
		}
		// The number is taken where the storage did what it said it had not, or by
		// another process that shares it.
		a.last = e.Seq
		t.add(who, e.Seq)
		if err == nil {
			return e, a.trim(ctx, t)
		}
	}
	return e, fmt.Errorf("%d numbers in a row are taken", maxTaken)
}

// trim removes entries beyond what is kept.
func (a *audit) trim(ctx context.Context, t *trail) error {
	for t.count > auditEntries {
		most := ""
		for who, numbers := range t.by {
			if len(numbers) > len(t.by[most]) {
				most = who
			}
		}
		if err := a.store.Delete(ctx, t.key(most, t.by[most][0])); err != nil {
			return err
		}
		t.by[most] = t.by[most][1:]
		t.count--
	}
	return nil
}

// newest calls visit with entries from the newest on, those with a number of
// before or more left out unless it is 0, until visit returns false.
func (a *audit) newest(ctx context.Context, before uint64, visit func(AuditEntry) bool) error {
	type place struct {
		key string
		seq uint64
	}
	var list []place
	a.mu.Lock()
	for _, t := range []*trail{&a.changes, &a.attempts} {
		for who, numbers := range t.by {
			for _, n := range numbers {
				if before == 0 || n < before {
					list = append(list, place{t.key(who, n), n})
				}
			}
		}
	}
	a.mu.Unlock()
	slices.SortFunc(list, func(x, y place) int { return cmp.Compare(y.seq, x.seq) })
	for _, at := range list {
		data, err := a.store.Get(ctx, at.key)
		if errors.Is(err, storage.ErrNotFound) {
			continue // gone meanwhile
		}
		if err != nil {
			return err
		}
		var e AuditEntry
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("%s cannot be read: %w", at.key, err)
		}
		if !visit(e) {
			return nil
		}
	}
	return nil
}
