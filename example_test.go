package dcrouter_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// A host program embeds the gateway and changes its routes while it runs.
func Example() {
	hello := func(text string) []proxy.Route {
		return []proxy.Route{{
			Name:  "hello",
			Match: proxy.Match{Ports: proxy.Ports(0)}, // any free port
			Action: proxy.Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, text)
			})},
		}}
	}
	r, err := dcrouter.New(dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: hello("one")}))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := r.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer r.Stop(ctx)

	get := func() {
		resp, err := http.Get("http://" + r.Addrs()["proxy"][0])
		if err != nil {
			fmt.Println(err)
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		fmt.Println(string(body))
	}
	get()
	if err := r.UpdateRoutes(ctx, hello("two")); err != nil {
		fmt.Println(err)
	}
	get()
	// Output:
	// one
	// two
}

// All mistakes in a file come back at once, each with the path of its field.
func ExampleLoadConfig() {
	_, err := dcrouter.LoadConfig(strings.NewReader(`{
		"smartProxyConfig": {"routes": [{
			"name": "web",
			"match": {"ports": 80, "domain": "example.com"},
			"action": {"type": "forward", "targets": [{"host": "10.0.0.1", "port": 70000}]}
		}]}
	}`))
	for _, e := range dcrouter.FieldErrors(err) {
		fmt.Println(e)
	}
	// Output:
	// smartProxyConfig.routes[0].match.domain: unknown field, did you mean "domains"?
	// smartProxyConfig.routes[0].action.targets[0].port: 70000 is not a port (1-65535)
}

// Certificates come by themselves. Here they are made locally, for development;
// with ACME{Email: ..., UseProduction: true} they come from Let's Encrypt.
func ExampleNew_certificates() {
	route := proxy.Route{
		Name:  "web",
		Match: proxy.Match{Ports: proxy.Ports(0), Domains: []string{"dev.example"}},
		Action: proxy.Action{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello over TLS") }),
			TLS:     &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}},
		},
	}
	r, err := dcrouter.New(dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route}, ACME: &proxy.ACME{LocalCA: true}}))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := r.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer r.Stop(ctx)

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.LocalCARoot())
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "dev.example"}}
	req, _ := http.NewRequest(http.MethodGet, "https://"+r.Addrs()["proxy"][0], nil)
	req.Host = "dev.example"
	resp, err := transport.RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	// Output: hello over TLS
}

// The configuration comes from a file, and what cannot be in one from the host:
// here who may use the network.
func ExampleWithRADIUSOptions() {
	config, err := dcrouter.LoadConfig(strings.NewReader(`{
		"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0, "secret": "a long shared secret"}
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	staff := func(_ context.Context, r *radius.Request) (radius.Decision, error) {
		return radius.Decision{Accept: r.UserName == "alice" && r.CheckPassword("wonderland")}, nil
	}
	r, err := dcrouter.New(dcrouter.WithConfig(config), dcrouter.WithRADIUSOptions(radius.WithAuthorizer(staff)))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := r.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer r.Stop(ctx)

	request := layeh.New(layeh.CodeAccessRequest, []byte("a long shared secret"))
	rfc2865.UserName_SetString(request, "alice")
	rfc2865.UserPassword_SetString(request, "wonderland")
	answer, err := layeh.Exchange(ctx, request, r.RADIUS().Addrs()[0].String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.Code)
	// Output: Access-Accept
}
