package radius

import "github.com/dcrouter/dcrouter/internal/conf"

// minSecret is the length of a secret from which it counts as strong, in
// octets (RFC 2865 section 3).
const minSecret = 16

// Validate checks everything that can be told without I/O and returns all
// mistakes at once, each a [*FieldError].
func (c *Config) Validate() error {
	check := conf.NewChecker()
	check.Field("listenHost").ListenHost(c.ListenHost)
	c.validatePorts(check)
	c.validateSecret(check.Field("secret"), c.Secret)
	if c.Secret == "" && len(c.Clients) == 0 {
		check.Field("secret").Errorf("missing: give one here, or clients with their own")
	}
	c.validateClients(check.Field("clients"))
	if c.MACAuth != nil {
		c.MACAuth.validate(check.Field("macAuth"))
	}
	validateRules(check.Field("vlanAssignment"), c.VLANAssignment)
	return check.Err()
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

func validateRules(check *conf.Checker, rules []VLANRule) {
	seen := macSet{}
	for i, rule := range rules {
		at := check.Index(i)
		checkVLAN(at.Field("vlan"), rule.VLAN)
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
