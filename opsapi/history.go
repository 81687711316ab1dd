package opsapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/opsapi/internal/jsondiff"
)

// hostAuthor is who made versions that did not come through the API.
const hostAuthor = "host"

// applyTime bounds a change, which goes on if its client does not wait for it but ends
// soon after Stop waits no longer.
const applyTime = 2 * time.Minute

// revertAgain is when a change that could not be taken back is tried again.
const revertAgain = 5 * time.Second

// Applied is the answer to a change of the configuration.
type Applied struct {
	Version   int               `json:"version"`
	Hash      string            `json:"hash"`
	ConfirmBy time.Time         `json:"confirmBy,omitzero" doc:"when the change takes itself back unless it is confirmed"`
	Changes   []jsondiff.Change `json:"changes"`
}

// configurationEvent is an event of the topic configuration.
type configurationEvent struct {
	What      string    `json:"what" doc:"applied, pending, confirmed or reverted"`
	Version   int       `json:"version"`
	Hash      string    `json:"hash"`
	Author    string    `json:"author"`
	ConfirmBy time.Time `json:"confirmBy,omitzero"`
}

// history changes the configuration, one change at a time, and knows the
// versions before.
type history struct {
	source  Configuration
	log     *slog.Logger
	now     func() time.Time
	key     []byte // of hashes: else who sees one could try out secrets
	publish func(configurationEvent)
	over    context.Context // ends when Stop waits no longer

	mu     sync.Mutex
	v      versionStore
	given  json.RawMessage    // what the host was started with
	owed   *owed              // nil: nothing
	cancel context.CancelFunc // of the wait for a confirmation, or for what is owed
	closed bool
	wait   sync.WaitGroup
}

func (h *history) hash(doc json.RawMessage) string {
	mac := hmac.New(sha256.New, h.key)
	mac.Write(doc)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// open reads the versions and has that in force which the history says: once
// something was changed through the API the last one, without a change that was not
// confirmed or not finished. Until then the host is left alone: what it changed by
// itself it will change again, or keeps. If the host is started with another
// configuration than before, then that is in force, all of it.
//
// That the history cannot be written is no reason not to start.
func (h *history) open(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.v.load(ctx); err != nil {
		return fmt.Errorf("opsapi: the history of the configuration: %w", err)
	}
	given, errGiven := h.source.Given(ctx)
	current, errCurrent := h.source.Current(ctx)
	if err := errors.Join(errGiven, errCurrent); err != nil {
		return fmt.Errorf("opsapi: the configuration: %w", err)
	}
	h.given = given
	before := h.v.head
	same := h.isGiven(ctx, &before)
	undo, unfinished := h.unfinished()
	o := &owed{doc: current, undo: undo}
	found, known := h.v.confirmed()
	last := versionRecord{Author: hostAuthor}
	if known {
		if h.hash(current) != found.Hash {
			h.renew(ctx, found)
		}
		last = *found
	}
	changed := before.Changed || last.Author != hostAuthor
	h.v.setChanged(changed && same)
	switch {
	case !changed && !unfinished:
	case !same || !known:
		o.doc = given
	case h.hash(current) != last.Hash:
		var err error
		if o.doc, err = h.v.document(ctx, last.Version); err != nil {
			h.log.Error("a version of the configuration cannot be read", "version", last.Version, "err", err)
		}
		o.version, o.instead = last.Version, current
		if unfinished { // what was not confirmed must not stay where that cannot come back
			o.instead = given
		}
	}
	if h.hash(o.doc) == last.Hash {
		o.version = last.Version
	}
	h.owed = o
	err := h.settle(ctx)
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err == nil && unfinished {
		h.log.Warn("a change of the configuration was not confirmed or not finished before the end: it is taken back", "version", undo)
	}
	switch {
	case err != nil:
		h.fails(err)
	case !changed || o.comment != "":
	case o.version != last.Version:
		h.log.Info("the host is started with another configuration: it replaces the one changed through the API", "version", last.Version)
	case h.hash(current) != last.Hash:
		h.log.Info("the configuration is the one changed through the API", "version", last.Version, "author", last.Author)
	}
	return nil
}

// start has what is owed settled from now on. over ends when Stop waits no longer.
func (h *history) start(over context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = over
	h.keepTrying()
}

// isGiven reports whether the host is started with what it was when head was
// written, maybe by a version of the program that writes it otherwise.
func (h *history) isGiven(ctx context.Context, head *headRecord) bool {
	if head.Given == nil {
		return head.Base == h.hash(h.given)
	}
	before, err := h.source.Parse(ctx, head.Given, head.Given)
	return err == nil && bytes.Equal(before, h.given)
}

// renew has a version written as the host writes it now, which may be otherwise
// than when it was made: else it would look like another one. What cannot be read
// any more stays as it is.
func (h *history) renew(ctx context.Context, version *versionRecord) {
	r, err := h.v.read(ctx, versionKey(version.Version))
	if err != nil {
		return
	}
	doc, err := h.source.Parse(ctx, r.Document, r.Document)
	if err != nil || h.hash(doc) == r.Hash {
		return
	}
	r.Document, r.Hash = doc, h.hash(doc)
	if err := h.v.write(ctx, r); err != nil {
		h.log.Warn("the history of the configuration cannot be written", "err", err)
	}
}

// head says that a version is in force, and confirmed.
func (h *history) head(version int) headRecord {
	head := headRecord{Current: version, Confirmed: version, Given: h.given, Changed: h.v.head.Changed}
	if r, ok := h.v.find(version); ok {
		head.Made = r.Time
	}
	return head
}

// unfinished returns the change that was under way at the end: it waited to be
// confirmed, or nobody has got an answer yet.
func (h *history) unfinished() (version int, ok bool) {
	if h.v.head.pending() {
		return h.v.head.Current, true
	}
	for _, r := range slices.Backward(h.v.list) {
		if r.Version > h.v.head.Current && r.Author != hostAuthor && !r.Reverted {
			return r.Version, true
		}
	}
	return 0, false
}

// version makes the record of the next one.
func (h *history) version(doc json.RawMessage, author, comment string) versionRecord {
	return versionRecord{Version: h.v.next(), Hash: h.hash(doc), Author: author, Time: h.now().UTC(), Comment: comment, Document: doc}
}

// record makes a version of what the host has put into force by itself.
func (h *history) record(ctx context.Context, doc json.RawMessage) error {
	r := h.version(doc, hostAuthor, "")
	if err := h.v.write(ctx, r); err != nil {
		return fmt.Errorf("opsapi: the history of the configuration: %w", err)
	}
	if err := h.v.setHead(ctx, h.head(r.Version)); err != nil {
		return fmt.Errorf("opsapi: the history of the configuration: %w", err)
	}
	return h.v.trim(ctx)
}

// note makes a version of what the host has changed since, where that is to come
// back at the next start. A change that waits to be confirmed is not.
func (h *history) note(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.owed != nil || h.v.head.pending() || !h.v.head.Changed {
		return nil
	}
	if _, _, err := h.sync(ctx); err != nil {
		return fmt.Errorf("opsapi: what the host has changed is not in the history of the configuration: %w", err)
	}
	return nil
}

// close ends the wait for a confirmation. The change stays in force until the
// next start.
func (h *history) close() {
	h.mu.Lock()
	h.closed = true
	h.stopWaiting()
	h.mu.Unlock()
	h.wait.Wait()
}

func (h *history) stopWaiting() {
	if h.cancel != nil {
		h.cancel()
		h.cancel = nil
	}
}

// sync returns the configuration in force. If the host has changed it since, that
// is a version too; not so while there is one that has to come back.
func (h *history) sync(ctx context.Context) (json.RawMessage, *versionRecord, error) {
	if h.owed != nil && h.owed.applied {
		if err := h.settle(ctx); err != nil {
			h.fails(err)
		}
	}
	doc, err := h.source.Current(ctx)
	if err != nil {
		return nil, nil, err
	}
	current, known := h.v.find(h.v.head.Current)
	if h.owed != nil {
		if !known {
			return nil, nil, h.owes()
		}
		return doc, current, nil
	}
	if !known || current.Hash != h.hash(doc) {
		if h.v.head.pending() {
			h.log.Warn("the host has changed the configuration: what waited to be confirmed is not taken back", "version", h.v.head.Current)
			h.stopWaiting()
			h.v.setChanged(true)
		}
		if err := h.record(ctx, doc); err != nil {
			return nil, nil, err
		}
		current, _ = h.v.find(h.v.head.Current)
		h.publish(configurationEvent{What: "applied", Version: current.Version, Hash: current.Hash, Author: current.Author})
	}
	return doc, current, nil
}

// change is what somebody wants to be in force.
type change struct {
	author, comment string
	ifMatch         string        // hash that must be current, or ""
	confirmWithin   time.Duration // 0: at once for good
	// build makes the document out of the one in force, with secrets.
	build func(ctx context.Context, current json.RawMessage) (json.RawMessage, error)
}

// apply makes a change, or nothing and an error.
func (h *history) apply(ctx context.Context, c change) (Applied, error) {
	ctx, cancel := lasting(ctx, h.over, 0)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	before, current, err := h.sync(ctx)
	if err = cmp.Or(err, h.owes()); err != nil {
		return Applied{}, err
	}
	if c.ifMatch != "" && c.ifMatch != current.Hash {
		e := errorf(CodeConflict, "somebody else has changed the configuration: version %d by %q is in force", current.Version, current.Author)
		e.Data = map[string]any{"version": current.Version, "hash": current.Hash}
		return Applied{}, e
	}
	if h.v.head.pending() {
		e := errorf(CodePending, "version %d waits to be confirmed or taken back first", h.v.head.Current)
		e.Data = map[string]any{"version": h.v.head.Current, "confirmBy": h.v.head.ConfirmBy}
		return Applied{}, e
	}
	doc, err := c.build(ctx, before)
	if err != nil {
		return Applied{}, err
	}
	if bytes.Equal(doc, before) {
		return Applied{Version: current.Version, Hash: current.Hash, Changes: []jsondiff.Change{}}, nil
	}
	changes, err := h.diff(before, doc)
	if err != nil {
		return Applied{}, err
	}
	r := h.version(doc, c.author, c.comment)
	if err := h.v.write(ctx, r); err != nil {
		return Applied{}, fmt.Errorf("the history of the configuration: %w", err)
	}
	back := &owed{doc: before, version: current.Version, undo: r.Version, forget: true}
	if err := h.put(ctx, doc); err != nil {
		return Applied{}, errors.Join(err, h.takeBack(ctx, back))
	}
	head := h.head(r.Version)
	head.Changed = head.Changed || c.confirmWithin == 0
	if c.confirmWithin > 0 {
		head.Confirmed, head.Made = current.Version, current.Time
		head.ConfirmBy = r.Time.Add(c.confirmWithin)
	}
	if err := h.v.setHead(ctx, head); err != nil { // it would be gone after a restart
		err = fmt.Errorf("the history of the configuration: %w", err)
		return Applied{}, errors.Join(err, h.takeBack(ctx, back))
	}
	if err := h.v.trim(ctx); err != nil {
		h.log.Warn("old versions of the configuration cannot be removed", "err", err)
	}
	what := "applied"
	if c.confirmWithin > 0 {
		what = "pending"
		h.waitFor(r.Version, c.confirmWithin)
	}
	h.publish(configurationEvent{what, r.Version, r.Hash, r.Author, head.ConfirmBy})
	return Applied{r.Version, r.Hash, head.ConfirmBy, changes}, nil
}

// put has the host apply a document. Where that fails, parts of the host may have
// stored it all the same: from then on they follow the history at a start, as if it
// had been applied. What is wrong with the document itself they have not stored.
func (h *history) put(ctx context.Context, doc json.RawMessage) error {
	err := h.source.Apply(ctx, doc)
	if err != nil && !isInvalid(err) {
		h.v.setChanged(true)
	}
	return err
}

// waitFor takes a version back if it is not confirmed in time.
func (h *history) waitFor(version int, d time.Duration) {
	h.after(d, func(ctx context.Context) bool {
		_, err := h.revert(ctx, version)
		switch {
		case err == nil:
			h.log.Warn("a change of the configuration was not confirmed in time and is taken back", "version", version)
			return true
		case ctx.Err() != nil: // it was confirmed at the last moment, or is owed
			return true
		}
		h.log.Error("a change of the configuration that nobody confirmed cannot be taken back yet", "version", version, "err", err)
		return false
	})
}

// after calls a func when d is over, and again until it is done.
func (h *history) after(d time.Duration, done func(context.Context) bool) {
	if h.closed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.wait.Go(func() {
		for {
			timer := time.NewTimer(d)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			if done(ctx) {
				return
			}
			d = revertAgain
		}
	})
}

// notPending is the error for a version that does not wait.
func notPending(version int) error {
	return &FieldError{Path: "version", Msg: fmt.Sprintf("%d does not wait to be confirmed", version)}
}

// confirm makes a change stay.
func (h *history) confirm(ctx context.Context, version int) (Applied, error) {
	ctx, cancel := lasting(ctx, h.over, 0)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	_, current, err := h.sync(ctx)
	if err = cmp.Or(err, h.owes()); err != nil {
		return Applied{}, err
	}
	if !h.v.head.pending() || current.Version != version {
		return Applied{}, notPending(version)
	}
	head := h.head(version)
	head.Changed = true
	if err := h.v.setHead(ctx, head); err != nil {
		return Applied{}, err
	}
	h.stopWaiting()
	h.publish(configurationEvent{What: "confirmed", Version: version, Hash: current.Hash, Author: current.Author})
	return Applied{Version: version, Hash: current.Hash, Changes: []jsondiff.Change{}}, nil
}

// revert takes a change back that waits to be confirmed.
func (h *history) revert(ctx context.Context, version int) (Applied, error) {
	ctx, cancel := lasting(ctx, h.over, 0)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	from, current, err := h.sync(ctx)
	if err = cmp.Or(err, h.owes()); err != nil {
		return Applied{}, err
	}
	if !h.v.head.pending() || current.Version != version {
		return Applied{}, notPending(version)
	}
	previous, ok := h.v.find(h.v.head.Confirmed)
	if !ok {
		return Applied{}, fmt.Errorf("version %d of the configuration: %w", h.v.head.Confirmed, ErrNotFound)
	}
	author := current.Author
	doc, err := h.v.document(ctx, previous.Version)
	if err != nil {
		return Applied{}, err
	}
	changes, err := h.diff(from, doc)
	if err != nil {
		return Applied{}, err
	}
	h.owed = &owed{doc: doc, version: previous.Version, undo: version}
	if err := h.settle(ctx); err != nil {
		if !h.owed.applied && h.inForce(ctx, from) {
			h.owed = nil // nothing has changed: it waits on
		} else {
			h.fails(err)
			h.keepTrying()
		}
		return Applied{}, err
	}
	h.stopWaiting()
	h.publish(configurationEvent{What: "reverted", Version: previous.Version, Hash: previous.Hash, Author: author})
	return Applied{Version: previous.Version, Hash: previous.Hash, Changes: changes}, nil
}

// diff compares two documents and hides secrets.
func (h *history) diff(from, to json.RawMessage) ([]jsondiff.Change, error) {
	shownFrom, err := h.source.Redact(from)
	if err != nil {
		return nil, err
	}
	shownTo, err := h.source.Redact(to)
	if err != nil {
		return nil, err
	}
	changes, err := jsondiff.Diff(jsondiff.Document{Full: from, Shown: shownFrom}, jsondiff.Document{Full: to, Shown: shownTo})
	if changes == nil {
		changes = []jsondiff.Change{}
	}
	return changes, err
}
