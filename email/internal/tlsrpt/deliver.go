package tlsrpt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

const (
	// maxDeliveries bounds the reports that are delivered at once.
	maxDeliveries = 8
	// deliveryTime bounds one attempt at one report.
	deliveryTime = 2 * time.Minute
	// giveUpAfter is how long after the end of the day a report may still go
	// out for the first time, and after its first attempt be tried again (RFC
	// 8460 section 5.5).
	giveUpAfter = 24 * time.Hour
	firstRetry  = 5 * time.Minute
	lastRetry   = 4 * time.Hour
)

// deliverDue delivers the reports of days that are over, those that are due.
func (r *Reporter) deliverDue(ctx context.Context) {
	places := make(chan struct{}, maxDeliveries)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, c := range r.due() {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-places }()
			r.deliver(ctx, c)
		})
	}
}

// due collects the reports that are due. Nothing is added to their counts any
// more.
func (r *Reporter) due() (list []*counts) {
	now := r.cfg.Now()
	today := now.UTC().Format(dayFormat)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.counts {
		if c.Day >= today || c.busy {
			continue
		}
		if c.next.IsZero() {
			c.next = c.period().End
			if spread := r.cfg.Spread; spread > 0 {
				c.next = c.next.Add(rand.N(spread))
			}
		}
		if !now.Before(c.next) {
			c.busy = true
			list = append(list, c)
		}
	}
	return list
}

// deliver makes one attempt at a report.
func (r *Reporter) deliver(ctx context.Context, c *counts) {
	attempt, cancel := context.WithTimeout(ctx, deliveryTime)
	defer cancel()
	err := r.attempt(attempt, c)
	if ctx.Err() != nil {
		r.mu.Lock()
		c.busy = false
		r.mu.Unlock()
		return // goes on after a restart
	}
	now := r.cfg.Now()
	r.mu.Lock()
	c.busy = false
	late := now.After(c.period().End.Add(giveUpAfter + max(r.cfg.Spread, 0)))
	if err != nil && !late {
		c.next = now.Add(min(firstRetry<<min(c.Attempts, 10), lastRetry))
		c.Attempts++
		c.dirty = true
		r.mu.Unlock()
		return
	}
	r.remove(c)
	if err != nil {
		r.stats.Failed++
	}
	r.mu.Unlock()
	if err != nil {
		r.cfg.Log.Warn("a report about TLS could not be delivered", "domain", c.Domain, "day", c.Day, "err", err)
	}
	if r.cfg.Store != nil {
		if err := r.cfg.Store.Delete(ctx, storeKey(c)); err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn("counts for reports about TLS could not be removed", "domain", c.Domain, "err", err)
		}
	}
}

// attempt delivers a report to all that want it and do not have it yet. Nil
// means that there is nothing left to do.
func (r *Reporter) attempt(ctx context.Context, c *counts) error {
	txts, err := lookup.TXT(ctx, r.cfg.Resolver, "_smtp._tls."+c.Domain)
	if err != nil {
		return err
	}
	addresses, err := parseRecord(txts)
	if err != nil {
		if !errors.Is(err, errNoRecord) {
			r.cfg.Log.Info("a domain's TLSRPT record cannot be used", "domain", c.Domain, "err", err)
		}
		return nil
	}
	gz, filename, err := r.build(c)
	if err != nil {
		return err
	}
	var errs []error
	for _, uri := range addresses {
		if slices.Contains(c.Done, uri) {
			continue
		}
		delivered, err := r.deliverTo(ctx, c, uri, gz, filename)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", uri, err))
		}
		if delivered {
			r.mu.Lock()
			c.Done = append(c.Done, uri)
			c.dirty = true
			r.stats.Delivered++
			r.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// deliverTo is false without an error for an address that we have no means for.
func (r *Reporter) deliverTo(ctx context.Context, c *counts, uri string, gz []byte, filename string) (bool, error) {
	if to, ok := mailbox(uri); ok {
		if r.cfg.Send == nil {
			return false, nil
		}
		m, err := r.mail(c, to, gz, filename)
		if err == nil {
			err = r.cfg.Send(ctx, m)
		}
		return err == nil, err
	}
	if r.cfg.HTTP == nil {
		return false, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, bytes.NewReader(gz))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/tlsrpt+gzip")
	resp, err := r.cfg.HTTP.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode/100 != 2 {
		return false, fmt.Errorf("the server answers with status %d", resp.StatusCode)
	}
	return true, nil
}
