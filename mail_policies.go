package dcrouter

import (
	"net/http"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/proxy"
)

// defaultMTASTSPort is the port at which policies of MTA-STS are fetched, that of
// HTTPS.
const defaultMTASTSPort = 443

// servesPolicies reports whether the proxy speaks HTTPS where policies of MTA-STS
// are fetched, or is told to.
func (c *Config) servesPolicies() bool {
	if c.MTASTSPort != nil {
		return true
	}
	return c.Proxy != nil && slices.ContainsFunc(c.Proxy.Routes, func(r proxy.Route) bool {
		return (r.Enabled == nil || *r.Enabled) && r.Action.TLS != nil && r.Action.TLS.Mode != proxy.Passthrough && r.Match.Protocol != "udp" &&
			slices.ContainsFunc(r.Match.Ports, func(p proxy.PortRange) bool { return p.From <= defaultMTASTSPort && defaultMTASTSPort <= p.To })
	})
}

// policyPath is where policies are (RFC 8461 section 3.3).
const policyPath = "/.well-known/mta-sts.txt"

// policyRoutes are the proxy's routes to policies of MTA-STS.
func (r *Router) policyRoutes() []proxy.Route {
	if r.email == nil || !r.policies {
		return nil
	}
	var hosts []string
	for _, d := range r.config.Email.Domains {
		if _, ok := r.email.MTASTSPolicy(d.Domain); ok {
			hosts = append(hosts, "mta-sts."+plainDomain(d.Domain))
		}
	}
	if len(hosts) == 0 {
		return nil
	}
	port := orDefault(r.config.MTASTSPort, defaultMTASTSPort)
	return []proxy.Route{{
		Name:  "mta-sts",
		Match: proxy.Match{Ports: []proxy.PortRange{{From: port, To: port}}, Domains: hosts, Path: policyPath},
		Action: proxy.Action{
			Handler: policyHandler{r.email},
			TLS:     &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}},
		},
	}}
}

// warnOfPolicies names the domains that promise a policy which is not here, or a
// certificate that is not.
func (r *Router) warnOfPolicies() {
	if r.email == nil || r.policies && r.mailCert == nil {
		return
	}
	for _, d := range r.config.Email.Domains {
		_, ok := r.email.MTASTSPolicy(d.Domain)
		if ok && r.mailCert != nil {
			r.log.Warn("who goes by the MTA-STS policy of a mail domain does not deliver to a self-signed certificate; "+useBetter, "component", "email", "domain", d.Domain)
		}
		if ok && !r.policies {
			r.log.Warn("the MTA-STS policy of a mail domain has to be served elsewhere: here is no HTTPS on port 443 with certificates", "component", "email", "domain", d.Domain)
		}
	}
}

// policyHandler serves policies of MTA-STS.
type policyHandler struct{ mail *email.Server }

func (h policyHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	host, _, _ := strings.Cut(req.Host, ":")
	domain, ok := strings.CutPrefix(plainDomain(host), "mta-sts.")
	text := ""
	if ok {
		text, ok = h.mail.MTASTSPolicy(domain)
	}
	switch {
	case !ok:
		http.NotFound(w, req)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are for policies", http.StatusMethodNotAllowed)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		// It goes on as far as it can; there is nobody to tell.
		_, _ = w.Write([]byte(text))
	}
}
