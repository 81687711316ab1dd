package proxy

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// forwardedHeaders tells the target about the client (RFC 7239 and the headers
// that came before it). What the client says of itself is believed only if it
// is a trusted proxy; httputil has removed it from out already.
func forwardedHeaders(in, out *http.Request, x *exchange) {
	client := x.conn.client.Addr().String()
	h := out.Header
	trusted := x.run.p.trusted.contains(x.conn.client.Addr())
	for name := range h {
		// Some servers take "_" for "-": X_Forwarded_For would pass for the
		// real one.
		alias := strings.ContainsAny(name, "_.")
		if (alias || !trusted) && isForwardedHeader(strings.NewReplacer("_", "-", ".", "-").Replace(name)) {
			delete(h, name)
		}
	}

	_, port := hostPort(x.conn, in.Host)
	set := map[string]string{
		"X-Forwarded-For":   client,
		"X-Forwarded-Proto": x.scheme(),
		"X-Forwarded-Host":  in.Host,
		"X-Forwarded-Port":  port,
		"X-Real-Ip":         client,
	}
	if trusted {
		for name := range set {
			if v := in.Header[name]; len(v) > 0 {
				set[name] = strings.Join(v, ", ")
			}
		}
		if prior := in.Header["X-Forwarded-For"]; len(prior) > 0 {
			set["X-Forwarded-For"] = strings.Join(prior, ", ") + ", " + client
		}
		if v, ok := in.Header["Forwarded"]; ok {
			h["Forwarded"] = v
		}
	}
	for name, value := range set {
		h[name] = []string{value}
	}
}

// isForwardedHeader knows the headers that tell about clients.
func isForwardedHeader(name string) bool {
	name = textproto.CanonicalMIMEHeaderKey(name)
	return strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" || name == "Forwarded"
}

// hostPort returns the host without port that the client asked for, and the
// port: the one it named, or the one it reached us on.
func hostPort(c *conn, host string) (name, port string) {
	name = host
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port = host[:i], host[i+1:]
	}
	if port == "" {
		port = strconv.Itoa(int(c.local.Port()))
	}
	return name, port
}

// editHeaders applies the route's edits.
func (x *exchange) editHeaders(h http.Header, edit *HeaderEdit) {
	for _, name := range edit.Remove {
		h.Del(name)
	}
	for name, value := range sorted(edit.Set) {
		h.Set(name, x.expand(value))
	}
	for name, value := range sorted(edit.Add) {
		h.Add(name, x.expand(value))
	}
}

// beforeResponse is called when the head of a response is about to be sent.
func (x *exchange) beforeResponse(h http.Header) {
	x.editResponse(h)
	if x.duplex && !x.body.ended.Load() {
		// Nobody knows what of the body will have been read when the next
		// request should begin.
		h.Set("Connection", "close")
	}
}

func (x *exchange) editResponse(h http.Header) {
	if x.id != "" {
		h[x.run.p.requestIDHeader] = []string{x.id}
	}
	x.editHeaders(h, &x.route.Action.Headers.Response)
}

// host returns the Host to send to targets, if it is to be changed.
func (e *HeaderEdit) host() string {
	for name, value := range e.Set {
		if strings.EqualFold(name, "Host") {
			return value
		}
	}
	return ""
}

// expand fills in a header's template. What comes from the client has passed
// canonicalHost, so it can hold no line break.
func (x *exchange) expand(template string) string {
	return expand(template, func(name string) string {
		switch name {
		case "client_ip":
			return x.conn.client.Addr().String()
		case "host":
			return x.canonical
		case "scheme":
			return x.scheme()
		case "port":
			_, port := hostPort(x.conn, x.host)
			return port
		default:
			return x.route.Name
		}
	})
}

// isHopByHop knows the headers that belong to one connection, RFC 9110
// section 7.6.1.
func isHopByHop(name string) bool {
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}
