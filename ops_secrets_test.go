package dcrouter_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	layeh "layeh.com/radius"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// everySecret is a configuration with a value in each field that is a secret.
const everySecret = `{
	"smartProxyConfig": {"listenHost": "127.0.0.1",
		"acme": {"email": "ops@example.com", "caDirectory": "https://127.0.0.1:1/directory", "externalAccount": {"keyId": "id", "macKey": "SECRET"}},
		"routes": [{"name": "web", "match": {"ports": WEB}, "action": {"type": "forward", "targets": {"host": "127.0.0.1", "port": 1},
			"loadBalancing": {"sticky": {"cookie": "lb", "secret": "SECRET"}}}}]},
	"emailConfig": {"listenHost": "127.0.0.1", "ports": [{"port": 0, "mode": "submission"}], "hostname": "mail.example.com",
		"domains": [{"domain": "example.com"}],
		"auth": {"users": [{"username": "u@example.com", "password": "SECRET"}]},
		"smartHost": {"host": "127.0.0.1", "port": 1, "auth": {"username": "u", "password": "SECRET"}},
		"webhooks": [{"url": "http://127.0.0.1:1/", "secret": "whsec_SECRET", "previousSecret": "whsec_SECRET"}],
		"routes": [{"name": "r", "match": {"recipients": "*@example.com"}, "action": {"type": "forward",
			"forward": {"host": "127.0.0.1", "port": 1, "auth": {"username": "u", "password": "SECRET"}}}}]},
	"dnsServerConfig": {"listenHost": "127.0.0.1", "port": 0, "tsigKeys": [{"name": "transfer", "secret": "SECRET"}],
		"zones": [{"name": "example.com", "allowTransfer": ["key:transfer"]}], "records": [{"name": "www.example.com", "type": "A", "value": "192.0.2.1"}]},
	"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0, "secret": "SECRET",
		"clients": [{"name": "c", "ip": "127.0.0.1", "secret": "SECRET"}],
		"macAuth": {"allowedMacs": ["00:11:22:33:44:55"], "password": "SECRET"},
		"realms": [{"name": "other.example", "homeServers": [{"host": "127.0.0.1", "port": 1, "secret": "SECRET"}]}]},
	"opsServerConfig": {"port": 0, "admin": {"username": "admin", "password": "SECRET"},
		"users": [{"username": "otto", "password": "SECRET", "role": "operator"}], "metricsToken": "SECRET"},
	"dnsChallenge": {"cloudflareApiKey": "SECRET"}
}`

// withSecrets gives each secret another value, which is valid base64 as some must
// be.
func withSecrets(text string) (config string, secrets []string) {
	for strings.Contains(text, "SECRET") {
		secret := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "hunter2 %02d hunter2 hunter2 xyz", len(secrets)))
		secrets = append(secrets, secret)
		text = strings.Replace(text, "SECRET", secret, 1)
	}
	return text, secrets
}

// secretFields lists the fields of a configuration that are secrets, with
// whether they have values.
func secretFields(v reflect.Value, at string, found map[string]bool, depth int) {
	if depth > 20 {
		return
	}
	switch t := v.Type(); {
	case t == reflect.TypeFor[dcrouter.Secret]():
		found[at] = found[at] || v.String() != ""
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			v = reflect.New(t.Elem())
		}
		secretFields(v.Elem(), at, found, depth+1)
	case t.Kind() == reflect.Struct && !strings.HasPrefix(t.PkgPath(), "time"):
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() {
				secretFields(v.Field(i), at+"."+f.Name, found, depth+1)
			}
		}
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
		for i := range v.Len() {
			secretFields(v.Index(i), at, found, depth+1)
		}
		if t.Kind() == reflect.Slice && v.Len() == 0 && (t.Elem().Kind() == reflect.Struct || t.Elem().Kind() == reflect.Pointer) {
			secretFields(reflect.New(t.Elem()).Elem(), at, found, depth+1)
		}
	}
}

// No secret of the configuration is in any answer, header, event, metric, line
// of the log or entry of the audit log, whatever is asked and sent.
func TestNoSecretShowsAnywhere(t *testing.T) {
	text, secrets := withSecrets(strings.Replace(everySecret, "WEB", fmt.Sprint(testenv.FreePort(t)), 1))
	cfg, err := dcrouter.LoadConfig(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	secretFields(reflect.ValueOf(cfg), "", fields, 0)
	for field, filled := range fields {
		if !filled {
			t.Errorf("%s has no value in this test: give it one", field)
		}
	}
	shown := new(safeBuffer) // all that came out anywhere
	r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithLogger(slog.New(slog.NewTextHandler(shown, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	o := signInAs(t, r, "admin", cfg.Ops.Admin.Password.Reveal())

	// Events of all kinds, from the beginning.
	following, stop := context.WithCancel(t.Context())
	defer stop()
	req, err := http.NewRequestWithContext(following, http.MethodGet, o.base+"/api/v1/events?topics=stats,health,log,security,configuration,audit&logAfter=0&securityAfter=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+o.token)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	events, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { io.Copy(shown, events.Body) })
	defer func() { stop(); reading.Wait(); events.Body.Close() }()

	get := func(path, token string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		all, err := httputil.DumpResponse(resp, true)
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(all)
		return string(all)
	}
	for _, path := range []string{"/", "/healthz", "/readyz", "/metrics", "/api/v1/openapi.json", "/nothing"} {
		get(path, "")
		get(path, o.token)
	}
	if !strings.Contains(get("/metrics", cfg.Ops.MetricsToken.Reveal()), "dcrouter_") {
		t.Error("no metrics for who has the token")
	}

	// What strangers and users do wrong and right.
	talk := func(network, addr, what string) {
		t.Helper()
		conn, err := net.DialTimeout(network, addr, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		lines := bufio.NewReader(conn)
		for line := range strings.Lines(what) {
			fmt.Fprint(conn, strings.TrimSpace(line)+"\r\n")
		}
		io.Copy(shown, lines)
	}
	plain := func(password string) string {
		return "EHLO x\nAUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00u@example.com\x00"+password)) + "\nQUIT\n"
	}
	mail := r.Addrs()["email"][0]
	talk("tcp", mail, plain("wrong"))
	talk("tcp", mail, plain(cfg.Email.Auth.Users[0].Password.Reveal()))
	for _, secret := range []string{"not the secret of the client", cfg.RADIUS.Clients[0].Secret.Reveal()} {
		ask := layeh.New(layeh.CodeAccessRequest, []byte(secret))
		ask.Add(1, layeh.Attribute("someone@other.example")) // User-Name
		wire, err := ask.Encode()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("udp", strings.TrimSuffix(r.Addrs()["radius"][0], "/udp"))
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(wire)
		conn.Close()
	}
	// Each method, without and with something in the request.
	var api struct{ Paths map[string]any }
	openAPI := get("/api/v1/openapi.json", "")
	if err := json.Unmarshal([]byte(openAPI[strings.Index(openAPI, "\r\n\r\n"):]), &api); err != nil {
		t.Fatal(err)
	}
	methods := 0
	try := func(method string, request any) {
		t.Helper()
		_, body := o.try(method, request)
		shown.Write(append(body, '\n'))
	}
	for path := range api.Paths {
		method, ok := strings.CutPrefix(path, "/api/v1/")
		if !ok || strings.Contains(method, "openapi") || method == "events" || method == "adminLogout" || strings.Contains(method, "Identity") || strings.Contains(method, "Login") {
			continue
		}
		methods++
		for _, request := range []map[string]any{{}, {"limit": 1000}, {"zone": "example.com"}, {"id": "x", "name": "x", "key": "x"}} {
			try(method, request)
		}
	}
	if methods < 30 {
		t.Errorf("only %d methods", methods)
	}
	// Configurations with mistakes, most of all where the secrets are, and changes.
	for _, secret := range secrets {
		for _, wrong := range []string{`["` + secret + `"]`, `{"x":"` + secret + `"}`, `"` + secret + `\u0000"`} {
			try("validateConfiguration", map[string]any{"configuration": json.RawMessage(strings.NewReplacer(`"whsec_`+secret+`"`, wrong, `"`+secret+`"`, wrong).Replace(text))})
		}
	}
	try("updateConfiguration", map[string]any{"configuration": text})
	changed := strings.Replace(text, secrets[1], secrets[1]+"AAAA", 1) // of the route
	try("updateConfiguration", map[string]any{"configuration": json.RawMessage(changed)})
	try("updateConfiguration", map[string]any{"configuration": json.RawMessage(strings.Replace(text, secrets[2], "other"+secrets[2], 1))}) // not while it runs
	try("rollbackConfiguration", map[string]any{"version": 1})
	for _, method := range []string{"getConfiguration", "getConfigurationHistory", "getConfigurationDiff", "getRoutes", "getLogs", "getSecurityEvents", "getAuditLog", "getServerStatistics"} {
		try(method, map[string]any{})
	}
	for version := range 3 {
		try("getConfiguration", map[string]any{"version": version})
		try("getConfigurationDiff", map[string]any{"from": 1, "to": version})
	}
	// A wrong password of one user that is the right one of another.
	try("adminLoginWithUsernameAndPassword", map[string]any{"username": "admin", "password": cfg.Ops.Users[0].Password.Reveal()})

	out := shown.String()
	for _, want := range []string{`"op":"replace"`, "rollbackConfiguration", "event: audit", "event: log", "dcrouter_proxy_connections_total", `"***"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in what came out: this test has not seen it", want)
		}
	}
	for i, secret := range secrets {
		for form, value := range map[string]string{"as it is": secret, "in hex": fmt.Sprintf("%x", secret), "in base64": base64.StdEncoding.EncodeToString([]byte(secret))} {
			if at := strings.Index(out, strings.TrimRight(value, "=")); at >= 0 {
				t.Errorf("secret %d shows %s: %q", i, form, out[max(0, at-300):at+len(value)])
			}
		}
	}
}
