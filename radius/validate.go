package radius

import (
	"strings"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// minSecret is the length of a secret from which it counts as strong, in
// octets (RFC 2865 section 3).
const minSecret = 16

// Validate checks everything that can be told without I/O and returns all
// mistakes at once, each a [*FieldError].
func (c *Config) Validate() error {
	check := conf.NewChecker()
	c.validate(check)
	return check.Err()
}

func (c *Config) validate(check *conf.Checker) {
	check.Field("listenHost").ListenHost(c.ListenHost)
	c.validatePorts(check)
	c.validateSecret(check.Field("secret"), c.Secret)
	if c.Secret == "" && len(c.Clients) == 0 {
		check.Field("secret").Errorf("missing: give one here, or clients with their own")
	}
	c.validateClients(check.Field("clients"))
	policy := Policy{c.MACAuth, c.VLANAssignment}
	policy.validate(check)
	check.Field("vlanTag").Range(c.VLANTag, 0, 31)
	c.Accounting.validate(check.Field("accounting"))
	if c.RadSec != nil {
		c.RadSec.validate(check.Field("radSec"))
	}
	c.validateRealms(check.Field("realms"))
	c.Limits.validate(check.Field("limits"))
}

func (a *Accounting) validate(check *conf.Checker) {
	check.Field("staleAfter").Wait(a.StaleAfter)
	check.Field("maxSessions").Range(a.MaxSessions, 0, 6_000_000)
}

func (r *RadSec) validate(check *conf.Checker) {
	if r.Port != nil {
		check.Field("port").ListenPort(*r.Port)
	}
	check.Field("maxConnections").NotNegative(r.MaxConnections)
	if cert := &r.Certificate; (cert.CertPath == "") != (cert.KeyPath == "") {
		check.Field("certificate").Errorf("certPath and keyPath go together")
	}
}

func (l *Limits) validate(check *conf.Checker) {
	check.Field("maxConcurrent").Range(l.MaxConcurrent, 0, 65536)
	check.Field("maxFailures").Range(l.MaxFailures, -1, 1_000_000)
	check.Field("failureWindow").Wait(l.FailureWindow)
	if r := l.RateLimit; r != nil {
		check.Field("rateLimit").Field("requestsPerSecond").Range(r.RequestsPerSecond, 1, 10_000_000)
		check.Field("rateLimit").Field("burst").Range(r.Burst, 0, 10_000_000)
	}
}

func (c *Config) validateRealms(check *conf.Checker) {
	names := map[string]int{}
	for i, realm := range c.Realms {
		at := check.Index(i)
		if realm.Name != "*" {
			at.Field("name").Domain(realm.Name)
		}
		at.Field("name").Unique(names, strings.ToLower(realm.Name), "realms", i)
		servers := at.Field("homeServers")
		if len(realm.HomeServers) == 0 {
			servers.Errorf("missing: give at least one")
		}
		addresses := map[string]int{}
		for i, h := range realm.HomeServers {
			at := servers.Index(i)
			at.Field("host").Host(h.Host)
			at.Field("host").Unique(addresses, strings.ToLower(hostPort(h.Host, valueOr(h.Port, DefaultPort))), "homeServers", i)
			if h.Port != 0 {
				at.Field("port").Port(h.Port)
			}
			if h.AccountingPort != 0 {
				at.Field("accountingPort").Port(h.AccountingPort)
			}
			c.validateSecret(at.Field("secret"), h.Secret)
			if h.Secret == "" {
				at.Field("secret").Errorf("missing")
			}
			at.Field("timeout").Wait(h.Timeout)
		}
	}
}

func (c *Config) validatePorts(check *conf.Checker) {
	port, accounting := DefaultPort, DefaultAccountingPort
	if c.Port != nil {
		port = *c.Port
		check.Field("port").ListenPort(port)
	}
	if c.AccountingPort != nil {
		accounting = *c.AccountingPort
		check.Field("accountingPort").ListenPort(accounting)
	}
	if port == accounting && port != 0 {
		check.Field("accountingPort").Errorf("%d is that of port already", port)
	}
}

func (c *Config) validateSecret(check *conf.Checker, s Secret) {
	check.Secret(s)
	strict := c.AllowWeakSecret != nil && !*c.AllowWeakSecret
	if n := len(s.Reveal()); strict && n > 0 && n < minSecret {
		check.Errorf("%d octets are too few, the least is %d", n, minSecret)
	}
}

func (c *Config) validateClients(check *conf.Checker) {
	names, addresses := map[string]int{}, map[string]int{}
	for i, client := range c.Clients {
		at := check.Index(i)
		at.Field("name").Line(client.Name)
		at.Field("name").Unique(names, client.Name, "clients", i)
		if block, ok := conf.ParseCIDR(client.IP); ok {
			at.Field("ip").Unique(addresses, block.String(), "clients", i)
		} else {
			at.Field("ip").CIDR(client.IP)
		}
		c.validateSecret(at.Field("secret"), client.Secret)
		if client.Secret == "" && c.Secret == "" {
			at.Field("secret").Errorf("missing: give one here, or one for all clients")
		}
		if client.CoAPort != 0 {
			at.Field("coaPort").Port(client.CoAPort)
		}
		for n, name := range client.CertificateNames {
			at.Field("certificateNames").Index(n).Host(name)
		}
	}
}

func (m *MACAuth) validate(check *conf.Checker) {
	for i, mac := range m.AllowedMACs {
		checkMAC(check.Field("allowedMacs").Index(i), mac)
	}
	if m.DefaultVLAN != 0 {
		checkVLAN(check.Field("defaultVlan"), m.DefaultVLAN)
	}
	if m.GuestVLAN != 0 {
		checkVLAN(check.Field("guestVlan"), m.GuestVLAN)
	}
	check.Field("password").Secret(m.Password)
}

func checkMAC(check *conf.Checker, s string) (macPattern, bool) {
	pattern, ok := parseMACPattern(s)
	if !ok {
		check.Errorf("%.60q is not a MAC address such as aa:bb:cc:dd:ee:ff, or a prefix such as aa:bb:cc:*", s)
	}
	return pattern, ok
}

func checkVLAN(check *conf.Checker, n int) {
	if n < 1 || n > 4094 {
		check.Errorf("%d is not a VLAN (1-4094)", n)
	}
}

// checkText wants what fits into an attribute, with its tag.
func checkText(check *conf.Checker, s string) {
	check.Line(s)
	if len(s) > 252 {
		check.Errorf("%d octets are too many, the most is 252", len(s))
	}
}

func validateRules(check *conf.Checker, rules []VLANRule) {
	seen := macSet{}
	for i, rule := range rules {
		at := check.Index(i)
		if rule.VLANName == "" || rule.VLAN != 0 {
			checkVLAN(at.Field("vlan"), rule.VLAN)
		}
		if rule.VLAN != 0 && rule.VLANName != "" {
			at.Field("vlanName").Errorf("vlan and vlanName exclude each other")
		}
		checkText(at.Field("vlanName"), rule.VLANName)
		checkText(at.Field("filterId"), rule.FilterID)
		at.Field("sessionTimeout").Wait(rule.SessionTimeout)
		if rule.Reauthenticate && rule.SessionTimeout == 0 {
			at.Field("reauthenticate").Errorf("needs a sessionTimeout")
		}
		match := at.Field("match")
		switch {
		case rule.Match.Default && rule.Match.MAC != "":
			match.Errorf("mac and default exclude each other")
		case rule.Match.Default && i < len(rules)-1:
			match.Field("default").Errorf("the rule for all devices comes last")
		case rule.Match.Default:
		case rule.Match.MAC == "":
			match.Errorf("missing: give mac or default")
		default:
			checkReachable(match.Field("mac"), seen, rule.Match.MAC, i)
		}
	}
}

func checkReachable(check *conf.Checker, seen macSet, mac string, i int) {
	pattern, ok := checkMAC(check, mac)
	if !ok {
		return
	}
	if before, taken := seen.first(pattern); taken {
		check.Errorf("%q is never reached: vlanAssignment[%d] takes it before", mac, before)
		return
	}
	seen[pattern] = i
}
