package opsapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// typed sends a TypedRequest as it is and returns what comes back.
func (d *desk) typed(body string, headers ...string) map[string]any {
	d.t.Helper()
	a := d.send(http.MethodPost, "/typedrequest", "", []byte(body), headers...)
	if a.status != http.StatusOK {
		d.t.Fatalf("status %d: %s", a.status, a.body)
	}
	var v map[string]any
	if err := json.Unmarshal(a.body, &v); err != nil {
		d.t.Fatalf("%v: %s", err, a.body)
	}
	return v
}

func TestTypedRequest(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.admin()
	text := func(v map[string]any) string {
		e, _ := v["error"].(map[string]any)
		return asText(e["text"])
	}

	v := d.typed(`{"method":"getHealthStatus","request":{},"response":null,"correlation":{"id":"c1","phase":"request"},"localData":{"x":1}}`)
	if c, _ := v["correlation"].(map[string]any); c["id"] != "c1" || c["phase"] != "response" || v["method"] != "getHealthStatus" || v["response"] == nil || v["error"] != nil || v["retry"] != nil {
		t.Errorf("got %v", v)
	}
	// As the reference has it: no request, or data, and no correlation.
	if v = d.typed(`{"method":"getHealthStatus"}`); v["response"] == nil {
		t.Errorf("got %v", v)
	}
	if v = d.typed(`{"method":"getLogs","data":{"level":"info","limit":2,"identity":{"jwt":"` + token + `"}}}`); v["response"] == nil {
		t.Errorf("got %v", v)
	}
	v = d.typed(`{"method":"bogus","request":{}}`)
	if e, _ := v["error"].(map[string]any); text(v) != "There is no available method for this call on the server side" || fmt.Sprint(e["data"]) != "map[]" || v["response"] != nil {
		t.Errorf("got %v", v)
	}

	// Wherever the token is.
	for _, body := range []string{
		`{"method":"getRoutes","request":{"identity":{"jwt":"TOKEN","userId":"x"}}}`,
		`{"method":"getRoutes","request":{"authInfo":{"jwt":"TOKEN"}}}`,
		`{"method":"getRoutes","request":{},"authInfo":{"jwt":"TOKEN"}}`,
		`{"method":"getRoutes","request":{"identity":{"jwt":"TOKEN","more":{"identity":1}}},"authInfo":{"jwt":"x"}}`,
	} {
		if v := d.typed(strings.ReplaceAll(body, "TOKEN", token)); v["response"] == nil {
			t.Errorf("%s: %v", body, v)
		}
		if v := d.typed(strings.ReplaceAll(body, "TOKEN", token[:len(token)-4]+"AAAA")); !strings.Contains(text(v), "sign in again") {
			t.Errorf("%s: %v", body, v)
		}
	}
	if v := d.typed(`{"method":"getRoutes"}`, "Authorization", "Bearer "+token); v["response"] == nil {
		t.Errorf("by the header: %v", v)
	}
	if v := d.typed(`{"method":"getRoutes"}`, "Cookie", cookieName+"="+token); v["response"] == nil {
		t.Errorf("by the cookie: %v", v)
	}

	// Whatever comes, the answer is an envelope.
	for body, want := range map[string]string{
		``: "no TypedRequest", `{`: "no TypedRequest", `[]`: "no TypedRequest", `null`: "no available method", `{"method":7}`: "no TypedRequest",
		`{"method":"getHealthStatus","request":[]}`:                                               "want an object",
		`{"method":"getHealthStatus","request":{"a":1}}`:                                          "a: unknown field",
		`{"method":"getHealthStatus","request":{"a":1,"b":2}}`:                                    "(and 1 more)",
		`{"method":"adminLoginWithUsernameAndPassword","request":{"username":1}}`:                 "username: ",
		`{"method":"adminLoginWithUsernameAndPassword","request":{"username":"\ud800"}}`:          "password: missing",
		`{"method":"adminLoginWithUsernameAndPassword","request":{"username":"a","password":""}}`: "password: missing",
		`{"method":"getHealthStatus","correlation":7}`:                                            "no TypedRequest",
	} {
		if v := d.typed(body); !strings.Contains(text(v), want) || v["response"] != nil {
			t.Errorf("%q: %v, want %s", body, v, want)
		}
	}
	if v := d.typed(`{"method":"` + strings.Repeat("x", maxBody) + `"}`); !strings.Contains(text(v), "larger than") {
		t.Errorf("a large one: %v", v)
	}
	// What was asked does not come back.
	a := d.send(http.MethodPost, "/typedrequest", "", []byte(`{"method":"adminLoginWithUsernameAndPassword","request":{"username":"admin","password":"`+adminPassword+`"}}`))
	if strings.Contains(string(a.body), adminPassword) {
		t.Errorf("the password is in %s", a.body)
	}
}

// client is the npm client in a Node process.
type npmClient struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

// installClient gets the packages from the registry.
func installClient(t *testing.T) (folder string) {
	t.Helper()
	testenv.Need(t, "node", "apt-get install nodejs")
	npm := testenv.Need(t, "npm", "apt-get install npm")
	folder = testenv.Folder(t)
	for _, name := range []string{"package.json", "package-lock.json", "client.mjs"} {
		data, err := os.ReadFile(filepath.Join("testdata", "typedrequest", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = folder
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		testenv.Lacks(t, "npm cannot install the client: %v\n%s", err, out)
	}
	return folder
}

func (d *desk) startClient(folder string) *npmClient {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), "node", "client.mjs", d.base+"/typedrequest")
	cmd.Dir = folder
	cmd.Stderr = d.t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &npmClient{d.t, in, bufio.NewReader(out)}
}

type npmAnswer struct {
	Response json.RawMessage
	Error    *struct {
		Text string
		Data map[string]any
	}
}

func (c *npmClient) call(method string, request object) npmAnswer {
	c.t.Helper()
	line, err := json.Marshal(object{"method": method, "request": request})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		c.t.Fatal(err)
	}
	text, err := c.out.ReadBytes('\n')
	if err != nil {
		c.t.Fatalf("%s: the client is gone: %v", method, err)
	}
	var a npmAnswer
	if err := json.Unmarshal(text, &a); err != nil {
		c.t.Fatalf("%v: %s", err, text)
	}
	return a
}

// conversation is a good request for each method, in an order that works.
func conversation() []struct {
	method  string
	request object
} {
	routes := []object{{"name": "web", "port": 8443, "password": "***"}}
	return []struct {
		method  string
		request object
	}{
		{"verifyIdentity", object{}}, {"refreshIdentity", object{}},
		{"getHealthStatus", object{}}, {"getServerStatistics", object{}}, {"getLimits", object{}}, {"getLogs", object{"level": "info", "limit": 5}},
		{"getSecurityEvents", object{}}, {"checkReputation", object{"address": "192.0.2.1"}}, {"getAuditLog", object{}},
		{"getRoutes", object{}}, {"validateRoutes", object{"routes": routes}}, {"updateRoutes", object{"routes": routes, "confirmWithinSeconds": 3600}},
		{"confirmConfiguration", object{"version": 2}}, {"getConfiguration", object{}},
		{"validateConfiguration", object{"configuration": object{"greeting": "hi"}}},
		{"updateConfiguration", object{"configuration": object{"greeting": "hi"}, "confirmWithinSeconds": 3600}},
		{"revertConfiguration", object{"version": 3}}, {"rollbackConfiguration", object{"version": 1}},
		{"getConfigurationHistory", object{}}, {"getConfigurationDiff", object{}},
		{"getEmailQueue", object{"state": "queued"}}, {"getEmailMessage", object{"id": "m1"}}, {"retryEmail", object{"id": "m1"}},
		{"releaseEmail", object{"id": "m2"}}, {"quarantineEmail", object{"id": "m1", "reason": "odd"}}, {"dropEmail", object{"id": "m1"}},
		{"addSuppression", object{"address": "a@example.com"}}, {"getSuppressions", object{}}, {"removeSuppression", object{"address": "a@example.com"}},
		{"addBlock", object{"address": "192.0.2.1", "reason": "spam", "seconds": 60}}, {"getBlocks", object{}}, {"removeBlock", object{"address": "192.0.2.1"}},
		{"getEmailDomains", object{}}, {"getDnsZones", object{}}, {"getDnsRecords", object{"zone": "example.com"}},
		{"updateDnsRecords", object{"set": []object{{"name": "a.example.com", "type": "A", "value": "192.0.2.1", "ttl": 60}}}},
		{"getCertificates", object{}}, {"renewCertificate", object{"name": "example.com"}},
		{"getRadiusSessions", object{}}, {"getRadiusClients", object{}}, {"disconnectRadiusSession", object{"key": "k1"}},
		{"adminLogout", object{}},
	}
}

// The unmodified client of the protocol calls every method, with success, with
// an error, and with a retry.
func TestNPMClient(t *testing.T) {
	if testing.Short() {
		t.Skip("it installs packages")
	}
	folder := installClient(t)
	d := openDesk(t, newHost(), nil)
	d.server.busyTime = 10 * time.Millisecond
	c := d.startClient(folder)

	login := object{"username": "admin", "password": adminPassword}
	var in struct{ Identity map[string]any }
	if err := json.Unmarshal(c.call("adminLoginWithUsernameAndPassword", login).Response, &in); err != nil || asText(in.Identity["jwt"]) == "" {
		t.Fatalf("signed in as %v, %v", in, err)
	}
	if a := c.call("adminLoginWithUsernameAndPassword", object{"username": "admin", "password": "wrong"}); a.Error == nil || a.Error.Text != "wrong username or password" || a.Error.Data["code"] != CodeUnauthenticated {
		t.Errorf("a wrong password: %+v", a)
	}
	if a := c.call("bogus", object{}); a.Error == nil || a.Error.Text != "There is no available method for this call on the server side" {
		t.Errorf("an unknown method: %+v", a)
	}
	called := map[string]bool{"adminLoginWithUsernameAndPassword": true}
	for _, step := range conversation() {
		called[step.method] = true
		step.request["identity"] = in.Identity
		broken := object{"identity": in.Identity, "unknownField": 1}
		if a := c.call(step.method, broken); a.Error == nil || a.Error.Data["code"] != CodeInvalid || !strings.Contains(a.Error.Text, "unknownField: unknown field") {
			t.Errorf("%s with an unknown field: %+v", step.method, a)
		}
		if d.server.methods.byName[step.method].role > RolePublic {
			if a := c.call(step.method, object{}); a.Error == nil || a.Error.Data["code"] != CodeUnauthenticated {
				t.Errorf("%s without an identity: %+v", step.method, a)
			}
		}
		retried := d.busyUntilRetried(func() {
			if a := c.call(step.method, step.request); a.Error != nil || string(a.Response) == "null" {
				t.Errorf("%s: %+v", step.method, a.Error)
			}
		})
		if !retried {
			t.Errorf("%s was not asked to come again", step.method)
		}
	}
	for _, m := range d.server.methods.list() {
		if !called[m.name] {
			t.Errorf("%s is not called", m.name)
		}
	}
}

// busyUntilRetried runs f while the server has all it can do, until it has sent
// somebody away to come again. It reports whether it has.
func (d *desk) busyUntilRetried(f func()) bool {
	r := d.server.running()
	for range cap(r.slots) {
		r.slots <- struct{}{}
	}
	before := r.refused.Load()
	done, freed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(freed)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ended := false; !ended && r.refused.Load() == before; {
			select {
			case <-tick.C:
			case <-done:
				ended = true
			}
		}
		for range cap(r.slots) {
			<-r.slots
		}
	}()
	f()
	close(done)
	<-freed
	return r.refused.Load() > before
}

func TestConversationIsComplete(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	var names []string
	for _, m := range d.server.methods.list() {
		names = append(names, m.name)
	}
	for _, step := range conversation() {
		names = slices.DeleteFunc(names, func(n string) bool { return n == step.method })
	}
	if !slices.Equal(names, []string{"adminLoginWithUsernameAndPassword"}) {
		t.Errorf("not in the conversation: %v", names)
	}
}

func FuzzTypedRequest(f *testing.F) {
	s, err := New(Config{Admin: Admin{"admin", adminPassword}})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		`{"method":"getLogs","request":{"level":"info","limit":2},"response":null,"correlation":{"id":"1","phase":"request"}}`,
		`{"method":"updateConfiguration","data":{"configuration":{"a":[1,{"b":null}]},"identity":{"jwt":"x"},"comment":"a"}}`,
		`{"method":"updateRoutes","request":{"routes":[],"routes":[],"identity":1}}`,
		`{"method":"getLogs","request":{"since":"2026-01-01T00:00:00Z","limit":1e3}}`,
		`{"method":"updateDnsRecords","request":{"set":[{"name":"a","ttl":-1}],"add":{}}}`,
		`{"method":7}`, `[]`, `{"authInfo":{"jwt":"a"}}`, "\xff", `{"method":"a","correlation":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, _, err := readEnvelope(body)
		if err == nil {
			if m := s.methods.byName[e.Method]; m != nil {
				req := newRequest(m)
				err = decodeRequest(e.Request, req)
			}
		}
		var back map[string]any
		if out := e.answer(err); json.Unmarshal(out, &back) != nil {
			t.Errorf("answered %s", out)
		}
	})
}

// newRequest makes an empty request of a method.
func newRequest(m *method) any { return reflect.New(m.request).Interface() }
