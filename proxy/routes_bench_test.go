package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// manyRoutes are sets of routes that grow in one way each, with requests that
// each go to another one of them.
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
			return Match{Domains: []string{"one.test"}, Path: path}, to("one.test", path)
		},
		"prefixes": func(i int) (Match, query) {
			path := fmt.Sprintf("/app/v1/item%d/", i)
			return Match{Domains: []string{"one.test"}, Path: path + "*"}, to("one.test", path+"x/y")
		},
		"begins": func(i int) (Match, query) {
			path := fmt.Sprintf("/item%d", i)
			return Match{Domains: []string{"one.test"}, Path: path + "*"}, to("one.test", path+"/x/y")
		},
		"anywhere": func(i int) (Match, query) {
			path := fmt.Sprintf("/item%d/", i)
			return Match{Path: path + "*"}, to("one.test", path+"x/y")
		},
	}
	names := []string{"hosts", "wildcards", "paths", "prefixes", "begins", "anywhere"}
	shapes["mixture"] = func(i int) (Match, query) { return shapes[names[i%len(names)]](i) }
	return shapes
}

var manySizes = []int{10, 1000, 100_000}

func manyTable(t testing.TB, n int, shape func(i int) (Match, query)) (*table, []query) {
	routes, queries := make([]Route, n), make([]query, n)
	for i := range routes {
		routes[i] = Route{Name: fmt.Sprint(i), Action: forwardTo(Target{Host: "127.0.0.1", Port: 1})}
		routes[i].Match, queries[i] = shape(i)
		routes[i].Match.Ports = Ports(80)
	}
	a, err := newProxy(t, Config{}).assemble(cloneRoutes(routes))
	if err != nil {
		t.Fatal(err)
	}
	return a.table, queries
}

// quickest returns what one lookup takes, undisturbed: the best of many short
// rounds.
func quickest(table *table, queries []query) time.Duration {
	p, best := table.ports[80], time.Hour
	for range 300 {
		begin := time.Now()
		for range 10 {
			for i := range queries {
				p.plain.find(&queries[i], httpTraffic)
			}
		}
		best = min(best, time.Since(begin)/time.Duration(len(queries)*10))
	}
	return best
}

func TestQuick(t *testing.T) {
	for name, shape := range manyRoutes() {
		var l []time.Duration
		for _, n := range manySizes {
			table, queries := manyTable(t, n, shape)
			var some []query
			for i := range 10 {
				some = append(some, queries[i*(n/10)])
			}
			l = append(l, quickest(table, some))
		}
		t.Log(name, l)
	}
}

func BenchmarkLookup(b *testing.B) {
	for name, shape := range manyRoutes() {
		for _, n := range manySizes {
			table, queries := manyTable(b, n, shape)
			p := table.ports[80]
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if p.plain.find(&queries[i%n], httpTraffic) == nil {
						b.Fatal("not found")
					}
				}
			})
		}
	}
}

func BenchmarkUpdateRoutes(b *testing.B) {
	const n = 10_000
	for name, shape := range manyRoutes() {
		for _, targets := range []int{1, n} {
			b.Run(fmt.Sprintf("%s/targets=%d", name, targets), func(b *testing.B) {
				b.ReportAllocs()
				p := newProxy(b, Config{})
				if err := p.Start(b.Context()); err != nil {
					b.Fatal(err)
				}
				var sets [2][]Route
				for k := range sets {
					sets[k] = make([]Route, n)
					for i := range sets[k] {
						r := &sets[k][i]
						r.Action = forwardTo(Target{Host: fmt.Sprintf("10.0.%d.%d", i%targets/256, i%targets%256), Port: 1 + k})
						r.Match, _ = shape(i)
						r.Match.Ports = Ports(0)
					}
				}
				for i := 0; b.Loop(); i++ {
					if err := p.UpdateRoutes(b.Context(), sets[i%2]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
