package dcrouter_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// keysOf lists the keys of a configuration with their paths, lists as their
// elements.
func keysOf(t reflect.Type, at string, into map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		path := strings.TrimPrefix(at+"."+name, ".")
		into[path] = true
		keysOf(f.Type, path, into)
	}
}

var limitKey = regexp.MustCompile("`((?:[a-zA-Z]+Config|limits|blocking|dnsChallenge)\\.[a-zA-Z0-9.]+)`")

// The document on limits names keys that there are, all those in force, and all
// that sound like limits.
func TestLimitsDocument(t *testing.T) {
	text, err := os.ReadFile("docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	keysOf(reflect.TypeFor[dcrouter.Config](), "", keys)
	rows := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		for i, m := range limitKey.FindAllStringSubmatch(line, -1) {
			if !keys[m[1]] {
				t.Errorf("docs/limits.md names %s, and there is no such key", m[1])
			}
			if i == 0 && strings.HasPrefix(line, "| `") {
				rows[m[1]] = true
			}
		}
	}
	if len(rows) < 60 {
		t.Errorf("only %d rows", len(rows))
	}
	everything := startRouter(t, loadConfig(t, `{"smartProxyConfig": {"listenHost": "127.0.0.1", "routes": [{"name": "a", "match": {"ports": 0},
			"action": {"type": "forward", "targets": [{"host": "127.0.0.1", "port": 9}], "security": {"maxConnections": 7}}}]},
		"emailConfig": {"listenHost": "127.0.0.1", "ports": [0], "hostname": "mx.example.com", "ipReputation": {}, "routes": [{"action": {"type": "reject"}}]},
		"dnsServerConfig": {"listenHost": "127.0.0.1", "port": 0, "responseRateLimit": {}},
		"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0, "secret": "a long shared secret", "limits": {"rateLimit": {"requestsPerSecond": 5}}}}`))
	for _, l := range everything.Limits() {
		if key := regexp.MustCompile(`\[\d+\]`).ReplaceAllString(l.Name, ""); !rows[key] {
			t.Errorf("%s is in force and not in docs/limits.md", l.Name)
		}
	}
	sounds := regexp.MustCompile(`^(max[A-Z].*|.*Per(Ip|Client|Site|Minute|Hour|Day|User|Message|Target|Second)|concurrency|ttl)$`)
	for key := range keys {
		name := key[strings.LastIndexByte(key, '.')+1:]
		elsewhere := strings.HasPrefix(key, "emailConfig.defaults.") || strings.HasPrefix(key, "emailConfig.domains.rateLimits.") || strings.Contains(key, ".match.") ||
			strings.HasPrefix(key, "dnsServerConfig.records") || strings.HasPrefix(key, "dnsServerConfig.defaultRecords") || strings.HasPrefix(key, "limits.cache.certificates") || strings.HasSuffix(key, ".dns.internal.ttl") || strings.HasSuffix(key, ".sticky.maxAge")
		if sounds.MatchString(name) && !rows[key] && !elsewhere {
			t.Errorf("%s has no row in docs/limits.md", key)
		}
	}
}

// limitsConfig has the reference's performanceConfig under the given name, and
// more for the sections.
func limitsConfig(name, performance string) string {
	return fmt.Sprintf(`{%q: %s,
		"smartProxyConfig": {"listenHost": "127.0.0.1", "maxConnectionsPerIp": 9},
		"emailConfig": {"listenHost": "127.0.0.1", "ports": [0], "hostname": "mx.example.com", "ipReputation": {}, "queue": {"retryDelay": "1m"}, "routes": [{"action": {"type": "reject"}}]},
		"dnsDomain": "dns.example.com", "dohPort": 0,
		"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0, "secret": "a long shared secret",
			"radSec": {"port": 0, "certificate": {"certPath": "x", "keyPath": "x"}, "clientCaPath": "x"}}}`, name, performance)
}

const performanceConfig = `{"maxConnections": 1000, "connectionTimeout": 30000, "maxConnectionsPerIp": 5, "idleTimeout": "4m", "maxMessageSize": 1000000,
	"emailQueue": {"concurrency": 10, "maxRetries": 3, "retryDelay": 300000}, "cache": {"ipReputation": {"ttl": 7200000}, "dns": {"ttl": 60000}}}`

// The limits of all sections are set in one place, by the reference's name too,
// and a section's own win.
func TestLimitsInOnePlace(t *testing.T) {
	for _, name := range []string{"limits", "performanceConfig"} {
		r, err := dcrouter.New(loadConfig(t, limitsConfig(name, performanceConfig)))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, l := range r.Limits() {
			got[l.Name] = fmt.Sprint(l.Value, " ", l.Unit, " ", l.From)
		}
		for key, want := range map[string]string{
			"smartProxyConfig.maxConnections":                 "1000 connections limits",
			"smartProxyConfig.maxConnectionsPerIp":            "9 connections section",
			"smartProxyConfig.timeouts.connect":               "30000 ms limits",
			"smartProxyConfig.timeouts.idle":                  "240000 ms limits",
			"smartProxyConfig.timeouts.keepAlive":             "120000 ms default",
			"smartProxyConfig.timeouts.route":                 "10000 ms default",
			"emailConfig.connections.max":                     "1000 connections limits",
			"emailConfig.connections.timeout":                 "240000 ms limits",
			"emailConfig.rateLimits.inbound.connectionsPerIp": "5 connections limits",
			"emailConfig.maxMessageSize":                      "1000000 bytes limits",
			"emailConfig.queue.concurrency":                   "10 deliveries limits",
			"emailConfig.queue.maxRetries":                    "3 retries limits",
			"emailConfig.queue.retryDelay":                    "60000 ms section",
			"emailConfig.ipReputation.cacheTimeout":           "7200000 ms limits",
			"emailConfig.outbound.mxCacheTimeout":             "60000 ms limits",
			"dnsServerConfig.maxConnections":                  "1000 connections limits",
			"dnsServerConfig.maxConnectionsPerClient":         "5 connections limits",
			"dnsServerConfig.idleTimeout":                     "10000 ms default",
			"radiusConfig.radSec.maxConnections":              "256 connections default",
			"radiusConfig.limits.maxFailures":                 "10 failures default",
		} {
			if got[key] != want {
				t.Errorf("%s: %s is %q, want %q", name, key, got[key], want)
			}
		}
	}

	c, err := dcrouter.LoadConfig(strings.NewReader(limitsConfig("performanceConfig", performanceConfig)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := dcrouter.WriteConfig(&out, c); err != nil {
		t.Fatal(err)
	}
	back, err := dcrouter.LoadConfig(bytes.NewReader(out.Bytes()))
	if err != nil || !reflect.DeepEqual(c, back) || !strings.Contains(out.String(), `"limits"`) {
		t.Errorf("%v\n%s", err, out.String())
	}
	if c.Email.Connections.Max != 0 || c.Proxy.MaxConnections != 0 {
		t.Error("the sections have changed")
	}

	_, err = dcrouter.LoadConfig(strings.NewReader(limitsConfig("limits", `{"maxConnections": -1, "idleTimeout": -1, "cache": {"certificates": {"ttl": 86400000}}, "emailQueue": {"maxRetries": -1}}`)))
	checkErrors(t, err, []string{"limits.maxConnections: ", "limits.idleTimeout: ", "limits.emailQueue.maxRetries: ", "limits.cache.certificates: has no meaning"})
	_, err = dcrouter.LoadConfig(strings.NewReader(`{"limits": {}, "performanceConfig": {}}`))
	checkErrors(t, err, []string{"performanceConfig: given twice"})
}

// What the limits say is what clients find, and the operator sees it.
func TestLimitsTakeEffect(t *testing.T) {
	testenv.Goroutines(t)
	r := startRouter(t, loadConfig(t, `{"limits": {"maxConnections": 2, "maxMessageSize": 4321},
		"smartProxyConfig": {"listenHost": "127.0.0.1"},
		"emailConfig": {"listenHost": "127.0.0.1", "ports": [0], "hostname": "mx.example.com", "routes": [{"action": {"type": "reject"}}]}}`))
	addr := r.Addrs()["email"][0]
	for range 2 {
		if line, _ := greeted(t, "127.0.0.1", addr, ""); !strings.HasPrefix(line, "220 ") {
			t.Fatal(line)
		}
	}
	if line, _ := greeted(t, "127.0.0.1", addr, ""); !strings.HasPrefix(line, "421 4.3.2 ") {
		t.Errorf("the third is told %q", line)
	}
	for _, l := range r.Limits() {
		if l.Name == "emailConfig.connections.max" {
			if l.Value != 2 || l.Used == nil || *l.Used != 2 || l.Reached == nil || *l.Reached != 1 {
				text, _ := json.Marshal(l)
				t.Errorf("%s", text)
			}
			return
		}
	}
	t.Error("there is no limit of connections")
}
