package dcrouter_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// However a configuration is printed, its secrets are not.
func TestSecretsDoNotPrint(t *testing.T) {
	cfg, err := dcrouter.LoadConfig(strings.NewReader(`{
		"smartProxyConfig": {"routes": [{"name": "web", "match": {"ports": 80}, "action": {"type": "forward", "targets": {"host": "a", "port": 80},
			"loadBalancing": {"sticky": {"cookie": "lb", "secret": "hunter2hunter2"}}}}]},
		"emailConfig": {"ports": [25], "hostname": "mail.example.com",
			"auth": {"users": [{"username": "u@example.com", "password": "hunter2hunter2"}]},
			"routes": [{"name": "r", "match": {"recipients": "*"}, "action": {"type": "forward",
				"forward": {"host": "h.example.com", "port": 25, "auth": {"username": "u", "password": "hunter2hunter2"}}}}]},
		"radiusConfig": {"secret": "hunter2hunter2", "clients": [{"name": "c", "ip": "192.0.2.1", "secret": "hunter2hunter2"}]},
		"opsServerConfig": {"admin": {"username": "admin", "password": "hunter2hunter2"}},
		"dnsChallenge": {"cloudflareApiKey": "hunter2hunter2"}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, v := range []any{cfg, &cfg, []dcrouter.Config{cfg}, struct{ C *dcrouter.Config }{&cfg},
		cfg.Email, *cfg.Email, cfg.Email.Routes, cfg.RADIUS, *cfg.RADIUS, cfg.Ops, *cfg.Ops, cfg.DNSChallenge, *cfg.DNSChallenge,
		cfg.Proxy, *cfg.Proxy, cfg.Proxy.Routes, cfg.Proxy.Routes[0].Action, cfg.Proxy.Routes[0].Action.LoadBalancing, *cfg.Proxy.Routes[0].Action.LoadBalancing.Sticky,
		map[string]email.Config{"": *cfg.Email}, []*radius.Config{cfg.RADIUS}, [1]opsapi.Config{*cfg.Ops}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%t", "%x", "%X", "%f", "%c", "%U"} { // not %p: fmt asks nobody about it
			shown[fmt.Sprintf("%s of %T", verb, v)] = fmt.Sprintf(verb, v)
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%T: %v", v, err)
		}
		shown[fmt.Sprintf("json of %T", v)] = string(data)
		var log strings.Builder
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "cfg", v)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "cfg", v)
		shown[fmt.Sprintf("log of %T", v)] = log.String()
	}
	for how, text := range shown {
		// Also as %x, %d and the like would have it.
		for _, leak := range []string{"hunter2", "68756e746572", "68756E746572", "104 117 110"} {
			if strings.Contains(text, leak) {
				t.Errorf("%s shows a secret: %.300s", how, text)
			}
		}
	}

	var written strings.Builder
	if err := dcrouter.WriteConfig(&written, cfg); err != nil || !strings.Contains(written.String(), "hunter2") {
		t.Errorf("WriteConfig leaves secrets out, %v", err)
	}
}

// What has no form in JSON is not dropped in silence.
func TestWriteConfigRefusesCode(t *testing.T) {
	handler := proxy.Route{Match: proxy.Match{Ports: proxy.Ports(80)}, Action: proxy.Action{Handler: http.NotFoundHandler()}}
	function := proxy.Route{Match: proxy.Match{Ports: proxy.Ports(81)}, Action: proxy.Action{Type: proxy.Forward,
		Targets: []proxy.Target{{Host: "a", PortFunc: func(proxy.ConnInfo) int { return 1 }}}}}
	cfg := dcrouter.Config{Proxy: &proxy.Config{Routes: []proxy.Route{handler, function}}}
	fields := dcrouter.FieldErrors(dcrouter.WriteConfig(new(strings.Builder), cfg))
	if len(fields) != 2 || fields[0].Path != "smartProxyConfig.routes[0].action" || fields[1].Path != "smartProxyConfig.routes[1].action.targets[0]" {
		t.Errorf("got %v", fields)
	}
}

// A password that a client never saw must not be sent on weaker terms because
// that client said so.
func TestKeepSecretsWantsTheSameTLS(t *testing.T) {
	load := func(tls, password string) dcrouter.Config {
		t.Helper()
		var cfg dcrouter.Config
		if err := json.Unmarshal([]byte(`{"emailConfig": {"ports": [25], "hostname": "mail.example.com",
			"smartHost": {"host": "h.example.com", "tls": `+tls+`, "auth": {"username": "u", "password": "`+password+`"}}}}`), &cfg); err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	before := load(`{"mode": "starttls"}`, "hunter2")
	same := load(`{"mode": "starttls"}`, "***")
	if err := same.KeepSecrets(before); err != nil || same.Email.SmartHost.Auth.Password.Reveal() != "hunter2" {
		t.Errorf("nothing changed: %v", err)
	}
	for _, weaker := range []string{`{"mode": "none"}`, `{}`, `{"mode": "starttls", "insecureSkipVerify": true}`, `{"mode": "starttls", "serverName": "evil.example.com"}`} {
		changed := load(weaker, "***")
		if err := changed.KeepSecrets(before); err == nil {
			t.Errorf("with TLS %s the password is kept", weaker)
		}
	}
}

// In a list that has secrets, elements go by what identifies them, not by their
// place: if one is taken out, the next must not get its secret.
func TestElementsWithSecretsHaveKeys(t *testing.T) {
	isKey := func(f reflect.StructField) bool { return strings.Contains(f.Tag.Get("conf"), "key") }
	seen := map[reflect.Type]bool{}
	var holds func(reflect.Type) bool
	holds = func(typ reflect.Type) (secret bool) {
		switch typ.Kind() {
		case reflect.Map, reflect.Pointer:
			return holds(typ.Elem())
		case reflect.Slice:
			elem := typ.Elem()
			if secret = holds(elem); secret && (elem.Kind() != reflect.Struct || !slices.ContainsFunc(reflect.VisibleFields(elem), isKey)) {
				t.Errorf("%v has secrets, and no field with conf:\"key\"", elem)
			}
		case reflect.Struct:
			if seen[typ] { // it is in itself
				return false
			}
			seen[typ] = true
			defer delete(seen, typ)
			for _, f := range reflect.VisibleFields(typ) {
				secret = holds(f.Type) || secret
			}
		default:
			return typ == reflect.TypeFor[dnsserver.Secret]()
		}
		return secret
	}
	if !holds(reflect.TypeFor[dcrouter.Config]()) {
		t.Error("there are no secrets")
	}
}
