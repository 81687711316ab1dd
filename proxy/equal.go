package proxy

import (
	"maps"
	"slices"
)

// equal reports whether two routes say the same. Functions cannot be compared,
// and handlers of the host are not looked into: a route that has one is equal
// to none.
func (r *Route) equal(o *Route) bool {
	return r.Name == o.Name && r.Priority == o.Priority && equalPtr(r.Enabled, o.Enabled) &&
		r.Match.equal(&o.Match) && r.Action.equal(&o.Action)
}

func (m *Match) equal(o *Match) bool {
	return slices.Equal(m.Ports, o.Ports) && slices.Equal(m.Domains, o.Domains) &&
		m.Path == o.Path && slices.Equal(m.Methods, o.Methods) &&
		maps.Equal(m.Headers, o.Headers) && maps.Equal(m.Query, o.Query) &&
		slices.Equal(m.ClientIP, o.ClientIP) && m.Protocol == o.Protocol
}

func (a *Action) equal(o *Action) bool {
	return a.Type == o.Type && a.UpstreamProtocol == o.UpstreamProtocol && slices.EqualFunc(a.Targets, o.Targets, Target.equal) &&
		a.LoadBalancing.equal(&o.LoadBalancing) && a.TLS.equal(o.TLS) &&
		a.Redirect == o.Redirect && a.Root == o.Root &&
		a.Headers.Request.equal(&o.Headers.Request) && a.Headers.Response.equal(&o.Headers.Response) &&
		a.Compression.equal(o.Compression) && a.Security.equal(&o.Security) && a.ProxyProtocol.equal(o.ProxyProtocol) &&
		a.Handler == nil && o.Handler == nil && a.SocketHandler == nil && o.SocketHandler == nil
}

func (t Target) equal(o Target) bool {
	return t.Host == o.Host && t.Port == o.Port && t.Weight == o.Weight && t.PortFunc == nil && o.PortFunc == nil
}

func (l *LoadBalancing) equal(o *LoadBalancing) bool {
	return l.Algorithm == o.Algorithm && equalPtr(l.Sticky, o.Sticky) && equalPtr(l.HealthCheck, o.HealthCheck)
}

func (t *TLS) equal(o *TLS) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.Mode == o.Mode && t.Certificate == o.Certificate && equalPtr(t.ClientAuth, o.ClientAuth) && t.Upstream == o.Upstream
}

func (e *HeaderEdit) equal(o *HeaderEdit) bool {
	return maps.Equal(e.Set, o.Set) && maps.Equal(e.Add, o.Add) && slices.Equal(e.Remove, o.Remove)
}

func (c *Compression) equal(o *Compression) bool {
	if c == nil || o == nil {
		return c == o
	}
	return slices.Equal(c.Algorithms, o.Algorithms) && slices.Equal(c.Types, o.Types) && c.MinSize == o.MinSize && c.Level == o.Level
}

func (s *Security) equal(o *Security) bool {
	return slices.Equal(s.IPAllowList, o.IPAllowList) && slices.Equal(s.IPBlockList, o.IPBlockList) &&
		s.MaxConnections == o.MaxConnections && equalPtr(s.RateLimit, o.RateLimit)
}

func (p *ProxyProtocol) equal(o *ProxyProtocol) bool {
	if p == nil || o == nil {
		return p == o
	}
	return slices.Equal(p.Accept, o.Accept) && p.Send == o.Send
}

func equalPtr[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
