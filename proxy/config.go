package proxy

import (
	"net/http"
	"time"
)

// Config is everything about a [Proxy] that can be written as JSON. What
// cannot (loggers, listeners, certificate hooks) is an [Option].
//
// The zero value of every field is a sensible default.
type Config struct {
	// ListenHost is the address that route ports bind on. The default ""
	// means all interfaces, IPv4 and IPv6.
	ListenHost string `json:"listenHost"`

	// Routes decides where traffic goes; see [Route]. It may be empty: a
	// Proxy without routes starts, listens nowhere and waits for UpdateRoutes.
	Routes []Route `json:"routes"`

	// AllowSessionTicket permits TLS session resumption by ticket
	// (RFC 5077, RFC 8446 section 2.2). The default nil means true.
	AllowSessionTicket *bool `json:"allowSessionTicket"`

	// TrustedProxies are the addresses and CIDR blocks of proxies in front of
	// this one. Only their X-Forwarded-*, X-Real-IP and Forwarded headers are
	// passed on, and X-Forwarded-For is extended; those of anyone else are
	// removed or replaced.
	TrustedProxies []string `json:"trustedProxies"`

	// MaxConnections limits client connections open at once over all ports.
	// More are closed as soon as they are accepted. The default 0 means no
	// limit.
	MaxConnections int `json:"maxConnections"`

	// MaxConnectionsPerIP is the same limit for one client address.
	MaxConnectionsPerIP int `json:"maxConnectionsPerIp"`

	// MaxHeaderBytes limits the head of an HTTP request. The default 0 means
	// 16 KiB.
	MaxHeaderBytes int `json:"maxHeaderBytes"`

	// Timeouts bounds every wait of the data path.
	Timeouts Timeouts `json:"timeouts"`

	// ACME tells how routes with certificate "auto" come by one. A Proxy does
	// not obtain certificates itself: the Router does, or a host that passes
	// [WithGetCertificate].
	ACME *ACME `json:"acme"`
}

// Timeouts bounds the waits of the data path. Zero means the default named at
// each field; a negative value means no limit.
type Timeouts struct {
	// Route is the total time a new connection has to tell where it wants to
	// go: first bytes, TLS handshake. Default 10s.
	Route time.Duration `json:"route"`
	// RequestHead is the time to read the head of an HTTP request once its
	// connection has been routed. Default 10s.
	RequestHead time.Duration `json:"requestHead"`
	// KeepAlive is how long an HTTP connection may idle between requests.
	// Default 2m.
	KeepAlive time.Duration `json:"keepAlive"`
	// Connect is the time to reach one target, its TLS handshake included.
	// Default 5s.
	Connect time.Duration `json:"connect"`
	// ResponseHead is the time an HTTP target has to begin its answer after
	// it has been sent the whole request. Default 60s.
	ResponseHead time.Duration `json:"responseHead"`
	// Idle is how long a TCP stream, an upgraded connection (WebSocket) or an
	// HTTP body may stand still in both directions. Default 1h.
	Idle time.Duration `json:"idle"`
	// Drain is how long connections of a removed route, and at Stop without a
	// context deadline all connections, may go on before they are closed.
	// Default 30s.
	Drain time.Duration `json:"drain"`
}

// ACME configures automatic certificates (RFC 8555).
type ACME struct {
	// Enabled turns automatic certificates on. The default nil means true
	// where the section is present.
	Enabled *bool `json:"enabled"`
	// Email is the account's contact.
	Email string `json:"email"`
	// UseProduction selects Let's Encrypt's production service instead of
	// its staging service.
	UseProduction bool `json:"useProduction"`
	// AutoRenew renews certificates before they expire. The default nil means
	// true.
	AutoRenew *bool `json:"autoRenew"`
	// CADirectory is the directory URL of another certification authority.
	CADirectory string `json:"caDirectory"`
	// CARootPath is a PEM file of roots to trust when talking to CADirectory.
	CARootPath string `json:"caRootPath"`
	// Challenges limits and orders the challenge types: "dns-01",
	// "tls-alpn-01", "http-01". Empty means all that are possible.
	Challenges []string `json:"challenges"`
}

// Route sends the traffic that Match describes to where Action says.
//
// Of several routes that match, the one with the higher Priority wins, then
// the more specific (exact domain before wildcard before any; exact path
// before longer glob before shorter; more conditions before fewer), then the
// one given first.
type Route struct {
	// Name identifies the route in logs, statistics and across UpdateRoutes.
	// It must be unique. A route without one is identified by its Match.
	Name string `json:"name" conf:"key"`
	// Priority orders routes, higher first. Default 0.
	Priority int `json:"priority"`
	// Enabled set to false takes the route out of service. The default nil
	// means true.
	Enabled *bool `json:"enabled"`
	// Match says which traffic the route takes.
	Match Match `json:"match"`
	// Action says what happens to it.
	Action Action `json:"action"`
}

// Match is a set of conditions, all of which must hold. An empty condition
// always holds, except Ports, which is required.
type Match struct {
	// Ports are the ports the route listens on. Port 0 binds any free port;
	// [Proxy.Addrs] tells which.
	Ports []PortRange `json:"ports"`
	// Domains are host names: exact, "*.example.com" (exactly one label, as
	// in certificates), or "*" for any. They are compared with the TLS server
	// name or the HTTP host, without regard to case, port or trailing dot;
	// internationalised names may be written either way.
	Domains []string `json:"domains"`
	// Path is an exact path, a glob in which * stands for any characters,
	// slashes included ("/api/*"), or a regular expression (RE2) after a
	// tilde ("~^/v[0-9]+/"). HTTP only.
	Path string `json:"path"`
	// Methods are HTTP methods. HTTP only.
	Methods []string `json:"methods"`
	// Headers are conditions on request headers: name to glob, or to regular
	// expression written /.../ or /.../i. HTTP only.
	Headers map[string]string `json:"headers"`
	// Query are conditions on query parameters, written like Headers. HTTP only.
	Query map[string]string `json:"query"`
	// ClientIP are client addresses and CIDR blocks.
	ClientIP []string `json:"clientIp"`
	// Protocol is what the route takes:
	//
	//   - "" takes any TCP connection. A route that forwards under a domain,
	//     after terminating TLS, or on a port with such routes speaks HTTP with
	//     clients that do, which their first bytes tell, and passes any other
	//     stream through. A client that says nothing is closed.
	//   - "tcp" passes the stream through without looking inside, unless a
	//     condition or the action is about HTTP, or a domain must be found in
	//     it. It is the choice for protocols in which the server speaks first;
	//     on a port shared with other routes that works once the client has
	//     been silent for Timeouts.Route.
	//   - "http" takes only HTTP.
	//   - "udp" takes datagrams.
	Protocol string `json:"protocol"`
}

// PortRange is a range of ports, both ends included. Written as JSON it is a
// number, or an object with from and to.
type PortRange struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// Ports makes a list of single ports for [Match].
func Ports(ports ...int) []PortRange {
	list := make([]PortRange, len(ports))
	for i, p := range ports {
		list[i] = PortRange{From: p, To: p}
	}
	return list
}

// Values of [Action.Type].
const (
	Forward  = "forward"
	Redirect = "redirect"
	Serve    = "serve"
)

// Action is what happens to matched traffic. Exactly one of Type, Handler and
// SocketHandler is given.
type Action struct {
	// Type is [Forward], [Redirect] or [Serve].
	Type string `json:"type"`
	// Targets are where Forward sends traffic to.
	Targets []Target `json:"targets"`
	// LoadBalancing chooses among several Targets.
	LoadBalancing LoadBalancing `json:"loadBalancing"`
	// TLS says what happens to TLS. Nil means that the route takes plaintext,
	// or, if it forwards a stream, whatever comes.
	TLS *TLS `json:"tls"`
	// Redirect is the answer of a Redirect action.
	Redirect RedirectTo `json:"redirect"`
	// Root is the folder a Serve action serves.
	Root string `json:"root"`
	// Headers edits requests and responses. HTTP only.
	Headers HeaderEdits `json:"headers"`
	// Security restricts who may use the route.
	Security Security `json:"security"`
	// ProxyProtocol is about the PROXY protocol, in and out.
	ProxyProtocol *ProxyProtocol `json:"proxyProtocol"`

	// Handler answers HTTP requests in the host's process. It finds the
	// connection's [ConnInfo] with [ConnInfoFrom].
	Handler http.Handler `json:"-"`
	// SocketHandler takes over whole connections in the host's process.
	SocketHandler SocketHandler `json:"-"`
}

// PreservePort as a Target's Port stands for the port that the client
// connected to. Written as JSON it is "preserve".
const PreservePort = -1

// Target is one server behind a route.
type Target struct {
	// Host is a name or an address.
	Host string `json:"host"`
	// Port is a port number or [PreservePort].
	Port int `json:"port" conf:"preserve=-1"`
	// Weight is the target's share of the traffic, 1 to 1000. The default 0
	// means 1.
	Weight int `json:"weight"`
	// PortFunc chooses the port for each connection, instead of Port. A
	// result that is not a port fails the connection.
	PortFunc func(ConnInfo) int `json:"-"`
}

// Values of [LoadBalancing.Algorithm].
const (
	RoundRobin       = "round-robin"
	LeastConnections = "least-connections"
	PowerOfTwo       = "p2c"
	IPHash           = "ip-hash"
)

// LoadBalancing chooses among the targets of a route.
type LoadBalancing struct {
	// Algorithm is [RoundRobin] (the default), [LeastConnections],
	// [PowerOfTwo] (the less loaded of two random targets) or [IPHash] (a
	// client address stays with its target as long as that is healthy and below
	// its limit). All of them honour weights.
	Algorithm string `json:"algorithm"`
	// Sticky keeps a client with its target by a cookie.
	Sticky *Sticky `json:"sticky"`
	// HealthCheck probes targets, so that dead ones get no traffic.
	HealthCheck *HealthCheck `json:"healthCheck"`
	// CircuitBreaker ejects targets that fail with real traffic.
	CircuitBreaker *CircuitBreaker `json:"circuitBreaker"`
	// SlowStart is how long a target that was out of service, or that
	// UpdateRoutes has added, takes to get its full share of the traffic. It
	// begins with a tenth. Sticky clients it has at once. The default 0 means
	// that it has its share at once.
	SlowStart time.Duration `json:"slowStart"`
	// Retry limits how often another target is tried.
	Retry Retry `json:"retry"`
	// MaxConnectionsPerTarget is how many streams and requests a target gets at
	// once, counting those of other routes. More wait in the Queue. The default
	// 0 means no limit.
	MaxConnectionsPerTarget int `json:"maxConnectionsPerTarget"`
	// Queue is where they wait.
	Queue Queue `json:"queue"`
}

// HealthCheck probes a target at intervals, beginning at once. A target counts
// as healthy until it fails.
type HealthCheck struct {
	// Path is requested with GET; an answer of 2xx or 3xx is healthy. Without
	// a Path, a TCP connection that opens is.
	Path string `json:"path"`
	// Port is probed instead of the target's. It is needed where the target's
	// port is not fixed.
	Port int `json:"port"`
	// Interval is the time between probes. Default 10s.
	Interval time.Duration `json:"interval"`
	// Timeout is the limit of one probe. Default 2s.
	Timeout time.Duration `json:"timeout"`
	// HealthyAfter is how many successes in a row bring a target back.
	// Default 2.
	HealthyAfter int `json:"healthyAfter"`
	// UnhealthyAfter is how many failures in a row take it out. Default 3.
	UnhealthyAfter int `json:"unhealthyAfter"`
}

// Values of [TLS.Mode].
const (
	Terminate             = "terminate"
	Passthrough           = "passthrough"
	TerminateAndReencrypt = "terminate-and-reencrypt"
)

// TLS says what a route does with TLS.
type TLS struct {
	// Mode is [Terminate], [Passthrough] (forward the TLS stream untouched,
	// by its server name) or [TerminateAndReencrypt] (terminate, and speak
	// TLS to the target too).
	Mode string `json:"mode"`
	// Certificate is what clients are shown. Passthrough needs none.
	Certificate Certificate `json:"certificate"`
	// ClientAuth asks clients for a certificate.
	ClientAuth *ClientAuth `json:"clientAuth"`
	// Upstream is about TLS to the target, for TerminateAndReencrypt.
	Upstream UpstreamTLS `json:"upstream"`
}

// Certificate names a server certificate. Written as JSON it is "auto", or an
// object with certPath and keyPath.
type Certificate struct {
	// Auto takes the certificate from [WithGetCertificate], or in a Router
	// from certificate automation.
	Auto bool `json:"-"`
	// CertPath is a PEM file with the certificate and its chain.
	CertPath string `json:"certPath"`
	// KeyPath is a PEM file with the private key.
	KeyPath string `json:"keyPath"`
}

// ClientAuth asks clients for a certificate and refuses those without a valid
// one.
type ClientAuth struct {
	// CAPath is a PEM file with the authorities that may have signed it.
	CAPath string `json:"caPath"`
}

// UpstreamTLS is about TLS to a target.
type UpstreamTLS struct {
	// ServerName is sent to and verified of the target. The default is the
	// target's Host, or if that is an address the name the client asked for.
	ServerName string `json:"serverName"`
	// CAPath is a PEM file with the authorities to trust instead of the
	// system's.
	CAPath string `json:"caPath"`
	// InsecureSkipVerify accepts any certificate of the target.
	InsecureSkipVerify bool `json:"insecureSkipVerify"`
}

// RedirectTo is the answer of a Redirect action.
type RedirectTo struct {
	// To is the new location. It may contain {scheme}, {host} (without port),
	// {port}, {uri} (path and query), {path} and {query}.
	To string `json:"to"`
	// Status is 301, 302, 303, 307 or 308. The default 0 means 308.
	Status int `json:"status"`
}

// HeaderEdits edits the headers of requests to targets and of responses to
// clients.
type HeaderEdits struct {
	Request  HeaderEdit `json:"request"`
	Response HeaderEdit `json:"response"`
}

// HeaderEdit is applied in the order Remove, Set, Add. Values of Set and Add
// may contain {client_ip}, {host}, {scheme}, {port} and {route}.
type HeaderEdit struct {
	Set    map[string]string `json:"set"`
	Add    map[string]string `json:"add"`
	Remove []string          `json:"remove"`
}

// Security restricts who may use a route. Blocked clients get 403 over HTTP;
// other connections are closed.
type Security struct {
	// IPAllowList, if not empty, is who may use the route: addresses and CIDR
	// blocks.
	IPAllowList []string `json:"ipAllowList"`
	// IPBlockList is who may not, even if allowed above.
	IPBlockList []string `json:"ipBlockList"`
	// MaxConnections limits what the route carries at once: streams, or HTTP
	// requests, where more are answered with 503. The default 0 means no limit.
	MaxConnections int `json:"maxConnections"`
	// RateLimit limits requests by client address.
	RateLimit *RateLimit `json:"rateLimit"`
}

// RateLimit limits requests by client address.
type RateLimit struct {
	RequestsPerSecond float64 `json:"requestsPerSecond"`
	// Burst is how many requests may come at once. The default 0 means the
	// requests of one second.
	Burst int `json:"burst"`
}

// ProxyProtocol is about the PROXY protocol, versions 1 and 2.
type ProxyProtocol struct {
	// Accept are the peers whose PROXY header is believed.
	Accept []string `json:"accept"`
	// Send is the version to send to targets: 1 or 2. The default 0 means none.
	Send int `json:"send"`
}
