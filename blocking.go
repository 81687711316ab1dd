package dcrouter

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/blocklist"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// blocking has addresses that misbehave in one subsystem refused in others.
type blocking struct {
	set    *blocklist.Set
	keeper blockKeeper
	log    *slog.Logger

	counts, refuses []string // empty: all
	reputation      bool
	mailPorts       []int // of the proxy, where the mail system refuses

	byProxy, byEmail atomic.Uint64
}

// BlockingStats are the counters of blocked addresses.
type BlockingStats struct {
	// Active are the blocks that hold now, those of the configuration included.
	Active int `json:"active"`
	// Counted are the addresses with events that have not led to a block.
	Counted int `json:"counted"`
	// Made counts the blocks that events have led to.
	Made uint64 `json:"made"`
	// Refused counts what was refused, by subsystem: connections and requests of
	// the proxy, connections and messages of email.
	Refused map[string]uint64 `json:"refused"`
}

// setUpBlocking makes what the subsystems ask about addresses, and has them tell
// of abuse. It comes before they are made.
func (r *Router) setUpBlocking(o *options) {
	c := r.config.Blocking
	if c != nil {
		b := &blocking{log: r.log, counts: c.Count, refuses: c.Refuse, reputation: c.Reputation}
		b.keeper.blocking = b
		cfg := r.config.blocklist()
		cfg.Evicted = b.keeper.drop
		b.set = blocklist.New(cfg)
		if r.config.Email != nil && r.config.Email.UseSocketHandler {
			for _, p := range r.config.Email.Ports {
				b.mailPorts = append(b.mailPorts, p.Port)
			}
		}
		if b.does(b.refuses, RefuseProxy) {
			o.proxy = append([]proxy.Option{proxy.WithBlocked(b.blockedAtProxy)}, o.proxy...)
		}
		if b.does(b.refuses, RefuseEmail) {
			o.email = append([]email.Option{email.WithBlocked(b.blockedAtEmail)}, o.email...)
		}
		r.blocking = b
	}
	if c != nil || r.config.Ops != nil {
		o.proxy = append([]proxy.Option{proxy.WithObserver(r.proxyEvent)}, o.proxy...)
		o.radius = append([]radius.Option{radius.WithObserver(r.radiusEvent)}, o.radius...)
		o.ops = append([]opsapi.Option{opsapi.WithObserver(r.opsEvent)}, o.ops...)
	}
}

func (b *blocking) does(list []string, what string) bool {
	return len(list) == 0 || slices.Contains(list, what)
}

// blockedAtProxy is asked by the proxy. Clients of its ports for mail hear from
// the mail system that they are refused.
func (b *blocking) blockedAtProxy(client netip.Addr, port int) bool {
	if !b.set.Blocked(client) || slices.Contains(b.mailPorts, port) {
		return false
	}
	b.byProxy.Add(1)
	return true
}

func (b *blocking) blockedAtEmail(client netip.Addr) (until time.Time, blocked bool) {
	block, blocked := b.set.Find(client)
	if blocked {
		b.byEmail.Add(1)
	}
	return block.Until, blocked
}

func (b *blocking) stats() *BlockingStats {
	s := b.set.Stats()
	return &BlockingStats{Active: s.Active, Counted: s.Counted, Made: s.Made,
		Refused: map[string]uint64{RefuseProxy: b.byProxy.Load(), RefuseEmail: b.byEmail.Load()}}
}

// misdeed is a security event of a subsystem, as far as blocking goes.
type misdeed struct {
	by     string // one of BlockingConfig.Count
	addr   netip.Addr
	connID string
	reason string
	calm   bool // one a second counts
	enough bool // no others are needed
}

// punish counts a misdeed, and blocks its address if it was one too many.
func (r *Router) punish(m misdeed) {
	b := r.blocking
	if b == nil || !b.does(b.counts, m.by) {
		return
	}
	var block blocklist.Block
	var blocked bool
	if m.enough {
		block, blocked = b.set.Block(m.addr, m.by, m.reason)
	} else {
		block, blocked = b.set.Count(m.addr, m.by, m.reason, m.calm)
	}
	if !blocked {
		return
	}
	b.keeper.save(block)
	r.tellOfBlock(block, m.connID)
}

// tellOfBlock says that there is a new block. connID is the connection whose doing
// was the last straw, or "".
func (r *Router) tellOfBlock(b blocklist.Block, connID string) {
	until := "until it is lifted"
	if !b.Until.IsZero() {
		until = "until " + b.Until.UTC().Format(time.RFC3339)
	}
	r.log.Warn("an address is blocked", "component", "blocking", "address", b.Prefix.String(), "by", b.Source, "reason", b.Reason, "until", b.Until, "conn_id", connID)
	r.reportCalmly(opsapi.SecurityEvent{Time: b.Since, Kind: "blocked", Component: "blocking", Address: b.Prefix.Addr(), Subject: b.Prefix.String(),
		Message: until + ", by " + b.Source + ": " + b.Reason, Correlation: connID})
}
