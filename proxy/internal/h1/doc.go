// Package h1 reads HTTP/1.1 messages (RFC 9112) strictly: what two servers might
// take for two different things is an error here. It knows no connections'
// fate, no routes and no net/http; heads are strings, bodies are readers.
package h1
