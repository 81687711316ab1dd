package email

import (
	"net/url"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/keys"
	"github.com/dcrouter/dcrouter/email/internal/records"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// DNSMode returns the DNS mode of a domain of this configuration, with the
// defaults applied.
func (c *Config) DNSMode(d *Domain) string {
	switch {
	case d.DNSMode != "":
		return d.DNSMode
	case c.Defaults.DNSMode != "":
		return c.Defaults.DNSMode
	}
	return ExternalDNS
}

func (c *Config) validateDomains(check *conf.Checker) {
	first := map[string]int{}
	for i := range c.Domains {
		d, at := &c.Domains[i], check.Index(i)
		at.Field("domain").Domain(d.Domain)
		name := strings.ToLower(strings.TrimSuffix(d.Domain, "."))
		at.Field("domain").Unique(first, name, "domains", i)
		if d.DNSMode != "" {
			at.Field("dnsMode").OneOf(d.DNSMode, ForwardDNS, InternalDNS, ExternalDNS)
		}
		d.DNS.validate(at.Field("dns"), c.DNSMode(d))
		d.DKIM.validate(at.Field("dkim"))
		d.RateLimits.validate(at.Field("rateLimits"))
		validateDMARC(at.Field("dmarc"), d.DMARC)
		d.Policies.validate(at.Field("policies"))
	}
}

func (d *Defaults) validate(check *conf.Checker) {
	if d.DNSMode != "" {
		check.Field("dnsMode").OneOf(d.DNSMode, ForwardDNS, InternalDNS, ExternalDNS)
	}
	d.DKIM.validate(check.Field("dkim"))
	d.RateLimits.validate(check.Field("rateLimits"))
	validateDMARC(check.Field("dmarc"), d.DMARC)
	d.Policies.validate(check.Field("policies"))
}

func validateDMARC(check *conf.Checker, policy string) {
	if policy != "" {
		check.OneOf(policy, MonitorDMARC, QuarantineDMARC, RejectDMARC)
	}
}

func (p *Policies) validate(check *conf.Checker) {
	if p.DMARC != "" && p.DMARC != NoPolicy {
		at := check.Field("dmarc")
		at.Line(p.DMARC)
		if !records.IsDMARC(p.DMARC) {
			at.Errorf("%q is no DMARC record; write it as \"v=DMARC1; p=none; rua=mailto:you@example.com\"", p.DMARC)
		}
	}
	if p.MTASTS != "" {
		check.Field("mtaSts").OneOf(p.MTASTS, TestMTASTS, EnforceMTASTS, EndMTASTS, NoPolicy)
	}
	for i, host := range p.MTASTSMX {
		check.Field("mtaStsMx").Index(i).Domain(strings.TrimPrefix(host, "*."))
	}
	if p.TLSRPT != "" && p.TLSRPT != NoPolicy {
		at := check.Field("tlsRpt")
		for uri := range strings.SplitSeq(p.TLSRPT, ",") { // RFC 8460 section 3
			u, err := url.Parse(uri)
			if err != nil || u.Scheme != "mailto" && u.Scheme != "https" || u.Opaque == "" && u.Host == "" || strings.ContainsAny(uri, " ;!") {
				at.Errorf("%q is no address for reports; write it as \"mailto:you@example.com\"", uri)
			}
		}
	}
}

func (d *DomainDNS) validate(check *conf.Checker, mode string) {
	belongs := func(at *conf.Checker, to string) {
		if mode != to {
			at.Errorf("belongs to dnsMode %s, and this domain's is %s", to, mode)
		}
	}
	if f := d.Forward; f != nil {
		at := check.Field("forward")
		belongs(at, ForwardDNS)
		if f.TargetDomain != "" {
			at.Field("targetDomain").Host(f.TargetDomain)
		}
	}
	if n := d.Internal; n != nil {
		at := check.Field("internal")
		belongs(at, InternalDNS)
		if n.MXPriority != nil {
			at.Field("mxPriority").Range(*n.MXPriority, 0, 65535)
		}
		at.Field("ttl").Range(n.TTL, 0, 1<<31-1) // RFC 2181 section 8
	}
	if x := d.External; x != nil {
		at := check.Field("external")
		belongs(at, ExternalDNS)
		for i, record := range x.RequiredRecords {
			at.Field("requiredRecords").Index(i).OneOf(record, "MX", "SPF", "DKIM", "DMARC", "MTA-STS", "TLSRPT")
		}
	}
}

func (k *DKIM) validate(check *conf.Checker) {
	if k.Selector != "" && (!conf.ValidDomain("x."+k.Selector+".x") || strings.Contains(k.Selector, "_")) {
		check.Field("selector").Errorf("%q is not a selector: letters, digits and hyphens, in parts separated by dots", k.Selector)
	}
	if last := k.Selector[strings.LastIndexByte(k.Selector, '.')+1:]; len(last) > keys.MaxSelector {
		check.Field("selector").Errorf("%q is too long, as rotation adds to it: at most %d characters", last, keys.MaxSelector)
	}
	switch k.KeySize {
	case 0, 1024, 2048, 3072, 4096:
	default:
		check.Field("keySize").Errorf("%d is not a key size; use 1024, 2048, 3072 or 4096", k.KeySize)
	}
	check.Field("rotationInterval").Range(k.RotationInterval, 0, 3650)
}
