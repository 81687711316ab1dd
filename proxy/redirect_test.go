package proxy

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// redirectRoute sends requests for a host to a template.
func redirectRoute(host, to string, status int) Route {
	return Route{Name: host, Match: Match{Ports: Ports(0), Domains: []string{host}}, Action: Action{Type: Redirect, Redirect: RedirectTo{To: to, Status: status}}}
}

func TestRedirect(t *testing.T) {
	files, _ := tlsFiles(t, "secure.test")
	routes := []Route{
		redirectRoute("https.test", "https://{host}{uri}", 0),
		redirectRoute("all.test", "{scheme}://x.{host}:{port}{path}#{query}", 301),
		redirectRoute("fixed.test", "https://other.test/fixed?a=b", 302),
		redirectRoute("303.test", "/there", 303),
		redirectRoute("307.test", "https://other.test{path}?was={query}", 307),
		redirectRoute("308.test", "{uri}", 308),
		{Name: "secure", Match: Match{Ports: Ports(0), Domains: []string{"secure.test"}}, Action: Action{Type: Redirect, Redirect: RedirectTo{To: "{scheme}://www.{host}{uri}"}, TLS: files}},
	}
	p := start(t, Config{Routes: routes})
	port := addr(t, p, 0)[strings.LastIndex(addr(t, p, 0), ":")+1:]
	for _, test := range []struct {
		method, host, target string
		status               int
		location             string
	}{
		{"GET", "https.test", "/", 308, "https://https.test/"},
		{"GET", "https.test:80", "/a/b?c=d&e", 308, "https://https.test/a/b?c=d&e"},
		{"POST", "https.test", "/form", 308, "https://https.test/form"},
		{"HEAD", "https.test", "/h", 308, "https://https.test/h"},
		{"GET", "https.test", "/a%20b%2Fc?x=%zz;y", 308, "https://https.test/a%20b%2Fc?x=%zz;y"},
		{"GET", "https.test", "/a?", 308, "https://https.test/a?"},
		{"GET", "https.test", "//x/y", 308, "https://https.test//x/y"},
		{"GET", "all.test:81", "/p?q=1", 301, "http://x.all.test:81/p#q=1"},
		{"GET", "all.test", "/p", 301, "http://x.all.test:" + port + "/p#"},
		{"GET", "fixed.test", "/x?y", 302, "https://other.test/fixed?a=b"},
		{"GET", "303.test", "/x", 303, "/there"},
		{"GET", "307.test", "/p?q", 307, "https://other.test/p?was=q"},
		{"GET", "308.test", "/x?y", 308, "/x?y"},
		{"GET", "https.test", "/%0d%0aX-Evil:%201", 308, "https://https.test/%0d%0aX-Evil:%201"},
	} {
		got := wireTalk(t, addr(t, p, 0), fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", test.method, test.target, test.host))
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), &http.Request{Method: test.method})
		if err != nil {
			t.Fatalf("%s %s: %q, %v", test.host, test.target, got, err)
		}
		if resp.StatusCode != test.status || resp.Header.Get("Location") != test.location {
			t.Errorf("%s %s: %d to %q, want %d to %q", test.host, test.target, resp.StatusCode, resp.Header.Get("Location"), test.status, test.location)
		}
	}
	if got := client(t, addr(t, p, 0), nil); got != nil {
		req, _ := http.NewRequest("GET", "https://secure.test/x?y", nil)
		got.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
		resp, err := got.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 308 || resp.Header.Get("Location") != "https://www.secure.test/x?y" || resp.ProtoMajor != 2 {
			t.Errorf("over TLS: %s %d to %q", resp.Proto, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

// A link to us must not lead elsewhere by what its path is.
func TestRedirectStaysHere(t *testing.T) {
	p := start(t, Config{Routes: []Route{
		redirectRoute("uri.test", "{uri}", 0), redirectRoute("path.test", "{path}", 0), redirectRoute("slash.test", "/{path}", 0), redirectRoute("fixed.test", "https://fixed.test{uri}", 0),
		redirectRoute("host.test", "https://{host}{uri}", 0),
	}})
	for _, host := range []string{"uri.test", "path.test", "slash.test", "fixed.test", "host.test"} {
		for _, target := range []string{"//evil.test", "//evil.test/x", "///evil.test", `/\evil.test`, `/\/evil.test`, `//\evil.test`, "/%2Fevil.test", "/%5Cevil.test", `\\evil.test`, "/.evil.test", "/@evil.test", "http://" + host + "//evil.test/", "http://" + host, "/;//evil.test", "/%09/evil.test"} {
			got := wireReply(t, addr(t, p, 0), "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
			for _, location := range headerValues(got, "Location") {
				// Browsers take a backslash for a slash.
				u, err := url.Parse(strings.ReplaceAll(location, `\`, "/"))
				if err != nil || u.Host != "" && u.Host != host || u.User != nil || strings.HasPrefix(strings.ReplaceAll(location, `\`, "/"), "//") {
					t.Errorf("%s on %s redirects to %q", target, host, location)
				}
			}
		}
	}
	// Without a host there is nowhere to redirect to: "https:///evil.test" would
	// be another site.
	for _, send := range []string{"GET /evil.test HTTP/1.0\r\n\r\n", "GET /evil.test HTTP/1.1\r\nHost:\r\n\r\n", "GET /evil.test HTTP/1.1\r\nHost: :80\r\n\r\n"} {
		p := start(t, Config{Routes: []Route{{Name: "any", Match: Match{Ports: Ports(0)}, Action: Action{Type: Redirect, Redirect: RedirectTo{To: "https://{host}{uri}"}}}}})
		got := wireReply(t, addr(t, p, 0), send)
		if l := headerValues(got, "Location"); wireStatus(got) != 400 {
			t.Errorf("%q: %d to %q, want 400", send, wireStatus(got), l)
		}
	}
}
