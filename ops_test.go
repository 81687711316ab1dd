package dcrouter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/storage"
)

// operator calls methods of a Router's operations API.
type operator struct {
	t           testing.TB
	base, token string
}

func signIn(t testing.TB, r *dcrouter.Router) *operator {
	t.Helper()
	return signInAs(t, r, "admin", "hunter2hunter2")
}

func signInAs(t testing.TB, r *dcrouter.Router, name, password string) *operator {
	t.Helper()
	o := &operator{t: t, base: "http://" + r.Addrs()["ops"][0]}
	var in struct{ Identity struct{ JWT string } }
	o.call("adminLoginWithUsernameAndPassword", map[string]any{"username": name, "password": password}, &in)
	o.token = in.Identity.JWT
	return o
}

// call wants a good answer, and returns it.
func (o *operator) call(method string, request, response any) string {
	o.t.Helper()
	status, body := o.try(method, request)
	if status != http.StatusOK {
		o.t.Fatalf("%s: %d %s", method, status, body)
	}
	if response != nil {
		if err := json.Unmarshal(body, response); err != nil {
			o.t.Fatalf("%s: %v in %s", method, err, body)
		}
	}
	return string(body)
}

func (o *operator) try(method string, request any) (status int, body []byte) {
	o.t.Helper()
	data, err := json.Marshal(request)
	if err != nil {
		o.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(o.t.Context(), http.MethodPost, o.base+"/api/v1/"+method, bytes.NewReader(data))
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+o.token)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Do(r)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode, body
}

func opsSection() opsapi.Config {
	return opsapi.Config{Port: new(int), Admin: opsapi.Admin{Username: "admin", Password: "hunter2hunter2"}}
}

// A change through the API takes effect as UpdateRoutes has it, and outlasts a
// restart.
func TestRoutesThroughTheAPI(t *testing.T) {
	testenv.Goroutines(t)
	folder := t.TempDir()
	one, two := backend(t, "one"), backend(t, "two")
	port := testenv.FreePort(t)
	section := proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{{Name: "web", Match: proxy.Match{Ports: proxy.Ports(port)},
		Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{one}}}}}
	open := func() *dcrouter.Router {
		return start(t, dcrouter.WithStorage(storage.Dir(folder)), dcrouter.WithProxy(section), dcrouter.WithOps(opsSection()))
	}
	answers := func(want string) {
		t.Helper()
		testenv.WaitFor(t, 10*time.Second, func() error {
			if got := get(t, fmt.Sprintf("http://127.0.0.1:%d/", port)); got != want {
				return fmt.Errorf("got %q, want %q", got, want)
			}
			return nil
		})
	}
	r := open()
	o := signIn(t, r)
	answers("one")
	var routes struct {
		Routes []map[string]any
		Hash   string
	}
	o.call("getRoutes", nil, &routes)
	action := routes.Routes[0]["action"].(map[string]any)
	action["targets"] = []any{map[string]any{"host": two.Host, "port": 70000}}
	status, body := o.try("updateRoutes", map[string]any{"routes": routes.Routes})
	if status != http.StatusBadRequest || !strings.Contains(string(body), `"path":"routes[0].action.targets[0].port"`) {
		t.Errorf("a broken route: %d %s", status, body)
	}
	answers("one")
	action["targets"] = []any{map[string]any{"host": two.Host, "port": two.Port}}
	var applied opsapi.Applied
	o.call("updateRoutes", map[string]any{"routes": routes.Routes, "ifMatch": routes.Hash, "confirmWithinSeconds": 600}, &applied)
	answers("two")
	o.call("revertConfiguration", map[string]any{"version": applied.Version}, nil)
	answers("one")
	o.call("updateRoutes", map[string]any{"routes": routes.Routes}, &applied)
	answers("two")
	stop(t, r)

	r = open()
	o = signIn(t, r)
	answers("two")
	var history struct {
		Versions []struct{ Author, State string }
	}
	o.call("getConfigurationHistory", nil, &history)
	if len(history.Versions) != 3 || history.Versions[0].Author != "admin" || history.Versions[0].State != "current" || history.Versions[1].State != "reverted" {
		t.Errorf("history %+v", history)
	}
	o.call("rollbackConfiguration", map[string]any{"version": 1}, nil)
	answers("one")

	// The host changes them, too.
	if err := r.UpdateRoutes(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	o.call("getRoutes", nil, &routes)
	if len(routes.Routes) != 0 {
		t.Errorf("routes %v", routes.Routes)
	}
	stop(t, r)
	// Started with others, it has those.
	section.Routes[0].Action.Targets = []proxy.Target{two}
	open()
	answers("two")
}

// Operators change routes, and must not become admins by it: a route that serves
// a folder could serve that of the storage, in which the key for tokens is.
func TestOperatorsDoNotServeFolders(t *testing.T) {
	folder, site := t.TempDir(), t.TempDir()
	port := testenv.FreePort(t)
	serve := func(name, path, root string) proxy.Route {
		return proxy.Route{Name: name, Match: proxy.Match{Ports: proxy.Ports(port), Path: path}, Action: proxy.Action{Type: proxy.Serve, Root: root}}
	}
	ops := opsSection()
	ops.Users = []opsapi.User{{Username: "otto", Password: "hunter2 operator", Role: "operator"}}
	r := start(t, dcrouter.WithStorage(storage.Dir(folder)), dcrouter.WithOps(ops),
		dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{serve("site", "/site/*", site)}}))
	otto := signInAs(t, r, "otto", "hunter2 operator")
	for field, route := range map[string]proxy.Route{
		"action.root":                     serve("all", "/*", folder),
		"action.tls.certificate.keyPath":  {Name: "all", Match: proxy.Match{Ports: proxy.Ports(port + 1)}, Action: proxy.Action{Type: proxy.Serve, Root: site, TLS: &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{CertPath: "/etc/x", KeyPath: "/etc/x"}}}},
		"action.tls.upstream.caPath":      {Name: "all", Match: proxy.Match{Ports: proxy.Ports(port + 1)}, Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{{Host: "127.0.0.1", Port: 1}}, TLS: &proxy.TLS{Mode: proxy.TerminateAndReencrypt, Certificate: proxy.Certificate{Auto: true}, Upstream: proxy.UpstreamTLS{CAPath: "/etc/x"}}}},
		"action.tls.clientAuth.caPath":    {Name: "all", Match: proxy.Match{Ports: proxy.Ports(port + 1)}, Action: proxy.Action{Type: proxy.Serve, Root: site, TLS: &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}, ClientAuth: &proxy.ClientAuth{CAPath: "/etc/x"}}}},
		"action.tls.certificate.certPath": {Name: "all", Match: proxy.Match{Ports: proxy.Ports(port + 1)}, Action: proxy.Action{Type: proxy.Serve, Root: site, TLS: &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{CertPath: "/etc/x", KeyPath: "/etc/x"}}}},
	} {
		routes := map[string]any{"routes": []proxy.Route{serve("site", "/site/*", site), route}}
		for _, method := range []string{"updateRoutes", "validateRoutes"} {
			status, body := otto.try(method, routes)
			if !strings.Contains(string(body), `"path":"routes[1].`+field+`"`) || method == "updateRoutes" && status != http.StatusBadRequest {
				t.Errorf("%s, %s: %d %s", method, field, status, body)
			}
		}
	}
	// What is served already he may serve elsewhere, and an admin anything.
	otto.call("updateRoutes", map[string]any{"routes": []proxy.Route{serve("other", "/other/*", site)}}, nil)
	signIn(t, r).call("updateRoutes", map[string]any{"routes": []proxy.Route{serve("all", "/*", t.TempDir())}}, nil)
}

// Each subsystem shows through the API.
func TestOpsSeesEverything(t *testing.T) {
	cfg := dcrouter.Config{
		DNS: &dnsserver.Config{Port: new(int), ListenHost: "127.0.0.1", Records: []dnsserver.Record{{Name: "www.example.com", Type: "A", Value: "192.0.2.1", TTL: 300}}},
		RADIUS: &radius.Config{ListenHost: "127.0.0.1", Port: new(int), AccountingPort: new(int), Secret: "hunter2 radius secret",
			Clients: []radius.Client{{Name: "switch", IP: "127.0.0.1", Secret: "hunter2 client secret"}}},
		Email: &email.Config{ListenHost: "127.0.0.1", Ports: []email.Port{{Port: 0}}, Hostname: "mx.example.com", Domains: []email.Domain{{Domain: "example.com"}},
			IPReputation: &email.IPReputation{BlockList: []string{"203.0.113.0/24"}},
			Routes:       []email.Route{{Match: email.Match{Recipients: []string{"*@example.com"}}, Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "no"}}}}},
	}
	section := opsSection()
	cfg.Ops = &section
	r := start(t, dcrouter.WithConfig(cfg))
	o := signIn(t, r)
	for method, want := range map[string]string{
		"getServerStatistics": `"radius":{`, "getHealthStatus": `"name":"dns","ready":true`, "getDnsZones": `"name":"example.com."`,
		"getRadiusClients": `"name":"switch"`, "getRadiusSessions": `"sessions":[]`, "getEmailQueue": `"messages":[]`,
		"getConfiguration": `"secret":"***"`, "getLogs": `"entries":[{`,
		"getLimits": `{"name":"smartProxyConfig.maxConnections","value":0,"unit":"connections","from":"default","used":`,
	} {
		if body := o.call(method, nil, nil); !strings.Contains(body, want) || strings.Contains(body, "hunter2") {
			t.Errorf("%s: %s, want %s", method, body, want)
		}
	}
	o.call("updateDnsRecords", map[string]any{"set": []any{map[string]any{"name": "new.example.com", "type": "A", "value": "192.0.2.9"}}}, nil)
	if body := o.call("getDnsRecords", map[string]any{"zone": "example.com", "search": "new."}, nil); !strings.Contains(body, "192.0.2.9") || strings.Contains(body, "www") {
		t.Errorf("records: %s", body)
	}
	for method, request := range map[string]map[string]any{"disconnectRadiusSession": {"key": "none"}, "getDnsRecords": {"zone": "none.example"}} {
		if status, body := o.try(method, request); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", method, status, body)
		}
	}
	if body := o.call("checkReputation", map[string]any{"address": "203.0.113.7"}, nil); !strings.Contains(body, `"blocked":true`) {
		t.Errorf("reputation: %s", body)
	}
	resp := get(t, o.base+"/metrics")
	if !strings.Contains(resp, "dcrouter_proxy_connections_total") {
		t.Errorf("metrics: %s", resp)
	}

	// Of the rest of the configuration it says that it takes a start.
	var current struct{ Configuration map[string]any }
	o.call("getConfiguration", nil, &current)
	current.Configuration["emailConfig"].(map[string]any)["hostname"] = "other.example.com"
	status, body := o.try("updateConfiguration", map[string]any{"configuration": current.Configuration})
	if status != http.StatusBadRequest || !strings.Contains(string(body), `"path":"emailConfig"`) {
		t.Errorf("got %d %s", status, body)
	}
	// Routes of mail and the RADIUS policy take effect at once.
	o.call("getConfiguration", nil, &current)
	mail := current.Configuration["emailConfig"].(map[string]any)
	mail["routes"] = []any{}
	current.Configuration["radiusConfig"].(map[string]any)["macAuth"] = map[string]any{"enabled": true, "allowedMacs": []any{"00:11:22:33:44:55"}}
	if status, body := o.try("validateConfiguration", map[string]any{"configuration": current.Configuration}); status != http.StatusOK {
		t.Errorf("got %d %s", status, body)
	}
}

// Health says what is not as it should be, and readiness goes by whether any work
// is done.
func TestHealthSaysWhatIsWrong(t *testing.T) {
	ops := opsSection()
	dead := testenv.FreePort(t)
	cfg := dcrouter.Config{
		Ops: &ops,
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", ACME: &proxy.ACME{Email: "ops@example.com", CADirectory: fmt.Sprintf("https://127.0.0.1:%d/", dead)},
			Routes: []proxy.Route{{Name: "web", Match: proxy.Match{Ports: proxy.Ports(testenv.FreePort(t)), Domains: []string{"www.example.com"}},
				Action: proxy.Action{Type: proxy.Forward, TLS: &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}},
					Targets: []proxy.Target{{Host: "127.0.0.1", Port: dead}}, LoadBalancing: proxy.LoadBalancing{HealthCheck: &proxy.HealthCheck{Interval: 50 * time.Millisecond}}}}}},
		DNS: &dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.org", Primaries: []dnsserver.Peer{{Addr: fmt.Sprintf("127.0.0.1:%d", dead)}}}}},
		Email: &email.Config{ListenHost: "127.0.0.1", Ports: []email.Port{{Port: 0}}, Hostname: "mx.example.com", Domains: []email.Domain{{Domain: "example.com"}},
			Queue: email.Queue{Paused: true}, Routes: []email.Route{{Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Message: "no"}}}}},
	}
	r := start(t, dcrouter.WithConfig(cfg))
	o := signIn(t, r)
	testenv.WaitFor(t, 30*time.Second, func() error {
		health := o.call("getHealthStatus", nil, nil)
		for _, want := range []string{
			fmt.Sprintf("1 of 1 targets not healthy: 127.0.0.1:%d", dead), "1 of 1 zones not served: example.org.", "the queue is paused",
			"2 of 2 names without a valid certificate: mx.example.com, www.example.com",
			`"name":"dns","ready":false`, `"name":"proxy","ready":true`, `"name":"certificates","ready":true`, `"status":"degraded"`,
		} {
			if !strings.Contains(health, want) {
				return fmt.Errorf("%q is not in %s", want, health)
			}
		}
		return nil
	})
	o.call("renewCertificate", map[string]any{"name": "www.example.com"}, nil)
	for name, want := range map[string]int{"www.example.com": http.StatusBadRequest, "none.example": http.StatusNotFound} { // asked for just now
		if status, body := o.try("renewCertificate", map[string]any{"name": name}); status != want {
			t.Errorf("renewing %s: %d %s", name, status, body)
		}
	}
	if got := get(t, o.base+"/readyz"); !strings.Contains(got, `"ready":false`) || !strings.Contains(got, `"dns":false`) {
		t.Errorf("ready: %s", got)
	}
}

// The page of metrics has the process's own figures as well, which a host that
// registers our Collector has by itself.
func TestMetricsOfTheProcess(t *testing.T) {
	r := start(t, dcrouter.WithOps(opsSection()))
	page := get(t, "http://"+r.Addrs()["ops"][0]+"/metrics")
	want := []string{"go_goroutines ", "go_gc_duration_seconds_count ", "dcrouter_"}
	if runtime.GOOS == "linux" {
		want = append(want, "process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total ")
	}
	for _, name := range want {
		if !strings.Contains(page, "\n"+name) {
			t.Errorf("no %s", name)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(r.Collector(), collectors.NewGoCollector())
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

// No line says twice what part it is from.
func TestLogLinesNameOneComponent(t *testing.T) {
	var log safeBuffer
	ops := opsSection()
	r := start(t, dcrouter.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))), dcrouter.WithConfig(dcrouter.Config{
		Ops:   &ops,
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", ACME: &proxy.ACME{LocalCA: true}},
		DNS:   &dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.org", DNSSEC: &dnsserver.DNSSEC{}}}},
		Email: &email.Config{ListenHost: "127.0.0.1", Ports: []email.Port{{Port: 0}}, Hostname: "mx.example.com",
			Routes: []email.Route{{Action: email.Action{Type: email.Reject}}}},
	}))
	testenv.WaitFor(t, 30*time.Second, func() error {
		if !strings.Contains(log.String(), "zone=example.org.") {
			return errors.New("nothing about the keys of the zone")
		}
		return nil
	})
	stop(t, r)
	for line := range strings.Lines(log.String()) {
		if strings.Count(line, "component=") > 1 {
			t.Error(line)
		}
	}
}

// get fetches a page, over a connection of its own.
func get(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}
