package radius

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/conf/conftest"
)

func TestReferenceConfigs(t *testing.T) {
	conftest.Reference[Config](t, "radiusConfig", "radius-basic", "radius-mab", "radius-vlan", "enterprise")
}

func TestDecoded(t *testing.T) {
	var c Config
	err := json.Unmarshal([]byte(`{"port":0,"secret":"s","clients":{"ip":"10.0.0.0/8","requireMessageAuthenticator":true},
		"macAuth":{"allowedMacs":"aa*","guestVlan":9},"vlanAssignment":[{"match":{"mac":"bb*"},"vlan":1},{"match":{"default":true},"vlan":2}]}`), &c)
	want := Config{Port: new(0), Secret: "s", Clients: []Client{{IP: "10.0.0.0/8", RequireMessageAuthenticator: new(true)}},
		MACAuth:        &MACAuth{AllowedMACs: []string{"aa*"}, GuestVLAN: 9},
		VLANAssignment: []VLANRule{{Match: VLANMatch{MAC: "bb*"}, VLAN: 1}, {Match: VLANMatch{Default: true}, VLAN: 2}}}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, %v", c, err)
	}
	shown, err := json.Marshal(Config{Secret: "hunter2", Clients: []Client{{IP: "::1", Secret: "hunter2"}}})
	if want := `{"secret":"***","clients":[{"ip":"::1","secret":"***"}]}`; err != nil || string(shown) != want {
		t.Errorf("got %s, %v", shown, err)
	}
}

func TestValidate(t *testing.T) {
	tests := []conftest.Case{
		{"nothing", `{}`, `secret: missing: give one here, or clients with their own`},
		{"clients with their own", `{"clients":[{"ip":"::1","secret":"a"}]}`, ``},
		{"client without", `{"clients":[{"ip":"::1","secret":"a"},{"ip":"::2"}]}`, `clients[1].secret: missing: give one here, or one for all clients`},
		{"redacted", `{"secret":"***","clients":[{"ip":"::1","secret":"***"}]}`,
			"secret: *** is what is shown in place of a secret: give its value\nclients[0].secret: *** is what is shown in place of a secret: give its value"},
		{"weak", `{"secret":"short","allowWeakSecret":false,"clients":[{"ip":"::1","secret":"0123456789abcdef"},{"ip":"::2","secret":"0123456789abcde"}]}`,
			"secret: 5 octets are too few, the least is 16\nclients[1].secret: 15 octets are too few, the least is 16"},
		{"weak but allowed", `{"secret":"short","allowWeakSecret":true}`, ``},
		{"host", `{"secret":"s","listenHost":"all"}`, `listenHost: "all" is not an IP address`},
		{"ports", `{"secret":"s","port":70000,"accountingPort":-1}`,
			"port: 70000 is not a port (1-65535, or 0 for any free one)\naccountingPort: -1 is not a port (1-65535, or 0 for any free one)"},
		{"one port", `{"secret":"s","port":1813}`, `accountingPort: 1813 is that of port already`},
		{"any ports", `{"secret":"s","port":0,"accountingPort":0}`, ``},
		{"address", `{"secret":"s","clients":[{"ip":"10.0.0.0/33"},{}]}`,
			"clients[0].ip: \"10.0.0.0/33\" is not an IP address or CIDR block\nclients[1].ip: \"\" is not an IP address or CIDR block"},
		{"address twice", `{"secret":"s","clients":[{"ip":"10.0.0.1"},{"ip":"10.0.0.2"},{"ip":"10.0.0.1/32"}]}`,
			`clients[2].ip: "10.0.0.1/32" is that of clients[0] already`},
		{"block twice", `{"secret":"s","clients":[{"ip":"10.0.0.0/8"},{"ip":"10.1.2.3/8"}]}`, `clients[1].ip: "10.0.0.0/8" is that of clients[0] already`},
		{"name twice", `{"secret":"s","clients":[{"name":"a","ip":"::1"},{"name":"a","ip":"::2"}]}`, `clients[1].name: "a" is that of clients[0] already`},
		{"MACs", `{"secret":"s","macAuth":{"allowedMacs":["aa:bb:cc:dd:ee","*","gg*"]}}`,
			"macAuth.allowedMacs[0]: \"aa:bb:cc:dd:ee\" is not a MAC address such as aa:bb:cc:dd:ee:ff, or a prefix such as aa:bb:cc:*\n" +
				"macAuth.allowedMacs[2]: \"gg*\" is not a MAC address such as aa:bb:cc:dd:ee:ff, or a prefix such as aa:bb:cc:*"},
		{"VLANs", `{"secret":"s","macAuth":{"defaultVlan":5000,"guestVlan":-1},"vlanAssignment":[{"match":{"mac":"*"}},{"match":{"default":true},"vlan":4095}]}`,
			"macAuth.defaultVlan: 5000 is not a VLAN (1-4094)\nmacAuth.guestVlan: -1 is not a VLAN (1-4094)\n" +
				"vlanAssignment[0].vlan: 0 is not a VLAN (1-4094)\nvlanAssignment[1].vlan: 4095 is not a VLAN (1-4094)"},
		{"rule without match", `{"secret":"s","vlanAssignment":{"vlan":1}}`, `vlanAssignment[0].match: missing: give mac or default`},
		{"rule with two", `{"secret":"s","vlanAssignment":{"match":{"mac":"*","default":true},"vlan":1}}`, `vlanAssignment[0].match: mac and default exclude each other`},
		{"default first", `{"secret":"s","vlanAssignment":[{"match":{"default":true},"vlan":1},{"match":{"mac":"aa*"},"vlan":1}]}`,
			`vlanAssignment[0].match.default: the rule for all devices comes last`},
		{"bad MAC in a rule", `{"secret":"s","vlanAssignment":[{"match":{"mac":"zz"},"vlan":1}]}`,
			`vlanAssignment[0].match.mac: "zz" is not a MAC address such as aa:bb:cc:dd:ee:ff, or a prefix such as aa:bb:cc:*`},
		{"unreachable rule", `{"secret":"s","vlanAssignment":[{"match":{"mac":"aa:bb:*"},"vlan":1},{"match":{"mac":"AABB.CC*"},"vlan":2},{"match":{"mac":"aa:*"},"vlan":3}]}`,
			`vlanAssignment[1].match.mac: "AABB.CC*" is never reached: vlanAssignment[0] takes it before`},
		{"taken twice before", `{"secret":"s","vlanAssignment":[{"match":{"mac":"aa:bb:*"},"vlan":1},{"match":{"mac":"aa:*"},"vlan":2},{"match":{"mac":"aabb*"},"vlan":3}]}`,
			`vlanAssignment[2].match.mac: "aabb*" is never reached: vlanAssignment[0] takes it before`},
		{"VLAN by name", `{"secret":"s","vlanAssignment":[{"match":{"mac":"aa*"},"vlanName":"x"},{"match":{"mac":"bb*"},"vlan":1,"vlanName":"x"},{"match":{"mac":"cc*"},"vlanName":"a\nb","reauthenticate":true}]}`,
			"vlanAssignment[1].vlanName: vlan and vlanName exclude each other\nvlanAssignment[2].vlanName: \"a\\nb\" has a line break or another control character in it\n" +
				"vlanAssignment[2].reauthenticate: needs a sessionTimeout"},
		{"numbers", `{"secret":"s","vlanTag":32,"accounting":{"staleAfter":"-1s","maxSessions":7000000},"limits":{"maxConcurrent":-1,"maxFailures":-2,"rateLimit":{}}}`,
			"vlanTag: 32 is not between 0 and 31\naccounting.staleAfter: -1s is negative\naccounting.maxSessions: 7000000 is not between 0 and 6000000\n" +
				"limits.maxConcurrent: -1 is not between 0 and 65536\nlimits.maxFailures: -2 is not between -1 and 1000000\n" +
				"limits.rateLimit.requestsPerSecond: 0 is not between 1 and 10000000"},
		{"realms", `{"secret":"s","realms":[{"name":"*","homeServers":{"host":"127.0.0.1","port":70000,"secret":"x"}},{"name":"A.example"},{"name":"a.example","homeServers":{"host":"a b"}}]}`,
			"realms[0].homeServers[0].port: 70000 is not a port (1-65535)\nrealms[1].homeServers: missing: give at least one\n" +
				"realms[2].name: \"a.example\" is that of realms[1] already\nrealms[2].homeServers[0].host: \"a b\" is not a host name or an address\n" +
				"realms[2].homeServers[0].secret: missing"},
		{"home server twice", `{"secret":"s","realms":{"name":"*","homeServers":[{"host":"A.example","secret":"x"},{"host":"a.example","port":1812,"accountingPort":18130,"secret":"x"},{"host":"a.example","port":1645,"secret":"x"}]}}`,
			`realms[0].homeServers[1].host: "a.example:1812" is that of homeServers[0] already`},
		{"RadSec", `{"secret":"s","radSec":{"port":-1,"certificate":{"keyPath":"k"}},"clients":[{"ip":"::1","coaPort":-1,"certificateNames":["a b"]}]}`,
			"clients[0].coaPort: -1 is not a port (1-65535)\nclients[0].certificateNames[0]: \"a b\" is not a host name or an address\n" +
				"radSec.port: -1 is not a port (1-65535, or 0 for any free one)\nradSec.certificate: certPath and keyPath go together"},
		{"same MAC twice", `{"secret":"s","vlanAssignment":[{"match":{"mac":"aa:bb:cc:dd:ee:ff"},"vlan":1},{"match":{"mac":"aabbccddeeff"},"vlan":2}]}`,
			`vlanAssignment[1].match.mac: "aabbccddeeff" is never reached: vlanAssignment[0] takes it before`},
	}
	conftest.Validate[Config](t, tests)
}

func TestMACPatterns(t *testing.T) {
	for s, want := range map[string]string{
		"aa:bb:cc:dd:ee:ff": "aabbccddeeff", "AA-BB-CC-DD-EE-FF": "aabbccddeeff", "aabb.ccdd.eeff": "aabbccddeeff", "AABBCC-DDEEFF": "aabbccddeeff",
		"001122334455": "001122334455", "aa:bb:cc:*": "aabbcc*", "aabbcc*": "aabbcc*", "AA-BB-CC-*-*-*": "aabbcc*", "*": "*", "aa:b*": "aab*",
		"": "", "aa": "", "aa:bb:cc:dd:ee:ff:00": "", "aa:bb:cc:dd:ee:ff*": "", "aa:*:cc": "", "aa bb cc dd ee ff": "", "gg:*": "", "::::": "",
	} {
		p, ok := parseMACPattern(s)
		got := p.digits
		if p.prefix {
			got += "*"
		}
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", s, got, want)
		}
	}
}

func TestUnknownField(t *testing.T) {
	err := json.Unmarshal([]byte(`{"secrets":"x"}`), new(Config))
	if err == nil || !strings.Contains(err.Error(), `secrets: unknown field, did you mean "secret"?`) {
		t.Error(err)
	}
}
