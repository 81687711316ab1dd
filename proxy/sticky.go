package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// sticky keeps clients with their targets by a cookie. The target gets to see
// the cookie, as with most proxies: it tells nothing that a target does not
// know, and to cut it out of the client's header would cost every request.
type sticky struct {
	cookie     string
	attributes string
	secure     *bool
	entries    map[string]*entry // by value of the cookie
}

func newSticky(cfg *Sticky, entries []entry) *sticky {
	s := &sticky{cookie: cfg.Cookie, secure: cfg.Secure, entries: make(map[string]*entry, len(entries))}
	for i := range entries {
		e := &entries[i]
		e.cookie = stickyValue(cfg, e.target.name)
		if s.entries[e.cookie] == nil {
			s.entries[e.cookie] = e
		}
	}
	path := defaultTo(cfg.Path, "/")
	s.attributes = "; Path=" + path
	if cfg.MaxAge > 0 {
		s.attributes += "; Max-Age=" + strconv.FormatInt(int64(cfg.MaxAge/time.Second), 10)
	}
	if cfg.HTTPOnly == nil || *cfg.HTTPOnly {
		s.attributes += "; HttpOnly"
	}
	switch cfg.SameSite {
	case SameSiteLax:
		s.attributes += "; SameSite=Lax"
	case SameSiteStrict:
		s.attributes += "; SameSite=Strict"
	case SameSiteNone:
		s.attributes += "; SameSite=None"
		always := true // browsers refuse it otherwise
		s.secure = &always
	}
	return s
}

// stickyValue stands for a target in the cookie. It depends on nothing but the
// target's address, the cookie's name and the secret: it must be the same after
// a restart, in a gateway next to this one, whatever the other targets, and in
// the other routes of a site, for which a browser has one cookie.
func stickyValue(cfg *Sticky, target string) string {
	mac := hmac.New(sha256.New, []byte(cfg.Secret.Reveal()))
	mac.Write([]byte(cfg.Cookie + "\x00" + target))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:12])
}

// read returns the value of the sticky cookie in a request, or "".
func (s *sticky) read(header fieldValues) string {
	for _, line := range header.Values("Cookie") {
		if v, ok := cookieValue(line, s.cookie); ok {
			return v
		}
	}
	return ""
}

// setCookie returns what to send in a Set-Cookie header when e was chosen, or
// "" if the client has the right cookie already. secure tells whether it came
// over TLS.
func (s *sticky) setCookie(e *entry, ch *choice, secure bool) string {
	if ch.sticky == e.cookie {
		return ""
	}
	v := s.cookie + "=" + e.cookie + s.attributes
	if s.secure != nil {
		secure = *s.secure
	}
	if secure {
		v += "; Secure"
	}
	return v
}

// cookieValue finds a cookie in the value of a Cookie header (RFC 6265 section
// 5.4), the first if there are several of the name.
func cookieValue(line, name string) (string, bool) {
	for line != "" {
		var pair string
		pair, line, _ = strings.Cut(line, ";")
		pair = strings.Trim(pair, " \t")
		if len(pair) > len(name) && pair[len(name)] == '=' && pair[:len(name)] == name {
			value := pair[len(name)+1:]
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1]
			}
			return value, true
		}
	}
	return "", false
}
