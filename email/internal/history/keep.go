package history

import (
	"context"
	"errors"
	"time"
)

// keep stores what has come, and drops what is old, until Close.
func (h *History) keep(ctx context.Context) {
	ticker := time.NewTicker(h.cfg.FlushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-h.quit:
			return
		case <-ticker.C:
		}
		h.expire()
		if err := h.Flush(ctx); err != nil {
			h.cfg.Log.Warn("the history of mail could not be kept in storage; it is tried again", "err", err)
		}
	}
}

// expire forgets chunks in which all is too old.
func (h *History) expire() {
	before := h.cfg.Now().Add(-h.cfg.MaxAge).UnixMilli()
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.chunks) > 0 && h.chunks[0].times[len(h.chunks[0].times)-1] < before {
		h.forget(0)
	}
}

// Flush stores what is not stored yet, and deletes what was forgotten.
func (h *History) Flush(ctx context.Context) error {
	if h.cfg.Store == nil {
		return nil
	}
	h.saving.Lock()
	defer h.saving.Unlock()
	h.mu.Lock()
	var unsaved []*chunk
	for _, c := range h.chunks {
		if c.saved < len(c.ids) {
			unsaved = append(unsaved, c)
		}
	}
	h.mu.Unlock()
	var errs []error
	for i, c := range unsaved {
		err := h.save(ctx, c)
		if err == nil {
			continue
		}
		errs = append(errs, err)
		h.shed(len(unsaved) - i)
		break
	}
	return errors.Join(append(errs, h.deleteStale(ctx))...)
}

func (h *History) save(ctx context.Context, c *chunk) error {
	h.mu.Lock()
	records, gone := c.records, c.gone // records grow at the end only
	h.mu.Unlock()
	if gone { // meanwhile
		return nil
	}
	value, err := encodeChunk(records)
	if err != nil {
		return err
	}
	if err := h.cfg.Store.Put(ctx, c.key, value); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.saved = len(records); c.gone { // meanwhile
		h.stale = append(h.stale, c.key)
	} else if c.full() && c.saved == len(c.ids) {
		c.records = nil // from now on it is read
	}
	return nil
}

// shed forgets the oldest of the chunks that the storage does not take, if there
// are too many.
func (h *History) shed(unsaved int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := 0; i < len(h.chunks) && unsaved > maxUnsaved; {
		if c := h.chunks[i]; c.saved == len(c.ids) {
			i++
			continue
		}
		h.cfg.Log.Error("records of mail were lost from the history, as the storage does not take them", "records", len(h.chunks[i].ids))
		h.forget(i)
		unsaved--
	}
}

func (h *History) deleteStale(ctx context.Context) error {
	h.mu.Lock()
	stale := h.stale
	h.stale = nil
	h.mu.Unlock()
	for i, key := range stale {
		if err := h.cfg.Store.Delete(ctx, key); err != nil {
			h.mu.Lock()
			h.stale = append(h.stale, stale[i:]...)
			h.mu.Unlock()
			return err
		}
	}
	return nil
}

// Close stores what is not stored yet and ends the history; what is put later is
// lost. If ctx ends before, so is what was not stored.
func (h *History) Close(ctx context.Context) error {
	h.mu.Lock()
	first := !h.closed
	h.closed = true
	h.mu.Unlock()
	if first {
		close(h.quit)
	}
	defer h.cancel()
	defer context.AfterFunc(ctx, h.cancel)()
	h.done.Wait()
	return h.Flush(ctx)
}
