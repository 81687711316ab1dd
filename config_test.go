package dcrouter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// referenceConfigs returns the configurations of the reference document, by
// file name.
func referenceConfigs(t testing.TB) map[string][]byte {
	files, err := filepath.Glob("testdata/configs/*.json")
	if err != nil || len(files) < 14 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	configs := map[string][]byte{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		configs[filepath.Base(file)] = data
	}
	return configs
}

func TestReferenceConfigs(t *testing.T) {
	for name, data := range referenceConfigs(t) {
		t.Run(name, func(t *testing.T) {
			c, err := dcrouter.LoadConfig(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := dcrouter.WriteConfig(&out, c); err != nil {
				t.Fatal(err)
			}
			back, err := dcrouter.LoadConfig(bytes.NewReader(out.Bytes()))
			if err != nil || !reflect.DeepEqual(c, back) {
				t.Errorf("%s came back as %+v, %v", out.Bytes(), back, err)
			}
			sameMeaning(t, data, out.Bytes())
		})
	}
}

// sameMeaning holds what is written against what was read: every value of the
// original is still there, bare values now in lists.
func sameMeaning(t *testing.T, original, written []byte) {
	var a, b any
	if err := json.Unmarshal(original, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(written, &b); err != nil {
		t.Fatal(err)
	}
	if missing := missingFrom(a, b, "config"); missing != "" {
		t.Errorf("%s is lost in\n%s", missing, written)
	}
}

func missingFrom(a, b any, at string) string {
	if list, ok := b.([]any); ok && len(list) == 1 {
		if _, ok := a.([]any); !ok {
			b = list[0]
		}
	}
	switch a := a.(type) {
	case map[string]any:
		for k, v := range a {
			m, _ := b.(map[string]any)
			if lost := missingFrom(v, m[k], at+"."+k); lost != "" {
				return lost
			}
		}
		return ""
	case []any:
		list, _ := b.([]any)
		for i, v := range a {
			if i >= len(list) {
				return fmt.Sprintf("%s[%d]", at, i)
			}
			if lost := missingFrom(v, list[i], fmt.Sprintf("%s[%d]", at, i)); lost != "" {
				return lost
			}
		}
		return ""
	}
	absent := a == false || a == 0.0 || a == ""
	if !reflect.DeepEqual(a, b) && (b != nil || !absent) {
		return at
	}
	return ""
}

func TestLoadConfigFields(t *testing.T) {
	c, err := dcrouter.LoadConfig(strings.NewReader(`{
		"smartProxyConfig": {"listenHost": "127.0.0.1", "routes": {"match": {"ports": [80, {"from": 90, "to": 99}]}, "action": {"type": "redirect", "redirect": {"to": "https://{host}{uri}"}}}},
		"emailConfig": {"ports": [2525, {"port": 2465, "mode": "smtps"}], "hostname": "mail.example.com", "queue": {"retryDelay": "5m"}},
		"dnsServerConfig": {"port": 0}, "dnsDomain": "dns.example.com", "dnsNsDomains": "ns1.example.com", "dnsScopes": ["example.com"], "publicIp": ["192.0.2.1", "::1"],
		"radiusConfig": {"secret": "s", "accountingPort": 0},
		"opsServerConfig": {"admin": {"username": "a", "password": "p"}},
		"tls": {"contactEmail": "a@example.com", "domain": "*.example.com"}, "dnsChallenge": {"cloudflareApiKey": "k"}, "storage": {"fsPath": "/s"}}`))
	want := dcrouter.Config{
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{{
			Match:  proxy.Match{Ports: []proxy.PortRange{{From: 80, To: 80}, {From: 90, To: 99}}},
			Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://{host}{uri}"}},
		}}},
		Email:     &email.Config{Ports: []email.Port{{Port: 2525}, {Port: 2465, Mode: email.SMTPS}}, Hostname: "mail.example.com", Queue: email.Queue{RetryDelay: 5 * time.Minute}},
		DNSDomain: "dns.example.com", DNSNSDomains: []string{"ns1.example.com"}, DNSScopes: []string{"example.com"}, PublicIP: []string{"192.0.2.1", "::1"},
		RADIUS:       &radius.Config{Secret: "s", AccountingPort: new(0)},
		Ops:          &opsapi.Config{Admin: opsapi.Admin{Username: "a", Password: "p"}},
		TLS:          &dcrouter.TLSConfig{ContactEmail: "a@example.com", Domain: "*.example.com"},
		DNSChallenge: &dcrouter.DNSChallenge{CloudflareAPIKey: "k"},
		Storage:      &dcrouter.StorageConfig{FSPath: "/s"},
	}
	if c.DNS == nil || c.DNS.Port == nil || *c.DNS.Port != 0 {
		t.Errorf("DNS is %+v", c.DNS)
	}
	c.DNS = nil
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, %v", c, err)
	}
}

// route is a proxy section with one route.
func route(match, action string) string {
	return `{"smartProxyConfig":{"routes":[{"match":` + match + `,"action":` + action + `}]}}`
}

const (
	okMatch  = `{"ports":80}`
	okAction = `{"type":"redirect","redirect":{"to":"https://{host}{uri}"}}`
	okRoute  = `{"match":` + okMatch + `,"action":` + okAction + `}`
	okAdmin  = `"admin":{"username":"a","password":"p"}`
)

// mail is a mail section with these settings beside what is required.
func mail(settings string) string {
	return `{"emailConfig":{"hostname":"mail.example.com","ports":25,` + settings + `}}`
}

func TestLoadConfigErrors(t *testing.T) {
	tests := []struct {
		name, config string
		want         []string // path, or path: beginning of the message
	}{
		// The document.
		{"empty file", ``, []string{": line 1, column 1: empty"}},
		{"truncated file", `{"smartProxyConfig":{"routes":[`, []string{": line 1, column 32: unexpected end"}},
		{"trailing garbage", "{}\n}", []string{": line 2, column 1: invalid character '}'"}},
		{"comment", "{\n// no\n}", []string{": line 2, column 1: invalid character '/'"}},
		{"no object", `[]`, []string{": want an object, got a list"}},
		{"unknown section", `{"webhooks":{}}`, []string{"webhooks: unknown field"}},
		{"misspelt section", `{"smartProxy":{},"emailconfig":{}}`, []string{`smartProxy: unknown field`, `emailconfig: unknown field, did you mean "emailConfig"?`}},
		{"duplicate section", `{"storage":{"fsPath":"a"},"storage":{"fsPath":"b"}}`, []string{"storage: given twice"}},
		{"wrong type of section", `{"storage":"/var/lib"}`, []string{`storage: want an object, got the string "/var/lib"`}},
		{"too deep", `{"smartProxyConfig":{"routes":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`, []string{`smartProxyConfig.routes[0]: want an object, got a list`}},

		// The proxy.
		{"wrong type", route(okMatch, `{"type":"forward","targets":[{"host":"a","port":"80"}]}`),
			[]string{`smartProxyConfig.routes[0].action.targets[0].port: want a number or "preserve", got the string "80"`}},
		{"port 70000", route(okMatch, `{"type":"forward","targets":[{"host":"a","port":70000}]}`),
			[]string{"smartProxyConfig.routes[0].action.targets[0].port: 70000 is not a port (1-65535)"}},
		{"listening port 70000", route(`{"ports":[80,70000]}`, okAction), []string{"smartProxyConfig.routes[0].match.ports[1]: 70000 is not a port"}},
		{"empty port range", route(`{"ports":{"from":9,"to":8}}`, okAction), []string{"smartProxyConfig.routes[0].match.ports[0]: "}},
		{"port that is a word", route(`{"ports":["https"]}`, okAction), []string{"smartProxyConfig.routes[0].match.ports[0]: want a port number or an object"}},
		{"no ports", route(`{}`, okAction), []string{"smartProxyConfig.routes[0].match.ports: missing"}},
		{"unknown field", route(okMatch, `{"type":"redirect","redirect":{"to":"/","colour":1}}`), []string{"smartProxyConfig.routes[0].action.redirect.colour: unknown field"}},
		{"misspelt field", `{"smartProxyConfig":{"routes":[` + okRoute + `,{"match":{"ports":81},"acton":{},"action":` + okAction + `}]}}`,
			[]string{`smartProxyConfig.routes[1].acton: unknown field, did you mean "action"?`}},
		{"duplicate field", route(`{"ports":80,"ports":81}`, okAction), []string{"smartProxyConfig.routes[0].match.ports: given twice"}},
		{"duplicate key of a map", route(`{"ports":80,"headers":{"X-A":"1","X-A":"2"}}`, okAction), []string{`smartProxyConfig.routes[0].match.headers["X-A"]: given twice`}},
		{"bad CIDR", route(`{"ports":80,"clientIp":["10.0.0.0/8","10.0.0.0/33"]}`, okAction), []string{"smartProxyConfig.routes[0].match.clientIp[1]: "}},
		{"bad allow list", route(okMatch, `{"type":"redirect","redirect":{"to":"/"},"security":{"ipAllowList":"everyone"}}`),
			[]string{"smartProxyConfig.routes[0].action.security.ipAllowList[0]: "}},
		{"bad regex", route(`{"ports":80,"headers":{"X-A":"/(/"}}`, okAction), []string{`smartProxyConfig.routes[0].match.headers["X-A"]: `}},
		{"bad path regex", route(`{"ports":80,"path":"~("}`, okAction), []string{`smartProxyConfig.routes[0].match.path: `}},
		{"bad glob", route(`{"ports":80,"query":{"v":"`+strings.Repeat("a", 2000)+`"}}`, okAction), []string{`smartProxyConfig.routes[0].match.query["v"]: `}},
		{"bad domain", route(`{"ports":80,"domains":["a.b","*.*.b"]}`, okAction), []string{"smartProxyConfig.routes[0].match.domains[1]: "}},
		{"missing target", route(okMatch, `{"type":"forward"}`), []string{"smartProxyConfig.routes[0].action.targets: missing"}},
		{"missing action", `{"smartProxyConfig":{"routes":[{"match":{"ports":80}}]}}`, []string{"smartProxyConfig.routes[0].action.type: missing"}},
		{"bad certificate", route(`{"ports":443}`, `{"type":"serve","root":"/","tls":{"mode":"terminate","certificate":"manual"}}`),
			[]string{`smartProxyConfig.routes[0].action.tls.certificate: want "auto"`}},
		{"bad duration", `{"smartProxyConfig":{"timeouts":{"idle":"1 hour"}}}`, []string{`smartProxyConfig.timeouts.idle: want a duration such as "10s"`}},
		{"two routes of one name", `{"smartProxyConfig":{"routes":[{"name":"a",` + okRoute[1:] + `,{"name":"a","match":{"ports":81},"action":` + okAction + `}]}}`,
			[]string{"smartProxyConfig.routes[1].name: "}},
		{"two routes on one port", `{"smartProxyConfig":{"routes":[` + okRoute + `,` + okRoute + `]}}`, []string{"smartProxyConfig.routes[1].match: "}},
		{"two ways with TLS", `{"smartProxyConfig":{"routes":[
			{"match":{"ports":443,"domains":"a.b","path":"/x"},"action":{"type":"serve","root":"/","tls":{"mode":"terminate","certificate":"auto"}}},
			{"match":{"ports":443,"domains":"a.b"},"action":{"type":"forward","targets":{"host":"c","port":1},"tls":{"mode":"passthrough"}}}]}}`,
			[]string{"smartProxyConfig.routes[1].action.tls: "}},
		{"bad listen host", `{"smartProxyConfig":{"listenHost":"eth0"}}`, []string{"smartProxyConfig.listenHost: "}},

		// Mail.
		{"mail without name", `{"emailConfig":{"ports":25}}`, []string{"emailConfig.hostname: missing"}},
		{"bad reply code", mail(`"routes":[{"action":{"type":"reject","reject":{"code":250}}}]`), []string{"emailConfig.routes[0].action.reject.code: 250"}},
		{"bad mail pattern", mail(`"routes":[{"match":{"subject":"/[/"},"action":{"type":"process"}}]`), []string{"emailConfig.routes[0].match.subject: not a regular expression"}},
		{"bad client of mail", mail(`"routes":[{"match":{"clientIp":"10.0.0.0/99"},"action":{"type":"process"}}]`), []string{"emailConfig.routes[0].match.clientIp[0]: "}},
		{"two mail domains", mail(`"domains":[{"domain":"a.b"},{"domain":"a.b"}]`), []string{"emailConfig.domains[1].domain: "}},
		{"mail domain without DNS", mail(`"domains":[{"domain":"a.b"},{"domain":"c.d","dnsMode":"internal-dns"}]`), []string{"emailConfig.domains[1].dnsMode: internal-dns needs dnsDomain"}},
		{"mail domain outside", `{"dnsNsDomains":"ns.a.b","dnsScopes":"a.b","mtaStsPort":65536,"dnsServerConfig":{"zones":[{"name":"e.f"}]},"emailConfig":{"ports":25,"hostname":"mx.a.b","defaults":{"dnsMode":"internal-dns"},"domains":[{"domain":"x.a.b"},{"domain":"c.d"},{"domain":"x.e.f"}]}}`,
			[]string{`emailConfig.domains[1].dnsMode: internal-dns: "c.d" is in none of dnsScopes`, "mtaStsPort: "}},
		{"bad retry delay", mail(`"queue":{"retryDelay":"soon"}`), []string{"emailConfig.queue.retryDelay: want a duration"}},
		{"password shown", mail(`"auth":{"users":[{"username":"u","password":"***"}]}`), []string{"emailConfig.auth.users[0].password: *** is what is shown"}},
		{"password that is a number", mail(`"auth":{"users":[{"username":"u","password":12345}]}`), []string{"emailConfig.auth.users[0].password: want a string, got a number"}},

		// DNS.
		{"bad record type", `{"dnsServerConfig":{"records":[{"name":"a.b","type":"AAA","value":"::1"}]}}`,
			[]string{`dnsServerConfig.records[0].type: "AAA" is not a known record type, did you mean "AAAA"?`}},
		{"bad record value", `{"dnsServerConfig":{"records":[{"name":"a.b","type":"A","value":"a.b"}]}}`, []string{`dnsServerConfig.records[0].value: "a.b" is not`}},
		{"bad names", `{"dnsDomain":"a b","dnsNsDomains":["ns1.a","ns1.a."],"dnsScopes":["-"],"publicIp":["a.b","::1","::1"]}`,
			[]string{"dnsDomain: ", "dnsNsDomains[1]: ", "dnsScopes[0]: ", "publicIp[0]: ", "publicIp[2]: "}},

		// RADIUS.
		{"VLAN 5000", `{"radiusConfig":{"secret":"s","vlanAssignment":[{"match":{"default":true},"vlan":5000}]}}`, []string{"radiusConfig.vlanAssignment[0].vlan: 5000"}},
		{"bad MAC", `{"radiusConfig":{"secret":"s","macAuth":{"allowedMacs":["aa:bb:cc:dd:ee:fg"]}}}`, []string{"radiusConfig.macAuth.allowedMacs[0]: "}},
		{"no secret", `{"radiusConfig":{}}`, []string{"radiusConfig.secret: missing"}},
		{"secret in the wrong place", `{"radiusConfig":{"secret":"s","clients":["hunter2"]}}`, []string{"radiusConfig.clients[0]: want an object, got a string"}},

		// The rest.
		{"empty admin password", `{"opsServerConfig":{"admin":{"username":"a","password":""}}}`, []string{"opsServerConfig.admin.password: missing"}},
		{"no admin", `{"opsServerConfig":{}}`, []string{"opsServerConfig.admin.username: missing", "opsServerConfig.admin.password: missing"}},
		{"fraction of a port", `{"opsServerConfig":{"port":1.5,` + okAdmin + `}}`, []string{"opsServerConfig.port: want a whole number, got the number 1.5"}},
		{"bad contact", `{"tls":{"contactEmail":"me","domain":"*"}}`, []string{"tls.contactEmail: ", "tls.domain: "}},
		{"no token", `{"dnsChallenge":{}}`, []string{"dnsChallenge.cloudflareApiKey: missing"}},
		{"token shown", `{"dnsChallenge":{"cloudflareApiKey":"***"}}`, []string{"dnsChallenge.cloudflareApiKey: *** is what is shown"}},

		// Several at once, without their consequences.
		{"everything at once", `{"storage":5,"smartProxyConfig":{"routes":[{"match":{"ports":"x"},"action":{"type":"forward"}}]},"opsServerConfig":{"admin":"root"},"radiusConfig":{"clients":[{"ip":"x"}]}}`,
			[]string{"storage: want an object", "smartProxyConfig.routes[0].match.ports: want a port number", "opsServerConfig.admin: want an object, got a string",
				"smartProxyConfig.routes[0].action.targets: missing", "radiusConfig.clients[0].ip: ", "radiusConfig.clients[0].secret: missing"}},
		{"consequences", `{"emailConfig":{"hostname":5,"ports":{"prt":25},"routes":"none","ipReputation":{"allowList":5},"scanners":[{"type":5,"threshold":3}]},"dnsServerConfig":{"records":[{"name":5,"type":"A","value":"192.0.2.1"}]}}`,
			[]string{"emailConfig.hostname: want a string", `emailConfig.ports[0].prt: unknown field, did you mean "port"?`, "emailConfig.routes: want a list",
				"emailConfig.ipReputation.allowList: want a string", "emailConfig.scanners[0].type: want a string", "dnsServerConfig.records[0].name: want a string"}},
	}
	if len(tests) < 35 {
		t.Error("too few")
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := dcrouter.LoadConfig(strings.NewReader(test.config))
			checkErrors(t, err, test.want)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret is in %v", err)
			}
		})
	}
}

// checkErrors holds the paths of all errors, and the beginnings of their
// messages, against want.
func checkErrors(t *testing.T, err error, want []string) {
	t.Helper()
	got := dcrouter.FieldErrors(err)
	if len(got) != len(want) {
		t.Fatalf("%d errors, want %d:\n%v", len(got), len(want), err)
	}
	for i, e := range got {
		path, msg, _ := strings.Cut(want[i], ": ")
		if e.Path != path || !strings.HasPrefix(e.Msg, msg) || e.Msg == "" {
			t.Errorf("got  %s: %s\nwant %s", e.Path, e.Msg, want[i])
		}
	}
}

func TestLoadConfigReturnsWhatItCouldRead(t *testing.T) {
	c, err := dcrouter.LoadConfig(strings.NewReader(`{"storage":{"fsPath":"/s"},"tls":5,"dnsDomain":"a.b"}`))
	if err == nil || c.Storage == nil || c.Storage.FSPath != "/s" || c.DNSDomain != "a.b" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestLoadConfigBoundsSize(t *testing.T) {
	huge := `{"dnsDomain":"` + strings.Repeat("a", 9<<20) + `"}`
	if _, err := dcrouter.LoadConfig(strings.NewReader(huge)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%.100v", err)
	}
	broken := errors.New("broken disk")
	if _, err := dcrouter.LoadConfig(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestSecretsSurviveTheRoundTrip(t *testing.T) {
	original, err := dcrouter.LoadConfig(strings.NewReader(`{
		"smartProxyConfig": {"routes": [{"name": "web", "match": {"ports": 80}, "action": {"type": "forward", "targets": {"host": "a", "port": 80},
			"loadBalancing": {"sticky": {"cookie": "lb", "secret": "hunter2 lb"}}}}]},
		"emailConfig": {"ports": 25, "hostname": "a.b", "auth": {"users": [{"username": "u", "password": "hunter2 u"}, {"username": "v", "password": "hunter2 v"}]},
			"smartHost": {"host": "h", "auth": {"username": "u", "password": "hunter2 smart"}},
			"routes": [{"name": "r", "action": {"type": "forward", "forward": {"host": "h", "auth": {"username": "u", "password": "hunter2 r"}}}}]},
		"radiusConfig": {"secret": "hunter2", "clients": [{"ip": "::1", "secret": "hunter2 1"}, {"ip": "::2", "secret": "hunter2 2"}]},
		"opsServerConfig": {"admin": {"username": "a", "password": "hunter2 ops"}},
		"dnsChallenge": {"cloudflareApiKey": "hunter2 key"}}`))
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal(original)
	if err != nil || strings.Contains(string(shown), "hunter2") || strings.Contains(fmt.Sprintf("%v %+v %#v", original, *original.RADIUS, *original.Ops), "hunter2") {
		t.Fatalf("%s, %v", shown, err)
	}
	var back dcrouter.Config
	if err := json.Unmarshal(shown, &back); err != nil {
		t.Fatal(err)
	}
	if err := back.Validate(); len(dcrouter.FieldErrors(err)) != 10 {
		t.Errorf("secrets that are not known were accepted: %v", err)
	}
	// The client reorders, adds and removes.
	back.RADIUS.Clients[0], back.RADIUS.Clients[1] = back.RADIUS.Clients[1], back.RADIUS.Clients[0]
	back.Email.Auth.Users = append([]email.User{{Username: "new", Password: "own"}}, back.Email.Auth.Users[1])
	if err := back.KeepSecrets(original); err != nil {
		t.Fatal(err)
	}
	if err := back.Validate(); err != nil {
		t.Error(err)
	}
	want := original
	want.RADIUS = &radius.Config{Secret: "hunter2", Clients: []radius.Client{original.RADIUS.Clients[1], original.RADIUS.Clients[0]}}
	mail := *original.Email
	mail.Auth = &email.Auth{Users: []email.User{{Username: "new", Password: "own"}, original.Email.Auth.Users[1]}}
	want.Email = &mail
	if !reflect.DeepEqual(back, want) {
		t.Error("the secrets did not come back")
	}
	// A password does not follow to another host.
	back.Email.SmartHost.Auth.Password = "***"
	back.Email.SmartHost.Host = "evil.example"
	checkErrors(t, back.KeepSecrets(original), []string{"emailConfig.smartHost.auth.password: *** stands for a secret that is not known here"})
	back.Email = nil
	back.RADIUS.Clients[0] = radius.Client{IP: "::3", Secret: "***"}
	checkErrors(t, back.KeepSecrets(original), []string{"radiusConfig.clients[0].secret: *** stands for a secret that is not known here"})
}

func TestRouteAsJSON(t *testing.T) {
	r := proxy.Route{Name: "r", Match: proxy.Match{Ports: proxy.Ports(443), Domains: []string{"a.b"}}, Action: proxy.Action{
		Type: proxy.Forward, Targets: []proxy.Target{{Host: "h", Port: proxy.PreservePort}},
		TLS:           &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}},
		LoadBalancing: proxy.LoadBalancing{HealthCheck: &proxy.HealthCheck{Interval: 10 * time.Second}},
	}}
	got, err := json.Marshal(map[string]any{"route": r})
	want := `{"route":{"name":"r","match":{"ports":[443],"domains":["a.b"]},"action":{"type":"forward","targets":[{"host":"h","port":"preserve"}],` +
		`"loadBalancing":{"healthCheck":{"interval":"10s"}},"tls":{"mode":"terminate","certificate":"auto"}}}}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	var back struct{ Route proxy.Route }
	if err := json.Unmarshal(got, &back); err != nil || !reflect.DeepEqual(back.Route, r) {
		t.Errorf("got %+v, %v", back.Route, err)
	}
}

func FuzzLoadConfig(f *testing.F) {
	for _, data := range referenceConfigs(f) {
		f.Add(data)
	}
	f.Add([]byte(`{"smartProxyConfig":{"timeouts":{"idle":5},"acme":{"challenges":"dns-01"}},"radiusConfig":{"clients":{"ip":"::1"}},"opsServerConfig":{"port":0}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := dcrouter.LoadConfig(bytes.NewReader(data))
		var first, second bytes.Buffer
		if err := dcrouter.WriteConfig(&first, c); err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		back, again := dcrouter.LoadConfig(bytes.NewReader(first.Bytes()))
		if err == nil && again != nil {
			t.Fatalf("valid, but not once written: %v\n%s", again, first.Bytes())
		}
		if err == nil && !reflect.DeepEqual(c, back) {
			t.Fatalf("%s came back as %+v", first.Bytes(), back)
		}
		if err := dcrouter.WriteConfig(&second, back); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatalf("%s became %s, %v", first.Bytes(), second.Bytes(), err)
		}
	})
}
