package dcrouter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/certs"
	"github.com/dcrouter/dcrouter/internal/certs/ech"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// Secret is a password or key: a string, written Secret("..."), that shows as ***
// wherever it is printed, logged or written as JSON. Its method Reveal() string
// gives the value.
type Secret = conf.Secret

// Config is everything about a [Router] that can be written as JSON. A section
// that is nil is a subsystem that does not run.
type Config struct {
	// ListenHost is the address that all sections bind their ports on that have no
	// listenHost of their own; but the operations API stays on its machine unless it
	// is told otherwise itself. The default "" means all interfaces, IPv4 and IPv6.
	ListenHost string `json:"listenHost"`
	// Proxy routes HTTP, HTTPS, TLS, TCP and UDP.
	Proxy *proxy.Config `json:"smartProxyConfig"`
	// Email is the mail system.
	Email *email.Config `json:"emailConfig"`
	// DNS is the DNS server. It runs with its defaults where DNSDomain or
	// DNSNSDomains are given without it.
	DNS *dnsserver.Config `json:"dnsServerConfig"`
	// DNSDomain is the name under which DNS over HTTPS is served (RFC 8484),
	// by the proxy at /dns-query and /resolve.
	DNSDomain string `json:"dnsDomain"`
	// DoHPort is the proxy's port for DNSDomain. The default nil means 443.
	DoHPort *int `json:"dohPort"`
	// MTASTSPort is the proxy's port for policies of MTA-STS (RFC 8461), which
	// others fetch by HTTPS at mta-sts.{mail domain}. The default nil means 443,
	// if the proxy has a route there that terminates TLS. Another port is for
	// gateways to which something in front passes port 443 on.
	MTASTSPort *int `json:"mtaStsPort"`
	// DNSNSDomains are the names of this name server, which NS records carry.
	// The first is the primary one.
	DNSNSDomains []string `json:"dnsNsDomains"`
	// DNSScopes are the zones that the DNS server is the source of. Empty means
	// every zone of DNS, and for a record, mail domain or name server outside
	// them its registrable domain by the public suffix list.
	DNSScopes []string `json:"dnsScopes"`
	// PublicIP are the addresses under which this machine is reached. They are
	// published for what we publish ourselves (name servers, DNSDomain, the mail
	// host) where no record says otherwise.
	PublicIP []string `json:"publicIp"`
	// RADIUS is the RADIUS server.
	RADIUS *radius.Config `json:"radiusConfig"`
	// Ops is the operations API and the dashboard.
	Ops *opsapi.Config `json:"opsServerConfig"`
	// TLS is about certificates for no route in particular. Where the proxy's
	// section says nothing about automatic certificates, this one or DNSChallenge
	// turns them on, from Let's Encrypt.
	TLS *TLSConfig `json:"tls"`
	// DNSChallenge answers ACME's DNS-01 challenges (RFC 8555 section 8.4) in
	// zones that are hosted elsewhere.
	DNSChallenge *DNSChallenge `json:"dnsChallenge"`
	// Limits bounds what clients may take up, for all sections in one place. The
	// reference document calls it performanceConfig, which is another name for it
	// in JSON.
	Limits *Limits `json:"limits" conf:"alias=performanceConfig"`
	// Blocking has addresses that misbehave in one place refused in all. Nil means
	// that each subsystem sees to itself.
	Blocking *BlockingConfig `json:"blocking"`
	// Storage is where the Router keeps what must outlive it. Nil means in
	// memory, unless an [Option] says otherwise.
	Storage *StorageConfig `json:"storage"`
}

// TLSConfig is about certificates for no route in particular.
type TLSConfig struct {
	// ContactEmail is the contact of the ACME account where the proxy's
	// section names none.
	ContactEmail string `json:"contactEmail"`
	// Domain is a name to obtain a certificate for even if no route has it, and
	// the one whose certificate clients get that name no server.
	Domain string `json:"domain"`
	// ECHPublicName turns Encrypted Client Hello on (RFC 9849), and is the name
	// under which connections show instead of the one that they are for. It needs
	// a route that terminates TLS; a certificate is obtained for it. The keys are
	// published in HTTPS records for names in zones of the DNS server that have an
	// address and no such record. The default "" means off.
	ECHPublicName string `json:"echPublicName"`
}

// DNSChallenge has the keys of DNS hosters.
type DNSChallenge struct {
	// CloudflareAPIKey is an API token that may edit the zones' records.
	// Required.
	CloudflareAPIKey Secret `json:"cloudflareApiKey"`
	// PropagationTimeout is how long to wait for a record to show at the name
	// servers of its zone before the certification authority is asked to look
	// for it in any case. Default 2m.
	PropagationTimeout time.Duration `json:"propagationTimeout"`
}

// StorageConfig says where to keep what must outlive the Router.
type StorageConfig struct {
	// FSPath is a folder. The default "" means in memory.
	FSPath string `json:"fsPath"`
}

// maxConfigSize bounds what LoadConfig reads, in bytes.
const maxConfigSize = 8 << 20

// LoadConfig reads a configuration from JSON, strictly, and validates it. All
// mistakes come back at once, each with the path of its field; see
// [FieldErrors]. With an error it returns what it could read.
func LoadConfig(r io.Reader) (Config, error) {
	var c Config
	data, err := io.ReadAll(io.LimitReader(r, maxConfigSize+1))
	if err != nil {
		return c, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(data) > maxConfigSize {
		return c, &FieldError{Msg: fmt.Sprintf("larger than %d bytes", maxConfigSize)}
	}
	decoding := conf.Decode(data, &c)
	return c, errors.Join(decoding, withoutConsequences(c.Validate(), decoding))
}

// withoutConsequences drops from the mistakes in err those about fields that
// could not be read to begin with.
func withoutConsequences(err, decoding error) error {
	broken := conf.Fields(decoding)
	var rest []error
	for _, e := range conf.Fields(err) {
		consequence := false
		for _, b := range broken {
			consequence = consequence || within(e.Path, b.Path) || within(b.Path, e.Path)
		}
		if !consequence {
			rest = append(rest, e)
		}
	}
	return errors.Join(rest...)
}

// within reports whether path is outer or lies below it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || outer == "" || rest[0] == '.' || rest[0] == '[')
}

// WriteConfig writes c as indented JSON that LoadConfig reads, secrets
// included. A handler or a port function cannot be written: routes that have
// one are an error.
func WriteConfig(w io.Writer, c Config) error {
	if err := c.onlyJSON(); err != nil {
		return err
	}
	data, err := conf.Encode(c, true)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// onlyJSON finds what has no form in JSON.
func (c *Config) onlyJSON() error {
	if c.Proxy == nil {
		return nil
	}
	check := conf.NewChecker()
	for i := range c.Proxy.Routes {
		at, action := check.Field("smartProxyConfig").Field("routes").Index(i).Field("action"), &c.Proxy.Routes[i].Action
		if action.Handler != nil || action.SocketHandler != nil {
			at.Errorf("a handler of the host cannot be written as JSON")
		}
		for j := range action.Targets {
			if action.Targets[j].PortFunc != nil {
				at.Field("targets").Index(j).Errorf("a port function cannot be written as JSON")
			}
		}
	}
	return check.Err()
}

// Format prints the configuration as JSON with secrets replaced by ***,
// whatever the verb.
func (c Config) Format(f fmt.State, _ rune) { conf.Format(f, c) }

// MarshalJSON writes the configuration in its documented form, with secrets
// replaced by ***. [WriteConfig] writes them.
func (c Config) MarshalJSON() ([]byte, error) { return conf.Encode(c, false) }

// UnmarshalJSON reads the documented form strictly: an unknown field is an
// error. All problems come back at once, each with the path of its field. It
// does not validate.
func (c *Config) UnmarshalJSON(data []byte) error { return conf.Decode(data, c) }

// KeepSecrets gives every secret of c that is *** the value of the secret at
// the same place in prev, so that a client that was shown only *** can send a
// configuration back. In lists the same place means: under the same name,
// address or domain; and the password for another host does not stay when that
// host changes. A secret without a counterpart is an error.
func (c *Config) KeepSecrets(prev Config) error { return conf.KeepSecrets(c, prev) }

// Validate checks everything that can be told without I/O, each section and
// what they are to each other, and returns all mistakes at once, each a
// [*FieldError].
func (c *Config) Validate() error {
	check := conf.NewChecker()
	check.Field("listenHost").ListenHost(c.ListenHost)
	if c.Proxy != nil {
		check.Field("smartProxyConfig").Add(c.Proxy.Validate())
	}
	if c.Email != nil {
		check.Field("emailConfig").Add(c.Email.Validate())
		c.checkMailDNS(check.Field("emailConfig"))
	}
	if c.DNS != nil {
		check.Field("dnsServerConfig").Add(c.DNS.Validate())
	}
	c.checkScopes(check.Field("dnsServerConfig"))
	c.checkNames(check)
	if c.RADIUS != nil {
		check.Field("radiusConfig").Add(c.RADIUS.Validate())
	}
	if c.Ops != nil {
		check.Field("opsServerConfig").Add(c.Ops.Validate())
	}
	if c.TLS != nil {
		c.TLS.validate(check.Field("tls"))
	}
	if c.DNSChallenge != nil {
		check.Field("dnsChallenge").Field("cloudflareApiKey").RequiredSecret(c.DNSChallenge.CloudflareAPIKey)
		check.Field("dnsChallenge").Field("propagationTimeout").Wait(c.DNSChallenge.PropagationTimeout)
	}
	if c.Limits != nil {
		c.Limits.validate(check.Field("limits"))
	}
	if c.Blocking != nil {
		c.checkBlocking(check.Field("blocking"))
	}
	if c.Storage != nil {
		check.Field("storage").Field("fsPath").Line(c.Storage.FSPath)
	}
	c.checkPorts(check)
	c.checkCertificates(check)
	return check.Err()
}

// hasDNS reports whether the DNS server runs.
func (c *Config) hasDNS() bool {
	return c.DNS != nil || c.DNSDomain != "" || len(c.DNSNSDomains) > 0
}

func (c *Config) checkNames(check *conf.Checker) {
	if c.DNSDomain != "" {
		check.Field("dnsDomain").Domain(c.DNSDomain)
	}
	if c.DoHPort != nil {
		check.Field("dohPort").ListenPort(*c.DoHPort)
	}
	if c.MTASTSPort != nil {
		check.Field("mtaStsPort").ListenPort(*c.MTASTSPort)
	}
	checkDomains(check, "dnsNsDomains", c.DNSNSDomains)
	checkDomains(check, "dnsScopes", c.DNSScopes)
	addresses := map[string]int{}
	for i, s := range c.PublicIP {
		at := check.Field("publicIp").Index(i)
		at.Addr(s)
		at.Unique(addresses, s, "publicIp", i)
	}
}

func checkDomains(check *conf.Checker, list string, names []string) {
	first := map[string]int{}
	for i, name := range names {
		at := check.Field(list).Index(i)
		at.Domain(name)
		at.Unique(first, plainDomain(name), list, i)
	}
}

func (t *TLSConfig) validate(check *conf.Checker) {
	if t.ContactEmail != "" {
		check.Field("contactEmail").Mailbox(t.ContactEmail)
	}
	if t.Domain != "" {
		check.Field("domain").Domain(strings.TrimPrefix(t.Domain, "*."))
	}
	if t.ECHPublicName != "" && !ech.IsPublicName(certs.CanonicalName(t.ECHPublicName)) {
		check.Field("echPublicName").Errorf("%.60q is not a host name with a dot", t.ECHPublicName)
	}
}
