package email

// Values of DNSMode in [Domain] and [Defaults].
const (
	// ForwardMode is for a domain whose mail is only forwarded: nothing is
	// expected of its DNS records.
	ForwardMode = "forward"
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
}

// Values of DMARC in [Domain] and [Defaults].
const (
	// MonitorDMARC only notes the result in the message.
	MonitorDMARC = "monitor"
	// QuarantineDMARC holds back what the author's domain wants quarantined or
	// rejected.
	QuarantineDMARC = "quarantine"
	// RejectDMARC does what the author's domain wants.
	RejectDMARC = "reject"
)

// Domain is a domain that the server is responsible for.
type Domain struct {
	// Domain is its name. Required.
	Domain string `json:"domain" conf:"key"`
	// DNSMode is [ForwardMode], [InternalDNS] or [ExternalDNS]. The default ""
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
}

// DomainDNS has the settings of each DNS mode. Only the section of the
// domain's mode may be given.
type DomainDNS struct {
	Forward  *ForwardDNSSettings  `json:"forward"`
	Internal *InternalDNSSettings `json:"internal"`
	External *ExternalDNSSettings `json:"external"`
}

// ForwardDNSSettings has the settings of [ForwardMode].
type ForwardDNSSettings struct {
	// SkipDNSValidation does not even look whether the domain's MX records
	// lead here.
	SkipDNSValidation bool `json:"skipDnsValidation"`
	// TargetDomain is the server that the domain's mail is forwarded to where
	// no route says otherwise.
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
