package email

import "time"

// Outbound is about how mail gets to other servers.
type Outbound struct {
	// TLS has rules for destinations. The closest Domain decides, in whatever order
	// they stand: the domain itself, else the longest that it is below, else "*".
	// Without one DANE and MTA-STS (RFC 8461) are heeded, and TLS is used where it
	// is offered.
	TLS []DestinationTLS `json:"tls"`
	// CAPath is a PEM file with the authorities to trust instead of the system's,
	// for MX hosts and for those that publish policies.
	CAPath string `json:"caPath"`
	// PrivateNetworks also sends mail to MX hosts and address literals with loopback
	// and private addresses, and fetches from there what domains publish about
	// themselves. Otherwise strangers could have this server talk to what they
	// cannot reach. Forward.Host and the smart host may have any address. Default
	// false.
	PrivateNetworks bool `json:"privateNetworks"`
	// MXCacheTimeout is how long it is remembered which servers take the mail of a
	// domain, of those that have been found. The default 0 means 5m.
	MXCacheTimeout time.Duration `json:"mxCacheTimeout"`
	// WarmUp is about the addresses that mail goes out from.
	WarmUp WarmUp `json:"warmUp"`
	// TLSReports sends reports about TLS to the domains that ask for them (RFC
	// 8460). Default false.
	TLSReports bool `json:"tlsReports"`
	// DMARCReports sends reports about mail in their name to the domains that ask
	// for them (RFC 9990). Default false.
	DMARCReports bool `json:"dmarcReports"`
	// Organization and Contact stand in reports. The defaults are the host name and
	// postmaster at the first of Domains.
	Organization string `json:"organization"`
	Contact      string `json:"contact"`
}

// Values of [DestinationTLS.Mode] beside [OpportunisticTLS], [StartTLS] and [NoTLS].
const (
	// DANETLS insists on DANE (RFC 7672).
	DANETLS = "dane"
)

// DestinationTLS is a rule about TLS on the way to a domain.
type DestinationTLS struct {
	// Domain is that of the recipients: a domain, ".example.com" for all below it,
	// or "*". Required.
	Domain string `json:"domain" conf:"key"`
	// Mode is [OpportunisticTLS], [StartTLS], [DANETLS] or [NoTLS]. Required.
	Mode string `json:"mode"`
}

// WarmUp is about the addresses that mail goes out from. Providers trust a new one
// little by little, so it sends more from day to day.
type WarmUp struct {
	// Pools are groups of addresses. Without any, mail goes out from the address
	// that the system takes.
	Pools []SourcePool `json:"pools"`
	// Schedule is how many messages an address may send on the first, second, ...
	// day of its use. Empty means 50, and half as much again each day for 30 days.
	// After the last day there is no limit.
	Schedule []int `json:"schedule"`
	// Providers are asked before those that are built in: gmail, outlook, yahoo,
	// apple, gmx and other.
	Providers []MailProvider `json:"providers"`
	// Hold is when an address stays where it is in its schedule.
	Hold WarmUpHold `json:"hold"`
}

// Values of [SourcePool.Overflow].
const (
	// OverflowWarm lets the addresses of the pool send that need no warm-up.
	OverflowWarm = "warm"
	// OverflowDefer has mail wait for the next day.
	OverflowDefer = "defer"
	// OverflowAny lets any address of the pool send.
	OverflowAny = "any"
)

// SourcePool is a group of addresses that mail goes out from.
type SourcePool struct {
	// Name is for statistics. Required.
	Name string `json:"name" conf:"key"`
	// Addresses has at least one.
	Addresses []SourceAddress `json:"addresses"`
	// Senders are patterns of the addresses or domains whose mail goes out from
	// here, as "*@news.example.com" or "example.com". Empty means all. The first
	// pool that matches is used.
	Senders []string `json:"senders"`
	// Overflow is what happens to mail beyond what may be sent: [OverflowWarm], the
	// default, [OverflowDefer] or [OverflowAny].
	Overflow string `json:"overflow"`
}

// SourceAddress is an address of this machine.
type SourceAddress struct {
	// Address is IPv4 or IPv6. Required.
	Address string `json:"address" conf:"key"`
	// HELO is how the server introduces itself from there. Its name should lead to
	// the address and back. Default [Config.Hostname].
	HELO string `json:"helo"`
	// Since is the first day of its warm-up (UTC), as "2026-11-01". The default ""
	// means the day that it is first used here.
	Since string `json:"since"`
	// Warm says that it needs none.
	Warm bool `json:"warm"`
}

// MailProvider is a group of servers that judge senders together.
type MailProvider struct {
	// Name is for statistics. Required.
	Name string `json:"name" conf:"key"`
	// MX are patterns of the names of MX hosts. At least one.
	MX []string `json:"mx"`
	// Share is the part of a day's messages that may go there, from 0 to 1. The
	// default 0 means 0.5 for gmail, outlook and other, and 0.25 for the rest.
	Share float64 `json:"share"`
}

// WarmUpHold is when an address does not go on in its schedule: each field is a
// share of a day's answers from a provider, from 0 to 1. At twice the share it steps
// back by two days. Bounces and complaints count on the day on which they come,
// whoever sends them: who has got two messages can hold an address back with two
// complaints that he makes up.
type WarmUpHold struct {
	// Off goes on whatever happens.
	Off bool `json:"off"`
	// Bounces are of recipients that there are not, of 20 answers at least. The default
	// 0 means 0.05.
	Bounces float64 `json:"bounces"`
	// Complaints are of recipients who called a message spam, as a share of those who
	// got one; two are needed. The default 0 means 0.0015. Providers send them where
	// the sender has signed up for that, and not all of them.
	Complaints float64 `json:"complaints"`
	// Blocks are refusals of the sender or the mail, of 20 answers at least. The
	// default 0 means 0.1.
	Blocks float64 `json:"blocks"`
}

// Webhook is told of events by HTTP POST, one event each, signed as Standard
// Webhooks has it (webhook-id, webhook-timestamp, webhook-signature). What is not
// answered with 2xx is sent again for a day; after 410 nothing is sent until the next
// start.
type Webhook struct {
	// URL is where to. It is no secret. Required.
	URL string `json:"url" conf:"key"`
	// Secret signs: "whsec_" and the base64 of 24 to 64 random bytes. Required.
	Secret Secret `json:"secret"`
	// PreviousSecret signs as well, while receivers change to Secret.
	PreviousSecret Secret `json:"previousSecret"`
	// Events are the kinds to tell of, as [EventDelivered]. Empty means all that are
	// about messages on their way out.
	Events []string `json:"events"`
}
