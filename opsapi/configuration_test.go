package opsapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// current returns what getConfiguration says.
func (d *desk) current(token string) configurationResponse {
	d.t.Helper()
	var r configurationResponse
	d.post(token, "getConfiguration", object{}).into(&r)
	return r
}

// greet makes a change.
func (d *desk) greet(token, word string, more object) answer {
	d.t.Helper()
	request := object{"configuration": object{"greeting": word, "apiToken": "***"}}
	for k, v := range more {
		request[k] = v
	}
	return d.post(token, "updateConfiguration", request)
}

func TestUpdateConfiguration(t *testing.T) {
	testenv.Goroutines(t)
	h := newHost()
	d := openDesk(t, h, nil)
	token := d.admin()
	first := d.current(token)
	if first.Version != 1 || first.Author != hostAuthor || strings.Contains(string(first.Configuration), secretToken) {
		t.Errorf("begins with %+v %s", first, first.Configuration)
	}

	var applied Applied
	d.greet(token, "hello", object{"ifMatch": first.Hash, "comment": "say hello"}).into(&applied)
	if applied.Version != 2 || len(applied.Changes) != 2 || h.greeting() != "hello" {
		t.Errorf("applied %+v", applied)
	}
	if h.config.APIToken.Reveal() != secretToken {
		t.Error("*** did not keep the secret")
	}
	// The same again is no change.
	d.greet(token, "hello", nil).into(&applied)
	if applied.Version != 2 || h.applied != 1 {
		t.Errorf("applied %+v, %d times", applied, h.applied)
	}

	// Somebody else's change is not lost.
	data := d.greet(token, "lost", object{"ifMatch": first.Hash}).fails(http.StatusPreconditionFailed, CodeConflict)
	if data["version"] != 2.0 || data["hash"] != applied.Hash {
		t.Errorf("conflict says %v", data)
	}
	a := d.post(token, "updateConfiguration", object{"configuration": object{"greeting": "lost"}}, "If-Match", fmt.Sprintf("%q", first.Hash))
	a.fails(http.StatusPreconditionFailed, CodeConflict)
	if tag := d.post(token, "getConfiguration", object{}).header.Get("ETag"); tag != `"`+applied.Hash+`"` {
		t.Errorf("ETag %s", tag)
	}

	// A broken one changes nothing and names the fields.
	data = d.post(token, "updateConfiguration", object{"configuration": object{"greting": "x", "proxy": object{"routes": []object{{"name": "a", "port": 70000}}}}}).
		fails(http.StatusBadRequest, CodeInvalid)
	if text := fmt.Sprint(data["fields"]); !strings.Contains(text, "path:greting") || !strings.Contains(text, "did you mean") {
		t.Errorf("fields: %v", text)
	}
	data = d.post(token, "updateConfiguration", object{"configuration": object{"proxy": object{"routes": []object{{"name": "a", "port": 70000}}}}}).
		fails(http.StatusBadRequest, CodeInvalid)
	if text := fmt.Sprint(data["fields"]); !strings.Contains(text, "path:proxy.routes[0].port") {
		t.Errorf("fields: %v", text)
	}
	for _, bad := range []object{{}, {"configuration": nil}, {"configuration": 7}, {"configuration": []int{}}, {"configuration": object{}, "confirmWithinSeconds": 1}, {"configuration": object{}, "comment": "a\x00"}} {
		d.post(token, "updateConfiguration", bad).fails(http.StatusBadRequest, CodeInvalid)
	}
	if h.greeting() != "hello" || d.current(token).Version != 2 {
		t.Error("a broken configuration changed something")
	}

	// What cannot be applied leaves no version.
	h.fail(errors.New("the port is in use"))
	a = d.greet(token, "fails", nil)
	a.fails(http.StatusInternalServerError, CodeFailed)
	h.fail(nil)
	if now := d.current(token); now.Version != 2 || !strings.Contains(string(a.body), "the port is in use") {
		t.Errorf("version %d after %s", now.Version, a.body)
	}

	// What would change, without changing it.
	var v validateResponse
	d.post(token, "validateConfiguration", object{"configuration": object{"greeting": "hi"}}).into(&v)
	if !v.Valid || len(v.Changes) != 2 || h.greeting() != "hello" {
		t.Errorf("validated %+v", v)
	}
	d.post(token, "validateConfiguration", object{"configuration": object{"apiToken": "***", "x": 1}}).into(&v)
	if v.Valid || len(v.Problems) != 1 || v.Problems[0].Path != "x" {
		t.Errorf("validated %+v", v)
	}
}

func TestHistory(t *testing.T) {
	h := newHost()
	d := openDesk(t, h, nil)
	token := d.admin()
	for i := range 4 {
		d.greet(token, fmt.Sprintf("greeting %d", i), object{"comment": "because"}).into(&Applied{})
	}
	h.set(func(c *hostConfig) { c.Greeting, c.APIToken = "the host's", "another s3cret" })
	var list historyResponse
	d.post(token, "getConfigurationHistory", object{"limit": 3}).into(&list)
	if len(list.Versions) != 3 || !list.More || list.Versions[0].Version != 6 || list.Versions[0].Author != hostAuthor ||
		list.Versions[0].State != "current" || list.Versions[1].Author != "admin" || list.Versions[1].Comment != "because" || list.Versions[1].State != "past" {
		t.Errorf("history %+v", list)
	}
	d.post(token, "getConfigurationHistory", object{"before": 4}).into(&list)
	if len(list.Versions) != 3 || list.More {
		t.Errorf("history %+v", list)
	}
	var diff diffResponse
	d.post(token, "getConfigurationDiff", object{}).into(&diff)
	text, _ := json.Marshal(diff.Changes)
	if want := `[{"op":"replace","path":"apiToken","before":"***","after":"***"},{"op":"replace","path":"greeting","before":"greeting 3","after":"the host's"}]`; diff.From != 5 || diff.To != 6 || string(text) != want {
		t.Errorf("diff %d-%d %s", diff.From, diff.To, text)
	}
	d.post(token, "getConfigurationDiff", object{"from": 77}).fails(http.StatusNotFound, CodeNotFound)

	var applied Applied
	d.post(token, "rollbackConfiguration", object{"version": 1}).into(&applied)
	if applied.Version != 7 || h.greeting() != "" || h.config.APIToken.Reveal() != secretToken || len(h.config.Proxy.Routes) != 2 {
		t.Errorf("rolled back to %+v, %v", applied, h.config)
	}
	if one := d.current(token); one.Comment != "back to version 1" {
		t.Errorf("the comment is %q", one.Comment)
	}
	d.post(token, "rollbackConfiguration", object{"version": 99}).fails(http.StatusNotFound, CodeNotFound)
	var old configurationResponse
	d.post(token, "getConfiguration", object{"version": 2}).into(&old)
	if !strings.Contains(string(old.Configuration), "greeting 0") {
		t.Errorf("version 2 is %s", old.Configuration)
	}
	var audit auditResponse
	d.post(token, "getAuditLog", object{"search": "updateConfiguration"}).into(&audit)
	if len(audit.Entries) != 4 || audit.Entries[0].Detail != "version 5, 1 changes" || audit.Entries[0].User != "admin" || audit.Entries[0].Role != "admin" {
		t.Errorf("audit %+v", audit)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	h := newHost()
	store := openStore(t)
	d := openDesk(t, h, store)
	ctx := t.Context()
	history := d.server.running().history
	for i := range maxVersions + 10 {
		h.set(func(c *hostConfig) { c.Greeting = fmt.Sprint(i) })
		if _, err := history.get(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	stored := 0
	for _, err := range store.List(ctx, versionPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		stored++
	}
	if stored != maxVersions || len(history.v.list) != maxVersions || history.v.next() != maxVersions+12 {
		t.Errorf("%d versions stored, %d listed, the next is %d", stored, len(history.v.list), history.v.next())
	}
}

func TestRoutes(t *testing.T) {
	h := newHost()
	d := openDesk(t, h, nil)
	token := d.signIn("otto", otherPassword)
	var routes struct {
		Routes  []map[string]any
		Hash    string
		Version int
	}
	d.post(token, "getRoutes", object{}).into(&routes)
	if len(routes.Routes) != 2 || routes.Routes[0]["password"] != "***" {
		t.Fatalf("routes %+v", routes)
	}
	routes.Routes[0]["port"] = 70000
	var v validateResponse
	d.post(token, "validateRoutes", object{"routes": routes.Routes}).into(&v)
	if v.Valid || len(v.Problems) != 1 || v.Problems[0].Path != "routes[0].port" {
		t.Errorf("validated %+v", v)
	}
	data := d.post(token, "updateRoutes", object{"routes": routes.Routes}).fails(http.StatusBadRequest, CodeInvalid)
	if text := fmt.Sprint(data["fields"]); !strings.Contains(text, "path:routes[0].port") {
		t.Errorf("fields %s", text)
	}
	routes.Routes[0]["port"] = 8443
	var applied Applied
	d.post(token, "updateRoutes", object{"routes": routes.Routes, "ifMatch": routes.Hash}).into(&applied)
	if len(applied.Changes) != 1 || applied.Changes[0].Path != "routes[0].port" {
		t.Errorf("applied %+v", applied)
	}
	if r := h.config.Proxy.Routes[0]; r.Port != 8443 || r.Password.Reveal() != secretRoute || h.config.APIToken.Reveal() != secretToken {
		t.Errorf("the host has %v", h.config)
	}
	for _, bad := range []any{nil, 7, "x", object{"name": 1}, []int{1}} {
		d.post(token, "updateRoutes", object{"routes": bad, "ifMatch": "x"}).fails(http.StatusPreconditionFailed, CodeConflict)
	}
	d.post(token, "updateRoutes", object{"routes": []int{1}}).fails(http.StatusBadRequest, CodeInvalid)
	d.post(token, "updateRoutes", object{}).fails(http.StatusBadRequest, CodeInvalid)
	if len(h.config.Proxy.Routes) != 2 {
		t.Error("the routes are gone")
	}
	d.post(token, "updateRoutes", object{"routes": []int{}}).into(&applied)
	d.post(token, "getRoutes", object{}).into(&routes)
	if routes.Routes == nil || len(routes.Routes) != 0 {
		t.Errorf("routes %+v", routes)
	}
}

// openHistory makes a history without a server around it.
func openHistory(t *testing.T, h Configuration, store *storage.Store) *history {
	t.Helper()
	x := &history{source: h, log: slog.New(slog.DiscardHandler), now: time.Now, key: []byte("k"), v: versionStore{store: store}, publish: func(configurationEvent) {}}
	if err := x.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.start(context.Background())
	return x
}

func greetChange(h *host, word string, within time.Duration) change {
	return change{author: "ann", confirmWithin: within, build: func(ctx context.Context, current json.RawMessage) (json.RawMessage, error) {
		return h.Parse(ctx, json.RawMessage(`{"apiToken":"***","greeting":"`+word+`"}`), current)
	}}
}

func TestCommitConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		store := openStore(t)
		x := openHistory(t, h, store)
		ctx := t.Context()
		pend := func(word string) int {
			t.Helper()
			applied, err := x.apply(ctx, greetChange(h, word, time.Minute))
			if err != nil || h.greeting() != word || !applied.ConfirmBy.Equal(time.Now().Add(time.Minute)) {
				t.Fatalf("applied %+v, %v, the host says %q", applied, err, h.greeting())
			}
			return applied.Version
		}

		// Nobody confirms.
		pend("unconfirmed")
		time.Sleep(59 * time.Second)
		if h.greeting() != "unconfirmed" {
			t.Error("taken back too early")
		}
		if _, err := x.apply(ctx, greetChange(h, "second", 0)); clientError(err).Code != CodePending {
			t.Errorf("a second change meanwhile: %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if h.greeting() != "" || len(h.config.Proxy.Routes) != 2 || x.v.state(&x.v.list[1]) != "reverted" || x.v.state(&x.v.list[0]) != "current" {
			t.Errorf("not taken back: %q, %+v", h.greeting(), x.v)
		}

		// Somebody does.
		v := pend("confirmed")
		if _, err := x.confirm(ctx, v+1); !isInvalid(err) {
			t.Errorf("another version is confirmed: %v", err)
		}
		if _, err := x.confirm(ctx, v); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if h.greeting() != "confirmed" {
			t.Error("a confirmed change was taken back")
		}
		if _, err := x.confirm(ctx, v); !isInvalid(err) {
			t.Errorf("confirmed twice: %v", err)
		}

		// Or takes it back at once.
		v = pend("reverted")
		if applied, err := x.revert(ctx, v); err != nil || h.greeting() != "confirmed" || len(applied.Changes) != 1 {
			t.Errorf("reverted %+v, %v, the host says %q", applied, err, h.greeting())
		}

		// The host cannot at first.
		pend("stuck")
		h.fail(errors.New("busy"))
		time.Sleep(2 * time.Minute)
		h.fail(nil)
		time.Sleep(revertAgain + time.Second)
		synctest.Wait()
		if h.greeting() != "confirmed" {
			t.Errorf("the host says %q", h.greeting())
		}

		// The host goes its own way: that is not taken back.
		pend("overtaken")
		h.set(func(c *hostConfig) { c.Greeting = "the host's" })
		time.Sleep(time.Hour)
		synctest.Wait()
		if h.greeting() != "the host's" {
			t.Errorf("the host says %q", h.greeting())
		}
		x.close()
	})
}

func TestConfigurationOutlastsRestart(t *testing.T) {
	store := openStore(t)
	ctx := t.Context()
	restart := func(change func(*hostConfig)) (*host, *history) {
		t.Helper()
		h := newHost()
		if change != nil {
			h.set(change)
			h.begin()
		}
		return h, openHistory(t, h, store)
	}
	h, x := restart(nil)
	if _, err := x.apply(ctx, greetChange(h, "changed", 0)); err != nil {
		t.Fatal(err)
	}
	x.close()

	h, x = restart(nil)
	if h.greeting() != "changed" || h.config.APIToken.Reveal() != secretToken {
		t.Errorf("after a restart the host says %q", h.greeting())
	}
	// A change that waits is not there after a restart.
	if _, err := x.apply(ctx, greetChange(h, "unconfirmed", time.Hour)); err != nil {
		t.Fatal(err)
	}
	x.close()
	h, x = restart(nil)
	if h.greeting() != "changed" || x.v.head.pending() || x.v.state(&x.v.list[2]) != "reverted" {
		t.Errorf("after a restart the host says %q, %+v", h.greeting(), x.v.head)
	}
	x.close()

	// Another configuration of the host wins, and stays.
	for range 2 {
		h, x = restart(func(c *hostConfig) { c.Greeting = "edited" })
		if h.greeting() != "edited" {
			t.Errorf("after an edit the host says %q", h.greeting())
		}
		x.close()
	}
	if n := len(x.v.list); n != 4 {
		t.Errorf("%d versions", n)
	}

	// What the host does while it runs it does again, or not.
	h, x = restart(func(c *hostConfig) { c.Greeting = "edited" })
	h.set(func(c *hostConfig) { c.Greeting = "for now" })
	if _, err := x.get(ctx, 0); err != nil {
		t.Fatal(err)
	}
	x.close()
	h, x = restart(func(c *hostConfig) { c.Greeting = "edited" })
	if h.greeting() != "edited" || x.v.list[len(x.v.list)-1].Author != hostAuthor {
		t.Errorf("after a restart the host says %q", h.greeting())
	}

	// What cannot be brought back does not keep the host from starting.
	if _, err := x.apply(ctx, greetChange(h, "impossible", 0)); err != nil {
		t.Fatal(err)
	}
	h = newHost()
	h.config.Greeting = "edited"
	h.begin()
	h.fail(errors.New("the port is in use"))
	x = openHistory(t, h, store)
	if h.greeting() != "edited" || x.v.head.Current != 8 {
		t.Errorf("the host says %q, %+v", h.greeting(), x.v.head)
	}
}

// A host that keeps by itself what was applied, as parts of a Router do, goes on with
// what the history says all the same.
func TestWhatWasNotFinishedIsTakenBack(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		confirmed string // by the API before, or ""
		within    time.Duration
		crash     bool   // before the change was noted as the one in force
		given     string // what the host says by itself at the next start
		want      string
	}{
		"waits":                          {within: time.Hour},
		"waits after another":            {confirmed: "ann's", within: time.Hour, want: "ann's"},
		"crash":                          {crash: true},
		"crash after another":            {confirmed: "ann's", crash: true, want: "ann's"},
		"other configuration":            {given: "edited", want: "edited"},
		"waits, and other configuration": {confirmed: "ann's", within: time.Hour, given: "edited", want: "edited"},
	} {
		t.Run(name, func(t *testing.T) {
			store, h := openStore(t), newHost()
			x := openHistory(t, h, store)
			if c.confirmed != "" {
				if _, err := x.apply(ctx, greetChange(h, c.confirmed, 0)); err != nil {
					t.Fatal(err)
				}
			}
			head := x.v.head
			applied, err := x.apply(ctx, greetChange(h, "last", c.within))
			if err != nil {
				t.Fatal(err)
			}
			if c.crash {
				if err := x.v.setHead(ctx, head); err != nil {
					t.Fatal(err)
				}
			}
			x.close()
			if c.given != "" {
				other := newHost()
				other.config.Greeting = c.given
				other.begin()
				h.given = other.given
			}
			for range 2 {
				x = openHistory(t, h, store)
				undone, ok := x.v.find(applied.Version)
				if h.greeting() != c.want || x.v.head.pending() || !ok || undone.Reverted != (c.within > 0 || c.crash) {
					t.Errorf("the host says %q, want %q; %+v", h.greeting(), c.want, x.v)
				}
				x.close()
			}
		})
	}
}

// stalled is a storage that answers no more, from one key on.
type stalled struct {
	storage.Backend
	key string
}

// openStalled opens a storage on one that does not stall yet.
func openStalled(t *testing.T) (*stalled, *storage.Store) {
	t.Helper()
	s := &stalled{Backend: storage.Memory()}
	store, err := storage.Open(t.Context(), struct{ storage.Backend }{s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return s, store
}

func (s *stalled) Put(ctx context.Context, key string, value []byte) error {
	if s.key != "" && key == s.key {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Backend.Put(ctx, key, value)
}

// impatient is a host that does nothing when the time is over.
type impatient struct{ *host }

func (i impatient) Apply(ctx context.Context, doc json.RawMessage) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return i.host.Apply(ctx, doc)
}

// That the host's configuration takes the place of one that was changed through
// the API is said where that is so, and only there.
func TestOnlyChangesThroughTheAPIAreReplaced(t *testing.T) {
	const said = "replaces the one changed through the API"
	store, h := openStore(t), newHost()
	var log bytes.Buffer
	restart := func(change func(*desk)) string {
		log.Reset()
		d := openDesk(t, h, store, WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if change != nil {
			change(d)
		}
		d.stop()
		return log.String()
	}
	other := func(greeting string) {
		h.set(func(c *hostConfig) { c.Greeting = greeting })
		h.begin()
	}
	restart(nil)
	other("one")
	if text := restart(nil); strings.Contains(text, said) {
		t.Errorf("the API has changed nothing:\n%s", text)
	}
	restart(func(d *desk) { d.greet(d.admin(), "hello", object{}).into(&nothing{}) })
	other("two")
	if text := restart(nil); !strings.Contains(text, said) || h.greeting() != "two" {
		t.Errorf("the API has changed something:\n%s", text)
	}
	other("three")
	if text := restart(nil); strings.Contains(text, said) {
		t.Errorf("what was changed through the API is gone by now:\n%s", text)
	}
}

// A change whose time is over before it is stored is taken back all the same.
func TestChangeThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend, store := openStalled(t)
		h := newHost()
		x := openHistory(t, h, store)
		x.source = impatient{h}
		backend.key = headKey
		if _, err := x.apply(t.Context(), greetChange(h, "lost", 0)); err == nil {
			t.Error("it was stored")
		}
		backend.key = ""
		if _, err := x.get(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if h.greeting() != "" || len(x.v.list) != 1 {
			t.Errorf("the change is in force: %q, %+v", h.greeting(), x.v)
		}
		x.close()
	})
}

// What was not confirmed goes also where the version of before cannot be brought
// back: then the host's configuration is in force.
func TestUnconfirmedChangeGoesWithoutTheConfirmed(t *testing.T) {
	store, h := openStore(t), newHost()
	x := openHistory(t, h, store)
	if _, err := x.apply(t.Context(), greetChange(h, "confirmed", 0)); err != nil {
		t.Fatal(err)
	}
	pending, err := x.apply(t.Context(), greetChange(h, "pending", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	x.close()
	y := &history{source: forgetful{h}, log: x.log, now: x.now, key: x.key, v: versionStore{store: store}, publish: x.publish, over: x.over}
	if err := y.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	undone, _ := y.v.find(pending.Version)
	current, _ := y.v.find(y.v.head.Current)
	if h.greeting() != "" || !undone.Reverted || y.v.head.pending() || current.Author != hostAuthor || !strings.Contains(current.Comment, "version 2") {
		t.Errorf("the host says %q; %+v", h.greeting(), y.v)
	}
	y.close()
}

// forgetful is a host that lacks what its confirmed configuration needs.
type forgetful struct{ *host }

func (f forgetful) Apply(ctx context.Context, doc json.RawMessage) error {
	if strings.Contains(string(doc), "confirmed") {
		return errors.New("a file is gone")
	}
	return f.host.Apply(ctx, doc)
}

// openDisk opens a storage that takes nothing more while full is set.
func openDisk(t *testing.T) (full *atomic.Bool, store *storage.Store) {
	t.Helper()
	full = new(atomic.Bool)
	backend := storage.Memory()
	store, err := storage.Open(t.Context(), storage.Funcs(backend.Get, func(ctx context.Context, key string, value []byte) error {
		if full.Load() {
			return errors.New("no space left on device")
		}
		return backend.Put(ctx, key, value)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return full, store
}

// A full disk does not keep a host from starting.
func TestStartOnAFullDisk(t *testing.T) {
	full, store := openDisk(t)
	h, clock := newHost(), testenv.NewClock(time.Now())
	open := func() *desk { return openDesk(t, h, store, WithClock(clock.Now)) }
	d := open()
	d.greet(d.admin(), "hello", nil).into(&Applied{})
	d.greet(d.admin(), "unconfirmed", object{"confirmWithinSeconds": 3600}).into(&Applied{})
	d.stop()
	clock.Advance(sessionLife + time.Minute) // there are sessions to remove

	full.Store(true)
	for range 2 {
		d = open()
		if h.greeting() != "hello" {
			t.Errorf("the host says %q", h.greeting())
		}
		d.stop()
	}
	h.set(func(c *hostConfig) { c.Greeting = "edited" })
	h.begin()
	d = open()
	if h.greeting() != "edited" {
		t.Errorf("the host says %q", h.greeting())
	}

	full.Store(false)
	token := d.admin()
	if now := d.current(token); now.Version != 4 || now.Author != hostAuthor || now.Pending != nil {
		t.Errorf("the configuration is %+v", now)
	}
	var applied Applied
	if d.greet(token, "written again", nil).into(&applied); applied.Version != 5 {
		t.Errorf("applied %+v", applied)
	}
	d.stop()
	open()
	if h.greeting() != "written again" {
		t.Errorf("the host says %q", h.greeting())
	}
}

// A storage that fails leaves what was.
func TestChangeThatCannotBeStored(t *testing.T) {
	var broken string
	values := map[string][]byte{}
	backend := storage.Funcs(
		func(_ context.Context, key string) ([]byte, error) { return values[key], nil },
		func(_ context.Context, key string, value []byte) error {
			if broken != "" && strings.HasPrefix(key, broken) {
				return errors.New("the disk is full")
			}
			values[key] = bytes.Clone(value)
			return nil
		})
	store, err := storage.Open(t.Context(), backend)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	h := newHost()
	x := openHistory(t, h, store)
	for _, key := range []string{versionPrefix, headKey} {
		broken = key
		if _, err := x.apply(t.Context(), greetChange(h, "lost", 0)); err == nil || !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("got %v", err)
		}
		broken = ""
		if _, err := x.get(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if h.greeting() != "" || x.v.head.Current != 1 || len(x.v.list) != 1 {
			t.Errorf("the change is in force: %q, %+v", h.greeting(), x.v)
		}
	}
}
