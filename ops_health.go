package dcrouter

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/opsapi"
)

// health says how the subsystems are: whether each does its work, and what of it
// is not as it should be. There are no figures that move with the traffic in it,
// since each change is an event.
func (r *Router) health(context.Context) []opsapi.Component {
	addrs := r.Addrs()
	runs := r.Store() != nil
	var list []opsapi.Component
	for _, c := range r.components() {
		one := opsapi.Component{Name: c.name, Ready: runs, Addresses: addrs[c.name]}
		switch c.name {
		case "proxy":
			one.Detail = r.proxyHealth()
		case "dns":
			var serves bool
			one.Detail, serves = r.dnsHealth()
			one.Ready = one.Ready && serves
		case "radius":
			one.Detail = r.radiusHealth()
		case "email":
			one.Detail = r.emailHealth()
		case "certificates":
			one.Detail = r.certificatesHealth(time.Now())
		}
		list = append(list, one)
	}
	return list
}

// maxNamed is how many of what is not well are named.
const maxNamed = 5

// someOf says how many of what there is are not well, and which; "" if all are.
func someOf(bad []string, of int, what, problem string) string {
	if len(bad) == 0 {
		return ""
	}
	named, more := bad, ""
	if len(bad) > maxNamed {
		named, more = bad[:maxNamed], ", ..."
	}
	return fmt.Sprintf("%d of %d %s %s: %s%s", len(bad), of, what, problem, strings.Join(named, ", "), more)
}

func (r *Router) proxyHealth() string {
	targets := byName(r.proxy.Stats().Targets)
	var bad []string
	for _, t := range targets {
		if !t.Healthy {
			bad = append(bad, t.Name)
		}
	}
	return someOf(bad, len(targets), "targets", "not healthy")
}

// dnsHealth also says whether any zone is served, if there are some.
func (r *Router) dnsHealth() (detail string, serves bool) {
	zones := r.dns.Zones()
	var bad []string
	for _, z := range zones {
		if !z.Loaded {
			bad = append(bad, z.Name)
		}
	}
	return someOf(bad, len(zones), "zones", "not served"), len(zones) == 0 || len(bad) < len(zones)
}

func (r *Router) emailHealth() string {
	var problems []string
	spool := r.email.Stats().Spool
	if spool.Unusable {
		problems = append(problems, "no mail is taken or delivered: the lease of the spool was lost, and the log says why")
	}
	if spool.Paused {
		problems = append(problems, "the queue is paused: nothing is delivered")
	}
	if r.mailCert != nil {
		problems = append(problems, "its certificate is self-signed: "+useBetter)
	}
	return strings.Join(problems, "; ")
}

func (r *Router) radiusHealth() string {
	servers := r.radius.Stats().HomeServers
	var bad []string
	for _, h := range servers {
		if !h.Alive {
			bad = append(bad, h.Address)
		}
	}
	return someOf(bad, len(servers), "home servers", "not answering")
}

func (r *Router) certificatesHealth(now time.Time) string {
	var bad []string
	of := 0
	for _, s := range r.certs.States() {
		if s.OnDemand { // clients have chosen the name
			continue
		}
		of++
		if !now.Before(s.NotAfter) { // or there is none
			bad = append(bad, s.Name)
		}
	}
	return someOf(bad, of, "names", "without a valid certificate")
}
