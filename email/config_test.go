package email

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/conf/conftest"
)

func TestReferenceConfigs(t *testing.T) {
	conftest.Reference[Config](t, "emailConfig", "basic-email", "email-domains", "email-routes", "email-socket-handler", "enterprise", "ops-dashboard")
}

func TestJSON(t *testing.T) {
	var c Config
	err := json.Unmarshal([]byte(`{"ports":[25,{"port":2465,"mode":"smtps"},{"mode":"submission"}],"hostname":"a.b",
		"queue":{"retryDelay":300000,"maxRetries":0},"routes":{"match":{"recipients":"*@x","authenticated":false}},
		"domains":{"domain":"x.y","dns":{"internal":{"mxPriority":0}}}}`), &c)
	want := Config{
		Ports: []Port{{Port: 25}, {2465, SMTPS}, {0, Submission}}, Hostname: "a.b",
		Queue:   Queue{RetryDelay: 5 * time.Minute, MaxRetries: new(0)},
		Routes:  []Route{{Match: Match{Recipients: []string{"*@x"}, Authenticated: new(false)}}},
		Domains: []Domain{{Domain: "x.y", DNS: DomainDNS{Internal: &InternalDNSSettings{MXPriority: new(0)}}}},
	}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, %v", c, err)
	}
	shown, err := json.Marshal(Config{
		Ports: append(Ports(25), Port{0, SMTPS}), Auth: &Auth{Users: []User{{Username: "u", Password: "hunter2"}}},
		SmartHost: &SmartHost{Auth: &Credentials{"u", "hunter2"}},
	})
	wantShown := `{"ports":[25,{"mode":"smtps"}],"auth":{"users":[{"username":"u","password":"***"}]},"smartHost":{"auth":{"username":"u","password":"***"}}}`
	if err != nil || string(shown) != wantShown {
		t.Errorf("got %s, %v", shown, err)
	}
	route, err := json.Marshal(Route{Name: "r", Action: Action{Type: Forward, Forward: &ForwardAction{Host: "h", Auth: &Credentials{"u", "hunter2"}}}})
	wantRoute := `{"name":"r","action":{"type":"forward","forward":{"host":"h","auth":{"username":"u","password":"***"}}}}`
	if err != nil || string(route) != wantRoute {
		t.Errorf("got %s, %v", route, err)
	}
	var r Route
	if err := json.Unmarshal(route, &r); err != nil || r.Action.Forward.Host != "h" {
		t.Errorf("got %+v, %v", r, err)
	}
	if json.Unmarshal([]byte(`{"ports":["smtp"]}`), &c) == nil || json.Unmarshal([]byte(`{"ports":[2.5]}`), &c) == nil {
		t.Error("ports that are no numbers were accepted")
	}
}

func TestMode(t *testing.T) {
	c := Config{}
	if got := c.DNSMode(&Domain{}); got != ExternalDNS {
		t.Error(got)
	}
	c.Defaults.DNSMode = InternalDNS
	if got := c.DNSMode(&Domain{}); got != InternalDNS {
		t.Error(got)
	}
	if got := c.DNSMode(&Domain{DNSMode: ForwardDNS}); got != ForwardDNS {
		t.Error(got)
	}
}

// TestValidate completes each configuration with what is required.
func TestValidate(t *testing.T) {
	const maximal = `"listenHost":"::1","maxMessageSize":1,"tls":{"certPath":"c","keyPath":"k"},"auth":{"users":[{"username":"u","password":"p"}]},
		"smartHost":{"host":"192.0.2.1","port":587,"auth":{"username":"u","password":"p"},"tls":{"mode":"starttls","serverName":"a.b","caPath":"c"}},
		"scanners":[{"type":"spam","threshold":5.0,"action":"tag","headers":["X-Spam-Score","X-Spam-Status"]},{"type":"virus","action":"reject","quarantine":true},
			{"type":"attachment","blockedExtensions":[".exe"],"maxSize":26214400},{"type":"virus","backend":"clamav","address":"/run/clamd","timeout":"5s","onError":"accept"}],
		"ipReputation":{"providers":["spamhaus","barracuda","surbl","dnsbl.example.org"],"cacheTimeout":3600000,"threshold":0.7,"allowList":"10.0.0.0/8"},
		"routes":[{"action":{"type":"deliver","deliver":{"maildir":"/var/mail/{domain}/{user}"}}},{"action":{"type":"deliver","deliver":{"lmtp":"127.0.0.1:24"}}},
			{"match":{"senders":[""]},"action":{"type":"reject"}}]`
	tests := []struct{ name, config, want string }{
		{"least", ``, ``},
		{"much", maximal, ``},
		{"smart host left open", `"smartHost":{"host":"","port":25}`, ``},

		{"address", `"listenHost":"mail.example.com"`, `listenHost: "mail.example.com" is not an IP address`},
		{"size", `"maxMessageSize":-1`, `maxMessageSize: -1 is negative`},
		{"certificate", `"tls":{"certPath":"c"}`, `tls.keyPath: missing`},
		{"limits", `"rateLimits":{"inbound":{"messagesPerMinute":-1,"connectionsPerIp":-2,"recipientsPerMessage":-3},"outbound":{"messagesPerHour":-4,"messagesPerDay":-5}}`,
			"rateLimits.inbound.messagesPerMinute: -1 is negative\nrateLimits.inbound.connectionsPerIp: -2 is negative\nrateLimits.inbound.recipientsPerMessage: -3 is negative\n" +
				"rateLimits.outbound.messagesPerHour: -4 is negative\nrateLimits.outbound.messagesPerDay: -5 is negative"},
		{"queue", `"queue":{"concurrency":-1,"maxRetries":-1,"retryDelay":-1,"keepHeld":-1}`,
			"queue.concurrency: -1 is negative\nqueue.maxRetries: -1 is negative\nqueue.retryDelay: -1ms is negative\nqueue.keepHeld: -1ms is negative"},
		{"users", `"auth":{"users":[{"password":"p"},{"username":"a","password":"***"},{"username":"a"}]}`,
			"auth.users[0].username: missing\nauth.users[1].password: *** is what is shown in place of a secret: give its value\n" +
				"auth.users[2].password: missing\nauth.users[2].username: \"a\" is that of users[1] already"},

		{"domain names", `"domains":[{"domain":"a b"},{"domain":"x.y"},{"domain":"X.Y."},{}]`,
			"domains[0].domain: \"a b\" is not a host name\ndomains[2].domain: \"x.y\" is that of domains[1] already\ndomains[3].domain: missing: give a host name"},
		{"DNS modes", `"defaults":{"dnsMode":"none"},"domains":[{"domain":"x.y","dnsMode":"internal"}]`,
			"domains[0].dnsMode: \"internal\" is not known; use forward, internal-dns or external-dns\ndefaults.dnsMode: \"none\" is not known; use forward, internal-dns or external-dns"},
		{"section of another mode", `"defaults":{"dnsMode":"internal-dns"},"domains":[{"domain":"x.y","dns":{"forward":{},"internal":{},"external":{}}}]`,
			"domains[0].dns.forward: belongs to dnsMode forward, and this domain's is internal-dns\ndomains[0].dns.external: belongs to dnsMode external-dns, and this domain's is internal-dns"},
		{"DNS settings", `"domains":[{"domain":"a","dnsMode":"forward","dns":{"forward":{"targetDomain":"-"}}},{"domain":"b","dnsMode":"internal-dns","dns":{"internal":{"mxPriority":65536,"ttl":-1}}},
			{"domain":"c","dns":{"external":{"requiredRecords":["MX","spf"]}}}]`,
			"domains[0].dns.forward.targetDomain: \"-\" is not a host name or an address\ndomains[1].dns.internal.mxPriority: 65536 is not between 0 and 65535\n" +
				"domains[1].dns.internal.ttl: -1 is not between 0 and 2147483647\n" +
				"domains[2].dns.external.requiredRecords[1]: \"spf\" is not known; use MX, SPF, DKIM, DMARC, MTA-STS or TLSRPT"},
		{"DKIM", `"defaults":{"dkim":{"selector":"a b"}},"domains":[{"domain":"a","dkim":{"selector":"a_b","keySize":512,"rotationInterval":-1}}]`,
			"domains[0].dkim.selector: \"a_b\" is not a selector: letters, digits and hyphens, in parts separated by dots\n" +
				"domains[0].dkim.keySize: 512 is not a key size; use 1024, 2048, 3072 or 4096\ndomains[0].dkim.rotationInterval: -1 is not between 0 and 3650\n" +
				"defaults.dkim.selector: \"a b\" is not a selector: letters, digits and hyphens, in parts separated by dots"},
		{"long selector", `"domains":[{"domain":"a","dkim":{"selector":"x.` + strings.Repeat("a", 44) + `"}}]`,
			"domains[0].dkim.selector: \"" + strings.Repeat("a", 44) + "\" is too long, as rotation adds to it: at most 43 characters"},
		{"policies", `"publicIp":["192.0.2.1","x","192.0.2.1"],"defaults":{"policies":{"dmarc":"v=DMARC1; x","tlsRpt":"x@y"}},
			"domains":[{"domain":"a","policies":{"dmarc":"none","mtaSts":"on","mtaStsMx":["*.a.b","*"],"tlsRpt":"mailto:a@b,ftp://c"}},{"domain":"b","policies":{"dmarc":"off","mtaSts":"off","tlsRpt":"off"}},
			{"domain":"c","policies":{"dmarc":"v=DMARC1;p=Reject;","mtaSts":"enforce","tlsRpt":"mailto:a@b,https://c/d"}}]`,
			"publicIp[1]: \"x\" is not an IP address\npublicIp[2]: \"192.0.2.1\" is that of publicIp[0] already\n" +
				"domains[0].policies.dmarc: \"none\" is no DMARC record; write it as \"v=DMARC1; p=none; rua=mailto:you@example.com\"\n" +
				"domains[0].policies.mtaSts: \"on\" is not known; use testing, enforce, none or off\n" +
				"domains[0].policies.mtaStsMx[1]: \"*\" is not a host name\n" +
				"domains[0].policies.tlsRpt: \"ftp://c\" is no address for reports; write it as \"mailto:you@example.com\"\n" +
				"defaults.policies.dmarc: \"v=DMARC1; x\" is no DMARC record; write it as \"v=DMARC1; p=none; rua=mailto:you@example.com\"\n" +
				"defaults.policies.tlsRpt: \"x@y\" is no address for reports; write it as \"mailto:you@example.com\""},

		{"route names", `"routes":[{"name":"a","action":{"type":"process"}},{"action":{"type":"process"}},{"action":{"type":"process"}},{"name":"a","action":{"type":"process"}}]`,
			`routes[3].name: "a" is that of routes[0] already`},
		{"patterns", `"routes":[{"match":{"recipients":["*@a","/(/"],"senders":"/[/i","subject":"/*/","headers":{"b c":"x","Subject":"/a(/","X-A":""}},"action":{"type":"process"}}]`,
			"routes[0].match.recipients[1]: not a regular expression: missing closing ): `(`\n" +
				"routes[0].match.senders[0]: not a regular expression: missing closing ]: `[`\n" +
				"routes[0].match.headers[\"Subject\"]: not a regular expression: missing closing ): `a(`\n" +
				"routes[0].match.headers[\"X-A\"]: missing: an empty pattern matches nothing; use * for anything\n" +
				"routes[0].match.headers[\"b c\"]: \"b c\" is not the name of a header\n" +
				"routes[0].match.subject: not a regular expression: missing argument to repetition operator: `*`"},
		{"client", `"routes":[{"match":{"clientIp":["10.0.0.0/8","10.0.0.0/40"]},"action":{"type":"process"}}]`,
			`routes[0].match.clientIp[1]: "10.0.0.0/40" is not an IP address or CIDR block`},
		{"sizes", `"routes":[{"match":{"sizeRange":{"min":5,"max":4}},"action":{"type":"process"}},{"match":{"sizeRange":{"min":-5,"max":-4}},"action":{"type":"process"}}]`,
			"routes[0].match.sizeRange: no size is at least 5 and at most 4\nroutes[1].match.sizeRange.min: -5 is negative\nroutes[1].match.sizeRange.max: -4 is negative"},
		{"action type", `"routes":[{},{"action":{"type":"drop"}}]`,
			"routes[0].action.type: missing: use forward, process, deliver or reject\nroutes[1].action.type: \"drop\" is not known; use forward, process, deliver or reject"},
		{"section of another type", `"routes":[{"action":{"type":"process","forward":{"host":"a"},"process":{},"deliver":{},"reject":{}}}]`,
			"routes[0].action.forward: belongs to type forward\nroutes[0].action.deliver: belongs to type deliver\nroutes[0].action.reject: belongs to type reject"},
		{"forward", `"routes":[{"action":{"type":"forward"}},{"action":{"type":"forward","forward":{"host":"a:25","port":70000,"auth":{},"tls":{"mode":"tls","serverName":"-"},"addHeaders":{"X A":"b","X-B":"a\r\nb"}}}},
			{"action":{"type":"forward","forward":{"host":"a","tls":{"mode":"none","caPath":"x"}}}}]`,
			"routes[0].action.forward: missing: say where to forward to\nroutes[1].action.forward.host: \"a:25\" is not a host name or an address\n" +
				"routes[1].action.forward.port: 70000 is not a port (1-65535)\nroutes[1].action.forward.auth.username: missing\nroutes[1].action.forward.auth.password: missing\n" +
				"routes[1].action.forward.tls.mode: \"tls\" is not known; use opportunistic, starttls, implicit or none\nroutes[1].action.forward.tls.serverName: \"-\" is not a host name\n" +
				"routes[1].action.forward.addHeaders[\"X A\"]: \"X A\" is not the name of a header\n" +
				"routes[1].action.forward.addHeaders[\"X-B\"]: \"a\\r\\nb\" has a line break or another control character in it\n" +
				"routes[2].action.forward.tls: mode none has nothing to verify"},
		{"process", `"routes":[{"action":{"type":"process","process":{"queue":"fast"}}}]`, `routes[0].action.process.queue: "fast" is not known; use normal or priority`},
		{"deliver", `"routes":[{"action":{"type":"deliver","deliver":{"maildir":"{home}","lmtp":"24"}}},{"action":{"type":"deliver","deliver":{"maildir":"/var/mail/{domain}"}}},{"action":{"type":"deliver","deliver":{"maildir":"/m/{user}-{domain}"}}}]`,
			"routes[0].action.deliver: maildir and lmtp exclude each other\nroutes[0].action.deliver.maildir: \"{home}\" has braces other than {domain} and {user}\n" +
				"routes[0].action.deliver.lmtp: \"24\" is not host:port\n" +
				"routes[1].action.deliver.maildir: \"/var/mail/{domain}\" has no {user}: all mail would go into one mailbox\n" +
				"routes[2].action.deliver.maildir: \"/m/{user}-{domain}\" would give some addresses the same mailbox: there must be a / or an @ between {user} and {domain}"},
		{"reject", `"routes":[{"action":{"type":"reject","reject":{"code":250,"message":"a\nb"}}},{"action":{"type":"reject","reject":{"code":600}}}]`,
			"routes[0].action.reject.code: 250 is not a reply code that refuses (400-599)\nroutes[0].action.reject.message: \"a\\nb\" has a line break or another control character in it\n" +
				"routes[1].action.reject.code: 600 is not a reply code that refuses (400-599)"},

		{"smart host", `"smartHost":{"auth":{"username":"u","password":"***"},"port":-1}`,
			"smartHost.host: missing: give a host name or an address\nsmartHost.port: -1 is not a port (1-65535)\nsmartHost.auth.password: *** is what is shown in place of a secret: give its value"},
		{"scanners", `"scanners":[{},{"type":"spam","action":"drop","onError":"panic","timeout":-5,"headers":["Subject"]},{"type":"virus","threshold":5},{"type":"spam","blockedExtensions":["exe"],"maxSize":-1},
			{"type":"spam","address":"a:1"},{"type":"spam","backend":"clamav"},{"type":"attachment","backend":"rspamd","address":"/run/x"},{"type":"virus","backend":"spamassassin","address":"a:1"},{"type":"spam","backend":"x","address":"a:1"}]`,
			"scanners[0].type: missing: use spam, virus or attachment\nscanners[1].action: \"drop\" is not known; use tag, quarantine or reject\n" +
				"scanners[1].onError: \"panic\" is not known; use tempfail or accept\nscanners[1].timeout: -5ms is negative\n" +
				"scanners[1].headers[0]: \"Subject\" is not known; use X-Spam-Score, X-Spam-Status, X-Spam-Level or X-Spam-Flag\n" +
				"scanners[2]: threshold and headers are for scanners of type spam\nscanners[3]: blockedExtensions and maxSize are for scanners of type attachment\n" +
				"scanners[3].blockedExtensions[0]: \"exe\" is not an extension such as .exe\nscanners[3].maxSize: -1 is negative\n" +
				"scanners[4].address: the built-in backend has no address; name another as backend\nscanners[5].address: \"\" is not host:port\n" +
				"scanners[5].backend: clamav does not look for spam\nscanners[6].backend: attachments are looked at by the built-in backend only\n" +
				"scanners[7].backend: spamassassin does not look for malware\nscanners[8].backend: \"x\" is not known; use builtin, rspamd, spamassassin, clamav or milter"},
		{"reputation", `"ipReputation":{"providers":["spamhaus","nolist"],"cacheTimeout":-1,"timeout":-1,"threshold":7,"allowList":"x","blockList":["y"]}`,
			"ipReputation.providers[1]: \"nolist\" is not known; use spamhaus, barracuda, surbl or the domain of a list\nipReputation.cacheTimeout: -1ms is negative\n" +
				"ipReputation.timeout: -1ms is negative\nipReputation.threshold: 7 is not between 0 and 1\nipReputation.allowList[0]: \"x\" is not an IP address or CIDR block\n" +
				"ipReputation.blockList[0]: \"y\" is not an IP address or CIDR block"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := `{"ports":25,"hostname":"mail.example.com"`
			if test.config != "" {
				config += "," + test.config
			}
			check(t, config+"}", test.want)
		})
	}
}

func TestRequired(t *testing.T) {
	check(t, `{}`, "ports: missing: give at least one port, such as 25\nhostname: missing: give a host name")
	check(t, `{"hostname":"192.0.2.1","ports":[25,70000,25,0,0,{"port":26,"mode":"imap"}]}`,
		"ports[1]: 70000 is not a port (1-65535, or 0 for any free one)\nports[2]: \"25\" is that of ports[0] already\n"+
			"ports[5].mode: \"imap\" is not known; use smtp, submission or smtps\nhostname: \"192.0.2.1\" is not a host name")
	check(t, `{"hostname":"a.b","useSocketHandler":true,"ports":[0,25,{"port":0,"mode":"smtps"}]}`,
		"ports[2]: port 0 is that of ports[0] already: with useSocketHandler there is one free port; give the others a number")
	many := Config{Hostname: "a", Ports: make([]Port, maxPorts+1)}
	if err := many.Validate(); err == nil || err.Error() != "ports: 101 are too many, the limit is 100" {
		t.Error(err)
	}
}

func check(t *testing.T, config, want string) {
	t.Helper()
	var c Config
	if err := conf.Decode([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	got := ""
	if err := c.Validate(); err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
