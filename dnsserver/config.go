package dnsserver

import (
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// FieldError is a mistake in a configuration: the path of the field, such as
// "records[3].value", and what is wrong with it.
//
// Its fields are Path string, Msg string and Err error, the cause where there is
// one beyond the configuration itself, which Unwrap returns.
type FieldError = conf.FieldError

// DefaultPort is that of RFC 1035 section 4.2.
const DefaultPort = 53

// DefaultMaxUDPSize is the default of [Config.MaxUDPSize], in octets.
const DefaultMaxUDPSize = 1232

// Config is everything about the DNS server that can be written as JSON.
type Config struct {
	// ListenHost is the address that Port binds on, by UDP and TCP. The
	// default "" means all interfaces, IPv4 and IPv6.
	ListenHost string `json:"listenHost"`
	// Port is the port to listen on. The default nil means 53; 0 binds any
	// free port, the same for UDP and TCP.
	Port *int `json:"port"`
	// Listen false keeps the server from listening on Port, for one that gets
	// its queries from a proxy, by [Server.ServeConn] and [Server.ServeHTTP], or
	// over TLS, HTTPS and QUIC only. The default nil means true.
	Listen *bool `json:"listen"`
	// DoT is DNS over TLS (RFC 7858) on a port of its own. Nil means none.
	DoT *EncryptedPort `json:"dot"`
	// DoQ is DNS over QUIC (RFC 9250) on a port of its own. Nil means none.
	DoQ *EncryptedPort `json:"doq"`
	// DoH is DNS over HTTPS (RFC 8484) on a port of its own, in HTTP/2 and
	// HTTP/1.1. What is answered is what [Server.ServeHTTP] says. Nil means none.
	DoH *EncryptedPort `json:"doh"`
	// IdleTimeout is how long a connection may stand without a query, over TCP,
	// TLS, HTTPS and QUIC. When most of MaxConnections are taken it shrinks to a
	// twentieth. The default 0 means 10 s.
	IdleTimeout time.Duration `json:"idleTimeout"`
	// MaxConnections is how many connections may be open over TCP, TLS, HTTPS and
	// QUIC together. When they are, one over TCP, TLS or HTTPS that waits for its
	// client makes room for a new one. The default 0 means 4096.
	MaxConnections int `json:"maxConnections"`
	// MaxConnectionsPerClient is how many of them one client may have, that is
	// an address of IPv4 or a /56 of IPv6. The default 0 means 256.
	MaxConnectionsPerClient int `json:"maxConnectionsPerClient"`
	// ResponseRateLimit bounds the responses over UDP to each client network.
	// Nil means no limit.
	ResponseRateLimit *ResponseRateLimit `json:"responseRateLimit"`
	// Authoritative marks answers as coming from the source (the AA bit, RFC
	// 1035 section 4.1.1). The default nil means true.
	Authoritative *bool `json:"authoritative"`
	// MaxUDPSize is the length of the longest response over UDP, in octets, 512
	// to 4096; longer ones are truncated, upon which clients ask over TCP. The
	// default 0 means 1232, which fits into one packet everywhere.
	MaxUDPSize int `json:"maxUdpSize"`
	// Cookies lets clients prove that they do not forge their address (RFC 7873).
	// The default nil means true.
	Cookies *bool `json:"cookies"`
	// NSID is what the server is called where a client wants to know which of
	// several answers (RFC 5001), also by the name id.server of class CHAOS. The
	// default "" means not to tell.
	NSID string `json:"nsid"`
	// Version is what the server says for the name version.server, or
	// version.bind, of class CHAOS (RFC 4892). The default "" means not to tell.
	Version string `json:"version"`
	// NameServers are the names under which this server and others that serve
	// the same zones are known. They are the NS records of zones that have none.
	NameServers []string `json:"nameServers"`
	// Records are served beside those of Zones.
	Records []Record `json:"records"`
	// DefaultRecords are served where neither Records nor a zone file say
	// anything about their name and type, nor that the name is an alias.
	DefaultRecords []Record `json:"defaultRecords"`
	// Zones are the zones that the server is the source of. One that holds
	// nothing but Records need not be named here.
	Zones []Zone `json:"zones"`
	// TSIGKeys are the keys that zones name (RFC 8945).
	TSIGKeys []TSIGKey `json:"tsigKeys"`
	// Resolvers are asked for the addresses that ALIAS records stand for: IP
	// addresses, with a port if that is not 53. Empty means those of
	// /etc/resolv.conf.
	Resolvers []string `json:"resolvers"`
}

// Record is a resource record (RFC 1035 section 3.2).
type Record struct {
	// Name is the fully qualified owner name, with or without final dot. Its
	// first label may be * (RFC 4592). Required.
	Name string `json:"name"`
	// Type is the mnemonic of the record type, as "A" or "MX". "ALIAS" stands
	// for the addresses of another name, and may be at the top of a zone.
	// Required.
	Type string `json:"type"`
	// Value is the data, as in a zone file: "10 mail.example.com" for MX. Names
	// are fully qualified, with or without final dot. The text of a TXT record
	// needs no quotes; quoted, it is a list of strings. Required.
	Value string `json:"value"`
	// TTL is how long others may remember the record, in seconds. The default
	// 0 means 3600.
	TTL int `json:"ttl"`
}

// Zone is a zone that the server is the source of.
type Zone struct {
	// Name is the domain at the top. Required.
	Name string `json:"name"`
	// File is a zone file (RFC 1035 section 5). Empty means that the zone
	// consists of [Config.Records] and what is added while the server runs.
	File string `json:"file"`
	// DNSSEC signs the zone (RFC 4033). Nil means not to.
	DNSSEC *DNSSEC `json:"dnssec"`
	// Primaries make the zone a copy of theirs, which is kept up to date by
	// zone transfers (RFC 5936, RFC 1995). They are tried in this order. A
	// copy may take 512 MiB of memory, which is about 800,000 records of
	// addresses. Empty means that this server is the source of the zone.
	Primaries []Peer `json:"primaries"`
	// AllowTransfer is who may have the whole zone by a transfer: addresses,
	// CIDR blocks, and "key:" with the name of a TSIG key. Empty means nobody.
	AllowTransfer []string `json:"allowTransfer"`
	// Notify are the servers that are told when the zone changes (RFC 1996).
	Notify []Peer `json:"notify"`
	// AllowUpdate is who may change the zone by dynamic updates (RFC 2136).
	// Empty means nobody.
	AllowUpdate []UpdateRule `json:"allowUpdate"`
	// Catalog makes the zone a list of zones. Nil means that it is an ordinary
	// one.
	Catalog *Catalog `json:"catalog"`
	// CatalogZone is the name of a zone of this server, with Catalog and without
	// Primaries, that lists this zone. Empty means none.
	CatalogZone string `json:"catalogZone"`
	// Group is the group property of the zone in CatalogZone (RFC 9432 section
	// 4.4.2).
	Group string `json:"group"`
}
