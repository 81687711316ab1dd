package email

import (
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Secret is a password or key: a string, written Secret("..."), that shows as ***
// wherever it is printed, logged or written as JSON. Its method Reveal() string
// gives the value.
type Secret = conf.Secret

// FieldError is a mistake in a configuration: the path of the field, such as
// "routes[3].action.forward.host", and what is wrong with it.
//
// Its fields are Path string, Msg string and Err error, the cause where there is
// one beyond the configuration itself, which Unwrap returns.
type FieldError = conf.FieldError

// Config is everything about the mail server that can be written as JSON.
type Config struct {
	// ListenHost is the address that Ports bind on. The default "" means all
	// interfaces, IPv4 and IPv6.
	ListenHost string `json:"listenHost"`
	// Ports are the ports to receive mail on; see [Port]. At least one is
	// needed.
	Ports []Port `json:"ports"`
	// Hostname is the name by which the server greets and introduces itself
	// (RFC 5321 section 4.1.1.1). Required.
	Hostname string `json:"hostname"`
	// PublicIP are the addresses that lead to this server from outside, and that
	// it sends mail from: they belong into the domains' records. In a Router the
	// default is its publicIp. Empty means that they are not known; records then
	// name Hostname.
	PublicIP []string `json:"publicIp"`
	// Domains are the domains that this server is responsible for.
	Domains []Domain `json:"domains"`
	// Routes decides what happens to mail; see [Route]. Mail that no route
	// takes is refused.
	Routes []Route `json:"routes"`
	// Auth is about clients that sign in (RFC 4954). Nil means that nobody
	// can.
	Auth *Auth `json:"auth"`
	// TLS names the server's certificate, for STARTTLS (RFC 3207) and
	// implicit TLS (RFC 8314). Nil means what certificate automation has for
	// Hostname, or else no TLS.
	TLS *TLS `json:"tls"`
	// MaxMessageSize limits a message, in bytes, and is announced with SIZE
	// (RFC 1870). The default 0 means 50 MiB.
	MaxMessageSize int64 `json:"maxMessageSize"`
	// RateLimits applies to the server as a whole.
	RateLimits RateLimits `json:"rateLimits"`
	// UseSocketHandler binds no ports: the proxy does, and hands connections
	// over. Its own limits hold for them too. A client sees no difference. At most
	// one of Ports can be 0, any free one.
	UseSocketHandler bool `json:"useSocketHandler"`
	// Defaults are for all Domains that do not say otherwise.
	Defaults Defaults `json:"defaults"`
	// Queue is about mail on its way out.
	Queue Queue `json:"queue"`
	// Outbound is about how mail gets to other servers.
	Outbound Outbound `json:"outbound"`
	// Webhooks are told of events.
	Webhooks []Webhook `json:"webhooks"`
	// SmartHost is where the action [Process] sends mail instead of looking up
	// the MX records of its destination. Nil, or one without Host, means none.
	SmartHost *SmartHost `json:"smartHost"`
	// Scanners look at the content of mail for actions with Scan, in this
	// order.
	Scanners []Scanner `json:"scanners"`
	// IPReputation asks block lists about clients. Nil means not to.
	IPReputation *IPReputation `json:"ipReputation"`
	// Greylisting puts off mail from servers that are not known yet. Nil means
	// not to.
	Greylisting *Greylisting `json:"greylisting"`
	// Connections bounds what clients may take up.
	Connections Connections `json:"connections"`
	// Security restricts who may connect. Where the proxy has the ports, it applies
	// this, and otherwise the server itself, with the same to be seen by clients.
	Security Security `json:"security"`
	// ProxyProtocol is about load balancers in front, and applied as Security is.
	// Nil means that there are none.
	ProxyProtocol *ProxyProtocol `json:"proxyProtocol"`
	// Resolvers are the DNS servers to ask about others, as "127.0.0.1" or
	// "192.0.2.1:53", eight at most, the first one first. Empty means those of the
	// system, which finds the hosts that this configuration names in any case.
	// [WithResolver] comes before. DANE (RFC 7672) takes one on a loopback address
	// that validates DNSSEC, or TrustResolvers.
	Resolvers []string `json:"resolvers"`
	// TrustResolvers believes Resolvers on other addresses that they have
	// validated an answer, too. Set it only where nobody can come between.
	TrustResolvers bool `json:"trustResolvers"`
	// DataPath is the folder of the spool and of mailboxes that name none. In a
	// Router the default "" means the folder of the storage section, "mail" and
	// "spool" in it; without either, the spool is in the storage.
	DataPath string `json:"dataPath"`
}

// Values of [Port.Mode].
const (
	// SMTP is for mail from other servers (RFC 5321), with STARTTLS.
	SMTP = "smtp"
	// Submission is for mail from users (RFC 6409), with STARTTLS. They sign
	// in.
	Submission = "submission"
	// SMTPS is Submission over implicit TLS (RFC 8314 section 3.3).
	SMTPS = "smtps"
)

// Port is a port to receive mail on. Written as JSON it is a number, or an
// object with port and mode.
type Port struct {
	// Port is the number. 0 binds any free port.
	Port int `json:"port"`
	// Mode is [SMTP], [Submission] or [SMTPS]. The default "" is what the
	// number means on the internet: 587 submission, 465 smtps, any other smtp.
	Mode string `json:"mode"`
}

// Ports makes a list of ports with their usual modes.
func Ports(ports ...int) []Port {
	list := make([]Port, len(ports))
	for i, p := range ports {
		list[i] = Port{Port: p}
	}
	return list
}

// Auth is about clients that sign in.
type Auth struct {
	// Users may sign in, by PLAIN, LOGIN or SCRAM-SHA-256 and only under TLS.
	Users []User `json:"users"`
}

// User is someone who may sign in.
type User struct {
	// Username is compared exactly. Required.
	Username string `json:"username" conf:"key"`
	// Password is the password itself, its bcrypt hash ("$2b$...") or its
	// argon2id hash ("$argon2id$...", PHC string format). Required. Of a hash,
	// SCRAM is not possible.
	Password Secret `json:"password"`
	// Senders are patterns of the addresses that the user may send from, as
	// "*@example.com"; see [Match] for what a pattern is. Empty means the
	// username, if that is an address, and otherwise the username at any of
	// [Config.Domains].
	Senders []string `json:"senders"`
}

// TLS names a certificate.
type TLS struct {
	// CertPath is a PEM file with the certificate and its chain.
	CertPath string `json:"certPath"`
	// KeyPath is a PEM file with the private key.
	KeyPath string `json:"keyPath"`
}

// RateLimits bounds traffic. What exceeds it is put off with a 4xx reply, not
// refused for good.
type RateLimits struct {
	// Inbound is mail received.
	Inbound InboundLimits `json:"inbound"`
	// Outbound is mail sent.
	Outbound OutboundLimits `json:"outbound"`
}

// InboundLimits bounds mail received. In each field, 0 means what
// [Config.Defaults] say for a domain, and no limit otherwise. Those of a domain
// are about mail to it, and connections that bring some; signed in users are no
// domain's, and their limit is the server's alone.
type InboundLimits struct {
	// MessagesPerMinute is over all clients. A message counts when its first
	// recipient is accepted, to a domain when the first one there is.
	MessagesPerMinute int `json:"messagesPerMinute"`
	// ConnectionsPerIP is how many connections one address may have open; an IPv6
	// /64 counts as one.
	ConnectionsPerIP int `json:"connectionsPerIp"`
	// MessagesPerMinutePerIP is for each client address; an IPv6 /64 counts as
	// one.
	MessagesPerMinutePerIP int `json:"messagesPerMinutePerIp"`
	// MessagesPerMinutePerUser is for each user who has signed in.
	MessagesPerMinutePerUser int `json:"messagesPerMinutePerUser"`
	// RecipientsPerMessage is how many recipients one message may have. RFC
	// 5321 section 4.5.3.1.8 wants at least 100. Where nothing says otherwise
	// it is 1,000.
	RecipientsPerMessage int `json:"recipientsPerMessage"`
}

// OutboundLimits bounds mail sent, with 0 as in [InboundLimits].
type OutboundLimits struct {
	MessagesPerHour int `json:"messagesPerHour"`
	MessagesPerDay  int `json:"messagesPerDay"`
}

// Queue is about mail on its way out.
type Queue struct {
	// Concurrency is how many deliveries go on at once, not counting those that take
	// longer than 30 seconds, of which there may be ten times as many. Where there
	// would be more, the one that has gone on longest ends, after five minutes at
	// least, and is tried again later. The default 0 means 50.
	Concurrency int `json:"concurrency"`
	// ConcurrencyPerSite is how many of them go to the same servers. It begins
	// with 5 and grows as long as they do well. The default 0 means 20.
	ConcurrencyPerSite int `json:"concurrencyPerSite"`
	// MaxRetries is how often a failed delivery is tried again before the
	// sender is told (RFC 5321 section 4.5.4.1). The default nil means as often as
	// fits into MaxAge; 0 means never.
	MaxRetries *int `json:"maxRetries"`
	// MaxAge is how long delivery is tried. The default 0 means five days.
	MaxAge time.Duration `json:"maxAge"`
	// Paused accepts mail and sends none, until [Server.ResumeQueue]. Default false.
	Paused bool `json:"paused"`
	// DelayNotice is how long a message waits before its sender is told, once, that
	// it is still on its way. The default 0 means 4h; a negative one means never.
	DelayNotice time.Duration `json:"delayNotice"`
	// KeepHeld is how long messages in quarantine, and those that could not be
	// delivered, are kept in the spool for somebody to look at (see
	// [Server.Queue]); then they are removed. The default 0 means 30 days.
	KeepHeld time.Duration `json:"keepHeld"`
	// RetryDelay is the time before the first retry; each further one waits
	// longer. The default 0 means 5m.
	RetryDelay time.Duration `json:"retryDelay"`
}

// SmartHost is a server that takes all mail going out.
type SmartHost struct {
	// Host is a name or an address.
	Host string `json:"host" conf:"key"`
	// Port is the port there. The default 0 means 25.
	Port int `json:"port" conf:"key"`
	// Auth signs in there.
	Auth *Credentials `json:"auth"`
	// TLS is about TLS on the way there.
	TLS ClientTLS `json:"tls" conf:"key"` // a password must not follow to weaker TLS
}

// Credentials sign in at another server.
type Credentials struct {
	// Username and Password are both required.
	Username string `json:"username"`
	Password Secret `json:"password"`
}

// Values of [ClientTLS.Mode].
const (
	// OpportunisticTLS uses STARTTLS where the server offers it, whatever its
	// certificate (RFC 7435).
	OpportunisticTLS = "opportunistic"
	// StartTLS insists on STARTTLS with a valid certificate.
	StartTLS = "starttls"
	// ImplicitTLS begins with TLS and insists on a valid certificate.
	ImplicitTLS = "implicit"
	// NoTLS speaks plaintext.
	NoTLS = "none"
)

// ClientTLS is about TLS on the way to another server.
type ClientTLS struct {
	// Mode is [OpportunisticTLS], [StartTLS], [ImplicitTLS] or [NoTLS]. The
	// default "" means implicit on port 465, starttls where there are
	// credentials to protect, and opportunistic otherwise.
	Mode string `json:"mode"`
	// ServerName is the name that the certificate must be for. The default is
	// the host that is connected to.
	ServerName string `json:"serverName"`
	// CAPath is a PEM file with the authorities to trust instead of the
	// system's.
	CAPath string `json:"caPath"`
	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool `json:"insecureSkipVerify"`
}

// IPReputation asks DNS block lists (RFC 5782) about the addresses of clients.
type IPReputation struct {
	// Providers are the lists to ask: "spamhaus", "barracuda", "surbl", or the
	// domain of any other.
	Providers []string `json:"providers"`
	// CacheTimeout is how long an answer is remembered. The default 0 means
	// 1h.
	CacheTimeout time.Duration `json:"cacheTimeout"`
	// Threshold is the score from which a client is refused: 0 is one that no
	// list knows, 1 one that all list. The default 0 means 0.7.
	Threshold float64 `json:"threshold"`
	// Timeout bounds the questions about one client; without an answer it is
	// let in. The default 0 means 2s.
	Timeout time.Duration `json:"timeout"`
	// AllowList are addresses and CIDR blocks that are always let in.
	AllowList []string `json:"allowList"`
	// BlockList are addresses and CIDR blocks that never are.
	BlockList []string `json:"blockList"`
}

// Greylisting answers 450 to the first mail that a client, a sender and a
// recipient have in common (RFC 6647). Servers that try again are let in.
type Greylisting struct {
	// Delay is how long to wait at least. The default 0 means 1m.
	Delay time.Duration `json:"delay"`
	// Window is how long the second try may take. The default 0 means 24h.
	Window time.Duration `json:"window"`
	// Lifetime is how long one that was let in stays known after its last mail.
	// The default 0 means 36 days.
	Lifetime time.Duration `json:"lifetime"`
}

// Connections bounds what clients may take up.
type Connections struct {
	// Max is how many connections there may be at once; more are told 421. The
	// default 0 means 4,000.
	Max int `json:"max"`
	// Timeout is how long a client may take for a command or for some of a
	// message (RFC 5321 section 4.5.3.2.7). The default 0 means 5m.
	Timeout time.Duration `json:"timeout"`
	// GreetDelay is how long the server waits before its greeting on ports of
	// mode [SMTP]. Clients that speak earlier are refused. The default 0 means
	// not to wait.
	GreetDelay time.Duration `json:"greetDelay"`
	// MaxErrors is how many commands of a session may fail before it ends. The
	// default 0 means 20.
	MaxErrors int `json:"maxErrors"`
}
