package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/internal/glob"
)

// matcher holds the conditions of a Match beside port and domain, compiled.
type matcher struct {
	clients *ipSet // nil: any
	methods []string
	path    pathPattern
	headers []valuePattern
	query   []valuePattern
}

// valuePattern is a condition on one header or query parameter.
type valuePattern struct {
	name  string
	value glob.Pattern
}

// matchesClient checks what is known before any byte has been read.
func (m *matcher) matchesClient(client netip.Addr) bool {
	return m.clients == nil || m.clients.contains(client)
}

// matchesRequest checks the conditions on HTTP.
func (m *matcher) matchesRequest(q *query) bool {
	if len(m.methods) > 0 && !slices.Contains(m.methods, q.method) {
		return false
	}
	if !m.path.matches(q.path) {
		return false
	}
	for _, h := range m.headers {
		// The Host header is not part of the request's header map.
		if h.name == "Host" {
			if !h.value.Match(q.rawHost) {
				return false
			}
		} else if !slices.ContainsFunc(q.header.Values(h.name), h.value.Match) {
			return false
		}
	}
	for i := range m.query {
		if !m.query[i].inQuery(q.rawQuery) {
			return false
		}
	}
	return true
}

// inQuery looks for a parameter that fulfils the condition. It reads the query
// as url.ParseQuery does, which would make a map of it for each route: what
// cannot be parsed is left out.
func (p *valuePattern) inQuery(query string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if pair == "" || strings.Contains(pair, ";") {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(name); err != nil || name != p.name {
			continue
		}
		if value, err := url.QueryUnescape(value); err == nil && p.value.Match(value) {
			return true
		}
	}
	return false
}

// isHTTP reports whether any condition is about HTTP.
func (m *Match) isHTTP() bool {
	return m.Path != "" || len(m.Methods) > 0 || len(m.Headers) > 0 || len(m.Query) > 0 || m.Protocol == "http"
}

// pathKind orders path patterns from the least to the most specific.
type pathKind int

const (
	anyPath pathKind = iota
	globPath
	regexPath
	exactPath
)

// pathPattern is a compiled Match.Path.
type pathPattern struct {
	kind  pathKind
	exact string // exactPath; for globPath the text before the first wildcard
	// begin is what all paths that match begin with, if anything.
	begin string
	glob  *glob.Pattern  // globPath; nil if a single * ends it
	regex *regexp.Regexp // regexPath
}

// newPathPattern compiles the path of a Match that has been validated.
func newPathPattern(s string) (pathPattern, error) {
	p, err := parsePath(s)
	if p.kind == regexPath && err == nil {
		p.regex, err = regexp.Compile(s[1:])
	}
	return p, err
}

// parsePath is newPathPattern, but regular expressions are only checked, which
// takes a quarter of the time.
func parsePath(s string) (pathPattern, error) {
	switch {
	case s == "":
		return pathPattern{}, nil
	case s[0] == '~':
		re, err := syntax.Parse(s[1:], syntax.Perl)
		if err != nil {
			return pathPattern{}, fmt.Errorf("%q is not a regular expression: %w", s[1:], err)
		}
		return pathPattern{kind: regexPath, begin: literalBegin(re)}, nil
	case s[0] != '/' && s[0] != '*':
		return pathPattern{}, fmt.Errorf("%q must begin with / (or with ~ as a regular expression)", s)
	}
	i := strings.IndexAny(s, "*?")
	if i < 0 {
		return pathPattern{kind: exactPath, exact: s, begin: s}, nil
	}
	p := pathPattern{kind: globPath, exact: s[:i], begin: s[:i]}
	if s[i:] != "*" {
		// Not glob.Parse: there "/.../" is a regular expression, here a path.
		g := glob.Compile(s)
		p.glob = &g
	}
	return p, nil
}

// literalBegin returns the text after a leading ^ of a regular expression, as
// far as it stands for itself.
func literalBegin(re *syntax.Regexp) string {
	if re.Op != syntax.OpConcat || re.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	if text := re.Sub[1]; text.Op == syntax.OpLiteral && text.Flags&syntax.FoldCase == 0 {
		return string(text.Rune)
	}
	return ""
}

func (p *pathPattern) matches(path string) bool {
	switch p.kind {
	case anyPath:
		return true
	case exactPath:
		return path == p.exact
	case regexPath:
		return p.regex.MatchString(path)
	}
	if p.glob != nil {
		return p.glob.Match(path)
	}
	return strings.HasPrefix(path, p.exact)
}

// requestTarget splits the target of a request, as sent, into path and query
// (RFC 9112 section 3.2). The absolute form loses its scheme and authority,
// which net/http has put into Host. It reports false for targets that not all
// servers read alike: a fragment does not belong there, and some cut it off.
func requestTarget(r *http.Request) (path, query string, hasQuery, ok bool) {
	target := r.RequestURI
	for i := range len(target) {
		// HTTP/2 lets these through, and in a request line of HTTP/1 they would
		// end the target.
		if c := target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return "", "", false, false
		}
	}
	if r.Method == http.MethodConnect {
		return "", "", false, false
	}
	if target == "*" {
		return "*", "", false, r.Method == http.MethodOptions
	}
	if !strings.HasPrefix(target, "/") {
		_, rest, found := strings.Cut(target, "://")
		if !found {
			return "", "", false, false
		}
		i := strings.IndexAny(rest, "/?")
		if i < 0 {
			return "/", "", false, true
		}
		if target = rest[i:]; target[0] == '?' {
			target = "/" + target
		}
	}
	path, query, hasQuery = strings.Cut(target, "?")
	return path, query, hasQuery, true
}

// canonicalPath brings the path of a request, as sent, into the form that
// paths are matched in: percent-encoding is undone, except of the characters
// whose decoding would change the meaning of the path ("/", "\", "%" and
// control characters), which stay encoded with upper-case digits. It reports
// false for paths that servers are known to read in different ways, so that
// what was matched is not what was meant: dot segments, NUL, broken encoding.
func canonicalPath(raw string) (string, bool) {
	path := raw
	if strings.IndexByte(raw, '%') >= 0 {
		var b strings.Builder
		b.Grow(len(raw))
		for i := 0; i < len(raw); i++ {
			if raw[i] != '%' {
				b.WriteByte(raw[i])
				continue
			}
			if i+2 >= len(raw) {
				return "", false
			}
			hi, lo := unhex(raw[i+1]), unhex(raw[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			switch c := byte(hi<<4 | lo); {
			case c == 0:
				return "", false
			case c == '/', c == '\\', c == '%', c < 0x20, c == 0x7f:
				b.WriteString(strings.ToUpper(raw[i : i+3]))
			default:
				b.WriteByte(c)
			}
			i += 2
		}
		path = b.String()
	}
	if strings.IndexByte(path, '.') >= 0 && hasDotSegment(path) {
		return "", false
	}
	return path, true
}

// hasDotSegment finds "." and ".." between separators, a backslash counting
// as one, encoded or not, because some servers treat it so.
func hasDotSegment(path string) bool {
	begin := 0
	for i := 0; i <= len(path); i++ {
		size := 1
		switch {
		case i == len(path), path[i] == '/', path[i] == '\\':
		case strings.HasPrefix(path[i:], "%2F"), strings.HasPrefix(path[i:], "%5C"):
			size = 3
		default:
			continue
		}
		// Servlet containers cut path parameters off before they resolve dots.
		segment, _, _ := strings.Cut(path[begin:i], ";")
		if segment == "." || segment == ".." {
			return true
		}
		begin = i + size
		i = begin - 1
	}
	return false
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
