// Package dnsserver is an authoritative DNS server: zones from files and from
// records, changed while they are served, over UDP, TCP, TLS, HTTPS and QUIC.
//
//	s, err := dnsserver.New(dnsserver.Config{
//		Zones:   []dnsserver.Zone{{Name: "example.com", File: "example.com.zone"}},
//		Records: []dnsserver.Record{{Name: "www.example.net", Type: "A", Value: "192.0.2.1"}},
//	}, dnsserver.WithStorage(store))
//	...
//	err = s.Start(ctx)
//	...
//	tx := new(dnsserver.Tx)
//	tx.Set(dnsserver.Record{Name: "www.example.net", Type: "A", Value: "192.0.2.2"})
//	err = s.Update(ctx, tx) // visible to the next query, and after a restart
//
// # Zones
//
// A zone begins with its file and the records of the configuration. What
// [Server.Update] changes is kept in the storage apart from both, so that they can
// be edited and reloaded ([Server.Reload]) while changes stay. Each version has
// its own serial number, and is served whole or not at all: who asks sees the
// one before a change or the one after it.
//
// # Answers
//
// Answers follow RFC 1034, RFC 1035, RFC 2181 and RFC 2308, with wildcards (RFC
// 4592), DNAME (RFC 6672), EDNS (RFC 6891), cookies (RFC 7873, RFC 9018), padding
// (RFC 7830) and short answers to ANY (RFC 8482). The server knows its own zones
// alone and refuses everything else; it asks nobody on behalf of clients.
//
// # Embedding
//
// [Server.ServeConn] and [Server.ServeHTTP] take connections and requests that a
// host or proxy has accepted, so that the server can do without ports of its own
// (Listen false). DNS over HTTPS on a port of its own (DoH) takes a seventh of the
// CPU time that it takes by way of net/http. The server prints nothing, and after Stop no goroutine of it is
// left.
package dnsserver
