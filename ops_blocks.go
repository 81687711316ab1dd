package dcrouter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/dcrouter/dcrouter/internal/blocklist"
	"github.com/dcrouter/dcrouter/opsapi"
)

// opsBlocks are the blocked addresses for the operations API.
type opsBlocks struct{ router *Router }

// shownPrefix is a prefix as people write it.
func shownPrefix(p netip.Prefix) string {
	if p.IsSingleIP() && p.Addr().Is4() {
		return p.Addr().String()
	}
	return p.String()
}

func (o opsBlocks) Blocks(_ context.Context, p opsapi.Page) ([]opsapi.Block, string, error) {
	found := page[opsapi.Block]{p: p}
	for _, b := range o.router.blocking.set.All() {
		one := opsapi.Block{Address: shownPrefix(b.Prefix), Source: b.Source, Reason: b.Reason, Since: b.Since, Until: b.Until, Times: b.Times}
		found.add(one.Address, one, one.Address, one.Source, one.Reason)
	}
	list, next := found.result()
	return list, next, nil
}

func (o opsBlocks) AddBlock(ctx context.Context, b opsapi.Block) error {
	p, err := blocklist.Parse(b.Address)
	if err != nil {
		return &FieldError{Path: "address", Msg: err.Error()}
	}
	block := blocklist.Block{Prefix: p, Source: b.Source, Reason: b.Reason, Since: b.Since, Until: b.Until}
	if err := o.router.blocking.set.Put(block); err != nil {
		return &FieldError{Path: "address", Msg: fmt.Sprintf("%s cannot be blocked: %v", b.Address, err)}
	}
	o.router.blocking.keeper.save(block)
	o.router.tellOfBlock(block, "")
	if err := o.router.blocking.keeper.writeNow(ctx, p); err != nil {
		return fmt.Errorf("%s is blocked, but a restart may forget it, since that could not be written; it is tried again: %w", b.Address, err)
	}
	return nil
}

func (o opsBlocks) RemoveBlock(ctx context.Context, address string) error {
	set := o.router.blocking.set
	p, err := blocklist.Parse(address)
	if err != nil {
		return &FieldError{Path: "address", Msg: err.Error()}
	}
	err = set.Lift(p)
	switch {
	case err == nil:
		o.router.blocking.keeper.remove(p)
		o.router.log.Info("a block is lifted", "component", "blocking", "address", p.String())
		if err := o.router.blocking.keeper.writeNow(ctx, p); err != nil {
			return fmt.Errorf("%s is not blocked any more, but may be after a restart, since that could not be written; it is tried again: %w", address, err)
		}
		return nil
	case errors.Is(err, blocklist.ErrConfigured):
		return &FieldError{Path: "address", Msg: address + " is on blocking.blockList of the configuration: change that"}
	}
	if around, ok := set.Find(p.Addr()); ok {
		return &FieldError{Path: "address", Msg: fmt.Sprintf("%s is blocked with %s (%s): lift that", address, shownPrefix(around.Prefix), around.Source)}
	}
	return fmt.Errorf("%s: %w: %w", address, err, opsapi.ErrNotFound)
}
