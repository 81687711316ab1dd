package certs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"
)

// Directories of Let's Encrypt.
const (
	LetsEncrypt        = "https://acme-v02.api.letsencrypt.org/directory"
	LetsEncryptStaging = "https://acme-staging-v02.api.letsencrypt.org/directory"
)

// Types of challenges, in the order in which they are preferred.
const (
	DNS01     = "dns-01"
	TLSALPN01 = "tls-alpn-01"
	HTTP01    = "http-01"
)

// Types of keys.
const (
	P256    = "p256"
	P384    = "p384"
	RSA2048 = "rsa2048"
	RSA3072 = "rsa3072"
	RSA4096 = "rsa4096"
)

// Config is about the certification authority and how to deal with it.
type Config struct {
	// Directory is the URL of its ACME directory. Required.
	Directory string
	// CARootPath is a PEM file of roots to trust when talking to it. Empty means
	// the system's.
	CARootPath string
	// Email is the account's contact. Empty means none.
	Email string
	// ExternalAccount binds the account to one that the authority knows
	// otherwise (RFC 8555 section 7.3.4). Nil means none.
	ExternalAccount *ExternalAccount
	// Profile is one of the authority's kinds of certificates. Empty means its
	// default.
	Profile string
	// KeyType of the certificates. Empty means [P256].
	KeyType string
	// Challenges limits and orders the types of challenges. Empty means all, as
	// listed above.
	Challenges []string
	// NoRenewal leaves certificates to expire.
	NoRenewal bool
	// CloseWithout ends handshakes for which there is no certificate yet,
	// instead of showing a self-signed one.
	CloseWithout bool
	// PublishCAA makes CAA records that allow this account alone to have
	// certificates for the names, and for all names below.
	PublishCAA bool
	// RetryInterval is the pause after a first failure. It doubles with each
	// further one, up to [MaxRetryInterval]. 0 means a minute.
	RetryInterval time.Duration
	// Timeout is how long one attempt may take. 0 means five minutes.
	Timeout time.Duration
	// PropagationTimeout is how long to wait for a record at Cloudflare to show
	// at the zone's name servers. 0 means two minutes.
	PropagationTimeout time.Duration
}

// MaxRetryInterval bounds the pause between attempts that fail, unless the
// authority asks for more.
const MaxRetryInterval = 6 * time.Hour

// ExternalAccount is an account that the authority knows.
type ExternalAccount struct {
	KeyID string
	// MACKey is a key in base64url form, without padding.
	MACKey string
}

// DNS is a DNS server in this process.
type DNS interface {
	// Authoritative reports whether records can be made at a name.
	Authoritative(name string) bool
	// Owner returns at what name a text has to be for queries about a name to
	// find it. It is another one if a record at the name itself would take from
	// the name above it what that has by a wildcard (RFC 4592 section 2.2.2).
	Owner(name string) string
	// Add adds a record beside those there are, and Remove takes out just that
	// one. They are visible to the next query when the call returns.
	Add(ctx context.Context, r Record) error
	Remove(ctx context.Context, r Record) error
	// CAA returns the values of the CAA records that hold for a name (RFC 8659
	// section 3), as far as the zone has them, and the name that has them; if there
	// are none, the name itself if it has records and one can be beside them, and ""
	// if not.
	CAA(name string) (at string, values []string, err error)
}

// Record is a DNS record.
type Record struct {
	Name, Type string
	// Value is the text of a TXT record, without quotes, and the value of others
	// as zone files have it.
	Value string
}

// An Option gives a [Manager] what cannot be configured by values.
type Option func(*options)

type options struct {
	log        *slog.Logger
	dns        DNS
	cloudflare string
	httpClient HTTPClient
	visible    visibility
	reachable  func(challenge string) bool
	onDemand   func(ctx context.Context, name string) error
	others     func(name string) bool
	events     func(Event)
}

// HTTPClient sends requests.
type HTTPClient interface {
	Do(*http.Request) (*http.Response, error)
}

// visibility reports whether the name servers of a zone all have a text.
type visibility func(ctx context.Context, zone, name, value string) bool

// WithLogger sets the logger. The default discards everything.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithDNS sets the server for DNS-01 and CAA records.
func WithDNS(d DNS) Option { return func(o *options) { o.dns = d } }

// WithCloudflare makes DNS-01 possible in zones that an API token of Cloudflare
// may edit. A nil client is one like [http.DefaultClient].
func WithCloudflare(token string, client HTTPClient) Option {
	return func(o *options) { o.cloudflare, o.httpClient = token, client }
}

// WithReachable sets a func that reports whether connections of the authority
// for a challenge, [TLSALPN01] or [HTTP01], arrive where they are given to
// [Manager.TLSALPNChallenge] or [Manager.HTTPChallenge]. Without it they do not.
func WithReachable(reachable func(challenge string) bool) Option {
	return func(o *options) { o.reachable = reachable }
}

// WithOnDemand makes the Manager obtain certificates for further names at their
// first handshake, if allow returns nil for them. The names have the form of
// domains. allow is asked again before a renewal. Handshakes ask it about 64 names
// at once at most, and the others wait.
func WithOnDemand(allow func(ctx context.Context, name string) error) Option {
	return func(o *options) { o.onDemand = allow }
}

// WithOthers sets a func that reports whether somebody else has a certificate
// for a name, so that none is obtained.
func WithOthers(has func(name string) bool) Option { return func(o *options) { o.others = has } }

// WithEvents sets a func that is told of what happens. It is called for one
// event at a time, by the goroutine to which it happened, and [Manager.Stop]
// waits for it: it must return soon and must not call Stop.
func WithEvents(tell func(Event)) Option { return func(o *options) { o.events = tell } }

func (c *Config) check(o *options) error {
	var errs []error
	if c.Directory == "" {
		errs = append(errs, errors.New("certs: no directory of a certification authority"))
	}
	if !slices.Contains([]string{"", P256, P384, RSA2048, RSA3072, RSA4096}, c.KeyType) {
		errs = append(errs, fmt.Errorf("certs: key type %q is not known", c.KeyType))
	}
	for _, ch := range c.Challenges {
		if !slices.Contains([]string{DNS01, TLSALPN01, HTTP01}, ch) {
			errs = append(errs, fmt.Errorf("certs: challenge %q is not known", ch))
		}
	}
	if len(c.Challenges) == 0 {
		c.Challenges = []string{DNS01, TLSALPN01, HTTP01}
	}
	if c.RetryInterval == 0 {
		c.RetryInterval = time.Minute
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Minute
	}
	if c.PropagationTimeout == 0 {
		c.PropagationTimeout = 2 * time.Minute
	}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if o.visible == nil {
		o.visible = visibleAtNameServers
	}
	return errors.Join(errs...)
}
