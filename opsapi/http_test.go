package opsapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestHeaders(t *testing.T) {
	files := fstest.MapFS{"index.html": {Data: []byte("<!doctype html>")}}
	d := openDesk(t, newHost(), nil, WithDashboard(files), WithMetrics(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metric 1\n") })))
	for _, path := range []string{"/", "/nothing", "/healthz", "/readyz", "/metrics", "/api/v1/openapi.json", "/api/v1/events", "/api/v1/getRoutes", "/typedrequest"} {
		a := d.send(http.MethodGet, path, "", nil)
		for name, want := range map[string]string{
			"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'",
			"X-Content-Type-Options":       "nosniff",
			"X-Frame-Options":              "DENY",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := a.header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		want := "no-store"
		if path == "/" {
			want = "no-cache"
		}
		if got := a.header.Get("Cache-Control"); got != want {
			t.Errorf("%s: Cache-Control is %q", path, got)
		}
	}
}

func TestCrossOriginIsRefused(t *testing.T) {
	h := newHost()
	d := openDesk(t, h, nil)
	token := d.admin()
	cookie := []string{"Cookie", cookieName + "=" + token}
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		for _, path := range []string{"/api/v1/updateConfiguration", "/typedrequest"} {
			body := []byte(`{"method":"updateConfiguration","request":{"configuration":{}},"configuration":{}}`)
			d.send(http.MethodPost, path, "", body, append(cookie, headers...)...).fails(http.StatusForbidden, CodeForbidden)
		}
	}
	if h.applied != 0 {
		t.Error("a page of another origin changed something")
	}
	d.post("", "getRoutes", object{}, append(cookie, "Sec-Fetch-Site", "same-origin", "Origin", d.base)...).into(&routesResponse{})
	// What changes something cannot be asked for by GET.
	for _, m := range d.server.methods.list() {
		if a := d.send(http.MethodGet, "/api/v1/"+m.name, token, nil); a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", m.name, a.status)
		}
	}
}

func TestHealth(t *testing.T) {
	ready := true
	d := openDesk(t, newHost(), nil, WithHealth(func(context.Context) []Component {
		return []Component{{Name: "proxy", Ready: true, Detail: "inner details", Addresses: []string{"10.0.0.1:443"}}, {Name: "mail", Ready: ready}}
	}))
	if a := d.send(http.MethodGet, "/healthz", "", nil); a.status != 200 || string(a.body) != `{"status":"ok"}` {
		t.Errorf("healthz: %d %s", a.status, a.body)
	}
	if a := d.send(http.MethodGet, "/readyz", "", nil); a.status != 200 || string(a.body) != `{"ready":true,"components":{"mail":true,"proxy":true}}` {
		t.Errorf("readyz: %d %s", a.status, a.body)
	}
	ready = false
	if a := d.send(http.MethodGet, "/readyz", "", nil); a.status != 503 || string(a.body) != `{"ready":false,"components":{"mail":false,"proxy":true}}` {
		t.Errorf("readyz: %d %s", a.status, a.body)
	}
	var h healthResponse
	a := d.post("", "getHealthStatus", object{})
	a.into(&h)
	if h.Status != "degraded" || strings.Contains(string(a.body), "inner details") || strings.Contains(string(a.body), "10.0.0.1") || h.Version != "" {
		t.Errorf("strangers see %s", a.body)
	}
	d.post(d.viewer(), "getHealthStatus", object{}).into(&h)
	if h.Components[0].Detail != "inner details" || h.Version != "1.2.3" {
		t.Errorf("viewers see %+v", h)
	}
}

func TestMetrics(t *testing.T) {
	metrics := WithMetrics(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metric 1\n") }))
	get := func(d *desk, want int, headers ...string) {
		t.Helper()
		if a := d.send(http.MethodGet, "/metrics", "", nil, headers...); a.status != want {
			t.Errorf("%v: %d %s", headers, a.status, a.body)
		}
	}
	d := openDesk(t, newHost(), nil, metrics)
	get(d, 200)
	get(d, 401, "X-Forwarded-For", "192.0.2.1") // through a proxy on this machine
	get(d, 401, "Forwarded", "for=192.0.2.1")
	get(d, 200, "X-Forwarded-For", "192.0.2.1", "Authorization", "Bearer "+d.viewer())
	get(d, 401, "X-Forwarded-For", "192.0.2.1", "Authorization", "Bearer ")

	cfg := testConfig()
	cfg.MetricsToken = metricsToken
	d = openDeskWith(t, newHost(), nil, cfg, metrics)
	get(d, 401)
	get(d, 401, "Authorization", "Bearer x")
	get(d, 200, "Authorization", "Bearer "+metricsToken)
	d = openDesk(t, newHost(), nil)
	get(d, 404)
}

func TestDashboard(t *testing.T) {
	script := []byte(strings.Repeat("export const x = 1;\n", 200))
	files := fstest.MapFS{
		"index.html": {Data: []byte("<!doctype html><title>x</title>")}, "app.js": {Data: script}, "css/app.css": {Data: []byte("a{}")},
		"assets.go": {Data: []byte("package dashboard")}, ".secret.js": {Data: []byte("x")},
	}
	d := openDesk(t, newHost(), nil, WithDashboard(files))
	get := func(path string, headers ...string) answer { return d.send(http.MethodGet, path, "", nil, headers...) }

	index := get("/")
	if index.status != 200 || !strings.HasPrefix(string(index.body), "<!doctype html>") || index.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("/: %d %s %v", index.status, index.body, index.header)
	}
	plain := get("/app.js", "Accept-Encoding", "identity")
	if !bytes.Equal(plain.body, script) || plain.header.Get("Content-Type") != "text/javascript; charset=utf-8" || plain.header.Get("Content-Encoding") != "" {
		t.Errorf("/app.js: %v", plain.header)
	}
	zipped := get("/app.js", "Accept-Encoding", "br, gzip;q=0.5")
	z, err := gzip.NewReader(bytes.NewReader(zipped.body))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || !bytes.Equal(text, script) || zipped.header.Get("Content-Encoding") != "gzip" || len(zipped.body) > 200 {
		t.Errorf("unzipped %d bytes, %v", len(text), err)
	}
	if a := get("/app.js", "Accept-Encoding", "gzip;q=0"); a.header.Get("Content-Encoding") != "" {
		t.Error("zipped although it was refused")
	}
	for _, a := range []answer{plain, zipped} {
		again := get("/app.js", "Accept-Encoding", "gzip, identity", "If-None-Match", zipped.header.Get("ETag")+`, "x"`)
		if again.status != http.StatusNotModified || len(again.body) != 0 || a.header.Get("ETag") == "" {
			t.Errorf("again: %d", again.status)
		}
	}
	for _, path := range []string{"/assets.go", "/.secret.js", "/css", "/css/", "/APP.JS", "/nothing"} {
		if a := get(path); a.status == 200 {
			t.Errorf("%s is served", path)
		}
	}
	if a := get("/css/app.css"); a.status != 200 {
		t.Errorf("/css/app.css: %d", a.status)
	}
}

// No answer has a secret in it, whoever asks for what.
func TestNoSecretShows(t *testing.T) {
	cfg := testConfig()
	cfg.MetricsToken = metricsToken
	h := newHost()
	d := openDeskWith(t, h, nil, cfg)
	admin := d.admin()
	d.log.Info("a password", "password", cfg.Admin.Password, "config", cfg, "host", &h.config)
	secrets := []string{secretToken, secretRoute, adminPassword, otherPassword, metricsToken, "s3cret", "argon2", string(d.server.running().sessions.key.Seed())}
	search := func(what string, body []byte) {
		t.Helper()
		for _, s := range secrets {
			if bytes.Contains(body, []byte(s)) {
				t.Errorf("%s shows %q: %s", what, s, body)
			}
		}
	}
	all := d.follow(admin, "topics=stats,health,log,security,configuration,audit&logAfter=0")
	for _, step := range conversation() {
		if step.method == "adminLogout" {
			continue
		}
		a := d.post(admin, step.method, step.request)
		if a.status != http.StatusOK {
			t.Errorf("%s: %d %s", step.method, a.status, a.body)
		}
		search(step.method, a.body)
		// Nor does an error about what was sent.
		bad := object{"unknownField": "x", "password": "s3cret-sent"}
		for k, v := range step.request {
			bad[k] = []any{v}
		}
		search(step.method, d.post(admin, step.method, bad).body)
	}
	for _, path := range []string{"/", "/readyz", "/api/v1/openapi.json"} {
		search(path, d.send(http.MethodGet, path, "", nil).body)
	}
	search("an error", d.post(admin, "updateConfiguration", object{"configuration": object{"apiToken": "s3cret-new", "x": 1}}).body)
	d.post(admin, "updateConfiguration", object{"configuration": object{"apiToken": "s3cret-new"}}).into(&Applied{})
	search("the difference", d.post(admin, "getConfigurationDiff", object{}).body)
	search("the log", d.post(admin, "getLogs", object{"limit": 1000}).body)
	d.post(admin, "adminLogout", object{})
	for e := range all.events {
		search("event "+e.event, []byte(e.data))
	}
}

func TestNotConfigured(t *testing.T) {
	testenv.Goroutines(t)
	s, err := New(Config{Port: new(int), Admin: Admin{"admin", adminPassword}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, server: s, base: "http://" + s.Addr().String(), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	defer d.stop()
	token := d.admin()
	for _, step := range conversation() {
		switch step.method {
		case "verifyIdentity", "refreshIdentity", "getHealthStatus", "getSecurityEvents", "getAuditLog", "adminLogout":
			d.post(token, step.method, step.request).into(&object{})
		default:
			d.post(token, step.method, step.request).fails(http.StatusNotImplemented, CodeNotConfigured)
		}
	}
}

func TestREST(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.admin()
	d.post(token, "bogus", object{}).fails(http.StatusNotFound, "")
	d.send(http.MethodPost, "/api/v1/getRoutes", token, nil).into(&routesResponse{})
	d.send(http.MethodPost, "/api/v1/getRoutes", token, []byte("{")).fails(http.StatusBadRequest, CodeInvalid)
	d.send(http.MethodPost, "/api/v1/getRoutes", token, bytes.Repeat([]byte(" "), maxBody+1)).fails(http.StatusRequestEntityTooLarge, CodeTooLarge)
	d.post(token, "getEmailMessage", object{"id": "nope"}).fails(http.StatusNotFound, CodeNotFound)
	data := d.post(token, "updateDnsRecords", object{"set": []object{{"name": "a", "type": "BOGUS", "value": "x"}}}).fails(http.StatusBadRequest, CodeInvalid)
	if !strings.Contains(fmt.Sprint(data["fields"]), "path:set[0].type") {
		t.Errorf("fields %v", data)
	}
	data = d.post(token, "updateDnsRecords", object{"add": []object{{"name": "", "ttl": -1}}}).fails(http.StatusBadRequest, CodeInvalid)
	if text := fmt.Sprint(data["fields"]); !strings.Contains(text, "add[0].name") || !strings.Contains(text, "add[0].ttl") || !strings.Contains(text, "add[0].value") {
		t.Errorf("fields %v", text)
	}
	for _, bad := range []object{{"limit": -1}, {"limit": 1001}, {"limit": "x"}, {"state": "odd"}} {
		d.post(token, "getEmailQueue", bad).fails(http.StatusBadRequest, CodeInvalid)
	}
	var page queueResponse
	d.post(token, "getEmailQueue", object{"limit": 1}).into(&page)
	d.post(token, "getEmailQueue", object{"limit": 1, "after": page.Next}).into(&page)
	if len(page.Messages) != 1 || page.Messages[0].ID != "m2" {
		t.Errorf("the second page is %+v", page)
	}

	r := d.server.running()
	for range cap(r.slots) {
		r.slots <- struct{}{}
	}
	a := d.post(token, "getRoutes", object{})
	if data := a.fails(http.StatusServiceUnavailable, "busy"); a.header.Get("Retry-After") != "1" || data["waitForMs"] != 250.0 {
		t.Errorf("busy: %s %v", a.body, a.header)
	}
	for range cap(r.slots) {
		<-r.slots
	}
}

// A method of the host's own.
func TestOwnMethod(t *testing.T) {
	type request struct {
		City string `json:"city" doc:"where"`
	}
	type weather struct {
		Degrees int    `json:"degrees"`
		By      string `json:"by"`
	}
	s, err := New(testConfig(), WithStorage(openStore(t)))
	if err != nil {
		t.Fatal(err)
	}
	Handle(s.Methods(), "getWeather", RoleViewer, func(ctx context.Context, r request) (weather, error) {
		who, ok := IdentityFrom(ctx)
		if !ok || who.JWT != "" {
			t.Errorf("called by %+v", who)
		}
		switch r.City {
		case "":
			return weather{}, &RetryError{After: 20 * time.Millisecond, Reason: "no idea yet"}
		case "Atlantis":
			return weather{}, &Error{Code: "sunk", Text: "it is under water", Data: map[string]any{"depth": 5}}
		}
		return weather{21, who.Name}, nil
	}, Doc("Tells the weather."))
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, server: s, base: "http://" + s.Addr().String(), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	defer d.stop()
	token := d.viewer()
	var w weather
	d.post(token, "getWeather", object{"city": "Bremen"}).into(&w)
	if w != (weather{21, "vera"}) {
		t.Errorf("got %+v", w)
	}
	if data := d.post(token, "getWeather", object{"city": "Atlantis"}).fails(500, "sunk"); data["depth"] != 5.0 {
		t.Errorf("got %v", data)
	}
	v := d.typed(`{"method":"getWeather","request":{}}`, "Authorization", "Bearer "+token)
	if text := fmt.Sprint(v["retry"]); text != "map[reason:no idea yet waitForMs:20]" || v["error"] != nil {
		t.Errorf("got %v", v)
	}
	if a := d.send(http.MethodGet, "/api/v1/openapi.json", "", nil); !strings.Contains(string(a.body), "Tells the weather.") || !strings.Contains(string(a.body), `"description":"where"`) {
		t.Errorf("not described: %s", a.body)
	}

	bad, err := New(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	Handle(bad.Methods(), "getRoutes", RoleViewer, func(context.Context, request) (weather, error) { return weather{}, nil })
	Handle(bad.Methods(), "a b", RoleViewer, func(context.Context, request) (weather, error) { return weather{}, nil })
	Handle(bad.Methods(), "x", RoleViewer, func(context.Context, int) (weather, error) { return weather{}, nil })
	err = bad.Start(t.Context())
	for _, want := range []string{"getRoutes is registered twice", `"a b" is no name`, "request of x is no struct"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	a := d.send(http.MethodGet, "/api/v1/openapi.json", "", nil)
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ OperationID, Description string }
		Components struct{ Schemas map[string]object }
	}
	a.into(&doc)
	if doc.OpenAPI != "3.1.0" || len(doc.Paths) != len(d.server.methods.byName) {
		t.Errorf("%s, %d paths", doc.OpenAPI, len(doc.Paths))
	}
	for path, operations := range doc.Paths {
		if o := operations["post"]; "/api/v1/"+o.OperationID != path || !strings.Contains(o.Description, "Least role") || strings.HasPrefix(o.Description, "Least") {
			t.Errorf("%s: %+v", path, operations)
		}
	}
	for _, ref := range regexp.MustCompile(`"#/components/schemas/([^"]*)"`).FindAllSubmatch(a.body, -1) {
		if doc.Components.Schemas[string(ref[1])] == nil {
			t.Errorf("%s leads nowhere", ref[0])
		}
	}
	message, _ := json.Marshal(doc.Components.Schemas["QueuedMessage"])
	if !strings.Contains(string(message), `"recipients":{"items":{"$ref":"#/components/schemas/QueuedRecipient"},"type":"array"}`) || !strings.Contains(string(message), "date-time") {
		t.Errorf("QueuedMessage is %s", message)
	}
}

// curl speaks to it, over TLS with HTTP/2 as well.
func TestCurl(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	cert, key, _ := testenv.SelfSigned(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	d := openDesk(t, newHost(), nil, WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}))
	_, port, _ := net.SplitHostPort(d.server.Addr().String())
	base := "https://localhost:" + port
	run := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, curl, append([]string{"-sS", "--cacert", cert, "--resolve", "localhost:" + port + ":127.0.0.1"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	jar := testenv.Folder(t) + "/jar"
	out := run("-c", jar, "-d", `{"username":"admin","password":"`+adminPassword+`","cookie":true}`, base+"/api/v1/adminLoginWithUsernameAndPassword")
	if !strings.Contains(out, `"role":"admin"`) {
		t.Fatalf("got %s", out)
	}
	if out = run("-b", jar, "-X", "POST", base+"/api/v1/getRoutes"); !strings.Contains(out, `"name":"web"`) {
		t.Errorf("got %s", out)
	}
	if out = run("-i", base+"/healthz"); !strings.HasPrefix(out, "HTTP/2 200") || !strings.Contains(strings.ToLower(out), "strict-transport-security") {
		t.Errorf("got %s", out)
	}
	// A stream, for as long as curl is let.
	cmd := exec.CommandContext(t.Context(), curl, "-sSN", "--cacert", cert, "-b", jar, base+"/api/v1/events?topics=health")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	head := make([]byte, 200)
	if _, err := io.ReadFull(pipe, head); err != nil || !strings.Contains(string(head), "event: health\ndata: {") {
		t.Errorf("got %s, %v", head, err)
	}
}

func TestLifecycle(t *testing.T) {
	testenv.Goroutines(t)
	for name, cfg := range map[string]Config{"no password": {Admin: Admin{"admin", ""}}, "no name": {Admin: Admin{"", "x"}}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	taken := testConfig()
	taken.Port = &port
	busy, err := New(taken)
	if err != nil {
		t.Fatal(err)
	}
	if err := busy.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot listen on 127.0.0.1:") {
		t.Errorf("got %v", err)
	}

	s, err := New(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	if s.Addr() != nil || s.Wait() != nil || s.Stop(t.Context()) != nil {
		t.Error("it runs before Start")
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("before Start: %d", w.Code)
	}
	for range 3 {
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if host, _, _ := net.SplitHostPort(s.Addr().String()); host != "127.0.0.1" {
			t.Errorf("listens on %s", host)
		}
		if err := s.Start(t.Context()); err != ErrRunning {
			t.Errorf("a second Start: %v", err)
		}
		waited := make(chan error)
		go func() { waited <- s.Wait() }()
		var wait sync.WaitGroup
		for range 3 {
			wait.Go(func() {
				if err := s.Stop(t.Context()); err != nil {
					t.Errorf("Stop: %v", err)
				}
			})
		}
		wait.Wait()
		if err := <-waited; err != nil {
			t.Errorf("Wait: %v", err)
		}
	}
}

// Who is connected and says nothing is not waited for.
func TestStopWithSilentClient(t *testing.T) {
	s, err := New(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := s.running()
	testenv.WaitFor(t, time.Minute, func() error {
		r.silent.mu.Lock()
		defer r.silent.mu.Unlock()
		if len(r.silent.open) != 1 {
			return fmt.Errorf("%d connections", len(r.silent.open))
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// A request that is under way is answered; one that does not end is given up.
func TestStopWaits(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		entered, leave := make(chan struct{}), make(chan struct{})
		s, err := New(testConfig())
		if err != nil {
			t.Fatal(err)
		}
		Handle(s.Methods(), "wait", RolePublic, func(context.Context, struct{}) (string, error) {
			close(entered)
			<-leave
			return "done", nil
		})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		d := &desk{t: t, server: s, base: "http://" + s.Addr().String(), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
		answered := make(chan int, 1)
		go func() {
			resp, err := d.client.Post(d.base+"/api/v1/wait", "application/json", nil)
			if err != nil {
				answered <- 0
				return
			}
			resp.Body.Close()
			answered <- resp.StatusCode
		}()
		<-entered
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- s.Stop(ctx) }()
		want := http.StatusOK
		if hangs {
			cancel()
			want = 0
		} else {
			close(leave)
		}
		if err := <-stopped; (err != nil) != hangs {
			t.Errorf("Stop: %v", err)
		}
		if got := <-answered; got != want {
			t.Errorf("hangs %t: answered %d", hangs, got)
		}
		if hangs {
			close(leave)
		}
		cancel()
	}
}

func TestSeveralAtOnce(t *testing.T) {
	testenv.Goroutines(t)
	desks := []*desk{openDesk(t, newHost(), nil), openDesk(t, newHost(), nil), openDesk(t, newHost(), nil)}
	token := desks[0].admin()
	desks[1].post(token, "getRoutes", object{}).fails(http.StatusUnauthorized, CodeUnauthenticated)
	var ports []string
	for _, d := range desks {
		ports = append(ports, d.base)
	}
	slices.Sort(ports)
	if len(slices.Compact(ports)) != 3 {
		t.Error(ports)
	}
}

// Large requests, which anybody may send, are few at once.
func TestLargeRequestsAreBounded(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	large := d.server.running().strangers.large
	for range maxLarge {
		large.take("")
	}
	body := bytes.Repeat([]byte(" "), smallBody)
	d.send(http.MethodPost, "/api/v1/getHealthStatus", "", body).fails(http.StatusServiceUnavailable, "busy")
	d.send(http.MethodPost, "/api/v1/getHealthStatus", "", body[1:]).into(&healthResponse{})
	for range maxLarge {
		large.release("")
	}
	d.send(http.MethodPost, "/api/v1/getHealthStatus", "", body).into(&healthResponse{})
	if large.number() != 0 {
		t.Error("room was not made again")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bounded := newBoundedListener(ln, 1, func(netip.Addr) bool { return false }, func(string) {})
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := bounded.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Error("a second connection while there is one")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	first.Close()
	second := <-accepted
	bounded.Close() // while there is no room
	if _, open := <-accepted; open {
		t.Error("accepted after the end")
	}
	second.Close()
}
