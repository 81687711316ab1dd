package proxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// validRoute forwards HTTP; the tests break one thing in it.
func validRoute() Route {
	return Route{
		Name:   "r",
		Match:  Match{Ports: Ports(8080), Domains: []string{"a.test"}},
		Action: forwardTo(Target{Host: "127.0.0.1", Port: 80}),
	}
}

func filesTLS(mode string) *TLS {
	return &TLS{Mode: mode, Certificate: Certificate{CertPath: "c.pem", KeyPath: "k.pem"}}
}

// wantFields checks that err has just these errors, each "path: fragment".
func wantFields(t *testing.T, name string, err error, want ...string) {
	t.Helper()
	fields := conf.Fields(err)
	if len(fields) != len(want) {
		t.Errorf("%s: %d errors, want %d:\n%v", name, len(fields), len(want), err)
		return
	}
	for i, w := range want {
		path, fragment, _ := strings.Cut(w, ": ")
		if fields[i].Path != path || !strings.Contains(fields[i].Msg, fragment) {
			t.Errorf("%s: got %q, want %q", name, fields[i], w)
		}
	}
}

func TestValidateRoute(t *testing.T) {
	t.Parallel()
	handler := http.NotFoundHandler()
	socket := SocketHandlerFunc(func(context.Context, net.Conn, ConnInfo) {})
	portFunc := func(ConnInfo) int { return 1 }
	udp := func(r *Route) { r.Match.Protocol, r.Match.Domains = "udp", nil }
	for _, test := range []struct {
		change func(*Route)
		want   string // "path below routes[0]: fragment of the message"
	}{
		{func(r *Route) { r.Name = "a\r\nX: y" }, "name: "},
		{func(r *Route) { r.Match.Ports = nil }, "match.ports: missing"},
		{func(r *Route) { r.Match.Ports = Ports(70000) }, "match.ports[0]: 70000 is not a port"},
		{func(r *Route) { r.Match.Ports = Ports(80, -1) }, "match.ports[1]: -1 is not a port"},
		{func(r *Route) { r.Match.Ports = []PortRange{{80, 65536}} }, "match.ports[0]: 65536 is not a port"},
		{func(r *Route) { r.Match.Ports = []PortRange{{90, 80}} }, "match.ports[0]: range from 90 to 80 is empty"},
		{func(r *Route) { r.Match.Ports = []PortRange{{0, 80}} }, "match.ports[0]: cannot begin at port 0"},
		{func(r *Route) { r.Match.Ports = []PortRange{{1, 65535}} }, "match.ports[0]: range of 65535 ports"},
		{func(r *Route) { r.Match.Domains = []string{"a.test", "b..test"} }, `match.domains[1]: "b..test"`},
		{func(r *Route) { r.Match.Domains = []string{""} }, `match.domains[0]: ""`},
		{func(r *Route) { r.Match.Domains = []string{"a.test:443"} }, `match.domains[0]: "a.test:443"`},
		{func(r *Route) { r.Match.Domains = []string{"a.*.test"} }, `match.domains[0]: "a.*.test"`},
		{func(r *Route) { r.Match.Domains = []string{"http://a"} }, `match.domains[0]: "http://a"`},
		{func(r *Route) { r.Match.Path = "api" }, `match.path: "api" must begin with /`},
		{func(r *Route) { r.Match.Path = "~(" }, `match.path: "(" is not a regular expression`},
		{func(r *Route) { r.Match.Path = "/a#b" }, `match.path: `},
		{func(r *Route) { r.Match.Path = "/a\nb" }, `match.path: `},
		{func(r *Route) { r.Match.Methods = []string{"GET", "A B"} }, `match.methods[1]: "A B"`},
		{func(r *Route) { r.Match.Methods = []string{"get"} }, `match.methods[0]: "get"`},
		{func(r *Route) { r.Match.Methods = []string{""} }, `match.methods[0]: ""`},
		{func(r *Route) { r.Match.Headers = map[string]string{"X Y": "*"} }, `match.headers["X Y"]: not a header name`},
		{func(r *Route) { r.Match.Headers = map[string]string{"content-length": "*"} }, `match.headers["content-length"]: cannot be a condition`},
		{func(r *Route) { r.Match.Headers = map[string]string{"Transfer-Encoding": "chunked"} }, `match.headers["Transfer-Encoding"]: cannot be a condition`},
		{func(r *Route) { r.Match.Headers = map[string]string{"X-A": "/(/"} }, `match.headers["X-A"]: not a regular expression`},
		{func(r *Route) { r.Match.Query = map[string]string{"q": "/[/i"} }, `match.query["q"]: not a regular expression`},
		{func(r *Route) { r.Match.ClientIP = []string{"10.0.0.0/8", "10.0.0.0/33"} }, `match.clientIp[1]: "10.0.0.0/33"`},
		{func(r *Route) { r.Match.ClientIP = []string{"localhost"} }, `match.clientIp[0]: "localhost"`},
		{func(r *Route) { r.Match.Protocol = "sctp" }, `match.protocol: "sctp"`},
		{func(r *Route) { r.Match.Protocol = "udp" }, "match.protocol: udp has no domains"},
		{func(r *Route) { r.Match.Protocol, r.Match.Domains, r.Action = "udp", nil, Action{Handler: handler} }, "action: udp can only be forwarded"},

		{func(r *Route) { r.Action = Action{} }, "action.type: missing"},
		{func(r *Route) { r.Action.Type, r.Action.Targets = "proxy", nil }, `action.type: "proxy"`},
		{func(r *Route) { r.Action = Action{Handler: handler, SocketHandler: socket} }, "action: has both"},
		{func(r *Route) { r.Action.Handler = handler; r.Action.Targets = nil }, `action.type: "forward" and a handler exclude each other`},
		{func(r *Route) { r.Action = Action{Handler: handler, Targets: r.Action.Targets} }, "action.targets: only forward has targets"},
		{func(r *Route) { r.Action.Targets = nil }, "action.targets: missing"},
		{func(r *Route) { r.Action = Action{Type: Serve} }, "action.root: missing"},
		{func(r *Route) { r.Action = Action{Type: Redirect} }, "action.redirect.to: missing"},
		{func(r *Route) { r.Action.Root = "/var/www" }, "action.root: only serve"},
		{func(r *Route) { r.Action.Redirect.To = "https://x" }, "action.redirect: only redirect"},
		{func(r *Route) { r.Action = Action{Type: Redirect, Redirect: RedirectTo{To: "https://{hsot}"}} }, "action.redirect.to: {hsot} is unknown; there are {scheme}, {host}"},
		{func(r *Route) { r.Action = Action{Type: Redirect, Redirect: RedirectTo{To: "https://{host"}} }, "action.redirect.to: without a }"},
		{func(r *Route) { r.Action = Action{Type: Redirect, Redirect: RedirectTo{To: "https://x/\r\nX: y"}} }, "action.redirect.to: control character"},
		{func(r *Route) { r.Action = Action{Type: Redirect, Redirect: RedirectTo{To: "{client_ip}"}} }, "action.redirect.to: {client_ip} is unknown"},
		{func(r *Route) { r.Action = Action{Type: Redirect, Redirect: RedirectTo{To: "/x", Status: 200}} }, "action.redirect.status: 200"},
		{func(r *Route) { r.Action = Action{Type: Redirect, Redirect: RedirectTo{To: "/x", Status: 304}} }, "action.redirect.status: 304"},

		{func(r *Route) { r.Action.Targets[0].Host = "" }, "action.targets[0].host: "},
		{func(r *Route) { r.Action.Targets[0].Host = "a b" }, `action.targets[0].host: "a b"`},
		{func(r *Route) { r.Action.Targets[0].Host = "a:80" }, `action.targets[0].host: "a:80"`},
		{func(r *Route) { r.Action.Targets[0].Host = "http://a" }, `action.targets[0].host: "http://a"`},
		{func(r *Route) { r.Action.Targets[0].Host = "10.0.0.256" }, `action.targets[0].host: "10.0.0.256"`},
		{func(r *Route) { r.Action.Targets[0].Port = 0 }, "action.targets[0].port: missing"},
		{func(r *Route) { r.Action.Targets[0].Port = 70000 }, "action.targets[0].port: 70000 is not a port (1-65535)"},
		{func(r *Route) { r.Action.Targets[0].Port = -2 }, "action.targets[0].port: -2 is not a port"},
		{func(r *Route) { r.Action.Targets[0].PortFunc = portFunc }, "action.targets[0].port: Port and PortFunc"},
		{func(r *Route) { r.Action.Targets[0].Weight = -1 }, "action.targets[0].weight: -1"},
		{func(r *Route) { r.Action.Targets[0].Weight = 1001 }, "action.targets[0].weight: 1001"},
		{func(r *Route) { r.Action.LoadBalancing.Algorithm = "random" }, `action.loadBalancing.algorithm: "random"`},
		{func(r *Route) { r.Action.LoadBalancing.Sticky = &Sticky{} }, `action.loadBalancing.sticky.cookie: `},
		{func(r *Route) { r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "a;b"} }, `action.loadBalancing.sticky.cookie: "a;b"`},
		{func(r *Route) { r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c", Path: "app"} }, `action.loadBalancing.sticky.path: "app"`},
		{func(r *Route) { r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c", Path: "/; Domain=x"} }, `action.loadBalancing.sticky.path: "/; Domain=x"`},
		{func(r *Route) { r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c", MaxAge: 1500 * time.Millisecond} }, `action.loadBalancing.sticky.maxAge: 1.5s`},
		{func(r *Route) { r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c", MaxAge: -time.Second} }, `action.loadBalancing.sticky.maxAge: -1s`},
		{func(r *Route) { r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c", SameSite: "Lax"} }, `action.loadBalancing.sticky.sameSite: "Lax"`},
		{func(r *Route) {
			r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c", SameSite: SameSiteNone, Secure: new(bool)}
		}, `action.loadBalancing.sticky.secure: browsers refuse`},
		{func(r *Route) { r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c", Secret: "***"} }, `action.loadBalancing.sticky.secret: `},
		{func(r *Route) {
			r.Action.TLS = &TLS{Mode: Passthrough}
			r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c"}
		}, "action.loadBalancing.sticky: needs HTTP"},
		{func(r *Route) {
			r.Action.TLS = &TLS{Mode: Passthrough}
			r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{Statuses: []int{500}}
		}, "action.loadBalancing.circuitBreaker.statuses: needs HTTP"},
		{func(r *Route) {
			r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{ConsecutiveFailures: -1, FailurePercent: -1}
		}, `action.loadBalancing.circuitBreaker: with both`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{FailurePercent: 101} }, `action.loadBalancing.circuitBreaker.failurePercent: 101`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{MinRequests: -1} }, `action.loadBalancing.circuitBreaker.minRequests: -1`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{Window: -1} }, `action.loadBalancing.circuitBreaker.window: -1ns`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{EjectionTime: -1} }, `action.loadBalancing.circuitBreaker.ejectionTime: -1ns`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{EjectionTime: 10} }, `action.loadBalancing.circuitBreaker.ejectionTime: 10ns is too short`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{Statuses: []int{503, 200}} }, `action.loadBalancing.circuitBreaker.statuses[1]: 200`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{Statuses: []int{600}} }, `action.loadBalancing.circuitBreaker.statuses[0]: 600`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{MaxEjectedPercent: 101} }, `action.loadBalancing.circuitBreaker.maxEjectedPercent: 101`},
		{func(r *Route) { r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{MaxEjectedPercent: -1} }, `action.loadBalancing.circuitBreaker.maxEjectedPercent: -1`},
		{func(r *Route) { r.Action.LoadBalancing.SlowStart = -time.Second }, `action.loadBalancing.slowStart: -1s`},
		{func(r *Route) { r.Action.LoadBalancing.Retry = Retry{Attempts: -1} }, `action.loadBalancing.retry.attempts: -1`},
		{func(r *Route) { r.Action.LoadBalancing.Retry = Retry{BudgetPercent: 101} }, `action.loadBalancing.retry.budgetPercent: 101`},
		{func(r *Route) { r.Action.LoadBalancing.Retry = Retry{BudgetPerSecond: -1} }, `action.loadBalancing.retry.budgetPerSecond: -1`},
		{func(r *Route) { r.Action.LoadBalancing.MaxConnectionsPerTarget = -1 }, `action.loadBalancing.maxConnectionsPerTarget: -1`},
		{func(r *Route) { r.Action.LoadBalancing.Queue = Queue{Size: 5} }, `action.loadBalancing.queue: nobody waits without maxConnectionsPerTarget`},
		{func(r *Route) {
			r.Action.LoadBalancing.MaxConnectionsPerTarget, r.Action.LoadBalancing.Queue = 1, Queue{Size: 1e6}
		}, "action.loadBalancing.queue.size: 1000000"},
		{func(r *Route) {
			r.Action.LoadBalancing.MaxConnectionsPerTarget, r.Action.LoadBalancing.Queue = 1, Queue{Timeout: -1}
		}, "action.loadBalancing.queue.timeout: -1ns"},
		{func(r *Route) { r.Action.LoadBalancing.HealthCheck = &HealthCheck{Path: "health"} }, `action.loadBalancing.healthCheck.path: "health"`},
		{func(r *Route) { r.Action.LoadBalancing.HealthCheck = &HealthCheck{Path: "/a b"} }, `action.loadBalancing.healthCheck.path: "/a b"`},
		{func(r *Route) { r.Action.LoadBalancing.HealthCheck = &HealthCheck{Path: "/a\r\nX: y"} }, `action.loadBalancing.healthCheck.path: `},
		{func(r *Route) { r.Action.LoadBalancing.HealthCheck = &HealthCheck{Port: 65536} }, "action.loadBalancing.healthCheck.port: 65536"},
		{func(r *Route) { r.Action.LoadBalancing.HealthCheck = &HealthCheck{Interval: -1} }, "action.loadBalancing.healthCheck.interval: -1ns"},
		{func(r *Route) { r.Action.LoadBalancing.HealthCheck = &HealthCheck{Timeout: -time.Second} }, "action.loadBalancing.healthCheck.timeout: -1s"},
		{func(r *Route) { r.Action.LoadBalancing.HealthCheck = &HealthCheck{HealthyAfter: -1} }, "action.loadBalancing.healthCheck.healthyAfter: -1"},
		{func(r *Route) { r.Action.LoadBalancing.HealthCheck = &HealthCheck{UnhealthyAfter: -1} }, "action.loadBalancing.healthCheck.unhealthyAfter: -1"},
		{func(r *Route) {
			r.Action.Targets[0].Port = PreservePort
			r.Action.LoadBalancing.HealthCheck = &HealthCheck{}
		}, "action.loadBalancing.healthCheck.port: missing"},

		{func(r *Route) { r.Action.TLS = &TLS{} }, "action.tls.mode: missing"},
		{func(r *Route) { r.Action.TLS = &TLS{Mode: "offload"} }, `action.tls.mode: "offload"`},
		{func(r *Route) { r.Action.TLS = &TLS{Mode: Terminate} }, "action.tls.certificate: missing"},
		{func(r *Route) { r.Action.TLS = filesTLS(Terminate); r.Action.TLS.Certificate.KeyPath = "" }, "action.tls.certificate.keyPath: missing"},
		{func(r *Route) { r.Action.TLS = filesTLS(Terminate); r.Action.TLS.Certificate.CertPath = "" }, "action.tls.certificate.certPath: missing"},
		{func(r *Route) { r.Action.TLS = filesTLS(Terminate); r.Action.TLS.Certificate.Auto = true }, `action.tls.certificate: "auto" and files`},
		{func(r *Route) { r.Action.TLS = filesTLS(Passthrough) }, "action.tls.certificate: passthrough"},
		{func(r *Route) { r.Action.TLS = &TLS{Mode: Passthrough, ClientAuth: &ClientAuth{CAPath: "x"}} }, "action.tls.clientAuth: passthrough"},
		{func(r *Route) { r.Action.TLS = &TLS{Mode: Passthrough}; r.Match.Path = "/x" }, "action.tls.mode: passthrough cannot see HTTP"},
		{func(r *Route) { r.Action.TLS = &TLS{Mode: Passthrough}; r.Match.Protocol = "http" }, "action.tls.mode: passthrough cannot see HTTP"},
		{func(r *Route) {
			r.Action.TLS = &TLS{Mode: Passthrough}
			r.Action.Headers.Response.Set = map[string]string{"X": "y"}
		}, "action.tls.mode: passthrough cannot see HTTP"},
		{func(r *Route) { r.Action = Action{Type: Serve, Root: "x", TLS: &TLS{Mode: Passthrough}} }, "action.tls.mode: only forward"},
		{func(r *Route) { r.Action = Action{Handler: handler, TLS: &TLS{Mode: Passthrough}} }, "action.tls.mode: only forward"},
		{func(r *Route) { r.Action = Action{Handler: handler, TLS: filesTLS(TerminateAndReencrypt)} }, "action.tls.mode: only forward"},
		{func(r *Route) { r.Action.TLS = filesTLS(Terminate); r.Action.TLS.ClientAuth = &ClientAuth{} }, "action.tls.clientAuth.caPath: missing"},
		{func(r *Route) { r.Action.TLS = filesTLS(Terminate); r.Action.TLS.Upstream.ServerName = "x" }, "action.tls.upstream: needs mode terminate-and-reencrypt"},
		{func(r *Route) {
			r.Action.TLS = filesTLS(TerminateAndReencrypt)
			r.Action.TLS.Upstream.ServerName = "a b"
		}, `action.tls.upstream.serverName: "a b"`},

		{func(r *Route) { r.Action.Headers.Request.Set = map[string]string{"X Y": "z"} }, `action.headers.request.set["X Y"]: not a header name`},
		{func(r *Route) { r.Action.Headers.Request.Add = map[string]string{"connection": "close"} }, `action.headers.request.add["connection"]: belongs to the connection`},
		{func(r *Route) { r.Action.Headers.Response.Set = map[string]string{"Content-Length": "1"} }, `action.headers.response.set["Content-Length"]: belongs to the connection`},
		{func(r *Route) { r.Action.Headers.Response.Set = map[string]string{"Transfer-Encoding": "x"} }, `action.headers.response.set["Transfer-Encoding"]: belongs to the connection`},
		{func(r *Route) { r.Action.Headers.Request.Set = map[string]string{"X-A": "{nope}"} }, `action.headers.request.set["X-A"]: {nope} is unknown`},
		{func(r *Route) { r.Action.Headers.Request.Set = map[string]string{"X-A": "a\nb"} }, `action.headers.request.set["X-A"]: `},
		{func(r *Route) { r.Action.Headers.Response.Remove = []string{"X-A", "X A"} }, `action.headers.response.remove[1]: "X A"`},

		{func(r *Route) { r.Action.Security.IPAllowList = []string{"10.0.0.0/8", "x"} }, `action.security.ipAllowList[1]: "x"`},
		{func(r *Route) { r.Action.Security.IPBlockList = []string{"::/129"} }, `action.security.ipBlockList[0]: "::/129"`},
		{func(r *Route) { r.Action.Security.MaxConnections = -1 }, `action.security.maxConnections: -1`},
		{func(r *Route) { r.Action.Security.RateLimit = &RateLimit{} }, `action.security.rateLimit.requestsPerSecond: must be more than 0`},
		{func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: math.NaN()} }, `action.security.rateLimit.requestsPerSecond: must be more than 0`},
		{func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1, Burst: -1} }, `action.security.rateLimit.burst: -1`},
		{func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: math.Inf(1)} }, `action.security.rateLimit.requestsPerSecond: +Inf is more than`},
		{func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1e-5} }, `action.security.rateLimit.requestsPerSecond: 1e-05 is too slow`},
		{func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1, Burst: 86401} }, `action.security.rateLimit.requestsPerSecond: 1 is too slow`},
		{func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1, By: "user"} }, `action.security.rateLimit.by: "user" is not known`},
		{func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1, By: "header:"} }, `action.security.rateLimit.by: "" is not a header name`},
		{func(r *Route) {
			r.Action = Action{SocketHandler: socket, Security: Security{RateLimit: &RateLimit{RequestsPerSecond: 1}}}
		}, "action.security.rateLimit: counts requests"},
		{func(r *Route) {
			r.Action.TLS = &TLS{Mode: Passthrough}
			r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1}
		}, "action.security.rateLimit: counts requests"},
		{func(r *Route) { r.Action.ProxyProtocol = &ProxyProtocol{Accept: []string{"x"}} }, `action.proxyProtocol.accept[0]: "x"`},
		{func(r *Route) { r.Action.ProxyProtocol = &ProxyProtocol{Send: 3} }, `action.proxyProtocol.send: 3`},
		{func(r *Route) { r.Action.ProxyProtocol = &ProxyProtocol{Send: -1} }, `action.proxyProtocol.send: -1`},
		{func(r *Route) { r.Action = Action{Handler: handler, ProxyProtocol: &ProxyProtocol{Send: 2}} }, `action.proxyProtocol.send: only forward`},
		{func(r *Route) { r.Action = Action{SocketHandler: socket, ProxyProtocol: &ProxyProtocol{Send: 1}} }, `action.proxyProtocol.send: only forward`},

		{func(r *Route) { r.Action.UpstreamProtocol, r.Action.ProxyProtocol = H2C, &ProxyProtocol{Send: 1} }, `action.upstreamProtocol: "h2c" and proxyProtocol.send exclude`},

		// What datagrams have not.
		{func(r *Route) { udp(r); r.Action = Action{SocketHandler: socket} }, "action: udp can only be forwarded"},
		{func(r *Route) { udp(r); r.Action = Action{Type: Serve, Root: "x"} }, "action: udp can only be forwarded"},
		{func(r *Route) { udp(r); r.Action = Action{Type: Redirect, Redirect: RedirectTo{To: "/x"}} }, "action: udp can only be forwarded"},
		{func(r *Route) { udp(r); r.Match.Path = "/x" }, "match.protocol: udp has no domains"},
		{func(r *Route) { udp(r); r.Action.TLS = filesTLS(Terminate) }, "action.tls: udp has no TLS"},
		{func(r *Route) { udp(r); r.Action.TLS = &TLS{Mode: Passthrough} }, "action.tls: udp has no TLS"},
		{func(r *Route) { udp(r); r.Action.Headers.Request.Set = map[string]string{"X": "y"} }, "action.headers: udp has no HTTP"},
		{func(r *Route) { udp(r); r.Action.Headers.Response.Remove = []string{"X"} }, "action.headers: udp has no HTTP"},
		{func(r *Route) { udp(r); r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c"} }, "action.loadBalancing.sticky: udp has no cookies"},
		{func(r *Route) { udp(r); r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1} }, "action.security.rateLimit: udp has no requests"},
		{func(r *Route) { udp(r); r.Action.ProxyProtocol = &ProxyProtocol{Send: 2} }, "action.proxyProtocol: "},
		{func(r *Route) { udp(r); r.Action.ProxyProtocol = &ProxyProtocol{Accept: []string{"::1"}} }, "action.proxyProtocol: "},

		// A socket handler takes whole connections and sees no HTTP.
		{func(r *Route) { r.Action = Action{SocketHandler: socket}; r.Match.Path = "/x" }, ""},
		{func(r *Route) { r.Action = Action{SocketHandler: socket}; r.Match.Methods = []string{"GET"} }, ""},
		{func(r *Route) {
			r.Action = Action{SocketHandler: socket}
			r.Action.Headers.Request.Set = map[string]string{"X": "y"}
		}, ""},
	} {
		r := validRoute()
		test.change(&r)
		cfg := Config{Routes: []Route{r}}
		if test.want == "" {
			if err := cfg.Validate(); err == nil {
				t.Errorf("%+v is taken", r)
			}
			continue
		}
		wantFields(t, fmt.Sprintf("%+v", r), cfg.Validate(), "routes[0]."+test.want)
		if _, err := New(cfg); err == nil {
			t.Errorf("New takes %+v", r)
		}
	}
}

func TestValidateConfig(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cfg  Config
		want []string
	}{
		{Config{ListenHost: "example.com"}, []string{`listenHost: "example.com"`}},
		{Config{ListenHost: "127.0.0.1:80"}, []string{`listenHost: "127.0.0.1:80"`}},
		{Config{ListenHost: "[localhost"}, []string{`listenHost: "[localhost"`}},
		{Config{TrustedProxies: []string{"10.0.0.0/8", "proxy"}}, []string{`trustedProxies[1]: "proxy"`}},
		{Config{MaxConnections: -1}, []string{"maxConnections: -1"}},
		{Config{MaxConnectionsPerIP: -1}, []string{"maxConnectionsPerIp: -1"}},
		{Config{MaxUDPSessions: -1}, []string{"maxUdpSessions: -1"}},
		{Config{MaxHeaderBytes: 100}, []string{"maxHeaderBytes: 100"}},
		{Config{MaxHeaderBytes: -1}, []string{"maxHeaderBytes: -1"}},
		{Config{MaxHeaderBytes: 1 << 30}, []string{"maxHeaderBytes: "}},
		{Config{HTTP3: HTTP3{MaxConcurrentStreams: -1}}, []string{"http3.maxConcurrentStreams: -1"}},
		{Config{HTTP3: HTTP3{Enabled: true, MaxConcurrentStreams: 1 << 20}}, []string{"http3.maxConcurrentStreams: "}},
		{Config{ACME: &ACME{Email: "nobody"}}, []string{`acme.email: "nobody"`}},
		{Config{ACME: &ACME{CADirectory: "http://ca/"}}, []string{`acme.caDirectory: "http://ca/"`}},
		{Config{ACME: &ACME{Challenges: []string{"dns-01", "smtp"}}}, []string{`acme.challenges[1]: "smtp"`}},
		// All at once, in the order of the configuration.
		{Config{ListenHost: "x", MaxConnections: -1, Routes: []Route{
			validRoute(),
			{Name: "r", Match: Match{Ports: Ports(70000)}, Action: Action{Type: "x"}},
			{Action: forwardTo(Target{Host: "", Port: -5})},
		}}, []string{`listenHost: "x"`, "maxConnections: -1", `routes[1].name: "r" is the name of routes[0]`, "routes[1].match.ports[0]: 70000", `routes[1].action.type: "x"`,
			"routes[2].match.ports: missing", "routes[2].action.targets[0].host: ", "routes[2].action.targets[0].port: -5"}},
	} {
		wantFields(t, fmt.Sprintf("%+v", test.cfg), test.cfg.Validate(), test.want...)
	}
}

// Each error can be had by itself.
func TestValidateErrors(t *testing.T) {
	t.Parallel()
	r := validRoute()
	r.Action.Targets[0].Port = 70000
	_, err := New(Config{Routes: []Route{r}})
	var field *FieldError
	if !errors.As(err, &field) || field.Path != "routes[0].action.targets[0].port" {
		t.Errorf("%v", err)
	}
	if err == nil || err.Error() != "routes[0].action.targets[0].port: 70000 is not a port (1-65535)" {
		t.Errorf("message %q", err)
	}
}

func TestValidRoutes(t *testing.T) {
	t.Parallel()
	socket := SocketHandlerFunc(func(context.Context, net.Conn, ConnInfo) {})
	for i, change := range []func(*Route){
		func(r *Route) {},
		func(r *Route) { r.Name = "" },
		func(r *Route) { r.Match.Ports = []PortRange{{0, 0}, {1, 4096}, {65535, 65535}} },
		func(r *Route) {
			r.Match.Domains = []string{"*", "*.a.test", "bücher.test", "192.0.2.1", "2001:db8::1", "[::1]", "_x.test", "A.TEST."}
		},
		func(r *Route) { r.Match.Domains = nil },
		func(r *Route) { r.Match.Path = "~^/[a-z]+$" },
		func(r *Route) { r.Match.Path = "*" },
		func(r *Route) { r.Match.Methods = []string{"GET", "M-SEARCH"} },
		func(r *Route) { r.Match.Headers = map[string]string{"X-A": "/^a/i", "Host": "*.test", "x-b": ""} },
		func(r *Route) { r.Match.Query = map[string]string{"a b": "*", "": "x"} },
		func(r *Route) { r.Match.ClientIP = []string{"10.1.2.3/8", "::1", "::ffff:192.0.2.1"} },
		func(r *Route) { r.Match.Protocol = "http" },
		func(r *Route) { r.Match.Protocol = "tcp" },
		func(r *Route) { r.Match.Protocol, r.Match.Domains = "udp", nil },
		func(r *Route) {
			r.Action.LoadBalancing = LoadBalancing{Sticky: &Sticky{Cookie: "c", Path: "/a", MaxAge: time.Hour, SameSite: SameSiteNone, Secret: "s"},
				CircuitBreaker: &CircuitBreaker{ConsecutiveFailures: -1, FailurePercent: 100, Statuses: []int{400, 599}, MaxEjectedPercent: 1}, SlowStart: time.Minute,
				Retry: Retry{Attempts: 1, BudgetPercent: -1}, MaxConnectionsPerTarget: 1, Queue: Queue{Size: -1, Timeout: time.Second}}
		},
		func(r *Route) {
			r.Action.TLS = &TLS{Mode: Passthrough}
			r.Action.LoadBalancing = LoadBalancing{CircuitBreaker: &CircuitBreaker{}, SlowStart: time.Minute, MaxConnectionsPerTarget: 1}
		},
		func(r *Route) { r.Priority = math.MinInt },
		func(r *Route) {
			r.Action.Targets = []Target{{Host: "a.test", Port: PreservePort, Weight: 1000}, {Host: "::1", Port: 1}, {Host: "[::1]", Port: 1}, {Host: "x", PortFunc: func(ConnInfo) int { return 1 }}}
		},
		func(r *Route) {
			r.Action = Action{Type: Redirect, Redirect: RedirectTo{To: "https://{host}:{port}{path}?{query}", Status: 301}}
		},
		func(r *Route) { r.Action = Action{Type: Serve, Root: "/nowhere/yet"} },
		func(r *Route) { r.Action = Action{SocketHandler: socket} },
		func(r *Route) { r.Action = Action{SocketHandler: socket, TLS: &TLS{Mode: Passthrough}} },
		func(r *Route) { r.Action = Action{SocketHandler: socket, TLS: filesTLS(Terminate)} },
		func(r *Route) { r.Action.TLS = filesTLS(Terminate); r.Action.TLS.ClientAuth = &ClientAuth{CAPath: "x"} },
		func(r *Route) {
			r.Action.TLS = filesTLS(TerminateAndReencrypt)
			r.Action.TLS.Upstream = UpstreamTLS{ServerName: "x", CAPath: "y", InsecureSkipVerify: true}
		},
		func(r *Route) { r.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{Auto: true}} },
		func(r *Route) { r.Action.TLS = &TLS{Mode: Passthrough} },
		func(r *Route) {
			r.Action.Headers.Request.Set = map[string]string{"Host": "{host}", "X": "{client_ip}{scheme}{port}{route}"}
		},
		func(r *Route) {
			r.Action.Headers.Response = HeaderEdit{Remove: []string{"Server"}, Add: map[string]string{"X": ""}}
		},
		func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1e6, By: "header:X-Key"} },
		func(r *Route) { r.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1.0 / 3600, Burst: 24} },
		func(r *Route) {
			r.Action.LoadBalancing = LoadBalancing{Algorithm: IPHash, HealthCheck: &HealthCheck{Path: "/h?x=y", Port: 1, Interval: time.Second}}
		},
	} {
		r := validRoute()
		change(&r)
		cfg := Config{Routes: []Route{r}}
		if err := cfg.Validate(); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	for i, cfg := range []Config{
		{}, {ListenHost: "::1"}, {ListenHost: "127.0.0.1"}, {ListenHost: "localhost"}, {MaxHeaderBytes: 1024}, {Timeouts: Timeouts{Idle: -1}},
		{ACME: &ACME{}}, {ACME: &ACME{Email: "a@b.test", CADirectory: "https://ca/", Challenges: []string{"http-01"}}},
	} {
		if err := cfg.Validate(); err != nil {
			t.Errorf("config %d: %v", i, err)
		}
	}
}

// Routes that cannot both do what they say.
func TestValidateTogether(t *testing.T) {
	t.Parallel()
	off := false
	pass := &TLS{Mode: Passthrough}
	one, two := filesTLS(Terminate), filesTLS(Terminate)
	two.Certificate.CertPath = "other.pem"
	strict := filesTLS(Terminate)
	strict.ClientAuth = &ClientAuth{CAPath: "ca.pem"}
	reencrypt := filesTLS(TerminateAndReencrypt)
	reencrypt.Upstream.CAPath = "x"
	route := func(changes ...func(*Route)) Route {
		r := validRoute()
		r.Name = ""
		for _, change := range changes {
			change(&r)
		}
		return r
	}
	tls := func(s *TLS) func(*Route) { return func(r *Route) { r.Action.TLS = s } }
	ports := func(p ...PortRange) func(*Route) { return func(r *Route) { r.Match.Ports = p } }
	domains := func(d ...string) func(*Route) { return func(r *Route) { r.Match.Domains = d } }
	path := func(p string) func(*Route) { return func(r *Route) { r.Match.Path = p } }
	clients := func(c ...string) func(*Route) { return func(r *Route) { r.Match.ClientIP = c } }
	prio := func(n int) func(*Route) { return func(r *Route) { r.Priority = n } }
	disabled := func(r *Route) { r.Enabled = &off }
	udp := func(r *Route) { r.Match.Protocol, r.Match.Domains = "udp", nil }
	for _, test := range []struct {
		name string
		a, b Route
		want string // error at routes[1], "" for none
	}{
		{"same match", route(), route(), "match: on port 8080 the same as of routes[0]"},
		{"same match, one disabled", route(), route(disabled), ""},
		{"same match, the first disabled", route(disabled), route(), ""},
		{"same match, other priority", route(), route(prio(1)), ""},
		{"same domain, spelt differently", route(domains("a.test")), route(domains("A.Test.")), "match: the same as"},
		{"one of the domains", route(domains("b.test", "a.test")), route(domains("a.test", "c.test")), "match: the same as"},
		{"any domain, said and not said", route(domains()), route(domains("*")), "match: the same as"},
		{"wildcard and exact", route(domains("*.test")), route(domains("a.test")), ""},
		{"overlapping ports", route(ports(PortRange{80, 90})), route(ports(PortRange{90, 95})), "match: on port 90 the same as"},
		{"other ports", route(ports(PortRange{80, 89})), route(ports(PortRange{90, 95})), ""},
		{"other path", route(path("/a")), route(path("/b")), ""},
		{"other clients", route(clients("10.0.0.0/8")), route(clients("192.0.2.0/24")), ""},
		{"same clients, other order", route(clients("10.0.0.0/8", "192.0.2.1")), route(clients("192.0.2.1", "10.0.0.0/8")), "match: the same as"},
		{"any port twice", route(ports(PortRange{0, 0})), route(ports(PortRange{0, 0})), "match: on port 0"},

		{"same port for UDP", route(udp), route(udp), "match: on port 8080 the same as of routes[0]"},
		{"one of the ports for UDP", route(udp, ports(PortRange{80, 90})), route(udp, ports(PortRange{90, 90})), "match: on port 90 the same as"},
		{"same clients for UDP", route(udp, clients("10.0.0.0/8", "::1")), route(udp, clients("::1", "10.0.0.0/8")), "match: on port 8080 the same as"},
		{"other clients for UDP", route(udp, clients("10.0.0.0/8")), route(udp), ""},
		{"other priority for UDP", route(udp), route(udp, prio(1)), ""},
		{"UDP and TCP", route(udp), route(domains()), ""},

		{"passthrough and termination", route(tls(pass)), route(tls(one), path("/x")), "action.tls: differs from that of routes[0]"},
		{"passthrough and termination, other priority", route(tls(pass)), route(tls(one), prio(1)), "action.tls: differs"},
		{"passthrough and termination of other domains", route(tls(pass)), route(tls(one), domains("b.test")), ""},
		{"passthrough and termination on other ports", route(tls(pass)), route(tls(one), ports(PortRange{81, 81})), ""},
		{"passthrough and termination for other clients", route(tls(pass), clients("10.0.0.0/8")), route(tls(one)), ""},
		{"passthrough of a wildcard", route(tls(pass), domains("*.test")), route(tls(one)), ""},
		{"passthrough disabled", route(tls(pass), disabled), route(tls(one)), ""},
		{"other certificate", route(tls(one)), route(tls(two), path("/x")), "action.tls: differs"},
		{"same certificate", route(tls(one)), route(tls(filesTLS(Terminate)), path("/x")), ""},
		{"automatic and files", route(tls(one)), route(tls(&TLS{Mode: Terminate, Certificate: Certificate{Auto: true}}), path("/x")), "action.tls: differs"},
		{"client authentication and none", route(tls(one)), route(tls(strict), path("/x")), "action.tls: differs"},
		{"terminate and reencrypt", route(tls(one)), route(tls(reencrypt), path("/x")), ""},
		{"TLS and plaintext", route(tls(one)), route(), ""},
	} {
		cfg := Config{Routes: []Route{test.a, test.b}}
		if test.want == "" {
			if err := cfg.Validate(); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		wantFields(t, test.name, cfg.Validate(), "routes[1]."+test.want)
	}
}

// What this version reads but cannot do is said at the start, not ignored.
func TestUnready(t *testing.T) {
	for path, change := range map[string]func(*Route){
		"action.tls.certificate": func(r *Route) { r.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{Auto: true}} },
	} {
		r := validRoute()
		r.Match.Ports = Ports(0)
		change(&r)
		p, err := New(Config{ListenHost: "127.0.0.1", Routes: []Route{handlerRoute("first", Match{}), r}})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		wantFields(t, path, p.Start(t.Context()), "routes[1]."+path+": \"auto\" needs a source of certificates")
		wantFields(t, path, p.Unready(), "routes[1]."+path+": \"auto\" needs a source of certificates")
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		// A disabled route asks for nothing.
		r.Enabled = new(bool)
		p, _ = New(Config{ListenHost: "127.0.0.1", Routes: []Route{r}})
		if err := p.Unready(); err != nil {
			t.Errorf("%s, disabled: %v", path, err)
		}
	}
}

// Validate does not change what it looks at, and New keeps its own copy.
func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	r := validRoute()
	r.Match.Headers = map[string]string{"X-A": "1"}
	routes := []Route{r}
	p, err := New(Config{Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	routes[0].Match.Domains[0] = "changed.test"
	routes[0].Match.Headers["X-A"] = "changed"
	routes[0].Action.Targets[0].Host = "changed"
	got := p.Routes()[0]
	if got.Match.Domains[0] != "a.test" || got.Match.Headers["X-A"] != "1" || got.Action.Targets[0].Host != "127.0.0.1" {
		t.Errorf("%+v", got)
	}
	got.Match.Domains[0] = "changed.test"
	if again := p.Routes()[0]; !slices.Equal(again.Match.Domains, []string{"a.test"}) {
		t.Errorf("%+v", again)
	}
}
