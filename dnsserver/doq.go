package dnsserver

import (
	"context"
	"net"
)

type quicServer struct{ pc net.PacketConn }

func (r *run) bindQUIC(ctx context.Context) error { return nil }
func (q *quicServer) listen()                     {}
func (q *quicServer) drain()                      {}
func (q *quicServer) cut()                        {}
func (q *quicServer) close()                      {}
