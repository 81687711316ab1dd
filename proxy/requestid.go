package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// maxRequestID bounds an id that comes from a trusted proxy.
const maxRequestID = 128

// newRequestIDHeader returns the name of the header for request ids in
// canonical form, "" if there are none.
func newRequestIDHeader(cfg *RequestID) string {
	if cfg == nil {
		return ""
	}
	return http.CanonicalHeaderKey(defaultTo(cfg.Header, "X-Request-Id"))
}

// requestID returns the id of a request that came with incoming, which is kept
// if it is from a trusted proxy and fit to be written anywhere.
func requestID(incoming string, trusted bool) string {
	if trusted && isRequestID(incoming) {
		return incoming
	}
	// As long as a trace id (W3C Trace Context), and written like one.
	var id [16]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// isRequestID wants visible ASCII characters, and none that has a meaning in
// logs, headers or shells.
func isRequestID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-_.:/+=@~", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// identify returns the id for a request, "" if there are none.
func (r *run) identify(c *conn, header fieldValues) string {
	name, incoming := r.p.requestIDHeader, ""
	if name == "" {
		return ""
	}
	if values := header.Values(name); len(values) == 1 {
		incoming = values[0]
	}
	return requestID(incoming, r.p.trusted.contains(c.client.Addr()))
}

// setRequestID gives a request its id on the way to a target or handler.
func (p *Proxy) setRequestID(h http.Header, id string) {
	for name := range h {
		if p.isRequestIDHeader(name) {
			delete(h, name)
		}
	}
	h[p.requestIDHeader] = []string{id}
}

// addRequestID does the same for fields.
func (p *Proxy) addRequestID(f h1.Fields, id string) h1.Fields {
	f = slices.DeleteFunc(f, func(line h1.Field) bool { return p.isRequestIDHeader(line.Name) })
	return f.Add(p.requestIDHeader, id)
}

// isRequestIDHeader knows the header also by its aliases: some servers take "_"
// for "-" and would find the client's id instead.
func (p *Proxy) isRequestIDHeader(name string) bool {
	if len(name) != len(p.requestIDHeader) {
		return false
	}
	plain := func(c byte) byte {
		switch {
		case c == '_', c == '.':
			return '-'
		case 'A' <= c && c <= 'Z':
			return c + 'a' - 'A'
		}
		return c
	}
	for i := range len(name) {
		if plain(name[i]) != plain(p.requestIDHeader[i]) {
			return false
		}
	}
	return true
}

func (r *RequestID) validate(check *conf.Checker) {
	switch name := r.Header; {
	case name == "":
	case !httpguts.ValidHeaderFieldName(name):
		check.Field("header").Errorf("%q is not a header name", name)
	case isHopByHop(name) || isForwardedHeader(name) || strings.EqualFold(name, "Host") || strings.EqualFold(name, "Content-Length"):
		check.Field("header").Errorf("%q has a meaning already", name)
	}
}
