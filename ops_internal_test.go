package dcrouter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

// However many scrape at once, metrics are collected a few times a second, each
// form of them for itself.
func TestScrapesShareWhatIsCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var collected atomic.Int64
		h := &metricsHandler{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", r.Header.Get("Accept-Encoding"))
			fmt.Fprintf(w, "collected %d", collected.Add(1))
		})}
		scrape := func(encoding string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			r.Header.Set("Accept-Encoding", encoding)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		var wait sync.WaitGroup
		for range 100 {
			wait.Go(func() { scrape("gzip") })
		}
		wait.Wait()
		if w := scrape("gzip"); w.Body.String() != "collected 1" || w.Header().Get("Content-Encoding") != "gzip" {
			t.Errorf("got %q %v", w.Body, w.Header())
		}
		if w := scrape("identity"); w.Body.String() != "collected 2" || w.Header().Get("Content-Encoding") != "identity" {
			t.Errorf("got %q %v", w.Body, w.Header())
		}
		time.Sleep(metricsAge)
		if w := scrape("gzip"); w.Body.String() != "collected 3" {
			t.Errorf("got %q", w.Body)
		}
		for i := range 100 {
			scrape(fmt.Sprint(i))
		}
		if len(h.forms) > maxMetricsForms {
			t.Errorf("%d forms are kept", len(h.forms))
		}
	})
}

// lateStorage is one that takes longer for routes of mail than the client has
// patience.
type lateStorage struct {
	storage.Backend
	giveUp context.CancelFunc
}

func (l *lateStorage) Put(ctx context.Context, key string, value []byte) error {
	if l.giveUp != nil && strings.HasPrefix(key, "email/routes") {
		l.giveUp()
		return errors.New("timeout")
	}
	return l.Backend.Put(ctx, key, value)
}

// A configuration that fails half way because its time is over is taken back all
// the same.
func TestHalfAConfigurationIsTakenBack(t *testing.T) {
	route := func(name string, port int) proxy.Route {
		return proxy.Route{Name: name, Match: proxy.Match{Ports: proxy.Ports(port)},
			Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{{Host: "127.0.0.1", Port: 1}}}}
	}
	mail := email.Route{Match: email.Match{Recipients: []string{"*@example.com"}},
		Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "no"}}}
	backend := &lateStorage{Backend: storage.Memory()}
	r, err := New(WithStorage(struct{ storage.Backend }{backend}),
		WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route("web", testenv.FreePort(t))}}),
		WithEmail(email.Config{ListenHost: "127.0.0.1", Ports: []email.Port{{Port: 0}}, Hostname: "mx.example.com",
			Domains: []email.Domain{{Domain: "example.com"}}, Routes: []email.Route{mail}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.Stop(context.Background())

	o := &opsConfiguration{router: r}
	next := o.live()
	next.Proxy = &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route("other", testenv.FreePort(t))}}
	other := *next.Email
	other.Routes = []email.Route{mail, mail}
	other.Routes[1].Match.Recipients = []string{"*@other.example.com"}
	next.Email = &other
	doc, err := conf.Encode(next, true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	backend.giveUp = cancel
	if err := o.Apply(ctx, doc); err == nil || strings.Contains(err.Error(), "smartProxyConfig") {
		t.Errorf("got %v", err)
	}
	if routes := r.Routes(); len(routes) != 1 || routes[0].Name != "web" {
		t.Errorf("the routes are %v", routes)
	}
}

// Code of routes that are gone is remembered within bounds, that of before the longest
// goes first; what is in force stays.
func TestRouteCodeIsBounded(t *testing.T) {
	route := func(name string) proxy.Route {
		return proxy.Route{Name: name, Match: proxy.Match{Ports: proxy.Ports(8080), Path: "/" + name}, Action: proxy.Action{Handler: http.NotFoundHandler()}}
	}
	r, err := New(WithProxy(proxy.Config{Routes: []proxy.Route{route("stays"), route("first")}}))
	if err != nil {
		t.Fatal(err)
	}
	o := &opsConfiguration{router: r}
	o.learnCode()
	for i := range maxRouteCode + 1 {
		if err := r.UpdateRoutes(t.Context(), []proxy.Route{route("stays"), route(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
		o.learnCode()
	}
	_, first := o.code["first"]
	if _, stays := o.code["stays"]; len(o.code) != maxRouteCode+2 || !stays || first {
		t.Errorf("%d are remembered; the first: %t, the one in force: %t", len(o.code), first, stays)
	}
}

// A flood of events does not push out those of another kind.
func TestShownEventsAreBounded(t *testing.T) {
	var s shownEvents
	now, shown := time.Now(), 0
	for n := range 100_000 {
		if s.first("flood", netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), now) {
			shown++
		}
	}
	a := netip.MustParseAddr("192.0.2.1")
	if shown != maxShown || !s.first("other", a, now) || s.first("other", a, now) || !s.first("other", a, now.Add(time.Minute)) {
		t.Errorf("%d are shown", shown)
	}
}

// A change of the suppression list is stored when the client is told of it.
func TestSuppressionsAreStoredBeforeTheAnswer(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	server, err := email.New(email.Config{ListenHost: "127.0.0.1", Ports: []email.Port{{Port: 0}}, Hostname: "mx.example.com",
		Domains: []email.Domain{{Domain: "example.com"}},
		Routes: []email.Route{{Match: email.Match{Recipients: []string{"*@example.com"}},
			Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "no"}}}}}, email.WithStorage(store))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer server.Stop(context.Background())
	stored := func() bool {
		t.Helper()
		l, err := email.NewSuppressionList(t.Context(), email.WithStorage(store)) // as after a crash
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close(context.Background())
		_, found := l.Check("ann@example.net")
		return found
	}
	o := opsSuppression{server}
	if err := o.Suppress(t.Context(), opsapi.Suppressed{Address: "ann@example.net"}); err != nil || !stored() {
		t.Errorf("added: %v, stored %v", err, stored())
	}
	if err := o.Unsuppress(t.Context(), "ann@example.net"); err != nil || stored() {
		t.Errorf("removed: %v, stored %v", err, stored())
	}
	if err := o.Unsuppress(t.Context(), "ann@example.net"); !errors.Is(err, opsapi.ErrNotFound) {
		t.Error(err)
	}
}
