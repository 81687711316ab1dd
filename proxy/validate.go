package proxy

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/glob"
)

// FieldError is a mistake in a configuration: the path of the field, such as
// "routes[3].action.targets[0].port", and what is wrong with it. Validation
// errors unwrap to all of them.
//
// Its fields are Path string, Msg string and Err error, the cause where there is
// one beyond the configuration itself, which Unwrap returns.
type FieldError = conf.FieldError

// maxRoutePorts bounds the listeners that one route can ask for.
const maxRoutePorts = 4096

// Validate checks everything that can be told without I/O and returns all
// mistakes at once, each a [*FieldError].
func (c *Config) Validate() error {
	check := conf.NewChecker()
	check.Field("listenHost").ListenHost(c.ListenHost)
	check.Field("trustedProxies").CIDRs(c.TrustedProxies)
	check.Field("maxConnections").NotNegative(c.MaxConnections)
	check.Field("maxConnectionsPerIp").NotNegative(c.MaxConnectionsPerIP)
	check.Field("maxUdpSessions").NotNegative(c.MaxUDPSessions)
	if c.MaxHeaderBytes != 0 && (c.MaxHeaderBytes < 1024 || c.MaxHeaderBytes > 16<<20) {
		check.Field("maxHeaderBytes").Errorf("%d is not between 1024 and 16777216", c.MaxHeaderBytes)
	}
	if n := c.HTTP3.MaxConcurrentStreams; n < 0 || n > 100_000 {
		check.Field("http3").Field("maxConcurrentStreams").Errorf("%d is not between 1 and 100000", n)
	}
	if n := c.HTTP2.MaxConcurrentStreams; n < 0 || n > 100_000 {
		check.Field("http2").Field("maxConcurrentStreams").Errorf("%d is not between 1 and 100000", n)
	}
	if c.RequestID != nil {
		c.RequestID.validate(check.Field("requestId"))
	}
	if c.AccessLog != nil {
		c.AccessLog.validate(check.Field("accessLog"))
	}
	if c.ACME != nil {
		c.ACME.validate(check.Field("acme"))
	}
	validateRoutes(check, c.Routes)
	c.HTTP3.validateRoutes(check, c.Routes)
	return check.Err()
}

func (a *ACME) validate(check *conf.Checker) {
	for i, ch := range a.Challenges {
		check.Field("challenges").Index(i).OneOf(ch, "dns-01", "tls-alpn-01", "http-01")
	}
	if a.CADirectory != "" && !strings.HasPrefix(a.CADirectory, "https://") {
		check.Field("caDirectory").Errorf("%q must be an https:// URL", a.CADirectory)
	}
	if a.LocalCA && (a.CADirectory != "" || a.UseProduction || a.ExternalAccount != nil) {
		check.Field("localCa").Errorf("true, and settings for another authority: leave one out")
	}
	if e := a.ExternalAccount; e != nil {
		check.Field("externalAccount").Field("keyId").Required(e.KeyID)
		check.Field("externalAccount").Field("macKey").RequiredSecret(e.MACKey)
		if _, err := base64.RawURLEncoding.DecodeString(e.MACKey.Reveal()); err != nil {
			check.Field("externalAccount").Field("macKey").Errorf("not in base64url form without padding")
		}
	}
	check.Field("caRootPath").Line(a.CARootPath)
	check.Field("profile").Line(a.Profile)
	if a.KeyType != "" {
		check.Field("keyType").OneOf(a.KeyType, "p256", "p384", "rsa2048", "rsa3072", "rsa4096")
	}
	if a.OnFailure != "" {
		check.Field("onFailure").OneOf(a.OnFailure, "self-signed", "close")
	}
	if a.TLSALPNPort != nil {
		check.Field("tlsAlpnPort").Port(*a.TLSALPNPort)
	}
	if a.HTTPPort != nil {
		check.Field("httpPort").Port(*a.HTTPPort)
	}
	if a.RetryInterval != 0 && a.RetryInterval < time.Second {
		check.Field("retryInterval").Errorf("%v is less than 1s", a.RetryInterval)
	}
	check.Field("timeout").Wait(a.Timeout)
	if a.Email != "" {
		check.Field("email").Mailbox(a.Email)
	}
}

// validateRoutes checks each route and then what they are to each other.
func validateRoutes(check *conf.Checker, routes []Route) {
	check = check.Field("routes")
	names := make(map[string]int, len(routes))
	for i := range routes {
		r := &routes[i]
		at := check.Index(i)
		at.Field("name").Line(r.Name)
		if !utf8.ValidString(r.Name) || strings.HasPrefix(r.Name, "routes[") {
			at.Field("name").Errorf("%q cannot be a name: it is no UTF-8, or looks like the place of a route without one", r.Name)
		}
		if r.Name != "" {
			if first, ok := names[r.Name]; ok {
				at.Field("name").Errorf("%q is the name of routes[%d] already", r.Name, first)
			} else {
				names[r.Name] = i
			}
		}
		r.Match.validate(at.Field("match"))
		r.validateAction(at.Field("action"))
	}
	validateTogether(check, routes)
}

func (m *Match) validate(check *conf.Checker) {
	if len(m.Ports) == 0 {
		check.Field("ports").Errorf("missing: give at least one port")
	}
	for i, p := range m.Ports {
		at := check.Field("ports").Index(i)
		switch {
		case p.From < 0 || p.From > 65535:
			at.Errorf("%d is not a port (1-65535, or 0 for any free one)", p.From)
		case p.To < 0 || p.To > 65535:
			at.Errorf("%d is not a port (1-65535, or 0 for any free one)", p.To)
		case p.To < p.From:
			at.Errorf("range from %d to %d is empty", p.From, p.To)
		case p.From == 0 && p.To != 0:
			at.Errorf("a range cannot begin at port 0")
		case p.To-p.From >= maxRoutePorts:
			at.Errorf("range of %d ports; at most %d fit in one range", p.To-p.From+1, maxRoutePorts)
		}
	}
	for i, d := range m.Domains {
		if _, _, ok := domainPattern(d); !ok {
			check.Field("domains").Index(i).Errorf("%q is not a domain; use a name, \"*.\" and a name, or \"*\"", d)
		}
	}
	if _, err := parsePath(m.Path); err != nil {
		check.Field("path").Errorf("%v", err)
	}
	for i, method := range m.Methods {
		if !httpguts.ValidHeaderFieldName(method) {
			check.Field("methods").Index(i).Errorf("%q is not an HTTP method", method)
		} else if upper := strings.ToUpper(method); upper != method {
			check.Field("methods").Index(i).Errorf("%q would match nothing: methods are written in capitals, %q", method, upper)
		}
	}
	if strings.ContainsFunc(m.Path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		check.Field("path").Errorf("%q has a control character", m.Path)
	} else if !strings.HasPrefix(m.Path, "~") && strings.ContainsAny(m.Path, "#") {
		check.Field("path").Errorf("%q has a fragment, which no request has", m.Path)
	}
	checkPatterns(check.Field("headers"), m.Headers, true)
	checkPatterns(check.Field("query"), m.Query, false)
	check.Field("clientIp").CIDRs(m.ClientIP)
	switch m.Protocol {
	case "", "tcp", "http":
	case "udp":
		if m.Path != "" || len(m.Methods) > 0 || len(m.Headers) > 0 || len(m.Query) > 0 || len(m.Domains) > 0 {
			check.Field("protocol").Errorf("udp has no domains and no HTTP to match")
		}
	default:
		check.Field("protocol").OneOf(m.Protocol, "tcp", "http", "udp")
	}
}

func (r *Route) validateAction(check *conf.Checker) {
	a := &r.Action
	switch {
	case a.Handler != nil && a.SocketHandler != nil:
		check.Errorf("has both a Handler and a SocketHandler")
	case (a.Handler != nil || a.SocketHandler != nil) && a.Type != "":
		check.Field("type").Errorf("%q and a handler exclude each other", a.Type)
	case a.Handler != nil || a.SocketHandler != nil:
	case a.Type == Forward:
		if len(a.Targets) == 0 {
			check.Field("targets").Errorf("missing: forward needs at least one target")
		}
	case a.Type == Redirect:
		a.Redirect.validate(check.Field("redirect"))
	case a.Type == Serve:
		if a.Root == "" {
			check.Field("root").Errorf("missing: serve needs a folder")
		}
	default:
		check.Field("type").OneOf(a.Type, Forward, Redirect, Serve)
	}
	// What would be ignored was meant for something.
	if a.Type != Forward && len(a.Targets) > 0 {
		check.Field("targets").Errorf("only forward has targets")
	}
	if a.Type != Forward && a.LoadBalancing != (LoadBalancing{}) {
		check.Field("loadBalancing").Errorf("only forward has targets to choose from")
	}
	if a.Type != Redirect && a.Redirect != (RedirectTo{}) {
		check.Field("redirect").Errorf("only redirect goes by it")
	}
	if a.Type != Serve && a.Root != "" {
		check.Field("root").Errorf("only serve goes by it")
	}
	for i := range a.Targets {
		a.Targets[i].validate(check.Field("targets").Index(i), r)
	}
	r.validateUpstreamProtocol(check.Field("upstreamProtocol"))
	a.LoadBalancing.validate(check.Field("loadBalancing"), a.Targets)
	a.LoadBalancing.validateUse(check.Field("loadBalancing"), r)
	if a.TLS != nil {
		r.validateTLS(check.Field("tls"))
	}
	a.Headers.Request.validate(check.Field("headers").Field("request"))
	a.Headers.Response.validate(check.Field("headers").Field("response"))
	s := check.Field("security")
	s.Field("ipAllowList").CIDRs(a.Security.IPAllowList)
	s.Field("ipBlockList").CIDRs(a.Security.IPBlockList)
	s.Field("maxConnections").NotNegative(a.Security.MaxConnections)
	if l := a.Security.RateLimit; l != nil {
		l.validate(s.Field("rateLimit"))
		if _, http := r.carries(); !http {
			s.Field("rateLimit").Errorf("counts requests, and this route sees no HTTP")
		}
	}
	if c := a.Compression; c != nil {
		at := check.Field("compression")
		c.validate(at)
		if _, http := r.carries(); !http || a.Type == Redirect {
			at.Errorf("this route has no HTTP contents to compress")
		}
	}
	if p := a.ProxyProtocol; p != nil {
		check.Field("proxyProtocol").Field("accept").CIDRs(p.Accept)
		if p.Send < 0 || p.Send > 2 {
			check.Field("proxyProtocol").Field("send").Errorf("%d is not a version; use 1 or 2", p.Send)
		} else if p.Send != 0 && a.Type != Forward {
			check.Field("proxyProtocol").Field("send").Errorf("only forward has targets to send it to")
		}
	}
	if a.SocketHandler != nil && (r.Match.isHTTP() || !a.Headers.Request.isZero() || !a.Headers.Response.isZero()) {
		check.Errorf("a SocketHandler takes whole connections and sees no HTTP, which match or headers ask for; use a Handler")
	}
	if r.Match.Protocol == "udp" {
		r.validateUDP(check)
	}
}

// validateUDP finds what asks for more than datagrams.
func (r *Route) validateUDP(check *conf.Checker) {
	a := &r.Action
	if a.Type != Forward {
		check.Errorf("udp can only be forwarded")
	}
	if !a.Headers.Request.isZero() || !a.Headers.Response.isZero() {
		check.Field("headers").Errorf("udp has no HTTP headers to edit")
	}
	if a.LoadBalancing.Sticky != nil {
		check.Field("loadBalancing").Field("sticky").Errorf("udp has no cookies; use algorithm ip-hash")
	}
	if a.Security.RateLimit != nil {
		check.Field("security").Field("rateLimit").Errorf("udp has no requests to limit")
	}
	if a.ProxyProtocol != nil {
		check.Field("proxyProtocol").Errorf("the PROXY protocol is for TCP here")
	}
}

func (r *Route) validateUpstreamProtocol(check *conf.Checker) {
	a := &r.Action
	reencrypts := a.TLS != nil && a.TLS.Mode == TerminateAndReencrypt
	passes := a.TLS != nil && a.TLS.Mode == Passthrough || r.Match.Protocol == "tcp" || r.Match.Protocol == "udp"
	switch {
	case a.UpstreamProtocol == "":
	case a.Type != Forward:
		check.Errorf("only forward has targets")
	case a.UpstreamProtocol == HTTP1:
	case a.UpstreamProtocol != H2 && a.UpstreamProtocol != H2C:
		check.OneOf(a.UpstreamProtocol, HTTP1, H2, H2C)
	case passes:
		check.Errorf("%q is about HTTP, which this route passes through without looking", a.UpstreamProtocol)
	case a.ProxyProtocol != nil && a.ProxyProtocol.Send != 0:
		check.Errorf("%q and proxyProtocol.send exclude each other: clients share a connection in HTTP/2", a.UpstreamProtocol)
	case a.UpstreamProtocol == H2 && !reencrypts:
		check.Errorf("\"h2\" needs tls mode terminate-and-reencrypt; without TLS to the target it is \"h2c\"")
	case a.UpstreamProtocol == H2C && reencrypts:
		check.Errorf("\"h2c\" is without TLS to the target, which tls mode terminate-and-reencrypt asks for; use \"h2\"")
	}
}

func (t *Target) validate(check *conf.Checker, r *Route) {
	if _, ok := configuredHost(t.Host); !ok {
		check.Field("host").Errorf("%q is not a host name or address (a port has a field of its own)", t.Host)
	}
	switch {
	case t.PortFunc != nil && t.Port != 0:
		check.Field("port").Errorf("Port and PortFunc exclude each other")
	case t.PortFunc != nil || t.Port == PreservePort:
	case t.Port == 0:
		check.Field("port").Errorf("missing: give a port (1-65535) or \"preserve\"")
	default:
		check.Field("port").Port(t.Port)
	}
	if t.Weight < 0 || t.Weight > 1000 {
		check.Field("weight").Errorf("%d is not between 1 and 1000", t.Weight)
	}
}

func (l *LoadBalancing) validate(check *conf.Checker, targets []Target) {
	if l.Algorithm != "" {
		check.Field("algorithm").OneOf(l.Algorithm, RoundRobin, LeastConnections, PowerOfTwo, IPHash)
	}
	h := l.HealthCheck
	if h == nil {
		return
	}
	check = check.Field("healthCheck")
	if h.Path != "" && (h.Path[0] != '/' || strings.ContainsFunc(h.Path, func(r rune) bool { return r <= ' ' || r == 0x7f })) {
		check.Field("path").Errorf("%q is not a path; it begins with / and has no spaces", h.Path)
	} else if h.Path != "" {
		if _, err := url.ParseRequestURI(h.Path); err != nil {
			check.Field("path").Errorf("%q is not a path: %v", h.Path, err)
		}
	}
	if h.Port != 0 {
		check.Field("port").Port(h.Port)
	}
	if h.Port == 0 && slices.ContainsFunc(targets, func(t Target) bool { return t.Port == PreservePort || t.PortFunc != nil }) {
		check.Field("port").Errorf("missing: a target has no fixed port, so say which to check")
	}
	if check.Field("interval").Wait(h.Interval); h.Interval > 0 && h.Interval < time.Millisecond {
		check.Field("interval").Errorf("%v is too short; give at least 1ms", h.Interval)
	}
	check.Field("timeout").Wait(h.Timeout)
	check.Field("healthyAfter").NotNegative(h.HealthyAfter)
	check.Field("unhealthyAfter").NotNegative(h.UnhealthyAfter)
}

func (r *Route) validateTLS(check *conf.Checker) {
	t, a := r.Action.TLS, &r.Action
	c := t.Certificate
	hasFiles := c.CertPath != "" || c.KeyPath != ""
	switch t.Mode {
	case Terminate, TerminateAndReencrypt:
		switch {
		case c.Auto && hasFiles:
			check.Field("certificate").Errorf("\"auto\" and files exclude each other")
		case c.Auto:
		case !hasFiles:
			check.Field("certificate").Errorf("missing: use \"auto\", or certPath and keyPath")
		case c.CertPath == "":
			check.Field("certificate").Field("certPath").Errorf("missing")
		case c.KeyPath == "":
			check.Field("certificate").Field("keyPath").Errorf("missing")
		}
	case Passthrough:
		if c.Auto || hasFiles {
			check.Field("certificate").Errorf("passthrough does not terminate TLS and has no certificate")
		}
		if t.ClientAuth != nil {
			check.Field("clientAuth").Errorf("passthrough does not terminate TLS and cannot ask for a certificate")
		}
		if a.Type != Forward && a.SocketHandler == nil {
			check.Field("mode").Errorf("only forward can pass TLS through")
		}
		if r.Match.isHTTP() || !a.Headers.Request.isZero() || !a.Headers.Response.isZero() {
			check.Field("mode").Errorf("passthrough cannot see HTTP, which match or headers ask for; use terminate")
		}
	default:
		check.Field("mode").OneOf(t.Mode, Terminate, Passthrough, TerminateAndReencrypt)
	}
	if t.Mode == TerminateAndReencrypt && a.Type != Forward {
		check.Field("mode").Errorf("only forward has targets to speak TLS to; use terminate")
	}
	if t.ClientAuth != nil && t.ClientAuth.CAPath == "" {
		check.Field("clientAuth").Field("caPath").Errorf("missing: without it any client would be refused")
	}
	if t.Upstream != (UpstreamTLS{}) && t.Mode != TerminateAndReencrypt {
		check.Field("upstream").Errorf("needs mode terminate-and-reencrypt")
	}
	if n := t.Upstream.ServerName; n != "" {
		if _, ok := configuredHost(n); !ok {
			check.Field("upstream").Field("serverName").Errorf("%q is not a host name", n)
		}
	}
	if r.Match.Protocol == "udp" {
		check.Errorf("udp has no TLS to handle")
	}
}

func (r *RedirectTo) validate(check *conf.Checker) {
	if r.To == "" {
		check.Field("to").Errorf("missing: say where to redirect to, for example https://{host}{uri}")
	} else if err := checkTemplate(r.To, redirectVariables); err != nil {
		check.Field("to").Errorf("%v", err)
	}
	switch r.Status {
	case 0, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		check.Field("status").Errorf("%d is not a redirection; use 301, 302, 303, 307 or 308", r.Status)
	}
}

func (e *HeaderEdit) validate(check *conf.Checker) {
	checkHeaders := func(check *conf.Checker, headers map[string]string) {
		for name, value := range sorted(headers) {
			if !httpguts.ValidHeaderFieldName(name) {
				check.Key(name).Errorf("not a header name")
			} else if isHopByHop(name) || strings.EqualFold(name, "Content-Length") {
				check.Key(name).Errorf("belongs to the connection and cannot be set")
			} else if err := checkTemplate(value, headerVariables); err != nil {
				check.Key(name).Errorf("%v", err)
			}
		}
	}
	checkHeaders(check.Field("set"), e.Set)
	checkHeaders(check.Field("add"), e.Add)
	for i, name := range e.Remove {
		if !httpguts.ValidHeaderFieldName(name) {
			check.Field("remove").Index(i).Errorf("%q is not a header name", name)
		}
	}
}

func checkPatterns(check *conf.Checker, patterns map[string]string, header bool) {
	for name, value := range sorted(patterns) {
		switch {
		case !header:
		case !httpguts.ValidHeaderFieldName(name):
			check.Key(name).Errorf("not a header name")
		case strings.EqualFold(name, "Content-Length"), strings.EqualFold(name, "Transfer-Encoding"):
			// Some readers keep them with the header, others do not.
			check.Key(name).Errorf("cannot be a condition: how a body is sent is up to the client and its version of HTTP; use methods or path")
		}
		if _, err := glob.Parse(value); err != nil {
			check.Key(name).Errorf("%v", err)
		}
	}
}
