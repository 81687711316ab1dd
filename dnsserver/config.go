package dnsserver

import "github.com/dcrouter/dcrouter/internal/conf"

// FieldError is a mistake in a configuration, with the path of its field.
type FieldError = conf.FieldError

// DefaultPort is that of RFC 1035 section 4.2.
const DefaultPort = 53

// Config is everything about the DNS server that can be written as JSON.
type Config struct {
	// ListenHost is the address that Port binds on, by UDP and TCP. The
	// default "" means all interfaces, IPv4 and IPv6.
	ListenHost string `json:"listenHost"`
	// Port is the port to listen on. The default nil means 53; 0 binds any
	// free port, the same for UDP and TCP.
	Port *int `json:"port"`
	// Authoritative marks answers as coming from the source (the AA bit, RFC
	// 1035 section 4.1.1). The default nil means true.
	Authoritative *bool `json:"authoritative"`
	// NameServers are the names under which this server and others that serve
	// the same zones are known. They are the NS records of zones that have none.
	NameServers []string `json:"nameServers"`
	// Records are served beside those of Zones.
	Records []Record `json:"records"`
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
	// zone transfers (RFC 5936, RFC 1995). They are tried in this order. Empty
	// means that this server is the source of the zone.
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

// DNSSEC is about signing a zone.
type DNSSEC struct {
	// Enabled turns signing on. The default nil means true where the section
	// is present.
	Enabled *bool `json:"enabled"`
}
