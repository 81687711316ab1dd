package opsapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
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
// oldest go. Nothing here changes one. What changes nothing has a trail of its own,
// since every user may as often as he likes, and must not push out what others have
// changed.
type audit struct {
	store *storage.Store

	mu       sync.Mutex
	last     uint64 // number of the newest entry
	changes  trail
	attempts trail
}

// trail are the numbers of entries with a prefix, the oldest first.
type trail struct {
	prefix  string
	numbers []uint64
}

func auditKey(prefix string, seq uint64) string { return fmt.Sprintf("%s%016d", prefix, seq) }

func loadAudit(ctx context.Context, store *storage.Store) (*audit, error) {
	a := &audit{store: store, changes: trail{prefix: auditPrefix}, attempts: trail{prefix: attemptPrefix}}
	for _, t := range []*trail{&a.changes, &a.attempts} {
		for key, err := range store.List(ctx, t.prefix) { // in order
			if err != nil {
				return nil, fmt.Errorf("opsapi: the audit log: %w", err)
			}
			if n, err := strconv.ParseUint(strings.TrimPrefix(key, t.prefix), 10, 64); err == nil {
				t.numbers = append(t.numbers, n)
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
	t := a.trail(&e)
	for range maxTaken {
		e.Seq = a.last + 1
		data, err := json.Marshal(e)
		if err != nil {
			return e, err
		}
		_, err = a.store.Create(ctx, auditKey(t.prefix, e.Seq), data)
		if err != nil && !errors.Is(err, storage.ErrExists) {
			return e, err
		}
		// The number is taken where the storage did what it said it had not, or by
		// another process that shares it.
		a.last = e.Seq
		t.numbers = append(t.numbers, e.Seq)
		if err == nil {
			return e, a.trim(ctx, t)
		}
	}
	return e, fmt.Errorf("%d numbers in a row are taken", maxTaken)
}

// trim removes the oldest entries beyond what is kept.
func (a *audit) trim(ctx context.Context, t *trail) error {
	for len(t.numbers) > auditEntries {
		if err := a.store.Delete(ctx, auditKey(t.prefix, t.numbers[0])); err != nil {
			return err
		}
		t.numbers = t.numbers[1:]
	}
	return nil
}

// newest calls visit with entries from the newest on, those with a number of
// before or more left out unless it is 0, until visit returns false.
func (a *audit) newest(ctx context.Context, before uint64, visit func(AuditEntry) bool) error {
	type place struct {
		prefix string
		seq    uint64
	}
	var list []place
	a.mu.Lock()
	for _, t := range []trail{a.changes, a.attempts} {
		for _, n := range t.numbers {
			if before == 0 || n < before {
				list = append(list, place{t.prefix, n})
			}
		}
	}
	a.mu.Unlock()
	slices.SortFunc(list, func(x, y place) int { return cmp.Compare(y.seq, x.seq) })
	for _, at := range list {
		key := auditKey(at.prefix, at.seq)
		data, err := a.store.Get(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue // gone meanwhile
		}
		if err != nil {
			return err
		}
		var e AuditEntry
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("%s cannot be read: %w", key, err)
		}
		if !visit(e) {
			return nil
		}
	}
	return nil
}
