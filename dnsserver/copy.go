package dnsserver

import "context"

type zoneCopy struct{}

func newZoneCopy(*servedZone, []*peer) *zoneCopy { return nil }
func (c *zoneCopy) isPrimary(*asker) bool        { return false }
func (c *zoneCopy) hurry()                       {}
func (t *transfers) follow(ctx context.Context, z *servedZone) {}
func (zs *zones) openCopy(ctx context.Context, cfg *Zone) (*servedZone, error) { return nil, nil }
