package dcrouter

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/proxy"
)

// emailConfig is the mail system's section with what the others add to it. policies
// says whether policies of MTA-STS are served.
func (c *Config) emailConfig(policies bool) email.Config {
	e := *c.Email
	if len(e.PublicIP) == 0 {
		e.PublicIP = c.PublicIP
	}
	e.Domains = slices.Clone(e.Domains)
	for i := range e.Domains {
		if d := &e.Domains[i]; policies && e.DNSMode(d) == email.InternalDNS && d.Policies.MTASTS == "" && e.Defaults.Policies.MTASTS == "" {
			d.Policies.MTASTS = email.TestMTASTS
		}
	}
	if e.DataPath == "" && c.Storage != nil && c.Storage.FSPath != "" {
		e.DataPath = filepath.Clean(c.Storage.FSPath)
	}
	return e
}

// newEmail makes the mail system. If it has no source of certificates, not even
// one of the host's, it gets a self-signed one.
func (r *Router) newEmail(o *options) (*email.Server, error) {
	cfg := r.limited.emailConfig(r.policies)
	opts := append([]email.Option{email.WithLogger(r.log), email.WithSockets(&r.sockets), email.WithObserver(r.mailEvent)}, o.email...)
	s, err := email.New(cfg, opts...)
	if err != nil || s.OffersTLS() {
		return s, err
	}
	r.mailCert = new(mailCertificate)
	return email.New(cfg, append(opts, email.WithGetCertificate(r.mailCert.getCertificate))...)
}

// mailRoutes are the proxy's routes to the mail system, if it binds no ports
// itself. The proxy does not look into its connections: clients wait there for
// the server to speak first.
func (r *Router) mailRoutes() []proxy.Route {
	if r.email == nil || !r.config.Email.UseSocketHandler {
		return nil
	}
	s := &r.config.Email.Security
	security := proxy.Security{IPAllowList: s.IPAllowList, IPBlockList: s.IPBlockList, MaxConnections: s.MaxConnections}
	var inFront *proxy.ProxyProtocol
	if p := r.config.Email.ProxyProtocol; p != nil {
		inFront = &proxy.ProxyProtocol{Accept: p.Accept}
	}
	var routes []proxy.Route
	for i, p := range r.config.Email.Ports {
		name := fmt.Sprintf("mail-%d", p.Port)
		if p.Port == 0 {
			name = fmt.Sprintf("mail-any-%d", i)
		}
		routes = append(routes, proxy.Route{
			Name: name,
			Match: proxy.Match{
				Ports:    []proxy.PortRange{{From: p.Port, To: p.Port}},
				Protocol: "tcp",
			},
			Action: proxy.Action{SocketHandler: mailHandler{r.email, p.EffectiveMode()}, Security: security, ProxyProtocol: inFront},
		})
	}
	return routes
}

// mailHandler hands connections of the proxy over to the mail system.
type mailHandler struct {
	server *email.Server
	mode   string
}

// ServeConn serves a connection as on a port of the handler's mode.
func (h mailHandler) ServeConn(ctx context.Context, conn net.Conn, info proxy.ConnInfo) {
	// It fails only while the Router stops, and then there is nobody to tell.
	_ = h.server.ServeConn(ctx, conn, h.mode, email.ConnInfo{ID: info.ID, Client: info.Client, Local: info.Local})
}

// Email returns the mail system, or nil if none is configured.
func (r *Router) Email() *email.Server { return r.email }

// UpdateDomainRules replaces the routes of the mail system, all of them or on an
// error none; see [email.Server.UpdateRoutes]. Without a mail system it fails
// with [email.ErrNotRunning].
func (r *Router) UpdateDomainRules(ctx context.Context, routes []email.Route) error {
	if r.email == nil {
		return email.ErrNotRunning
	}
	return inSection("emailConfig", "email", r.email.UpdateRoutes(ctx, routes))
}
