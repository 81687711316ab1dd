package email

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/dmarcrpt"
	"github.com/dcrouter/dcrouter/email/internal/dnsc"
	"github.com/dcrouter/dcrouter/email/internal/history"
	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/publicip"
	"github.com/dcrouter/dcrouter/email/internal/quota"
	"github.com/dcrouter/dcrouter/email/internal/tlspolicy"
	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
	"github.com/dcrouter/dcrouter/email/internal/transport"
	"github.com/dcrouter/dcrouter/email/internal/warmup"
	"github.com/dcrouter/dcrouter/email/internal/webhook"
)

// outbound is what mail needs on its way out, as long as a run lasts.
type outbound struct {
	mx           *mx.Resolver
	policies     *tlspolicy.Policies
	transport    *transport.Client
	quota        *quota.Quota
	sources      *warmup.Pools
	returns      *returns
	history      *history.History
	pastMu       sync.Mutex // serialises changes of what is in history
	suppressions *SuppressionList
	webhooks     *webhook.Sender    // nil without
	tlsrpt       *tlsrpt.Reporter   // nil without
	dmarcrpt     *dmarcrpt.Reporter // nil without
}

// openOutbound makes it ready. What it has opened closeOutbound closes, also after
// an error.
func (r *run) openOutbound(ctx context.Context) error {
	s, o := r.s, &r.outbound
	cfg := &s.cfg.Outbound
	roots, err := caPool(cfg.CAPath)
	if err != nil {
		return fmt.Errorf("email: outbound.caPath: %w", err)
	}
	resolver, secure := s.outboundResolver()
	hosts := mx.Options{Names: []string{s.cfg.Hostname}, Own: s.isOwn, Keep: cfg.MXCacheTimeout, Now: s.now}
	if s.opts.dial == nil && !cfg.PrivateNetworks { // as strangersDialer
		hosts.Usable = publicip.Is
	}
	o.mx = mx.New(resolver, hosts)
	if o.returns, err = newReturns(ctx, s); err != nil {
		return err
	}
	if o.history, err = history.Open(ctx, history.Config{Store: s.opts.store, Log: s.log, Now: s.now}); err != nil {
		return fmt.Errorf("email: reading what became of messages: %w", err)
	}
	if o.suppressions, err = NewSuppressionList(ctx, WithStorage(s.opts.store), WithLogger(s.log), WithClock(s.now)); err != nil {
		return fmt.Errorf("email: reading the suppression list: %w", err)
	}
	if o.quota, err = quota.Open(ctx, quota.Config{Limits: s.outboundLimits(), Store: s.opts.store, Log: s.log, Now: s.now}); err != nil {
		return fmt.Errorf("email: reading what was sent lately: %w", err)
	}
	o.sources, err = warmup.Open(ctx, warmup.Config{Settings: cfg.WarmUp.settings(), Store: s.opts.store, Log: s.log, Now: s.now})
	if err != nil {
		return fmt.Errorf("email: reading what was sent from which address: %w", err)
	}
	if err := r.openReports(ctx, resolver); err != nil {
		return err
	}
	policies := tlspolicy.Config{
		Rules: cfg.rules(), Resolver: resolver, Roots: roots, Dialer: s.strangersDialer(), Store: s.opts.store, Log: s.log, Now: s.now,
	}
	if secure != nil {
		policies.DNS = secure
	}
	if o.tlsrpt != nil {
		policies.Report = o.tlsrpt.Add
	}
	if o.policies, err = tlspolicy.Open(ctx, policies); err != nil {
		return fmt.Errorf("email: reading policies about TLS: %w", err)
	}
	o.transport = transport.New(transport.Config{
		Hostname: s.cfg.Hostname, Dial: s.opts.dial, Timeouts: hopTimeouts(), Now: s.now,
	})
	return r.openWebhooks(ctx)
}

// Suppressions is the list of addresses that mail of ours is not sent to: what
// SendEmail is given, and users send. It is nil unless the Server runs.
func (s *Server) Suppressions() *SuppressionList {
	if r := s.current(); r != nil {
		return r.suppressions
	}
	return nil
}

func (r *run) openWebhooks(ctx context.Context) error {
	if len(r.s.cfg.Webhooks) == 0 {
		return nil
	}
	cfg := webhook.Config{Store: r.s.opts.store, Log: r.s.log, Now: r.s.now}
	for _, w := range r.s.cfg.Webhooks {
		cfg.Endpoints = append(cfg.Endpoints, webhook.Endpoint{URL: w.URL, Secret: w.Secret, PreviousSecret: w.PreviousSecret, Events: w.kinds()})
	}
	hooks, err := webhook.New(cfg)
	if err != nil {
		return fmt.Errorf("email: %w", err)
	}
	if err := hooks.Start(ctx); err != nil {
		return fmt.Errorf("email: reading what webhooks are still to be told: %w", err)
	}
	r.webhooks = hooks
	r.s.webhooks.Store(hooks)
	return nil
}

// toldRecipients bounds the recipients in what a webhook is told of at once.
const toldRecipients = 100

// tellWebhooks queues an event for those who want it. One about a great many
// recipients, or such as do not fit into one, becomes several.
func (s *Server) tellWebhooks(e *Event) {
	hooks := s.webhooks.Load()
	if hooks == nil {
		return
	}
	err := webhook.ErrTooLarge
	if len(e.Recipients) <= toldRecipients {
		var data []byte
		if data, err = json.Marshal(e); err == nil {
			err = hooks.Send(webhook.Event{Type: e.Kind, Time: e.Time, Data: data})
		}
	}
	switch n := len(e.Recipients); {
	case errors.Is(err, webhook.ErrTooLarge) && n > 1:
		for some := range slices.Chunk(e.Recipients, min(toldRecipients, (n+1)/2)) {
			part := *e
			part.Recipients = some
			s.tellWebhooks(&part)
		}
	case err != nil:
		s.log.Error("an event is lost to webhooks", "kind", e.Kind, "err", err)
	}
}

// openReports begins to collect what reports are made of.
func (r *run) openReports(ctx context.Context, resolver lookup.Resolver) (err error) {
	s, cfg := r.s, &r.s.cfg.Outbound
	contact := valueOr(cfg.Contact, "postmaster@"+s.postmasterDomain())
	organization := valueOr(cfg.Organization, s.cfg.Hostname)
	from := "postmaster@" + s.postmasterDomain()
	if cfg.TLSReports {
		r.tlsrpt, err = tlsrpt.Open(ctx, tlsrpt.Config{
			Organization: organization, Contact: contact, Submitter: s.postmasterDomain(), From: from, Resolver: resolver,
			Send: func(ctx context.Context, m tlsrpt.Message) error { return r.postReport(ctx, m.From, m.To, m.Data) },
			HTTP: &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
				Transport: &http.Transport{DialContext: s.strangersDialer().DialContext, DisableKeepAlives: true}},
			Store: s.opts.store, Log: s.log, Now: s.now,
		})
		if err != nil {
			return fmt.Errorf("email: reading what reports about TLS are made of: %w", err)
		}
	}
	if cfg.DMARCReports {
		r.dmarcrpt, err = dmarcrpt.Open(ctx, dmarcrpt.Config{
			Hostname: s.cfg.Hostname, Organization: organization, Email: from, Contact: contact, Resolver: resolver,
			Send:  func(ctx context.Context, m dmarcrpt.Report) error { return r.postReport(ctx, from, m.To, m.Message) },
			Store: s.opts.store, Log: s.log, Now: s.now,
		})
		if err != nil {
			return fmt.Errorf("email: reading what DMARC reports are made of: %w", err)
		}
	}
	return nil
}

// postReport sends a report. Nobody is told if it cannot be delivered.
func (r *run) postReport(ctx context.Context, from, to string, data []byte) error {
	select {
	case <-r.ready: // one may be due before the spool is read
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := r.post(ctx, &queued{
		From: from, Own: true, Bounces: bounceHere, Recipients: []recipient{{Address: to, Route: outgoing}}, OptionalTLS: true,
	}, data, 0)
	return err
}

// closeOutbound ends all of it. Nothing is on its way any more.
func (r *run) closeOutbound(ctx context.Context) error {
	o := &r.outbound
	var errs []error
	if o.transport != nil {
		o.transport.Close()
	}
	if o.policies != nil {
		o.policies.Close()
	}
	if o.tlsrpt != nil {
		errs = append(errs, o.tlsrpt.Close(ctx))
	}
	if o.dmarcrpt != nil {
		errs = append(errs, o.dmarcrpt.Close(ctx))
	}
	if o.webhooks != nil {
		r.s.webhooks.CompareAndSwap(o.webhooks, nil) // another run may have begun
		errs = append(errs, o.webhooks.Close(ctx))
	}
	if o.sources != nil {
		errs = append(errs, o.sources.Close(ctx))
	}
	if o.quota != nil {
		errs = append(errs, o.quota.Close(ctx))
	}
	if o.history != nil {
		errs = append(errs, o.history.Close(ctx))
	}
	if o.suppressions != nil {
		errs = append(errs, o.suppressions.Close(ctx))
	}
	return errors.Join(errs...)
}

// outboundResolver is who is asked about the servers of others. The second one is
// not nil if it can tell what DNSSEC has validated.
func (s *Server) outboundResolver() (lookup.Resolver, *dnsc.Resolver) {
	if d, ok := s.opts.resolver.(*dnsc.Resolver); ok {
		return d, d
	}
	if n, ok := s.opts.resolver.(*net.Resolver); ok && n.Dial == nil { // the system's servers, as far as they are asked
		if d, err := dnsc.New(dnsc.Config{TrustAD: s.cfg.TrustResolvers}); err == nil {
			return d, d
		}
	}
	return s.opts.resolver, nil
}

// outboundLimits are the limits of the server and of each domain that sends.
func (s *Server) outboundLimits() map[string]quota.Limits {
	limits := make(map[string]quota.Limits)
	add := func(name string, l OutboundLimits) {
		if l != (OutboundLimits{}) {
			limits[name] = quota.Limits{Hour: l.MessagesPerHour, Day: l.MessagesPerDay}
		}
	}
	add("", s.cfg.RateLimits.Outbound)
	for name, d := range s.domains {
		def := s.cfg.Defaults.RateLimits.Outbound
		add(name, OutboundLimits{
			MessagesPerHour: valueOr(d.RateLimits.Outbound.MessagesPerHour, def.MessagesPerHour),
			MessagesPerDay:  valueOr(d.RateLimits.Outbound.MessagesPerDay, def.MessagesPerDay),
		})
	}
	return limits
}

// rules are those about TLS.
func (o *Outbound) rules() []tlspolicy.Rule {
	var rules []tlspolicy.Rule
	for _, t := range o.TLS {
		rule := tlspolicy.Rule{Domain: t.Domain, Mode: tlspolicy.RuleOpportunistic}
		switch t.Mode {
		case StartTLS:
			rule.Mode = tlspolicy.RuleStartTLS
		case DANETLS:
			rule.Mode = tlspolicy.RuleDANE
		case NoTLS:
			rule.Mode = tlspolicy.RuleNone
		}
		rules = append(rules, rule)
	}
	return rules
}

func (w *WarmUp) settings() warmup.Settings {
	c := warmup.Settings{
		Schedule: w.Schedule,
		Hold:     warmup.Hold{Off: w.Hold.Off, Bounces: w.Hold.Bounces, Complaints: w.Hold.Complaints, Blocks: w.Hold.Blocks},
	}
	for _, p := range w.Pools {
		pool := warmup.Pool{Name: p.Name, Senders: p.Senders, Overflow: p.Overflow}
		for _, a := range p.Addresses {
			pool.Addresses = append(pool.Addresses, warmup.Address{Address: a.Address, HELO: a.HELO, Since: a.Since, Warm: a.Warm})
		}
		c.Pools = append(c.Pools, pool)
	}
	for _, p := range w.Providers {
		c.Providers = append(c.Providers, warmup.Provider{Name: p.Name, MX: p.MX, Share: p.Share})
	}
	return c
}

// kinds are the events that a webhook is told of.
func (w *Webhook) kinds() []string {
	if len(w.Events) > 0 {
		return w.Events
	}
	return []string{EventReceived, EventDelivered, EventDeferred, EventFailed, EventDelayed, EventBounced, EventComplained, EventDropped, EventQuarantined, EventExpired}
}

// isOwn reports whether mail sent to an address would come back to this server.
func (s *Server) isOwn(a netip.Addr) bool {
	if a = a.Unmap(); a.IsUnspecified() || a.IsLoopback() && !s.cfg.Outbound.PrivateNetworks {
		return true
	}
	return slices.Contains(s.publicAddrs(), a)
}

// dialer connects.
type dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// strangersDialer connects to hosts that strangers name, and finds them where all
// of DNS is looked up. They must not have us talk to what only this machine or its
// neighbours can reach.
func (s *Server) strangersDialer() dialer {
	if s.opts.dial != nil {
		return s.opts.dial.dialer()
	}
	d := &net.Dialer{Timeout: 20 * time.Second}
	if !s.cfg.Outbound.PrivateNetworks {
		d.Control = publicip.Control
	}
	if system, ok := s.opts.resolver.(*net.Resolver); ok {
		d.Resolver = system
		return d
	}
	return dialerFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialResolved(ctx, d, s.opts.resolver, network, address)
	})
}

// dialResolved connects to the first address of a host that answers.
func dialResolved(ctx context.Context, d *net.Dialer, resolver Resolver, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return d.DialContext(ctx, network, address)
	}
	addrs, err := resolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%q has no address", host)
	for _, a := range addrs {
		var conn net.Conn
		if conn, err = d.DialContext(ctx, network, net.JoinHostPort(a.String(), port)); err == nil || ctx.Err() != nil {
			return conn, err
		}
	}
	return nil, err
}

// dialer is the function as others want it; net.Dialer for nil.
func (d DialFunc) dialer() dialer {
	if d == nil {
		return &net.Dialer{}
	}
	return dialerFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		return d(ctx, netip.Addr{}, network, address)
	})
}

type dialerFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialerFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}
