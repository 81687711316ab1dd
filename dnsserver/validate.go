package dnsserver

import (
	"strings"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Validate checks everything that can be told without I/O and returns all
// mistakes at once, each a [*FieldError].
func (c *Config) Validate() error {
	check := conf.NewChecker()
	validateListen(check, c)
	if c.MaxUDPSize != 0 {
		check.Field("maxUdpSize").Range(c.MaxUDPSize, 512, 4096)
	}
	validateText(check.Field("nsid"), c.NSID)
	validateText(check.Field("version"), c.Version)
	first := map[string]int{}
	for i, name := range c.NameServers {
		at := check.Field("nameServers").Index(i)
		checkName(at, name, name)
		at.Unique(first, canonical(name), "nameServers", i)
	}
	validateRecords(check, "records", c.Records)
	validateRecords(check, "defaultRecords", c.DefaultRecords)
	first = map[string]int{}
	for i, z := range c.Zones {
		z.DNSSEC.validate(check.Field("zones").Index(i).Field("dnssec"))
		at := check.Field("zones").Index(i).Field("name")
		checkName(at, z.Name, z.Name)
		at.Unique(first, canonical(z.Name), "zones", i)
	}
	validateTransfer(check, c)
	return check.Err()
}

// validateText wants what fits into one string of a TXT record.
func validateText(check *conf.Checker, s string) {
	check.Line(s)
	if len(s) > 255 {
		check.Errorf("longer than 255 octets")
	}
}

// canonical is one way to write a name, for comparing.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

func validateRecords(check *conf.Checker, list string, records []Record) {
	check = check.Field(list)
	same := map[string]int{}
	for i, r := range records {
		at := check.Index(i)
		r.validate(at)
		at.Unique(same, canonical(r.Name)+" "+strings.ToUpper(r.Type)+" "+r.Value, list, i)
	}
	validateAliases(check, list, records)
}

func (r *Record) validate(check *conf.Checker) {
	// The asterisk of a wildcard stands for a label.
	name := r.Name
	if rest, wild := strings.CutPrefix(name, "*."); wild {
		name = rest
	}
	checkName(check.Field("name"), r.Name, name)
	check.Field("ttl").Range(r.TTL, 0, 1<<31-1) // RFC 2181 section 8
	shape, known := shapeOf(strings.ToUpper(r.Type))
	switch {
	case r.Type == "":
		check.Field("type").Errorf("missing: give a record type such as A")
	case !known:
		at := check.Field("type")
		if near := conf.Nearest(r.Type, recordTypes()); near != "" {
			at.Errorf("%q is not a known record type, did you mean %q?", r.Type, near)
		} else {
			at.Errorf("%q is not a known record type", r.Type)
		}
	case r.Value == "":
		check.Field("value").Errorf("missing: want %s", shape.want)
	default:
		if !shape.ok(r.Value) {
			check.Field("value").Errorf("%.60q is not the value of a record of type %s: want %s", r.Value, strings.ToUpper(r.Type), shape.want)
		}
	}
}

// checkName wants a domain name, of which significant is what must be one.
func checkName(check *conf.Checker, name, significant string) {
	switch {
	case name == "":
		check.Errorf("missing: give a domain name")
	case !isName(significant):
		check.Errorf("%.60q is not a domain name", name)
	}
}

// validateAliases keeps CNAME records alone (RFC 1034 section 3.6.2).
func validateAliases(check *conf.Checker, list string, records []Record) {
	cname := map[string]int{}
	for i, r := range records {
		if strings.EqualFold(r.Type, "CNAME") {
			check.Index(i).Field("name").Unique(cname, canonical(r.Name), list, i)
		}
	}
	for i, r := range records {
		at, ok := cname[canonical(r.Name)]
		if ok && !strings.EqualFold(r.Type, "CNAME") {
			check.Index(i).Field("name").Errorf("%q has a CNAME record, %s[%d], and so no other", r.Name, list, at)
		}
	}
}
