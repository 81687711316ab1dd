package dmarcrpt

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/upkeep"
)

const (
	// retry is the time between tries to send a report, giveUp how long it is
	// tried after the end of its day.
	retry, giveUp = time.Hour, 48 * time.Hour
	// perReport bounds the time that one takes, atOnce how many are under way:
	// the DNS of strangers may be slow.
	perReport, atOnce = 30 * time.Second, 8
)

// Open reads what was counted from cfg.Store, and starts to report and to store.
// What cannot be read is logged and lost. Errors are those of the configuration
// and of the store.
func Open(ctx context.Context, cfg Config) (*Reporter, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("DMARC reports: %w", err)
	}
	r := &Reporter{cfg: cfg.withDefaults(), domains: map[key]*domain{}, organizations: map[key]int{}}
	if err := r.load(ctx); err != nil {
		return nil, fmt.Errorf("DMARC reports: %w", err)
	}
	r.upkeep = upkeep.New(ctx)
	if r.cfg.Store != nil {
		r.upkeep.Save(r.cfg.SaveEvery, r.cfg.Log, "the data of DMARC reports", r.save)
	}
	r.upkeep.Every(time.Minute, r.sendDue)
	return r, nil
}

// Close ends the reporting and stores what has changed. What is added after it is
// lost.
func (r *Reporter) Close(ctx context.Context) error {
	r.upkeep.Close()
	return r.save(ctx)
}

// due is when a domain's report goes out: some time after its day, and always the
// same, also after a restart.
func (r *Reporter) due(k key) time.Time {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %s", k.day, k.name, r.cfg.Hostname)
	return time.Unix(k.begin()+daySeconds, 0).UTC().Add(time.Duration(h.Sum64() % uint64(r.cfg.Spread)))
}

// sendDue sends what is due, and forgets what has been sent, is given up or not
// worth it.
func (r *Reporter) sendDue(ctx context.Context) {
	due := make(chan key)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for k := range due {
				r.sendOne(ctx, k)
			}
		})
	}
	for _, k := range r.dueNow() {
		if ctx.Err() != nil {
			break
		}
		due <- k
	}
	close(due)
	workers.Wait()
}

// dueNow returns what is due, and removes what is not worth a report.
func (r *Reporter) dueNow() []key {
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []key
	for k, e := range r.domains {
		switch {
		case now.Unix() <= k.end() || now.Before(r.due(k)) || now.Before(e.next):
		case e.messages < r.cfg.MinMessages || len(e.rows) == 0:
			r.remove(e)
		default:
			list = append(list, k)
		}
	}
	return list
}

func (r *Reporter) sendOne(ctx context.Context, k key) {
	r.mu.Lock()
	e := r.domains[k]
	if e == nil { // no room for it any more
		r.mu.Unlock()
		return
	}
	c := *e
	c.rows, c.sent = maps.Clone(e.rows), slices.Clone(e.sent)
	r.mu.Unlock()

	err := r.send(ctx, &c)
	over := r.cfg.Now().Sub(time.Unix(k.end(), 0)) >= giveUp
	closing := err != nil && ctx.Err() != nil
	if err != nil && !closing {
		r.cfg.Log.Warn("a DMARC report could not be sent", "domain", k.name, "err", err, "given_up", over)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Sent += uint64(len(c.sent) - len(e.sent))
	e.sent, e.next = c.sent, r.cfg.Now().Add(retry)
	r.dirty[shardOf(k.name)] = true
	switch {
	case r.domains[k] != e || closing || err != nil && !over:
		return
	case err != nil:
		r.stats.Failed++
	}
	r.remove(e)
}

// send hands a report over for each destination that does not have it.
func (r *Reporter) send(ctx context.Context, e *domain) error {
	ctx, cancel := context.WithTimeout(ctx, perReport)
	defer cancel()
	to, err := r.destinations(ctx, e.name, e.rua)
	if err != nil || len(to) == 0 {
		return err
	}
	document, err := r.document(e)
	if err != nil {
		return err
	}
	attachment, err := compressed(document)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range to {
		if slices.Contains(e.sent, d.addr.String()) {
			continue
		}
		if int64(len(attachment)) > d.limit {
			r.cfg.Log.Warn("a DMARC report is larger than its receiver wants and is not sent",
				"domain", e.name, "to", d.addr.String(), "bytes", len(attachment), "limit", d.limit)
			continue
		}
		report, err := r.report(e, d, attachment)
		if err == nil {
			err = r.cfg.Send(ctx, report)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("to %q: %w", d.addr.String(), err))
			continue
		}
		e.sent = append(e.sent, d.addr.String())
	}
	return errors.Join(errs...)
}
