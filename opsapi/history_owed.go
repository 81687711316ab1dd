package opsapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// owed is a configuration that has to come back, in place of a change that was
// refused or not confirmed. Until it is in force and noted, so that it is after a
// restart, too, what is in force is a mixture: no version is made of that, and
// nothing can be changed.
type owed struct {
	doc     json.RawMessage
	instead json.RawMessage // of the host, where doc cannot be; nil: there is none
	version int             // of doc; 0: a new one is made
	comment string          // of that
	made    *versionRecord  // that, once it has a number
	undo    int             // the change that is taken back; 0: none
	forget  bool            // undo has not come to be: nobody knows its number
	applied bool            // what is left is to note it
	err     error           // why it is owed still
}

// settle has in force what is owed, and notes that.
func (h *history) settle(ctx context.Context) error {
	o := h.owed
	if !o.applied {
		if err := h.bring(ctx, o); err != nil {
			return err
		}
		o.applied = true
	}
	if err := h.noteOwed(ctx, o); err != nil {
		return fmt.Errorf("the history of the configuration: %w", err)
	}
	var err error
	switch {
	case o.forget:
		err = h.v.forget(ctx, o.undo)
	case o.undo != 0:
		err = h.v.markReverted(ctx, o.undo)
	}
	if err = errors.Join(err, h.v.trim(ctx)); err != nil {
		h.log.Warn("the history of the configuration cannot be written", "err", err)
	}
	h.owed = nil
	return nil
}

// bring has it in force, or what is in its place.
func (h *history) bring(ctx context.Context, o *owed) error {
	err := h.bringOne(ctx, o.doc)
	if err == nil || o.instead == nil || ctx.Err() != nil {
		return err
	}
	if other := h.bringOne(ctx, o.instead); other != nil {
		return errors.Join(err, other)
	}
	h.log.Error("the configuration that was in force cannot be brought back: the host's is", "version", o.version, "err", err)
	o.comment = fmt.Sprintf("version %d could not be brought back", o.version)
	o.doc, o.version = o.instead, 0
	return nil
}

func (h *history) bringOne(ctx context.Context, doc json.RawMessage) error {
	if doc == nil {
		return errors.New("it cannot be read")
	}
	if h.inForce(ctx, doc) {
		return nil
	}
	return h.put(ctx, doc)
}

func (h *history) inForce(ctx context.Context, doc json.RawMessage) bool {
	current, err := h.source.Current(ctx)
	return err == nil && bytes.Equal(current, doc)
}

// noteOwed stores that it is the version in force.
func (h *history) noteOwed(ctx context.Context, o *owed) error {
	if o.version == 0 {
		if o.made == nil {
			r := h.version(o.doc, hostAuthor, o.comment)
			o.made = &r
		}
		if err := h.v.write(ctx, *o.made); err != nil {
			return err
		}
		o.version = o.made.Version
	}
	return h.v.setHead(ctx, h.head(o.version))
}

// owes returns why nothing can be changed, if that is so.
func (h *history) owes() error {
	if h.owed == nil {
		return nil
	}
	e := errorf(CodePending, "the configuration that has to be in force could not be brought back or stored: that comes first, and is tried again every %v. %v", revertAgain, h.owed.err)
	e.Data = map[string]any{"version": h.owed.undo}
	return e
}

// fails notes why something is owed still, and logs it unless it is known.
func (h *history) fails(err error) {
	if known := h.owed.err; known == nil || known.Error() != err.Error() {
		h.log.Error("the configuration that has to be in force cannot be brought back or stored: it is tried again, and until then nothing can be changed", "taken back", h.owed.undo, "err", err)
	}
	h.owed.err = err
}

// takeBack has in force what was before a change that could not come to be. It has
// time of its own: that of the change may be over.
func (h *history) takeBack(ctx context.Context, back *owed) error {
	ctx, cancel := lasting(ctx, h.over, drainTime)
	defer cancel()
	h.owed = back
	if err := h.settle(ctx); err != nil {
		h.fails(err)
		h.keepTrying()
		return fmt.Errorf("what was in force could not be brought back or stored, which is tried again: %w", err)
	}
	return nil
}

// keepTrying settles what is owed, if something is, as soon as that can be done.
func (h *history) keepTrying() {
	o := h.owed
	if o == nil {
		return
	}
	h.stopWaiting()
	h.after(revertAgain, func(ctx context.Context) bool {
		ctx, cancel := lasting(ctx, h.over, 0)
		defer cancel()
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.owed != o {
			return true
		}
		if err := h.settle(ctx); err != nil {
			h.fails(err)
			return false
		}
		h.log.Warn("the configuration that has to be in force is", "version", o.version, "taken back", o.undo)
		if r, ok := h.v.find(o.version); ok {
			h.publish(configurationEvent{What: "reverted", Version: r.Version, Hash: r.Hash, Author: r.Author})
		}
		return true
	})
}
