package transport

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
)

// Client sends messages, and keeps connections between them. It may be used by
// several goroutines.
type Client struct {
	cfg    Config
	pool   pool
	ailing ailing
}

// New makes a Client. Close it.
func New(cfg Config) *Client {
	cfg = cfg.withDefaults()
	return &Client{cfg: cfg, pool: pool{idleTime: cfg.IdleTime, maxIdle: cfg.MaxIdle, idle: map[key][]*idle{}}}
}

// Close ends the connections that are kept. What is being sent goes on.
func (c *Client) Close() { c.pool.close() }

var (
	errNoAddress   = errors.New("no host has an address of the family that shall be connected from")
	errNoHost      = errors.New("there is no host to try")
	errConnectTime = errors.New("it took too long to find a host that answers")
	errSendTime    = errors.New("it took too long")
)

// Send brings a message to its destination, as far as it can be at the moment. It
// returns when each recipient's fate is known, or nobody is left to ask, or ctx
// ends.
func (c *Client) Send(ctx context.Context, r *Request) Result {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.SendTime, errSendTime)
	defer cancel()
	connecting, cancel := context.WithTimeoutCause(ctx, c.cfg.ConnectTime, errConnectTime)
	defer cancel()

	d := newDelivery(c, r)
	if r.Hop != nil {
		d.try(ctx, connecting, c.hop(r))
	} else {
		d.tryHosts(ctx, connecting)
	}
	return d.finish()
}

// target is one address of one host.
type target struct {
	key    key
	config smtpc.Config
	// host, policy and requirement are of a host of a destination.
	host        mx.Host
	policy      Policy
	requirement Requirement
}

func (c *Client) hop(r *Request) *target {
	t := &target{config: *r.Hop, host: mx.Host{Name: r.Hop.Address}}
	if r.HELO != "" {
		t.config.Hostname = r.HELO
	}
	if t.config.Dialer == nil {
		source := r.Source
		if !source.IsValid() {
			source = t.config.LocalAddr
		}
		t.config.Dialer, t.config.LocalAddr = dialer{c.cfg.Dial, source}, netip.Addr{}
	}
	t.key = key{hop: r.Hop, source: r.Source, helo: t.config.Hostname}
	return t
}

func (c *Client) target(r *Request, policy Policy, h mx.Host, req Requirement, addr netip.Addr) *target {
	t := &target{host: h, policy: policy, requirement: req}
	t.config = smtpc.Config{
		Address:    netip.AddrPortFrom(addr, c.cfg.Port).String(),
		Dialer:     dialer{c.cfg.Dial, r.Source},
		Hostname:   r.HELO,
		TLS:        req.Mode,
		TLSConfig:  req.Config,
		ServerName: req.ServerName,
		Timeouts:   c.cfg.Timeouts,
	}
	if t.config.Hostname == "" {
		t.config.Hostname = c.cfg.Hostname
	}
	if t.config.ServerName == "" {
		t.config.ServerName = h.Name
	}
	t.key = key{host: h.Name, addr: netip.AddrPortFrom(addr, c.cfg.Port), source: r.Source, helo: t.config.Hostname,
		mode: req.Mode, policy: strconv.Quote(req.Source) + req.Key, name: t.config.ServerName}
	return t
}

// tryHosts goes over the addresses of the destination's hosts.
func (d *delivery) tryHosts(ctx, connecting context.Context) {
	c, r := d.client, d.request
	policy := r.Policy
	if policy == nil {
		policy = opportunistic{r.Envelope.RequireTLS}
	}
	hosts := r.Destination.Hosts
	requirements := make([]*Requirement, len(hosts))
	tried := 0
	for _, a := range d.addresses() {
		if tried == c.cfg.MaxAddresses {
			return
		}
		h := hosts[a.host]
		req := requirements[a.host]
		if req == nil {
			begun := c.cfg.Now()
			got := policy.Host(connecting, h)
			req, requirements[a.host] = &got, &got
			if req.Refuse != nil {
				d.choosy = true
				policy.Result(Outcome{Host: h, Requirement: *req, Err: req.Refuse})
				d.failed(Attempt{Time: begun, Host: h.Name, Recipients: len(d.open)}, asError(smtpc.PhaseTLS, req.Refuse))
			}
		}
		if req.Refuse != nil {
			continue
		}
		tried++
		if !d.try(ctx, connecting, c.target(r, policy, h, *req, a.addr)) {
			return
		}
		if connecting.Err() != nil {
			return
		}
	}
}

// hostAddr is an address of the host with that index.
type hostAddr struct {
	host int
	addr netip.Addr
}

// addresses lists what to try: in the order of the hosts, but what has just failed
// last, so that not every message waits for it.
func (d *delivery) addresses() []hostAddr {
	var well, ill []hostAddr
	source := d.request.Source.Unmap()
	now := time.Now()
	for i, h := range d.request.Destination.Hosts {
		for _, addr := range h.Addrs {
			switch {
			case source.IsValid() && addr.Unmap().Is4() != source.Is4():
			case d.client.ailing.has(addr, d.request.Source, now):
				ill = append(ill, hostAddr{i, addr})
			default:
				well = append(well, hostAddr{i, addr})
			}
		}
	}
	list := append(well, ill...)
	if len(list) == 0 {
		err := errNoHost
		if len(d.request.Destination.Hosts) > 0 {
			err = errNoAddress
		}
		d.failure = asError(smtpc.PhaseConnect, err)
	}
	return list
}

// asError makes an *smtpc.Error of any error.
func asError(phase smtpc.Phase, err error) *smtpc.Error {
	var e *smtpc.Error
	if errors.As(err, &e) {
		return e
	}
	return &smtpc.Error{Phase: phase, Status: smtpc.Temporary, Err: err}
}
