package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// manyRoutes are sets of routes of any size that differ in one way each. Of the
// i-th route they return the match, and a request that it takes.
func manyRoutes() map[string]func(i int) (Match, query) {
	to := func(host, path string) query {
		return query{client: netip.MustParseAddr("127.0.0.1"), http: true, method: http.MethodGet, host: host, path: path, rawHost: host, header: http.Header{}}
	}
	shapes := map[string]func(i int) (Match, query){
		"hosts": func(i int) (Match, query) {
			host := fmt.Sprintf("host%d.test", i)
			return Match{Domains: []string{host}}, to(host, "/index")
		},
		"wildcards": func(i int) (Match, query) {
			host := fmt.Sprintf("host%d.test", i)
			return Match{Domains: []string{"*." + host}}, to("www."+host, "/index")
		},
		"paths": func(i int) (Match, query) {
			path := fmt.Sprintf("/app/v1/item%d/show", i)
			return Match{Domains: []string{"paths.test"}, Path: path}, to("paths.test", path)
		},
		"prefixes": func(i int) (Match, query) {
			path := fmt.Sprintf("/app/v1/item%d/", i)
			return Match{Domains: []string{"paths.test"}, Path: path + "*"}, to("paths.test", path+"x/y")
		},
		"beginnings": func(i int) (Match, query) {
			path := fmt.Sprintf("/item%d", i)
			return Match{Domains: []string{"paths.test"}, Path: path + "*"}, to("paths.test", path+"/x/y")
		},
		"expressions": func(i int) (Match, query) {
			return Match{Domains: []string{"paths.test"}, Path: fmt.Sprintf("~^/code%d/[0-9]+$", i)}, to("paths.test", fmt.Sprintf("/code%d/7", i))
		},
		"anywhere": func(i int) (Match, query) {
			path := fmt.Sprintf("/any%d/", i)
			return Match{Path: path + "*"}, to("other.test", path+"x/y")
		},
	}
	names := slices.Sorted(maps.Keys(shapes))
	shapes["mixture"] = func(i int) (Match, query) { return shapes[names[i%len(names)]](i) }
	return shapes
}

// manyTable compiles n routes of a shape. The requests are for ten of them: for
// many, one would measure the processor's cache.
func manyTable(t testing.TB, n int, shape func(i int) (Match, query)) (*table, []query) {
	t.Helper()
	routes := make([]Route, n)
	var queries []query
	for i := range routes {
		routes[i] = Route{Name: fmt.Sprint(i), Action: forwardTo(Target{Host: "127.0.0.1", Port: 1})}
		var q query
		routes[i].Match, q = shape(i)
		routes[i].Match.Ports = Ports(80)
		if i%(n/10) == 0 {
			queries = append(queries, q)
		}
	}
	a, err := newProxy(t, Config{}).assemble(cloneRoutes(routes))
	if err != nil {
		t.Fatal(err)
	}
	for i := range queries {
		if r := a.table.ports[80].plain.find(&queries[i], httpTraffic); r == nil || r.index != i*(n/10) {
			t.Fatalf("request %d goes to %+v", i, r)
		}
	}
	return a.table, queries
}

// quickest returns the time of one lookup when nothing else disturbs it: that
// of the best of many short rounds.
func quickest(table *table, queries []query) time.Duration {
	const rounds = 10
	index, best, end := &table.ports[80].plain, time.Hour, time.Now().Add(time.Second)
	for n := 0; n < 300 && time.Now().Before(end); n++ {
		begin := time.Now()
		for range rounds {
			for i := range queries {
				index.find(&queries[i], httpTraffic)
			}
		}
		best = min(best, time.Since(begin)/rounds)
	}
	return best
}

func TestLookupTimeIsFlat(t *testing.T) {
	for name, shape := range manyRoutes() {
		few, toFew := manyTable(t, 100, shape)
		many, toMany := manyTable(t, 20_000, shape)
		var a, b time.Duration
		for range 5 { // a busy machine
			if a, b = quickest(few, toFew), quickest(many, toMany); b < 3*a {
				break
			}
		}
		t.Logf("%s: ten lookups take %v among 100, %v among 20000", name, a, b)
		if b >= 3*a {
			t.Errorf("%s: lookups among 20000 routes take %.1f times as long as among 100", name, float64(b)/float64(a))
		}
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	check := func(name string, table *table, queries []query) {
		t.Helper()
		index := &table.ports[80].plain
		if n := testing.AllocsPerRun(100, func() {
			for i := range queries {
				index.find(&queries[i], httpTraffic)
			}
		}); n > 0 && !testenv.Race {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	for name, shape := range manyRoutes() {
		table, queries := manyTable(t, 1000, shape)
		check(name, table, queries)
	}
	table, queries := manyTable(t, 20, func(i int) (Match, query) {
		host := fmt.Sprintf("host%d.test", i)
		m := Match{Domains: []string{host}, Path: "/*/b", Methods: []string{"POST", "GET"}, ClientIP: []string{"192.0.2.0/24", "127.0.0.0/8"},
			Headers: map[string]string{"x-a": "*b", "x-c": "/^[0-9]+$/", "Host": "*.test"}, Query: map[string]string{"q": "1*", "r": "2"}}
		return m, query{client: netip.MustParseAddr("127.0.0.1"), http: true, method: http.MethodGet, host: host, path: "/a/b", rawHost: host,
			rawQuery: "x&q=0&q=12&r=2", header: http.Header{"X-A": {"a", "ab"}, "X-C": {"17"}}}
	})
	check("all conditions", table, queries)
	if n := testing.AllocsPerRun(100, func() {
		for _, s := range []string{"www.example.com", "www.example.com:8443", "192.0.2.1"} {
			if _, ok := canonicalHost(s); !ok {
				t.Error(s)
			}
		}
		for _, s := range []string{"/", "/a/b.html", "/.well-known/a;b/..c"} {
			if _, ok := canonicalPath(s); !ok {
				t.Error(s)
			}
		}
	}); n > 0 {
		t.Errorf("canonical forms: %v allocations", n)
	}
}

// Updates of ten thousand routes and targets disturb nobody.
func TestManyRoutesUnderLoad(t *testing.T) {
	const n = 10_000
	_, target := backend(t, says("ok"))
	routes := make([]Route, n)
	for i := range routes {
		routes[i] = httpRoute(fmt.Sprint(i), 0, fmt.Sprintf("host%d.test", i), Target{Host: fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), Port: 9})
	}
	routes[0].Action.Targets[0], routes[n-1].Action.Targets[0] = target, target
	p := start(t, Config{Routes: routes[:1]})
	web := addr(t, p, 0)

	var requests atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		c := client(t, web, nil)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := getOK(c, "http://host0.test/"); err != nil {
					t.Error(err)
					return
				}
				requests.Add(1)
			}
		})
	}
	defer waitAll(t, &wg)
	defer close(stop)
	c := client(t, web, nil)
	for i := range 8 {
		changed := slices.Clone(routes)
		switch i % 4 {
		case 1: // all of them
			for j := range changed {
				changed[j].Priority = i
			}
		case 2: // one target, and all move
			changed[1].Action.Targets = []Target{{Host: "127.2.0.1", Port: 9}}
			slices.Reverse(changed)
		case 3: // half of them go
			changed = slices.Concat(routes[:n/2], routes[n-1:])
		}
		eventually(t, "requests go on", func() bool { return requests.Swap(0) > 0 || t.Failed() })
		begin := time.Now()
		update(t, p, changed...)
		t.Logf("update %d took %v", i, time.Since(begin))
		if err := getOK(c, fmt.Sprintf("http://host%d.test/", n-1)); err != nil {
			t.Error(err)
		}
	}
	for reason, n := range p.Stats().Refused {
		if n > 0 {
			t.Errorf("%d refused: %s", n, reason)
		}
	}
}

func getOK(c *http.Client, url string) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(body) != "ok" {
		return errors.Join(fmt.Errorf("%s: %s %q", url, resp.Status, body), err)
	}
	return nil
}

// Whatever stays open must not keep the table that was in use when it began: a
// large one for each update.
func TestConnectionsKeepNoTable(t *testing.T) {
	for _, fast := range []bool{true, false} {
		_, web := backend(t, says("ok"))
		_, upgrades := backend(t, upgradeEcho)
		raw := tcpEcho(t)
		routes := []Route{httpRoute("web", 0, "a.test", web), httpRoute("ws", 0, "ws.test", upgrades), streamRoute("raw", testenv.FreePort(t), raw.target())}
		p := start(t, Config{Routes: routes, FastLane: &fast})
		idle := client(t, addr(t, p, 0), nil)
		if err := getOK(idle, "http://a.test/"); err != nil {
			t.Fatal(err)
		}
		ws, stream := dialUpgrade(t, addr(t, p, 0), "ws.test"), dialTCP(t, addr(t, p, routes[2].Match.Ports[0].From))
		mustBounce(t, ws, "before")
		mustBounce(t, stream, "before")
		old := weak.Make(p.latest().table.Load())
		routes[1].Priority++
		update(t, p, routes...)
		eventually(t, "the table goes", func() bool {
			runtime.GC()
			return old.Value() == nil
		})
		mustBounce(t, ws, "after")
		mustBounce(t, stream, "after")
	}
}

// A field that equal does not know would not be changed by an update.
func TestRouteEqual(t *testing.T) {
	whole := everything()
	whole.Action.LoadBalancing.Algorithm = IPHash
	same := *cloneRoute(&whole)
	if !whole.equal(&same) || !same.equal(&whole) || !new(Route).equal(new(Route)) {
		t.Fatal("a copy is not equal")
	}
	changes := 0
	differs := func(path string) {
		t.Helper()
		changes++
		if whole.equal(&same) || same.equal(&whole) {
			t.Errorf("a change of %s makes no difference", path)
		}
	}
	var change func(path string, v reflect.Value)
	change = func(path string, v reflect.Value) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		defer v.Set(old)
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				change(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
			return
		case reflect.Pointer:
			if v.IsNil() {
				t.Fatalf("%s is nil: put something into everything()", path)
			}
			change(path, v.Elem())
			v.SetZero()
		case reflect.Slice:
			if v.Len() == 0 {
				t.Fatalf("%s is empty: put something into everything()", path)
			}
			change(path+"[0]", v.Index(0))
			v.SetLen(0)
		case reflect.Map:
			if v.Len() == 0 {
				t.Fatalf("%s is empty: put something into everything()", path)
			}
			v.Set(reflect.ValueOf(map[string]string{"other": "value"}))
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Float64:
			v.SetFloat(v.Float() + 1)
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Func:
			v.Set(reflect.MakeFunc(v.Type(), func([]reflect.Value) []reflect.Value { return nil }))
		case reflect.Interface:
			switch v.Type() {
			case reflect.TypeFor[http.Handler]():
				v.Set(reflect.ValueOf(http.NotFoundHandler()))
			case reflect.TypeFor[SocketHandler]():
				v.Set(reflect.ValueOf(SocketHandlerFunc(nil)))
			default:
				t.Fatalf("%s: what to put into a %s?", path, v.Type())
			}
		default:
			t.Fatalf("%s: how to change a %s?", path, v.Type())
		}
		differs(path)
	}
	change("Route", reflect.ValueOf(&same).Elem())
	if !whole.equal(&same) {
		t.Error("a change has not been undone")
	}
	if changes < 60 {
		t.Errorf("only %d changes", changes)
	}
	// Handlers cannot be compared, not even with themselves.
	with := Route{Action: Action{Handler: http.NotFoundHandler()}}
	if with.equal(&with) {
		t.Error("routes with handlers are equal")
	}
}

// What an update does not change is not made anew.
func TestUpdateTakesOver(t *testing.T) {
	target := Target{Host: "127.0.0.1", Port: 9}
	routes := []Route{httpRoute("a", 0, "a.test", target), httpRoute("", 0, "b.test", target), httpRoute("c", 0, "c.test", target)}
	p := start(t, Config{Routes: routes})
	balancers := func() (list []*balancer) {
		for _, r := range p.latest().table.Load().routes {
			list = append(list, r.balancer)
		}
		return list
	}
	before := balancers()
	routes[0], routes[2] = routes[2], routes[0]
	update(t, p, routes...)
	if got := balancers(); got[0] != before[2] || got[1] != before[1] || got[2] != before[0] {
		t.Error("routes that only moved were compiled again")
	}
	routes[1].Priority++
	update(t, p, routes...)
	if got := balancers(); got[0] != before[2] || got[1] == before[1] || got[2] != before[0] {
		t.Error("not only the route that has changed was compiled again, or not even that")
	}
}

// What outlives a route's change outlives it also when other updates went
// before, which took the route over as it was.
func TestTakenOverRouteChanges(t *testing.T) {
	cfg := httpRoute("a", 0, "a.test", Target{Host: "127.0.0.1", Port: 9})
	cfg.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{Auto: true}}
	cfg.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1}
	cfg.Action.LoadBalancing.HealthCheck = &HealthCheck{Interval: time.Hour}
	none := WithGetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil })
	p := start(t, Config{Routes: []Route{cfg}}, none)
	compiled := func() *route { return p.latest().table.Load().routes[0] }
	before := compiled()
	for range 3 {
		update(t, p, cfg)
	}
	cfg.Action.Headers.Response.Set = map[string]string{"X-A": "b"}
	update(t, p, cfg)
	after := compiled()
	if after.balancer == before.balancer {
		t.Error("the change was not seen")
	}
	if after.state != before.state || after.policy != before.policy || after.limiter != before.limiter ||
		after.balancer.entries[0].target != before.balancer.entries[0].target || after.balancer.entries[0].health != before.balancer.entries[0].health {
		t.Error("state, policy, limiter, target or health was made anew")
	}
}

// A route that has not changed may name a file that has.
func TestUnchangedRoutesReadTheirFiles(t *testing.T) {
	cert, _, _ := testenv.SelfSigned(t, "a.test")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	root := filepath.Join(t.TempDir(), "root")
	auto := Certificate{Auto: true}
	none := WithGetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil })
	target := Target{Host: "127.0.0.1", Port: 9}
	for field, change := range map[string]func(*Route){
		"action.tls.clientAuth.caPath": func(r *Route) {
			r.Action.TLS = &TLS{Mode: Terminate, Certificate: auto, ClientAuth: &ClientAuth{CAPath: ca}}
		},
		"action.tls.upstream.caPath": func(r *Route) {
			r.Action.TLS = &TLS{Mode: TerminateAndReencrypt, Certificate: auto, Upstream: UpstreamTLS{CAPath: ca}}
		},
		"action.root": func(r *Route) { r.Action = Action{Type: Serve, Root: root} },
	} {
		good, err := os.ReadFile(cert)
		if err == nil {
			err = errors.Join(os.WriteFile(ca, good, 0o600), os.RemoveAll(root))
		}
		if err != nil {
			t.Fatal(err)
		}
		r := httpRoute("a", 0, "a.test", target)
		change(&r)
		p := start(t, Config{Routes: []Route{r}}, none)
		update(t, p, r)
		if err := errors.Join(os.WriteFile(ca, nil, 0o600), os.WriteFile(root, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		wantFields(t, field, p.UpdateRoutes(t.Context(), []Route{r}), "routes[0]."+field+": ")
	}
}

func BenchmarkLookup(b *testing.B) {
	for name, shape := range manyRoutes() {
		for _, n := range []int{10, 1000, 100_000} {
			table, queries := manyTable(b, n, shape)
			index := &table.ports[80].plain
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					index.find(&queries[i%len(queries)], httpTraffic)
				}
			})
		}
	}
}

func BenchmarkUpdateRoutes(b *testing.B) {
	const n = 10_000
	shapes := manyRoutes()
	cert, key, _ := testenv.SelfSigned(b, "*.test")
	shapes["TLS"] = shapes["hosts"]
	for name, shape := range shapes {
		for what, change := range map[string]func(i, j int, r *Route){
			"nothing changes": func(int, int, *Route) {},
			"routes change":   func(i, j int, r *Route) { r.Action.Targets[0].Weight = 1 + j },
			"targets change":  func(i, j int, r *Route) { r.Action.Targets[0].Port = 1 + j },
		} {
			b.Run(name+"/"+what, func(b *testing.B) {
				p := startBare(b, Config{})
				var sets [2][]Route
				for j := range sets {
					sets[j] = make([]Route, n)
					for i := range n {
						r := &sets[j][i]
						r.Match, _ = shape(i)
						r.Match.Ports = Ports(0)
						r.Action = forwardTo(Target{Host: fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), Port: 1})
						if name == "TLS" {
							r.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
						}
						change(i, j, r)
					}
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if err := p.UpdateRoutes(b.Context(), sets[i%2]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
