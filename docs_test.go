package dcrouter_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter"
)

// documents are README.md and all of docs, by name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, name := range append(names, "README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	return texts
}

// A block of JSON in the documents is a whole configuration that loads. Parts of
// one, and answers of the API, are marked as jsonc.
func TestConfigurationsInDocs(t *testing.T) {
	block := regexp.MustCompile("(?s)```json\n(.*?)```")
	found := 0
	for name, text := range documents(t) {
		for i, m := range block.FindAllStringSubmatch(text, -1) {
			found++
			if _, err := dcrouter.LoadConfig(strings.NewReader(m[1])); err != nil {
				t.Errorf("%s, JSON block %d: %v", name, i+1, err)
			}
		}
	}
	if found == 0 {
		t.Error("no configuration found in the documents")
	}
}

// hasKey reports whether the configuration has a field at a path such as
// "smartProxyConfig.routes[].match.ports". Below a map any name will do.
func hasKey(path string) bool {
	at := reflect.TypeFor[dcrouter.Config]()
	for part := range strings.SplitSeq(path, ".") {
		part, _, _ = strings.Cut(part, "[")
		for at.Kind() == reflect.Pointer || at.Kind() == reflect.Slice {
			at = at.Elem()
		}
		switch at.Kind() {
		case reflect.Map:
			at = at.Elem()
		case reflect.Struct:
			field, ok := fieldByTag(at, part)
			if !ok {
				return false
			}
			at = field
		default:
			return false
		}
	}
	return true
}

func fieldByTag(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name {
			return f.Type, true
		}
		if f.Anonymous && tag == "" && f.Type.Kind() == reflect.Struct {
			if inner, ok := fieldByTag(f.Type, name); ok {
				return inner, true
			}
		}
	}
	return nil, false
}

// Keys of the configuration that the documents name by their whole path are there.
func TestKeysInDocs(t *testing.T) {
	var tops []string
	config := reflect.TypeFor[dcrouter.Config]()
	for i := range config.NumField() {
		tag, _, _ := strings.Cut(config.Field(i).Tag.Get("json"), ",")
		tops = append(tops, tag)
	}
	path := regexp.MustCompile("`((?:" + strings.Join(tops, "|") + `)(?:\.[a-z][A-Za-z0-9]*(?:\[\])?)+)`)
	found := 0
	theirs := regexp.MustCompile("(?m)^\\| `[^`]+`") // the first cell of a row, where docs/migration.md has keys of the other system
	for name, text := range documents(t) {
		for _, m := range path.FindAllStringSubmatch(theirs.ReplaceAllString(text, ""), -1) {
			found++
			if !hasKey(m[1]) {
				t.Errorf("%s: the configuration has no %s", name, m[1])
			}
		}
	}
	if found == 0 || hasKey("smartProxyConfig.rotues") || hasKey("dnsDomain.x") || !hasKey("emailConfig.routes[].action.forward.auth.username") {
		t.Errorf("the test does not work: %d keys found", found)
	}
}

// Metrics that the documents name are there.
func TestMetricsInDocs(t *testing.T) {
	r, err := dcrouter.New()
	if err != nil {
		t.Fatal(err)
	}
	described := make(chan *prometheus.Desc, 1000)
	r.Collector().Describe(described)
	close(described)
	var names []string
	nameOf := regexp.MustCompile(`fqName: "(\w+)"`)
	for d := range described {
		names = append(names, nameOf.FindStringSubmatch(d.String())[1])
	}
	found := 0
	for name, text := range documents(t) {
		for _, metric := range regexp.MustCompile(`\bdcrouter_\w+`).FindAllString(text, -1) {
			found++
			if !slices.Contains(names, metric) {
				t.Errorf("%s: there is no metric %s", name, metric)
			}
		}
	}
	if found == 0 {
		t.Error("no metric found in the documents")
	}
}

// referenceKeys are those of the configuration and the examples of the TypeScript
// system, its methods and its requests, each as docs/migration.md and
// docs/capabilities.md name it.
func referenceKeys() []string {
	var list []string
	for _, s := range []struct{ prefix, keys string }{
		{"smartProxyConfig", " routes acme acme.email acme.enabled acme.useProduction acme.autoRenew allowSessionTicket"},
		{"emailConfig", " ports hostname domains routes auth tls tls.keyPath tls.certPath maxMessageSize rateLimits useSocketHandler" +
			" defaults.dnsMode defaults.dkim defaults.rateLimits"},
		{"dnsServerConfig", " port authoritative records"},
		{"dnsDomain", ""},
		{"dnsNsDomains", ""},
		{"radiusConfig", " port secret clients clients[].name clients[].ip clients[].secret macAuth macAuth.enabled macAuth.allowedMacs macAuth.defaultVlan" +
			" macAuth.guestVlan vlanAssignment vlanAssignment[].match.mac vlanAssignment[].match.default vlanAssignment[].vlan"},
		{"opsServerConfig", " port admin.username admin.password"},
		{"tls", " contactEmail domain"},
		{"dnsChallenge", " cloudflareApiKey"},
		{"storage", " fsPath readFunction writeFunction"},
		{"IRouteConfig", " name priority match.domains match.ports action.type action.targets[].host action.targets[].port action.tls.mode action.tls.certificate" +
			" action.root action.security.ipAllowList action.security.ipBlockList"},
		{"IEmailDomainConfig", " domain dnsMode dns.forward.skipDnsValidation dns.forward.targetDomain dns.internal.mxPriority dns.internal.ttl" +
			" dns.external.requiredRecords dkim.selector dkim.keySize dkim.rotateKeys dkim.rotationInterval rateLimits"},
		{"IRateLimitConfig", " inbound.messagesPerMinute inbound.connectionsPerIp inbound.recipientsPerMessage outbound.messagesPerHour outbound.messagesPerDay"},
		{"IEmailRoute", " name priority match.recipients match.senders match.clientIp match.authenticated match.headers match.sizeRange match.hasAttachments" +
			" match.subject action.type action.forward.host action.forward.port action.forward.auth action.forward.addHeaders action.process.scan" +
			" action.process.dkim action.process.queue action.deliver action.reject.code action.reject.message"},
		{"scanners[]", " type threshold action headers quarantine blockedExtensions maxSize"},
		{"IpReputationChecker", " providers cacheTimeout threshold checkIp isBlocked reason"},
		{"performanceConfig", " maxConnections connectionTimeout emailQueue.concurrency emailQueue.maxRetries emailQueue.retryDelay cache.ipReputation.ttl" +
			" cache.dns.ttl cache.certificates.ttl"},
	} {
		if s.keys == "" {
			list = append(list, s.prefix)
		}
		for key := range strings.FieldsSeq(s.keys) {
			list = append(list, s.prefix+"."+key)
		}
	}
	return append(list, "new DcRouter(options)", "start()", "stop()", "updateRoutes(routes)", "updateDomainRules(rules)", "getStats()",
		"emailService.sendEmail(options)", "emailService.getEmailStatus(id)",
		"getHealthStatus", "getServerStatistics", "getConfiguration", "updateConfiguration", "getLogs", "getRadiusSessions", "getRadiusClients",
		"/email/dkim/{domain}/private.key", "/email/dkim/{domain}/public.key", "/email/routes/{routeId}.json", "/email/bounces/suppression.json",
		"/security/ip-reputation/{ip}.json", "/email/domains/{domain}.json")
}

// The tables of what becomes of everything of the TypeScript system, and of what
// shows that it is there, have a row for each of its keys.
func TestReferenceTables(t *testing.T) {
	for _, name := range []string{"docs/migration.md", "docs/capabilities.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]bool{}
		for line := range strings.Lines(string(text)) {
			cells := strings.Split(strings.TrimSpace(line), " | ")
			if first, ok := strings.CutPrefix(cells[0], "| `"); ok && len(cells) == 3 {
				rows[strings.TrimSuffix(first, "`")] = true
			}
		}
		for _, key := range referenceKeys() {
			if !rows[key] {
				t.Errorf("%s: no row of three cells for `%s`", name, key)
			}
		}
	}
}
