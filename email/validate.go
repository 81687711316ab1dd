package email

import (
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/dnsc"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// maxPorts bounds the listeners of one server.
const maxPorts = 100

// Validate checks everything that can be told without I/O and returns all
// mistakes at once, each a [*FieldError].
func (c *Config) Validate() error {
	check := conf.NewChecker()
	check.Field("listenHost").ListenHost(c.ListenHost)
	c.validatePorts(check.Field("ports"))
	check.Field("hostname").Domain(c.Hostname)
	addresses := map[string]int{}
	for i, ip := range c.PublicIP {
		at := check.Field("publicIp").Index(i)
		at.Addr(ip)
		at.Unique(addresses, ip, "publicIp", i)
	}
	c.validateDomains(check.Field("domains"))
	validateRoutes(check.Field("routes"), c.Routes)
	if c.Auth != nil {
		c.Auth.validate(check.Field("auth"))
	}
	if c.TLS != nil {
		c.TLS.validate(check.Field("tls"))
	}
	if c.MaxMessageSize < 0 {
		check.Field("maxMessageSize").Errorf("%d is negative", c.MaxMessageSize)
	}
	c.RateLimits.validate(check.Field("rateLimits"))
	c.Defaults.validate(check.Field("defaults"))
	c.Queue.validate(check.Field("queue"))
	c.Outbound.validate(check.Field("outbound"))
	validateWebhooks(check.Field("webhooks"), c.Webhooks)
	validateResolvers(check.Field("resolvers"), c.Resolvers)
	if c.SmartHost != nil {
		c.SmartHost.validate(check.Field("smartHost"))
	}
	for i := range c.Scanners {
		c.Scanners[i].validate(check.Field("scanners").Index(i))
	}
	if c.IPReputation != nil {
		c.IPReputation.validate(check.Field("ipReputation"))
	}
	if g := c.Greylisting; g != nil {
		at := check.Field("greylisting")
		at.Field("delay").Wait(g.Delay)
		at.Field("window").Wait(g.Window)
		at.Field("lifetime").Wait(g.Lifetime)
	}
	at := check.Field("connections")
	at.Field("max").NotNegative(c.Connections.Max)
	at.Field("timeout").Wait(c.Connections.Timeout)
	at.Field("greetDelay").Wait(c.Connections.GreetDelay)
	at.Field("maxErrors").NotNegative(c.Connections.MaxErrors)
	c.Security.validate(check.Field("security"))
	if c.ProxyProtocol != nil {
		c.ProxyProtocol.validate(check.Field("proxyProtocol"))
	}
	check.Field("dataPath").Line(c.DataPath)
	return check.Err()
}

func (c *Config) validatePorts(check *conf.Checker) {
	ports := c.Ports
	if len(ports) == 0 {
		check.Errorf("missing: give at least one port, such as 25")
	}
	if len(ports) > maxPorts {
		check.Errorf("%d are too many, the limit is %d", len(ports), maxPorts)
		return
	}
	first := map[string]int{}
	free := -1
	for i, p := range ports {
		at := check.Index(i)
		at.ListenPort(p.Port)
		if p.Port == 0 && c.UseSocketHandler {
			if free >= 0 {
				at.Errorf("port 0 is that of ports[%d] already: with useSocketHandler there is one free port; give the others a number", free)
			}
			free = i
		}
		if p.Mode != "" {
			at.Field("mode").OneOf(p.Mode, SMTP, Submission, SMTPS)
		}
		if p.Port != 0 {
			at.Unique(first, strconv.Itoa(p.Port), "ports", i)
		}
	}
}

func (a *Auth) validate(check *conf.Checker) {
	first := map[string]int{}
	for i, u := range a.Users {
		at := check.Field("users").Index(i)
		at.Field("username").Required(u.Username)
		at.Field("username").Line(u.Username)
		at.Field("password").RequiredSecret(u.Password)
		at.Field("username").Unique(first, u.Username, "users", i)
		for j, p := range u.Senders {
			checkPattern(at.Field("senders").Index(j), p)
		}
	}
}

func (t *TLS) validate(check *conf.Checker) {
	check.Field("certPath").Required(t.CertPath)
	check.Field("keyPath").Required(t.KeyPath)
}

func (r *RateLimits) validate(check *conf.Checker) {
	in, out := check.Field("inbound"), check.Field("outbound")
	in.Field("messagesPerMinute").NotNegative(r.Inbound.MessagesPerMinute)
	in.Field("connectionsPerIp").NotNegative(r.Inbound.ConnectionsPerIP)
	in.Field("messagesPerMinutePerIp").NotNegative(r.Inbound.MessagesPerMinutePerIP)
	in.Field("messagesPerMinutePerUser").NotNegative(r.Inbound.MessagesPerMinutePerUser)
	in.Field("recipientsPerMessage").NotNegative(r.Inbound.RecipientsPerMessage)
	out.Field("messagesPerHour").NotNegative(r.Outbound.MessagesPerHour)
	out.Field("messagesPerDay").NotNegative(r.Outbound.MessagesPerDay)
}

func (q *Queue) validate(check *conf.Checker) {
	check.Field("concurrency").NotNegative(q.Concurrency)
	if q.MaxRetries != nil {
		check.Field("maxRetries").NotNegative(*q.MaxRetries)
	}
	check.Field("concurrencyPerSite").NotNegative(q.ConcurrencyPerSite)
	check.Field("retryDelay").Wait(q.RetryDelay)
	check.Field("maxAge").Wait(q.MaxAge)
	check.Field("keepHeld").Wait(q.KeepHeld)
}

// validateResolvers wants addresses, with or without a port.
func validateResolvers(check *conf.Checker, list []string) {
	for i, s := range list {
		if _, err := dnsc.New(dnsc.Config{Servers: []string{s}}); err != nil {
			check.Index(i).Errorf("%q is not an address of a DNS server, such as 127.0.0.1 or 192.0.2.1:53", s)
		}
	}
	if len(list) > dnsc.MaxServers {
		check.Errorf("%d are too many, the limit is %d", len(list), dnsc.MaxServers)
	}
}

func (s *SmartHost) validate(check *conf.Checker) {
	// Without a host there is no smart host, which {"host": "", "port": 25}
	// says in so many words; but then there is nowhere to sign in either.
	if s.Host != "" || s.Auth != nil {
		check.Field("host").Host(s.Host)
	}
	validateNextHop(check, s.Port, s.Auth, &s.TLS)
}

// validateNextHop checks what a smart host and the action forward share.
func validateNextHop(check *conf.Checker, port int, auth *Credentials, tls *ClientTLS) {
	if port != 0 {
		check.Field("port").Port(port)
	}
	if auth != nil {
		at := check.Field("auth")
		at.Field("username").Required(auth.Username)
		at.Field("username").Line(auth.Username)
		at.Field("password").RequiredSecret(auth.Password)
	}
	at := check.Field("tls")
	if tls.Mode != "" {
		at.Field("mode").OneOf(tls.Mode, OpportunisticTLS, StartTLS, ImplicitTLS, NoTLS)
	}
	if tls.Mode == NoTLS && (tls.ServerName != "" || tls.CAPath != "" || tls.InsecureSkipVerify) {
		at.Errorf("mode none has nothing to verify")
	}
	if tls.ServerName != "" {
		at.Field("serverName").Domain(tls.ServerName)
	}
}

func (s *Scanner) validate(check *conf.Checker) {
	check.Field("type").OneOf(s.Type, SpamScanner, VirusScanner, AttachmentScanner)
	if s.Action != "" {
		check.Field("action").OneOf(s.Action, TagMail, QuarantineMail, RejectMail)
	}
	if s.OnError != "" {
		check.Field("onError").OneOf(s.OnError, TempFailMail, AcceptMail)
	}
	check.Field("timeout").Wait(s.Timeout)
	s.validateBackend(check)
	if s.Threshold != 0 || len(s.Headers) > 0 {
		s.only(check, SpamScanner, "threshold and headers")
	}
	for i, name := range s.Headers {
		check.Field("headers").Index(i).OneOf(name, "X-Spam-Score", "X-Spam-Status", "X-Spam-Level", "X-Spam-Flag")
	}
	if s.MaxSize != 0 || len(s.BlockedExtensions) > 0 {
		s.only(check, AttachmentScanner, "blockedExtensions and maxSize")
	}
	for i, ext := range s.BlockedExtensions {
		if len(ext) < 2 || ext[0] != '.' || strings.ContainsAny(ext, "/\\ *") {
			check.Field("blockedExtensions").Index(i).Errorf("%q is not an extension such as .exe", ext)
		}
	}
	if s.MaxSize < 0 {
		check.Field("maxSize").Errorf("%d is negative", s.MaxSize)
	}
}

func (s *Scanner) validateBackend(check *conf.Checker) {
	switch s.Backend {
	case "", BuiltinBackend:
		if s.Address != "" {
			check.Field("address").Errorf("the built-in backend has no address; name another as backend")
		}
		return
	}
	at := check.Field("backend")
	at.OneOf(s.Backend, BuiltinBackend, RspamdBackend, SpamAssassinBackend, ClamAVBackend, MilterBackend)
	validateSocket(check.Field("address"), s.Address)
	switch {
	case s.Type == AttachmentScanner:
		at.Errorf("attachments are looked at by the built-in backend only")
	case s.Type == VirusScanner && s.Backend == SpamAssassinBackend:
		at.Errorf("spamassassin does not look for malware")
	case s.Type == SpamScanner && s.Backend == ClamAVBackend:
		at.Errorf("clamav does not look for spam")
	}
}

// only reports settings that have no effect on a scanner of this type.
func (s *Scanner) only(check *conf.Checker, scanner, what string) {
	if s.Type != scanner {
		check.Errorf("%s are for scanners of type %s", what, scanner)
	}
}

// validateSocket wants host:port or the path of a Unix socket.
func validateSocket(check *conf.Checker, s string) {
	if !strings.HasPrefix(s, "/") {
		check.HostPort(s)
	}
}

func (r *IPReputation) validate(check *conf.Checker) {
	for i, p := range r.Providers {
		switch p {
		case "spamhaus", "barracuda", "surbl":
		default:
			at := check.Field("providers").Index(i)
			if !conf.ValidDomain(p) || !strings.Contains(p, ".") {
				at.Errorf("%q is not known; use spamhaus, barracuda, surbl or the domain of a list", p)
			}
		}
	}
	check.Field("cacheTimeout").Wait(r.CacheTimeout)
	check.Field("timeout").Wait(r.Timeout)
	if !(r.Threshold >= 0 && r.Threshold <= 1) {
		check.Field("threshold").Errorf("%v is not between 0 and 1", r.Threshold)
	}
	check.Field("allowList").CIDRs(r.AllowList)
	check.Field("blockList").CIDRs(r.BlockList)
}
