package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// TestCheckNamesWhatIsBroken breaks a good file in many ways. Each must be
// found, and the path of the field must be the beginning of a line.
func TestCheckNamesWhatIsBroken(t *testing.T) {
	certPath, keyPath, _ := testenv.SelfSigned(t, "localhost")
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.pem")
	write(t, garbage, "not a certificate")
	good := `{
  "smartProxyConfig": {
    "listenHost": "127.0.0.1",
    "routes": [
      {"name": "web", "match": {"ports": 8443, "domains": "a.example.com"},
       "action": {"type": "forward", "targets": [{"host": "10.0.0.1", "port": 80}],
        "tls": {"mode": "terminate", "certificate": {"certPath": "CERT", "keyPath": "KEY"}}}},
      {"name": "tcp", "match": {"ports": {"from": 5432, "to": 5439}},
       "action": {"type": "forward", "targets": [{"host": "db.example.com", "port": "preserve"}],
        "loadBalancing": {"algorithm": "round-robin", "healthCheck": {"port": 5432, "interval": "10s"}},
        "security": {"ipAllowList": ["192.168.1.0/24"]}}},
      {"name": "old", "match": {"ports": 8080, "path": "/old/*", "headers": {"X-A": "/^b/i"}},
       "action": {"type": "redirect", "redirect": {"to": "https://{host}{uri}", "status": 301}}}
    ]
  },
  "opsServerConfig": {"port": 3000, "admin": {"username": "admin", "password": "long enough"}},
  "radiusConfig": {"secret": "0123456789abcdef", "vlanAssignment": [{"match": {"mac": "aa:bb:cc:*"}, "vlan": 100}]}
}`
	good = strings.ReplaceAll(strings.ReplaceAll(good, "CERT", certPath), "KEY", keyPath)
	const route = "smartProxyConfig.routes"
	for _, c := range []struct{ name, old, new, path string }{
		{"wrong type", `"ports": 8443`, `"ports": "many"`, route + "[0].match.ports"},
		{"port 70000 to listen on", `"ports": 8443`, `"ports": 70000`, route + "[0].match.ports"},
		{"port 70000 to send to", `"port": 80}`, `"port": 70000}`, route + "[0].action.targets[0].port: 70000 is not a port (1-65535)"},
		{"fraction of a port", `"port": 80}`, `"port": 80.5}`, route + "[0].action.targets[0].port"},
		{"unknown field", `"listenHost"`, `"listenHots"`, `smartProxyConfig.listenHots: unknown field, did you mean "listenHost"?`},
		{"unknown field without a neighbour", `"name": "web"`, `"xyzzy": "web"`, route + "[0].xyzzy: unknown field"},
		{"field given twice", `"name": "web"`, `"name": "web", "name": "web2"`, route + "[0].name: given twice"},
		{"unknown section", `"radiusConfig"`, `"radiusConfg"`, `radiusConfg: unknown field, did you mean "radiusConfig"?`},
		{"bad CIDR", `192.168.1.0/24`, `192.168.1.0/240`, route + "[1].action.security.ipAllowList[0]"},
		{"bad address to listen on", `127.0.0.1"`, `127.0.0.1.1"`, "smartProxyConfig.listenHost"},
		{"bad regex", `"/^b/i"`, `"/^(b/i"`, route + `[2].match.headers["X-A"]`},
		{"bad path regex", `"/old/*"`, `"~(["`, route + "[2].match.path"},
		{"path without slash", `"/old/*"`, `"old"`, route + "[2].match.path"},
		{"bad domain", `"a.example.com"`, `"*.*.com"`, route + "[0].match.domains[0]"},
		{"missing port", `{"from": 5432, "to": 5439}`, `[]`, route + "[1].match.ports"},
		{"empty range", `"from": 5432, "to": 5439`, `"from": 5439, "to": 5432`, route + "[1].match.ports[0]"},
		{"missing target", `"targets": [{"host": "10.0.0.1", "port": 80}],`, ``, route + "[0].action.targets"},
		{"missing host", `"host": "10.0.0.1", `, ``, route + "[0].action.targets[0].host"},
		{"missing port of a target", `"host": "10.0.0.1", "port": 80`, `"host": "10.0.0.1"`, route + "[0].action.targets[0].port"},
		{"unknown action", `"type": "redirect"`, `"type": "rewrite"`, route + "[2].action.type"},
		{"unknown mode", `"terminate"`, `"stop"`, route + "[0].action.tls.mode"},
		{"passthrough with certificate", `"terminate"`, `"passthrough"`, route + "[0].action.tls.certificate"},
		{"missing certificate file", certPath, certPath + ".gone", route + "[0].action.tls.certificate.certPath"},
		{"missing key file", keyPath, keyPath + ".gone", route + "[0].action.tls.certificate.keyPath"},
		{"certificate that is none", certPath, garbage, route + "[0].action.tls.certificate"},
		{"certificate that is a folder", certPath, dir, route + "[0].action.tls.certificate.certPath"},
		{"unknown algorithm", `round-robin`, `round-robbin`, route + "[1].action.loadBalancing.algorithm"},
		{"bad duration", `"10s"`, `"10 seconds"`, route + "[1].action.loadBalancing.healthCheck.interval"},
		{"no port to check", `"port": 5432, `, ``, route + "[1].action.loadBalancing.healthCheck.port"},
		{"unknown variable", `{uri}`, `{url}`, route + "[2].action.redirect.to"},
		{"no redirection", `"status": 301`, `"status": 200`, route + "[2].action.redirect.status"},
		{"same name", `"name": "tcp"`, `"name": "web"`, route + "[1].name"},
		{"same port, two ways", `      {"name": "old", "match": {"ports": 8080, "path": "/old/*", "headers": {"X-A": "/^b/i"}},`,
			`{"match": {"ports": 5435}, "action": {"type": "forward", "targets": {"host": "db2", "port": 5435}}},
      {"name": "old", "match": {"ports": 8080, "path": "/old/*", "headers": {"X-A": "/^b/i"}},`, route + "[2].match"},
		{"same domain, two certificates", `{"name": "old", "match": {"ports": 8080, "path": "/old/*", "headers": {"X-A": "/^b/i"}},
       "action": {`, `{"name": "old", "match": {"ports": 8443, "domains": "A.example.com.", "path": "/old/*"},
       "action": {"tls": {"mode": "terminate", "certificate": "auto"}, `, route + "[2].action.tls"},
		{"TLS both ended and passed through", `{"name": "tcp", "match": {"ports": {"from": 5432, "to": 5439}},
       "action": {"type": "forward",`, `{"name": "tcp", "priority": 5, "match": {"ports": 8443, "domains": "a.example.com"},
       "action": {"type": "forward", "tls": {"mode": "passthrough"},`, route + "[1].action.tls"},
		{"port of two sections", `"port": 3000`, `"port": 8443`, "opsServerConfig.port"},
		{"empty password", `"long enough"`, `""`, "opsServerConfig.admin.password"},
		{"bad MAC", `aa:bb:cc:*`, `aa:bb:zz:*`, "radiusConfig.vlanAssignment[0].match.mac"},
		{"bad VLAN", `"vlan": 100`, `"vlan": 5000`, "radiusConfig.vlanAssignment[0].vlan"},
		{"list for an object", `"radiusConfig": {`, `"radiusConfig": [{`, "line "},
		{"truncated", `"vlan": 100}]}
}`, ``, "line "},
		{"trailing text", `"vlan": 100}]}
}`, `"vlan": 100}]}
} and so on`, "line 18"},
		{"not JSON", good, `routes: []`, "line 1"},
		{"null", good, ``, "line 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good {
				t.Fatalf("%q is not in the file", c.old)
			}
			file := filepath.Join(t.TempDir(), "broken.json")
			write(t, file, text)
			status, said := check(t, file)
			if status != 1 {
				t.Errorf("exit status %d, want 1", status)
			}
			found := false
			for line := range strings.Lines(said) {
				found = found || strings.HasPrefix(line, c.path)
			}
			if !found {
				t.Errorf("no line begins with %q:\n%s", c.path, said)
			}
		})
	}

	file := filepath.Join(dir, "good.json")
	write(t, file, good)
	if status, said := check(t, file); status != 0 {
		t.Errorf("the unbroken file: exit status %d\n%s", status, said)
	}
	if status, said := check(t, filepath.Join(dir, "none.json")); status != 1 || !strings.Contains(said, "none.json") {
		t.Errorf("a file that is not there: exit status %d\n%s", status, said)
	}
	if os.Getuid() != 0 {
		secret := filepath.Join(dir, "secret.pem")
		write(t, secret, "x")
		os.Chmod(secret, 0)
		write(t, file, strings.Replace(good, certPath, secret, 1))
		if status, said := check(t, file); status != 1 || !strings.HasPrefix(said, route+"[0].action.tls.certificate.certPath") {
			t.Errorf("a certificate that may not be read: exit status %d\n%s", status, said)
		}
	}
}
