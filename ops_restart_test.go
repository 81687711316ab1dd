package dcrouter_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/storage"
)

// everyLive is a configuration with all that can change while a Router runs.
func everyLive(t *testing.T) dcrouter.Config {
	section := opsSection()
	return dcrouter.Config{
		Ops: &section,
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{{Name: "before", Match: proxy.Match{Ports: proxy.Ports(testenv.FreePort(t))},
			Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://example.com/"}}}}},
		Email: &email.Config{ListenHost: "127.0.0.1", Ports: []email.Port{{Port: 0}}, Hostname: "mx.example.com", Domains: []email.Domain{{Domain: "example.com"}},
			Routes: []email.Route{{Name: "before", Match: email.Match{Recipients: []string{"*@example.com"}},
				Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "no"}}}}},
		RADIUS: &radius.Config{ListenHost: "127.0.0.1", Port: new(int), AccountingPort: new(int), Secret: "hunter2 radius secret",
			Clients: []radius.Client{{Name: "switch", IP: "127.0.0.1", Secret: "hunter2 client secret"}}},
	}
}

// startIn starts a Router that keeps what it has in a folder.
func startIn(t *testing.T, folder string, cfg dcrouter.Config) *dcrouter.Router {
	t.Helper()
	return start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(storage.Dir(folder)))
}

// changeAll changes all of everyLive to something with "changed" in it.
func changeAll(o *operator, confirmWithin int) {
	o.t.Helper()
	var current struct{ Configuration map[string]any }
	o.call("getConfiguration", nil, &current)
	for _, section := range []string{"smartProxyConfig", "emailConfig"} {
		current.Configuration[section].(map[string]any)["routes"].([]any)[0].(map[string]any)["name"] = "changed"
	}
	current.Configuration["radiusConfig"].(map[string]any)["vlanAssignment"] = []any{map[string]any{"match": map[string]any{"mac": "00:11:22:33:44:55"}, "vlanName": "changed"}}
	o.call("updateConfiguration", map[string]any{"configuration": current.Configuration, "confirmWithinSeconds": confirmWithin}, &opsapi.Applied{})
}

// wantChanged wants so many of the three changes in force.
func wantChanged(o *operator, n int) {
	o.t.Helper()
	if body := o.call("getConfiguration", nil, nil); strings.Count(body, "changed") != n {
		o.t.Errorf("want %d changes in %s", n, body)
	}
}

// A change that waits to be confirmed is not in force after a restart, also where a
// subsystem keeps its own part of it.
func TestUnconfirmedChangeDoesNotOutlastRestart(t *testing.T) {
	testenv.Goroutines(t)
	cfg, folder := everyLive(t), t.TempDir()
	r := startIn(t, folder, cfg)
	o := signIn(t, r)
	changeAll(o, 600)
	wantChanged(o, 3)
	stop(t, r)
	again := startIn(t, folder, cfg)
	o = signIn(t, again)
	wantChanged(o, 0)
	var history struct {
		Versions []struct{ Author, State string }
	}
	o.call("getConfigurationHistory", nil, &history)
	if v := history.Versions; len(v) != 2 || v[0].State != "reverted" || v[1].State != "current" {
		t.Errorf("history %+v", history)
	}

	// Nor in the same Router.
	changeAll(o, 600)
	stop(t, again)
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	o = signIn(t, again)
	wantChanged(o, 0)

	// Nor when it takes back what it has handed over.
	changeAll(o, 600)
	if err := again.Handover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	o = signIn(t, again)
	wantChanged(o, 0)
	if len(again.Addrs()["proxy"]) != 1 {
		t.Errorf("the proxy listens on %v", again.Addrs()["proxy"])
	}
	changeAll(o, 0)
	stop(t, again)
	again = startIn(t, folder, cfg)
	wantChanged(signIn(t, again), 3)
}

// Another configuration replaces all that was changed through the API.
func TestNewConfigurationReplacesAllChanges(t *testing.T) {
	cfg, folder := everyLive(t), t.TempDir()
	r := startIn(t, folder, cfg)
	changeAll(signIn(t, r), 0)
	stop(t, r)
	cfg.Proxy.MaxConnections = 100
	r = startIn(t, folder, cfg)
	wantChanged(signIn(t, r), 0)
}

// That holds, and for all of them, where the program has changed something since, of
// which a client may have seen a version or not.
func TestNewConfigurationReplacesChangesBeforeOthers(t *testing.T) {
	for _, seen := range []bool{true, false} {
		cfg, folder := everyLive(t), t.TempDir()
		r := startIn(t, folder, cfg)
		o := signIn(t, r)
		changeAll(o, 0)
		if err := r.UpdateRoutes(t.Context(), cfg.Proxy.Routes); err != nil {
			t.Fatal(err)
		}
		if seen {
			wantChanged(o, 2)
		}
		stop(t, r)
		cfg.Proxy.MaxConnections = 100
		r = startIn(t, folder, cfg)
		wantChanged(signIn(t, r), 0)
	}
}

// Without another configuration all is as it was at the end: what was changed through
// the API, and what the program has changed since.
func TestAllChangesOutlastRestart(t *testing.T) {
	for _, seen := range []bool{true, false} {
		cfg, folder := everyLive(t), t.TempDir()
		r := startIn(t, folder, cfg)
		o := signIn(t, r)
		changeAll(o, 0)
		rules := r.Email().Routes()
		rules[0].Name = "by the program"
		if err := r.UpdateDomainRules(t.Context(), rules); err != nil {
			t.Fatal(err)
		}
		if seen {
			wantChanged(o, 2)
		}
		for range 2 {
			stop(t, r)
			r = startIn(t, folder, cfg)
			wantChanged(signIn(t, r), 2)
			if name := r.Email().Routes()[0].Name; name != "by the program" {
				t.Errorf("the route of mail is %q", name)
			}
		}
		stop(t, r)
	}
}

// watchedStorage calls a func before a key is read.
type watchedStorage struct {
	storage.Backend
	reading func(key string)
}

func (w *watchedStorage) Get(ctx context.Context, key string) ([]byte, error) {
	w.reading(key)
	return w.Backend.Get(ctx, key)
}

// What was closed through the API is not open at any moment of a start.
func TestClosedRouteIsNotOpenAtTheStart(t *testing.T) {
	port := testenv.FreePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	var open atomic.Bool
	backend := &watchedStorage{Backend: storage.Memory(), reading: func(key string) {
		if !strings.HasPrefix(key, "ops/configuration/") {
			return
		}
		if conn, err := net.DialTimeout("tcp", addr, 10*time.Second); err == nil {
			conn.Close()
			open.Store(true)
		}
	}}
	route := proxy.Route{Name: "web", Match: proxy.Match{Ports: proxy.Ports(port)}, Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://example.com/"}}}
	section := proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route}}
	r := start(t, dcrouter.WithStorage(backend), dcrouter.WithProxy(section), dcrouter.WithOps(opsSection()))
	route.Action.Security.IPBlockList = []string{"0.0.0.0/0"}
	signIn(t, r).call("updateRoutes", map[string]any{"routes": []proxy.Route{route}}, nil)
	stop(t, r)
	open.Store(false)
	r = start(t, dcrouter.WithStorage(backend), dcrouter.WithProxy(section), dcrouter.WithOps(opsSection()))
	if open.Load() {
		t.Error("the proxy serves before it has the routes that are in force")
	}
	if routes := r.Routes(); len(routes) != 1 || len(routes[0].Action.Security.IPBlockList) != 1 {
		t.Errorf("the routes are %v", routes)
	}
}

// Nor does anybody get mail through, or into the network, by what nobody confirmed.
func TestUnconfirmedChangeServesNobodyAtTheStart(t *testing.T) {
	cfg := everyLive(t)
	cfg.Email.Ports[0].Port, *cfg.RADIUS.Port = testenv.FreePort(t), testenv.FreePort(t)
	mail, network := fmt.Sprintf("127.0.0.1:%d", cfg.Email.Ports[0].Port), fmt.Sprintf("127.0.0.1:%d", *cfg.RADIUS.Port)
	var restarts, serves atomic.Bool
	backend := &watchedStorage{Backend: storage.Memory(), reading: func(key string) {
		if !restarts.Load() || !strings.HasPrefix(key, "ops/configuration/") {
			return
		}
		ln, errMail := net.Listen("tcp", mail)
		conn, errNetwork := net.ListenPacket("udp", network)
		if errMail != nil || errNetwork != nil {
			serves.Store(true)
		}
		if errMail == nil {
			ln.Close()
		}
		if errNetwork == nil {
			conn.Close()
		}
	}}
	r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend))
	changeAll(signIn(t, r), 600)
	stop(t, r)
	restarts.Store(true)
	r = start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend))
	restarts.Store(false)
	if serves.Load() {
		t.Error("mail or RADIUS is served before the change is taken back")
	}
	wantChanged(signIn(t, r), 0)
}

// Nor does it stay when the operations API is taken away.
func TestUnconfirmedChangeGoesWithTheAPI(t *testing.T) {
	cfg, folder := everyLive(t), t.TempDir()
	r := startIn(t, folder, cfg)
	changeAll(signIn(t, r), 600)
	stop(t, r)
	without := cfg
	without.Ops = nil
	for range 2 {
		r = start(t, dcrouter.WithConfig(without), dcrouter.WithStorage(storage.Dir(folder)))
		if routes, mail, vlans := r.Routes(), r.Email().Routes(), r.RADIUS().Policy().VLANAssignment; routes[0].Name != "before" || mail[0].Name != "before" || len(vlans) != 0 {
			t.Errorf("in force are %v, %v, %v", routes, mail, vlans)
		}
		stop(t, r)
	}
	r = startIn(t, folder, cfg)
	wantChanged(signIn(t, r), 0)
}

// What code changes without the API stays as ever.
func TestChangesByCodeOutlastTheAPI(t *testing.T) {
	cfg, folder := everyLive(t), t.TempDir()
	r := startIn(t, folder, cfg)
	changeAll(signIn(t, r), 0)
	stop(t, r)
	cfg.Ops = nil
	r = startIn(t, folder, cfg)
	rules := r.Email().Routes()
	if rules[0].Name != "before" {
		t.Errorf("the route of mail is %q: with another configuration, that is in force", rules[0].Name)
	}
	rules[0].Name = "by the program"
	if err := r.UpdateDomainRules(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		stop(t, r)
		r = startIn(t, folder, cfg)
		if name := r.Email().Routes()[0].Name; name != "by the program" {
			t.Errorf("the route of mail is %q", name)
		}
	}
}

// Routes that cannot be served any more do not keep those of the host from it.
func TestRoutesThatCannotBeBroughtBack(t *testing.T) {
	folder, port := t.TempDir(), testenv.FreePort(t)
	route := proxy.Route{Name: "web", Match: proxy.Match{Ports: proxy.Ports(port)}, Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://example.com/"}}}
	open := func() *dcrouter.Router {
		return start(t, dcrouter.WithStorage(storage.Dir(folder)), dcrouter.WithOps(opsSection()), dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route}}))
	}
	cert, key, _ := testenv.SelfSigned(t, "www.example.com")
	r := open()
	other := route
	other.Action.TLS = &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{CertPath: cert, KeyPath: key}}
	signIn(t, r).call("updateRoutes", map[string]any{"routes": []proxy.Route{other}}, nil)
	stop(t, r)
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	r = open()
	if routes := r.Routes(); len(routes) != 1 || routes[0].Action.TLS != nil {
		t.Errorf("the routes are %v", routes)
	}
	if body := signIn(t, r).call("getConfigurationHistory", nil, nil); !strings.Contains(body, "version 2 could not be brought back") {
		t.Errorf("history %s", body)
	}
}

// The removal of a route that is code can be taken back, also after a restart.
func TestCodeComesBack(t *testing.T) {
	folder, port := t.TempDir(), testenv.FreePort(t)
	says := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
	}
	match := proxy.Match{Ports: proxy.Ports(port)}
	open := func() (*dcrouter.Router, *operator) {
		code := proxy.Route{Name: "code", Match: match, Action: proxy.Action{Handler: says("code")}}
		r := start(t, dcrouter.WithStorage(storage.Dir(folder)), dcrouter.WithOps(opsSection()), dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{code}}))
		return r, signIn(t, r)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	answers := func(want string) {
		t.Helper()
		if got := get(t, url); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	r, o := open()
	// Another route of that name takes its place, but not its code.
	other := proxy.Route{Name: "code", Match: match, Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{backend(t, "no code")}}}
	var applied opsapi.Applied
	o.call("updateRoutes", map[string]any{"routes": []proxy.Route{other}, "confirmWithinSeconds": 600}, &applied)
	answers("no code")
	o.call("revertConfiguration", map[string]any{"version": applied.Version}, nil)
	answers("code")

	// The latest code of a name is what comes back.
	if err := r.UpdateRoutes(t.Context(), []proxy.Route{{Name: "code", Match: match, Action: proxy.Action{Handler: says("new code")}}}); err != nil {
		t.Fatal(err)
	}
	other.Name = "other"
	o.call("updateRoutes", map[string]any{"routes": []proxy.Route{other}}, nil)
	answers("no code")
	o.call("rollbackConfiguration", map[string]any{"version": 1}, nil)
	answers("new code")

	o.call("updateRoutes", map[string]any{"routes": []proxy.Route{other}}, nil)
	stop(t, r)
	_, o = open()
	answers("no code")
	o.call("rollbackConfiguration", map[string]any{"version": 1}, nil)
	answers("code")
}
