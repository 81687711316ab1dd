package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MigrateOptions changes what [Migrate] does. The zero value copies
// everything and overwrites nothing that differs.
type MigrateOptions struct {
	Prefix    string // only the keys at and below; as in List
	DryRun    bool   // compare and report, but change nothing
	Overwrite bool   // replace values of the destination that differ

	// Progress, if set, is called after each key, from the goroutine that
	// called Migrate.
	Progress func(MigrateProgress)
}

// MigrateProgress says how far [Migrate] is: first it compares all keys, then
// it copies those that need it.
type MigrateProgress struct {
	Phase string // "compare" or "copy"
	Key   string // the one just done
	Done  int    // keys done in this phase
	Total int    // keys of this phase
}

// MigrateReport says what [Migrate] did, or in a dry run would do.
type MigrateReport struct {
	Keys        int   // in the source
	Same        int   // were in the destination already
	Copied      int   // were missing there
	Overwritten int   // were different there
	Bytes       int64 // copied and overwritten, values only
}

// MigrateConflictError is returned by [Migrate] when the destination has
// different values and may not overwrite them. It wraps [ErrExists].
type MigrateConflictError struct {
	Keys  []string // the first few
	Total int
}

func (e *MigrateConflictError) Error() string {
	return fmt.Sprintf("storage: migrate: %d keys have a different value in the destination (%s); nothing was copied. "+
		"Delete them there, choose an empty destination, or allow overwriting",
		e.Total, strings.Join(e.Keys, ", "))
}

// Unwrap returns [ErrExists].
func (e *MigrateConflictError) Unwrap() error { return ErrExists }

// Migrate copies the values of src, with their times of expiry, to dst and
// reads each back to verify it. First everything is compared; if dst has
// different values, the error is a [*MigrateConflictError] and nothing is
// changed, unless opts.Overwrite is set. Keys of dst that src does not have
// stay. If it is interrupted call it again: what was copied is not copied
// twice. Lease tokens granted by dst will be greater than those granted by
// src, where the Store makes them. Nobody else may write to either meanwhile.
func Migrate(ctx context.Context, src, dst *Store, opts MigrateOptions) (MigrateReport, error) {
	var rep MigrateReport
	plan, err := compare(ctx, src, dst, opts, &rep)
	if err != nil || opts.DryRun {
		return rep, err
	}
	if src.fence != nil && dst.fence != nil {
		floor, err := src.fence.durable(ctx)
		if err == nil {
			err = dst.fence.raise(ctx, floor)
		}
		if err != nil {
			return rep, keyErr("migrate", fenceKey, err)
		}
	}
	for i, key := range plan {
		if err := copyKey(ctx, src, dst, key); err != nil {
			return rep, keyErr("migrate", key, err)
		}
		report(opts, "copy", key, i+1, len(plan))
	}
	return rep, nil
}

// compare fills in the report and returns the keys to copy.
func compare(ctx context.Context, src, dst *Store, opts MigrateOptions, rep *MigrateReport) (plan []string, err error) {
	var keys []string
	for k, err := range src.List(ctx, opts.Prefix) {
		if err != nil {
			return nil, keyErr("migrate", opts.Prefix, err)
		}
		if !isMeta(k) {
			keys = append(keys, k)
		}
	}
	conflict := &MigrateConflictError{}
	for i, k := range keys {
		from, err := src.GetItem(ctx, k)
		if isNotFound(err) { // expired since it was listed
			continue
		} else if err != nil {
			return nil, keyErr("migrate", k, fmt.Errorf("source: %w", err))
		}
		to, err := dst.GetItem(ctx, k)
		rep.Keys++
		switch {
		case isNotFound(err):
			rep.Copied++
		case err != nil:
			return nil, keyErr("migrate", k, fmt.Errorf("destination: %w", err))
		case sameItem(from, to):
			rep.Same++
			report(opts, "compare", k, i+1, len(keys))
			continue
		default:
			rep.Overwritten++
			if conflict.Total++; len(conflict.Keys) < 10 {
				conflict.Keys = append(conflict.Keys, k)
			}
		}
		plan = append(plan, k)
		rep.Bytes += int64(len(from.Value))
		report(opts, "compare", k, i+1, len(keys))
	}
	if conflict.Total > 0 && !opts.Overwrite {
		return nil, conflict
	}
	return plan, nil
}

// sameItem does not compare times of expiry closely: some backends round them.
func sameItem(a, b Item) bool {
	return bytes.Equal(a.Value, b.Value) && a.Expires.IsZero() == b.Expires.IsZero()
}

func copyKey(ctx context.Context, src, dst *Store, key string) error {
	from, err := src.GetItem(ctx, key)
	if isNotFound(err) { // expired since it was compared
		return nil
	} else if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if err := dst.Put(ctx, key, from.Value, Until(from.Expires)); err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	back, err := dst.GetItem(ctx, key)
	switch {
	case isNotFound(err) && expired(from.Expires, time.Now()):
		return nil
	case err != nil:
		return fmt.Errorf("destination, reading back: %w", err)
	case !sameItem(from, back):
		return errors.New("the destination does not return what was put there; check its backend with package storagetest")
	}
	return nil
}

func report(opts MigrateOptions, phase, key string, done, total int) {
	if opts.Progress != nil {
		opts.Progress(MigrateProgress{Phase: phase, Key: key, Done: done, Total: total})
	}
}

// migrationRecord is the value of migrationKey: MigrateFrom is done.
type migrationRecord struct {
	Finished time.Time     `json:"finished"`
	Report   MigrateReport `json:"report"`
}

// migrateOnce does what MigrateFrom says, while the Store is being opened.
func (s *Store) migrateOnce(ctx context.Context, cfg openConfig) error {
	_, err := s.backend.Get(ctx, migrationKey)
	if err == nil {
		return nil
	} else if !isNotFound(err) {
		return keyErr("open", migrationKey, err)
	}
	old, err := Open(ctx, cfg.migrateFrom, WithLogger(cfg.log), WithMaxValueSize(cfg.maxValue),
		func(c *openConfig) { c.readOnly = true })
	if err != nil {
		return fmt.Errorf("storage: open the backend to migrate from: %w", err)
	}
	rep, err := Migrate(ctx, old, s, MigrateOptions{})
	if err := errors.Join(err, old.Close()); err != nil {
		return err
	}
	data, err := json.Marshal(migrationRecord{Finished: time.Now().UTC(), Report: rep})
	if err == nil {
		err = s.backend.Put(ctx, migrationKey, data)
	}
	if err != nil {
		return keyErr("open", migrationKey, err)
	}
	s.log.Info("storage migrated", "keys", rep.Keys, "copied", rep.Copied, "bytes", rep.Bytes)
	return nil
}
