package opsapi

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/internal/blocklist"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// Block is an address or network that is refused.
type Block struct {
	Address string    `json:"address" doc:"an IP address or CIDR block"`
	Source  string    `json:"source" doc:"configuration, operator, or the component whose events led to it"`
	Reason  string    `json:"reason"`
	Since   time.Time `json:"since,omitzero"`
	Until   time.Time `json:"until,omitzero" doc:"when it ends; absent if it does not"`
	Times   int       `json:"times,omitempty" doc:"how often in a row, each time for longer"`
}

// Blocks are the addresses that are refused.
type Blocks interface {
	Blocks(ctx context.Context, p Page) (list []Block, next string, err error)
	// AddBlock refuses an address, of IPv6 the /64 around it, or a network. It
	// returns when that is kept for a restart, as RemoveBlock does.
	AddBlock(ctx context.Context, b Block) error
	// RemoveBlock ends the block of what Blocks has as Address, or of the address
	// that it is for.
	RemoveBlock(ctx context.Context, address string) error
}

// WithBlocks sets the addresses that are refused.
func WithBlocks(b Blocks) Option { return func(o *options) { o.blocks = b } }

type (
	blocksResponse struct {
		Blocks []Block `json:"blocks"`
		Next   string  `json:"next,omitempty"`
	}
	blockRequest struct {
		Address string `json:"address" doc:"an IP address, of IPv6 for the /64 around it, or a CIDR block"`
		Reason  string `json:"reason,omitempty"`
		Seconds int    `json:"seconds,omitempty" doc:"for how long; 0 is until it is removed"`
	}
	unblockRequest struct {
		Address string `json:"address" doc:"as getBlocks has it, or an address that is blocked"`
	}
)

// Validate wants an address.
func (r *unblockRequest) Validate() error {
	check := conf.NewChecker()
	check.Field("address").CIDR(r.Address)
	return check.Err()
}

// maxBlockSeconds is ten years: it keeps times in what all programs can read.
const maxBlockSeconds = 10 * 365 * 24 * 3600

// Validate wants an address and a time that there can be.
func (r *blockRequest) Validate() error {
	check := conf.NewChecker()
	check.Field("address").CIDR(r.Address)
	check.Field("seconds").Range(r.Seconds, 0, maxBlockSeconds)
	return check.Err()
}

func (s *Server) registerBlocks() {
	m := &s.methods
	Handle(m, "getBlocks", RoleViewer, s.getBlocks, Doc("Lists the addresses that are refused."))
	Handle(m, "addBlock", RoleOperator, s.addBlock, Doc("Has an address or network refused, but not the caller's own."))
	Handle(m, "removeBlock", RoleOperator, s.removeBlock, Doc("Has an address or network refused no longer, and forgets what it has done."))
}

func (s *Server) getBlocks(ctx context.Context, req pageRequest) (blocksResponse, error) {
	if s.opts.blocks == nil {
		return blocksResponse{}, notConfigured("blocking is")
	}
	p, err := req.page()
	if err != nil {
		return blocksResponse{}, err
	}
	list, next, err := s.opts.blocks.Blocks(ctx, p)
	return blocksResponse{orEmpty(list), next}, err
}

func (s *Server) addBlock(ctx context.Context, req blockRequest) (nothing, error) {
	if s.opts.blocks == nil {
		return nothing{}, notConfigured("blocking is")
	}
	c := callerFrom(ctx)
	c.note("%q for %d s", req.Address, req.Seconds)
	if isAround(req.Address, c.address) {
		return nothing{}, &FieldError{Path: "address", Msg: fmt.Sprintf("%s is your own address: you would lock yourself out", c.address)}
	}
	b := Block{Address: req.Address, Source: "operator", Reason: bounded(req.Reason), Since: s.now().UTC()}
	if b.Reason == "" {
		b.Reason = "by " + c.name()
	}
	if req.Seconds > 0 {
		b.Until = b.Since.Add(time.Duration(req.Seconds) * time.Second)
	}
	return nothing{}, s.opts.blocks.AddBlock(ctx, b)
}

// isAround reports whether to block text would block addr.
func isAround(text string, addr netip.Addr) bool {
	p, err := blocklist.Parse(text)
	return err == nil && p.Contains(addr)
}

func (s *Server) removeBlock(ctx context.Context, req unblockRequest) (nothing, error) {
	if s.opts.blocks == nil {
		return nothing{}, notConfigured("blocking is")
	}
	callerFrom(ctx).note("%q", req.Address)
	return nothing{}, s.opts.blocks.RemoveBlock(ctx, req.Address)
}
