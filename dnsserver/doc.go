// Package dnsserver will be an authoritative DNS server: zones from files and
// records from configuration, changed while it runs, signed, and served over
// UDP, TCP, TLS, HTTPS and QUIC.
//
// This version holds its configuration only: the types, their JSON form and
// their validation. The server arrives later.
package dnsserver
