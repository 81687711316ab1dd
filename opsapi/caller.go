package opsapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Identity is somebody who has signed in.
type Identity struct {
	UserID string `json:"userId"`
	Name   string `json:"name"`
	Role   Role   `json:"role"`
	// JWT is the token, unless it is in a cookie.
	JWT string `json:"jwt,omitempty"`
	// ExpiresAt is when the token ends, in ms since 1970.
	ExpiresAt int64 `json:"expiresAt"`
}

// caller is who asks for a method, and what is to know about the request.
type caller struct {
	identity   *Identity // nil: nobody
	session    *session
	byCookie   bool
	address    netip.Addr
	ifMatch    string      // of the header
	response   http.Header // for a cookie
	local      bool        // the cookie goes over a connection without TLS
	failedAuth bool        // there was a token, and it is void
	detail     string      // for the audit log
}

type callerKey struct{}

func callerFrom(ctx context.Context) *caller {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c
	}
	return &caller{}
}

// IdentityFrom returns who has called a method, without the token.
func IdentityFrom(ctx context.Context) (Identity, bool) {
	c := callerFrom(ctx)
	if c.identity == nil {
		return Identity{}, false
	}
	identity := *c.identity
	identity.JWT = ""
	return identity, true
}

// name is who the caller is, for the records.
func (c *caller) name() string {
	if c.identity == nil {
		return ""
	}
	return c.identity.UserID
}

// note adds to what the audit log says about a call.
func (c *caller) note(format string, args ...any) {
	c.detail = strings.TrimPrefix(c.detail+", "+bounded(fmt.Sprintf(format, args...)), ", ")
}

// Names of the cookie that holds the token of a browser. Of the first one a
// browser knows that it is from here, by TLS, and from no neighbouring host
// (RFC 6265bis section 4.1.3.2). The second is for browsers on this machine
// without TLS, not all of which keep the first.
const (
	cookieName      = "__Host-dcrouter_session"
	localCookieName = "dcrouter_session"
)

// setCookie gives the browser a token, or takes it away.
func (c *caller) setCookie(value string, life time.Duration) {
	cookie := http.Cookie{Name: cookieName, Value: value, Path: "/", MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode}
	if c.local {
		cookie.Name, cookie.Secure = localCookieName, false
	}
	if value == "" {
		cookie.MaxAge = -1
	}
	c.response.Add("Set-Cookie", cookie.String())
}

// identify finds out who sends a request: by the token in the request's body
// (since some clients can set no headers), in the Authorization header, or in
// the cookie, in this order.
func (s *Server) identify(w http.ResponseWriter, r *http.Request, inBody string) *caller {
	c := &caller{address: s.clientAddress(r), ifMatch: strings.Trim(r.Header.Get("If-Match"), `"`), response: w.Header(), local: withoutTLS(r)}
	text := inBody
	if text == "" {
		if scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
			text = value
		}
	}
	if text == "" {
		cookie, err := r.Cookie(cookieName)
		if err != nil && c.local {
			cookie, err = r.Cookie(localCookieName)
		}
		if err == nil {
			text, c.byCookie = cookie.Value, true
		}
	}
	if text == "" {
		return c
	}
	one, account, expires, err := s.running().sessions.find(text)
	if err != nil {
		c.failedAuth = true
		return c
	}
	c.session = one
	c.identity = &Identity{UserID: account.name, Name: account.name, Role: account.role, ExpiresAt: expires.UnixMilli()}
	if !c.byCookie {
		c.identity.JWT = text
	}
	return c
}

// clientAddress is the address of the client: of the connection, or what a proxy
// that is trusted says about it.
func (s *Server) clientAddress(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	for i := len(r.Header["X-Forwarded-For"]) - 1; i >= 0; i-- {
		list := strings.Split(r.Header["X-Forwarded-For"][i], ",")
		for j := len(list) - 1; j >= 0; j-- {
			if !s.trusts(addr) {
				return addr
			}
			next, err := netip.ParseAddr(strings.TrimSpace(list[j]))
			if err != nil {
				return addr
			}
			addr = next.Unmap().WithZone("")
		}
	}
	return addr
}

func (s *Server) trusts(addr netip.Addr) bool {
	for _, p := range s.proxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func parseAddr(hostport string) netip.Addr {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

// isLocal reports whether a request comes from a program on this machine, and
// not through a proxy here that says so. Nor is it one of a page in a browser here
// whose name was made to lead to this machine (DNS rebinding): such a request
// has that name.
func isLocal(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	named := strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
	return named && parseAddr(r.RemoteAddr).IsLoopback() &&
		r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("Forwarded") == "" && r.Header.Get("Via") == ""
}

// withoutTLS reports whether nothing says that a request of this machine has come
// by TLS, to us or to a proxy here. Anybody may say so: it only makes cookies
// stricter.
func withoutTLS(r *http.Request) bool {
	return r.TLS == nil && isLocal(r) && r.Header.Get("X-Forwarded-Proto") == "" && !strings.HasPrefix(r.Header.Get("Origin"), "https:")
}

// lockoutKey is what attempts from an address are counted by: whoever has an
// IPv6 address has the /64 around it.
func lockoutKey(addr netip.Addr) string {
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

// maySeeMetrics reports whether a request for metrics is answered.
func (s *Server) maySeeMetrics(w http.ResponseWriter, r *http.Request) bool {
	if isLocal(r) && s.cfg.MetricsToken == "" || s.identify(w, r, "").identity != nil {
		return true
	}
	_, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	want := s.cfg.MetricsToken.Reveal()
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want)) // of equal length
	return want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
