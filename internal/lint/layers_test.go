package lint

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A layer is a set of packages with the same rights.
type layer int

const (
	unknown  layer = iota
	leaf           // internal/*: the standard library and other leaves
	store          // storage, sockets: leaves
	protocol       // proxy, email, ...: leaves, storage, own third parties, never each other
	ops            // opsapi: leaves and storage
	router         // the root: all of the above
	example        // examples/*: the root and all above
	support        // what only tests import
)

// thirdParty says which modules a part of the tree may import directly; the
// others none. A new line here is a decision: every host program pays for it.
var thirdParty = map[string][]string{
	"proxy": {
		"github.com/gaissmai/bart", "github.com/klauspost/compress", "github.com/pires/go-proxyproto",
		"github.com/quic-go/quic-go", "golang.org/x/net", "golang.org/x/sys", "golang.org/x/time",
	},
	"email": {
		"github.com/emersion/go-message", "github.com/emersion/go-msgauth", "github.com/emersion/go-sasl", "github.com/emersion/go-smtp",
		"github.com/miekg/dns", "github.com/xdg-go/scram", "github.com/xdg-go/stringprep", "golang.org/x/crypto", "golang.org/x/net",
		"golang.org/x/text",
	},
	"dnsserver": {
		"github.com/miekg/dns", "github.com/quic-go/quic-go", "golang.org/x/net", "golang.org/x/sys",
	},
	"radius": {"layeh.com/radius"},
	"internal/certs": {
		"github.com/caddyserver/certmagic", "github.com/libdns/cloudflare", "github.com/libdns/libdns",
		"github.com/mholt/acmez/v3", "go.uber.org/zap", "golang.org/x/crypto", "golang.org/x/net",
	},
	"internal/nonblock":    {"golang.org/x/sys"},
	"internal/proxyheader": {"github.com/pires/go-proxyproto"},
	"opsapi":               {"golang.org/x/crypto"},
	"":                     {"github.com/libdns/libdns", "github.com/prometheus/client_golang", "github.com/prometheus/client_model"},
}

// place finds the layer of a package by its folder, and the part of the tree
// it belongs to: parts of one layer keep apart, packages of one part do not.
func place(rel string) (layer, string) {
	top, rest, _ := strings.Cut(rel, "/")
	switch top {
	case "":
		return router, ""
	case "storage", "sockets":
		return store, top
	case "proxy", "email", "dnsserver", "radius":
		return protocol, top
	case "opsapi":
		return ops, top
	case "examples":
		return example, rel
	case "internal":
		switch name, _, _ := strings.Cut(rest, "/"); name {
		case "certs":
			return protocol, "internal/certs"
		case "testenv", "lint":
			return support, rel
		default:
			return leaf, rel
		}
	}
	return unknown, rel
}

// isTestSupport knows packages for the tests of others, as net/http/httptest
// is, by their name's end.
func isTestSupport(path string) bool { return strings.HasSuffix(path, "test") }

// mayImport lists the layers below each layer.
var mayImport = map[layer][]layer{
	leaf:     {leaf},
	store:    {leaf},
	protocol: {leaf, store},
	ops:      {leaf, store},
	router:   {leaf, store, protocol, ops},
	example:  {leaf, store, protocol, ops, router},
}

// checkLayers looks at direct imports only: as every layer's rule holds for
// what it imports in turn, that is enough, and names the line to change.
func checkLayers(all map[string]*pkg) (problems []string) {
	for _, p := range all {
		rel, ours := p.rel()
		if !ours {
			continue
		}
		from, part := place(rel)
		if from == unknown {
			problems = append(problems, fmt.Sprintf("%s is in no layer: give it a place in layers_test.go", p.ImportPath))
			continue
		}
		for _, path := range p.Imports {
			if to, ours := relPath(path); ours {
				if isTestSupport(path) && !isTestSupport(p.ImportPath) {
					problems = append(problems, fmt.Sprintf("%s may not import %s: only tests do", p.ImportPath, path))
					continue
				}
				toLayer, toPart := place(to)
				if part != toPart && !slices.Contains(mayImport[from], toLayer) {
					problems = append(problems, fmt.Sprintf("%s may not import %s: see the layers in CONTRIBUTING.md", p.ImportPath, path))
				}
				continue
			}
			dep := all[path]
			if dep == nil || dep.Standard || path == "C" || path == "unsafe" {
				continue
			}
			mod := path // unresolved
			if dep.Module != nil {
				mod = dep.Module.Path
			}
			if !slices.Contains(thirdParty[part], mod) {
				problems = append(problems, fmt.Sprintf("%s may not import %s: %s is not in thirdParty[%q] of layers_test.go", p.ImportPath, path, mod, part))
			}
		}
	}
	return problems
}

func TestLayers(t *testing.T) {
	var problems []string
	for _, goos := range []string{"linux", "darwin", "windows"} {
		all, err := packages(root(t), goos)
		if err != nil {
			t.Fatal(err)
		}
		problems = append(problems, checkLayers(all)...)
	}
	report(t, problems)
}

func TestLayersReportsViolations(t *testing.T) {
	// file: what it imports
	imports := map[string][]string{
		// Allowed.
		"dcrouter":             {"proxy", "email", "opsapi", "storage", "internal/certs", "internal/glob"},
		"examples/gateway/x":   {"", "proxy", "email"},
		"proxy/internal/tls/x": {"internal/glob"},
		"proxy/x":              {"storage", "proxy/internal/tls", "github.com/gaissmai/bart"},
		"internal/glob/x":      {"internal/netx"},
		"internal/netx/x":      {"net/http"},
		"storage/x":            {"internal/glob", "os"},
		"email/x":              {},

		"storage/storagetest/x": {"storage", "testing"},
		"opsapi/x":              {"storage"},
		"internal/certs/x":      {"storage"},
		"internal/testenv/x":    {"testing"},
		"proxy/x_test":          {"internal/testenv", "email"}, // tests may
		// Not allowed.
		"internal/bad1/x":   {"storage"},
		"internal/bad2/x":   {"github.com/gaissmai/bart"},
		"storage/bad/x":     {"proxy"},
		"email/bad/x":       {"proxy", "github.com/gaissmai/bart"},
		"proxy/bad_windows": {"radius"},
		"radius/x":          {"internal/certs"},
		"internal/certs/y":  {"dnsserver"},
		"dnsserver/x":       {"opsapi"},
		"opsapi/y":          {"proxy"},
		"opsapi/z":          {"internal/testenv"},
		"dnsserver/y":       {""},
		"storage/bad2/x":    {"storage/storagetest"},
		"cmd/x":             {"proxy"},
	}
	files := map[string]string{
		"go.mod": "module " + module + "\n\ngo 1.26\n\nrequire github.com/gaissmai/bart v0.0.0\n\nreplace github.com/gaissmai/bart => ./testdata/bart\n",

		"testdata/bart/go.mod":  "module github.com/gaissmai/bart\n",
		"testdata/bart/bart.go": "package bart\n",
	}
	for name, paths := range imports {
		text := "package x\n"
		for _, p := range paths {
			if first, _, _ := strings.Cut(p, "/"); !strings.Contains(first, ".") && !slices.Contains([]string{"net", "os", "testing"}, first) {
				p = strings.TrimSuffix(module+"/"+p, "/")
			}
			text += fmt.Sprintf("import _ %q\n", p)
		}
		files[name+".go"] = text
	}
	dir := writeTree(t, files)
	all, err := packages(dir, "linux")
	if err != nil {
		t.Fatal(err)
	}
	problems := checkLayers(all)
	const m = module
	want := []string{
		m + "/internal/bad1 may not import " + m + "/storage:",
		m + "/internal/bad2 may not import github.com/gaissmai/bart:",
		m + "/storage/bad may not import " + m + "/proxy:",
		m + "/email/bad may not import " + m + "/proxy:",
		m + "/email/bad may not import github.com/gaissmai/bart:",
		m + "/radius may not import " + m + "/internal/certs:",
		m + "/internal/certs may not import " + m + "/dnsserver:",
		m + "/dnsserver may not import " + m + "/opsapi:",
		m + "/opsapi may not import " + m + "/proxy:",
		m + "/opsapi may not import " + m + "/internal/testenv:",
		m + "/dnsserver may not import " + m + ":",
		m + "/storage/bad2 may not import " + m + "/storage/storagetest: only tests do",
		m + "/cmd is in no layer",
	}
	wantProblems(t, problems, want...)
	if all, err = packages(dir, "windows"); err != nil {
		t.Fatal(err)
	}
	wantProblems(t, checkLayers(all), append(want, m+"/proxy may not import "+m+"/radius:")...)
}
