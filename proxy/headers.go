package proxy

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// outgoing appends to out the header of the request to the target: that of the
// client without what belongs to its connection, with what we tell about the
// client, and with the route's edits, in order. It is the same for all lanes.
func (x *exchange) outgoing(in, out h1.Fields) h1.Fields {
	trusted := x.run.p.trusted.contains(x.conn.client.Addr())
	connection := in.Join("Connection")
	id := x.run.p.requestIDHeader // which is ours already, whatever Connection says
	trailers := false
	for _, f := range in {
		if f.Name == "Te" {
			trailers = trailers || h1.HasToken(f.Value, "trailers")
		}
		if hopByHop(f.Name) || connection != "" && f.Name != id && h1.HasToken(connection, f.Name) || !passesOn(f.Name, trusted) {
			continue
		}
		out = append(out, f)
	}
	if trailers {
		out = out.Add("Te", "trailers")
	}
	out = x.addForwarded(in, out, trusted)
	out = x.route.requestEdits.applyTo(out, x)
	out.Sort()
	return out
}

// outgoingTrailer returns the trailer of the request to the target, whose values
// are known at the end of the body. What the client has not announced does not
// pass, nor what would not pass in the header: some servers do not tell the two
// apart.
func (x *exchange) outgoingTrailer(in *http.Request) http.Header {
	if len(in.Trailer) == 0 {
		return nil
	}
	trusted := x.run.p.trusted.contains(x.conn.client.Addr())
	connection := strings.Join(in.Header["Connection"], ", ")
	out := make(http.Header)
	for name := range in.Trailer {
		if isTrailer(name) && !h1.HasToken(connection, name) && passesOn(name, trusted) &&
			!x.run.p.isRequestIDHeader(name) && !x.route.requestEdits.replaces(name) {
			out[name] = nil
		}
	}
	return out
}

// passesOn reports whether what a client says of itself in this header is
// passed on: what tells about clients (RFC 7239 and the headers before it) is
// written anew, and believed only of trusted proxies where nothing is. Some
// servers take "_" for "-", so X_Forwarded_For would pass for the real one.
func passesOn(name string, trusted bool) bool {
	if strings.IndexByte(name, '_') >= 0 || strings.IndexByte(name, '.') >= 0 {
		return !isForwardedHeader(strings.NewReplacer("_", "-", ".", "-").Replace(name))
	}
	switch name {
	case "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip":
		return false
	}
	return trusted || !isForwardedHeader(name)
}

// addForwarded tells the target about the client.
func (x *exchange) addForwarded(in, out h1.Fields, trusted bool) h1.Fields {
	client := x.conn.clientName()
	_, port := hostPort(x.conn, x.host)
	say := func(name, value string) {
		if trusted {
			if prior := in.Join(name); prior != "" || in.Has(name) {
				if value = prior; name == "X-Forwarded-For" {
					value += ", " + client
				}
			}
		}
		out = out.Add(name, value)
	}
	say("X-Forwarded-For", client)
	say("X-Forwarded-Host", x.host)
	say("X-Forwarded-Port", port)
	say("X-Forwarded-Proto", x.scheme())
	say("X-Real-Ip", client)
	return out
}

// incoming appends to out the header of the target's response as far as it is
// for the client.
func incoming(in, out h1.Fields) h1.Fields {
	connection := in.Join("Connection")
	for _, f := range in {
		if hopByHop(f.Name) || connection != "" && h1.HasToken(connection, f.Name) {
			continue
		}
		out = append(out, f)
	}
	return out
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

// edits are a compiled HeaderEdit.
type edits struct {
	remove   []string
	set, add h1.Fields // values are templates
}

func compileEdits(e *HeaderEdit) edits {
	var c edits
	for _, name := range e.Remove {
		c.remove = append(c.remove, http.CanonicalHeaderKey(name))
	}
	for name, value := range sorted(e.Set) {
		c.set = c.set.Add(http.CanonicalHeaderKey(name), value)
	}
	for name, value := range sorted(e.Add) {
		c.add = c.add.Add(http.CanonicalHeaderKey(name), value)
	}
	return c
}

// replaces reports whether nothing is left of a field as it was.
func (e *edits) replaces(name string) bool {
	return slices.Contains(e.remove, name) || e.set.Has(name)
}

// applyTo edits the fields of a message. The host is no field there.
func (e *edits) applyTo(f h1.Fields, x *exchange) h1.Fields {
	for _, name := range e.remove {
		f = f.Del(name)
	}
	for i := range e.set {
		if e.set[i].Name != "Host" {
			f = f.Set(e.set[i].Name, x.expand(e.set[i].Value))
		}
	}
	for i := range e.add {
		if e.add[i].Name != "Host" {
			f = f.Add(e.add[i].Name, x.expand(e.add[i].Value))
		}
	}
	return f
}

// apply edits a header that net/http has.
func (e *edits) apply(h http.Header, x *exchange) {
	for _, name := range e.remove {
		h.Del(name)
	}
	for i := range e.set {
		h.Set(e.set[i].Name, x.expand(e.set[i].Value))
	}
	for i := range e.add {
		h.Add(e.add[i].Name, x.expand(e.add[i].Value))
	}
}

// outgoingHost is the host to send to the target.
func (x *exchange) outgoingHost() string {
	if host := x.route.requestEdits.set.Get("Host"); host != "" {
		return x.expand(host)
	}
	return x.host
}

// beforeResponse is called when the head of a response is about to be sent.
func (x *exchange) beforeResponse(h http.Header) {
	x.editResponse(h)
	if x.closable && x.writer.status != http.StatusSwitchingProtocols && !x.run.keep(x.conn) {
		h.Set("Connection", "close") // which in HTTP/2 becomes GOAWAY
	}
	if x.writer.mayLeaveBody() {
		h.Set("Connection", "close")
	}
}

func (x *exchange) editResponse(h http.Header) {
	if x.id != "" {
		h[x.run.p.requestIDHeader] = []string{x.id}
	}
	if x.conn.altSvc != "" {
		h.Set("Alt-Svc", x.conn.altSvc) // the target's was about the target
	}
	x.route.responseEdits.apply(h, x)
}

// expand fills in a header's template. What comes from the client has passed
// canonicalHost, so it can hold no line break.
func (x *exchange) expand(template string) string {
	return expand(template, func(name string) string {
		switch name {
		case "client_ip":
			return x.conn.clientName()
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
func isHopByHop(name string) bool { return hopByHop(textproto.CanonicalMIMEHeaderKey(name)) }

func hopByHop(canonical string) bool {
	switch canonical {
	case "Connection", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}
