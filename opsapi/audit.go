package opsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// auditEntries is how many entries the audit log holds.
const auditEntries = 10_000

// maxTaken is how many numbers are tried for an entry.
const maxTaken = 1000

const auditPrefix = "ops/audit/"

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
// oldest go. Nothing here changes one.
type audit struct {
	store *storage.Store

	mu          sync.Mutex
	first, last uint64 // numbers of what there is; first > last: nothing
}

func auditKey(seq uint64) string { return fmt.Sprintf("%s%016d", auditPrefix, seq) }

func loadAudit(ctx context.Context, store *storage.Store) (*audit, error) {
	a := &audit{store: store, first: 1}
	for key, err := range store.List(ctx, auditPrefix) {
		if err != nil {
			return nil, fmt.Errorf("opsapi: the audit log: %w", err)
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(key, auditPrefix), 10, 64)
		if err != nil {
			continue
		}
		if a.last == 0 {
			a.first = n // keys come in order
		}
		a.last = n
	}
	return a, nil
}

// add appends an entry and returns it with its number.
func (a *audit) add(ctx context.Context, e AuditEntry) (AuditEntry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range maxTaken {
		e.Seq = a.last + 1
		data, err := json.Marshal(e)
		if err != nil {
			return e, err
		}
		_, err = a.store.Create(ctx, auditKey(e.Seq), data)
		if err != nil && !errors.Is(err, storage.ErrExists) {
			return e, err
		}
		// The number is taken where the storage did what it said it had not, or by
		// another process that shares it.
		a.last++
		if err == nil {
			return e, a.trim(ctx)
		}
	}
	return e, fmt.Errorf("%d numbers in a row are taken", maxTaken)
}

// trim removes the oldest entries beyond what is kept.
func (a *audit) trim(ctx context.Context) error {
	for a.last-a.first >= auditEntries {
		if err := a.store.Delete(ctx, auditKey(a.first)); err != nil {
			return err
		}
		a.first++
	}
	return nil
}

// newest calls visit with entries from the newest on, those with a number of
// before or more left out unless it is 0, until visit returns false.
func (a *audit) newest(ctx context.Context, before uint64, visit func(AuditEntry) bool) error {
	a.mu.Lock()
	first, n := a.first, a.last
	a.mu.Unlock()
	if before > 0 && before <= n {
		n = before - 1
	}
	for ; n >= first && n > 0; n-- {
		data, err := a.store.Get(ctx, auditKey(n))
		if errors.Is(err, storage.ErrNotFound) {
			continue // gone meanwhile
		}
		if err != nil {
			return err
		}
		var e AuditEntry
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("%s cannot be read: %w", auditKey(n), err)
		}
		if !visit(e) {
			return nil
		}
	}
	return nil
}
