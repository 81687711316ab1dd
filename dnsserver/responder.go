package dnsserver

import (
	"context"
	"net/netip"
)

// transport is how a query came.
type transport uint8

const (
	overUDP transport = iota
	overTCP
	overTLS
	overHTTPS
	overQUIC
)

// asker is who asks.
type asker struct {
	addr      netip.AddrPort // not valid where nobody knows
	transport transport
	// verified says that the query proves its address, as by a cookie. The
	// responder sets it, at every query over UDP.
	verified bool
}

// scratch is what one goroutine needs to make answers without allocating; not
// for concurrent use.
type scratch struct{}

func (s *Server) newScratch() *scratch { return &scratch{} }

// respond appends the response to query to dst; if it appends nothing the
// query is met with silence. Responses keep to what the transport and EDNS
// allow. dst may hold other messages, which stay as they are.
func (s *Server) respond(_ *scratch, dst, query []byte, _ *asker) []byte {
	const refused = 5
	at := len(dst)
	if len(query) < headerSize || query[2]&0x80 != 0 {
		return dst
	}
	dst = append(dst, query...)
	dst[at+2] = query[2]&0x79 | 0x80
	dst[at+3] = refused
	return dst
}

// exchange answers a query of a stream (TCP, TLS, QUIC), with as many messages
// as it takes (zone transfers): send is called with each message, in order.
func (s *Server) exchange(_ context.Context, sc *scratch, query []byte, from *asker, send func(msg []byte) error) error {
	if msg := s.respond(sc, nil, query, from); len(msg) > 0 {
		return send(msg)
	}
	return nil
}
