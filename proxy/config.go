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

	// MaxConnections limits client connections open at once over all ports, and UDP
	// sessions apart from them, as anybody may make these in the name of others.
	// More are closed as soon as they are accepted. The default 0 means no limit.
	MaxConnections int `json:"maxConnections"`

	// MaxConnectionsPerIP is the same limit for one client: an address of IPv4, a
	// /64 of IPv6.
	MaxConnectionsPerIP int `json:"maxConnectionsPerIp"`

	// MaxUDPSessions limits the sessions of UDP clients open at once over all
	// ports. Each takes a file descriptor, and one client can have many. Further
	// clients are not served. The default 0 means 10,000.
	MaxUDPSessions int `json:"maxUdpSessions"`

	// MaxHeaderBytes limits the head of an HTTP request. The default 0 means
	// 16 KiB.
	MaxHeaderBytes int `json:"maxHeaderBytes"`

	// FastLane lets HTTP/1.1 requests that are merely forwarded go past
	// net/http, at a fraction of its cost. The default nil means true; there
	// should be no reason to turn it off other than to find out whether it is
	// to blame for something.
	FastLane *bool `json:"fastLane"`

	// HTTP2 is about HTTP/2 with clients; with targets it is a matter of
	// [Action.UpstreamProtocol].
	HTTP2 HTTP2 `json:"http2"`

	// HTTP3 is about HTTP/3 with clients.
	HTTP3 HTTP3 `json:"http3"`

	// Timeouts bounds every wait of the data path.
	Timeouts Timeouts `json:"timeouts"`

	// RequestID gives each HTTP request an id that target, client and logs know
	// it by. The default nil means none: what passes through is not changed
	// without being asked for.
	RequestID *RequestID `json:"requestId"`

	// AccessLog writes a record of each request and stream. The default nil
	// means none, unless [WithAccessLog] is given.
	AccessLog *AccessLog `json:"accessLog"`

	// ACME tells how routes with certificate "auto" come by one. A Proxy does
	// not obtain certificates itself: the Router does, or a host that passes
	// [WithGetCertificate].
	ACME *ACME `json:"acme"`
}

func (c *Config) fastLane() bool { return c.FastLane == nil || *c.FastLane }

// HTTP2 is about HTTP/2 with clients: over TLS, and without it with clients
// that begin a connection so (prior knowledge, RFC 9113 section 3.3, as gRPC
// does). Routes are decided by request as with HTTP/1.1.
type HTTP2 struct {
	// Enabled set to false leaves clients HTTP/1.1 only. The default nil means
	// true.
	Enabled *bool `json:"enabled"`
	// MaxConcurrentStreams is how many requests a connection may have in
	// flight, 1 to 100,000. The default 0 means 250.
	MaxConcurrentStreams int `json:"maxConcurrentStreams"`
	// WebSockets set to false keeps clients from opening WebSockets on streams
	// (RFC 8441): browsers then open a connection in HTTP/1.1 for each. Targets
	// and handlers see an upgrade in HTTP/1.1 either way. The default nil means
	// true.
	WebSockets *bool `json:"webSockets"`
}

// HTTP3 is about HTTP/3 with clients, over QUIC.
type HTTP3 struct {
	// Enabled serves HTTP/3 too on every port with a route that terminates TLS
	// and takes HTTP, and lets clients know by an Alt-Svc header (which a route's
	// response headers can replace or remove). It binds the UDP port of the
	// same number, and a firewall has to let that through; hence the default is
	// false. Routes, certificates and limits are the same as with TCP, but those
	// with PROXY headers, which QUIC has none of. A client whose address changes
	// is told to connect anew. WebSockets may come on streams (RFC 9220). There is
	// no 0-RTT.
	Enabled bool `json:"enabled"`
	// MaxConcurrentStreams is how many requests a connection may have in
	// flight, 1 to 100,000. The default 0 means 100.
	MaxConcurrentStreams int `json:"maxConcurrentStreams"`
}

func (h *HTTP3) maxStreams() int { return defaultTo(h.MaxConcurrentStreams, 100) }

// Timeouts bounds the waits of the data path. Zero means the default named at
// each field; a negative value means no limit.
type Timeouts struct {
	// Route is the total time a new connection has to tell where it wants to
	// go: PROXY header, first bytes, TLS handshake. Default 10s.
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
	// UDPIdle is how long a UDP client stays with its target when no datagram
	// passes in either direction. Less saves memory where each question comes
	// from a port of its own, as with DNS. Default 60s.
	UDPIdle time.Duration `json:"udpIdle"`
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
	// its staging service, whose certificates nobody trusts.
	UseProduction bool `json:"useProduction"`
	// AutoRenew renews certificates before they expire. The default nil means
	// true.
	AutoRenew *bool `json:"autoRenew"`
	// CADirectory is the directory URL of another certification authority.
	CADirectory string `json:"caDirectory"`
	// CARootPath is a PEM file of roots to trust when talking to CADirectory.
	CARootPath string `json:"caRootPath"`
	// LocalCA makes certificates here instead, with an authority of our own
	// that is kept in the storage: for development, also offline.
	LocalCA bool `json:"localCa"`
	// ExternalAccount is what authorities hand out that want to know whose
	// account it is (RFC 8555 section 7.3.4). Nil means nothing.
	ExternalAccount *ACMEExternalAccount `json:"externalAccount"`
	// Profile is the kind of certificate, of those that the authority offers,
	// such as "shortlived". The default "" leaves it to the authority.
	Profile string `json:"profile"`
	// KeyType of the certificates: "p256", "p384", "rsa2048", "rsa3072" or
	// "rsa4096". The default "" means "p256".
	KeyType string `json:"keyType"`
	// Challenges limits and orders the challenge types: "dns-01",
	// "tls-alpn-01", "http-01". Empty means all that are possible, in this
	// order; after a failure the next one is tried. While a name is proven by
	// "dns-01" in a zone of the DNS server that has it only by a wildcard, the
	// text is at the wildcard; if that is an alias, the name is without it for
	// these seconds.
	Challenges []string `json:"challenges"`
	// TLSALPNPort and HTTPPort are the ports of routes at which connections
	// arrive that an authority makes to port 443 for "tls-alpn-01" and to port
	// 80 for "http-01": others than these where something in front translates
	// ports. The default nil means 443 and 80.
	TLSALPNPort *int `json:"tlsAlpnPort"`
	HTTPPort    *int `json:"httpPort"`
	// PublishCAA makes CAA records that allow this account alone to have
	// certificates (RFC 8657), for names in zones of the DNS server for which
	// there are none, also at names above. They bind all names below, too (RFC
	// 8659 section 3): with a certificate for example.com here, nobody else can
	// obtain one for it, nor for www.example.com that is served elsewhere, unless
	// that has a CAA record of its own. Records that are not wanted any more, by
	// the routes or because this is not true, go at the next start. The default nil
	// means false.
	PublishCAA *bool `json:"publishCaa"`
	// OnFailure is what becomes of connections while there is no certificate
	// for them: "self-signed" shows them one that nobody trusts, "close" ends
	// the handshake. An expired certificate is better than none in either case.
	// The default "" means "self-signed".
	OnFailure string `json:"onFailure"`
	// RetryInterval is the pause after a first failure to obtain a certificate.
	// It doubles with each further failure, up to 6h. Default 1m, least 1s.
	RetryInterval time.Duration `json:"retryInterval"`
	// Timeout is how long one attempt may take. Default 5m.
	Timeout time.Duration `json:"timeout"`
}

// ACMEExternalAccount is an account that the authority knows otherwise.
type ACMEExternalAccount struct {
	// KeyID is its name. Required.
	KeyID string `json:"keyId" conf:"key"`
	// MACKey is the key in base64url form, as authorities hand it out. Required.
	MACKey Secret `json:"macKey"`
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
	//
	// It is compared with the path as sent, but for percent-encoding, and the
	// target gets it as sent. So "//api/x" and "/api;a/x" do not match "/api/*",
	// though many servers take them for "/api/x". Where a route protects, the one
	// that takes what is left has to protect as well or to refuse such paths:
	// "~//|;|%2F|%5C|\\" matches them.
	Path string `json:"path"`
	// Methods are HTTP methods. HTTP only.
	Methods []string `json:"methods"`
	// Headers are conditions on request headers: name to glob, or to regular
	// expression written /.../ or /.../i. HTTP only. Content-Length and
	// Transfer-Encoding cannot be among them.
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
	//     stream through. A client that says nothing is closed. What could pass
	//     for HTTP with some server counts as HTTP: a line of more than 4 KiB, one
	//     with a URI, as of RTSP, "GET" and one word, a PROXY header that nobody
	//     may send. On a port where another route is about HTTP alone, by a
	//     condition (Domains and ClientIP are none) or by its action, it takes only
	//     HTTP: some servers find a request in what is none, and what that route
	//     protects would be open.
	//   - "tcp" passes the stream through without looking inside, unless a
	//     condition or the action is about HTTP, or a domain must be found in
	//     it. It is the choice for protocols that share a port with HTTP, and for
	//     those in which the server speaks first; on a port shared with other
	//     routes the latter works once the client has been silent for
	//     Timeouts.Route. What counts as HTTP goes to the routes for that, if the
	//     port has any: a protocol that begins so needs a port of its own.
	//   - "http" takes only HTTP.
	//   - "udp" takes datagrams. The first from an address and port opens a
	//     session with a target, which those that follow and the answers belong
	//     to. A port may have routes for UDP and for TCP.
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
	// UpstreamProtocol is what is spoken with Targets: [HTTP1] (the default),
	// [H2] (HTTP/2 over TLS, which needs mode [TerminateAndReencrypt]) or [H2C]
	// (HTTP/2 without TLS). gRPC needs HTTP/2. Such a route takes only HTTP. A
	// WebSocket is asked for in HTTP/1.1 all the same.
	UpstreamProtocol string `json:"upstreamProtocol"`
	// LoadBalancing chooses among several Targets.
	LoadBalancing LoadBalancing `json:"loadBalancing"`
	// TLS says what happens to TLS. Nil means that the route takes plaintext,
	// or, if it forwards a stream, whatever comes.
	TLS *TLS `json:"tls"`
	// Redirect is the answer of a Redirect action.
	Redirect RedirectTo `json:"redirect"`
	// Root is the folder a Serve action serves. What is hidden in it, below a name
	// that begins with a dot, is not found, but for ".well-known".
	Root string `json:"root"`
	// Headers edits requests and responses. HTTP only.
	Headers HeaderEdits `json:"headers"`
	// Compression compresses responses to clients that take it. The default
	// nil means that they go out as they are. HTTP only.
	Compression *Compression `json:"compression"`
	// Security restricts who may use the route.
	Security Security `json:"security"`
	// ProxyProtocol is about the PROXY protocol, in and out.
	ProxyProtocol *ProxyProtocol `json:"proxyProtocol"`

	// Handler answers HTTP requests in the host's process. It finds the
	// connection's [ConnInfo] with [ConnInfoFrom]. The operations API, which has
	// routes as JSON, knows code by the Name of its route: one without refuses
	// changes of routes there.
	Handler http.Handler `json:"-"`
	// SocketHandler takes over whole connections in the host's process.
	SocketHandler SocketHandler `json:"-"`
}

// Values of [Action.UpstreamProtocol].
const (
	HTTP1 = "http1"
	H2    = "h2"
	H2C   = "h2c"
)

// PreservePort as a Target's Port stands for the port that the client
// connected to. Written as JSON it is "preserve". Where the route has several
// ports, that the target cannot be reached at one does not count against it.
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
	// a Path, a TCP connection that opens is, for UDP too. With TLS to the target
	// the handshake has to succeed in both cases. Where the name to expect is the one
	// that clients ask for, see [UpstreamTLS], the check asks for no name (SNI), and
	// the certificate may be for any. If TLS fails so, it asks again for the Host that
	// the route sets, or for the first of its Match's Domains that is one name.
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
// object with certPath and keyPath. Files that change are read again within
// seconds, when a client comes; as long as the two do not belong together the
// previous certificate stays in use.
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
	// target's Host, or if that is an address the name the client asked for. If
	// TLS fails for such a name, and no Match names it in full, that does not
	// count as a failure of a target that does well with others, and never for
	// CircuitBreaker.
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
// may contain {client_ip}, {host}, {scheme}, {port} and {route}. They are no
// secrets: everybody who may see the configuration sees them.
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
	// MaxConnections limits what the route carries at once: streams, UDP
	// sessions, or HTTP requests, where more are answered with 503. The default
	// 0 means no limit.
	MaxConnections int `json:"maxConnections"`
	// RateLimit limits requests in time. More are answered with 429 and a
	// Retry-After. HTTP only.
	RateLimit *RateLimit `json:"rateLimit"`
}

// RateLimit limits requests in time. It takes 1 MiB of memory at most, however
// many clients there are. While more than some 20,000 of them are short of their
// burst, one that has just come may have to wait; none gets more than its due.
type RateLimit struct {
	// RequestsPerSecond is the rate, which may be a fraction. Required.
	RequestsPerSecond float64 `json:"requestsPerSecond"`
	// Burst is how many requests may come at once after a pause. The default 0
	// means the requests of one second, at least one.
	Burst int `json:"burst"`
	// By says who has the rate to himself:
	//
	//   - "client", the default, is each client address; of IPv6 each /64, which
	//     is what one customer gets. Behind another proxy that is its address.
	//   - "route" is all clients of the route together.
	//   - "header:X-Api-Key" is each value of that header. Requests that do not
	//     have it just once count by client. A client that invents values is not
	//     held back, so it should be a header that the client cannot choose, or
	//     one that the target checks.
	By string `json:"by"`
}

// ProxyProtocol is about the PROXY protocol, versions 1 and 2, in which a proxy
// tells a server who its client is.
type ProxyProtocol struct {
	// Accept are the addresses and CIDR blocks of proxies and load balancers in
	// front of this one. Their connections must begin with a PROXY header, of
	// either version, and are refused without; those of anyone else must not.
	// The header is read before the route is known, so it is asked of all that
	// any route of the port accepts it from.
	//
	// The client's address and the one it connected to are then those in the
	// header, for everything: limits, lists, logs, headers, balancing. Where the
	// proxy speaks for itself (LOCAL, UNKNOWN) those of the connection hold.
	Accept []string `json:"accept"`
	// Send is the version to send to targets: 1 or 2. The default 0 means none.
	// Connections to the target then belong to one client, and HTTP requests
	// get one each. Health checks speak for themselves.
	Send int `json:"send"`
}
