package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// memory is what a whole gateway takes that has nothing to do.
func (b *bench) memory() row {
	return row{
		name: "memory", title: "Memory: idle gateway, everything on", load: "none; proxy with HTTP/3, mail, DNS with DNSSEC over UDP, TCP, TLS, QUIC and HTTPS, RADIUS, operations API, storage",
		columns: []column{{name: "RSS MiB", format: "%.1f"}, {name: "sockets", format: "%.0f"}},
		targets: []target{{0, "", 40}},
		peers:   []peer{b.wholeGateway()}, fresh: true, unprofiled: true,
		measure: func(s *server, _ time.Duration) ([]float64, error) {
			time.Sleep(settle)
			h, err := holdings(s.proc.pid)
			return []float64{float64(h.rss) / (1 << 20), float64(h.sockets)}, err
		},
	}
}

// wholeGateway is examples/gateway. Where it cannot be built, starting it says why.
func (b *bench) wholeGateway() peer {
	path := filepath.Join(b.dir, "whole")
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/dcrouter/dcrouter").Output()
	if err == nil {
		out, err = exec.Command("go", "build", "-C", strings.TrimSpace(string(out)), "-o", path, "./examples/gateway").CombinedOutput()
	}
	return peer{name: "ours", program: path, setup: func(s site) ([]string, error) {
		if err != nil {
			return nil, fmt.Errorf("building the gateway: %w: %s", err, out)
		}
		var ports [9]any
		var errs [len(ports)]error
		for i := range ports {
			ports[i], errs[i] = freePort()
		}
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		file, err := s.write("gateway.json", fmt.Sprintf(everythingOn, append([]any{s.port, s.control, s.dir}, ports[:]...)...))
		return []string{"-config", file}, err
	}}
}

// everythingOn is a configuration with a place for ports and a folder. Nobody is
// behind the proxy.
const everythingOn = `{
	"smartProxyConfig": {"listenHost": "127.0.0.1", "http3": {"enabled": true}, "acme": {"localCa": true}, "accessLog": {}, "routes": [
		{"name": "web", "match": {"ports": %[1]d, "domains": ["www.example.com"]}, "action": {"type": "forward", "targets": {"host": "127.0.0.1", "port": %[2]d}, "tls": {"mode": "terminate", "certificate": "auto"}}}]},
	"storage": {"fsPath": "%[3]s/data"},
	"dnsDomain": "dns.example.com", "dohPort": %[1]d, "dnsNsDomains": "ns1.example.com", "publicIp": "127.0.0.1",
	"dnsServerConfig": {"listenHost": "127.0.0.1", "port": %[4]d, "dot": {"port": %[5]d}, "doq": {"port": %[6]d}, "zones": [{"name": "example.com", "dnssec": {}}],
		"records": [{"name": "www.example.com", "type": "A", "value": "127.0.0.1"}]},
	"emailConfig": {"listenHost": "127.0.0.1", "hostname": "mail.example.com",
		"ports": [{"port": %[7]d, "mode": "smtp"}, {"port": %[8]d, "mode": "submission"}, {"port": %[9]d, "mode": "smtps"}],
		"auth": {"users": [{"username": "app@example.com", "password": "wonderland"}]}, "domains": [{"domain": "example.com", "dnsMode": "internal-dns"}],
		"scanners": [{"type": "spam"}, {"type": "virus"}, {"type": "attachment"}], "ipReputation": {"providers": "spamhaus"}, "greylisting": {},
		"routes": [{"name": "local", "match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}}, {"name": "out", "match": {"authenticated": true}, "action": {"type": "process"}}]},
	"radiusConfig": {"listenHost": "127.0.0.1", "port": %[10]d, "accountingPort": %[11]d, "secret": "the secret of the benchmark", "macAuth": {"allowedMacs": "aa:bb:cc:*", "defaultVlan": 100}},
	"opsServerConfig": {"port": %[12]d, "admin": {"username": "admin", "password": "correct-horse-battery-staple"}}}`
