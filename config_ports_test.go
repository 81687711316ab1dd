package dcrouter_test

import (
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
)

func TestPortClashes(t *testing.T) {
	section := map[string]string{ // beginnings of sections, to be completed
		"proxy": `"smartProxyConfig":{"routes":[{"match":{"ports":[8000,{"from":8100,"to":8200}]},"action":` + okAction + `}]`,
		"off":   `"smartProxyConfig":{"routes":[{"enabled":false,"match":{"ports":25},"action":` + okAction + `}]`,
		"udp":   `"smartProxyConfig":{"routes":[{"match":{"ports":1812,"protocol":"udp"},"action":{"type":"forward","targets":{"host":"a","port":1}}}]`,
		"mail":  `"emailConfig":{"hostname":"a.b","ports":[25,8150]`,
		"ops":   `"opsServerConfig":{` + okAdmin,
		"dns":   `"dnsServerConfig":{"port":1812`,
		"rad":   `"radiusConfig":{"secret":"s"`,
	}
	join := func(parts ...string) string {
		for i, part := range parts {
			name, more, _ := strings.Cut(part, " ")
			if begin, ok := section[name]; ok {
				parts[i] = begin + more + "}"
			}
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	tests := []struct {
		name, config string
		want         []string
	}{
		{"nothing in common", join("proxy", "ops"), nil},
		{"mail and proxy", join("mail", "proxy"), []string{"emailConfig.ports[1]: tcp port 8150 is that of smartProxyConfig.routes[0].match.ports[1] already"}},
		{"mail through the proxy", join(`mail ,"useSocketHandler":true`, "proxy"), nil},
		{"mail through the proxy and ops", join(`mail ,"useSocketHandler":true`, `ops ,"port":25`), []string{"opsServerConfig.port: tcp port 25 is that of emailConfig.ports[0] already"}},
		{"route out of service", join("mail", "off"), nil},
		{"ops and proxy", join("proxy", `ops ,"port":8000`), []string{"opsServerConfig.port: tcp port 8000 is that of smartProxyConfig.routes[0].match.ports[0] already"}},
		{"ops elsewhere", join(`proxy ,"listenHost":"127.0.0.2"`, `ops ,"port":8000`), nil},
		{"ops beside all others", join(`"listenHost":"127.0.0.2"`, "proxy", `ops ,"port":8000`), nil},
		{"ops with all others", join(`"listenHost":"127.0.0.1"`, "proxy", `ops ,"port":8000`), []string{"opsServerConfig.port: tcp port 8000"}},
		{"all others nowhere", `{"listenHost":"here"}`, []string{"listenHost: "}},
		{"ops on the same address", join(`proxy ,"listenHost":"::ffff:127.0.0.1"`, `ops ,"port":8000`), []string{"opsServerConfig.port: tcp port 8000"}},
		{"ops on localhost", join(`proxy ,"listenHost":"127.0.0.1"`, `ops ,"port":8000,"listenHost":"localhost"`), []string{"opsServerConfig.port: tcp port 8000"}},
		{"ops everywhere", join(`proxy ,"listenHost":"127.0.0.2"`, `ops ,"port":8000,"listenHost":"0.0.0.0"`), []string{"opsServerConfig.port: tcp port 8000"}},
		{"default port of ops", join(`mail`, `"opsServerConfig":{"admin":{"username":"a","password":"p"}}`, `"dnsServerConfig":{"port":3000}`), []string{"opsServerConfig.port: tcp port 3000 is that of dnsServerConfig.port already"}},
		{"DNS and RADIUS", join("dns", "rad"), []string{"radiusConfig.port: udp port 1812 is that of dnsServerConfig.port already"}},
		{"RADIUS and a route for datagrams", join("udp", "rad"), []string{"radiusConfig.port: udp port 1812 is that of smartProxyConfig.routes[0].match.ports[0] already"}},
		{"DNS of its own accord", join(`"dnsDomain":"dns.a.b"`, `ops ,"port":53`), []string{"opsServerConfig.port: tcp port 53 is that of dnsDomain already"}},
		{"DNS over HTTPS and proxy", join("proxy", `"dnsServerConfig":{"doh":{"port":8000}}`), []string{"dnsServerConfig.doh.port: tcp port 8000 is that of smartProxyConfig.routes[0].match.ports[0] already"}},
		{"DNS for its name", join(`"dnsNsDomains":"ns.a.b"`, `"radiusConfig":{"secret":"s","accountingPort":53}`), []string{"radiusConfig.accountingPort: udp port 53 is that of dnsNsDomains already"}},
		{"RadSec and ops", join(`rad ,"radSec":{"certificate":"auto","clientCaPath":"ca.pem"}`, `ops ,"port":2083`), []string{"opsServerConfig.port: tcp port 2083 is that of radiusConfig.radSec.port already"}},
		{"TCP and UDP", join(`"dnsServerConfig":{"port":0}`, `"radiusConfig":{"secret":"s","port":3000}`, "ops"), nil},
		{"any free ports", join(`"dnsServerConfig":{"port":0}`, `rad ,"port":0,"accountingPort":0`, `ops ,"port":0`, `"emailConfig":{"hostname":"a.b","ports":[0,0]}`), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := dcrouter.LoadConfig(strings.NewReader(test.config))
			checkErrors(t, err, test.want)
		})
	}
}

// All sections listen at the address for all, but one that has its own, and the
// operations API, which is for its own machine.
func TestListenHost(t *testing.T) {
	cfg, err := dcrouter.LoadConfig(strings.NewReader(`{
		"listenHost": "127.0.0.2",
		"smartProxyConfig": {"routes": [{"match": {"ports": [0]}, "action": {"type": "redirect", "redirect": {"to": "https://{host}"}}}]},
		"emailConfig": {"hostname": "mx.example.com", "ports": [0]},
		"dnsServerConfig": {"port": 0, "zones": [{"name": "example.com"}]},
		"radiusConfig": {"port": 0, "accountingPort": 0, "secret": "a long shared secret", "listenHost": "127.0.0.3"},
		"opsServerConfig": {"port": 0, "admin": {"username": "admin", "password": "wonderland"}}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, addrs := range startRouter(t, dcrouter.WithConfig(cfg)).Addrs() {
		want := "127.0.0.2:"
		switch name {
		case "radius":
			want = "127.0.0.3:"
		case "ops":
			want = "127.0.0.1:"
		}
		for _, addr := range addrs {
			if !strings.HasPrefix(addr, want) {
				t.Errorf("%s listens on %s", name, addr)
			}
		}
		if len(addrs) == 0 {
			t.Errorf("%s listens nowhere", name)
		}
	}
}
