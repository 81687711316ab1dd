package opsapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// How many versions of the configuration are kept, and how much they may take.
const (
	maxVersions     = 100
	maxVersionBytes = 64 << 20
)

const (
	versionPrefix = "ops/configuration/versions/"
	headKey       = "ops/configuration/head"
)

// versionRecord is a version as it is stored.
type versionRecord struct {
	Version  int             `json:"version"`
	Hash     string          `json:"hash"`
	Author   string          `json:"author"`
	Time     time.Time       `json:"time"`
	Comment  string          `json:"comment,omitempty"`
	Reverted bool            `json:"reverted,omitempty"`
	Size     int             `json:"size"`
	Document json.RawMessage `json:"document,omitempty"` // absent in memory
}

// headRecord says which version is in force.
type headRecord struct {
	// Current is in force, Confirmed comes back after a restart: another one only
	// while a change waits to be confirmed.
	Current   int `json:"current"`
	Confirmed int `json:"confirmed"`
	// ConfirmBy is when the current one takes itself back.
	ConfirmBy time.Time `json:"confirmBy,omitzero"`
	// Made is when the confirmed one was made: with another time it is one that was
	// refused, whose write came late and took the number.
	Made time.Time `json:"made,omitzero"`
	// Given is what the host was started with when the version was made. Base is its
	// hash, which there was in place of it before.
	Given json.RawMessage `json:"given,omitempty"`
	Base  string          `json:"base,omitempty"`
	// Changed is set once something was changed through the API since the host was
	// started with that, for good.
	Changed bool `json:"changed,omitempty"`
}

// equal reports whether nothing has to be written to have h in place of other.
func (h *headRecord) equal(other *headRecord) bool {
	return h.Current == other.Current && h.Confirmed == other.Confirmed && h.ConfirmBy.Equal(other.ConfirmBy) && h.Made.Equal(other.Made) &&
		h.Changed == other.Changed && h.Base == other.Base && bytes.Equal(h.Given, other.Given)
}

// pending reports whether a change waits to be confirmed.
func (h *headRecord) pending() bool { return h.Current != h.Confirmed }

func versionKey(n int) string { return fmt.Sprintf("%s%010d", versionPrefix, n) }

// versionStore keeps versions. It is used under the lock of its history.
type versionStore struct {
	store *storage.Store
	list  []versionRecord // without documents, the oldest first
	head  headRecord
	doubt bool // whether head is what is stored
	last  int  // the highest number that was ever used: a write that failed may yet come
}

func (v *versionStore) load(ctx context.Context) error {
	data, err := v.store.Get(ctx, headKey)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(data, &v.head); err != nil {
			return fmt.Errorf("%s cannot be read: %w", headKey, err)
		}
	}
	for key, err := range v.store.List(ctx, versionPrefix) {
		if err != nil {
			return err
		}
		record, err := v.read(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		record.Document = nil
		v.list = append(v.list, record)
		v.last = max(v.last, record.Version)
	}
	v.last = max(v.last, v.head.Current, v.head.Confirmed)
	return nil
}

// confirmed returns the version that comes back at a start. A write of head that
// failed may have come late, and name one that did not come to be: then it is the
// newest before that.
func (v *versionStore) confirmed() (*versionRecord, bool) {
	for i := range slices.Backward(v.list) {
		r := &v.list[i]
		late := r.Version == v.head.Confirmed && !v.head.Made.IsZero() && !r.Time.Equal(v.head.Made)
		if r.Version <= v.head.Confirmed && !r.Reverted && !late {
			return r, true
		}
	}
	return nil, false
}

func (v *versionStore) read(ctx context.Context, key string) (versionRecord, error) {
	var record versionRecord
	data, err := v.store.Get(ctx, key)
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("%s cannot be read: %w", key, err)
	}
	return record, nil
}

// find returns a version without its document.
func (v *versionStore) find(n int) (*versionRecord, bool) {
	for i := range v.list {
		if v.list[i].Version == n {
			return &v.list[i], true
		}
	}
	return nil, false
}

// document returns that of a version.
func (v *versionStore) document(ctx context.Context, n int) (json.RawMessage, error) {
	if _, ok := v.find(n); !ok {
		return nil, fmt.Errorf("version %d of the configuration: %w", n, ErrNotFound)
	}
	record, err := v.read(ctx, versionKey(n))
	return record.Document, err
}

// write stores a version, a new one or one that has changed.
func (v *versionStore) write(ctx context.Context, r versionRecord) error {
	r.Size = len(r.Document)
	data, err := marshal(r) // the document stays as it is
	if err != nil {
		return err
	}
	v.last = max(v.last, r.Version)
	if err := v.store.Put(ctx, versionKey(r.Version), data); err != nil {
		return err
	}
	r.Document = nil
	if known, ok := v.find(r.Version); ok {
		*known = r
		return nil
	}
	v.list = append(v.list, r)
	return nil
}

// markReverted notes that a version has been taken back.
func (v *versionStore) markReverted(ctx context.Context, n int) error {
	record, err := v.read(ctx, versionKey(n))
	if err != nil {
		return err
	}
	record.Reverted = true
	return v.write(ctx, record)
}

// forget removes a version that did not come to be.
func (v *versionStore) forget(ctx context.Context, n int) error {
	for i := range v.list {
		if v.list[i].Version == n {
			v.list = append(v.list[:i:i], v.list[i+1:]...)
			break
		}
	}
	return v.store.Delete(ctx, versionKey(n))
}

// next is the number of the next version.
func (v *versionStore) next() int { return v.last + 1 }

// setHead stores which version is in force, unless that is stored for sure.
func (v *versionStore) setHead(ctx context.Context, h headRecord) error {
	if !v.doubt && h.equal(&v.head) {
		return nil
	}
	data, err := marshal(h)
	if err != nil {
		return err
	}
	v.doubt = true
	if err := v.store.Put(ctx, headKey, data); err != nil {
		return err
	}
	v.head, v.doubt = h, false
	return nil
}

// setChanged sets Changed of heads from now on.
func (v *versionStore) setChanged(changed bool) {
	v.doubt = v.doubt || changed != v.head.Changed
	v.head.Changed = changed
}

// trim removes the oldest versions beyond what is kept.
func (v *versionStore) trim(ctx context.Context) error {
	total := 0
	for _, r := range v.list {
		total += r.Size
	}
	for len(v.list) > 0 && (len(v.list) > maxVersions || total > maxVersionBytes) {
		oldest := v.list[0]
		if oldest.Version == v.head.Current || oldest.Version == v.head.Confirmed {
			return nil
		}
		if err := v.forget(ctx, oldest.Version); err != nil {
			return err
		}
		total -= oldest.Size
	}
	return nil
}

// state is what a version is now, for clients.
func (v *versionStore) state(r *versionRecord) string {
	switch {
	case r.Version == v.head.Current && v.head.pending():
		return "pending"
	case r.Version == v.head.Current:
		return "current"
	case r.Reverted:
		return "reverted"
	}
	return "past"
}

// shortComment bounds what clients say about a change.
func shortComment(text string) error {
	if len(text) > maxLogText || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' }) {
		return &FieldError{Path: "comment", Msg: fmt.Sprintf("longer than %d bytes, or with control characters", maxLogText)}
	}
	return nil
}
