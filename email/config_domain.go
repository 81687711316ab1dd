package email

// Values of DNSMode in [Domain] and [Defaults].
const (
	// ForwardDNS is for a domain whose mail is only forwarded: of its DNS records
	// only the MX record is looked at.
	ForwardDNS = "forward"
	// InternalDNS publishes and maintains the domain's records in our own DNS
	// server.
	InternalDNS = "internal-dns"
	// ExternalDNS checks the domain's records, which are maintained elsewhere,
	// and reports what is missing.
	ExternalDNS = "external-dns"
)

// Defaults are for all domains that do not say otherwise.
type Defaults struct {
	// DNSMode is the default of [Domain.DNSMode].
	DNSMode string `json:"dnsMode"`
	// DKIM is the default of [Domain.DKIM], field by field.
	DKIM DKIM `json:"dkim"`
	// RateLimits is the default of [Domain.RateLimits], field by field.
	RateLimits RateLimits `json:"rateLimits"`
	// DMARC is the default of [Domain.DMARC].
	DMARC string `json:"dmarc"`
	// Policies is the default of [Domain.Policies], field by field.
	Policies Policies `json:"policies"`
}

// Values of DMARC in [Domain] and [Defaults].
const (
	// MonitorDMARC only notes the result in the message.
	MonitorDMARC = "monitor"
	// QuarantineDMARC holds back what the author's domain wants quarantined or
	// rejected. What would be if DNS had answered all questions is put off with 451.
	QuarantineDMARC = "quarantine"
	// RejectDMARC does what the author's domain wants. Also here DNS that does not
	// answer is waited for.
	RejectDMARC = "reject"
)

// Domain is a domain that the server is responsible for.
type Domain struct {
	// Domain is its name. Required.
	Domain string `json:"domain" conf:"key"`
	// DNSMode is [ForwardDNS], [InternalDNS] or [ExternalDNS]. The default ""
	// means that of [Config.Defaults], and external-dns if that is "" too.
	DNSMode string `json:"dnsMode"`
	// DNS has the settings of each mode.
	DNS DomainDNS `json:"dns"`
	// DKIM is about the signatures on the domain's mail, which has one always.
	DKIM DKIM `json:"dkim"`
	// RateLimits applies to the domain's mail.
	RateLimits RateLimits `json:"rateLimits"`
	// DMARC says what becomes of mail to this domain that fails the DMARC
	// policy of its author's domain (RFC 9989): [MonitorDMARC],
	// [QuarantineDMARC] or [RejectDMARC]. The default "" means that of
	// [Config.Defaults], and reject if that is "" too. Mail from users who
	// signed in and from addresses that a route relays for is not looked at.
	DMARC string `json:"dmarc"`
	// Policies are what the domain says about its mail to others.
	Policies Policies `json:"policies"`
}

// NoPolicy in a field of [Policies] means that there is to be no such record.
const NoPolicy = "off"

// Values of [Policies.MTASTS] beside [NoPolicy] (RFC 8461 section 3.2).
const (
	// EnforceMTASTS has senders deliver over TLS with a valid certificate or not
	// at all.
	EnforceMTASTS = "enforce"
	// TestMTASTS has them report what would fail, and deliver.
	TestMTASTS = "testing"
	// EndMTASTS has those forget a policy who know one from before.
	EndMTASTS = "none"
)

// Policies are what a domain says in DNS about its mail, for others to go by. In
// each field, "" means that of [Config.Defaults], and then what the field names.
type Policies struct {
	// DMARC is the text of the record for mail from the domain (RFC 9989 section
	// 4.7), such as "v=DMARC1; p=reject; rua=mailto:dmarc@example.com". Default:
	// p=none, which asks for nothing but reports, to postmaster of the domain. Once
	// these show that all mail of the domain passes, ask for p=quarantine or
	// p=reject.
	DMARC string `json:"dmarc"`
	// MTASTS is about TLS on the way to the domain (RFC 8461): [TestMTASTS],
	// [EnforceMTASTS], [EndMTASTS] or [NoPolicy]. A policy has to be served by
	// HTTPS at mta-sts.{domain}; see [Server.MTASTSPolicy]. Default off; in a Router
	// that serves it testing, for domains in mode [InternalDNS].
	MTASTS string `json:"mtaSts"`
	// MTASTSMX are MX hosts of the domain beside this server, or patterns such as
	// "*.example.net".
	MTASTSMX []string `json:"mtaStsMx"`
	// TLSRPT is where others report how TLS went on the way to the domain (RFC 8460
	// section 3): "mailto:tls@example.com", or https and a URL. Default: postmaster
	// of the domain in mode [InternalDNS], and off otherwise.
	TLSRPT string `json:"tlsRpt"`
}

// DomainDNS has the settings of each DNS mode. Only the section of the
// domain's mode may be given.
type DomainDNS struct {
	Forward  *ForwardDNSSettings  `json:"forward"`
	Internal *InternalDNSSettings `json:"internal"`
	External *ExternalDNSSettings `json:"external"`
}

// ForwardDNSSettings has the settings of [ForwardDNS].
type ForwardDNSSettings struct {
	// SkipDNSValidation does not even look whether the domain's MX records
	// lead here.
	SkipDNSValidation bool `json:"skipDnsValidation"`
	// TargetDomain is the server, by name or address, that the domain's mail is
	// forwarded to where no route says otherwise.
	TargetDomain string `json:"targetDomain"`
}

// InternalDNSSettings has the settings of [InternalDNS].
type InternalDNSSettings struct {
	// MXPriority is the preference of the MX record (RFC 5321 section 5.1).
	// The default nil means 10.
	MXPriority *int `json:"mxPriority"`
	// TTL of the records, in seconds. The default 0 means 3600.
	TTL int `json:"ttl"`
}

// ExternalDNSSettings has the settings of [ExternalDNS].
type ExternalDNSSettings struct {
	// RequiredRecords are the records without which the domain counts as
	// broken: "MX", "SPF" (RFC 7208), "DKIM" (RFC 6376), "DMARC" (RFC 9989),
	// "MTA-STS" (RFC 8461), "TLSRPT" (RFC 8460). Empty means MX, SPF, DKIM and
	// DMARC.
	RequiredRecords []string `json:"requiredRecords"`
}

// DKIM is about signatures (RFC 6376). In each field, the zero value means
// that of [Config.Defaults], and then what the field names.
type DKIM struct {
	// Selector names the key in DNS (RFC 6376 section 3.1). Rotation adds a
	// suffix. Default "default".
	Selector string `json:"selector"`
	// KeySize is that of the RSA key, in bits: 1024, 2048, 3072 or 4096 (RFC
	// 8301 section 3.2). Default 2048.
	KeySize int `json:"keySize"`
	// RotateKeys replaces keys by new ones from time to time. Default false.
	RotateKeys *bool `json:"rotateKeys"`
	// RotationInterval is the time between rotations, in days. Default 90.
	RotationInterval int `json:"rotationInterval"`
}
